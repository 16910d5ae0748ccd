"""The files of the soak: tiny models, LoRAs of three kinds, and files with something wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.soak_graphs import file_name
from comfy_vq import checkpoint
from comfy_vq.model import VQModel
from tests.comfy_server import ComfyServer
from tests.host.families import random_vq_model, tiny_state_dict

FAMILIES = ("sd15", "flux")
_RANK = 4


def write_files(server: ComfyServer) -> None:
    """Puts everything that ``soak_prompts`` names into the model folders of a server."""
    for family in FAMILIES:
        model = random_vq_model(family)
        checkpoint.save(server.models("vq") / file_name(family), model)
        for name, adapter in ADAPTERS.items():
            tensors = _lora(_layer_shapes(model), adapter)
            save_file(tensors, server.models("loras") / file_name(f"{family}-{name}"))
    save_file(_full_checkpoint(), server.models("checkpoints") / file_name("dense"))
    save_file(tiny_state_dict("flux"), server.models("diffusion_models") / file_name("dense"))
    _write_bad(server.models("vq"), (server.models("vq") / file_name("flux")).read_bytes())
    # Under a name that no dense file has, for a loader that is not for it.
    checkpoint.save(server.models("diffusion_models") / file_name("core"), random_vq_model("flux"))


def _full_checkpoint() -> dict[str, Tensor]:
    """A Stable Diffusion checkpoint with an autoencoder, but without a text encoder."""
    tensors = {f"model.diffusion_model.{k}": w for k, w in tiny_state_dict("sd15").items()}
    generator = torch.Generator().manual_seed(0)
    for key, tensor in TAESD(latent_channels=4).state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        tensors[f"first_stage_model.{key}"] = noise / max(1, tensor.shape[1:].numel()) ** 0.5
    return tensors


def _write_bad(folder: Path, whole: bytes) -> None:
    (folder / file_name("truncated")).write_bytes(whole[: len(whole) * 2 // 3])
    damaged = whole.replace(b'"vq.version":"1.0"', b'"vq.version":"1.x"')
    assert damaged != whole
    (folder / file_name("damaged")).write_bytes(damaged)
    save_file({"x": torch.zeros(8)}, folder / file_name("other"))


def _layer_shapes(model: VQModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.layers.items()}


Adapter = Callable[[tuple[int, ...], torch.Generator], dict[str, Tensor]]


def _lora(shapes: dict[str, tuple[int, ...]], adapter: Adapter) -> dict[str, Tensor]:
    """Random pieces for every layer, under the names that the host takes for any family."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"diffusion_model.{layer}.{piece}": tensor.contiguous()
        for layer, shape in shapes.items()
        for piece, tensor in adapter(shape, generator).items()
    }


def _low_rank(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    width = torch.Size(shape[1:]).numel()
    down = torch.randn((_RANK, *shape[1:]), generator=generator) / width**0.5
    up = torch.randn((shape[0], _RANK, *[1] * (len(shape) - 2)), generator=generator) / _RANK
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(float(_RANK))}


def _dora(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    magnitudes = 0.5 + torch.rand((shape[0], *[1] * (len(shape) - 1)), generator=generator)
    return {**_low_rank(shape, generator), "dora_scale": magnitudes}


def _lokr(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """The Kronecker product of a 2 x 2 matrix, or what fits, and a quarter of the weight."""
    rows, columns = (2 if size % 2 == 0 else 1 for size in shape[:2])
    small = (shape[0] // rows, shape[1] // columns, *shape[2:])
    width = torch.Size(shape[1:]).numel()
    return {
        "lokr_w1": torch.randn((rows, columns), generator=generator) / 2,
        "lokr_w2": torch.randn(small, generator=generator) / width**0.5,
    }


ADAPTERS: dict[str, Adapter] = {"low-rank": _low_rank, "lokr": _lokr, "dora": _dora}
