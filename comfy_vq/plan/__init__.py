"""Which layer gets how many bits, for an average over the whole model.

>>> from comfy_vq import plan
>>> chosen = plan.make_plan(layers, other_bits, other_numel, bits=3.0)
>>> print(chosen.table())
"""

from .families import detect_family
from .plan import TOLERANCE, Choice, Layer, Plan, UnreachableError, make_plan
from .sensitivity import FAMILIES

__all__ = [
    "FAMILIES",
    "TOLERANCE",
    "Choice",
    "Layer",
    "Plan",
    "UnreachableError",
    "detect_family",
    "make_plan",
]
