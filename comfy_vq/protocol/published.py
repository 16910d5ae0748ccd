"""What the paper reports of SDXL, on prompts and pictures of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of the table in the paper and on its project page (yandex-research.github.io/vqdm).

    Attributes:
        books: codebooks of a layer; None where that is not VQDM.
    """

    name: str
    bits: float
    pickscore: float
    clip: float
    fid: float
    books: int | None = None


SDXL = (
    Published("SDXL", 32, 0.226, 0.357, 18.99),
    Published("VQDM", 4.15, 0.226, 0.356, 19.11, 4),
    Published("VQDM", 3.15, 0.225, 0.355, 19.18, 3),
    Published("VQDM", 2.15, 0.219, 0.341, 22.14, 2),
    Published("Q-Diffusion", 4, 0.225, 0.355, 19.30),
    Published("PTQ4DM", 4, 0.224, 0.353, 19.78),
)
