"""What runs cost: steps, seconds, and the memory of teachers' logits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.run import Run, cost_key
from lskd.runtime import Runtime
from lskd.store import Store


class Costs:
    """Seconds of the device that runs take: those of a step of finished runs of the same kind (`Run.cost_key`) on a
    device of the same type, divided by the number of runs that trained side by side."""

    def __init__(self, store: Store, runs: Iterable[Run], device_type: str) -> None:
        """From the records in `store`, `ENOUGH` of each kind that `runs` are of. `device_type`: "cpu" or "cuda"."""
        samples: dict[str, list[float]] = {run.cost_key: [] for run in runs}
        lacking = set(samples)
        for config, env, result in store.results(lambda config: _kind(config) in lacking) if lacking else ():
            seconds = seconds_per_step(config, env, result)
            if seconds is not None and (env.get("threads") is None) == (device_type == "cuda"):
                key = cost_key(config)
                samples[key].append(seconds)
                if len(samples[key]) == ENOUGH:
                    lacking.remove(key)
            if not lacking:
                break
        self.seconds_per_step = {key: sorted(values)[len(values) // 2] for key, values in samples.items() if values}

    def learn(self, run: Run, store: Store) -> None:
        """Of `run`, which has finished here and now, how long its kind takes."""
        seconds = seconds_per_step(run.identity(), store.env(run), store.result(run) or {})
        if seconds is not None:
            self.seconds_per_step[run.cost_key] = seconds

    def estimate(self, run: Run, examples: int) -> float | None:
        per_step = self.seconds_per_step.get(run.cost_key)
        return None if per_step is None else per_step * all_steps(run, examples)


ENOUGH = 5  # finished runs of a kind, to know what it costs


def _kind(config: dict[str, Any]) -> str | None:
    try:
        return cost_key(config)
    except (AttributeError, KeyError, TypeError):  # of another version, or no run's at all
        return None


def seconds_per_step(config: Mapping[str, Any], env: Mapping[str, Any], result: Mapping[str, Any]) -> float | None:
    """Of a finished run, those of a stage before the training proper among its steps; None where records do not say."""
    try:
        steps = result["steps"]
        if initial := result.get("initial"):
            steps += initial["epochs"] * math.ceil(result["examples"] / config["recipe"]["batch_size"])
        seconds = float(result["seconds"] / env.get("fleet", 1) / max(steps, 1))
    except (AttributeError, KeyError, TypeError, ZeroDivisionError):
        return None
    return seconds if math.isfinite(seconds) else None


def all_steps(run: Run, examples: int) -> int:
    """The steps of a run, those of a stage before the training proper among them; 1, its evaluation, of one that is not
    trained."""
    initial = run.method.settings.initial()
    before = 0 if initial is None else initial.epochs * run.recipe.steps_per_epoch(examples)
    return before + (run.recipe.total_steps(examples) if run.recipe.trains else 1)


def check_teacher_cache(runs: Iterable[Run], runtime: Runtime) -> None:
    """`InputError` where memory is asked for to keep teachers' logits, and all teachers see mixed images."""
    asked, taught = runtime.teacher_cache_gb, [run for run in runs if run.teacher is not None]
    if asked and taught and all(run.recipe.augment.mix.any for run in taught):
        rule = f"null or 0 with recipe.augment.mix.kind = {taught[0].recipe.augment.mix.kind}"
        raise InputError(
            f"runtime.teacher_cache_gb = {asked:g}: must be {rule}: no mixed image comes twice, so that there is "
            "nothing to keep of what a teacher says to it"
        )


def logit_cache(run: Run, conf: Conf) -> tuple[int, int, int] | None:
    """(images, views, classes) of the cache that a run's teacher fills; None where there is no use for one."""
    if not run.logits_by_view:
        return None
    spec = conf.spec_of(run.dataset)
    if spec.kind != "images":
        return None
    views = run.recipe.augment.views(*spec.shape[1:])
    return None if views is None else (spec.train, views, spec.num_classes)
