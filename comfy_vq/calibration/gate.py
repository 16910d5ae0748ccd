"""Feedback of errors, unless the network's own output speaks against it.

A smaller error of a layer's output on calibrated inputs does not always make for a smaller one of the
network's: inputs of other prompts differ, and the errors of feedback are larger in the directions that
calibration has not seen.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..codecs import VQWeight
from ..codecs.scales import squared_errors
from ..codecs.weight import to_matrix
from ..probe import Probe
from .moments import Calibration

log = logging.getLogger(__name__)

NOT_HEARD = "no input was heard"
NOT_POSITIVE = "moments that are of no input"
NOT_SMALLER = "no smaller error under its moments"
MORE_NOISE = "much more noise in the network's output"

_CLEARLY = 2.0
"""How many times the noise is too much. A few questions scatter: what they judge worse by a decibel, others may
judge better by several, and the calibration has heard many more."""

Encode = Callable[[Tensor | None], VQWeight]
"""Codes a weight under moments, or without."""


@dataclass
class Gate:
    """Chooses for one layer after the other.

    Attributes:
        calibration: of the model.
        make_probe: of the dense model, called once something is to be asked; None to take feedback
            wherever it can be had.
        refused: reasons by layer.
        kept: layers coded with feedback.
    """

    calibration: Calibration
    make_probe: Callable[[], Probe] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    _rejected: dict[str, VQWeight] = field(default_factory=dict)

    @cached_property
    def _probe(self) -> Probe | None:
        return None if self.make_probe is None else self.make_probe()

    @property
    def tries(self) -> int:
        """How often a layer is coded."""
        return 1 if self.make_probe is None else 2

    def choose(self, name: str, weight: Tensor, encode: Encode) -> VQWeight:
        """The coded weight, with feedback or without.

        Args:
            weight: dense.
        """
        moments = self.calibration.moments.get(name)
        inputs = None if moments is None else moments.mean().to(weight.device)
        if inputs is None or not bool(inputs.any()):
            return self._refuse(name, NOT_HEARD, encode(None))
        try:
            fed = encode(inputs)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            return self._refuse(name, NOT_POSITIVE, encode(None))
        if self._probe is not None:
            plain = encode(None)
            if not _error(weight, fed, inputs) < _error(weight, plain, inputs):
                return self._refuse(name, NOT_SMALLER, plain)
            most = _CLEARLY * _noise_of(self._probe, name, plain)
            if not _noise_of(self._probe, name, fed) <= most:
                self._rejected[name] = fed.to("cpu")
                return self._refuse(name, MORE_NOISE, plain)
        self.kept.append(name)
        return fed

    def settled(self, layers: Mapping[str, VQWeight]) -> dict[str, VQWeight]:
        """The model with what the output rejected asked about again, now that all layers are coded.

        By itself a layer's noise is one thing; what it adds to that of all others is what counts.

        Args:
            layers: all that were coded, by name.
        """
        settled = dict(layers)
        if not self._rejected or self._probe is None:
            return settled
        probed = settled.keys() & set(self._probe.layers)
        try:
            for name in probed:
                self._probe.exchange(name, settled[name])
            least = self._probe.noise()
            for name, fed in self._rejected.items():
                self._probe.exchange(name, fed)
                noise = self._probe.noise()
                if noise < least:
                    least, settled[name] = noise, fed
                    del self.refused[name]
                    self.kept.append(name)
                else:
                    self._probe.exchange(name, settled[name])
        finally:
            for name in probed:
                self._probe.exchange(name, None)
        return settled

    def fingerprint(self) -> str:
        """What tells apart gates that may choose differently."""
        return f"{self.calibration.digest()} {self.make_probe is not None}"

    def summary(self) -> dict[str, Any]:
        """A few JSON values for a file's header."""
        return {
            "pictures": self.calibration.pictures,
            "gated": self.make_probe is not None,
            "layers": len(self.kept),
            "refused": dict(sorted(Counter(self.refused.values()).items())),
        }

    def _refuse(self, name: str, reason: str, plain: VQWeight) -> VQWeight:
        log.info("layer %s is coded without calibration: %s", name, reason)
        self.refused[name] = reason
        return plain


def _noise_of(probe: Probe, name: str, weight: VQWeight) -> float:
    """Of the output with this layer coded and all others dense."""
    probe.exchange(name, weight)
    try:
        return probe.noise()
    finally:
        probe.exchange(name, None)


def describe(summary: Mapping[str, Any]) -> str:
    """``Gate.summary`` in a line, for people."""
    line = f"calibrated on {summary['pictures']} pictures: {summary['layers']} layers coded with feedback"
    if not summary["gated"]:
        line += ", unchecked against the network's output"
    refused = (f"{count} without, {why}" for why, count in summary["refused"].items())
    return "; ".join([line, *refused])


def _error(weight: Tensor, coded: VQWeight, inputs: Tensor) -> float:
    """Squared error of the layer's output, up to a factor."""
    dense, decoded = to_matrix(weight).float(), to_matrix(coded.decode(torch.float32))
    return float(squared_errors(dense, decoded, inputs).sum())
