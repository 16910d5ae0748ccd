"""Theirs and ours beside the published table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..estimate import duration
from ..evaluation.figures import Figures
from ..evaluation.report import Report, aligned
from .published import Published

_NONE = "-"
_PAPER = "in the paper: "


def comparison(
    report: Report,
    seconds: Mapping[str, float],
    scores: Mapping[str, Sequence[float]],
    published: Sequence[Published],
) -> str:
    """A Markdown table of what was measured here, and below it what the paper reports.

    Args:
        report: of theirs and ours.
        seconds: that making each model took, by its name.
        scores: ``Pickscore`` and ``CLIP`` of the models in the order of the report, where those were asked for.
        published: rows of the paper.
    """
    models = (report.reference, *report.candidates)
    judged = list(dict.fromkeys(name for model in models for name in model.judged or {}))
    heading = ("model", "bits/weight", "made in", "noise SQNR dB", "latent PSNR dB", *judged)
    rows: list[tuple[str, ...]] = [(*heading, "Pickscore", "CLIP", "FID")]
    for place, model in enumerate(models):
        seen = [
            f"{scores[name][place]:.3f}" if name in scores else _NONE
            for name in ("Pickscore", "CLIP")
        ]
        known = model.judged or {}
        shares = [f"{known[name]:.0%}" if name in known else _NONE for name in judged]
        rows.append((*_measured(model, seconds), *shares, *seen, _NONE))
    for row in published:
        empty = (_NONE,) * (3 + len(judged))
        figures = (f"{row.pickscore:.3f}", f"{row.clip:.3f}", f"{row.fid:.2f}")
        rows.append((f"{_PAPER}{row.name}", f"{row.bits:.2f}", *empty, *figures))
    return aligned(rows)


def _measured(model: Figures, seconds: Mapping[str, float]) -> tuple[str, ...]:
    sqnr = latents = _NONE
    if model.noise is not None:
        margin = model.noise.sqnr_db.margin
        sqnr = f"{model.noise.sqnr_db.value:.1f}" + ("" if margin is None else f" ± {margin:.1f}")
    if model.latents is not None:
        latents = f"{model.latents.psnr_db.value:.1f}"
    made = duration(seconds[model.name]) if model.name in seconds else _NONE
    return model.name, f"{model.size.bits_per_weight:.2f}", made, sqnr, latents
