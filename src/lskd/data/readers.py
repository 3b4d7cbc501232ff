"""Readers that data sets are registered with (`lskd.data.register`). What is heavy they import when they read."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import socket
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """

    folders: tuple[str, ...]
    test: str = "test"

    def __call__(self, spec: Spec, *, data: Path, download: bool) -> tuple[Index, str]:
        from lskd.data.index import make

        root = data / spec.name
        if not (root / "train").is_dir():
            places = " and ".join(f"{root / part}/<class>/*.JPEG" for part in ("train", self.test))
            raise InputError(
                f"{spec.name}: no data: looked for {places}. Put {spec.title} there, or a link to it (LSKD_DATA or "
                f"--data names the folder that holds {spec.name}/); it cannot be downloaded without an account"
            )
        index = make(root, test_name=self.test)
        if differing := set(index.class_names) ^ set(self.folders):
            raise InputError(
                f"{root / 'train'}: must hold the {spec.num_classes} class folders of {spec.title}, such as "
                f"{self.folders[0]}; differs in {sorted(differing)[0]!r}"
            )
        for part, count in (("train", spec.train), ("test", spec.test)):
            listing = index.parts[part]
            if len(listing.names) != count:
                raise InputError(f"{root / listing.folder}: {len(listing.names)} images: {spec.title} has {count}")
        return index._replace(class_names=spec.class_names), f"image folder {root}"
