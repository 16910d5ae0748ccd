"""Layers and decoding at SDXL's shapes: dense against VQ, in one run on one device.

    python -m benchmarks.kernels [--device cuda] [--dtype fp16] [--books 3]

Linear layers and convolutions as ratios to the dense layer of the same run, for each codec: exact (decode,
then multiply), int8 (decode to int8, rotate and quantize the input, multiply in int8) and Q4_K
dequantized in eager PyTorch, as ComfyUI-GGUF does, then multiplied. Under 1 is faster than dense.
Decoding in 10^9 weights per second and as a share of the bandwidth of a copy in the same run;
bytes of codes and scales read and of weights written count. Last, what a call costs the processor.
Weights are random codes. On a CPU ``--rows-scale`` keeps the rows of inputs few.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from benchmarks import layers, q4_k
from benchmarks.decoding import decode_table, q4_k_weight
from benchmarks.kernel_settings import DTYPES, Settings, guarded
from benchmarks.layers import Call, Missing
from benchmarks.overhead import overhead_table
from benchmarks.timing import Timer, markdown, where
from comfy_vq import compute, kernels
from comfy_vq.kernels import dispatch


def linear_table(settings: Settings) -> str:
    rows = []
    without = layers.int8_missing()
    for m, n, k in settings.linears():
        x, bias, coded = settings.normal(m, k), settings.normal(n), settings.coded((n, k))
        path = settings.coded((n, k), settings.trellis_bits, "trellis")
        dense = coded.decode(settings.dtype)
        blocks = q4_k.random_blocks(n * k, settings.device)
        ways: list[Call | Missing] = [
            lambda x=x, c=coded, b=bias: compute.linear(x, c, b),
            lambda x=x, c=path, b=bias: compute.linear(x, c, b),
            without or (lambda x=x, c=coded, b=bias: layers.int8_linear(x, c, b)),
            without or (lambda x=x, c=path, b=bias: layers.int8_linear(x, c, b)),
            lambda x=x, q=blocks, s=(n, k), b=bias: F.linear(x, q4_k_weight(q, s, x.dtype), b),
        ]
        seconds = settings.timer.seconds(lambda x=x, w=dense, b=bias: F.linear(x, w, b))
        cells = [_ratio(way, seconds, settings) for way in ways]
        rows.append([f"{m},{n},{k}", *_speed(seconds, 2 * m * n * k), *cells])
    ours = ["additive", "trellis", "additive int8", "trellis int8"]
    head = ["M,N,K", "dense ms", "dense TFLOP/s", *ours, "Q4_K eager"]
    return markdown(head, rows)


def convolution_table(settings: Settings) -> str:
    rows = []
    for n, k, side in settings.convolutions():
        coded = settings.coded((n, k, 3, 3))
        path = settings.coded((n, k, 3, 3), settings.trellis_bits, "trellis")
        x, bias = settings.normal(2, k, side, side), settings.normal(n)
        dense = coded.decode(settings.dtype).contiguous()
        blocks = q4_k.random_blocks(coded.numel, settings.device)
        seconds = settings.timer.seconds(lambda x=x, w=dense, b=bias: F.conv2d(x, w, b, padding=1))
        nhwc = dense.contiguous(memory_format=torch.channels_last)
        ways: list[Call | Missing] = [
            lambda x=x, w=nhwc, b=bias: F.conv2d(x, w, b, padding=1),
            lambda x=x, c=coded, b=bias: layers.exact_conv2d(x, c, b, padding=1),
            lambda x=x, c=path, b=bias: layers.exact_conv2d(x, c, b, padding=1),
            lambda x=x, q=blocks, s=coded.shape, b=bias: F.conv2d(
                x, q4_k_weight(q, s, x.dtype), b, padding=1
            ),
        ]
        cells = [_ratio(way, seconds, settings) for way in ways]
        shape = f"{k} to {n} at {side}x{side}"
        rows.append([shape, *_speed(seconds, 2 * coded.numel * 2 * side * side), *cells])
    ours = ["dense, channels_last weight", "additive", "trellis"]
    head = ["3x3", "dense ms", "dense TFLOP/s", *ours, "Q4_K"]
    return markdown(head, rows)


def _ratio(way: Call | Missing, dense: float, settings: Settings) -> str:
    if isinstance(way, Missing):
        return "-"
    found = guarded(lambda: settings.timer.seconds(way))
    return f"{found / dense:.2f}" if isinstance(found, float) else f"failed: {found.reason}"


def _speed(seconds: float, operations: float) -> list[str]:
    return [f"{1e3 * seconds:.3f}", f"{operations / seconds / 1e12:.2f}"]


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--books", type=int, default=3, help="codebooks: bits per weight")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls, of which the median")
    parser.add_argument("--rows-scale", type=float, help="1 on a graphics card, 1/16 on a CPU")
    parser.add_argument(
        "--width-scale",
        type=int,
        choices=(1, 2, 4),
        default=1,
        help="divides all widths; for tests",
    )
    parser.add_argument("--copy-mib", type=int, default=1024 if cuda else 256)
    args = parser.parse_args()
    device = torch.device(args.device)
    rows_scale = args.rows_scale or (1.0 if device.type == "cuda" else 1 / 16)
    timer = Timer(device, args.repeats)
    settings = Settings(timer, DTYPES[args.dtype], args.books, rows_scale, args.width_scale)
    with torch.inference_mode():
        print(where(device))
        for operation in dispatch.OPERATIONS:
            print(f"* {kernels.explain(operation, device)}")
        missing = layers.int8_missing()
        print(f"* VQ int8: {missing.reason if missing else 'comfy_kitchen.int8_linear'}")
        bandwidth = timer.copy_bandwidth(args.copy_mib << 20)
        print(f"* copy of {args.copy_mib} MiB: {bandwidth / 1e9:.1f} GB/s read and written")
        print(f"* {args.dtype}, M={args.books}, rows of inputs times {rows_scale:g}\n")
        for table in (linear_table, convolution_table):
            print(table(settings), "\n", sep="", flush=True)
        print(decode_table(settings, bandwidth), "\n", sep="", flush=True)
        print(overhead_table(settings), flush=True)


if __name__ == "__main__":
    main()
