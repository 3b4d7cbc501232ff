"""The command line of a run: `lskd.compose` the other way round. `lskd-run WORD WORD …` is that run again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lskd.compose import GROUPS, SAME, registered
from lskd.config_groups import Conf
from lskd.data import Dataset
from lskd.errors import InputError
from lskd.networks import PEERS
from lskd.recipe import Recipe
from lskd.run import LINEAGE, REGISTERED, USUAL_TARGET, Run, peer_seed, settings_of_part
from lskd.schema import parse
from lskd.start import SEED, Start


class Commands:
    """The command lines of runs in terms of the files of `conf`: of each group the file that is nearest to the run, and
    what differs from it. Each file is read once."""

    def __init__(self, conf: Conf) -> None:
        self.conf = conf
        self.sources: dict[str, str] = {}  # where weights are that runs start from, by digest, beside what they know
        self._files: dict[str, dict[str, dict[str, Any]]] = {}

    def line(self, run: Run, given: Sequence[str] = ()) -> str:
        """`lskd-run …`. `given`: words that are no settings, such as runtime.results=…"""
        return " ".join(["lskd-run", *map(_quote, [*given, *override_words(self.form(run))])])

    def form(self, run: Run) -> dict[str, Any]:
        """The settings of `run` in normal form (`compose.normal_form`), what is usual or inherited left out."""
        first, place = run.chain
        if place > 1:
            return {**self.form(first), "generations": place}
        form: dict[str, Any] = {group: self._group(group, run) for group in GROUPS}
        form["seed"] = run.seed
        if form["target"][""] == USUAL_TARGET:
            del form["target"][""]
        for group, usual in (("method", {"": "ce"}), ("target", {})):
            if form[group] == usual:
                del form[group]
        if run.start != Start():
            begins, form["start"] = run.start, {}
            if run.started_from is None:
                form["start"][""] = begins.source or self.sources.get(begins.digest) or begins.word
            for key in ("head", "layers", "prefix"):
                if getattr(begins, key) != getattr(Start, key):
                    form["start"][key] = getattr(begins, key)
        if run.generation and run.streams == "shared":
            form["streams"] = "shared"
        for name in LINEAGE:
            if (parent := getattr(run, name)) is None:
                continue
            form[name] = its = self.form(parent)
            inherited = ["dataset", "seed", "arch" if name == "started_from" else "recipe"]
            if parent.start.digest and "recipe" in inherited:  # without a recipe of its own it would not be trained
                inherited.remove("recipe")
            for key in inherited:
                if its[key] == form[key]:
                    del its[key]
            if name == "teacher" and "mass" in form.get("target", {}) and "" not in its.get("target", {}):
                its.setdefault("target", {})["mass"] = parent.target.settings.mass  # which is inherited, too
            if run.streams == "shared" and parent.generation:
                its["streams"] = parent.streams
        if run.teacher_mode != "eval":
            form["teacher_mode"] = run.teacher_mode
        if run.data_seed is not None:
            form["data_seed"] = run.data_seed
        peers = [self._peer(run, number, form) for number in range(1, len(run.peers) + 1)]
        if peers and all(one == peers[0] for one in peers):
            form |= {"peer": peers[0]} | ({"peers": len(peers)} if len(peers) > 1 else {})
        else:
            form |= dict(zip(PEERS, peers, strict=False))
        if run.peer_views != "same":
            form["peer_views"] = run.peer_views
        return form

    def _peer(self, run: Run, number: int, form: Mapping[str, Any]) -> dict[str, Any]:
        """The form of a peer of `run`, whose own is `form`, as `compose.peer_form` reads it."""
        peer = run.peers[number - 1]
        its = self.form(peer)
        usual = {"seed": peer_seed(run.seed, number), "data_seed": run.order_seed}
        usual |= {key: form[key] for key in ("dataset", "recipe", "target", "start") if key in form}
        if peer.arch != run.arch:
            usual.pop("start", None)
        if "target" in usual and its.get("target") != usual["target"]:  # nothing is inherited of another target
            its["target"] = {"": USUAL_TARGET, **its.get("target", {})}
        if "start" in usual and "start" not in its:
            its["start"] = {"": SEED}
        its = {key: value for key, value in its.items() if usual.get(key) != value}
        return its | ({"arch": {"": SAME}} if peer.arch == run.arch else {})

    def _group(self, group: str, run: Run) -> dict[str, Any]:
        """The file of `group` that is nearest to the run (its own, where several are), under "", and what differs."""
        part = getattr(run, group)
        wanted = settings_of_part(group, part)
        near: list[tuple[bool, str, dict[str, Any]]] = []
        for name, settings in self._of(group).items():
            differing = _differing(settings, wanted)
            if differing is not None:
                near.append((name != part.name, name, differing))
        if not near:
            raise InputError(f"{group} = {part.name}: no file of conf/{group} is about it")
        _, name, differing = min(near, key=lambda entry: (len(entry[2]), *entry[:2]))
        form: dict[str, Any] = {"": name}
        for key, value in differing.items():
            *path, leaf = key.split(".")[1:]
            target = form
            for step in path:
                target = target.setdefault(step, {})
            target[leaf] = list(value) if isinstance(value, tuple) else value
        return form

    def _of(self, group: str) -> dict[str, dict[str, Any]]:
        """The settings that the files of a group stand for, by their names; those that cannot be read are left out."""
        if group not in self._files:
            found = self._files[group] = {}
            for name in self.conf.names(group):
                try:
                    content = self.conf.load(group, name)
                    if group in REGISTERED:
                        part: Any = registered(REGISTERED[group], content, group)
                    else:
                        content.pop("recipe", None)  # a data set's usual one
                        part = parse(Dataset if group == "dataset" else Recipe, content, group)
                    found[name] = settings_of_part(group, part)
                except InputError:
                    continue
        return self._files[group]


def _differing(settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """What must be laid over `settings` to have those that are `wanted`; None where that cannot be."""
    name = next(iter(wanted))  # "dataset.name": another one's settings are others
    if name.endswith(".name") and settings.get(name) != wanted[name]:
        return None
    differing = {}
    for key, value in wanted.items():
        if key in settings and settings[key] == value:
            continue
        if isinstance(value, dict):  # mappings are laid over one another: what is there stays
            there = settings.get(key) or {}
            if not there.keys() <= value.keys():
                return None
            value = {one: item for one, item in value.items() if one not in there or there[one] != item}
        differing[key] = value
    return differing


def override_words(form: Mapping[str, Any]) -> list[str]:
    """The command-line words (Hydra overrides) for settings in normal form: `lskd-run WORD WORD …` is that run."""
    return list(_words(form, ""))


def _words(form: Mapping[str, Any], prefix: str) -> Iterable[str]:
    known = (
        "",
        *GROUPS,
        "start",
        *LINEAGE,
        "teacher_mode",
        "generations",
        "streams",
        *PEERS,
        "peers",
        "peer_views",
        "data_seed",
        "seed",
    )
    order = {key: i for i, key in enumerate(known)}
    for key, value in sorted(form.items(), key=lambda item: order.get(item[0], len(order))):
        where = f"{prefix}.{key}".lstrip(".") if key else prefix
        if where == "target.alpha":
            yield f"alpha={_hydra(value)}"
        elif where == "method.temperature":
            yield f"temperature={_hydra(value)}"
        elif (
            where in PEERS
            and isinstance(value, Mapping)
            and value.keys() == {"arch"} == {*value, *value["arch"]} - {""}
        ):
            yield f"{where}={_hydra(value['arch'][''])}"
        elif where in (*LINEAGE, *PEERS) and isinstance(value, Mapping):
            yield f"{where}={_hydra(_nested(value))}"
        elif isinstance(value, Mapping) and where.split(".")[0] in (*GROUPS, "start") and key != "lr_factors":
            yield from _words(value, where)
        else:
            yield f"{where}={_hydra(value)}"


def _nested(form: Mapping[str, Any]) -> dict[str, Any]:
    """A teacher's normal form as settings: {"arch": {"": "x", "f": 1}} -> {"arch": "x", "arch.f": 1}."""
    settings: dict[str, Any] = {}
    for key, value in form.items():
        if key in (*LINEAGE, *PEERS) and isinstance(value, Mapping):
            settings[key] = _nested(value)
        elif isinstance(value, Mapping) and "" in value:
            settings[key] = value[""]
            settings.update({f"{key}.{name}": item for name, item in value.items() if name})
        else:
            settings[key] = value
    return settings


def _hydra(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if isinstance(value, str) and not re.fullmatch(r"(?!(true|false|null|inf|nan)$)[a-z_]\w*", value, re.IGNORECASE):
        return "'" + value.replace("'", "\\'") + "'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _quote(word: str) -> str:
    """`word` for a shell; in double quotes where they do, because Hydra's own are single ones."""
    if re.search(r'["$`\\!]', word):
        return shlex.quote(word)
    return f'"{word}"' if shlex.quote(word) != word else word
