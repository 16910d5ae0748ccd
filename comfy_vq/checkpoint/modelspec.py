"""ModelSpec 1.0.1 fields, by which model managers recognize and describe a file.

https://github.com/Stability-AI/ModelSpec
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from ..model import VQModel

_PREFIX = "modelspec."
_INHERITED = (
    "architecture",
    "author",
    "description",
    "license",
    "prediction_type",
    "resolution",
    "tags",
    "trigger_phrase",
    "usage_hint",
)
"""Fields of the source that hold for the coded model as well."""
_ARCHITECTURES = {
    "sd15": "stable-diffusion-v1",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sdxl-refiner": "stable-diffusion-xl-v1-refiner",
}
"""Architecture ids of families that have one."""


def modelspec_fields(model: VQModel, data_sha256: str) -> dict[str, str]:
    """Fields as far as they are known.

    Args:
        data_sha256: in hex, of the tensor data.
    """
    given = model.source.metadata
    fields = {k: given[_PREFIX + k] for k in _INHERITED if _PREFIX + k in given}
    family = str(model.plan.get("family", ""))
    if "architecture" not in fields and family in _ARCHITECTURES:
        fields["architecture"] = _ARCHITECTURES[family]
    fields["sai_model_spec"] = "1.0.1"
    fields["implementation"] = "comfy-vq"
    fields["title"] = f"{_title(given, model.source.name)} VQ{model.bits_per_weight:.2f}"
    fields["hash_sha256"] = f"0x{data_sha256}"
    return {_PREFIX + name: value for name, value in fields.items()}


def _title(metadata: Mapping[str, str], name: str) -> str:
    return metadata.get(f"{_PREFIX}title") or PurePath(name).stem or "model"
