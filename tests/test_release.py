"""What says which version this is says the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import lskd
from lskd.program import VERSION

ROOT = Path(lskd.__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="not in a checkout")


def wrong_tags(tags: str, version: str) -> list[str]:
    """Of the tags of a commit those of versions other than its own."""
    return [tag for tag in tags.split() if re.fullmatch(r"v\d.*", tag) and tag != f"v{version}"]


def test_a_tag_is_the_version():
    assert wrong_tags("v0.1.0 evidence-2", "0.1.0") == [] and wrong_tags("v0.2.0", "0.1.0") == ["v0.2.0"]
    command = ["git", "-C", str(ROOT), "tag", "--points-at", "HEAD"]
    here = subprocess.run(command, capture_output=True, encoding="utf-8")
    if here.returncode:
        pytest.skip("no repository")
    assert wrong_tags(here.stdout, lskd.__version__) == []


def test_citation_and_changelog_have_the_version():
    assert f"lskd {lskd.__version__}" == VERSION
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == lskd.__version__
    assert citation.keys() >= {"cff-version", "message", "title", "authors"} and citation["license"] == "MIT"
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None and first[1] == lskd.__version__


def test_make_says_how_to_go_on():
    """At the end of the quickstart: the environment need not be active, and a plain command is not found then."""
    text = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "quickstart"], capture_output=True, encoding="utf-8", check=True
    )
    said = re.findall(r'echo "(.*)"', text.stdout)
    assert said[-2:] == [
        "Go on with the commands of the README, after: source .venv/bin/activate",
        "or by their whole path, such as: .venv/bin/lskd-run experiment=muller_mnist plan=true",
    ]
