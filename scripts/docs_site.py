"""The pages of the documentation: `make docs` (or `scripts/docs_site.py FOLDER`, and Sphinx on that).

Methods and recipes have a page each, from the registries, their docstrings and conf/; modules have theirs from their
docstrings. README, CONTRIBUTING, CHANGELOG and docs/*.md are pages as they are. A link in them leads to a page where
there is one for the file, and is its name where there is none: the site has no code, and fetches none.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lskd.config_groups import Conf, read_yaml, shipped_conf
from lskd.methods import METHODS, Method
from lskd.recipe import Recipe
from lskd.schema import parse

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
FILES = "files"  # the folder of the images that pages show
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def main() -> None:
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in pages().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
        for image in re.findall(rf"!\[[^\]]*\]\({FILES}/([^)]+)\)", content):
            (folder / FILES / image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / image, folder / FILES / image)


def pages() -> dict[str, str]:
    """Every page: its place, and its Markdown."""
    written = {page: file.read_text(encoding="utf-8") for file, page in written_pages().items()}
    made = {**method_pages(), **recipe_pages(), **module_pages()}
    known = {file.relative_to(ROOT).as_posix(): page for file, page in written_pages().items()}
    linked = {page: relinked(written[page], file, known) for file, page in known.items()}
    linked["index.md"] += contents([*(page for page in written if page not in FIRST and page not in LAST)])
    return {**linked, **made}


FIRST = ("index.md",)
LAST = ("contributing.md", "changelog.md")


def written_pages() -> dict[Path, str]:
    """The files that are pages, and their places."""
    top = {ROOT / "README.md": "index.md"}
    docs = {path: path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    return {**top, **docs, ROOT / "CONTRIBUTING.md": LAST[0], ROOT / "CHANGELOG.md": LAST[1]}


def contents(written: Sequence[str]) -> str:
    """The order of all pages."""
    sections = {"Guide": written, "Reference": ["methods/index.md", "recipes/index.md", "api/index.md"], "lskd": LAST}
    return "".join(f"\n{toctree(names, caption)}" for caption, names in sections.items())


def toctree(names: Iterable[str], caption: str = "") -> str:
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["```{toctree}", *options, "", *names, "```", ""])


# ---- methods ------------------------------------------------------------------------------------------------------


def method_pages() -> dict[str, str]:
    variants = variants_of()
    made = {f"methods/{name}.md": method_page(name, method, variants) for name, method in METHODS.items()}
    rows = [[f"[`{name}`]({name}.md)", paper(method), first_line(type(method))] for name, method in METHODS.items()]
    index = [
        "# Methods",
        "What `method=NAME` may be. With every method goes a `target`, by default label smoothing with `alpha`: q is "
        "what it teaches the network of an image, p its softmax; subscripts s and t are student and teacher.",
        table(["method", "what it is", "loss"], rows),
        toctree(f"{name}.md" for name in METHODS),
    ]
    return {"methods/index.md": joined(index), **made}


def variants_of() -> dict[str, dict[str, Path]]:
    """conf/method: the files of each method, by their names."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted((shipped_conf() / "method").glob("*.yaml")):
        found.setdefault(read_yaml(path)["name"], {})[path.stem] = path
    return found


def method_page(name: str, method: Method, variants: Mapping[str, Mapping[str, Path]]) -> str:
    kind = type(method)
    parts = [f"# {name}", paper(method), as_markdown(kind.__doc__ or "")]
    bases = [base for base in kind.__mro__[1:] if issubclass(base, Method) and base is not Method]
    parts += [f"Built on `{base.__name__}`: {first_line(base)}" for base in bases]
    parts += ["## Needs", bullets(needs(method))]
    if settings := dataclasses.fields(method):
        rows = [[f"`method.{f.name}`", f"`{f.type}`", f"`{shown(getattr(method, f.name))}`"] for f in settings]
        parts += ["## Settings", table(["setting", "type", "default"], rows)]
    for file, path in variants.get(name, {}).items():
        given = {key: value for key, value in read_yaml(path).items() if key != "name"}
        values = ", ".join(f"`{key}: {shown(value)}`" for key, value in given.items())
        parts += [f"## method={file}", comment(path), f"Sets {values}." if given else ""]
    return joined([*parts, f"Code: `{Path(inspect.getfile(kind)).resolve().relative_to(ROOT).as_posix()}`"])


def paper(method: Method) -> str:
    """What a method's module says that it is, and whose."""
    return text(inspect.getdoc(sys.modules[type(method).__module__]) or "").split("\n\n")[0].replace("\n", " ")


def needs(method: Method) -> list[str]:
    stage = method.initial()
    return [
        "a teacher" if method.needs_teacher else "no teacher",
        *(["features of both networks"] if method.reads_features else []),
        *(["the whole batch: `recipe.accumulate` must be 1"] if method.whole_batch else []),
        *(["images of one label each: `recipe.augment.mix` must be none"] if method.one_label else []),
        *([f"a stage before the training: {stage.epochs} epochs, in the log as `{stage.name}`"] if stage else []),
        *(f"may log `{name}`: {words}" for name, words in method.watches.items()),
    ]


# ---- recipes ------------------------------------------------------------------------------------------------------


def recipe_pages() -> dict[str, str]:
    files = sorted((shipped_conf() / "recipe").glob("*.yaml"))
    usual = usual_of()
    made = {f"recipes/{path.stem}.md": recipe_page(path, usual.get(path.stem, [])) for path in files}
    index = [
        "# Recipes",
        "A recipe is a training protocol as data: what `recipe=NAME` may be. *Provenance* says where each fact comes "
        "from, *deviations* what the paper leaves open, or was changed. A data set has a usual recipe, which is taken "
        "where none is given; any setting can be changed, as in `recipe.lr=0.05`.",
        table(["recipe", "what it is"], [[f"[`{path.stem}`]({path.stem}.md)", comment(path)] for path in files]),
        toctree(f"{path.stem}.md" for path in files),
    ]
    return {"recipes/index.md": joined(index), **made}


def usual_of() -> dict[str, list[str]]:
    """The data sets whose usual recipe one is, by its name."""
    found: dict[str, list[str]] = {}
    for path in sorted((shipped_conf() / "dataset").glob("*.yaml")):
        if recipe := read_yaml(path).get("recipe"):
            found.setdefault(recipe, []).append(path.stem)
    return found


def recipe_page(path: Path, usual: Sequence[str]) -> str:
    recipe = parse(Recipe, Conf().load("recipe", path.stem), "recipe")
    rows = [[f"`recipe.{key}`", f"`{shown(value)}`"] for key, value in changed(recipe, "")]
    provenance, deviations = (bullets(map(text, lines)) for lines in (recipe.provenance, recipe.deviations))
    return joined(
        [
            f"# {path.stem}",
            comment(path),
            f"The usual recipe of {', '.join(f'`{name}`' for name in usual)}." if usual else "",
            "## Settings",
            "What is not named is at its default.",
            table(["setting", "value"], rows),
            *("## Provenance", provenance or "It is no paper's."),
            *("## Deviations", deviations or "None is known."),
        ]
    )


def changed(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The settings of a recipe that are not at their defaults, by path. Labels are no settings."""
    for field in dataclasses.fields(value):
        given, where = getattr(value, field.name), f"{path}.{field.name}".lstrip(".")
        factory = field.default_factory
        if not field.metadata.get("identity", True):
            continue
        if dataclasses.is_dataclass(given):
            yield from changed(given, where)
        elif given != (field.default if factory is dataclasses.MISSING else factory()):
            yield where, given


# ---- modules ------------------------------------------------------------------------------------------------------


def modules() -> dict[str, list[Path]]:
    """The files of lskd by the part of it that they are in."""
    found: dict[str, list[Path]] = {}
    for path in sorted((SOURCE / "lskd").rglob("*.py"), key=lambda path: (path.name != "__init__.py", path)):
        part = path.relative_to(SOURCE / "lskd").with_suffix("").parts[0]
        found.setdefault("lskd" if part == "__init__" else part, []).append(path)
    return dict(sorted(found.items(), key=lambda item: (item[0] != "lskd", item[0])))


def module_pages() -> dict[str, str]:
    made, rows = {}, []
    for part, files in modules().items():
        title = module_name(files[0])
        sections = [module_section(file) for file in files]
        made[f"api/{part}.md"] = joined([f"# {title}", *sections]).replace(f"\n\n## {title}\n", "\n", 1)
        what = ast.get_docstring(ast.parse(files[0].read_text(encoding="utf-8"))) or ""
        rows.append([f"[`{title}`]({part}.md)", text(" ".join(what.split("\n\n")[0].split()))])
    index = [
        "# Modules",
        "From their docstrings, without what is private. Imports point down: see [contributing](../contributing.md).",
        table(["module", "what it is"], rows),
        toctree(PurePosixPath(page).name for page in made),
    ]
    return {"api/index.md": joined(index), **made}


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_section(file: Path) -> str:
    """A module: its docstring, and its public classes and functions in the order of the file."""
    code = file.read_text(encoding="utf-8")
    tree, lines = ast.parse(code), code.splitlines()
    parts = [f"## {module_name(file)}", as_markdown(ast.get_docstring(tree) or "")]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            parts += [f"### {node.name}", *described(node, lines)]
            parts += [part for one in node.body if is_public(one) for part in described(one, lines)]
        elif is_public(node):
            parts += [f"### {node.name}", *described(node, lines)]
    return joined(parts)


def is_public(node: ast.stmt) -> bool:
    """Whether it is a function or method that says what it does, and is for others."""
    function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    return function and not node.name.startswith("_") and ast.get_docstring(node) is not None


def described(node: ast.ClassDef | ast.FunctionDef, lines: Sequence[str]) -> list[str]:
    """The head of a class (its fields, with their comments) or function as it is written, and its docstring."""
    first = min(one.lineno for one in (node, *node.decorator_list)) - 1
    head = lines[first : node.body[0].lineno - 1]
    last = node.body[0].lineno - 1
    for one in node.body if isinstance(node, ast.ClassDef) else ():
        end = one.end_lineno or last
        if isinstance(one, ast.AnnAssign) and not ast.unparse(one.target).startswith("_"):
            head += [line for line in lines[last:end] if line.strip()]  # with the comments above it
        last = end
    code = textwrap.dedent("\n".join(head)).rstrip()
    return [f"```python\n{code}\n```", as_markdown(ast.get_docstring(node) or "")]


# ---- Markdown -----------------------------------------------------------------------------------------------------


def as_markdown(docstring: str) -> str:
    """A docstring as Markdown that says just that. What is indented stays as it is; examples (>>>) become code."""
    blocks = []
    for block in inspect.cleandoc(docstring).split("\n\n"):
        if block.startswith(">>>"):
            blocks.append(f"```pycon\n{block}\n```")
        else:
            blocks.append("\n".join(line if line.startswith("    ") else text(line) for line in block.split("\n")))
    return "\n\n".join(blocks)


def first_line(kind: type) -> str:
    return text((inspect.getdoc(kind) or "").split("\n")[0])


def text(given: str) -> str:
    """Words that say nothing to Markdown but by backticks, lists and tables: no tags, no emphasis, no links."""
    pieces = re.split(r"(`[^`]*`)", given)
    return "".join(p if p.startswith("`") else re.sub(r"([<*\[])", r"\\\1", p) for p in pieces)


def comment(path: Path) -> str:
    """What a YAML file says of itself: the comment that it begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return text(" ".join(lines))


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def joined(parts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"


def relinked(markdown: str, file: str, known: Mapping[str, str]) -> str:
    """The Markdown of `file`, its links to files made links to the pages that they are, by `known`, or words. Images
    stay."""

    def one(link: re.Match[str]) -> str:
        image, label, target = link.groups()
        path, sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return link[0]
        there = os.path.normpath(PurePosixPath(file).parent / path).replace(os.sep, "/")
        if there in known:
            return f"[{label}]({known[there]}{sign}{anchor})"
        if image and (ROOT / there).is_file():
            return f"![{label}]({FILES}/{there})"
        return f"{label} (`{there}`)" if there not in label else label

    return LINK.sub(one, markdown)


if __name__ == "__main__":
    main()
