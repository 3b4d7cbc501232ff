"""`lskd-run`: the command line. The only module that imports Hydra; nothing here imports torch before it must."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped, unused-ignore]  # stubs are not everywhere

from lskd.config import Runtime
from lskd.data import Dataset
from lskd.errors import InputError, unknown
from lskd.methods import METHODS
from lskd.models import ARCHS
from lskd.plan import (
    Costs,
    Grid,
    Plan,
    by_other_code,
    damages,
    grouped,
    in_order,
    load_experiment,
    looks_suffice,
    make_plan,
    teachers,
    to_train,
    training_examples,
    unseen,
)
from lskd.plugins import load_installed_plugins, load_plugins
from lskd.recipe import Recipe
from lskd.settings import GROUPS, RUN_KEYS, SHORT, Conf, parse_run, shipped_conf
from lskd.store import Store
from lskd.strict import fields, parse, show, unknown_key

TOP_KEYS = {*RUN_KEYS, "experiment", "seeds", "runtime", "plan", "plugin"}
PLANS = (False, True, "commands", "fleet")
NAMED = rf"(teacher\.)+({'|'.join(GROUPS)}|teacher)"  # settings of a teacher that are names


# What Hydra raises for bad input. (Its YAML reader lets PyYAML's errors through.)
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)

# Hydra writes multirun.yaml, and cluster launchers their logs, into the store of the runs.
OmegaConf.register_new_resolver("lskd.results", lambda given: str(Store.at(given).root), replace=True)


def main() -> None:
    """The console script. Bad input is one line on stderr and exit code 2; see `launch.Outcomes` for the others."""
    try:
        sys.argv[1:] = map(open_word, sys.argv[1:])
        prepare_groups(sys.argv[1:])
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises its errors, and we print them
        command()
    except InputError as error:
        fail(str(error))
    except COMPOSITION_ERRORS as error:
        fail(hydra_message(error, sys.argv[1:]))
    except ValueError as error:
        if "Config group override" not in str(error):  # what Hydra says to arch=null and arch=3
            raise
        fail(f"{' '.join(sys.argv[1:])}: {', '.join((*GROUPS, 'experiment'))} must be names; see lskd-run --help")
    except RunsFailed:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str) -> NoReturn:
    print("lskd-run:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def open_word(word: str) -> str:
    """`recipe.clip_norm=1` as `++recipe.clip_norm=1`.

    Hydra refuses to set a key that no YAML file mentions, and files mention only what differs from the defaults. With
    ++ every key gets through to the strict parser, which knows all fields, and says what is allowed for a misspelt one.
    """
    dotted = re.match(r"(\w+)\.[^=]+=", word)
    return f"++{word}" if dotted and dotted[1] in TOP_KEYS else word


def hydra_message(error: Exception, words: Iterable[str]) -> str:
    """Hydra's or OmegaConf's error as one line that says what is allowed."""
    if isinstance(error.__cause__, InputError):
        return str(error.__cause__)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return str(unknown(group, name, error.options))
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        word = error.override.lstrip("+")
        if "=" not in word:
            return f"{word}: must be KEY=VALUE, such as experiment=quickstart or seed=1; see lskd-run --help"
        reason = re.sub(r"^Error parsing override '.*?' (?=\w)| See https://.*", "", text)
        return f"{word}: the value cannot be read ({reason}); quote it: KEY='VALUE', and close all brackets"
    if ambiguous := re.match("Ambiguous value for argument '(.*?)' 1", text):
        return f"{ambiguous[1]}: is several values; give one, add -m to sweep over them, or write a list as KEY=[1,2]"
    for word in words:
        key, equals, value = word.lstrip("+~").partition("=")
        if equals and re.split(r"[./@]", key)[0] not in {*TOP_KEYS, "hydra"} and not key.startswith("-"):
            return str(unknown_top_key(key, value))
    return re.sub(r" (full_key|object_type|Config search path):? ?.*", "", text)


def unknown_top_key(key: str, value: object) -> InputError:
    """`InputError` for a key that is none of the settings; perhaps it is one of their fields, as in lr=0.1."""
    kinds: dict[str, list[type]] = {"recipe": [Recipe], "dataset": [Dataset], "runtime": [Runtime]}
    kinds |= {"arch": [type(arch) for arch in ARCHS.values()], "method": [type(method) for method in METHODS.values()]}
    for group, classes in kinds.items():
        if any(key in fields(kind) for kind in classes):
            return InputError(f"{key} = {show(value)}: unknown key; did you mean {group}.{key}?")
    return unknown_key(key, value, key, TOP_KEYS)


def prepare_groups(words: list[str]) -> None:
    """Make what is registered without a YAML file a choice of its group: plugins' entries and imported data sets."""
    given = dict(word.lstrip("+").partition("=")[::2] for word in words)
    if given.get("plugin", "null") != "null":
        load_plugins(given["plugin"])
    load_installed_plugins()
    conf = Conf(cache=Runtime(cache=given.get("runtime.cache", "")).cache_root)
    for group in ("arch", "method", "dataset"):
        for name in conf.names(group):
            if not (conf.directories[0] / group / f"{name}.yaml").is_file():
                ConfigStore.instance().store(group=group, name=name, node=conf.load(group, name), provider="lskd")


@hydra.main(version_base="1.3", config_path=str(shipped_conf()), config_name="config")
def command(config: DictConfig) -> None:
    """Run what one composed configuration asks for (under -m: one job of the sweep)."""
    hydra_config: Any = HydraConfig.get()
    try:
        code = execute(*interpret(config, hydra_config))
    except InputError as error:
        if hydra_config.mode == RunMode.MULTIRUN and not hydra_config.launcher._target_.endswith("BasicLauncher"):
            raise  # other launchers carry exceptions from their processes to `main`, which an exit would kill
        fail(str(error))
    except COMPOSITION_ERRORS as error:
        fail(hydra_message(error, ()))
    if code == 1 and hydra_config.mode == RunMode.MULTIRUN:
        raise RunsFailed  # an exception lets Hydra go on with the other jobs of the sweep
    if code:
        sys.exit(code)


class RunsFailed(Exception):
    """Some runs of a job failed or diverged; they have been named."""


def interpret(config: DictConfig, hydra_config: DictConfig) -> tuple[Plan | None, tuple[Any, ...], Runtime, Conf, Any]:
    """The plan (None for a single run), the runs, the runtime, and whether only to show the plan. Checks everything."""
    content: dict[str, Any] = dict.fromkeys(("experiment", "seeds", "plan", "plugin"))
    content.update(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    for key in content:
        if key not in TOP_KEYS:
            raise unknown_top_key(str(key), content[key])
    if content["plugin"]:
        load_plugins(content["plugin"])
    runtime = parse(Runtime, content.get("runtime", {}), "runtime")
    conf = Conf(search_path(hydra_config), runtime.cache_root)
    plan_only = content["plan"] or False
    if plan_only not in PLANS:
        raise InputError(f"plan = {show(plan_only)}: must be false, true, commands or fleet")
    if content["experiment"] is None:
        if content["seeds"] is not None:
            raise InputError(
                f"seeds = {show(content['seeds'])}: is for experiments; one run has a seed=N (-m seed=0,1,2: several)"
            )
        run = parse_run(as_typed({key: value for key, value in content.items() if key in RUN_KEYS}, hydra_config), conf)
        return None, in_order([run]), runtime, conf, plan_only

    name = hydra_config.runtime.choices.get("experiment")
    if not name or not isinstance(content["experiment"], dict):
        raise unknown("experiment", name, conf.names("experiment"))
    for word in hydra_config.overrides.task:
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] not in ("experiment", "seeds", "runtime", "plan", "plugin"):
            raise InputError(
                f"{word.lstrip('+')}: has no effect on an experiment, whose runs are fixed; to lay a setting over all "
                f"its runs use experiment.settings.{key}=…"
            )
    if content["seeds"] is not None and not content["seeds"]:
        raise InputError(f"seeds = {show(content['seeds'])}: must be a list of at least one seed, such as seeds=[0,1]")
    experiment = load_experiment(content["experiment"], name)
    asked = load_experiment({**content["experiment"], "seeds": content["seeds"] or []}, name).seeds
    if any(word.lstrip("+").startswith("experiment.settings") for word in hydra_config.overrides.task):
        experiment = replace(experiment, protocol="own")  # no longer the paper's, whatever its file says
    plan = make_plan(experiment, conf, asked)
    runtime = replace(runtime, threads=runtime.threads or plan.experiment.threads)
    return plan, plan.runs, runtime, conf, plan_only


def as_typed(settings: dict[str, Any], hydra_config: DictConfig) -> dict[str, Any]:
    """The settings of one run as they were typed, where Hydra's composition says less than the words, or more."""
    words = OverridesParser.create().parse_overrides(list(hydra_config.overrides.task))
    typed = {word.key_or_group: word.value() for word in words if not word.is_delete()}
    # OmegaConf forgets a name when settings below it follow (teacher=resnet56 teacher.recipe.lr=0.1): say it again.
    if isinstance(settings.get("teacher"), Mapping):
        settings |= {key: value for key, value in typed.items() if isinstance(value, str) and re.fullmatch(NAMED, key)}
        if isinstance(typed.get("teacher"), str):
            settings["teacher.arch"] = typed["teacher"]
    # A short name replaces what a file says, as in method=kd_muller temperature=2; only two typed values can disagree.
    for short, field in SHORT.items():
        group, leaf = field.rsplit(".", 1)
        if settings.get(short) is not None and group in settings and not {field, group} - set(GROUPS) & set(typed):
            settings[group].pop(leaf, None)
    # A recipe's file need not name itself.
    if recipe := hydra_config.runtime.choices.get("recipe"):
        settings["recipe"].setdefault("name", recipe)
    return settings


def search_path(hydra_config: DictConfig) -> tuple[Path, ...]:
    """The user's configuration directories (--config-dir), then the shipped one."""
    own = [
        Path(s.path) for s in hydra_config.runtime.config_sources if s.schema == "file" and s.provider == "command-line"
    ]
    return (*own, shipped_conf())


def execute(plan: Plan | None, runs: tuple[Any, ...], runtime: Runtime, conf: Conf, plan_only: Any) -> int:
    """Show, train what is missing, report. The exit code."""
    store = Store.at(runtime.results)
    observations = plan.observations if plan is not None else {}
    print(describe(plan, runs, store, conf, runtime.device_type, details=bool(plan_only)), flush=True)
    for reason in damages(runs, store, observations):
        print(f"lskd-run: DAMAGED and left out: {reason}", file=sys.stderr, flush=True)
    if plan_only:
        if plan is None and any(run.method.settings.reads_features for run in runs):
            from lskd.run import check_buildable

            check_buildable(runs, conf.cache)  # of an experiment's many kinds this is left to the training's start
        if plan_only == "commands":
            print("\n".join(commands(plan, runs)))
        if plan_only == "fleet":
            from lskd.launch import Fleet
            from lskd.run import resolve_device

            fleet = Fleet(runs, runtime, resolve_device(runtime.device), conf)
            print(fleet.describe(to_train(runs, store, observations)))
        return 0
    from lskd.launch import carry_out

    outcomes = carry_out(runs, store, runtime, conf, observations)
    for run, reason in outcomes.failed:
        print(f"lskd-run: FAILED {run} ({store.directory(run)}): {reason}", file=sys.stderr)
    for run in outcomes.blocked:
        damaged = run.teacher is not None and store.state(run.teacher) == "damaged"
        why = "'s record is damaged" if damaged else " failed"
        print(f"lskd-run: NOT RUN {run}: its teacher{why}", file=sys.stderr)
    if outcomes.interrupted:
        print("lskd-run: interrupted; the same command goes on from here", file=sys.stderr)
        return outcomes.exit_code
    if plan is not None:
        from lskd import report

        print(report.text(plan, store))
        # The files show the experiment as its own file has it, whatever seeds or settings were asked for this time.
        name = plan.experiment.name
        for path in report.write(
            make_plan(load_experiment(conf.load("experiment", name), name), conf), store, store.root
        ):
            print(f"wrote {path}")
    else:
        print(summary(runs[-1], store))
    return outcomes.exit_code


def describe(
    plan: Plan | None, runs: tuple[Any, ...], store: Store, conf: Conf, device_type: str, *, details: bool
) -> str:
    """The plan in words: what it is for, how many runs are done and to do, and how long they will take."""
    observations = plan.observations if plan is not None else {}
    pending = to_train(runs, store, observations)
    missing = [run for run in pending if not looks_suffice(run, store, observations)]
    lines = []
    if plan is not None:
        lines.append(f"{plan.experiment.name}: {plan.experiment.title}")
        if plan.experiment.shortened:
            lines.append(f"  SHORTENED, not the paper's protocol: {plan.experiment.shortened}")
        if details:
            for grid in plan.grids:
                lines.append(f"  {grid.sheet.kind} {grid.sheet.name}: {grid.sheet.title} ({len(grid.cells)} cells)")
                lines += [f"    {line}" for line in power(grid, store)]
            if plan.experiment.cost:
                lines.append(f"  cost: {plan.experiment.cost}")
    older = by_other_code(missing, store)
    if details:
        lines.append("")
        for label, group in grouped(runs):
            done = sum(store.state(run) == "done" for run in group)
            steps = group[0].recipe.total_steps(training_examples(group[0], conf))
            seeds = ",".join(str(run.seed) for run in group)
            lines.append(f"  {done:>3}/{len(group)} done  {label}  [{steps:,} steps, seeds {seeds}]")
        lines += [f"  {line}" for line in teachers(runs, conf)]
        for label, group in grouped(run for run in missing if run.id in older):
            ids = ", ".join(id for run in group for id in older[run.id])
            lines.append(f"  trained by other code: {label}, {len(group)} of {len(runs)} runs (as {ids})")
        watched = Counter(one for run in runs for one in observations.get(run.id, ()))
        lines += [f"  {count} runs observed: {show(one.identity())}" for one, count in watched.items()]
        lines.append("")
    states = Counter(store.state(run) for run in missing)
    unobserved = sum(store.state(run) == "done" and bool(unseen(run, store, observations)) for run in missing)
    noun = "run" if len(runs) == 1 else "runs"
    damaged = sum(store.state(run) == "damaged" for run in runs)
    done = len(runs) - len(missing) - damaged + states["done"]
    text = f"{len(runs)} {noun}: {done} done, {len(missing)} to train"
    for count, what in (
        (damaged, "damaged"),
        (states["started"], "of them begun"),
        (states["done"] - unobserved, "of them finished teachers whose weights are not here"),
        (unobserved, "of them finished runs that nobody has observed"),
        (len(older), "of them trained by other code"),
        (len(pending) - len(missing), "of the done ones to be observed"),
        (states["diverged"], "diverged"),
    ):
        text += f", {count} {what}" if count else ""
    if missing:
        from lskd.launch import duration

        costs = Costs(store, missing, device_type)
        estimates = [costs.estimate(run, training_examples(run, conf)) for run in missing]
        known = [seconds for seconds in estimates if seconds is not None]
        if known:
            rest = f", and {len(missing) - len(known)} runs of unknown cost" if len(known) < len(missing) else ""
            text += f"; about {duration(sum(known))} at the speed of the runs in the store{rest}"
        else:
            text += "; time unknown until one of each kind has run"
    return "\n".join([*lines, text])


def power(grid: Grid, store: Store) -> list[str]:
    """What the claims of a sheet can decide at its seeds, a line each."""
    if not grid.sheet.claims:
        return []
    from lskd.report.power import lines
    from lskd.report.values import Values

    return list(lines(grid, Values(store)))


def commands(plan: Plan | None, runs: tuple[Any, ...]) -> list[str]:
    """One line a run: its id, and the command that trains it alone."""
    if plan is None:
        return [f"{run.id}  {run}" for run in runs]
    return [f"{run.id}  {plan.command(run)}" for run in runs]


def summary(run: Any, store: Store) -> str:
    """A finished single run in a few lines."""
    result = None if store.state(run) == "damaged" else store.result(run)
    if result is None:
        return f"{run}: not finished"
    lines = [f"{run}  ({store.directory(run)})"]
    for part, values in result["last"].items():
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        lines.append(f"  {part}, last epoch: {numbers}")
    lines.append(f"  γ {result['gamma']:.4g}" if result.get("gamma") is not None else "  γ not defined for this method")
    return "\n".join(lines)


class CheckSweep(Callback):
    """Before a sweep starts: compose and check every job, so that a bad value is an error before anything trains."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
            return  # other sweepers choose their values as they go
        try:
            self.check(config)
        except InputError as error:  # Hydra makes a warning of an exception in a callback; of an exit it does not
            fail(str(error))
        except COMPOSITION_ERRORS as error:
            fail(hydra_message(error, sys.argv[1:]))

    def check(self, config: DictConfig) -> None:
        runs: dict[str, Any] = {}
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        loader = GlobalHydra.instance().config_loader()
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        words = [*params, *config.hydra.overrides.task]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
        for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None):
            for job_words in batch:
                job = loader.load_sweep_config(config, list(job_words))
                settings = OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])
                plan, needed, runtime, conf, plan_only = interpret(settings, job.hydra)
                observations = plan.observations if plan is not None else {}
                if not plan_only:
                    runs.update((run.id, run) for run in to_train(needed, Store.at(runtime.results), observations))
        if runs:
            from lskd.run import check_buildable

            check_buildable(runs.values(), conf.cache)
