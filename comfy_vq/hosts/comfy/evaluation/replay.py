"""Listening to the host's sampler, and asking a model again what it was asked before.

Both go through the host's whole way of sampling, so that whatever nodes attached to a MODEL
(patches, hooks, wrappers, ControlNets in the conditioning) acts as it does in a workflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

_KEY = "comfy_vq_evaluation"


@dataclass(frozen=True, eq=False)
class Call:
    """One evaluation of a model by a sampler, on the CPU.

    Attributes:
        x: the noisy latents, float32 ``[1, ...]``, before the model scales them.
        sigma: float32 ``[1]``.
        timestep: of this sigma, in the model's own scale.
        noise: float32 ``[k, ...]``: predictions for the positive and, where guidance asks for it,
            the negative conditioning.
    """

    x: Tensor
    sigma: Tensor
    timestep: float
    noise: Tensor


class Listener:
    """Keeps what a sampler asks and a model answers.

    A prediction is ``(x - denoised) / sigma``: the noise of models that predict noise or
    ``v``, the velocity of flow models, whatever else the host does around them.

    Args:
        on_call: called after every evaluation; what it raises ends the sampling.
    """

    def __init__(self, on_call: Callable[[], object]) -> None:
        self.calls: list[Call] = []
        self._on_call = on_call
        self._answers: list[Tensor] | None = None

    def attach(self, patcher: ModelPatcher) -> ModelPatcher:
        """A clone that is listened to."""
        clone = patcher.clone()
        clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, _KEY, self._sample)
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, _KEY, self._predict)
        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, _KEY, self._calculate)
        return clone

    def _sample(
        self,
        executor: WrapperExecutor,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent: Tensor,
        mask: Tensor | None,
        disable_bar: bool,
    ) -> Tensor:
        # Without callback and bar, which would show the progress of this one picture.
        return executor(guider, sigmas, extra_args, None, noise, latent, mask, True)

    def _predict(
        self, executor: WrapperExecutor, x: Tensor, sigma: Tensor, *rest: Any, **options: Any
    ) -> Tensor:
        self._answers = None
        denoised = executor(x, sigma, *rest, **options)
        # Guidance of other kinds does not pass the function that is listened to.
        noise = torch.cat([_noise(x, sigma, answer) for answer in self._answers or [denoised]])
        sampling = executor.class_obj.inner_model.model_sampling
        timestep = float(sampling.timestep(sigma).flatten()[0])
        self.calls.append(Call(_kept(x), _kept(sigma), timestep, _kept(noise)))
        self._on_call()
        return denoised

    def _calculate(
        self, executor: WrapperExecutor, model: Any, conditions: list[Any], *rest: Any
    ) -> list[Tensor]:
        denoised = executor(model, conditions, *rest)
        # The first time per evaluation: some guidance asks again with a changed model.
        if self._answers is None:
            pairs = zip(conditions, denoised, strict=True)
            self._answers = [answer.clone() for asked, answer in pairs if asked is not None]
        return denoised


class Replay(Listener):
    """Asks a model what a sampler asked another one, instead of sampling."""

    def __init__(self, calls: Sequence[Call], on_call: Callable[[], object]) -> None:
        super().__init__(on_call)
        self._asked = calls

    def _sample(
        self,
        executor: WrapperExecutor,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *rest: Any,
    ) -> Tensor:
        for asked in self._asked:
            guider(asked.x.to(noise), asked.sigma.to(noise), **extra_args)
        return noise


def _noise(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    return (x.float() - denoised.float()) / sigma.float().view(-1, *[1] * (x.ndim - 1))


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
