"""What pages say of methods and recipes."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from lskd.methods import Method
from lskd.recipe import Recipe
from lskd.report.site.experiments import different
from lskd.report.site.library import Library
from lskd.report.site.runs import Setting, _given, said
from lskd.schema import flat, identity, unfolded


@dataclass(frozen=True)
class Block:
    """A piece of a docstring: a paragraph, a list of items, or a table whose first row is its head."""

    kind: str  # text, list, table
    lines: list[str]

    @property
    def rows(self) -> list[list[str]]:
        """Of a table; without the line below its head."""
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in self.lines]
        return [row for row in cells if not all(re.fullmatch(":?-+:?", cell) for cell in row)]


def blocks(text: str) -> list[Block]:
    """A docstring, which is as simple as Markdown can be."""
    found: list[Block] = []
    fresh = True  # a blank line ends what was before it
    for line in map(str.strip, text.splitlines()):
        kind = "table" if line.startswith("|") else "list" if line.startswith("- ") else "text"
        if not line:
            fresh = True
        elif kind == "text" and not fresh and found[-1].kind != "table":
            found[-1].lines[-1] += f" {line}"  # it goes on
        elif fresh or kind != found[-1].kind:
            found.append(Block(kind, [line.removeprefix("- ")]))
        else:
            found[-1].lines.append(line.removeprefix("- "))
        fresh = not line
    return found


@dataclass(frozen=True)
class MethodPage:
    """What the code says of a method."""

    name: str
    heading: str  # the first paragraph of its docstring: of most the formula
    text: list[Block]  # the rest of it
    source: str  # the first paragraph of its module's: whose it is
    knobs: list[Setting]
    needs: list[str]
    watches: dict[str, str]  # in words
    code: str  # the file


def method_page(name: str, method: Method) -> MethodPage:
    kind = type(method)
    said_of = blocks(inspect.getdoc(kind) or "")
    module = inspect.getmodule(kind)
    source = blocks(inspect.getdoc(module) or "") if module is not None else []
    knobs = [Setting(key, said(value), True) for key, value in flat(method).items()]
    needs = {
        "none": ["no teacher"],
        "logits": ["the teacher’s logits"],
        "features": ["the teacher’s logits and features"],
    }[method.teacher_use]
    needs += ["peers: other networks that are trained together with it"] if method.needs_peers else []
    needs += ["a stage before the training"] if method.initial() is not None else []
    needs += ["modules of its own"] if kind.build is not Method.build else []
    needs += ["the whole batch"] if method.whole_batch else []
    needs += ["images that are not mixed"] if method.one_label else []
    code = kind.__module__.replace(".", "/") + ".py"
    heading = said_of.pop(0).lines[0] if said_of and said_of[0].kind == "text" else ""
    whose = source[0].lines[0] if source else ""
    return MethodPage(
        name, heading, said_of, whose, knobs, needs, {name: one.title for name, one in method.watches.items()}, code
    )


@dataclass(frozen=True)
class RecipePage:
    name: str
    recipe: Recipe
    settings: list[Setting]
    variants: list[tuple[list[str], list[str], list[str]]]  # differences, networks, experiments
    experiments: list[str]


def recipe_page(library: Library, name: str, recipe: Recipe) -> RecipePage:
    own = unfolded(identity(recipe))
    shown = [Setting(key, said(value), _given(key, own)) for key, value in flat(recipe).items() if value is not None]
    used: dict[tuple[str, ...], tuple[dict[str, None], dict[str, None]]] = {}
    seen: dict[int, tuple[str, ...]] = {}  # runs that differ in their seeds alone have one recipe
    for report in library.reports:
        for run in report.plan.runs:
            if run.recipe.name == name:
                if id(run.recipe) not in seen:
                    seen[id(run.recipe)] = tuple(different(run.recipe, recipe))
                networks, experiments = used.setdefault(seen[id(run.recipe)], ({}, {}))
                networks[run.network] = experiments[report.plan.experiment.name] = None
    variants = [(list(key), list(of), list(names)) for key, (of, names) in sorted(used.items())]
    users = sorted({name for _, _, names in variants for name in names})
    return RecipePage(name, recipe, shown, variants, users)
