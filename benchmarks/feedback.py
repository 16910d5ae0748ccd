"""What each codec makes of a layer's output under second moments, and in what time.

    python -m benchmarks.feedback [--bits 2 3 4] [--effort balanced] [--decay 0 1.5 3] [--width 320]
    python -m benchmarks.feedback --model MODEL --calibration FILE --layers "*.attn1.to_q" "*.ff.net.2"

SQNR in dB of the output, all the energy of ``x W^T`` over that of its error, which moments tell
exactly; and processor time of one thread for each weight. The layers are Gaussian weights on inputs whose
powers fall by ``--decay`` dB from each tenth of their directions to the next, or those of a model, of
which only so many rows are coded as make up ``--weights``.
"""

import argparse
import math
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from comfy_vq import calibration, checkpoint, codecs
from comfy_vq.codecs.scales import weighted
from comfy_vq.codecs.weight import matrix_shape, to_matrix

_CODECS = ("additive", "trellis")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--effort", choices=codecs.EFFORTS, default="balanced")
    parser.add_argument(
        "--decay", type=float, nargs="+", default=[0, 1.5, 3], help="dB for each tenth"
    )
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--weights", type=int, default=20480, help="of a layer that are coded")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--calibration", type=Path, help="of the model")
    parser.add_argument("--layers", nargs="+", default=["*"], help="patterns of names")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if (args.model is None) != (args.calibration is None):
        parser.error("--model and --calibration go together")
    if args.model is None:
        layers = _gaussian(args.decay, args.width, args.weights)
    else:
        layers = _of_a_model(args.model, args.calibration, args.layers, args.weights)
    print("| layer | bits | " + " | ".join(f"{c} dB | us" for c in _CODECS) + " |")
    print("|---|---:|" + "---:|" * 2 * len(_CODECS))
    for name, weight, moments in layers:
        for bits in args.bits:
            found = (_measured(weight, moments, bits, codec, args.effort) for codec in _CODECS)
            cells = (f"{db:.2f} | {seconds * 1e6:.1f}" for db, seconds in found)
            print(f"| {name} | {bits} | " + " | ".join(cells) + " |", flush=True)


_Layer = tuple[str, Tensor, Tensor]
"""Name, weight, second moments of its input."""


def _gaussian(decays: list[float], width: int, weights: int) -> Iterator[_Layer]:
    generator = torch.Generator().manual_seed(1234)
    weight = torch.randn(max(1, weights // width), width, generator=generator)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    for decay in decays:
        powers = 10 ** (-torch.arange(width) / width * decay)
        yield f"gaussian, {decay:g} dB", weight, (basis * powers @ basis.T)[None]


def _of_a_model(
    model: Path, calibrated: Path, patterns: list[str], weights: int
) -> Iterator[_Layer]:
    found, dense = calibration.load(calibrated), checkpoint.open_dense(model)
    names = {key.removesuffix(".weight"): key for key in dense.keys()}  # noqa: SIM118
    for layer, moments in found.moments.items():
        if any(fnmatchcase(layer, pattern) for pattern in patterns):
            key = next(key for name, key in names.items() if name.endswith(layer))
            weight = dense.read(key).float()
            step = max(1, weight.numel() // weights)
            yield layer, weight[::step].contiguous(), moments.mean()


def _measured(
    weight: Tensor, moments: Tensor, bits: int, codec: str, effort: str
) -> tuple[float, float]:
    """SQNR in dB, seconds for each weight."""
    started = time.process_time()
    coded = codecs.encode(weight, bits, codec, effort, moments=moments, unbiased=True)
    seconds = time.process_time() - started
    rows, error = to_matrix(weight), to_matrix(weight - coded.decode())
    signal, noise = (float((part * weighted(part, moments)).sum()) for part in (rows, error))
    return 10 * math.log10(signal / noise), seconds / math.prod(matrix_shape(tuple(weight.shape)))


if __name__ == "__main__":
    main()
