"""What users do with models, as rows that run: the compatibility table.

``SECTIONS`` are its parts in order, each with rows of ``Feature`` or ``Untested``.
"""

from __future__ import annotations

from host.features import (
    attention,
    conditioning,
    control,
    families,
    guidance,
    hooks,
    lora,
    merging,
    pictures,
    refused,
    running,
    sampling,
    untested,
)
from host.features.feature import Feature, Untested

SECTIONS: dict[str, list[Feature] | list[Untested]] = {
    "LoRA": lora.FEATURES,
    "LoRA hooks": hooks.FEATURES,
    "Merging and saving": merging.FEATURES,
    "Running": running.FEATURES,
    "Control networks": control.FEATURES,
    "Prompts, regions, windows": conditioning.FEATURES,
    "Pictures": pictures.FEATURES,
    "Of one family": families.FEATURES,
    "Attention and blocks": attention.FEATURES,
    "Guidance": guidance.FEATURES,
    "Sampling": sampling.FEATURES,
    "Refused": refused.FEATURES,
    "Untested": untested.FEATURES,
}
