"""NF4 by bitsandbytes' own quantizer, which runs on a CPU.

pip install --no-deps bitsandbytes
"""

from __future__ import annotations

from torch import Tensor

from .format import Coder

_BLOCK = 64  # bitsandbytes' default


def nf4(double: bool = False) -> Coder:
    """4 bits and a float32 scale for each 64 weights: 4.5 bits.

    ``double`` quantizes the scales too, to bytes with a float32 for each 256 of them: 4.127 bits. The
    tables that every layer repeats in a file of bitsandbytes are not counted.
    """

    def coder(matrix: Tensor) -> tuple[Tensor, int]:
        from bitsandbytes import functional

        codes, state = functional.quantize_4bit(
            matrix.contiguous(), blocksize=_BLOCK, quant_type="nf4", compress_statistics=double
        )
        nbytes = codes.nbytes + state.absmax.nbytes
        if double:
            nbytes += state.state2.absmax.nbytes + state.offset.nbytes
        return functional.dequantize_4bit(codes, state), nbytes

    return coder
