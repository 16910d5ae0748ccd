"""Control networks: what steers a model from beside it."""

from __future__ import annotations

import re
from functools import cache
from types import SimpleNamespace
from typing import Any

import comfy.cldm.cldm
import comfy.cldm.dit_embedder
import comfy.ldm.flux.controlnet
import comfy.ops
import comfy.t2i_adapter.adapter
import comfy.utils
import torch
from torch import Tensor, nn

from host.features.feature import Feature, Run
from host.features.files import folder_of, picture, random_weights, tiny_vae
from host.features.graph import Graph, call, one, present, sample
from host.features.lora import with_lora

OPERATIONS = {"operations": comfy.ops.manual_cast}


def _unet_config(graph: Graph) -> dict[str, Any]:
    config = dict(graph.model.model.model_config.unet_config)
    return {k: v for k, v in config.items() if k not in ("out_channels", "device", "dtype")}


def _control_net(graph: Graph) -> nn.Module:
    return comfy.cldm.cldm.ControlNet(hint_channels=3, **{**_unet_config(graph), **OPERATIONS})


def _save(name: str, weights: dict[str, Tensor]) -> str:
    path = folder_of("controlnet") / f"{name}.safetensors"
    comfy.utils.save_torch_file(weights, str(path))
    return path.name


def _controlled(graph: Graph, control_net: Any, side: int = 64, **inputs: Any) -> Graph:
    positive, negative = call(
        "ControlNetApplyAdvanced",
        positive=graph.positive,
        negative=graph.negative,
        control_net=control_net,
        image=picture(side),
        **inputs,
    )
    return graph.with_(positive=positive, negative=negative)


def _load(name: str) -> Any:
    return one("ControlNetLoader", control_net_name=name)


def _sd15_file(graph: Graph, seed: int = 11) -> str:
    return _save(f"sd15-{seed}", random_weights(_control_net(graph), seed))


def _sd15(graph: Graph) -> Tensor:
    return sample(_controlled(graph, _load(_sd15_file(graph)), strength=0.5))


def _two(graph: Graph) -> Tensor:
    first, second = (_load(_sd15_file(graph, seed)) for seed in (11, 12))
    return sample(_controlled(_controlled(graph, first), second, strength=0.5, end_percent=0.7))


def _old_apply_node(graph: Graph) -> Tensor:
    control_net = _load(_sd15_file(graph))
    inputs = {"control_net": control_net, "image": picture(64)}
    positive = one("ControlNetApply", conditioning=graph.positive, **inputs)
    return sample(graph.with_(positive=positive))


def _differences(graph: Graph) -> Tensor:
    """A file that holds differences from the model, which the loader adds them to."""
    weights = {f"control_model.{k}": v for k, v in random_weights(_control_net(graph)).items()}
    weights["difference"] = torch.zeros(1)
    name = _save("difference", weights)
    control_net = one("DiffControlNetLoader", model=graph.model, control_net_name=name)
    return sample(_controlled(graph, control_net))


def control_lora_file(graph: Graph) -> str:
    """Low-rank changes of the model's own layers, and layers that the model has not."""
    generator = torch.Generator().manual_seed(13)
    own = graph.model.model.diffusion_model
    weights = {"lora_controlnet": torch.zeros(1)}
    for key, value in random_weights(_control_net(graph)).items():
        module, _, name = key.rpartition(".")
        try:
            held = comfy.utils.get_attr(own, key)
        except AttributeError:
            weights[key] = value
            continue
        if name == "weight" and held.ndim in (2, 4):
            rows, columns = held.shape[0], held[0].numel()
            weights[f"{module}.up"] = torch.randn((rows, 4), generator=generator) / 2
            weights[f"{module}.down"] = (
                torch.randn((4, columns), generator=generator) / columns**0.5
            )
    return _save("control-lora", weights)


def _control_lora(graph: Graph) -> Tensor:
    return sample(_controlled(graph, _load(control_lora_file(graph))))


def _lora_alone(graph: Graph) -> Tensor:
    return sample(with_lora(graph))


def _t2i_adapter(graph: Graph) -> Tensor:
    widths = {"cin": 64 * 3, "channels": [320, 640, 1280, 1280], "nums_rb": 4}
    weights = random_weights(comfy.t2i_adapter.adapter.Adapter_light(**widths))
    return sample(_controlled(graph, _load(_save("t2i", weights))))


@cache
def _sd35_weights(double: bool) -> dict[str, Tensor]:
    network = comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None,
        patch_size=2,
        in_chans=16,
        attention_head_dim=64,
        num_attention_heads=2,
        adm_in_channels=2048,
        num_layers=1,
        main_model_double=2,
        double_y_emb=double,
        device=torch.device("cpu"),
        dtype=torch.float32,
        **OPERATIONS,
    )
    # Taken from the model, they are not in the file.
    taken = "orig_y_embedder." if double else "x_embedder."
    return {k: v for k, v in random_weights(network).items() if not k.startswith(taken)}


def _sd35(double: bool) -> Run:
    def run(graph: Graph) -> Tensor:
        control_net = _load(_save(f"sd35-{double}", _sd35_weights(double)))
        return sample(_controlled(graph, control_net, vae=tiny_vae(16)))

    return run


def _flux(graph: Graph) -> Tensor:
    config = {**_unet_config(graph), "out_channels": 16, **OPERATIONS}
    weights = random_weights(comfy.ldm.flux.controlnet.ControlNetFlux(**config))
    # Files call the weights of these norms scales.
    named = {re.sub(r"(_norm)\.weight$", r"\1.scale", key): value for key, value in weights.items()}
    control_net = _load(_save("flux", named))
    return sample(_controlled(graph, control_net, side=128))


def _control_lora_of_patched(graph: Graph) -> Tensor:
    """It sees the model's LoRA, as the network that it is made of has it."""
    return sample(_controlled(with_lora(graph), _load(control_lora_file(graph))))


def _uni3c(graph: Graph) -> Tensor:
    """A network that adds to each block of Wan. The autoencoder of videos is a stand-in."""
    present("WanUni3CControlnetApply")
    from comfy.ldm.wan.uni3c import WanUni3CControlnet

    widths = {"conv_out_dim": 128, "dim": 96, "ffn_dim": 128, "num_heads": 4, "num_layers": 1}
    widths |= {"time_embed_dim": 128, "out_proj_dim": 128, "mid_channels": 16}
    network = WanUni3CControlnet(**widths, **OPERATIONS)
    path = folder_of("model_patches") / "uni3c.safetensors"
    comfy.utils.save_torch_file(random_weights(network), str(path))
    encoded = torch.randn((1, 16, 1, 8, 8), generator=torch.Generator().manual_seed(14))
    autoencoder = SimpleNamespace(
        temporal_compression_decode=lambda: 4,
        spacial_compression_encode=lambda: 8,
        encode=lambda frames: encoded,
    )
    model = one(
        "WanUni3CControlnetApply",
        model=graph.model,
        model_patch=one("ModelPatchLoader", name=path.name),
        vae=autoencoder,
        render_video=picture(64),
    )
    return sample(graph.with_(model=model))


FEATURES = [
    Feature("ControlNet", ("ControlNetLoader", "ControlNetApplyAdvanced"), "sd15", _sd15),
    Feature("ControlNet, old node", ("ControlNetApply",), "sd15", _old_apply_node),
    Feature("Two ControlNets in a row", ("ControlNetApplyAdvanced",), "sd15", _two),
    Feature(
        "ControlNet of differences from the model",
        ("DiffControlNetLoader",),
        "sd15",
        _differences,
        note="the differences are added to the decoded weights",
    ),
    Feature(
        "Control-LoRA",
        ("ControlNetLoader",),
        "sd15",
        _control_lora,
        note="shares the model's codes, and decodes them as it runs",
    ),
    Feature(
        "Control-LoRA on a model with a LoRA",
        ("ControlNetLoader", "LoraLoaderModelOnly"),
        "sd15",
        _control_lora_of_patched,
        _lora_alone,
    ),
    Feature("T2I-Adapter", ("ControlNetLoader",), "sd15, two blocks", _t2i_adapter),
    *(
        Feature(
            f"ControlNet of Stability for SD3.5, {what} from the model",
            ("ControlNetLoader",),
            "sd3",
            _sd35(double),
        )
        for double, what in ((True, "y embedder"), (False, "x embedder"))
    ),
    Feature("Uni3C for Wan", ("ModelPatchLoader", "WanUni3CControlnetApply"), "wan", _uni3c),
    Feature("ControlNet for Flux (XLabs)", ("ControlNetLoader",), "flux", _flux),
]
