"""Codecs turn a weight into a ``VQWeight`` and back.

>>> from comfy_vq import codecs
>>> coded = codecs.encode(weight, bits=3)
>>> coded.decode(weight.dtype), coded.bits_per_weight
"""

from ..kernels import Rotation
from .additive import Additive, AdditiveSpec
from .codebooks import OWN, shipped_set, shipped_table
from .encode import encode
from .encoder import EFFORTS
from .int8 import Int8, Int8Spec
from .registry import Codec, get, names, register, stored_bits
from .scales import ScaleRangeError
from .trellis import Trellis, TrellisSpec
from .weight import CodebookSet, Piece, VQWeight
from .widths import AUTO, CODECS, WIDTHS, Width, codec_of, spec_for, widths_of

register(Additive())
register(Int8())
register(Trellis())

__all__ = [
    "AUTO",
    "CODECS",
    "EFFORTS",
    "OWN",
    "WIDTHS",
    "AdditiveSpec",
    "CodebookSet",
    "Codec",
    "Int8Spec",
    "Piece",
    "Rotation",
    "ScaleRangeError",
    "TrellisSpec",
    "VQWeight",
    "Width",
    "codec_of",
    "encode",
    "get",
    "names",
    "register",
    "shipped_set",
    "shipped_table",
    "spec_for",
    "stored_bits",
    "widths_of",
]
