"""What a test model of a family is: how to build it, and what to sample it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_detection
import comfy.nested_tensor
import comfy.ops
import comfy.supported_models
import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """How to build a small model of a family, and what to sample it with.

    Attributes:
        build: the bare diffusion model, weights not initialized.
        host_class: name of the host's model class that the loader should choose.
        latent: shape of the latents; several where they are nested.
        context: width of the text conditioning.
        pooled: width of the pooled conditioning; 0 where the family has none.
        tokens: length of the text conditioning; 0 where the family has none.
        extra: further conditioning by name: shapes of random tensors.
        given: further conditioning by name, as it is.
        metadata: of the checkpoint's header, where the host reads it.
        root: shapes of tensors that the checkpoint holds beside the diffusion model.
        smaller: numbers that detection writes down and that are smaller here. Empty where the
            host's own detection is all that decides.
        adjust: changes random weights where detection looks at values.
        prefix: that the checkpoint's keys have before the names of the host.
        model: the entry of ``comfy.supported_models``; empty for those of every version.
        known_as: what the rules of plans call a real model of this family.
        full: builds the bare diffusion model at its real size, on meta; None where nothing in this
            small one is told otherwise than in a real one.
    """

    build: Callable[[], nn.Module]
    host_class: str
    latent: tuple[Any, ...]
    context: int
    pooled: int = 0
    tokens: int = 16
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    root: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    smaller: Mapping[str, Any] = field(default_factory=dict)
    adjust: Callable[[Weights], None] | None = None
    prefix: str = ""
    model: str = ""
    known_as: str = ""
    full: Callable[[], nn.Module] | None = None

    @property
    def missing(self) -> str:
        """Why the host has no such family; empty if it has."""
        if self.model and not hasattr(comfy.supported_models, self.model):
            return f"this ComfyUI has no {self.model}"
        return ""

    def empty_latent(self) -> Any:
        """Latents of zeros, for a sampler to fill with noise."""
        if isinstance(self.latent[0], tuple):
            return comfy.nested_tensor.NestedTensor([torch.zeros(s) for s in self.latent])
        return torch.zeros(self.latent)

    def conditioning(self, seed: int = 1) -> tuple[list, list]:
        """Random positive and negative CONDITIONING, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        context = None
        if self.context:
            context = torch.randn((1, self.tokens, self.context), generator=generator)
        extra: dict[str, Any] = {}
        if self.pooled:
            extra["pooled_output"] = torch.randn((1, self.pooled), generator=generator)
        for name, shape in self.extra.items():
            extra[name] = torch.randn(shape, generator=generator)
        extra |= self.given
        negative = None if context is None else -context
        return [[context, dict(extra)]], [[negative, dict(extra)]]

    @contextmanager
    def detected(self) -> Iterator[None]:
        """While it lasts, the host's detection writes down the smaller numbers for this family.

        What it recognizes the model by, and which class it chooses, is its own doing still.
        """
        if not self.smaller:
            yield
            return
        detect = comfy.model_detection.model_config_from_unet_config

        def smaller(*args: Any, **kwargs: Any) -> Any:
            config = detect(*args, **kwargs)
            if type(config).__name__ == self.model:
                config.unet_config.update(self.smaller)
            return config

        comfy.model_detection.model_config_from_unet_config = smaller
        try:
            yield
        finally:
            comfy.model_detection.model_config_from_unet_config = detect


def hosted(
    model: str,
    config: Mapping[str, Any],
    host_class: str,
    latent: tuple[int, ...],
    context: int,
    pooled: int = 0,
    device: str = "meta",
    **options: Any,
) -> Family:
    """A family built by the host itself, from what its detection would write down.

    Args:
        model: the entry of ``comfy.supported_models``.
        config: what detection finds in the checkpoint of such a model.
        device: to build on; not meta for those that compute while they are built.
        options: see ``Family``, but ``full`` is a config as detection finds it in a real model. By
            default it is ``config`` where there are smaller numbers.
    """
    if "smaller" in options:
        options.setdefault("full", config)
        # Of other sizes than the real ones, detection may leave out what it writes down for those.
        options["smaller"] = {**config, **options["smaller"]}

    def build() -> nn.Module:
        found, beside = options.get("smaller", config), options.get("root", {})
        return build_hosted(model, found, beside, device)

    if (full := options.pop("full", None)) is not None:
        options["full"] = lambda: build_hosted(model, full, options.get("root", {}), device)
    return Family(build, host_class, latent, context, pooled, model=model, **options)


def build_hosted(
    model: str,
    config: Mapping[str, Any],
    root: Mapping[str, tuple[int, ...]],
    device: str = "meta",
) -> nn.Module:
    """The bare diffusion model that the host builds from a config, its weights on meta."""
    chosen = getattr(comfy.supported_models, model)(dict(config))
    chosen.unet_config.update(config)
    chosen.set_inference_dtype(torch.float32, None)
    chosen.custom_operations = comfy.ops.manual_cast
    beside = {name: torch.zeros(shape) for name, shape in root.items()}
    return chosen.get_model(beside, device=device).diffusion_model
