"""The data sets in the cache: prepare them, check them, import one's own, load one for a run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from lskd.data.dataset import MAX_SEED, Dataset, Part, Spec, sizes
from lskd.data.registry import DATASETS, check, check_new_name, folder_of, spec
from lskd.data.roots import default_data_root
from lskd.errors import InputError


def load(dataset: Dataset, *, data: Path, cache: Path) -> dict[str, Part]:
    """The parts "train", "test" and, with a hold-out or of the data's own, "validation". A built-in data set is
    prepared if it is missing.

    Raises `InputError` if the data cannot be had, if the cache is damaged, if streamed images have changed since they
    were indexed, if `check` fails, or if text gives no such vocabulary as is asked for.
    """
    import torch

    from lskd.data import cache as disk
    from lskd.data.selection import select

    known = spec(dataset.name, cache)
    check(dataset, known)
    folder = folder_of(cache, dataset.name)
    if not folder.exists():
        prepare(dataset.name, data=data, cache=cache)
    content = disk.read(folder, data)
    disk.check_changes(folder, content)
    found = select(dataset, known, content.labelled(dataset, cache), partial(check, dataset))
    parts = {
        name: Part(one.images, torch.from_numpy(one.labels), None if one.true is None else torch.from_numpy(one.true))
        for name, one in found.items()
    }
    if known.kind == "translation":  # which has no classes, but for those of its tokens
        parts = {name: part._replace(labels=torch.empty(0, dtype=torch.int64)) for name, part in parts.items()}
    if dataset.text is not None:
        train = parts["train"]
        parts["train"] = train._replace(images=train.images.to_train_on(dataset.text.longest))
        if not len(parts["train"].images):
            raise InputError(f"text.longest = {dataset.text.longest}: leaves no training pair of {dataset.name}")
    return parts


def tokenize(dataset: Dataset, *, data: Path, cache: Path) -> None:
    """Have the tokens in the cache that runs on `dataset` see, if it is of text: what is wrong with its vocabulary, an
    `InputError`, shows before any of them begins, and one process makes them for all."""
    if dataset.text is not None:
        from lskd.data import cache as disk

        check(dataset, spec(dataset.name, cache))
        disk.read(folder_of(cache, dataset.name), data).labelled(dataset, cache)


def prepare(name: str, *, data: Path, cache: Path, download: bool = True, force: bool = False) -> Spec:
    """Decode a registered data set from `data` into the cache, downloading it into `data` first if it is not there.
    Of a streamed one the files in `data` are indexed; they stay there.

    A data set that is in the cache already, as an imported one always is, is only checked, unless `force`. Raises
    `InputError` if the data cannot be had or is not the original data, pixel by pixel or line by line.
    """
    from lskd.data import cache as disk
    from lskd.data.scratch import clear

    known, folder = spec(name, cache), folder_of(cache, name)
    if name not in DATASETS and force:
        raise InputError(f"{name}: is not built in, so there is nothing to decode it from again; import it again")
    clear(folder.parent)
    if folder.exists() and not force:
        disk.check_changes(folder, disk.read(folder, data))
        return disk.read_spec(folder)
    content, source = DATASETS[name].read(known, data=data, download=download)
    content = content.canonical()
    found = disk.check_content(known, content, source)
    known = replace(known, digest=found.digest, class_sizes=found.class_sizes)
    disk.write(folder, known, content, source=source, replace=force)
    return known


def verify(name: str, *, cache: Path, data: Path | None = None) -> Spec:
    """Check a data set in the cache: its files, and its content against the digest. Raises `InputError` if damaged.
    Of a streamed one (a built-in one is in `data`) every image is decoded, and the error names all that cannot be."""
    from lskd.data import cache as disk
    from lskd.data.scratch import clear

    known, folder, problems = spec(name, cache), folder_of(cache, name), list[str]()
    clear(folder.parent)
    content = disk.read(folder, data or default_data_root(cache))
    for problem in (
        partial(disk.check_content, known, content, str(folder)),
        partial(content.inspect, name, built_in=name in DATASETS),
        partial(disk.check_changes, folder, content),
    ):
        try:
            problem()
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
    return disk.read_spec(folder)


def import_folder(
    name: str,
    path: Path,
    *,
    cache: Path,
    size: int | None = None,
    stream: bool = False,
    force: bool = False,
    split: float | None = None,
    seed: int = 0,
    image_column: str = "",
    label_column: str = "",
    translation: str = "",
) -> Spec:
    """Decode a user's own data into the cache as the data set `name`.

    path: a folder of images `train/<class>/*.png`, `test/<class>/*.png` (or jpg …), or of Hugging Face style parquet,
    or, to be streamed, of webdataset's tar shards (`lskd.data.shards`).
    Beside a part `test` there may be one for validation: `val`, `valid`, `validation` or `dev`.
    size: resize all images to this width and height; without it they must have one size and mode already.
    stream: leave the images where they are, whatever their sizes, and decode them while a network trains.
    force: replace another data set that was imported under this name.
    split: draw this share of each class as the test part of data that has none (`<class>/*.png`), with `seed`.
    image_column, label_column: of parquet files whose columns have other names than usual.
    translation: the folder holds text that agrees line by line, and is a translation from which language into which:
        en-de (`lskd.data.text.sources.read_folder`).

    Raises `InputError` for a bad name, a folder that cannot be read, or other content under this name.
    """
    from lskd.data import cache as disk
    from lskd.data import index, sources
    from lskd.data.scratch import clear
    from lskd.data.sources import Columns

    check_new_name(name)
    if size is not None and size < 1:
        raise InputError(f"size = {size}: must be >= 1")
    if stream and size is not None:
        raise InputError(f"size = {size}: must be left out with --stream; a recipe's augment.crop says the size")
    if split is not None and not 0 < split < 1:
        raise InputError(f"split = {split:g}: must be > 0 and < 1, the test part's share of each class")
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed = {seed}: must be >= 0 and <= {MAX_SEED}")
    of_images = {"size": size, "split": split, "image_column": image_column, "label_column": label_column}
    for option, given in {**of_images, "stream": stream}.items():
        if translation and given:
            raise InputError(f"{option} = {given}: is for images: must be left out with --translation")
    drawn = None if split is None else (split, seed)
    folder = folder_of(cache, name)
    clear(folder.parent)
    content: disk.Content
    if translation:
        from lskd.data.text.settings import USUAL_VOCAB
        from lskd.data.text.sources import read_folder

        content, source = read_folder(path, translation, USUAL_VOCAB)
    elif stream:
        columns = Columns(image_column, label_column)
        found, kind = index.make_of_shards(path, columns=columns, split=drawn), "shards in"
        if found is None:
            sources.check_is_folder(path, drawn, columns)
            found, kind = index.make(path, split=drawn), "image folder"
        content, is_stale = disk.follow(folder, found)
        source, force = f"{kind} {path}{sources.tell_split(drawn)}", force or is_stale
    else:
        content, source = sources.read_folder(path, size, Columns(image_column, label_column), drawn)
        content = content.canonical()
    new = content.describe(name)
    disk.write(folder, new, content, source=source, replace=force)
    # `write` keeps what is there already, which is right only if it is the same data.
    if (old := disk.check_files(folder)).digest != new.digest:
        raise InputError(
            f"name = {name!r}: other data was imported under this name ({sizes(old)}; this is {sizes(new)}): "
            "use another name, or --force"
        )
    return new
