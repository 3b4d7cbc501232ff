"""`lskd-run`: the command line. The only module that imports Hydra; nothing here imports torch before it must."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped, unused-ignore]  # stubs are not everywhere

from lskd import program
from lskd.compose import GROUPS, RUN_KEYS, build_run, normal_form, unknown_setting
from lskd.config_groups import REGISTRIES, Conf, labelled, merge, no_such_file, shipped_conf
from lskd.data import Dataset
from lskd.describe import commands, kinds, settings
from lskd.errors import InputError, choices, one_line, unknown
from lskd.launch.cost import check_teacher_cache
from lskd.launch.launchers import LAUNCHERS, Launcher
from lskd.launch.queue import to_train
from lskd.methods import METHODS
from lskd.models import ARCHS
from lskd.networks import PEERS
from lskd.perform import Job, again, execute, own_words, show_sweep
from lskd.plan import in_order, make_plan
from lskd.plugins import load_installed_plugins, load_plugins
from lskd.program import VERSION, guarded, user_path
from lskd.recipe import Recipe
from lskd.registry import Registry
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.schema import fields, parse, show
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.tables.experiment import load_experiment
from lskd.targets import TARGETS
from lskd.trackers import check_trackers

# What stands beside the settings of runs, with an experiment, too.
BESIDE = ("experiment", "seeds", "runtime", "plan", "plugin", "tracker", "launcher", "status")
TOP_KEYS = {*RUN_KEYS, *BESIDE}
PLANS = (False, True, "commands", "settings", "fleet")

# What Hydra raises for bad input. (Its YAML reader lets PyYAML's errors through.)
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)

# Hydra copies all that is in this store for each group that it lists, though nobody changes it.
ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]

# Hydra writes multirun.yaml, and cluster launchers their logs, into the store of the runs.
OmegaConf.register_new_resolver("lskd.results", lambda given: str(Store.at(given).root), replace=True)


def main() -> None:
    """The console script. Bad input is one line on stderr and exit code 2; see `launch.Outcomes` for the others."""
    if code := guarded("lskd-run", from_words):
        sys.exit(code)


def from_words() -> int:
    """What the words of the command line ask for. The exit code."""
    if "--version" in sys.argv[1:]:
        print(VERSION)
        return 0
    try:
        sys.argv[1:] = map(open_word, flags_last(sys.argv[1:]))
        prepare_groups(sys.argv[1:])
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises its errors, and we print them
        Sweep.begun.clear()
        try:
            command()
        except (InputError, *COMPOSITION_ERRORS):
            raise
        except Exception as error:  # a launcher of Hydra's, of which a process has died
            if not Sweep.begun or Sweep.begun[-1].here:
                raise
            print(f"lskd-run: a process of the sweep did not end well: {one_line(error)}", file=sys.stderr)
            Sweep.begun[-1].code = 1
        return Sweep.begun[-1].end() if Sweep.begun else 0
    except InputError as error:
        fail(str(error))
    except COMPOSITION_ERRORS as error:
        fail(hydra_message(error, sys.argv[1:]))
    except ValueError as error:
        if "Config group override" not in str(error):  # what Hydra says to arch=null and arch=3
            raise
        groups = (*GROUPS, "experiment")
        [word, *_] = [word for word in sys.argv[1:] if word.lstrip("+").partition("=")[0] in groups]
        group, _, name = word.lstrip("+").partition("=")
        names = f"{', '.join(groups)} must be names"
        fail(f"{group} = {name}: {names}, in quotes where they would be read as something else: \"{group}='{name}'\"")


_composed_mode = Hydra.get_mode


def _mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """hydra.mode. Hydra composes everything once more to read it, which is a third of a plan's time, and files of lskd
    never set it: None says so at once, unless a word or a user's own directory may."""
    known = not any("hydra.mode" in word for word in overrides) and not {"--config-dir", "-cd"} & set(sys.argv)
    return None if known else _composed_mode(hydra, config_name, overrides)


Hydra.get_mode = _mode  # type: ignore[assignment, method-assign, unused-ignore]


def fail(message: str) -> NoReturn:
    sys.exit(program.fail("lskd-run", own_words(message)))


def flags_last(words: Sequence[str]) -> list[str]:
    """The words with all flags, such as -m and --config-dir DIR, behind the others, where Hydra knows them; it knows
    none that stand between words."""
    kinds = {flag: action for action in get_args_parser()._actions for flag in action.option_strings}
    overrides: list[str] = []
    flags: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            overrides.append(word)
            continue
        meant = [name] if name in kinds else [flag for flag in kinds if name[:2] == "--" and flag.startswith(name)]
        if len(meant) != 1:
            raise InputError(f"{word}: {choices(name, kinds)}")
        action = kinds[meant[0]]
        takes = action.nargs is None or (action.nargs == "?" and bool(left) and left[0] in (action.choices or ()))
        values = [value] if equals else [left.pop(0)] if takes and left else []
        if action.nargs is None and not values:
            raise InputError(f"{word}: needs a value, as in {meant[0]} VALUE")
        if action.dest == "config_dir":
            values = [str(user_path(folder)) for folder in values]
        flags += [meant[0], *values]
    return [*overrides, *flags]


def open_word(word: str) -> str:
    """`recipe.clip_norm=1` as `++recipe.clip_norm=1`.

    Hydra refuses to set a key that no YAML file mentions, and files mention only what differs from the defaults. With
    ++ every key gets through to the strict parser, which knows all fields, and says what is allowed for a misspelt one.
    """
    key, equals, value = word.partition("=")
    if key.lstrip("+") in ("plugin", "runtime.data", "runtime.cache", "runtime.results"):
        # Hydra reads no ~ that is not quoted.
        word = key + equals + re.sub(r"(?<![^\[,\s])~[^\[\],'\"]*", r"'\g<0>'", value)
    if word.startswith("runtime.retrain="):  # an id may look like a number: 123456789012, 1234e5678901
        word = re.sub(r"""(?<![\w'"])[0-9a-f]{12}(?![\w'"])""", r"'\g<0>'", word)
    head, dot, _ = key.partition(".")
    return f"++{word}" if equals and head in TOP_KEYS and (dot or head in PEERS[1:]) else word


def hydra_message(error: Exception, words: Sequence[str]) -> str:
    """Hydra's or OmegaConf's error as one line that says what is allowed."""
    if isinstance(error.__cause__, InputError):
        return str(error.__cause__)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        extra = {"submitit_slurm": "slurm", "submitit_local": "slurm", "joblib": "joblib"}.get(name)
        if group == "hydra/launcher" and extra is not None:
            return f"{group} = {name}: is not installed; its extra is {extra}: pip install 'lskd[{extra}]'"
        own = [Path(words[i + 1]) for i, word in enumerate(words[:-1]) if word in ("--config-dir", "-cd")]
        return str(no_such_file(group, name, own, error.options))
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
    registries: dict[str, Registry[Any]] = {"arch": ARCHS, "method": METHODS, "target": TARGETS}
    kinds |= {name: [type(one) for one in registry.values()] for name, registry in registries.items()}
    for group, classes in kinds.items():
        if any(key in fields(kind) for kind in classes):
            return InputError(f"{key} = {show(value)}: unknown key; did you mean {group}.{key}?")
    return unknown_setting(key, value, key, TOP_KEYS)


def prepare_groups(words: list[str]) -> None:
    """Make what has no YAML file a choice of its group: what lskd or a plug-in registers, and imported data sets."""
    plugin, cache = typed_early(words, "plugin", "runtime.cache")
    if plugin:
        load_plugins(plugin)
    load_installed_plugins()
    conf = Conf(cache=Runtime(cache=str(cache or "")).cache_root)
    for group in REGISTRIES:
        for name in conf.names(group):
            if not (conf.directories[0] / group / f"{name}.yaml").is_file():
                ConfigStore.instance().store(group=group, name=name, node=conf.load(group, name), provider="lskd")
    for name in LAUNCHERS.keys() - LAUNCHERS.shipped.keys():
        ConfigStore.instance().store(group="launcher", name=name, node={"name": name}, provider="lskd")


def typed_early(words: Sequence[str], *keys: str) -> list[Any]:
    """The values that `words` give to some keys, None where they give none, before Hydra composes the whole. What it
    will not be able to read is left to it, which says so."""
    given = OmegaConf.create({"plugin": None, "runtime": {"data": "", "cache": "", "results": ""}})
    for word in words:
        if re.match(r"\+*(plugin|runtime)\b", word):
            with contextlib.suppress(*COMPOSITION_ERRORS):
                override = OverridesParser.create().parse_override(word)
                if not (override.is_delete() or override.is_sweep_override()):
                    OmegaConf.update(given, override.key_or_group, override.value(), force_add=True)
    values = []
    for key in keys:
        try:
            values.append(OmegaConf.select(given, key))
        except OmegaConfBaseException:
            values.append(None)
    return values


@hydra.main(version_base="1.3", config_path=str(shipped_conf()), config_name="config")
def command(config: DictConfig) -> None:
    """Run what one composed configuration asks for (under -m: one job of the sweep, in a process that a launcher of
    Hydra's has started)."""
    hydra_config: Any = HydraConfig.get()
    with ending(raises=hydra_config.mode == RunMode.MULTIRUN):
        job = interpret(config, hydra_config)
        # Of a sweep, all jobs are asked for at its start, and of what a launcher starts, before it does.
        alone = hydra_config.mode == RunMode.RUN and not getattr(job.launcher, "job", "")
        if job.runtime.retrain and alone and not job.status:
            again(job.runs, job.runtime, only_check=bool(job.plan_only))
        code = execute([job])
        if code > 1 or (code and hydra_config.mode == RunMode.RUN):
            sys.exit(code)  # (a run of a sweep that failed is told by its table)


@contextlib.contextmanager
def ending(*, raises: bool = False) -> Iterator[None]:
    """Of bad input, one line and exit code 2. Launchers of Hydra's carry exceptions from their processes to `main`,
    which an exit would kill: with `raises` it is left to them."""
    try:
        yield
    except InputError as error:
        if raises:
            raise
        fail(str(error))
    except COMPOSITION_ERRORS as error:
        fail(hydra_message(error, sys.argv[1:]))
    except BrokenPipeError:
        sys.exit(141)  # see `guarded`; of an exception Hydra would speak


class SideBySide(BasicLauncher):
    """hydra/launcher=basic. Hydra's has one job follow the other; here their runs are one plan."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        assert self.config is not None and self.hydra_context is not None
        configure_log(self.config.hydra.job_logging, self.config.hydra.verbose)
        compose, sweep = self.hydra_context.config_loader.load_sweep_config, Sweep.begun[-1]
        with ending():
            for words in job_overrides:
                if tuple(words) not in sweep.jobs:  # another sweeper chooses them as it goes
                    sweep.add(words, compose(self.config, list(words)))
            code = execute([sweep.jobs[tuple(words)] for words in job_overrides])
        if code > 1:
            sys.exit(code)
        sweep.code = max(sweep.code, code)
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return [JobReturn(overrides=words, status=JobStatus.COMPLETED) for words in job_overrides]


def interpret(config: DictConfig, hydra_config: DictConfig) -> Job:
    """What a composed configuration asks for. Checks everything."""
    content: dict[str, Any] = dict.fromkeys(BESIDE)
    content.update(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    for key in content:
        if key not in TOP_KEYS:
            raise unknown_top_key(str(key), content[key])
    check_keys(content)
    if content["plugin"]:
        load_plugins(content["plugin"])
    runtime = make_runtime(content.get("runtime", {}), content["tracker"])
    conf = Conf(search_path(hydra_config), runtime.cache_root, find_run=lambda id: finished_run(id, runtime.results))
    plan_only = content["plan"] or False
    if plan_only not in PLANS:
        raise InputError(f"plan = {show(plan_only)}: must be false, true, commands, settings or fleet")
    launcher, status = make_launcher(config), config.status
    if not isinstance(status, bool):
        raise InputError(f"status = {show(status)}: must be true or false")
    words = [*own_directories(hydra_config), *hydra_config.overrides.task]
    if content["experiment"] is None:
        if content["seeds"] is not None:
            raise InputError(
                f"seeds = {show(content['seeds'])}: is for experiments; one run has a seed=N (-m seed=0,1,2: several)"
            )
        form = normal_form(typed(hydra_config))
        runs, lines = in_order([build_run(form, conf)]), []
        if plan_only == "commands":
            lines = commands(runs, conf, typed_words(hydra_config))
        if plan_only == "settings":
            given = {word.partition("=")[0] for word in hydra_config.overrides.task}
            usual = {group: {"": "conf/config.yaml"} for group in GROUPS if group in form and group not in given}
            lines = settings(runs[-1], form, merge(labelled(form, "command line"), usual), conf)
        check_teacher_cache(runs, runtime)
        return Job(None, runs, runtime, conf, plan_only, status, lines, launcher, words)

    name = hydra_config.runtime.choices.get("experiment")
    if not name or not isinstance(content["experiment"], dict):
        raise unknown("experiment", name, conf.names("experiment"))
    for word in hydra_config.overrides.task:
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] not in BESIDE:
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
    lines = commands(plan.runs, conf, typed_words(hydra_config)) if plan_only == "commands" else []
    if plan_only == "settings":
        lines = list(kinds(plan, conf))
    check_teacher_cache(plan.runs, runtime)
    return Job(plan, plan.runs, runtime, conf, plan_only, status, lines, launcher, words)


def finished_run(id: str, results: str) -> Run:
    """The run of the store in `results` whose id begins so."""
    store = Snapshot.of(Store.at(results))
    record = store.record(store.find(id))
    if record is None or record.state != "done":
        raise InputError("must be a finished run")
    return Run.of(record.config)


def make_launcher(config: DictConfig) -> Launcher:
    """The launcher of launcher=NAME, with its settings."""
    given: Any = OmegaConf.to_container(config.launcher, resolve=True) if config.launcher else {"name": config.launcher}
    if not isinstance(given, dict):
        raise unknown("launcher", given, LAUNCHERS)
    name = given.pop("name", None)
    if name not in LAUNCHERS:
        raise unknown("launcher", name, LAUNCHERS)
    return parse(type(LAUNCHERS[name]), given, "launcher", defaults=LAUNCHERS[name])


def make_runtime(given: Any, tracker: Any) -> Runtime:
    """The runtime of what is `given` for it, and of the short word `tracker`, a name or a list of names."""
    if tracker is not None and isinstance(given, Mapping):
        if given.get("tracker"):
            raise InputError(f"tracker = {show(tracker)}: runtime.tracker says so, too; give one of them")
        given = {**given, "tracker": [tracker] if isinstance(tracker, str) else tracker}
    runtime = parse(Runtime, given, "runtime")
    check_trackers(runtime.tracker)
    return runtime


def check_keys(settings: Any, where: str = "") -> None:
    """`InputError` for a key that is no text: whether 0.10 or 0.1 was written, Hydra does not say."""
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        if not isinstance(key, str):
            raise InputError(
                f"{where} = {show(settings)}: the key {key} is read as a number, true, false or null; quote it"
            )
        check_keys(value, f"{where}.{key}".strip("."))


def typed(hydra_config: DictConfig) -> dict[str, Any]:
    """The settings of one run: the choices of its groups, and the words as they were typed.

    They are not read from the tree that Hydra makes of them, in which files and words are laid over one another: there
    teacher=resnet56 is gone where teacher.recipe.lr=0.1 follows, and what two words say of one field is one value.
    """
    words: dict[str, Any] = {}
    for word in OverridesParser.create().parse_overrides(list(hydra_config.overrides.task)):  # ${…} is looked up here
        key = word.key_or_group
        if key.partition(".")[0] not in RUN_KEYS:
            continue
        if word.package is not None:
            raise InputError(f"{key}@{word.package}: has no effect; give {word.package}=NAME")
        if word.is_delete() and key not in GROUPS:
            raise InputError(f"~{key}: a setting always has a value; give the one that it shall have: {key}=…")
        if key not in GROUPS:
            words[key] = word.value()
    check_keys(words)
    chosen = {group: hydra_config.runtime.choices.get(group) for group in GROUPS}
    return {**{group: name for group, name in chosen.items() if name is not None}, **words}


def typed_words(hydra_config: DictConfig) -> list[str]:
    """What was typed besides the settings of runs: own directories, plug-ins, the runtime."""
    own = own_directories(hydra_config)
    words = [word.lstrip("+") for word in hydra_config.overrides.task]
    return [*own, *(word for word in words if re.match(r"(plugin|runtime|tracker)\b", word))]


def own_directories(hydra_config: DictConfig) -> list[str]:
    return [f"--config-dir={path}" for path in search_path(hydra_config)[:-1]]


def search_path(hydra_config: DictConfig) -> tuple[Path, ...]:
    """The user's configuration directories (--config-dir), then the shipped one."""
    own = [
        Path(s.path) for s in hydra_config.runtime.config_sources if s.schema == "file" and s.provider == "command-line"
    ]
    return (*own, shipped_conf())


@dataclass
class Sweep:
    """The jobs of -m, by their words."""

    folder: Path  # where Hydra writes of it
    here: bool  # whether they are trained by this process (`SideBySide`)
    jobs: dict[tuple[str, ...], Job] = field(default_factory=dict)
    code: int = 0

    begun: ClassVar[list[Sweep]] = []  # that of this command, if it is one: of what Hydra makes, nothing comes back

    def add(self, words: Sequence[str], composed: DictConfig) -> Job:
        """The job that was composed of `words`, checked."""
        settings = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        job = self.jobs[tuple(words)] = interpret(settings, composed.hydra)
        return job

    def end(self) -> int:
        """Show all jobs in one table. The exit code."""
        if not self.jobs or any(job.plan_only or job.status for job in self.jobs.values()):
            return self.code
        return max(self.code, show_sweep(list(self.jobs.values()), self.folder))


class CheckSweep(Callback):
    """Before a sweep starts: compose and check every job, so that a bad value is an error before anything trains."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        kinds, basic = Plugins.instance().class_name_to_class, f"{BasicLauncher.__module__}.{BasicLauncher.__name__}"
        kinds[basic] = SideBySide
        here = config.hydra.launcher._target_ == basic
        Sweep.begun.append(sweep := Sweep(Path(config.hydra.sweep.dir), here))
        with ending():  # Hydra makes a warning of an exception in a callback; of an exit it does not
            if config.hydra.sweeper._target_.endswith("BasicSweeper"):
                self.check(config, sweep)
            elif config.runtime.retrain:  # others choose their values as they go
                fail("runtime.retrain: is for sweeps over given values, whose runs are known at the start")

    def check(self, config: DictConfig, sweep: Sweep) -> None:
        runs: dict[str, Any] = {}
        asked: dict[Runtime, dict[str, Run]] = {}  # for again
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        loader = GlobalHydra.instance().config_loader()
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        words = [*params, *config.hydra.overrides.task]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
        for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None):
            for job_words in batch:
                job = sweep.add(job_words, loader.load_sweep_config(config, list(job_words)))
                if job.plan_only or job.status:
                    continue
                probes = job.plan.probes if job.plan is not None else {}
                if job.runtime.retrain:
                    asked.setdefault(job.runtime, {}).update((run.id, run) for run in job.runs)
                runs.update((run.id, run) for run in to_train(job.runs, Store.at(job.runtime.results), probes))
        if runs:
            from lskd.launch.preflight import check_buildable

            check_buildable(runs.values(), job.conf.cache)
        for given, of_jobs in asked.items():
            again(of_jobs.values(), given, only_check=False)
