"""Readers that data sets are registered with (`lskd.data.register`). What is heavy they import when they read."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import socket
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lskd.data.dataset import Spec
from lskd.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from lskd.data.arrays import Arrays
    from lskd.data.index import Index

_log = logging.getLogger(__name__)

_DOWNLOAD_TIMEOUT = 20.0  # seconds without a byte; urllib's default is to wait for ever


def read_shards(spec: Spec, *, data: Path, download: bool) -> tuple[Arrays, str]:
    """Hugging Face style parquet shards in `data`/NAME."""
    if found := _shards(spec, data):
        return found
    raise _no_data(spec, data, "", "")


def _shards(spec: Spec, data: Path) -> tuple[Arrays, str] | None:
    from lskd.data.sources import find_shards, read_parquet

    shards = find_shards(data / spec.name)
    if shards is None:
        return None
    if not spec.validation:  # the hub may have one of its own making
        shards.pop("validation", None)
    return read_parquet(shards, quiet=True), f"parquet shards in {shards['train'][0].parent}"


def _no_data(spec: Spec, data: Path, files: str, failure: str) -> InputError:
    name = spec.name
    return InputError(
        f"{name}: no data: looked for {files}train-*.parquet in {data / name} and its subfolders{failure}. "
        f"Put parquet shards or torchvision's files there (LSKD_DATA or --data), or run `lskd-data prepare {name}` on "
        f"a machine with a network and copy its cache (LSKD_CACHE or --cache), or `lskd-data import` data of your own"
    )


@dataclass(frozen=True)
class Torchvision:
    """torchvision's files in `data`/NAME or `data`, else parquet shards, else torchvision's, downloaded into `data`.
    torchvision's are preferred: they need no decoding.

    kind: the class in `torchvision.datasets`; layout: the folder below its root that holds its files.
    """

    kind: str
    layout: str

    def __call__(self, spec: Spec, *, data: Path, download: bool) -> tuple[Arrays, str]:
        from lskd.data.sources import in_one_line

        roots = (data / spec.name, data)
        for root in roots:
            if (root / self.layout).is_dir():
                return self.read(spec, root), f"torchvision's files in {root / self.layout}"
        if found := _shards(spec, data):
            return found
        failure = ""
        if download:
            try:
                self.download(spec, data)
            # What urllib, tarfile and torchvision (RuntimeError: checksum, or no mirror left) raise in a failure.
            except (OSError, EOFError, RuntimeError, http.client.HTTPException, tarfile.TarError) as error:
                failure = f"; the download failed ({in_one_line(error)})"
            else:
                return self.read(spec, data), "downloaded by torchvision"
        raise _no_data(spec, data, f"torchvision's {self.layout} in {roots[0]} and in {roots[1]}, ", failure)

    def read(self, spec: Spec, root: Path) -> Arrays:
        """torchvision's files below `root`; nothing is downloaded."""
        import numpy as np
        import torchvision

        from lskd.data.arrays import Arrays
        from lskd.data.sources import in_one_line, to_nchw

        _log.info("%s: reading %s", spec.name, root / self.layout)

        def read_part(train: bool) -> tuple[np.ndarray, np.ndarray]:
            try:
                part: Any = getattr(torchvision.datasets, self.kind)(root, train=train, download=False)
            # RuntimeError: a missing file or a wrong MD5; the others: an idx file that was cut short.
            except (OSError, RuntimeError, ValueError, AssertionError) as error:
                raise InputError(
                    f"{root / self.layout}: incomplete or damaged: fetch its files again ({in_one_line(error)})"
                ) from error
            return to_nchw(np.asarray(part.data)), np.asarray(part.targets, dtype=np.int64)

        return Arrays(*read_part(train=True), *read_part(train=False), class_names=spec.class_names)

    def download(self, spec: Spec, data: Path) -> None:
        """Download torchvision's files into `data`, complete or not at all."""
        import torchvision

        from lskd.data.scratch import clear, scratch

        top = Path(self.layout).parts[0]
        _log.info("%s: downloading into %s", spec.name, data)
        clear(data)
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)  # torchvision offers no argument for it
        try:
            # torchvision prints to stdout when it tries a second address; errors are reported by our caller.
            with scratch(data, top) as temporary, contextlib.redirect_stdout(io.StringIO()):
                getattr(torchvision.datasets, self.kind)(temporary, download=True)
                try:
                    (temporary / top).rename(data / top)
                except OSError:  # another process was faster: its files are as good
                    if not (data / self.layout).is_dir():
                        raise
        finally:
            socket.setdefaulttimeout(timeout)


@dataclass(frozen=True)
class ImageFolders:
    """Images that stay in `data`/NAME/train/<folder>/ and `data`/NAME/<test>/<folder>/ and are streamed.

    folders: the names of the class folders, in the order of the labels, which is the alphabetical one.
    shard_name: a name of an image in a shard, without its suffix -> that of the file in a class folder, without it.
        Where it is given the same images may be in shards (`lskd.data.shards`), and are in the same order then.
    """

    folders: tuple[str, ...]
    test: str = "test"
    shard_name: Callable[[str], str] | None = None

    def __call__(self, spec: Spec, *, data: Path, download: bool) -> tuple[Index, str]:
        from lskd.data.index import make

        root = data / spec.name
        if (root / "train").is_dir() and class_folders_in(root / "train"):
            index, source = make(root, test_name=self.test), f"image folder {root}"
            if differing := set(index.class_names) ^ set(self.folders):
                raise InputError(
                    f"{root / 'train'}: must hold the {spec.num_classes} class folders of {spec.title}, such as "
                    f"{self.folders[0]}; differs in {sorted(differing)[0]!r}"
                )
        elif self.shard_name is not None and root.is_dir() and (found := self._of_shards(spec, root)):
            index, source = found, f"shards in {root}"
        else:
            places = " and ".join(f"{root / part}/<class>/*.JPEG" for part in ("train", self.test))
            shards = f", or {root}/*train*.tar or .parquet and *validation*" if self.shard_name else ""
            raise InputError(
                f"{spec.name}: no data: looked for {places}{shards}. Put {spec.title} there, or a link to it "
                f"(LSKD_DATA or --data names the folder that holds {spec.name}/); it cannot be downloaded without an "
                "account"
            )
        for part, count in (("train", spec.train), ("test", spec.test)):
            listing = index.parts[part]
            if len(listing.names) != count:
                what = "images" if listing.folder else f"{part} images"
                raise InputError(f"{root / listing.folder}: {len(listing.names)} {what}: {spec.title} has {count}")
        return index._replace(class_names=spec.class_names), source

    def _of_shards(self, spec: Spec, root: Path) -> Index | None:
        from lskd.data.folders import HELD_OUT
        from lskd.data.index import make_of_shards

        def file_name(name: str, label: int) -> str:
            assert self.shard_name is not None
            return f"{self.folders[label]}/{self.shard_name(Path(name).stem)}.JPEG"

        # Where "val" is what is reported, the hub's "test" has no labels.
        names = ("train", *(HELD_OUT if self.test in HELD_OUT else (self.test,)))
        return make_of_shards(root, names=names, class_names=spec.class_names, rename=file_name)


def class_folders_in(folder: Path) -> bool:
    return any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())


@dataclass(frozen=True)
class Annotated:
    """Images that stay where they are and are streamed, in `data`/NAME, named by a file of annotations for each part.

    files: that of each part, below `data`/NAME.
    read: what it is, "list" or "json" (`lskd.data.lists`).
    images: the folder that the paths in it start from, below `data`/NAME ("../imagenet": beside it); of a part, if it
        is a mapping.
    suffix: of images that are named without one.
    digests: the SHA-256 of such a file, where it is known which it ought to be; several where several have the same
        images and labels.
    """

    files: Mapping[str, str]
    read: Literal["list", "json"] = "list"
    images: str | Mapping[str, str] = ""
    suffix: str = ""
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __call__(self, spec: Spec, *, data: Path, download: bool) -> tuple[Index, str]:
        from lskd.data import lists

        root, parts = data / spec.name, {}
        check_is_there(spec, data, *self.files.values())
        for part, name in self.files.items():
            if part in self.digests:
                lists.check_digest(root / name, self.digests[part], spec.title)
            entries = {"list": lists.read_list, "json": lists.read_json}[self.read](root / name)
            if self.suffix:
                entries = [
                    one if Path(one.name).suffix else one._replace(name=one.name + self.suffix) for one in entries
                ]
            parts[part] = self.images if isinstance(self.images, str) else self.images[part], entries
        return lists.index_entries(root, parts, spec.class_names), f"{', '.join(self.files.values())} in {root}"


def check_is_there(spec: Spec, data: Path, *names: str) -> None:
    """`InputError` unless the files and folders of these names are in `data`/NAME, which `spec` is the data set of."""
    for name in names:
        if not (data / spec.name / name).exists():
            raise InputError(
                f"{spec.name}: no data: looked for {data / spec.name / name}. Put {spec.title} there, or a link to it "
                f"(LSKD_DATA or --data names the folder that holds {spec.name}/); it has to be downloaded by yourself"
            )
