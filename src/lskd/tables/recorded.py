"""Whether a run records the number that a cell asks for: told before it is trained."""

from __future__ import annotations

from collections.abc import Sequence

from lskd.config_groups import Conf
from lskd.errors import InputError, require
from lskd.metrics import OfLoss
from lskd.networks import ENSEMBLE, OWN, PEERS
from lskd.quantity import key
from lskd.run import ProbeSpec, Run
from lskd.tables.metric import SOLVED, Metric, probed


def check_recorded(metric: Metric, run: Run, conf: Conf) -> None:
    """`InputError` unless `run` records the metric of its cell, if that is not a probe's."""
    spec, networks = conf.spec_of(run.dataset), [OWN, *PEERS[: len(run.peers)], *([ENSEMBLE] if run.peers else [])]
    if metric.network not in networks:
        what = f"one of {', '.join(networks)}" if run.peers else "left out: the run has no peers"
        raise InputError(f"metric.network = {metric.network}: must be {what}")
    if "validation" not in spec.parts:
        for choice in ("part", "scaled_on", "epoch"):
            if str(getattr(metric, choice)).endswith("validation"):
                raise InputError(
                    f"metric.{choice} = {getattr(metric, choice)}: {run.dataset.name} has no validation part; "
                    "dataset.holdout=N makes one"
                )
    loss = isinstance(metric.quantity, OfLoss)
    if metric.source == "training" and not loss and metric.name not in run.watched_of(metric.network):
        watches = ", ".join(run.watched_of(metric.network)) or "nothing"
        target = run.others.get(metric.network, run).target
        words = f"method={run.method.name} with target={target.name}, as they are set here, watches {watches}"
        raise InputError(f"metric.name = {metric.name}: {words}")
    if metric.source == "solved" and metric.name.removeprefix(SOLVED) not in run.method.settings.to_solve:
        raise InputError(
            f"metric.name = {metric.name}: method={run.method.name} as it is set here does not solve for it"
        )
    if not run.recipe.trains and metric.part == "train" and metric.source == "evaluation":
        raise InputError(
            "metric.part = train: of a network that is not trained (recipe.epochs = 0) there is no such number"
        )
    if metric.at_epoch is None:
        return
    recipe = run.recipe
    if recipe.batch_by == "tokens":  # how many epochs there will be is not known
        rule = "must be left out with recipe.batch_by=tokens, which counts in steps"
        raise InputError(f"epoch = {metric.at_epoch}: {rule}")
    last = -(-recipe.total_steps(spec.train) // recipe.steps_per_epoch(spec.train))
    require(1 <= metric.at_epoch <= last, "epoch", metric.at_epoch, f"from 1 to {last}")
    every = 1 if metric.source == "training" or metric.part == "train" else recipe.evaluate_every
    allowed = f"a multiple of {every}, or {last}: the epochs that are evaluated"
    require(metric.at_epoch % every == 0 or metric.at_epoch == last, "epoch", metric.at_epoch, allowed)


def check_probed(metric: Metric, probes: Sequence[ProbeSpec], run: Run, conf: Conf) -> None:
    """`InputError` unless a table's probes, if it has any, can look at `run`, and one gives the metric of its cell, if
    that is a probe's."""
    for probe in probes:
        if probe.settings.needs_teacher and (run.teacher is None or run.teacher_mode != "eval"):
            raise InputError(f"probe.name = {probe.name}: the run must have a teacher, with teacher_mode=eval")
        if probe.settings.needs_told and not run.method.settings.tells:
            rule = f"the run's method must show it a distribution of its teacher, as kd does; method={run.method.name}"
            raise InputError(f"probe.name = {probe.name}: {rule} does not")
        if probe.settings.needs_noise and not run.dataset.relabelled:
            rule = "the run's data must have wrong labels: dataset.steps=[{noise:{rate:0.4}}]"
            raise InputError(f"probe.name = {probe.name}: {rule}")
        if (kind := conf.spec_of(run.dataset).kind) not in probe.settings.kinds:
            rule = f"looks at {' and '.join(probe.settings.kinds)}, and {run.dataset.name} has another kind of data"
            raise InputError(f"probe.name = {probe.name}: {rule} ({kind})")
        try:
            probe.settings.check(conf.spec_of(run.dataset))
        except InputError as error:
            raise InputError(f"probe.{error}") from None
    if metric.source != "probe":
        return
    source, spec = probed()[metric.name], conf.spec_of(run.dataset)
    found = [probe.settings for probe in probes if probe.name == source]
    if not found:
        raise InputError(f"metric.name = {metric.name}: must be in a table with probe: {{name: {source}}}")
    [settings] = found
    if metric.quantity.by == "class":
        fits = metric.at_class is not None and 0 <= metric.at_class < spec.num_classes
        allowed = f"given with name={metric.name}: a class, from 0 to {spec.num_classes - 1}"
        require(fits, "at_class", metric.at_class, allowed)
    if metric.quantity.by == "temperature":
        temperatures: Sequence[float] = getattr(settings, "temperatures", ())
        allowed = f"one of the probe's temperatures, {', '.join(map(key, temperatures))}"
        require(metric.at_temperature in temperatures, "at_temperature", metric.at_temperature, allowed)
    steps, every = run.recipe.total_steps(spec.train), settings.every
    if metric.step is not None and metric.step != steps and (not every or metric.step % every or metric.step > steps):
        allowed = f"a multiple of {every} up to {steps}, or {steps}" if every else f"{steps}, the end of the training"
        raise InputError(f"step = {metric.step}: must be {allowed}")
