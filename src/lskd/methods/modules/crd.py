"""CRD's noise-contrastive estimation with a memory of all training images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EPS = 1e-7


class Contrast(nn.Module):
    """Embeddings e of two networks' features, a memory (N, D) of each, and the loss between them.

    `forward` gives, for each example of a batch, the loss Σ over the two networks v of

        -log P(pos) / (P(pos) + m/N) - Σ_neg log (m/N) / (P(neg) + m/N),    P(i) = exp(e_v · memory_w[i] / τ) / Z_v,

    with the other network's memory w, m negatives, and Z_v = N · mean exp(...) over the first batch, kept from then on
    (Tian et al. 2020, eq. 17, 18; Wu et al. 2018). Afterwards each memory's rows of these examples become their
    running mean, of length 1: momentum · old + (1 - momentum) · e.

    All is compared with all of the memory, (B, N), and the negatives are picked from that: a memory's rows are read
    once, not once an example.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        dimensions: int,
        labels: Tensor,
        *,
        negatives: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        self.embed_student, self.embed_teacher = (nn.Linear(width, dimensions) for width in widths)
        bound = 1.0 / math.sqrt(dimensions / 3)
        for name in ("student", "teacher"):
            memory = torch.empty(len(labels), dimensions).uniform_(-bound, bound)
            self.register_buffer(f"memory_{name}", memory)
            self.register_buffer(f"z_{name}", torch.tensor(-1.0))  # < 0: not known yet
        self.register_buffer("labels", labels.clone(), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, indices: Tensor, generator: torch.Generator | None) -> Tensor:
        """Pooled features (B, D_s), (B, D_t) of the training images `indices` (B,) -> the loss (B,)."""
        embedded = {
            "student": length_one(self.embed_student(student)),
            "teacher": length_one(self.embed_teacher(teacher)),
        }
        compared = torch.cat([indices[:, None], self.draw(indices, generator)], 1)  # (B, 1 + m), the positive first
        loss = self.nce("student", embedded["student"], self.get_buffer("memory_teacher"), compared) + self.nce(
            "teacher", embedded["teacher"], self.get_buffer("memory_student"), compared
        )
        with torch.no_grad():
            for name, rows in embedded.items():
                memory = self.get_buffer(f"memory_{name}")
                mixed = self.momentum * memory[indices] + (1.0 - self.momentum) * rows
                memory.index_copy_(0, indices, length_one(mixed))
        return loss

    def draw(self, indices: Tensor, generator: torch.Generator | None) -> Tensor:
        """For each example, `negatives` training images of other classes, (B, m), without replacement."""
        labels = self.get_buffer("labels")
        keys = torch.rand(len(indices), len(labels), generator=generator, device=labels.device)
        keys.masked_fill_(labels[indices][:, None] == labels, 2.0)
        return keys.topk(self.negatives, largest=False, sorted=False).indices

    def nce(self, name: str, embedded: Tensor, memory: Tensor, compared: Tensor) -> Tensor:
        """The loss (B,) of one network's embeddings (B, D) against rows `compared` (B, 1 + m) of a memory (N, D)."""
        images = len(memory)
        scores = embedded @ memory.clone().T  # a copy: the memory changes before the backward pass
        exponentials = (scores.gather(1, compared) / self.temperature).exp()
        z = self.get_buffer(f"z_{name}")
        with torch.no_grad():
            z.copy_(torch.where(z < 0, exponentials.mean() * images, z))
        p = exponentials / z
        noise = self.negatives / images
        ratio = p / (p + noise + EPS)
        positive, negative = ratio[:, :1], noise / (p[:, 1:] + noise + EPS)
        return -(positive.log().sum(1) + negative.log().sum(1))


def length_one(x: Tensor) -> Tensor:
    return x / x.square().sum(1, keepdim=True).sqrt()
