"""Guidance: what is made of the predictions with and without prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from host.features.feature import Feature, Run, patched
from host.features.graph import Graph, one, other_prompt, sample
from host.features.sampling import custom


def _perp_neg(graph: Graph) -> Tensor:
    empty = [[0 * graph.positive[0][0], {}]]
    return sample(graph.with_(model=one("PerpNeg", model=graph.model, empty_conditioning=empty)))


def _perp_neg_guider(graph: Graph) -> Tensor:
    prompts = {"positive": graph.positive, "negative": graph.negative}
    empty = [[0 * graph.positive[0][0], {}]]
    guider = one("PerpNegGuider", model=graph.model, empty_conditioning=empty, **prompts)
    return custom(graph, guider)


def _dual_cfg(graph: Graph) -> Tensor:
    prompts = {"cond1": graph.positive, "cond2": other_prompt(graph), "negative": graph.negative}
    return custom(graph, one("DualCFGGuider", model=graph.model, **prompts))


def _dual_model(graph: Graph) -> Tensor:
    models = {"model": graph.model, "model_negative": graph.second()}
    prompts = {"positive": graph.positive, "negative": graph.negative}
    return custom(graph, one("DualModelGuider", **models, **prompts))


def _basic(graph: Graph) -> Tensor:
    return custom(graph, one("BasicGuider", model=graph.model, conditioning=graph.positive))


def _operation(graph: Graph) -> Tensor:
    operation = one("LatentOperationTonemapReinhard", multiplier=0.5)
    return sample(
        graph.with_(model=one("LatentApplyOperationCFG", model=graph.model, operation=operation))
    )


def _two_pictures(graph: Graph) -> Graph:
    shape = (2, *graph.latent["samples"].shape[1:])
    return graph.with_(latent={"samples": torch.zeros(shape)})


def _video_cfg(node: str) -> Run:
    def run(graph: Graph) -> Tensor:
        return sample(_two_pictures(graph).with_(model=one(node, model=graph.model)))

    return run


def _two_without(graph: Graph) -> Tensor:
    return sample(_two_pictures(graph))


def _differential(graph: Graph) -> Tensor:
    model = one("DifferentialDiffusion", model=graph.model)
    return sample(_masked(graph).with_(model=model, steps=3))


def _differential_without(graph: Graph) -> Tensor:
    return sample(_masked(graph).with_(steps=3))


def _masked(graph: Graph) -> Graph:
    shape = graph.latent["samples"].shape
    picture = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    mask = torch.linspace(0, 1, shape[-1] * 8).expand(1, shape[-2] * 8, -1)
    return graph.with_(latent=one("SetLatentNoiseMask", samples={"samples": picture}, mask=mask))


_LAYERS = {"start_percent": 0.0, "end_percent": 1.0}
_DIT = {**_LAYERS, "double_layers": "0", "single_layers": "0"}

FEATURES = [
    Feature("RescaleCFG", ("RescaleCFG",), "sd15", patched("RescaleCFG")),
    Feature("CFG-Zero*", ("CFGZeroStar",), "flux", patched("CFGZeroStar")),
    Feature("CFGNorm", ("CFGNorm",), "flux", patched("CFGNorm")),
    Feature("Adaptive projected guidance", ("APG",), "sd15", patched("APG")),
    Feature("Tangential damping CFG", ("TCFG",), "sd15", patched("TCFG")),
    Feature("Mahiro", ("Mahiro",), "sd15", patched("Mahiro")),
    Feature("FreSca", ("FreSca",), "sd15", patched("FreSca", scale_low=0.5, freq_cutoff=2)),
    Feature("RenormCFG", ("RenormCFG",), "sd15", patched("RenormCFG")),
    Feature(
        "Epsilon scaling",
        ("Epsilon Scaling",),
        "sd15",
        patched("Epsilon Scaling", scaling_factor=1.05),
    ),
    Feature(
        "Temporal score rescaling",
        ("TemporalScoreRescaling",),
        "sd15",
        patched("TemporalScoreRescaling", tsr_k=0.8),
    ),
    Feature("CFG override", ("CFGOverride",), "sd15", patched("CFGOverride", cfg=1.0)),
    Feature("Latent operation before CFG", ("LatentApplyOperationCFG",), "sd15", _operation),
    *(
        Feature(f"{kind} CFG over frames", (node,), "sd15", _video_cfg(node), _two_without)
        for kind, node in (
            ("Linear", "VideoLinearCFGGuidance"),
            ("Triangle", "VideoTriangleCFGGuidance"),
        )
    ),
    Feature("Perp-Neg", ("PerpNeg",), "sd15", _perp_neg),
    Feature(
        "Perp-Neg guider", ("PerpNegGuider", "SamplerCustomAdvanced"), "sd15", _perp_neg_guider
    ),
    Feature("Basic guider", ("BasicGuider", "SamplerCustomAdvanced"), "flux", _basic),
    Feature("Two prompts, two scales", ("DualCFGGuider",), "sd15", _dual_cfg),
    Feature(
        "Two VQ models, one for the negative prompt", ("DualModelGuider",), "sd15", _dual_model
    ),
    Feature(
        "Skip-layer guidance (DiT)",
        ("SkipLayerGuidanceDiT",),
        "flux",
        patched("SkipLayerGuidanceDiT", **_DIT),
    ),
    Feature(
        "Skip-layer guidance (DiT, simple)",
        ("SkipLayerGuidanceDiTSimple",),
        "flux",
        patched("SkipLayerGuidanceDiTSimple", **_DIT),
    ),
    Feature(
        "Skip-layer guidance (SD3)",
        ("SkipLayerGuidanceSD3",),
        "sd3",
        patched("SkipLayerGuidanceSD3", layers="1", **_LAYERS),
    ),
    Feature(
        "Differential diffusion",
        ("DifferentialDiffusion", "SetLatentNoiseMask"),
        "sd15",
        _differential,
        _differential_without,
    ),
]
