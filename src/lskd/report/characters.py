"""Text as Markdown and LaTeX that say just that."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pylatexenc.latexencode import UnicodeToLatexEncoder

# What Markdown takes for something else than text, in the middle of a line.
MARKS = re.compile(r"[\\`*|~$]|<(?=\S)|(?<!\w)_|_(?!\w)|(?<!\S)#|&(?=#?\w+;)|\](?=[(\[])")


def plain(text: str) -> str:
    """A label, which is text and no Markdown, on one line of Markdown."""
    return MARKS.sub(r"\\\g<0>", " ".join(text.split()))


# For these pylatexenc gives commands of packages, or what the fonts of plain LaTeX (OT1) print as something else.
WITHOUT_PACKAGES = {"|": r"\ensuremath{|}", "«": r"\ensuremath{\ll}", "»": r"\ensuremath{\gg}", "\u2011": "-"}


def tex(text: str, unknown: str = "keep") -> str:
    """`text` on one line of ASCII for pdfLaTeX. What there is no command for, such as 日, stays as it is; with
    unknown="fail" it is a ValueError."""
    return _encoder(unknown).unicode_to_latex(unicodedata.normalize("NFC", " ".join(text.split())))


@functools.cache
def _encoder(unknown: str) -> UnicodeToLatexEncoder:
    from pylatexenc.latexencode import RULE_DICT, UnicodeToLatexConversionRule, UnicodeToLatexEncoder

    own = UnicodeToLatexConversionRule(RULE_DICT, {ord(one): command for one, command in WITHOUT_PACKAGES.items()})
    return UnicodeToLatexEncoder(
        conversion_rules=[own, "defaults"], unknown_char_policy=unknown, unknown_char_warning=False
    )
