"""The pages of the documentation that are made, not written: `make docs` (mkdocs.yml names this file as a hook).

Methods and recipes have a page each, from the registries, their docstrings and conf/. Modules have one from their
docstrings. README, CONTRIBUTING and CHANGELOG are pages as they are. Links in them lead to the page of a file that is
one, and become its name where it is none: the site has no code, and nothing of it is fetched from elsewhere.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lskd.config_groups import read_yaml, shipped_conf
from lskd.methods import METHODS, Method
from lskd.recipe import Recipe
from lskd.schema import parse

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "lskd"
WRITTEN = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def pages() -> dict[str, str]:
    """Every page that is not a file of docs/: its place in the site, and its Markdown."""
    written = {page: (ROOT / file).read_text(encoding="utf-8") for file, page in WRITTEN.items()}
    return {**written, **method_pages(), **recipe_pages(), **module_pages()}


# ---- methods ------------------------------------------------------------------------------------------------------


def method_pages() -> dict[str, str]:
    variants = variants_of()
    made = {f"methods/{name}.md": method_page(name, method, variants) for name, method in METHODS.items()}
    rows = [[f"[`{name}`]({name}.md)", paper(method), first_line(type(method))] for name, method in METHODS.items()]
    index = [
        "# Methods",
        "What `method=NAME` may be. Every method also takes `alpha`, the label smoothing of the network being trained: "
        "q is its smoothed label, p its softmax; subscripts s and t are student and teacher.",
        table(["method", "from", "loss"], rows),
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
    bases = [base for base in kind.__mro__[1:] if issubclass(base, Method) and base is not Method]
    parts = [f"# {name}", paper(method), as_markdown(kind.__doc__ or "")]
    parts += [f"Built on `{base.__name__}`: {first_line(base)}" for base in bases]
    parts += ["## Needs", bullets(needs(method))]
    if settings := dataclasses.fields(method):
        hints = {field.name: str(field.type) for field in settings}
        rows = [[f"`method.{key}`", f"`{hint}`", f"`{shown(getattr(method, key))}`"] for key, hint in hints.items()]
        parts += ["## Settings", table(["setting", "type", "default"], rows)]
    for file, path in variants.get(name, {}).items():
        given = {key: value for key, value in read_yaml(path).items() if key != "name"}
        parts += [f"## method={file}", comment(path)]
        parts += (
            ["Sets " + ", ".join(f"`{key}: {shown(value)}`" for key, value in given.items()) + "."] if given else []
        )
    parts += [f"Code: `{source(kind)}`"]
    return joined(parts)


def paper(method: Method) -> str:
    """What a method's module says that it is, and whose."""
    text = inspect.getdoc(sys.modules[type(method).__module__]) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def needs(method: Method) -> list[str]:
    stage = method.initial()
    return [
        "a teacher" if method.needs_teacher else "no teacher",
        *(["features of both networks"] if method.reads_features else []),
        *(["the whole batch: `recipe.accumulate` must be 1"] if method.whole_batch else []),
        *([f"a stage before the training: {stage.epochs} epochs, logged as `{stage.name}`"] if stage else []),
        *(f"logs `{name}`: {words}" for name, words in method.watches.items()),
    ]


# ---- recipes ------------------------------------------------------------------------------------------------------


def recipe_pages() -> dict[str, str]:
    files = sorted((shipped_conf() / "recipe").glob("*.yaml"))
    usual = usual_of()
    made = {f"recipes/{path.stem}.md": recipe_page(path, usual.get(path.stem, [])) for path in files}
    rows = [[f"[`{path.stem}`]({path.stem}.md)", comment(path)] for path in files]
    index = [
        "# Recipes",
        "A recipe is a training protocol as data: what `recipe=NAME` may be. *Provenance* says where each fact comes "
        "from, *deviations* what the paper leaves open or was changed. A data set's usual recipe is taken where none "
        "is given; any setting can be changed, as in `recipe.lr=0.05`.",
        table(["recipe", "what it is"], rows),
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
    recipe = parse(Recipe, conf_recipe(path.stem), "recipe")
    rows = [[f"`recipe.{key}`", f"`{shown(value)}`"] for key, value in changed(recipe, "").items()]
    parts = [f"# {path.stem}", comment(path)]
    parts += [f"The usual recipe of {', '.join(f'`{name}`' for name in usual)}."] if usual else []
    parts += ["## Settings", "What is not named is at its default.", table(["setting", "value"], rows)]
    parts += ["## Provenance", bullets(map(text, recipe.provenance)) if recipe.provenance else "No paper's."]
    parts += ["## Deviations", bullets(map(text, recipe.deviations)) if recipe.deviations else "None is known."]
    return joined(parts)


def conf_recipe(name: str) -> dict[str, Any]:
    from lskd.config_groups import Conf

    return Conf(specs={}).load("recipe", name)


def changed(value: Any, path: str) -> dict[str, Any]:
    """The settings of a recipe that are not at their defaults, by path. Labels are no settings."""
    found = {}
    for field in dataclasses.fields(value):
        given, where = getattr(value, field.name), f"{path}.{field.name}".lstrip(".")
        if not field.metadata.get("identity", True):
            continue
        if dataclasses.is_dataclass(given):
            found |= changed(given, where)
        elif field.default_factory is not dataclasses.MISSING:
            found |= {where: given} if given != field.default_factory() else {}
        elif given != field.default:  # required ones have none
            found[where] = given
    return found


# ---- modules ------------------------------------------------------------------------------------------------------

FIRST = ("losses", "targets", "metrics", "methods", "models", "data", "probes", "recipe", "run", "tables", "store")


def modules() -> dict[str, list[str]]:
    """The modules of lskd by the part of it that they are in; the parts in which most people look stand first."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found.setdefault(parts[1] if len(parts) > 1 else "lskd", []).append(".".join(parts))
    return {part: found[part] for part in (*(name for name in FIRST if name in found), *found)}


def module_pages() -> dict[str, str]:
    made, rows = {}, []
    for part, names in modules().items():
        title = "lskd" if part == "lskd" else f"lskd.{part}"
        made[f"api/{part}.md"] = joined([f"# {title}", *(f"::: {name}" for name in names)])
        rows.append([f"[`{title}`]({part}.md)", text(module_docstring(names[0]).split("\n\n")[0])])
    index = ["# Modules", "From their docstrings. Imports point down only: see [contributing](../contributing.md)."]
    return {"api/index.md": joined([*index, table(["module", "what it is"], rows)]), **made}


def module_docstring(name: str) -> str:
    path = ROOT.joinpath("src", *name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = re.match(r'"""(.*?)"""', file.read_text(encoding="utf-8"), re.DOTALL)
    return " ".join(found[1].split("\n\n")[0].split()) if found else ""


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


def source(kind: type) -> str:
    return Path(inspect.getfile(kind)).resolve().relative_to(ROOT).as_posix()


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "&#124;") for cell in line) + " |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def joined(parts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"


def relinked(markdown: str, page: str, known: Iterable[str]) -> str:
    """The Markdown of a page of the site: links to files are links to the pages that they are, or words."""
    known = set(known)
    file = next((file for file, there in WRITTEN.items() if there == page), f"docs/{page}")

    def one(link: re.Match[str]) -> str:
        image, label, target = link.groups()
        path, sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target) or page.startswith(("api/", "methods/", "recipes/")):
            return link[0]
        there = os.path.normpath(PurePosixPath(file).parent / path).replace(os.sep, "/")
        place = WRITTEN.get(there, there.removeprefix("docs/"))
        if place in known:
            return f"{image}[{label}]({os.path.relpath(place, PurePosixPath(page).parent)}{sign}{anchor})"
        return f"{label} (`{there}`)" if there not in label else label

    return LINK.sub(one, markdown)


# ---- mkdocs -------------------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the pages, and say in which order they stand."""
    from mkdocs.structure.files import File

    for page, content in pages().items():
        files.append(File.generated(config, page, content=content))
    names = [file.src_uri for file in files.documentation_pages()]
    written = [name for name in names if "/" not in name and name not in WRITTEN.values()]
    config.nav = [
        {"lskd": "index.md"},
        *written,
        {"Methods": ["methods/index.md", *(f"methods/{name}.md" for name in METHODS)]},
        {
            "Recipes": sorted(
                (name for name in names if name.startswith("recipes/")), key=lambda n: (n[-8:] != "index.md", n)
            )
        },
        {"Modules": ["api/index.md", *(f"api/{part}.md" for part in modules())]},
        {"Contributing": "contributing.md"},
        {"Changelog": "changelog.md"},
    ]
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return relinked(markdown, page.file.src_uri, (file.src_uri for file in files))
