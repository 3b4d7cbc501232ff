"""Where the images of a streamed data set are that are no files of their own: in shards, tar or parquet."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lskd.data.sources import in_one_line
from lskd.errors import InputError

BUFFER = 1 << 20  # bytes of parquet that are read at once
GROUPS = 16  # row groups of parquet that are kept decoded: whoever reads in order decodes each once


class Places(NamedTuple):
    """N images in shards. In a tar an image is `length` bytes from `offset` on; in parquet it is row `row` of the row
    group `offset`, which is read as a whole: it is compressed as one."""

    shards: tuple[str, ...]  # paths below the part's folder
    sizes: np.ndarray  # (shards,) int64, bytes
    shard: np.ndarray  # (N,) int64
    offset: np.ndarray  # (N,) int64
    length: np.ndarray  # (N,) int64
    row: np.ndarray  # (N,) int64; -1 in a tar
    column: str = ""  # of parquet, with the images' bytes

    def pick(self, rows: np.ndarray) -> Places:
        return self._replace(**{name: getattr(self, name)[rows] for name in ("shard", "offset", "length", "row")})

    def path(self, folder: Path, row: int) -> str:
        return os.path.join(folder, self.shards[self.shard[row]])

    def read(self, folder: Path, row: int) -> bytes:
        """The bytes of an image file. `InputError` if the shard has become shorter, or cannot be read."""
        path, offset, length = self.path(folder, row), int(self.offset[row]), int(self.length[row])
        if self.row[row] >= 0:
            content = _GROUPS.image(path, self.column, offset, int(self.row[row]))
        else:
            try:
                with open(path, "rb", buffering=0) as file:
                    content = os.pread(file.fileno(), length, offset)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        if len(content) != length:
            raise InputError(f"{path}: damaged: an image of {length} bytes has {len(content)} there")
        return content

    def now(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Of each image the bytes as they are now (-1: its shard is gone, -2: of another size), and when its shard was
        written (ns)."""
        states, times = np.full(len(self.shards), -1), np.zeros(len(self.shards), dtype=np.int64)
        for number, name in enumerate(self.shards):
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError:
                continue
            states[number], times[number] = 0 if status.st_size == self.sizes[number] else -2, status.st_mtime_ns
        states = states[self.shard]
        return np.where(states < 0, states, self.length), times[self.shard]


class _Group:
    """A row group of parquet, decoded by the first who asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images: Any = None

    def image(self, path: str, column: str, group: int, row: int) -> bytes:
        with self._lock:
            if self._images is None:
                self._images = read_group(path, column, group)
        return self._images[row].as_py() or b"" if row < len(self._images) else b""


class _Groups:
    """The row groups that were read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[object, ...], _Group] = OrderedDict()

    def image(self, path: str, column: str, group: int, row: int) -> bytes:
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        key = path, group, status.st_size, status.st_mtime_ns, status.st_ino  # a shard may be written anew
        with self._lock:
            found = self._groups.setdefault(key, _Group())
            self._groups.move_to_end(key)
            while len(self._groups) > GROUPS:
                self._groups.popitem(last=False)
        return found.image(path, column, group, row)


_GROUPS = _Groups()


def read_group(path: str, column: str, group: int) -> Any:
    """The images of a row group of parquet, an array of bytes. `InputError` if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:  # two thirds of the usual time
            return bytes_of(file.read_row_group(group, columns=[column], use_threads=False).column(0))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged or not a parquet file ({in_one_line(error)})") from error


def bytes_of(images: Any) -> Any:
    """Of a parquet file's images, bytes or structs with them, the bytes: one array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    images = images.combine_chunks()
    return pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images
