"""A plan in words, for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lskd import data
from lskd.commands import Commands
from lskd.compose import normal_form
from lskd.config_groups import Conf, labelled, merge
from lskd.launch.cost import Costs, logit_cache
from lskd.launch.queue import by_other_code, missing_probes, needs_only_probes, to_train
from lskd.networks import of_networks
from lskd.origins import origins, teacher_of
from lskd.plan import Plan, TablePlan, training_examples
from lskd.run import Run, grouped, logit_cache_bytes
from lskd.schema import show, unfolded
from lskd.snapshot import Snapshot
from lskd.store import Store


def teachers(runs: Iterable[Run], conf: Conf) -> Iterator[str]:
    """How the teachers of `runs` are evaluated, in words: a line for each kind of cache (`lskd.engine.teacher`)."""
    kinds: dict[str, set[str]] = {}
    for run in runs:
        if run.teacher is None:
            continue
        use = run.method.settings.teacher_use
        what = "evaluated at every step: streamed images are decoded once"
        if run.arch.settings.kind != "images":
            what = "evaluated at every step, on the sentences of its batch"
        if run.teacher_mode == "batch_stats":
            what = "evaluated at every step: with teacher_mode=batch_stats its logits depend on the whole batch"
        elif use != "logits":
            what = "evaluated at every step, for its features" + (
                "" if use == "features" else ", before the training proper"
            )
        elif (mix := run.recipe.augment.mix).any:
            what = f"evaluated at every step: with recipe.augment.mix.kind={mix.kind} no image comes twice"
        if (cache := logit_cache(run, conf)) is not None:
            images, views, classes = cache
            size = f"{logit_cache_bytes(*cache) / 1e9:.3g} GB"
            what = (
                f"evaluated once a view, for all its students: {images:,} images × {views} view{'s' * (views > 1)} × "
                f"{classes} logits, {size} (once an epoch, where memory has no room for that)"
            )
        kinds.setdefault(what, set()).add(run.teacher.id)
    for what, ids in kinds.items():
        yield f"{len(ids)} {'teacher' if len(ids) == 1 else 'teachers, each'} {what}"


def texts(runs: Iterable[Run], conf: Conf) -> Iterator[str]:
    """What the data sets of text are that `runs` have, a line each."""
    for dataset in dict.fromkeys(run.dataset for run in runs if run.dataset.text is not None):
        yield data.summary(conf.spec_of(dataset))


def by_seed(runs: Iterable[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Runs that differ in their seeds alone, under one label, which says what tells them from others of that label."""

    def described(run: Run) -> Iterator[str]:  # (of a chain the first: the label says how many follow)
        for name, value in unfolded(run.chain[0].identity()).items():
            if name.rpartition(".")[2] != "seed":
                yield f"{name}={value if isinstance(value, str) else show(value)}"

    for label, own, group in grouped(runs, described):
        yield ", ".join([label, *own]), group


def chains(runs: Iterable[Run]) -> Iterator[tuple[str, list[Run]]]:
    """`by_seed`, with the generations of a chain under one label: "…, generations 1-10"."""
    lines: dict[str, list[Run]] = {}
    for label, group in by_seed(runs):
        first, _ = group[0].chain
        lines.setdefault(first.label + label.removeprefix(group[0].label), []).extend(group)
    for label, group in lines.items():
        places = sorted({run.chain[1] for run in group})
        yield label + (f", generations {ranges(places)}" if len(places) > 1 or places[0] > 1 else ""), group


def describe(
    plan: Plan | None, runs: tuple[Any, ...], store: Store, conf: Conf, device_type: str, *, details: bool
) -> str:
    """The plan in words: what it is for, how many runs are done and to do, and how long they will take."""
    probes = plan.probes if plan is not None else {}
    pending = to_train(runs, store, probes)
    missing = [run for run in pending if not needs_only_probes(run, store, probes)]
    lines = []
    if plan is not None:
        lines.append(f"{plan.experiment.name}: {plan.experiment.title}")
        if plan.experiment.shortened:
            lines.append(f"  SHORTENED, not the paper's protocol: {plan.experiment.shortened}")
        if details:
            seen = Snapshot.of(store)  # tables share runs
            for planned in plan.tables:
                lines.append(
                    f"  {planned.table.kind} {planned.table.name}: {planned.table.title} ({len(planned.cells)} cells)"
                )
                lines += [f"    {line}" for line in power(planned, seen)]
            if plan.experiment.cost:
                lines.append(f"  cost: {plan.experiment.cost}")
    older = by_other_code(missing, store)
    if details:
        lines.append("")
        for label, group in chains(runs):
            done = sum(store.state(run) == "done" for run in group)
            steps = group[0].recipe.total_steps(training_examples(group[0], conf))
            seeds = ranges(sorted({run.seed for run in group}))
            each = " each" if group[-1].chain[1] > 1 else ""
            length = f"{steps:,} steps{each}, seeds {seeds}" if group[0].recipe.trains else "evaluated, not trained"
            lines.append(f"  {done:>3}/{len(group)} done  {label}  [{length}]")
        lines += [f"  {line}" for line in texts(runs, conf)]
        lines += [f"  {line}" for line in teachers(runs, conf)]
        for label, group in by_seed(run for run in missing if run.id in older):
            ids = ", ".join(id for run in group for id in older[run.id])
            lines.append(f"  trained by other code: {label}, {len(group)} of {len(runs)} runs (as {ids})")
        watched = Counter(one for run in runs for one in probes.get(run.id, ()))
        lines += [f"  {count} runs probed: {show(one.identity())}" for one, count in watched.items()]
        lines.append("")
    states = Counter(store.state(run) for run in missing)
    unprobed = sum(store.state(run) == "done" and bool(missing_probes(run, store, probes)) for run in missing)
    noun = "run" if len(runs) == 1 else "runs"
    damaged = sum(store.state(run) == "damaged" for run in runs)
    done = len(runs) - len(missing) - damaged + states["done"]
    text = f"{len(runs)} {noun}: {done} done, {len(missing)} to train"
    for count, what in (
        (damaged, "damaged"),
        (states["started"], "of them begun"),
        (states["done"] - unprobed, "of them finished teachers whose weights are not here"),
        (unprobed, "of them finished runs that lack a probe's readings"),
        (len(older), "of them trained by other code"),
        (sum(store.request(run) is not None for run in missing), "of them asked for again"),
        (len(pending) - len(missing), "of the done ones to be probed"),
        (states["diverged"], "diverged"),
    ):
        text += f", {count} {what}" if count else ""
    if missing:
        from lskd.launch.progress import duration

        costs = Costs(store, missing, device_type)
        estimates = [costs.estimate(run, training_examples(run, conf)) for run in missing]
        known = [seconds for seconds in estimates if seconds is not None]
        if known:
            rest = f", and {len(missing) - len(known)} runs of unknown cost" if len(known) < len(missing) else ""
            text += f"; about {duration(sum(known))} at the speed of the runs in the store{rest}"
        else:
            text += "; time unknown until one of each kind has run"
    return "\n".join([*lines, text])


def ranges(numbers: Sequence[int]) -> str:
    """Rising whole numbers in few words: [0, 1, 2, 5] -> "0-2,5"."""
    blocks: list[list[int]] = []
    for number in numbers:
        if not blocks or number != blocks[-1][-1] + 1:
            blocks.append([])
        blocks[-1].append(number)
    return ",".join(f"{block[0]}-{block[-1]}" if len(block) > 1 else str(block[0]) for block in blocks)


def power(planned: TablePlan, store: Store) -> list[str]:
    """What the claims of a table can decide at its seeds, a line each."""
    if not planned.table.claims:
        return []
    from lskd.report.power import lines
    from lskd.report.values import Values

    return list(lines(planned, Values(store)))


def commands(runs: Iterable[Run], conf: Conf, given: Sequence[str] = ()) -> list[str]:
    """One line a run: its id, and the command that trains it alone. `given` are words that stand in each."""
    spelt = Commands(conf)
    return [f"{run.id}  {spelt.line(run, given)}" for run in runs]


def settings(run: Run, form: Mapping[str, Any], said: Mapping[str, Any], conf: Conf) -> list[str]:
    """A run with all its settings, a line each: the value, and where it comes from (`lskd.origins`)."""
    found = [(key, value if isinstance(value, str) and value else show(value), origin)
             for key, value, origin in origins(run, form, said, conf)]  # fmt: skip
    wide, deep = (max(len(line[i]) for line in found) for i in (0, 1))
    lines = [f"  {key:<{wide}}  {value:<{min(deep, 30)}}  {origin}" for key, value, origin in found]
    lines += [f"  {line}" for line in texts([run], conf)]
    if run.dataset.steps:  # what they draw, and leave
        spec = conf.spec_of(run.dataset)
        lines += textwrap.wrap(
            data.balance(spec.class_names, spec.sizes()), 100, initial_indent="  ", subsequent_indent="  "
        )
    return [f"{run.id}  {run}", *lines, ""]


def kinds(plan: Plan, conf: Conf) -> Iterator[str]:
    """`settings` of each kind of run of an experiment, a kind being the runs of a cell, which differ in their seeds."""
    over_all = labelled(normal_form(plan.experiment.settings), "experiment.settings")
    seen = set()
    for planned in plan.tables:
        for cell in planned.cells:
            if cell.runs[0].id not in seen:
                seen.add(cell.runs[0].id)
                form = {**cell.settings, "seed": planned.seeds[0]}
                said = merge(labelled(form, f"conf/table/{planned.table.name}.yaml"), over_all)
                for _ in range(_depth(form) - _teachers_of(cell.runs[0])):  # the table takes the teachers
                    form, said = teacher_of(form, said)
                yield from settings(cell.runs[0], form, said, conf)


def _teachers_of(run: Run) -> int:
    return 0 if run.teacher is None else 1 + _teachers_of(run.teacher)


def _depth(form: Mapping[str, Any]) -> int:
    """How many teachers above it the run of a form has."""
    return 0 if form.get("teacher") is None else (form.get("generations") or 1) + _depth(form["teacher"])


def summary(run: Any, store: Store) -> str:
    """A finished single run in a few lines."""
    result = None if store.state(run) == "damaged" else store.result(run)
    if result is None:
        return f"{run}: not finished"
    lines = [f"{run}  ({store.directory(run)})"]
    for part, values in result["last"].items():
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        lines.append(f"  {part}, last epoch: {numbers}")
    for name, one in of_networks(result).items():
        label = f"{name} ({run.others[name].network})" if name in run.others else name
        for part, values in one["last"].items():
            numbers = ", ".join(f"{metric} {value:.4g}" for metric, value in values.items())
            lines.append(f"  {label}: {part}, last epoch: {numbers}")
    lines.append(f"  γ {result['gamma']:.4g}" if result.get("gamma") is not None else "  γ not defined for this method")
    lines += [f"  {name} {value:.6g}, solved for" for name, value in result.get("solved", {}).items()]
    return "\n".join(lines)
