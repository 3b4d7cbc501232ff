"""The YAML files of conf/: groups (dataset, arch, method, target, recipe, table, experiment) and their choices."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lskd import data
from lskd.data import Dataset, Spec
from lskd.errors import InputError, unknown
from lskd.methods import METHODS
from lskd.models import ARCHS
from lskd.program import shipped_conf
from lskd.registry import Registry
from lskd.schema import identity
from lskd.targets import TARGETS

# Groups whose choices need no file: what is registered has a name and its defaults.
REGISTRIES: dict[str, Registry[Any]] = {"dataset": data.DATASETS, "arch": ARCHS, "method": METHODS, "target": TARGETS}


@dataclass
class Conf:
    """The choices of each group, by name: the YAML files of conf/, with users' own directories searched first, and what
    needs no file, which is registered or imported."""

    directories: tuple[Path, ...] = field(default_factory=lambda: (shipped_conf(),))
    cache: Path = field(default_factory=data.default_cache_root)
    specs: Mapping[str, Spec] = field(default_factory=dict)  # of imported data sets that the cache need not have
    find_run: Callable[[str], Any] | None = None  # the finished run of an id, which start=run:ID names
    _loaded: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict, repr=False)

    def names(self, group: str) -> list[str]:
        """What `group`=NAME may be: the YAML files, what is registered, and imported data sets."""
        found = {path.stem for directory in self.directories for path in (directory / group).glob("*.yaml")}
        return sorted({*found, *REGISTRIES.get(group, {}), *(self._imported() if group == "dataset" else ())})

    def spec(self, name: str) -> Spec:
        """What a data set is, whether its images are here or not; see `data.spec`."""
        try:
            return data.spec(name, self.cache)
        except InputError:
            if name in self.specs:
                return self.specs[name]
            raise

    def run(self, id: str, where: str) -> Any:
        """The finished run (`lskd.Run`) whose id begins so; `where` is what names it."""
        try:
            if self.find_run is None:
                raise InputError("there are no results here")
            return self.find_run(id)
        except InputError as error:
            raise InputError(f"{where} = 'run:{id}': {error}") from None

    def spec_of(self, dataset: Dataset) -> Spec:
        """What the runs on `dataset` have of it: `data.described`, the one place that says how many classes and images
        there are for them."""
        return data.described(dataset, data.with_class_sizes(self.spec(dataset.name), dataset, self.cache))

    def _imported(self) -> dict[str, Spec]:
        return {**self.specs, **data.imported(self.cache)}

    def load(self, group: str, name: str) -> dict[str, Any]:
        """What a choice says: the content of conf/`group`/`name`.yaml, where `defaults: [other]` starts from other
        choices of the group, or the name of what is registered."""
        if (group, name) not in self._loaded:
            self._loaded[group, name] = self._read(group, name)
        return copy.deepcopy(self._loaded[group, name])

    def origins(self, group: str, name: str) -> dict[str, Any]:
        """Which file each value of `load` stands in, in the same places: conf/recipe/crd.yaml."""
        if (path := self._file(group, name)) is None:
            return labelled(self.load(group, name), f"{group} {name}")
        found: dict[str, Any] = {}
        content = read_yaml(path)
        for parent in content.pop("defaults", []):
            if parent != "_self_":
                merge(found, self.origins(group, parent))
        shipped = path.parent.parent == shipped_conf()
        return merge(found, labelled(content, f"conf/{group}/{name}.yaml" if shipped else str(path)))

    def _file(self, group: str, name: str) -> Path | None:
        paths = (directory / group / f"{name}.yaml" for directory in self.directories)
        return None if Path(name).is_absolute() else next((path for path in paths if path.is_file()), None)

    def _read(self, group: str, name: str) -> dict[str, Any]:
        if (path := self._file(group, name)) is not None:
            content = read_yaml(path)
            merged: dict[str, Any] = {}
            for parent in content.pop("defaults", []):
                if parent != "_self_":
                    merge(merged, self.load(group, parent))
            if group == "recipe":  # a label of its own, whatever it starts from
                content.setdefault("name", name)
            elif group in ("table", "experiment"):
                merged.pop("name", None)
            return merge(merged, content)
        if name in REGISTRIES.get(group, {}):
            if group == "dataset":
                return {"name": name, "recipe": data.DATASETS[name].recipe, **_text(data.DATASETS[name].spec)}
            return {"name": name}
        if group == "dataset" and name in (own := self._imported()):
            return {"name": name, "digest": own[name].digest, "recipe": own[name].usual_recipe, **_text(own[name])}
        raise no_such_file(group, name, self.directories, self.names(group))


def _text(spec: Spec) -> dict[str, Any]:
    """The usual settings of a data set of text, as a file would say them."""
    return {} if spec.text is None else {"text": identity(spec.text)}


def no_such_file(group: str, name: str, directories: Iterable[Path], names: Iterable[str]) -> InputError:
    """`InputError` for a `group`=`name` that is none of `names`."""
    for path in (directory / group / f"{name}.yml" for directory in directories):
        if path.is_file():
            return InputError(f"{path}: is not read; call it {name}.yaml")
    return unknown(group, name, names)


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a YAML file. Keys are as they are written: 1, 0.10, on and null are names like any others."""
    import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are not everywhere
    from omegaconf import OmegaConf

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        content = yaml.load(text, Loader=_yaml_loader()) or {}
        if isinstance(content, dict) and "${" in text:
            content = OmegaConf.to_container(OmegaConf.create(content), resolve=True)
    except Exception as error:  # yaml's and OmegaConf's own errors have no common base
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping")
    return content


@functools.cache
def _yaml_loader() -> Any:
    """OmegaConf's reader of YAML, which reads 1e-3 as a number and dates as text, with keys as they are written."""
    import yaml  # type: ignore[import-untyped, unused-ignore]  # stubs are not everywhere
    from omegaconf._utils import get_yaml_loader

    class Loader(get_yaml_loader()):  # type: ignore[misc]
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            written: set[str] = set()
            for i, (key, value) in enumerate(node.value):
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in written:
                        raise yaml.MarkedYAMLError(None, None, f"found duplicate key {key.value}", key.start_mark)
                    written.add(key.value)
                    text = yaml.ScalarNode("tag:yaml.org,2002:str", key.value, key.start_mark, key.end_mark)
                    node.value[i] = text, value
            return node

    return Loader


def labelled(settings: Mapping[str, Any], label: str) -> dict[str, Any]:
    """`label` in the place of each value of nested mappings."""
    return {
        key: labelled(value, label) if isinstance(value, Mapping) and value else label
        for key, value in settings.items()
    }


def merge(into: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`more` laid over `into`, mapping by mapping; a list, a value or None replaces what was there. Changes `into`."""
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)
    return into
