"""Text as Markdown and LaTeX that say just that."""

from __future__ import annotations

import functools
import re
import unicodedata

# What Markdown takes for something else than text, in the middle of a line.
MARKS = re.compile(r"[\\`*|~$]|<(?=\S)|(?<!\w)_|_(?!\w)|(?<!\S)#|&(?=#?\w+;)|\](?=[(\[])")


def plain(text: str) -> str:
    """A label, which is text and no Markdown, on one line of Markdown."""
    return MARKS.sub(r"\\\g<0>", " ".join(text.split()))


# What pdfLaTeX cannot take as it is, or prints as something else.
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$", "²": "$^2$",
    "·": r"$\cdot$", "–": "--", "—": "---", "“": "``", "”": "''", "‘": "`", "’": "'", "…": r"\dots{}",
    "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "§": r"\S{}", "†": r"\dag{}", "‡": r"\ddag{}", "©": r"\copyright{}",
    "°": r"$^\circ$", "\u2010": "-", "\u2011": "-", "\u2044": "/", "\u200b": "",
}  # fmt: skip
MATHEMATICS = {
    "↓": "downarrow", "↑": "uparrow", "←": "leftarrow", "↔": "leftrightarrow", "⇒": "Rightarrow", "∞": "infty",
    "∂": "partial", "∇": "nabla", "ℓ": "ell", "∑": "sum", "∏": "prod", "√": "surd", "∫": "int", "∈": "in",
    "∉": "notin", "⊂": "subset", "⊆": "subseteq", "∪": "cup", "∩": "cap", "∅": "emptyset", "∀": "forall",
    "∃": "exists", "≈": "approx", "≠": "neq", "≡": "equiv", "∼": "sim", "≃": "simeq", "∝": "propto", "≪": "ll",
    "≫": "gg", "∓": "mp", "÷": "div", "∗": "ast", "∘": "circ", "«": "ll", "»": "gg", "⋅": "cdot", "•": "bullet",
    "⊕": "oplus", "⊗": "otimes", "⊙": "odot", "‖": "Vert", "∥": "parallel", "⊥": "perp", "⟨": "langle",
    "⟩": "rangle", "⌊": "lfloor", "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil", "′": "prime", "✓": "surd",
    "✗": "times", "¬": "neg", "∧": "wedge", "∨": "vee", "ε": "varepsilon", "φ": "varphi", "ϵ": "epsilon",
    "ϕ": "phi", "ϑ": "vartheta", "ς": "varsigma",
}  # fmt: skip
# Accents and the commands for them, by the characters that Unicode combines with the letter.
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c", "\u0328": "k",
}  # fmt: skip


def tex(text: str) -> str:
    """`text` on one line of ASCII for pdfLaTeX. What it has no command for, such as 日, stays as it is."""
    return "".join(map(_in_tex, unicodedata.normalize("NFC", " ".join(text.split()))))


@functools.cache
def _in_tex(character: str) -> str:
    if character in TEX or character.isascii():
        return TEX.get(character, character)
    if character in MATHEMATICS:
        return rf"$\{MATHEMATICS[character]}$"
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(character, "")):
        name = greek[2].lower().replace("lamda", "lambda")  # as Unicode writes it
        latin = {"alpha": "A", "beta": "B", "epsilon": "E", "zeta": "Z", "eta": "H", "iota": "I", "kappa": "K",
                 "mu": "M", "nu": "N", "omicron": "O", "rho": "P", "tau": "T", "chi": "X"}  # fmt: skip
        if greek[1] == "CAPITAL":
            return latin.get(name, rf"$\{name.capitalize()}$")
        return "o" if name == "omicron" else rf"$\{name}$"
    kind, *parts = unicodedata.decomposition(character).split() or [""]
    if kind.startswith("<"):  # ², ½, ﬁ, ™, a space that does not break
        inner = "".join(_in_tex(chr(int(part, 16))) for part in parts)
        script = {"<super>": "^", "<sub>": "_"}.get(kind)
        return f"${script}{{{inner.replace('$', '')}}}$" if script else inner
    if len(parts) == 1 and (accent := ACCENTS.get(chr(int(parts[0], 16)))):
        return rf"\{accent}{{{_in_tex(chr(int(kind, 16)))}}}"
    if len(parts) == 0 and kind:  # another way to write a character
        return _in_tex(chr(int(kind, 16)))
    return character
