"""What a run is, and its identity. (`lskd.compose` makes runs out of what a user writes.)"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from lskd import entries
from lskd.data import Dataset
from lskd.errors import InputError, require, unknown
from lskd.methods import METHODS, Method
from lskd.models import ARCHS, Arch
from lskd.networks import OWN, PEERS
from lskd.probes import PROBES, Probe
from lskd.recipe import Recipe
from lskd.registry import Registry
from lskd.schema import flat, identity, parse
from lskd.start import NO_START, Start
from lskd.targets import TARGETS, Target

T = TypeVar("T")

NOTHING_TAUGHT = "recipe.epochs = 0: nothing is trained, and so nothing taught; leave teacher and method out"

# Of the code that all runs share: losses, targets, augmentation, data order, optimizer, schedule, metrics, the loop. As
# `Method.version`: raised by 1 where a change makes another number of what a run records.
ENGINE_VERSION = 1


@dataclass(frozen=True)
class Named(Generic[T]):
    """An entry of a registry under its name, with its settings."""

    name: str
    settings: T

    def described(self, registry: Registry[T]) -> dict[str, Any]:
        """The JSON by which it is hashed."""
        return {"name": self.name, **entries.described(self.name, self.settings, registry)}

    @staticmethod
    def of(described: Mapping[str, Any], registry: Registry[T], path: str) -> Named[T]:
        """The reverse of `described`, but for the code."""
        settings = {key: value for key, value in described.items() if key != "name"}
        name = described["name"]
        if name not in registry:
            raise unknown(path, name, registry)
        prototype = registry.shipped.get(name, registry[name])
        return Named(name, parse(type(prototype), settings, path, defaults=prototype))


USUAL_TARGET = "label_smoothing"
HARD = Named[Target](USUAL_TARGET, TARGETS[USUAL_TARGET])  # hard labels: its α is 0


@dataclass(frozen=True)
class Run:
    """One training. Its `id` is the hash of everything here that can change its numbers."""

    dataset: Dataset
    arch: Named[Arch]
    method: Named[Method]
    recipe: Recipe
    target: Named[Target] = HARD
    seed: int = 0
    teacher: Run | None = None
    # The teacher's batch norm while it teaches: its running statistics, or those of each batch (some official codes).
    teacher_mode: Literal["eval", "batch_stats"] = "eval"
    # Random streams of a run with a teacher. own: no network of a lineage (a run, its teacher, the teacher's teacher)
    # shares one with another. shared: streams come from the seed alone, so that a student of its teacher's architecture
    # starts from the same weights, and every student sees the same views in the same order as its teacher did.
    # (`lskd.compose` makes own the default; here it is shared, which the first runs were trained with.)
    streams: Literal["shared", "own"] = "shared"
    # Where its weights come from, if not from the seed: a file or a pretrained tag, or the last weights of another run.
    start: Start = NO_START
    started_from: Run | None = None
    # What the order of the images, their views and their mixtures are named after: None = the seed. Initial weights and
    # dropout are always the seed's.
    data_seed: int | None = None
    # Networks that are trained together with this one; they learn from one another by `method`. Each is a run that may
    # be trained alone, too: with nothing exchanged it computes the same bits here and there. Its seed is its own
    # (`peer_seed`), its order of images that of this run, its method ce. What else they share: `_check_peers`.
    peers: tuple[Run, ...] = ()
    # same: peers see the very pixels that this run's network sees; own: the same images, through views of their own.
    peer_views: Literal["same", "own"] = "same"

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        check_seed("data_seed", self.order_seed)
        self._check_start()
        self._check_peers()
        name = self.method.name
        if self.method.settings.needs_teacher and self.teacher is None:
            raise InputError(f"method = {name}: needs a teacher; give teacher=ARCH, or use method=ce")
        if self.teacher is not None and not self.method.settings.needs_teacher:
            allowed = ", ".join(sorted(key for key, method in METHODS.items() if method.needs_teacher))
            raise InputError(
                f"teacher = {self.teacher.arch.name}: method={name} uses no teacher; methods that do: {allowed}"
            )
        of_method, of_target = f"method={name}, whose loss", f"target={self.target.name}, which"
        if self.recipe.accumulate > 1:
            for whole, what in ((self.method.settings.whole_batch, of_method), ("batch" in self.reads, of_target)):
                if whole:
                    rule = f"1 with {what} is of the whole batch and not of each of its parts"
                    raise InputError(f"recipe.accumulate = {self.recipe.accumulate}: must be {rule}")
        if self.recipe.augment.mix.any:
            of_method = f"method={name} and its settings, whose loss"
            for one, what in ((self.method.settings.one_label, of_method), ("labels" in self.reads, of_target)):
                if one:
                    rule = f"none with {what} asks for the one label of each image"
                    raise InputError(f"recipe.augment.mix.kind = {self.recipe.augment.mix.kind}: must be {rule}")
        if self.reads and self.method.settings.needs_rows:
            rule = (
                f"one of the label alone with method={name} and its settings, which are solved for before the training"
            )
            raise InputError(f"target = {self.target.name}: must be {rule}")
        if self.recipe.compile and self.method.settings.reads_features:
            rule = f"false with method={name}, which reads features where compiled code has none"
            raise InputError(f"recipe.compile = true: must be {rule}")
        if self.teacher is None and self.teacher_mode != "eval":
            raise InputError(f"teacher_mode = {self.teacher_mode}: there is no teacher")

    def _check_start(self) -> None:
        """`InputError` unless its weights come from one place, and something comes of it."""
        given, base = bool(self.start.digest), self.started_from
        if given and base is not None:
            raise InputError("started_from: start says otherwise; give one of them")
        new = self.start.head == "new"
        if new and not given and base is None:
            raise InputError("start.head = new: all weights come from the seed; give start or started_from")
        if self.start.layers != "all" and not given:
            raise InputError(f"start.layers = {self.start.layers}: is for start=PATH and its like")
        if base is not None and base.arch.settings.of_weights() != self.arch.settings.of_weights():
            raise InputError(f"started_from.arch = {base.network}: must be the network of the run, {self.network}")
        if self.recipe.trains:
            return
        if not given and base is None:
            raise InputError(
                "recipe.epochs = 0: without training, weights must come from elsewhere; give start=PATH, such as a "
                "state dict, or recipe.epochs >= 1"
            )
        if new:
            raise InputError("start.head = new: without training (recipe.epochs = 0) the head would be random")
        if self.teacher is not None:
            raise InputError(NOTHING_TAUGHT)
        if self.reads:
            raise InputError(
                f"target = {self.target.name}: nothing is taught where nothing is trained (recipe.epochs = 0)"
            )

    def _check_peers(self) -> None:
        """`InputError` unless it has peers where its method learns from them, which can be trained together with it."""
        name, method = self.method.name, self.method.settings
        if not self.peers:
            if method.needs_peers:
                raise InputError(f"method = {name}: needs a peer; give peer=ARCH, or peer=same for one of its own kind")
            if self.peer_views != "same":
                raise InputError(f"peer_views = {self.peer_views}: there is no peer")
            return
        if not method.needs_peers:
            allowed = ", ".join(sorted(key for key, one in METHODS.items() if one.needs_peers))
            raise InputError(
                f"peer = {self.peers[0].arch.name}: method={name} uses no peer; methods that do: {allowed}"
            )
        require(len(self.peers) <= len(PEERS), "peers", len(self.peers), f"at most {len(PEERS)}")
        if self.teacher is not None:
            raise InputError(f"teacher = {self.teacher.arch.name}: must be left out with a peer, which teaches instead")
        if method.initial() is not None:
            raise InputError(f"method = {name}: has a stage before the training, in which peers cannot take part")
        if not self.recipe.trains:
            raise InputError(
                "recipe.epochs = 0: nothing is trained, and so nothing exchanged; leave peer and method out"
            )
        if self.peer_views == "own" and self.recipe.augment.mix.any:
            raise InputError("peer_views = own: must be same where images are mixed, which are then of other labels")
        seen = {self.stream_seed: "this run's"}
        for word, peer in zip(PEERS, self.peers, strict=False):
            if peer.peers:
                raise InputError(f"{word}.peer = {peer.peers[0].arch.name}: a peer has none of its own; give peers=N")
            if peer.teacher is not None:
                raise InputError(f"{word}.teacher = {peer.teacher.arch.name}: must be left out: a peer has no teacher")
            if peer.method != Named("ce", METHODS["ce"]):
                raise InputError(f"{word}.method = {peer.method.name}: must be left out: method={name} is for all")
            for part, run in (("", self), (f"{word}.", peer)):
                if run.started_from is not None:
                    raise InputError(
                        f"{part}started_from: with peers, weights come from the seed or a file (start=PATH)"
                    )
            if peer.dataset != self.dataset:
                raise InputError(f"{word}.dataset = {peer.dataset}: must be that of the run, {self.dataset}")
            for field in SHARED:
                its, ours = getattr(peer.recipe, field), getattr(self.recipe, field)
                if its != ours:
                    told = its if not hasattr(its, "__dataclass_fields__") else "another"
                    rule = "that of the run" if told == "another" else f"that of the run, {ours}"
                    raise InputError(f"{word}.recipe.{field} = {told}: must be {rule}: all are trained in one step")
            if peer.data_stream != self.data_stream:
                raise InputError(
                    f"{word}.data_seed = {peer.data_seed}: must be left out: it sees the images of the run"
                )
            if peer.stream_seed in seen:
                raise InputError(f"{word}.seed = {peer.seed}: must be another than {seen[peer.stream_seed]}")
            seen[peer.stream_seed] = f"that of {word}"

    @property
    def parents(self) -> tuple[Run, ...]:
        """The runs whose weights it needs: that which it starts from, and its teacher."""
        return tuple(run for run in (self.started_from, self.teacher) if run is not None)

    def identity(self) -> dict[str, Any]:
        """The JSON that is hashed: every setting that can change numbers and is not at its default. Not to be changed:
        it is computed once."""
        return self._identity

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        values = from_parts({name: described_part(name, getattr(self, name)) for name in PARTS})
        values["seed"] = self.seed
        for name in LINEAGE:
            if (parent := getattr(self, name)) is not None:
                values[name] = parent.identity()
        for number, (word, peer) in enumerate(zip(PEERS, self.peers, strict=False), 1):
            usual = {"seed": peer_seed(self.seed, number), "data_seed": self.order_seed}  # they follow from this run's
            its = peer.identity()
            values[word] = {key: value for key, value in its.items() if usual.get(key, ...) != value}
        if self.data_seed not in (None, self.seed):
            values["data_seed"] = self.data_seed
        if self.peer_views != "same":
            values["peer_views"] = self.peer_views
        if self.teacher_mode != "eval":
            values["teacher_mode"] = self.teacher_mode
        if self.generation and self.streams != "shared":
            values["streams"] = self.streams
        if ENGINE_VERSION != 1:
            values["engine"] = ENGINE_VERSION
        return values

    def reseeded(self, seed: int) -> Run:
        """The run under another seed, as are its peers, its teacher, and so on. The same one each time.
        (Where nothing is trained the seed changes nothing, and stays.)"""
        if seed not in self._reseeded:
            self._reseeded[seed] = self._under(seed)
        return self._reseeded[seed]

    @functools.cached_property
    def _reseeded(self) -> dict[int, Run]:
        return {}

    def _under(self, seed: int) -> Run:
        seed_here = seed if self.recipe.trains else self.seed
        parents: dict[str, Any] = {
            name: run.reseeded(seed) for name in LINEAGE if (run := getattr(self, name)) is not None
        }
        if seed_here == self.seed and all(getattr(self, name) is run for name, run in parents.items()):
            return self
        order = seed_here if self.data_seed is None else self.data_seed
        peers = tuple(
            replace(peer, seed=peer_seed(seed_here, number), data_seed=order)
            for number, peer in enumerate(self.peers, 1)
        )
        other = replace(self, seed=seed_here, peers=peers, **parents)
        if peers or self.data_seed is not None:
            return other
        identity = {**self.identity(), "seed": seed_here, **{name: run.identity() for name, run in parents.items()}}
        vars(other)["_identity"] = identity  # nothing else differs: plans have thousands of such runs
        return other

    def settled(self, method: Method) -> Run:
        """The run as it is trained, with its method's settings as they were found (`Method.settle`). Its identity is
        that of the run as it was asked for."""
        other = replace(self, method=Named(self.method.name, method))
        vars(other)["_identity"] = self.identity()
        return other

    @staticmethod
    def of(identity: Mapping[str, Any]) -> Run:
        """The run of an `identity`, which config.json holds. `InputError` where the code that is here makes another run
        of it: it was trained by another version, or by a plug-in that is not loaded."""
        kept = without_code(identity)
        parents: dict[str, Any] = {name: Run.of(identity[name]) for name in LINEAGE if name in identity}
        run = Run(
            **{name: part_of(name, described) for name, described in parts_of(kept).items()},
            seed=kept["seed"],
            teacher_mode=kept.get("teacher_mode", "eval"),
            streams=kept.get("streams", "shared"),
            data_seed=kept.get("data_seed"),
            peers=tuple(Run.of(its) for its in peers_of(identity).values()),
            peer_views=kept.get("peer_views", "same"),
            **parents,
        )
        if run.identity() != identity:
            raise InputError(f"{run}: was trained by other code: {id_of(identity)} is not {run.id}")
        return run

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting that can change its numbers, with its value, under the name that `lskd-run` knows it by:
        dataset.name, recipe.lr, target.alpha, teacher.arch.name, ... Of a chain of generations these are the settings
        of the first, and how many there are: generations."""
        first, place = self.chain
        if place > 1:
            return {**first.settings, "generations": place}
        values: dict[str, Any] = {}
        for name in PARTS:
            values |= settings_of_part(name, getattr(self, name))
        values |= {"seed": self.seed, "data_seed": self.data_seed}
        values |= {"teacher_mode": self.teacher_mode, "streams": self.streams}
        if self.peers:
            values["peer_views"] = self.peer_views
        for name, other in self.others.items():
            values |= {f"{name}.{key}": value for key, value in other.settings.items()}
        return values

    @property
    def others(self) -> dict[str, Run]:
        """The runs that are parts of this one, by the words for them: what it starts from, its teacher, its peers."""
        lineage = {name: run for name in LINEAGE if (run := getattr(self, name)) is not None}
        return {**lineage, **dict(zip(PEERS, self.peers, strict=False))}

    @property
    def code(self) -> dict[str, Any]:
        """The versions of the code that trains it, and digests of what is not the package's own, for its record."""
        parts: dict[str, type] = {name: type(getattr(self, name).settings) for name in REGISTERED}
        for word, peer in zip(PEERS, self.peers, strict=False):
            parts |= {f"{word}.{name}": type(getattr(peer, name).settings) for name in ("arch", "target")}
        parts |= {step.name: type(step) for step in self.dataset.steps}
        return {
            "engine": ENGINE_VERSION,
            **{name: {"version": 1, **entries.code(kind)} for name, kind in parts.items()},
        }

    @property
    def reads(self) -> Collection[str]:
        """What its targets depend on beside the label (`Target.reads`)."""
        return self.target.settings.reads

    @property
    def watched(self) -> Collection[str]:
        """What it logs in each epoch beside top-1 and the terms of the loss."""
        return self.watched_of(OWN)

    def watched_of(self, network: str) -> Collection[str]:
        """The same of one of its networks: of a peer, whose target is its own."""
        taught = self.others.get(network, self)
        return [*self.method.settings.watched, *taught.target.settings.watched]

    @functools.cached_property
    def successor(self) -> Run:
        """The next of a chain of generations (born-again networks): this training once more, taught by this run."""
        other = replace(self, teacher=self)
        vars(other)["_identity"] = {**self.identity(), "teacher": self.identity()}  # nothing else differs
        return other

    @functools.cached_property
    def chain(self) -> tuple[Run, int]:
        """The first run of the chain of generations that it belongs to, which differ in their teachers alone, and its
        place there, from 1: it is as many times the `successor` of the first, less one."""
        if self.teacher is None or self.teacher.teacher is None:  # quick, and no identity is needed
            return self, 1
        _, place = first_of_chain(self.identity())
        first: Run = self
        for _ in range(place - 1):
            assert first.teacher is not None  # the identity says so
            first = first.teacher
        return first, place

    @functools.cached_property
    def generation(self) -> int:
        """The length of its longest line of `parents`: 0 without any, 1 for the student of such a run, and so on."""
        return max((1 + parent.generation for parent in self.parents), default=0)

    @property
    def logits_by_view(self) -> bool:
        """Whether its teacher is asked for logits alone, which are a function of the view of an image: then they need
        be computed only once for each."""
        asked = self.teacher is not None and self.method.settings.teacher_use == "logits"
        return asked and self.teacher_mode == "eval" and not self.recipe.augment.mix.any

    def peer(self, number: int = 1, **others: Any) -> Run:
        """The run that its peer `number` is, counted from 1, of its own kind but for the fields that are given. With
        `one` a run with method=ce, `replace(one, method=…, peers=(one.peer(1), one.peer(2, arch=…)))` has two."""
        alone: dict[str, Any] = {"method": Named("ce", METHODS["ce"]), "teacher": None, "teacher_mode": "eval"}
        seeds = {"seed": peer_seed(self.seed, number), "data_seed": self.order_seed}
        return replace(self, **{**alone, **seeds, "peers": (), "peer_views": "same", **others})

    @property
    def stream_seed(self) -> str:
        """What its random streams are named after (`lskd.engine.seeds`), but for those of `data_stream`: the seed, and
        with streams=own the generation, if it is not 0: "3", "3/1"."""
        return self._stream(self.seed)

    @property
    def data_stream(self) -> str:
        """The same of the streams for the order, the views and the mixtures of images."""
        return self._stream(self.order_seed)

    @property
    def order_seed(self) -> int:
        """`data_seed`, or the seed."""
        return self.seed if self.data_seed is None else self.data_seed

    def _stream(self, seed: int) -> str:
        own = self.streams == "own" and self.generation
        return f"{seed}/{self.generation}" if own else str(seed)

    @functools.cached_property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the identity as canonical JSON."""
        return id_of(self.identity())

    @functools.cached_property
    def cost_key(self) -> str:
        """The same for runs whose steps cost the same: see `cost_key`."""
        return cost_key(self.identity())

    @property
    def network(self) -> str:
        """The network's name, with the settings that differ from the named one's: mlp(hidden=256-256)."""
        return in_words(self.arch, ARCHS)

    @property
    def taught(self) -> str:
        """What it is taught, in words: α=0.1; "" for hard labels."""
        own = self.target.settings.label
        return in_words(self.target, TARGETS) if own is None else own

    @property
    def label(self) -> str:
        """The run in words, without its seed."""
        return str(self).rpartition(", seed ")[0]

    def __str__(self) -> str:
        first, place = self.chain
        if place > 1:
            return f"{first.label}, generation {place}, seed {self.seed}"
        text = f"{self.network} on {self.dataset}"
        if self.started_from is not None:
            text += f", started from {self.started_from.network} on {self.started_from.dataset}"
        if self.start.digest:
            weights = f"weights {self.start.short}"
            text += f", started from {weights}" if self.recipe.trains else f", {weights} as they are"
        elif not self.recipe.trains:
            text += ", as it is"
        if self.taught:
            text += f", {self.taught}"
        if self.teacher is not None:
            text += f", {self.method.name}"
            if (temperature := getattr(self.method.settings, "temperature", None)) is not None:
                text += " T solved for" if "temperature" in self.method.settings.to_solve else f" T={temperature:g}"
            text += f" from {self.teacher.network}"
            own = [self.teacher.start.short] if self.teacher.start.digest else []
            own += [self.teacher.taught] if self.teacher.taught else []
            own += [f"generation {place}"] if (place := self.teacher.chain[1]) > 1 else []
            if self.teacher.dataset.steps != self.dataset.steps:
                own.append(f"on {self.teacher.dataset}")
            text += f" ({', '.join(own)})" if own else ""
        if self.peers:
            with_whom = Counter(peer.network + (f" ({peer.taught})" if peer.taught else "") for peer in self.peers)
            several = [name if count == 1 else f"{count} × {name}" for name, count in with_whom.items()]
            text += f", {self.method.name} with {' and '.join(several)}"
        if self.recipe.precision != "fp32":
            text += f", {self.recipe.precision}"
        if self.recipe.compile:
            text += ", compiled"
        return f"{text}, seed {self.seed}"


@dataclass(frozen=True)
class ProbeSpec(Named[Probe]):
    """What is to be looked at in a run, besides its metrics. It changes nothing of the run, nor its identity."""

    def identity(self) -> dict[str, Any]:
        """The settings that are not at their defaults, under the probe's name, and its code."""
        return self.described(PROBES)

    @functools.cached_property
    def key(self) -> str:
        """The name, and 6 hexadecimal digits of the SHA-256 of the identity as canonical JSON."""
        return f"{self.name}-{_digest(self.identity())[:6]}"


# The parts of a run that have settings of their own: those that are entries of a registry, and those that are not.
REGISTERED: dict[str, Registry[Any]] = {"arch": ARCHS, "method": METHODS, "target": TARGETS}
PLAIN: dict[str, type] = {"dataset": Dataset, "recipe": Recipe, "start": Start}
PARTS = ("dataset", "arch", "method", "recipe", "target", "start")
LINEAGE = ("started_from", "teacher")  # what of a run is another run, trained before it

# What of a recipe is a matter of the step and the loop, and so the same for all networks of a run.
SHARED = (
    "batch_size", "epochs", "steps", "augment", "normalize", "precision", "compile", "accumulate", "batch_norm_group",
    "evaluate_every",
)  # fmt: skip
SEEDS = 2**31


def check_seed(name: str, seed: int) -> None:
    require(0 <= seed < SEEDS, name, seed, "in [0, 2^31)")


def peer_seed(seed: int, number: int) -> int:
    """That of peer `number`, counted from 1, of a run with `seed`, unless it is given one."""
    return (seed + 1_000_003 * number) % SEEDS


def peers_of(identity: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The whole identity of each peer of a run, by the words for them: that of the run leaves out what follows from its
    own."""
    found = {}
    for number, word in enumerate(PEERS, 1):
        if word in identity:
            seeds = {
                "seed": peer_seed(identity["seed"], number),
                "data_seed": identity.get("data_seed", identity["seed"]),
            }
            found[word] = whole = {**seeds, **identity[word]}
            if whole["data_seed"] == whole["seed"]:
                del whole["data_seed"]
    return found


def described_part(name: str, part: Any) -> dict[str, Any]:
    """What the identity of a run says of its part `name`."""
    return part.described(REGISTERED[name]) if name in REGISTERED else identity(part)


def part_of(name: str, described: Mapping[str, Any]) -> Any:
    """The reverse of `described_part`, but for the code."""
    return Named.of(described, REGISTERED[name], name) if name in REGISTERED else parse(PLAIN[name], described, name)


def from_parts(described: Mapping[str, Any]) -> dict[str, Any]:
    """What an identity says of the parts of a run, each as `described_part` has it. Of the usual target it has only the
    settings, as `smoothing`, which is how it was called before there were others."""
    values = dict(described)
    if values["target"]["name"] == USUAL_TARGET:
        values["smoothing"] = {key: value for key, value in values.pop("target").items() if key != "name"}
    return {key: value for key, value in values.items() if value or key not in ("smoothing", "start")}


def parts_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `from_parts`: by the names of `PARTS`."""
    usual = {"target": {"name": USUAL_TARGET, **identity.get("smoothing", {})}}
    return {name: identity.get(name, usual.get(name, {})) for name in PARTS}


def settings_of_part(name: str, part: Any) -> dict[str, Any]:
    """Every setting of a part that counts, with its value, under dotted names: recipe.schedule.kind, arch.name."""
    values = {"name": part.name, **flat(part.settings)} if name in REGISTERED else flat(part)
    return {f"{name}.{key}": value for key, value in values.items()}


def in_words(part: Named[Any], registry: Registry[Any]) -> str:
    """The name of an entry of a registry, with the settings that differ from the registered one's."""
    own = identity(part.settings, registry[part.name])
    values = {key: "-".join(map(str, value)) if isinstance(value, list) else value for key, value in own.items()}
    return part.name + (f"({', '.join(f'{key}={value}' for key, value in values.items())})" if own else "")


def first_of_chain(identity: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """Of the run of an `identity` that of the first of its chain of generations, which differ in their teachers alone,
    and its place there, from 1."""
    place = 1
    while (its := identity.get("teacher")) is not None and "teacher" in its:
        if {**identity, "teacher": None} != {**its, "teacher": None}:
            break
        identity, place = its, place + 1
    return identity, place


def grouped(
    runs: Iterable[Run], described: Callable[[Run], Iterable[str]]
) -> Iterator[tuple[str, list[str], list[Run]]]:
    """Runs that are `described` alike together: their label, what they alone have of those of that label, and they."""
    groups: dict[str, dict[frozenset[str], list[Run]]] = {}
    for run in runs:
        groups.setdefault(run.label, {}).setdefault(frozenset(described(run)), []).append(run)
    for label, by_settings in groups.items():
        common = frozenset.intersection(*by_settings)
        for settings, group in by_settings.items():
            yield label, sorted(settings - common), group


def without_code(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a run, whatever code computes it: the same for two that differ in nothing else."""
    kept = {key: value for key, value in identity.items() if key != "engine"}
    for part in ("dataset", *REGISTERED, "smoothing"):
        if isinstance(of_part := kept.get(part), Mapping):
            kept[part] = part_without_code(of_part)
    for name in (*LINEAGE, *PEERS):
        if isinstance(other := kept.get(name), Mapping):
            kept[name] = without_code(other)
    return kept


def part_without_code(described: Mapping[str, Any]) -> dict[str, Any]:
    """The same of what an identity says of one part; of a data set, of its steps."""
    kept = {key: value for key, value in described.items() if key not in ("version", "code")}
    if isinstance(steps := kept.get("steps"), list):  # a recipe has a number of that name
        kept["steps"] = [{name: part_without_code(settings) for name, settings in step.items()} for step in steps]
    return kept


# Of a recipe, what changes neither the time nor the memory of a step: numbers that it reads, and how many there are.
_FREE = ("lr", "schedule", "loss_scale", "epochs", "steps", "evaluate_every")


def cost_key(identity: Mapping[str, Any]) -> str:
    """The same for runs, given by their identities, whose steps take the same time and the same memory.

    All settings count but those that only change numbers: the seed, label smoothing, temperatures, `_FREE`, the
    versions of code, and what the teacher has learned from (of a teacher count its network and how it is fed).
    """
    identity = without_code(identity)
    counted = ("dataset", "arch", "target", "teacher_mode", "peer_views")
    kind: dict[str, Any] = {key: identity[key] for key in counted if key in identity}
    kind["method"] = {key: value for key, value in identity["method"].items() if not key.endswith("temperature")}
    kind["recipe"] = {key: value for key, value in identity["recipe"].items() if key not in _FREE}
    if identity["recipe"].get("epochs") == 0:
        kind["trains"] = False
    if teacher := identity.get("teacher"):
        fed = {key: teacher["recipe"].get(key) for key in ("augment", "normalize", "precision")}
        kind["teacher"] = {"arch": teacher["arch"], "recipe": fed}
    for word in PEERS:
        if peer := identity.get(word):
            own = {key: value for key, value in peer["recipe"].items() if key not in _FREE}
            kind[word] = {**{key: peer[key] for key in ("arch", "target") if key in peer}, "recipe": own}
    return json.dumps(kind, sort_keys=True)


def id_of(identity: Mapping[str, Any]) -> str:
    """The id of the run of an `identity`."""
    return _digest(identity)[:12]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def logit_cache_bytes(images: int, views: int, classes: int) -> int:
    """Memory of a teacher's logits for every view of every image: fp32, and a flag for each view."""
    return images * views * (4 * classes + 1)
