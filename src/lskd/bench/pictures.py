"""Images decoded a second by each core, beside the loader of public code: `lskd-bench images`."""

from __future__ import annotations

import argparse
import io
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lskd.bench.cli import describe, say, versions, whole, write
from lskd.errors import require
from lskd.program import VERSION, user_path

if TYPE_CHECKING:
    import numpy as np

# Images/s that one GPU trains ResNet-50 on, mixed precision (NVIDIA DeepLearningExamples, PyTorch, resnet50v1.5).
NEEDS = {"V100": 1200, "A100": 2470}
CROP = 224
GROUP = 100  # rows of a row group of parquet, as the hub's image data sets have
BATCH = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_EPILOG = """\
examples:
  lskd-bench images                            a minute
  lskd-bench images --threads 16 --need 8000   an own GPU's need, in images/s

The images are noise with the spectrum of photographs (amplitude 1/f, channels alike), as JPEG. Each is decoded, a
random part of it is cropped, resized to 224 x 224 and flipped. "usual" is torchvision's ImageFolder, transforms and
DataLoader with worker processes, up to a normalised batch in fp32; with "v2" it decodes by torchvision.io.decode_jpeg
and resizes tensors, whose pixels are not quite those of Pillow. Of each way the windows take turns. CPU ms is the
processor time of an image in all threads and processes: on a machine with other work it says more than images/s.
"""


@dataclass
class Way:
    """One way to get images to a training, and what the clock said of each window."""

    name: str
    work: Callable[[int], None]  # so many images
    cores: int
    cpu_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        best = min(self.cpu_ms)
        return {
            "way": self.name,
            "cores": self.cores,
            "cpu_ms": {"best": best, "max": max(self.cpu_ms)},
            "images_per_core_second": 1e3 / best,
            "images_per_second": {"best": max(self.rates), "min": min(self.rates)},
        }


def main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    require(args.seconds > 0, "--seconds", args.seconds, "> 0")
    for name in ("repeats", "images"):
        require(getattr(args, name) >= 1, f"--{name}", getattr(args, name), ">= 1")
    require(0 <= args.quality <= 100, "--quality", args.quality, "in [0, 100]")
    require(args.threads >= 0, "--threads", args.threads, ">= 0")
    width, cross, height = args.size.partition("x")
    require(bool(cross), "--size", args.size, "as 500x375")
    size = whole("--size", width), whole("--size", height)
    require(args.need is None or args.need > 0, "--need", args.need, "> 0")

    import torch

    from lskd.environment import available_cores

    torch.set_num_threads(1)
    cores = args.threads or available_cores()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in photographs(args.images, size, args.quality):
            (root / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "files" / name).write_bytes(content)
        bytes_a_file = sum(path.stat().st_size for path in root.rglob("*.JPEG")) // args.images
        into_shards(root)
        say(
            f"{args.images} images of {args.size}, {bytes_a_file / 1e3:.0f} kB each; {args.repeats} windows of each way"
        )
        ways = [Way(*one) for one in ways_of(root, cores)]
        for way in ways:
            way.work(2 * BATCH)
        counts = {way.name: _count(way, args.seconds) for way in ways}
        for _ in range(args.repeats):
            for way in ways:
                measure(way, counts[way.name])
                say(f"{way.name}: {way.rates[-1]:,.0f} images/s, {way.cpu_ms[-1]:.2f} CPU ms an image")
    needs = NEEDS if args.need is None else {"this GPU": args.need}
    report = {
        "machine": describe(torch.device("cpu")),
        "versions": versions() | pillow(),
        "arguments": {name: value for name, value in vars(args).items() if name != "json"},
        "bytes_an_image": bytes_a_file,
        "python_ms": python_ms(),
        "needs": needs,
        "ways": [way.record() for way in ways],
    }
    write(report, args.json)
    print(text(report))
    return 0


def measure(way: Way, count: int) -> None:
    cpu, began = cpu_seconds(), time.perf_counter()
    way.work(count)
    way.rates.append(count / (time.perf_counter() - began))
    way.cpu_ms.append(1e3 * (cpu_seconds() - cpu) / count)


def _count(way: Way, seconds: float) -> int:
    """The images of a window: whole batches."""
    began = time.perf_counter()
    way.work(2 * BATCH)
    return BATCH * max(2, round(2 * seconds / (time.perf_counter() - began)))


def cpu_seconds() -> float:
    """Of this process, and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


# ---- images -------------------------------------------------------------------------------------------------------


def photographs(count: int, size: tuple[int, int], quality: int) -> Iterator[tuple[str, bytes]]:
    """Names below a folder, and JPEGs: noise whose amplitude falls as 1/f, most of it the same in all channels."""
    import numpy as np
    from PIL import Image

    rng = np.random.RandomState(0)
    for number in range(count):
        grey, *colours = (natural_noise(rng, *size) for _ in range(4))
        pixels = 118 + 55 * np.stack([0.9 * grey + 0.35 * colour for colour in colours], axis=-1)
        content = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=quality)
        yield f"train/{number % 2}/{number:05d}.JPEG", content.getvalue()


def natural_noise(rng: np.random.RandomState, width: int, height: int) -> np.ndarray:
    """(height, width), of mean 0 and deviation 1."""
    import numpy as np

    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = rng.standard_normal((2, *frequency.shape)) / frequency
    noise = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], (height, width))
    return np.asarray(noise / noise.std())


def into_shards(root: Path) -> None:
    """The same images as tar and parquet, beside the folder `files`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted((root / "files").rglob("*.JPEG"))
    labels = [int(path.parent.name) for path in paths]
    for kind in ("tar", "parquet"):
        (root / kind).mkdir()
    with tarfile.open(root / "tar" / "train-0000.tar", "w", encoding="utf-8") as archive:
        for path, label in zip(paths, labels, strict=True):
            for suffix, content in (("jpg", path.read_bytes()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{path.stem}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    table = pa.table({"image": images, "label": labels})
    pq.write_table(table, root / "parquet" / "train-00000-of-00001.parquet", row_group_size=GROUP)


# ---- ways ---------------------------------------------------------------------------------------------------------


def ways_of(root: Path, cores: int) -> Iterator[tuple[str, Callable[[int], None], int]]:
    """Name, work and cores of each."""
    import numpy as np

    from lskd.data import Dataset
    from lskd.data.index import Files, make_of_shards

    names = sorted(path.relative_to(root / "files").as_posix() for path in (root / "files").rglob("*.JPEG"))
    files = Files(root / "files", np.array(names, dtype=object))
    for threads in sorted({1, cores}):
        yield f"lskd, files, {counted(threads, 'thread')}", _streamed(files, threads), threads
    for kind in ("tar", "parquet"):
        index = make_of_shards(root / kind, split=(0.5, 0))
        assert index is not None
        work = _streamed(index.labelled(Dataset(kind), root)["train"][0], cores)
        yield f"lskd, {kind}, {counted(cores, 'thread')}", work if kind == "tar" else _of_many_groups(work), cores
    yield f"usual, {counted(cores, 'worker')}", _usual(root / "files" / "train", cores, tensors=False), cores
    yield f"usual, v2, {counted(cores, 'worker')}", _usual(root / "files" / "train", cores, tensors=True), cores


def counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number > 1 else "")


def _streamed(files: Any, threads: int) -> Callable[[int], None]:
    """The path of a training: random images, each through a view of its own, into the memory of a batch."""
    import torch

    from lskd.data.augment import Augment, ResizedCrop
    from lskd.data.images import SEEDS
    from lskd.data.stream import Streamed

    augment = Augment(crop=CROP, flip=True, resized=ResizedCrop())
    source = Streamed(files, augment, torch.device("cpu"), ThreadPoolExecutor(threads))

    def work(count: int) -> None:
        for _ in source.batches(torch.randint(len(files), (count,)), torch.randint(SEEDS, (count,)), BATCH):
            pass

    return work


def _of_many_groups(work: Callable[[int], None]) -> Callable[[int], None]:
    """As of data with far more row groups than are kept: a random image is in none of them."""
    from lskd.data import places

    def alone(count: int) -> None:
        kept, places.GROUPS = places.GROUPS, 0
        try:
            work(count)
        finally:
            places.GROUPS = kept

    return alone


def _usual(folder: Path, workers: int, *, tensors: bool) -> Callable[[int], None]:
    """Public code's: RandomResizedCrop, flip, normalise; of Pillow's images or, by v2, of tensors that are decoded."""
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    transform: Any
    if tensors:
        steps = [v2.RandomResizedCrop(CROP, antialias=True), v2.RandomHorizontalFlip()]
        transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
        dataset = ImageFolder(
            str(folder), transform, loader=lambda path: decode_jpeg(read_file(path), ImageReadMode.RGB)
        )
    else:
        old = [transforms.RandomResizedCrop(CROP), transforms.RandomHorizontalFlip()]
        transform = transforms.Compose([*old, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        dataset = ImageFolder(str(folder), transform)

    def work(count: int) -> None:
        sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=count)
        loader: Any = torch.utils.data.DataLoader(
            dataset, BATCH, sampler=sampler, num_workers=workers, multiprocessing_context="fork" if workers else None
        )
        for _ in loader:
            pass

    return work


def python_ms() -> float:
    """What an image costs in Python, whose lock one thread holds at a time: that of an image of a few pixels."""
    import numpy as np
    import torch
    from PIL import Image

    from lskd.data.augment import Augment, ResizedCrop
    from lskd.data.index import Files
    from lskd.data.stream import Streamed

    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (8, 8)).save(Path(folder) / "0.JPEG")
        files = Files(Path(folder), np.array(["0.JPEG"], dtype=object))
        source = Streamed(
            files, Augment(crop=8, flip=True, resized=ResizedCrop()), torch.device("cpu"), ThreadPoolExecutor(1)
        )
        best = float("inf")
        for _ in range(3):
            cpu = time.process_time()
            for _ in source.batches(torch.zeros(1000, dtype=torch.int64), torch.arange(1000), BATCH):
                pass
            best = min(best, time.process_time() - cpu)
    return best


def pillow() -> dict[str, Any]:
    import PIL
    from PIL import features

    turbo = features.version("libjpeg_turbo")
    return {"pillow": PIL.__version__, "libjpeg": f"libjpeg-turbo {turbo}" if turbo else "not libjpeg-turbo"}


# ---- what is shown ------------------------------------------------------------------------------------------------


def text(report: dict[str, Any]) -> str:
    from tabulate import tabulate

    needs, rows = report["needs"], []
    for way in report["ways"]:
        rate, cpu = way["images_per_second"], way["cpu_ms"]
        rows.append(
            {
                "way": way["way"],
                "CPU ms an image": f"{cpu['best']:.2f} [{cpu['max']:.2f}]",
                "images/s a core": f"{way['images_per_core_second']:,.0f}",
                "images/s": f"{rate['best']:,.0f} [{rate['min']:,.0f}]",
                **{f"of {gpu}'s need": f"{rate['best'] / need:.0%}" for gpu, need in needs.items()},
                **{f"cores for {gpu}": f"{need / way['images_per_core_second']:.1f}" for gpu, need in needs.items()},
            }
        )
    python = report["python_ms"]
    machine, its = report["machine"], report["versions"]
    of_what = " of ResNet-50 in mixed precision" if needs == NEEDS else ""
    lines = [
        f"best [worst] of {report['arguments']['repeats']} windows; {report['bytes_an_image'] / 1e3:.0f} kB an image",
        f"Python's part of lskd's: {python:.2f} ms an image, so at most {1e3 / python:,.0f} images/s of one process",
        "; ".join(f"{gpu}: {need:,} images/s" for gpu, need in needs.items()) + of_what,
        f"{machine['cpu']}, {machine['cores']} cores; Pillow {its['pillow']} with {its['libjpeg']}, "
        f"torchvision {its['torchvision']}",
    ]
    columns: dict[str, list[str]] = {name: [row[name] for row in rows] for name in rows[0]}
    return tabulate(columns, headers="keys", stralign="right", disable_numparse=True) + "\n\n" + "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lskd-bench images",
        description="Images a second that this machine decodes and crops for a training, a core, beside public code.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="or worker processes (default: the cores)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="of a window, about (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="windows of each way (default: 5)")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="files that are made (default: 200)")
    parser.add_argument("--size", default="500x375", metavar="WxH", help="of them (default: 500x375)")
    parser.add_argument("--quality", type=int, default=88, metavar="Q", help="of JPEG (default: 88)")
    parser.add_argument("--need", type=int, metavar="N", help="images/s of your GPU (default: a V100's and an A100's)")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="all numbers")
    parser.add_argument("--version", action="version", version=VERSION)
    return parser
