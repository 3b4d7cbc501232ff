#!/usr/bin/env python
"""Does the fast path change what a training gives? The fp32 runs of `precision`, trained by the usual loop instead.

    python scripts/plain_loop.py [--seeds 0 1 2 3 4] [--store results] [--out results/bench/plain_loop.json]

Same initial weights, batches and views; everything else is the loop of public code (`lskd.bench.reference`): PIL
workers, the teacher's forward in every step, NCHW, torch's own losses and SGD. Writes the final test metrics of each
training beside those of lskd's own run, and the paired differences with their 95 % intervals. The runs must be in the
store, and the teacher's weights too. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from lskd import data, metrics
from lskd.bench.reference import UsualLoop, draws_of
from lskd.config_groups import Conf
from lskd.data.images import Normalizer, Resident
from lskd.engine.member import build_network
from lskd.engine.teacher import forward
from lskd.engine.training import set_precision
from lskd.environment import available_cores
from lskd.files import write_atomically
from lskd.launch.execute import load_network, load_parts
from lskd.plan import make_plan
from lskd.report.statistics import paired_difference
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.store import Store
from lskd.tables.experiment import load_experiment

METRICS = ("top1", "nll")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--store", default="results")
    parser.add_argument("--out", type=Path, default=Path("results/bench/plain_loop.json"))
    parser.add_argument("--workers", type=int, default=available_cores())
    given = parser.parse_args()
    store, runtime, conf = Store.at(given.store), Runtime(), Conf()
    content = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {"runs": {}}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    plan = make_plan(load_experiment(conf.load("experiment", "precision"), "precision"), conf)
    for row in ("ce", "kd"):
        for run in plan.tables[0].cell(row, "fp32").runs:
            if run.seed in given.seeds and run.id not in content["runs"]:
                content["runs"][run.id] = {"row": row, "seed": run.seed, **compare(run, store, runtime, given.workers)}
                print(f"{run}: {content['runs'][run.id]}", flush=True)
                content["differences"] = differences(content["runs"])
                text = json.dumps(content, indent=1) + "\n"
                write_atomically(given.out, lambda path, text=text: path.write_text(text, encoding="utf-8"))
    for name, line in content["differences"].items():
        print(f"{name}: {line}")


def compare(run: Run, store: Store, runtime: Runtime, workers: int) -> dict[str, object]:
    """The test metrics of `run` by lskd, from its record, and by the usual loop, trained here."""
    record = store.result(run)
    if record is None:
        raise SystemExit(f"{run}: is not in {store.root}; lskd-run experiment=precision trains it")
    spec = data.spec_of(run.dataset, runtime.cache_root)
    parts = load_parts(run.dataset, runtime.data_root, runtime.cache_root)
    images, labels, _ = parts["train"]
    set_precision("fp32")
    student = build_network(run, spec)
    teacher = load_network(run.teacher, store, runtime) if run.teacher is not None else None
    draws = draws_of(run, Resident(images, run.recipe.augment))
    loop = UsualLoop(run, student, teacher, images, labels, torch.device("cpu"), workers=workers, draws=draws)
    began = time.perf_counter()
    while loop.step_number < loop.total_steps:
        loop.step()
    seconds = time.perf_counter() - began
    normalizer = Normalizer(run.recipe.normalize, images)
    test = parts["test"]
    with torch.no_grad():
        student.eval()
        logits = torch.cat([forward(student, chunk, normalizer, "fp32") for chunk in test.images.split(250)])
    plain = metrics.summary(logits, test.labels)
    return {
        "usual": {name: plain[name] for name in METRICS},
        "lskd": {name: record["last"]["test"][name] for name in METRICS},
        "seconds": round(seconds, 1),
    }


def differences(runs: dict[str, dict]) -> dict[str, dict[str, object]]:
    """lskd - usual, over the seeds, for each row and metric."""
    found = {}
    for row in dict.fromkeys(run["row"] for run in runs.values()):
        of_row = [run for run in runs.values() if run["row"] == row]
        for metric in METRICS:
            ours, usual = ({run["seed"]: run[side][metric] for run in of_row} for side in ("lskd", "usual"))
            estimate = paired_difference(ours, usual)
            interval = estimate.interval()
            found[f"{row}, {metric}"] = {
                "lskd": round(sum(ours.values()) / len(ours), 4),
                "usual": round(sum(usual.values()) / len(usual), 4),
                "difference": round(estimate.mean, 4),
                "interval": None if interval is None else [round(bound, 4) for bound in interval],
                "n": len(ours),
            }
    return found


if __name__ == "__main__":
    main()
