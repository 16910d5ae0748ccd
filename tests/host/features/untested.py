"""Nodes that take a MODEL and have no row that runs, and why."""

from __future__ import annotations

from host.features.feature import Untested

_LARGE = "its network has a fixed size of hundreds of millions of weights or more"
_CODEC = "needs the family's own autoencoder, of which no small one is at hand"

FEATURES = [
    Untested(
        "Control networks for Qwen-Image, Z-Image, Anima and SUPIR",
        ("QwenImageDiffsynthControlnet", "ZImageFunControlnet", "AnimaLLLiteApply", "SUPIRApply"),
        _LARGE,
    ),
    Untested("USO style reference", ("USOStyleReference",), _LARGE),
    Untested("InfiniteTalk", ("WanInfiniteTalkToVideo",), "needs an audio encoder's output"),
    Untested("LTXV reference audio", ("LTXVReferenceAudio",), "needs an audio autoencoder"),
    Untested("TripoSplat previews", ("TripoSplatSamplingPreview",), _CODEC),
    Untested("SeedVR2 conditioning", ("SeedVR2Conditioning",), _CODEC),
    Untested(
        "Models that detect",
        ("RTDETR_detect", "SAM3_Detect", "SAM3_VideoTrack", "SDPoseKeypointExtractor"),
        "not diffusion models, or used as none",
    ),
    Untested("IC-LoRA parameters", ("GetICLoRAParameters",), "reads the metadata of a LoRA alone"),
    Untested("Block swap", ("wanBlockSwap",), "does nothing, by ComfyUI's decision"),
]
