"""How much of everything: the paper's numbers, and smaller ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from .encode import Encoding
from .run import Schedule
from .tuning import Tuning


@dataclass(frozen=True)
class Numbers:
    """All that a run can be made smaller by; the defaults are the paper's, for SDXL.

    Attributes:
        count: prompts sampled anew before each block group.
        steps, cfg, sampler, scheduler: of sampling, by ComfyUI's names.
        kmeans_steps, adam_steps, beam, rounds: see ``Encoding``.
        tuning_count, epochs, batch, rate: see ``Tuning``.
        size: of the pictures, in pixels; None for what the family was trained on.
    """

    count: int = 256
    steps: int = 50
    cfg: float = 5.0
    sampler: str = "ddim"
    scheduler: str = "ddim_uniform"
    kmeans_steps: int = 100
    adam_steps: int = 100
    beam: int = 8
    rounds: int = 1000
    tuning_count: int = 512
    epochs: int = 4
    batch: int = 64
    rate: float = 1e-6
    size: int | None = None

    def schedule(self, books: int, seed: int) -> Schedule:
        """With so many codebooks for each layer."""
        encoding = Encoding(
            books,
            kmeans_steps=self.kmeans_steps,
            adam_steps=self.adam_steps,
            beam=self.beam,
            rounds=self.rounds,
        )
        tuning = Tuning(self.tuning_count, self.epochs, self.batch, self.rate)
        return Schedule(encoding, tuning, self.count, seed)

    def changes(self) -> list[str]:
        """What is not as in the paper, one a line."""
        paper, here = asdict(Numbers()), asdict(self)
        return [
            f"{name.replace('_', ' ')}: {here[name]} instead of {paper[name]}"
            for name in paper
            if here[name] != paper[name] and name != "size"
        ]


MODELS = {
    "sdxl": Numbers(),
    # What its makers advise. The published scripts have no settings of their own for it.
    "sdxl-turbo": replace(
        Numbers(), steps=4, cfg=1.0, sampler="euler", scheduler="sgm_uniform", size=512
    ),
    # The model's own sampling; a higher rate, since there are a hundredth of the steps to learn in.
    "demo": replace(
        Numbers(),
        count=4,
        steps=20,
        cfg=3.0,
        kmeans_steps=5,
        adam_steps=25,
        rounds=1,
        tuning_count=4,
        epochs=1,
        batch=8,
        rate=1e-4,
    ),
}
"""By what ``--model`` takes."""
