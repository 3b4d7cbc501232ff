"""The pages of the documentation are complete, and their links lead somewhere. (The rest is checked by `make docs`.)"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

import lskd
from lskd.config_groups import Conf, read_yaml, shipped_conf
from lskd.methods import METHODS

ROOT = Path(lskd.__file__).parents[2]
SCRIPT = ROOT / "scripts" / "docs_site.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="not in a checkout")


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(site: ModuleType) -> dict[str, str]:
    return site.pages()


def below(folder: str, pages: dict[str, str]) -> set[str]:
    return {Path(page).stem for page in pages if page.startswith(f"{folder}/")}


def test_every_method_has_a_page_with_its_paper_its_formula_and_its_settings(site, pages):
    assert {page for page in pages if page.startswith("methods/")} == {
        f"methods/{name}.md" for name in (*METHODS, "index")
    }
    for name, method in METHODS.items():
        page = pages[f"methods/{name}.md"]
        assert site.paper(method) in page and site.paper(method) in pages["methods/index.md"]
        assert site.as_markdown(type(method).__doc__) in page
        for setting in vars(method):
            assert f"| `method.{setting}` |" in page
    for path in (shipped_conf() / "method").glob("*.yaml"):
        assert f"## method={path.stem}\n\n{site.comment(path)}" in pages[f"methods/{read_yaml(path)['name']}.md"]


def test_every_recipe_has_a_page_with_its_provenance_and_deviations(site, pages):
    names = [path.stem for path in (shipped_conf() / "recipe").glob("*.yaml")]
    assert {page for page in pages if page.startswith("recipes/")} == {
        f"recipes/{name}.md" for name in (*names, "index")
    }
    for name in names:
        content, page = Conf().load("recipe", name), pages[f"recipes/{name}.md"]
        provenance, deviations = page.split("## Provenance")[1].split("## Deviations")
        assert provenance.count("\n- ") == len(content.get("provenance", ()))
        assert deviations.count("\n- ") == len(content.get("deviations", ()))
        for line in (*content.get("provenance", ()), *content.get("deviations", ())):
            assert f"\n- {site.text(line)}\n" in page
        assert f"| `recipe.lr` | `{float(content['lr'])}` |" in page


def test_every_module_has_its_public_names(pages):
    text = "\n".join(pages.values())
    for path in (ROOT / "src" / "lskd").rglob("*.py"):
        for name in re.findall(r"^class ([A-Za-z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"\n### {name}\n" in text, path
    losses = pages["api/losses.md"]
    assert "```python\ndef cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:\n```\n\nH(q, p) = -Σ_k" in losses
    store = pages["api/store.md"]
    assert "    root: Path\n" in store and "_held" not in store and "def _done" not in store


def test_links_lead_to_pages_and_all_pages_are_in_the_contents(pages):
    listed = {"index.md"}
    for page, content in pages.items():
        for target in re.findall(r"\]\(([^)#\s]+)", re.sub(r"```.*?```|`[^`]*`", "", content, flags=re.DOTALL)):
            place = os.path.normpath(Path(page).parent / target)
            assert place in pages or re.match(r"[a-z]+:", target), (page, target)
        for names in re.findall(r"```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)```", content, re.DOTALL):
            listed |= {os.path.normpath(Path(page).parent / name) for name in names.split()}
    assert listed == set(pages)
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(pages)


def test_links_of_files_become_those_of_pages_or_words(site):
    known = {"README.md": "index.md", "docs/a.md": "a.md"}
    given = "[a](docs/a.md#b) [claims](results/claims.md) [here](#x) [there](https://x.org) [`results/y`](results/y)"
    assert site.relinked(given, "README.md", known) == (
        "[a](a.md#b) claims (`results/claims.md`) [here](#x) [there](https://x.org) `results/y`"
    )
    assert site.relinked("[top](../README.md)", "docs/a.md", known) == "[top](index.md)"
    assert site.relinked("![a](../results/figures/quickstart/quickstart.svg) ![b](no.png)", "docs/a.md", known) == (
        "![a](files/results/figures/quickstart/quickstart.svg) b (`docs/no.png`)"
    )


def test_docstrings_say_to_markdown_what_they_say(site):
    given = "Of f<hint>, a * b [c], `d * e`.\n\n    results/<id>/  *kept*\n\n>>> 1 + 1\n2"
    assert site.as_markdown(given) == (
        "Of f\\<hint>, a \\* b \\[c], `d * e`.\n\n    results/<id>/  *kept*\n\n```pycon\n>>> 1 + 1\n2\n```"
    )
