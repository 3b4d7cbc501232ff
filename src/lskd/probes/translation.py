"""BLEU of what a network translates (Müller et al. 2019, section 3; Shen et al. 2021, Figure 7)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lskd.errors import require
from lskd.probes.probe import Probe, Scene, register
from lskd.quantity import Quantity, key

if TYPE_CHECKING:
    from lskd.data import Spec

AT_ONCE = 64  # sentences that are translated together


@register("translation")
@dataclass(frozen=True)
class TranslationProbe(Probe):
    """Translations of a held-out part by beam search (`lskd.models.beam`), in fp32, compared with its references:

    - bleu: BLEU (Papineni et al. 2002) of detokenised text, by sacrebleu (Post 2018); its signature is in the reading;
    - length_ratio: the tokens of all translations over those of the references, as sacrebleu counts them.

    At each of `temperatures` T, by which all logits are divided before the search. The translations and what they are
    compared with are files beside the record, probes/KEY.PART.T1.txt and probes/KEY.PART.reference.txt, a line a
    sentence: `sacrebleu REFERENCE -i FILE` (with `lowercase`, -lc) gives the same BLEU.

    part: "evaluate", the one that the run is measured on, or the one of this name. beam: beginnings that are kept.
    length_penalty: α of Wu et al. (2016); 0: none. longest: a translation has at most so many tokens more than its
    source. lowercase: BLEU without case. sentences: of the first so many; 0: of all.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "bleu": Quantity("BLEU", digits=2, better="higher", by="temperature"),
        "length_ratio": Quantity("length of the translations over that of the references", by="temperature"),
    }
    kinds: ClassVar[Collection[str]] = ("translation",)
    packages: ClassVar[Mapping[str, str]] = {"sacrebleu": "text"}
    texts: ClassVar[tuple[str, ...]] = ("signature",)

    temperatures: tuple[float, ...] = (1.0,)
    part: Literal["evaluate", "validation", "test"] = "evaluate"
    beam: int = 4
    length_penalty: float = 0.6
    longest: int = 50
    lowercase: bool = False
    sentences: int = 0

    def __post_init__(self) -> None:
        shown = list(self.temperatures)
        positive = bool(shown) and all(0 < one < math.inf for one in shown)
        require(positive, "temperatures", shown, "a list of numbers, all > 0 and finite")
        require(
            len(set(map(key, shown))) == len(shown), "temperatures", shown, "all different, in their first 6 digits"
        )
        for name, least in (("beam", 1), ("longest", 1), ("sentences", 0), ("every", 0)):
            require(getattr(self, name) >= least, name, getattr(self, name), f">= {least}")
        require(0 <= self.length_penalty < math.inf, "length_penalty", self.length_penalty, ">= 0 and finite")

    def check(self, spec: Spec) -> None:
        there = self.part == "evaluate" or self.part in spec.parts
        require(there, "part", self.part, f"a part of {spec.name}: {', '.join(spec.parts)}")

    def measure(self, scene: Scene) -> dict[str, Any]:
        import sacrebleu

        part = scene.evaluated if self.part == "evaluate" else self.part
        corpus = scene.parts[part]
        count = min(self.sentences, len(corpus)) if self.sentences else len(corpus)
        references = [one_line(line) for line in list(corpus.target_lines)[:count]]
        found: dict[str, Any] = {"bleu": {}, "length_ratio": {}}
        files = {f"{part}.reference.txt": file_of(references)}
        for temperature in self.temperatures:
            lines = self.translate(scene, corpus, count, temperature)
            metric = sacrebleu.BLEU(lowercase=self.lowercase)
            score = metric.corpus_score(lines, [references])
            name = key(temperature)
            found["bleu"][name] = score.score
            found["length_ratio"][name] = score.sys_len / score.ref_len
            found["signature"] = str(metric.get_signature())
            files[f"{part}.T{name}.txt"] = file_of(lines)
        return {part: found, "files": files}

    def translate(self, scene: Scene, corpus: Any, count: int, temperature: float) -> list[str]:
        """The translations of the first `count` sentences of a corpus, each a line."""
        import numpy as np
        import torch

        from lskd.data.text import BOS, EOS
        from lskd.data.text.padding import padded
        from lskd.models.beam import search

        lengths = corpus.lengths[:count, 0]
        order, lines = np.argsort(lengths, kind="stable"), [""] * count  # sentences of like lengths together
        for begin in range(0, count, AT_ONCE):
            rows = order[begin : begin + AT_ONCE]
            source = torch.from_numpy(padded(corpus.source, rows, after=EOS)).to(scene.device)
            most = int(scene.network.positions)  # type: ignore[arg-type]
            longest = [min(int(length) + self.longest, most) for length in lengths[rows]]
            found = search(
                scene.network, source, begin=BOS, end=EOS, beam=self.beam, alpha=self.length_penalty,
                temperature=temperature, longest=longest,
            )  # fmt: skip
            for row, translation in zip(rows, found, strict=True):
                lines[row] = one_line(corpus.vocabulary.decode(translation.tokens))
        return lines


def one_line(text: str) -> str:
    """With a blank in the place of each white space, which BLEU does not look at: whatever reads the file finds as many
    lines as there are sentences."""
    return " ".join(text.split())


def file_of(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
