"""The ruler: candidates against a reference, one at a time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import VQError
from .bench import Bench, Judge, Recording, Size, spread
from .figures import FLOOR, Figures, latent_figures, noise_figures, picture_figures
from .layers import layer_errors
from .report import Report, to_json, to_markdown

_SHOWN = 8
_FLOOR_BYTES = 2  # of a weight in bfloat16
_PACKAGES = {"scipy": "scipy", "kornia": "kornia", "pillow": "PIL"}  # ComfyUI brings them

Say = Callable[[str], None]


@dataclass(frozen=True)
class Named:
    """A model to measure.

    Attributes:
        name: for people.
        model: a file, or a model of the host that is loaded already.
        size: as stored.
        extra: further figures for the table, by heading, such as seconds of quantization.
    """

    name: str
    model: Any
    size: Size
    extra: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    bench: Bench,
    reference: Named,
    candidates: Sequence[Named],
    out: Path | None,
    *,
    judge: Judge | None = None,
    layers: bool = True,
    floor: bool = False,
    note: str | None = None,
    say: Say = print,
) -> Report:
    """Measure candidates against a reference, and write the report.

    Args:
        out: a folder, made where it is missing, for ``report.md``, ``report.json``,
            ``pictures.png`` where the bench has an autoencoder, and plots; None writes nothing.
        judge: of pictures, the reference's included.
        layers: compare layer by layer too, for which the reference stays loaded beside each
            candidate.
        floor: measure the reference rounded to bfloat16 as well.
        note: what a reader of the figures should know.
        say: told how far this is, and what could not be loaded.

    Raises:
        VQError: a package is missing, the folder cannot be made, or none of the candidates could
            be measured; and whatever the reference's loading raises.
    """
    check_packages()
    if out is not None:
        _make_folder(out)
    ruler = _Ruler(bench, reference, judge, layers, say)
    say(f"{reference.name}: recorded {len(bench.prompts)} prompts in {ruler.seconds:.1f} s")
    measured: list[Figures] = []
    failures: dict[str, str] = {}
    queue = [*([_floor(reference)] if floor else []), *candidates]
    for candidate in queue:
        try:
            figures = ruler.measure(candidate)
        except (VQError, RuntimeError) as error:  # the second is torch's, such as of shapes
            failures[candidate.name] = str(error)
            say(f"{candidate.name}: cannot be measured: {error}")
        else:
            if figures is not None:
                measured.append(figures)
                say(_line(figures))
        gc.collect()  # a host's models refer to themselves
    if candidates and all(candidate.name in failures for candidate in candidates):
        raise VQError("no candidate could be measured; " + "; ".join(failures.values()))
    report = Report(
        host=bench.name,
        torch=str(torch.__version__),
        prompts=tuple(bench.prompts),
        seeds=tuple(bench.seeds),
        timesteps=ruler.recording.timesteps,
        reference=ruler.figures,
        candidates=tuple(measured),
        failures=failures,
        note=note,
    )
    if out is not None:
        _write(out, report, ruler.shown, say)
    return report


@dataclass(frozen=True)
class _Floor:
    """Stands where a model does: the one whose weights are to be rounded."""

    model: Any


def _floor(reference: Named) -> Named:
    numel = reference.size.numel
    return Named(FLOOR, _Floor(reference.model), Size(_FLOOR_BYTES * numel, numel))


def _load(bench: Bench, model: Any) -> Any:
    if isinstance(model, _Floor):
        return bench.floor(model.model)
    return bench.load(model) if isinstance(model, Path) else model


class _Ruler:
    """The reference's answers, and how others compare with them.

    Attributes:
        shown: pictures of the prompts that the grid shows, by model; not those of the floor.
    """

    def __init__(
        self, bench: Bench, reference: Named, judge: Judge | None, layers: bool, say: Say
    ) -> None:
        self._bench = bench
        self._judge = judge
        self._say = say
        model = _load(bench, reference.model)
        started = time.monotonic()
        self.recording: Recording = bench.record(model)
        self.seconds = time.monotonic() - started
        self._pictures = bench.decode(self.recording.latents)
        self.shown: dict[str, Tensor] = {}
        self._show(reference.name, self._pictures)
        self.figures = Figures(
            reference.name,
            reference.size,
            self.seconds,
            judged=self._judged(self._pictures),
            extra=reference.extra,
        )
        self._reference = model if layers else None

    def measure(self, candidate: Named) -> Figures | None:
        """None if the host has no floor."""
        bench, recording = self._bench, self.recording
        model = _load(bench, candidate.model)
        if model is None:
            return None
        predicted = bench.predict(model, recording)
        if predicted.shape != recording.noise.shape:
            raise VQError(
                f"{candidate.name}: predicts noise of shape {list(predicted.shape)}, the reference of "
                f"{list(recording.noise.shape)}; compare models of one family"
            )
        started = time.monotonic()
        latents = bench.sample(model)
        seconds = time.monotonic() - started
        pictures = bench.decode(latents)
        errors = self._layer_errors(candidate.name, model)
        self._show(candidate.name, pictures)
        compared = None
        if self._pictures is not None and pictures is not None:
            compared = picture_figures(self._pictures, pictures)
        return Figures(
            candidate.name,
            candidate.size,
            seconds,
            noise_figures(recording, predicted),
            latent_figures(recording.latents, latents),
            compared,
            self._judged(pictures),
            errors,
            candidate.extra,
        )

    def _layer_errors(self, name: str, model: Any) -> dict[str, float]:
        if self._reference is None:
            return {}
        try:
            return layer_errors(self._bench, self._reference, model, self.recording)
        except RuntimeError as error:  # such as of memory, with two models loaded
            self._say(f"{name}: layers cannot be compared: {error}")
            return {}

    def _judged(self, pictures: Tensor | None) -> dict[str, float] | None:
        return None if self._judge is None or pictures is None else self._judge(pictures)

    def _show(self, name: str, pictures: Tensor | None) -> None:
        if pictures is not None and name != FLOOR:
            self.shown[name] = pictures[spread(range(len(pictures)), _SHOWN)]


def _line(figures: Figures) -> str:
    noise = figures.noise.sqnr_db.value if figures.noise else 0.0
    return (
        f"{figures.name}: {figures.size.bits_per_weight:.2f} bits per weight, noise SQNR "
        f"{noise:.1f} dB, sampled in {figures.sample_seconds:.1f} s"
    )


def check_packages() -> None:
    """Raises VQError if what ``evaluate`` cannot do without is not installed."""
    missing = [name for name, module in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise VQError(
            f"measuring needs packages that are not here: pip install {' '.join(missing)}"
        )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VQError(f"{out}: cannot be made a folder ({error.strerror}); name another") from error


def _write(out: Path, report: Report, shown: Mapping[str, Tensor], say: Say) -> None:
    (out / "report.md").write_text(to_markdown(report), encoding="utf-8")
    (out / "report.json").write_text(to_json(report), encoding="utf-8")
    if shown:
        from .pictures import draw_grid

        draw_grid(spread(report.prompts, _SHOWN), shown).save(out / "pictures.png")
    try:
        from .plots import write_plots
    except ImportError:
        say("plots need a package that is not here: pip install matplotlib")
    else:
        write_plots(out, report)
