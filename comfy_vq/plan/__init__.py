"""Which layer gets how many bits, for an average over the whole model.

>>> from comfy_vq import plan
>>> chosen = plan.make_plan(layers, other_bits, other_numel, bits=3.0)
>>> print(plan.to_table(chosen))
"""

from .families import detect_family
from .layers import Choice, Layer
from .plan import Plan
from .report import to_table
from .sensitivity import FAMILIES
from .task import TOLERANCE, Task, UnreachableError, make_plan

__all__ = [
    "FAMILIES",
    "TOLERANCE",
    "Choice",
    "Layer",
    "Plan",
    "Task",
    "UnreachableError",
    "detect_family",
    "make_plan",
    "to_table",
]
