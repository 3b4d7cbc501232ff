"""From what a user writes (YAML files of conf/, command-line words, a table's cells) to runs, and back to words.

Settings have one normal form, in which they can be merged; everything is checked here, before anything is downloaded or
trained, and an `InputError` names the setting as the user wrote it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from lskd import data, start
from lskd.config_groups import Conf, merge
from lskd.data import Dataset, Spec, Text
from lskd.data.dataset import NOUNS
from lskd.errors import InputError, require, unknown
from lskd.methods import METHODS, Method
from lskd.models import ARCHS
from lskd.networks import PEERS
from lskd.probes import PROBES
from lskd.recipe import AS_IS, Recipe
from lskd.registry import Registry
from lskd.run import LINEAGE, NOTHING_TAUGHT, USUAL_TARGET, Named, ProbeSpec, Run, check_seed, peer_seed
from lskd.schema import convert, fields, parse, show, unknown_key
from lskd.start import Start
from lskd.targets import TARGETS

T = TypeVar("T")
GROUPS = ("dataset", "arch", "method", "recipe", "target")
TEACHER_LS = 0.1  # what teacher_ls=true means: Müller's and Shen's α

# Short names a user may type, and the fields they stand for.
SHORT = {"alpha": "target.alpha", "temperature": "method.temperature", "teacher_ls": "teacher.target.alpha"}
# How a network is shown images is a setting of its recipe; what starts from other weights may say it of these.
SEEN = {"start.normalize": "normalize", "start.resolution": "normalize.resize"}
RUN_KEYS = (
    *GROUPS, "seed", "data_seed", "start", *LINEAGE, "teacher_start", "teacher_mode", "generations", "streams", *PEERS,
    "peers", "peer_views", *SHORT,
)  # fmt: skip
MOST_GENERATIONS = 100  # in a chain, whose identities are nested
SAME = "same"  # a peer's network that is the run's own
RENAMED = {"smoothing": "target"}


def normal_form(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Settings as written, in one form: dotted keys and short names unfolded, a group's choice under the key "".

    {"arch": "mlp1200", "arch.hidden_dropout": 0.5, "teacher": "resnet56", "teacher_ls": True} becomes
    {"arch": {"": "mlp1200", "hidden_dropout": 0.5},
     "teacher": {"arch": {"": "resnet56"}, "target": {"alpha": 0.1}}}.
    Two normal forms can be merged, which two sets of settings as written cannot.
    """
    if not isinstance(settings, Mapping):
        raise InputError(f"{path or 'run'} = {show(settings)}: must be a mapping of settings")
    form: dict[str, Any] = {}
    late: list[tuple[str, Any]] = []
    parents: dict[str, dict[str, Any]] = {}  # their settings that are given one by one
    for key, value in settings.items():
        where = f"{path}.{key}".lstrip(".")
        head, _, rest = str(key).partition(".")
        if head not in RUN_KEYS:
            raise unknown_setting(where, value, str(key))
        if head in SHORT:
            if rest:
                raise InputError(f"{where} = {show(value)}: {head} has no parts")
            late.append((head, value))
        elif head == "teacher_start":
            if value is not None:
                parents.setdefault("teacher", {})[f"start.{rest}".rstrip(".")] = value
        elif head in (*LINEAGE, *PEERS) and rest:
            parents.setdefault(head, {})[rest] = value
        elif head in (*LINEAGE, *PEERS):
            _join(form, {head: _parent_form(value, where)}, path)
        elif head == "start":
            if value is not None:
                _join(form, _start_form(rest, value, where), path)
        elif head in GROUPS:
            _join(form, {head: _unfold(rest, value) if rest else _group_form(value, where)}, path)
        else:
            _join(form, {head: _unfold(rest, value) if rest else value}, path)
    for head, given in parents.items():
        _join(form, {head: normal_form(given, f"{path}.{head}".lstrip("."))}, path)
    for head, value in late:
        if value is not None:
            _apply_short(form, head, value, f"{path}.{head}".lstrip("."))
    return form


def unknown_setting(where: str, value: object, key: str, allowed: Iterable[str] = RUN_KEYS) -> InputError:
    """`InputError` for a `key` that is not allowed, which stands at the end of `where`; perhaps a setting was called so
    before."""
    head, dot, rest = key.partition(".")
    if head in RENAMED:
        return InputError(f"{where} = {show(value)}: is called {where.removesuffix(key)}{RENAMED[head]}{dot}{rest} now")
    return unknown_key(where, value, head, [one for one in allowed if one not in PEERS[2:]])  # peer, peer2, and so on


def _join(form: dict[str, Any], more: Mapping[str, Any], path: str) -> None:
    """`merge` for settings that stand beside one another, where none is laid over another: they must not disagree."""
    for key, value in more.items():
        where = f"{path}.{key}".strip(".")
        if isinstance(value, Mapping) and isinstance(form.get(key), dict):
            _join(form[key], value, where)
        elif form.get(key, value) != value:
            raise _disagree(where, value, where, form[key])
        else:
            form[key] = copy.deepcopy(value)


def _disagree(where: str, value: Any, other: str, its: Any) -> InputError:
    return InputError(f"{where} = {show(value)}: {other} = {show(its)} says otherwise; give one of them")


def _unfold(dotted: str, value: Any) -> Any:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def _group_form(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"": value}
    if isinstance(value, Mapping):
        return dict(value)
    quoted = ", in quotes where it would be read as something else," if isinstance(value, (int, float)) else ""
    raise InputError(f"{where} = {show(value)}: must be a name{quoted} or a mapping")


def _start_form(rest: str, value: Any, where: str) -> dict[str, Any]:
    """What is said of a start, and, of how its network is shown images, of the recipe."""
    form: dict[str, Any] = {}
    given = {rest: value} if rest else _group_form(value, where)
    for key, one in given.items():
        if key == "normalize" and isinstance(one, Mapping):  # all of it, whatever a recipe says
            one = {"kind": "fixed" if "mean" in one else "none", "mean": [], "std": [], **one}
        seen = SEEN.get(f"start.{key.partition('.')[0]}")
        if seen is not None:
            _join(form, {"recipe": _unfold(".".join([seen, *key.split(".")[1:]]), one)}, "")
        else:
            _join(form, {"start": {key: one}}, "")
    return form


def _parent_form(value: Any, where: str) -> dict[str, Any] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return {"arch": {"": value}}
    if isinstance(value, Mapping):
        return normal_form(value, where)
    raise InputError(f"{where} = {show(value)}: must be the name of a network, or a mapping of the run's settings")


def _apply_short(form: dict[str, Any], head: str, value: Any, where: str) -> None:
    """Set the field that a short name stands for, unless the settings give that field another value already."""
    group, _, leaf = SHORT[head].rpartition(".")
    if head == "teacher_ls":
        if isinstance(value, bool):
            value = TEACHER_LS if value else 0.0
        value = convert(float, value, where)
        require(0 <= value < 1, where, value, "false, true (0.1) or a number in [0, 1)")
    target = form
    for part in group.split("."):
        if target.get(part) is None:
            target[part] = {}
        target = target[part]
    if leaf in target and target[leaf] != value:
        raise _disagree(where, value, f"{where.removesuffix(head)}{SHORT[head]}", target[leaf])
    target[leaf] = value


def parse_run(settings: Mapping[str, Any], conf: Conf, path: str = "") -> Run:
    """The run that `settings` (in either form, see `normal_form`) describe, or an `InputError` naming the setting."""
    return build_run(normal_form(settings, path), conf, path)


def parse_probe(given: Mapping[str, Any], path: str = "probe") -> ProbeSpec:
    """A probe from its `name` and settings."""
    named = registered(PROBES, dict(given), path)
    return ProbeSpec(named.name, named.settings)


def build_run(form: Mapping[str, Any], conf: Conf, path: str = "") -> Run:
    """`parse_run` for settings in normal form."""

    def at(key: str) -> str:
        return f"{path}.{key}".lstrip(".")

    form = {"method": {"": "ce"}, **form}
    chained = form.pop("generations", None)
    if not _is_choice(given := form.get("target", {})):
        form["target"] = {"": USUAL_TARGET, **given}
    for group in ("dataset", "arch", "method"):
        if not _is_choice(form.get(group, {})):
            raise InputError(f"{at(group)}: is required; allowed: {', '.join(conf.names(group))}")
    dataset, spec, usual_recipe = _dataset(form["dataset"], conf, at("dataset"))
    recipe = _recipe(form.get("recipe", {}), usual_recipe, spec, conf, at("recipe"))
    arch = registered(ARCHS, _resolve("arch", form["arch"], conf, at("arch")), at("arch"))
    method = registered(METHODS, _resolve("method", form["method"], conf, at("method")), at("method"))
    target = registered(TARGETS, _resolve("target", form["target"], conf, at("target")), at("target"))
    seed = convert(int, form.get("seed", 0), at("seed"))
    mode = convert(fields(Run)["teacher_mode"], form.get("teacher_mode", "eval"), at("teacher_mode"))
    given = form.get("streams")
    streams = convert(fields(Run)["streams"], "own" if given is None else given, at("streams"))
    if not recipe.trains and form.get("teacher") is not None:  # which would have such a recipe, too
        raise InputError(f"{path}.{NOTHING_TAUGHT}".lstrip("."))
    generations = _generations(chained, method, at("generations"))
    teacher = _teacher(form, seed, recipe, dataset, spec, conf, path)
    begins, base = _start(form, seed, dataset, spec, conf, path)
    data_seed = convert(fields(Run)["data_seed"], form.get("data_seed"), at("data_seed"))
    views = convert(fields(Run)["peer_views"], form.get("peer_views", "same"), at("peer_views"))
    for key, value in (("seed", seed), ("data_seed", data_seed or 0)):  # before those of peers, which follow from them
        check_seed(at(key), value)
    peers = _peers(form, seed, seed if data_seed is None else data_seed, conf, path)
    if not recipe.trains:
        seed = 0  # which then changes nothing
    if teacher is None and base is None:  # of the first generation: it has the streams of its seed either way
        streams = "shared"
    with located(path):
        run = Run(
            dataset, arch, method, recipe, target, seed, teacher, mode, streams, begins, base, data_seed, peers, views
        )  # fmt: skip
    check_kind(run, spec, path)
    for _ in range(generations - 1):
        run = run.successor
    return run


def _generations(given: Any, method: Named[Method], where: str) -> int:
    """How many networks a chain has, each taught by the one before; the run is the last of them."""
    if given is None:
        return 1
    count = convert(int, given, where)
    require(1 <= count <= MOST_GENERATIONS, where, count, f"from 1 to {MOST_GENERATIONS}")
    if not method.settings.needs_teacher:
        allowed = ", ".join(sorted(key for key, one in METHODS.items() if one.needs_teacher))
        raise InputError(f"{where} = {count}: method={method.name} uses no teacher; methods that do: {allowed}")
    return count


def _is_choice(given: Mapping[str, Any]) -> bool:
    """Whether a group's settings say which entry they are about: a file's name, or (composed by Hydra) its content."""
    return "" in given or "name" in given


def _dataset(given: dict[str, Any], conf: Conf, where: str) -> tuple[Dataset, Spec, str | None]:
    """The data set, what the run has of it, and the name of its usual recipe."""
    values = _resolve("dataset", given, conf, where)
    usual_recipe = values.pop("recipe", None)
    dataset = parse(Dataset, values, where)
    spec = conf.spec(dataset.name)
    if not data.is_shipped(spec) and dataset.digest != spec.digest:
        if dataset.digest:
            raise InputError(f"{where}.digest = {dataset.digest!r}: the {dataset.name} here is {spec.digest!r}")
        dataset = replace(dataset, digest=spec.digest)
    if dataset.text is None:
        dataset = replace(dataset, text=spec.text)
    with located(where):
        data.check(dataset, data.with_class_sizes(spec, dataset, conf.cache))
    return dataset, conf.spec_of(dataset), usual_recipe


def _recipe(given: dict[str, Any], usual: str | None, spec: Spec, conf: Conf, where: str) -> Recipe:
    if not _is_choice(given):
        if usual is None:
            raise InputError(f"{where}: is required with this dataset; allowed: {', '.join(conf.names('recipe'))}")
        given = {"": usual, **given}
    recipe = parse(Recipe, _resolve("recipe", given, conf, where), where)
    if recipe.trains and given.get("") == AS_IS:
        raise InputError(
            f"{where}.epochs = {recipe.epochs}: recipe={AS_IS} trains nothing; choose another to train with"
        )
    if spec.kind != "images":
        check_text_recipe(recipe, spec, where)
        return recipe if recipe.trains else recipe.as_is()
    require(recipe.batch_by == "examples", f"{where}.batch_by", recipe.batch_by, f"examples: {spec.name} has images")
    with located(f"{where}.augment"):
        recipe.augment.check(*spec.shape[1:])
    if spec.streamed and recipe.normalize.kind == "dataset":
        rule = "none, fixed or per_image for a streamed data set, whose pixels are not at hand"
        raise InputError(f"{where}.normalize.kind = dataset: must be {rule}")
    if recipe.normalize.kind == "fixed":
        mean, channels = list(recipe.normalize.mean), spec.shape[0]
        require(len(mean) == channels, f"{where}.normalize.mean", mean, f"{channels} numbers, one a channel")
    return recipe if recipe.trains else recipe.as_is()


def check_text_recipe(recipe: Recipe, spec: Spec, where: str) -> None:
    """`InputError` for settings of `recipe` that are for images alone, where the data are text."""
    usual = Recipe(1.0, 1, epochs=1)
    for name in ("augment", "normalize", "batch_norm_group", "compile"):
        if getattr(recipe, name) != getattr(usual, name):
            raise InputError(f"{where}.{name}: is for images, and must be left out: {spec.name} has sentences")
    if recipe.batch_by == "tokens" and spec.kind != "translation":
        raise InputError(f"{where}.batch_by = tokens: must be examples: those of {spec.name} have one output each")


def check_kind(run: Run, spec: Spec, path: str) -> None:
    """`InputError` unless the network and the method of a run are for the kind of data that it has."""
    at = f"{path}.".lstrip(".")
    kind, its = spec.kind, run.arch.settings.kind
    if its != kind:
        fitting = [name for name, arch in ARCHS.items() if arch.kind == kind]
        raise InputError(
            f"{at}arch = {run.arch.name}: is for {OF_KIND[its]}, and {spec.name} has {OF_KIND[kind]}; allowed: "
            f"{', '.join(fitting)}"
        )
    method = run.method.settings
    if kind != "images" and method.reads_features:
        others = [name for name, one in METHODS.items() if not one.reads_features]
        raise InputError(
            f"{at}method = {run.method.name}: reads features of images, and {spec.name} has {OF_KIND[kind]}; allowed: "
            f"{', '.join(others)}"
        )


OF_KIND = {"images": "images", "translation": "sentences to translate", "pairs": "sentences to classify"}


def _start(
    form: Mapping[str, Any], seed: int, dataset: Dataset, spec: Spec, conf: Conf, path: str
) -> tuple[Start, Run | None]:
    """Where the weights come from: a file or a tag, or another run."""
    given = dict(form.get("start") or {})
    where, word, base = f"{path}.start".lstrip("."), given.pop("", "seed"), None
    if not isinstance(word, str):
        rule = "seed, a file or folder, run:ID, hub:NAME, timm:TAG or torchvision:WEIGHTS"
        raise InputError(f"{where} = {show(word)}: must be {rule}")
    if (own := form.get("started_from")) is not None:
        base = build_run(started_form({**form, "seed": seed}), conf, f"{path}.started_from".lstrip("."))
    said = ("head", "layers", "prefix")
    begins = parse(Start, {key: value for key, value in given.items() if key in said}, where)
    for key, value in given.items():
        if key not in said:
            raise unknown_key(f"{where}.{key}", value, key, (*said, "normalize", "resolution"))
    if word.startswith(start.RUN):
        if own is not None:
            raise InputError(f"{where} = {show(word)}: started_from says otherwise; give one of them")
        base = conf.run(word.removeprefix(start.RUN), where)
    elif word != start.SEED:
        with located(path):
            begins = replace(start.of(word, begins.prefix), head=begins.head, layers=begins.layers)
    if begins.prefix and not begins.digest:
        raise InputError(f"{where}.prefix = {show(begins.prefix)}: is for start=PATH")
    if base is not None:
        check_vocabulary(base.dataset, dataset, conf, where)
    if base is not None and begins.head != "new":
        classes = conf.spec_of(base.dataset).num_classes
        if classes != spec.num_classes:
            raise InputError(
                f"{where}: {base.network} on {base.dataset} has a head of {classes} classes, not of "
                f"{spec.num_classes}, as {dataset} has: start.head=new starts it from the seed"
            )
    return begins, base


def started_form(form: Mapping[str, Any]) -> dict[str, Any]:
    """The normal form of the run that the one of `form` starts from: its own settings over that one's data set, network
    and seed; its recipe is its own, or the usual one of its data."""
    own = form["started_from"]
    inherited = {key: form[key] for key in ("dataset", "arch", "seed", "streams") if key in form}
    for group in ("dataset", "arch"):
        if _is_choice(own.get(group, {})):
            inherited.pop(group, None)
    return merge(copy.deepcopy(inherited), own)


def _teacher(
    form: Mapping[str, Any], seed: int, recipe: Recipe, dataset: Dataset, spec: Spec, conf: Conf, path: str
) -> Run | None:
    """The run of the teacher that `form` describes; None where there is none. `recipe`, `dataset` and `spec` are its
    student's."""
    own = form.get("teacher")
    where = f"{path}.teacher".lstrip(".")
    if own is None:
        return None
    if "arch" not in own:
        alpha = own.get("target", {}).get("alpha")
        if set(own) == {"target"} and not alpha:
            return None  # teacher_ls=false, and no teacher
        what = f"{where}_ls = {show(alpha)}" if set(own) == {"target"} else where
        if set(own) <= {"start", "recipe"} and "" in own.get("start", {}):
            what = f"{where}_start = {show(own['start'][''])}"
        raise InputError(
            f"{what}: the teacher has no network; give teacher=ARCH, one of {', '.join(conf.names('arch'))}"
        )
    teacher = build_run(teacher_form({**form, "seed": seed}), conf, where)
    taught = conf.spec_of(teacher.dataset)
    check_vocabulary(teacher.dataset, dataset, conf, where)
    if taught.num_classes != spec.num_classes:
        raise InputError(
            f"{where}.dataset = {teacher.dataset}: its {taught.num_classes} classes do not match "
            f"the {spec.num_classes} of {dataset}"
        )
    if taught.name == spec.name and taught.class_names != spec.class_names:
        raise InputError(f"{where}.dataset = {teacher.dataset}: its classes are others than those of {dataset}")
    if spec.kind != "images":
        return teacher
    if teacher.recipe.normalize.resize:  # whatever is shown to it becomes of its size
        return teacher
    taken = [teacher.recipe.view_shape(taught.shape, evaluated=one) for one in (False, True)]
    shown = recipe.view_shape(spec.shape)
    if shown not in taken:
        its, ours = ("×".join(map(str, shape)) for shape in (taken[0], shown))
        raise InputError(
            f"{where}.recipe.augment.crop = {teacher.recipe.augment.crop}: the teacher takes images of {its}, and its "
            f"student's (recipe.augment.crop = {recipe.augment.crop}) are {ours}: must be of one size, unless "
            f"{where}.start.resolution has them resized"
        )
    return teacher


def check_vocabulary(other: Dataset, own: Dataset, conf: Conf, where: str) -> None:
    """`InputError` unless a network that was trained on the data set `other` reads and writes what one on `own` does:
    images, or the same tokens, which of a translation follow from the data, too."""
    its, kind = (conf.spec_of(one).kind for one in (other, own))
    if its != kind:
        raise InputError(f"{where}.dataset = {other}: is of {NOUNS[its]}, and {own} of {NOUNS[kind]}")
    if other.text is None or own.text is None:
        return
    one, two = other.text.vocabulary, own.text.vocabulary
    for name in (*one, *two):
        if one.get(name) != two.get(name):
            what = "text.tokenizer" if name == "tokenizer" else f"text.{name}"
            has, ours = (show(of.get(name, getattr(Text, name))) for of in (one, two))
            raise InputError(
                f"{where}.dataset.{what} = {has}: must be {ours}, as of its student: the tokens are others"
            )
    if kind == "translation" and (other.name, other.digest) != (own.name, own.digest):
        raise InputError(
            f"{where}.dataset = {other}: its vocabulary is that of {other.name}, and not that of {own.name}"
        )


def teacher_form(form: Mapping[str, Any]) -> dict[str, Any]:
    """The normal form of the teacher in `form`: its own settings over the student's data set, recipe, seed, streams
    and mass. One that starts from given weights, and says nothing of a training of its own, has none. In a chain of
    generations it is the one before."""
    if (generations := form.get("generations") or 1) > 1:
        return {**copy.deepcopy(form), "generations": generations - 1}
    own = form["teacher"]
    inherited = {key: form[key] for key in ("dataset", "recipe", "seed", "streams") if key in form}
    for group in ("dataset", "recipe"):  # a choice of its own starts afresh; single fields change the student's
        if _is_choice(own.get(group, {})):
            inherited.pop(group, None)
    if "mass" in form.get("target", {}) and not _is_choice(own.get("target", {})):
        inherited["target"] = {"mass": form["target"]["mass"]}
    trained = own.get("recipe", {})
    silent = not _is_choice(trained) and not {"epochs", "steps"} & trained.keys()
    if silent and own.get("start", {}).get("", start.SEED) != start.SEED:  # as it is, of what its student sees
        inherited["recipe"] = {**inherited.get("recipe", {}), "epochs": 0, "steps": None}
    return merge(copy.deepcopy(inherited), own)


def _peers(form: Mapping[str, Any], seed: int, data_seed: int, conf: Conf, path: str) -> tuple[Run, ...]:
    """The runs of the peers that `form` describes."""
    given = [word for word in PEERS if form.get(word) is not None]
    where, count = f"{path}.peers".lstrip("."), form.get("peers")
    if form.get("peer", ...) is None or not (given or count is not None):  # peer=null: none, whatever else is said
        return ()
    most = PEERS.index(given[-1]) + 1 if given else 1
    count = most if count is None else convert(int, count, where)
    if "peer" not in given:
        what = f"{where} = {count}" if not given else f"{path}.{given[0]}".lstrip(".")
        raise InputError(f"{what}: there is no first peer; give peer=ARCH, or peer={SAME} for one of its own kind")
    least = f" {most}, of which settings are given," if most > 1 else " 1"
    require(most <= count <= len(PEERS), where, count, f"at least{least} and at most {len(PEERS)}")
    return tuple(
        build_run(
            {"seed": peer_seed(seed, number), "data_seed": data_seed, **peer_form(form, word)},
            conf,
            f"{path}.{word}".lstrip("."),
        )
        for number, word in enumerate(PEERS[:count], 1)
    )


def peer_form(form: Mapping[str, Any], word: str) -> dict[str, Any]:
    """The normal form of the peer `word` in `form`, but for what follows from the run's seed: its own settings (those
    of the first peer, where there are none) over the run's data set, network, recipe, target and start."""
    own = copy.deepcopy(form["peer"] if form.get(word) is None else form[word])
    inherited = {key: form[key] for key in ("dataset", "arch", "recipe", "target", "start") if key in form}
    if own.get("arch", {}).get("") == SAME:
        del own["arch"][""]
    if _is_choice(own.get("arch", {})):  # which the weights would not fit
        inherited.pop("start", None)
    for group in ("dataset", "arch", "recipe", "target", "start"):
        if _is_choice(own.get(group, {})):
            inherited.pop(group, None)
    return merge(copy.deepcopy(inherited), own)


def _resolve(group: str, given: dict[str, Any], conf: Conf, where: str) -> dict[str, Any]:
    """The chosen file of `group`, with the given fields laid over it."""
    fields = {key: value for key, value in given.items() if key != ""}
    if "" not in given:
        return fields
    try:
        return merge(conf.load(group, given[""]), fields)
    except InputError as error:
        prefix = where[: -len(group)]
        raise InputError(f"{prefix}{error}") from None


def registered(registry: Registry[T], given: Mapping[str, Any], path: str) -> Named[T]:
    """The entry of a registry that `given` names, with its settings."""
    given = dict(given)
    name = given.pop("name", None)
    if name not in registry:
        raise unknown(f"{path}.name", name, registry)
    prototype = registry[name]
    for short in ("alpha", "temperature"):
        if SHORT[short] == f"{registry.kind}.{short}" and short in given and short not in fields(type(prototype)):
            where = f"{path.removesuffix(registry.kind)}{short}"
            raise InputError(f"{where} = {show(given[short])}: {path}={name} has no {short}")
    return Named(name, parse(type(prototype), given, path, defaults=prototype))


class located:
    """A block whose `InputError`s get `path` in front."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InputError) and self.path:
            raise InputError(f"{self.path}.{error}") from None
