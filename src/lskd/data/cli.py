"""The command `lskd-data`: get data sets into the cache, check them, bring your own."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lskd import data
from lskd.errors import InputError
from lskd.plugins import load_installed_plugins, load_plugins
from lskd.program import VERSION, fail, guarded, user_path

_EPILOG = """\
examples:
  lskd-data prepare cifar10 cifar100        decode from LSKD_DATA into the cache, or download
  lskd-data verify                          check all that is in the cache
  lskd-data import flowers ./flowers --size 64
                                            your own images: flowers/train/<class>/*.jpg, flowers/test/<class>/*.jpg,
                                            or Hugging Face style parquet: train-*.parquet, test-*.parquet
                                            (beside test/, a validation part of its own: val/, valid/, dev/)
  lskd-data import fruit ./fruit --split 0.2
                                            fruit/<class>/*.jpg: a fifth of each class is drawn as the test part
  lskd-data import birds ./birds --stream   too large for memory: the images stay in ./birds, which is indexed; or
                                            shards as they come from the hub: webdataset's *train*.tar, *test*.tar
                                            (KEY.jpg and KEY.cls or KEY.json), or parquet
  lskd-data import talks ./talks --translation en-de
                                            text, a sentence a line: talks/train.en, talks/train.de, talks/test.en,
                                            talks/test.de, and perhaps talks/val.en, talks/val.de
  lskd-data list

LSKD_DATA holds downloaded files: torchvision's (cifar-10-batches-py, MNIST/raw, ...), or a folder for each data set
with Hugging Face style parquet shards (cifar10/train-00000-of-00001.parquet, ...), or ImageNet's images as
imagenet/train/<class>/*.JPEG and imagenet/val/<class>/*.JPEG, or in its shards, tar or parquet; `lskd-data list` says
how other data of photographs are laid out. They stay there. LSKD_CACHE holds decoded data.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 after an error that the user can mend."""
    return guarded("lskd-data", lambda: _parse_and_run(argv))


def _parse_and_run(argv: Sequence[str] | None) -> int:
    load_installed_plugins()
    return _run(_parser().parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    load_plugins(args.plugin)
    cache = args.cache or data.default_cache_root()
    raw = args.data or data.default_data_root(cache)
    try:
        if args.command == "prepare":
            return _each(args.names, lambda name: data.prepare(name, data=raw, cache=cache, force=args.force))
        if args.command == "verify":
            return _each(args.names or _cached(cache), lambda name: data.verify(name, cache=cache, data=raw))
        if args.command == "import":
            spec = data.import_folder(
                args.name,
                args.path,
                cache=cache,
                size=args.size,
                stream=args.stream,
                force=args.force,
                split=args.split,
                seed=args.seed,
                image_column=args.image_column,
                label_column=args.label_column,
                translation=args.translation,
            )
            print(f"{data.summary(spec)}\nuse it: lskd-run dataset={spec.name}")
            if spec.validation:
                print(f"or its validation part: lskd-run dataset={spec.name} dataset.evaluate=validation")
            if spec.streamed:
                print(f"decode every image once, to find broken ones: lskd-data verify {spec.name}")
            return 0
        for spec in (*(known.spec for known in data.DATASETS.values()), *data.imported(cache).values()):
            is_here = (cache / "data" / spec.name).is_dir()
            print(
                data.summary(spec)
                if is_here
                else f"{data.summary(spec)} (not prepared)\n  {data.how_to_get(spec.name)}"
            )
        return 0
    except InputError as error:
        return _fail(error)


def _each(names: Sequence[str], act: Callable[[str], data.Spec]) -> int:
    """Act on every name, also after one has failed."""
    code = 0
    for name in names:
        try:
            print(f"{data.summary(act(name))}: ok")
        except InputError as error:
            code = _fail(error)
    return code


def _fail(error: InputError) -> int:
    return fail("lskd-data", str(error))


def _cached(cache: Path) -> list[str]:
    """Names of all data sets in the cache, damaged ones included. Names that begin with a dot are unfinished."""
    return sorted(path.name for path in (cache / "data").glob("[!.]*") if path.is_dir())


def _parser() -> argparse.ArgumentParser:
    roots = argparse.ArgumentParser(add_help=False)
    roots.add_argument(
        "--data", type=user_path, metavar="DIR", help="downloaded files (default: $LSKD_DATA, else CACHE/raw)"
    )
    roots.add_argument(
        "--cache", type=user_path, metavar="DIR", help="decoded data (default: $LSKD_CACHE, else ~/.cache/lskd)"
    )
    of_plugin = "a Python file or module that registers data sets of your own; may be given several times"
    roots.add_argument("--plugin", metavar="FILE", action="append", default=[], help=of_plugin)

    parser = argparse.ArgumentParser(
        prog="lskd-data",
        description="Data sets for lskd: fetch, check, bring your own.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("prepare", parents=[roots], help="decode registered data sets into the cache")
    command.add_argument("names", nargs="+", metavar="NAME", help=", ".join(data.DATASETS))
    command.add_argument("--force", action="store_true", help="replace what is in the cache")

    command = commands.add_parser("verify", parents=[roots], help="check data sets, pixel by pixel or line by line")
    command.add_argument("names", nargs="*", metavar="NAME", help="default: all in the cache")

    command = commands.add_parser("import", parents=[roots], help="decode data of your own into the cache")
    command.add_argument("name", metavar="NAME", help="its name from now on: a-z, 0-9, _")
    command.add_argument(
        "path",
        type=user_path,
        metavar="PATH",
        help="folder with train/<class>/ and test/<class>/, or parquet or tar shards, or text",
    )
    command.add_argument("--size", type=int, metavar="N", help="resize all images to N x N")
    command.add_argument(
        "--stream", action="store_true", help="index images of any size where they are, to decode them in training"
    )
    command.add_argument(
        "--split",
        type=float,
        metavar="SHARE",
        help="draw this share of each class as the test part, where there is none",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of that draw (default: 0)")
    for what in ("image", "label"):
        command.add_argument(f"--{what}-column", default="", metavar="COLUMN", help=f"parquet's column with {what}s")
    command.add_argument(
        "--translation",
        default="",
        metavar="EN-DE",
        help="text, from which language into which: train.en, train.de, test.en, ... in PATH, a sentence a line",
    )
    command.add_argument("--force", action="store_true", help="replace other data of this name")

    commands.add_parser("list", parents=[roots], help="show the data sets there are")
    return parser


if __name__ == "__main__":
    sys.exit(main())
