"""Samplers, schedulers and what a model is told about its noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from host.features.feature import Feature, Run, patched
from host.features.graph import Graph, one, sample


def custom(graph: Graph, guider: Any, sampler: Any = None, sigmas: Any = None) -> Tensor:
    """Latents from SamplerCustomAdvanced."""
    if sigmas is None:
        sigmas = one("BasicScheduler", model=graph.model, scheduler="simple", steps=graph.steps)
    return one(
        "SamplerCustomAdvanced",
        noise=one("RandomNoise", noise_seed=1),
        guider=guider,
        sampler=sampler or one("KSamplerSelect", sampler_name=graph.sampler),
        sigmas=sigmas,
        latent_image=graph.latent,
    )["samples"]


def _cfg_guider(graph: Graph) -> Any:
    prompts = {"positive": graph.positive, "negative": graph.negative}
    return one("CFGGuider", model=graph.model, cfg=3.0, **prompts)


def _custom_sampler(graph: Graph) -> Tensor:
    return custom(graph, _cfg_guider(graph))


def _sampler_custom(graph: Graph) -> Tensor:
    return one(
        "SamplerCustom",
        model=graph.model,
        noise_seed=1,
        cfg=3.0,
        positive=graph.positive,
        negative=graph.negative,
        sampler=one("KSamplerSelect", sampler_name="dpmpp_2m"),
        sigmas=one("KarrasScheduler", steps=3),
        latent_image=graph.latent,
    )["samples"]


def _sa_solver(graph: Graph) -> Tensor:
    return custom(graph, _cfg_guider(graph), one("SamplerSASolver", model=graph.model))


def _scheduled(node: str, **inputs: Any) -> Run:
    def run(graph: Graph) -> Tensor:
        sigmas = one(node, model=graph.model, **inputs)
        return custom(graph, _cfg_guider(graph), sigmas=sigmas)

    return run


def _sigma_of_percent(graph: Graph) -> Tensor:
    sigma = one("SamplingPercentToSigma", model=graph.model, sampling_percent=0.5)
    sigmas = torch.tensor([float(sigma), 0.0])
    return custom(graph, _cfg_guider(graph), sigmas=sigmas)


def _add_noise(graph: Graph) -> Tensor:
    sigmas = one("BasicScheduler", model=graph.model, scheduler="simple", steps=2)
    noised = one(
        "AddNoise",
        model=graph.model,
        noise=one("RandomNoise", noise_seed=5),
        sigmas=sigmas,
        latent_image=graph.latent,
    )
    return sample(graph.with_(latent=noised, denoise=0.5))


def _half_denoised(graph: Graph) -> Tensor:
    return sample(graph.with_(denoise=0.5))


def _advanced(graph: Graph) -> Tensor:
    """Two KSamplerAdvanced nodes that share the steps."""
    common = {
        "model": graph.model,
        "noise_seed": 1,
        "steps": 4,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": graph.positive,
        "negative": graph.negative,
    }
    first = one(
        "KSamplerAdvanced",
        add_noise="enable",
        latent_image=graph.latent,
        start_at_step=0,
        end_at_step=2,
        return_with_leftover_noise="enable",
        **common,
    )
    return one(
        "KSamplerAdvanced",
        add_noise="disable",
        latent_image=first,
        start_at_step=2,
        end_at_step=4,
        return_with_leftover_noise="disable",
        **common,
    )["samples"]


def _with_sampler(name: str) -> Run:
    return lambda graph: sample(graph.with_(sampler=name, steps=3))


def _zero_snr(graph: Graph) -> Tensor:
    model = one("ModelSamplingDiscrete", model=graph.model, sampling="v_prediction", zsnr=True)
    return sample(graph.with_(model=model))


def _lcm(graph: Graph) -> Tensor:
    model = one("ModelSamplingDiscrete", model=graph.model, sampling="lcm")
    return _lcm_without(graph.with_(model=model))


def _lcm_without(graph: Graph) -> Tensor:
    return sample(graph.with_(sampler="lcm", scheduler="normal", steps=4))


FEATURES = [
    *(
        Feature(f"KSampler with {name}", ("KSampler",), "sd15", _with_sampler(name))
        for name in ("dpmpp_2m_sde", "uni_pc", "euler_ancestral_cfg_pp")
    ),
    Feature("KSampler (advanced), steps in two parts", ("KSamplerAdvanced",), "sd15", _advanced),
    Feature(
        "Custom sampling with a CFG guider",
        ("CFGGuider", "BasicScheduler", "KSamplerSelect", "RandomNoise", "SamplerCustomAdvanced"),
        "sd15",
        _custom_sampler,
    ),
    Feature("SamplerCustom", ("SamplerCustom", "KarrasScheduler"), "sd15", _sampler_custom),
    Feature("SA-Solver", ("SamplerSASolver",), "sd15", _sa_solver),
    Feature(
        "Beta schedule",
        ("BetaSamplingScheduler",),
        "sd15",
        _scheduled("BetaSamplingScheduler", steps=2),
    ),
    Feature("SD-Turbo schedule", ("SDTurboScheduler",), "sd15", _scheduled("SDTurboScheduler")),
    Feature("Sigma of a percentage", ("SamplingPercentToSigma",), "sd15", _sigma_of_percent),
    Feature("Noise added by a node", ("AddNoise",), "sd15", _add_noise, _half_denoised),
    *(
        Feature(
            f"Model sampling, discrete: {sampling}",
            ("ModelSamplingDiscrete",),
            "sd15",
            patched("ModelSamplingDiscrete", sampling=sampling),
        )
        for sampling in ("v_prediction", "x0")
    ),
    Feature("Model sampling, LCM", ("ModelSamplingDiscrete",), "sd15", _lcm, _lcm_without),
    Feature("Model sampling, zero terminal SNR", ("ModelSamplingDiscrete",), "sd15", _zero_snr),
    Feature(
        "Model sampling, EDM",
        ("ModelSamplingContinuousEDM",),
        "sd15",
        patched("ModelSamplingContinuousEDM", sampling="edm"),
    ),
    Feature(
        "Model sampling, continuous v",
        ("ModelSamplingContinuousV",),
        "sd15",
        patched("ModelSamplingContinuousV"),
    ),
    Feature(
        "Model sampling, SD3",
        ("ModelSamplingSD3",),
        "sd3",
        patched("ModelSamplingSD3", shift=5.0),
    ),
    Feature(
        "Model sampling, Flux",
        ("ModelSamplingFlux",),
        "flux",
        patched("ModelSamplingFlux"),
    ),
    Feature(
        "Model sampling, AuraFlow",
        ("ModelSamplingAuraFlow",),
        "flux",
        patched("ModelSamplingAuraFlow", shift=3.0),
    ),
    Feature(
        "Model sampling, LTXV",
        ("ModelSamplingLTXV",),
        "ltxv",
        patched("ModelSamplingLTXV"),
    ),
    Feature(
        "Model sampling, Stable Cascade",
        ("ModelSamplingStableCascade",),
        "sd15",
        patched("ModelSamplingStableCascade", shift=6.0),
    ),
    Feature(
        "Noise scale",
        ("ModelNoiseScale",),
        "flux",
        patched("ModelNoiseScale", noise_scale=2.0),
    ),
]
