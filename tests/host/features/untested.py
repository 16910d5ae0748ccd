"""Nodes that take a MODEL and have no row that runs, and why."""

from __future__ import annotations

from host.features.feature import Untested

_LARGE = "its network has a fixed size of hundreds of millions of weights or more"
_NO_MODEL = "for one model family, of which no small model is at hand"

FEATURES = [
    Untested(
        "Merges by the blocks of further families",
        (
            "ModelMergeAuraflow",
            "ModelMergeCosmos14B",
            "ModelMergeCosmos7B",
            "ModelMergeCosmosPredict2_14B",
            "ModelMergeCosmosPredict2_2B",
            "ModelMergeKrea2",
            "ModelMergeLTXV",
            "ModelMergeMochiPreview",
            "ModelMergeQwenImage",
            "ModelMergeSD2",
            "ModelMergeSD35_Large",
            "ModelMergeSDXL",
        ),
        "the same code as the tested ones, with other names of blocks",
    ),
    Untested(
        "Control networks for Qwen-Image, Z-Image, Anima and SUPIR",
        ("QwenImageDiffsynthControlnet", "ZImageFunControlnet", "AnimaLLLiteApply", "SUPIRApply"),
        _LARGE,
    ),
    Untested("USO style reference", ("USOStyleReference",), _LARGE),
    Untested("InfiniteTalk", ("WanInfiniteTalkToVideo",), "needs an audio encoder's output"),
    Untested(
        "Autoregressive Wan",
        ("ARVideoI2V",),
        "needs a model that was trained for it, of fixed size",
    ),
    Untested("LTXV nodes", ("LTXVContextWindows", "LTXVReferenceAudio"), _NO_MODEL),
    Untested("Chroma Radiance options", ("ChromaRadianceOptions",), _NO_MODEL),
    Untested("HiDream-O1 seam smoothing", ("HiDreamO1PatchSeamSmoothing",), _NO_MODEL),
    Untested("TripoSplat previews", ("TripoSplatSamplingPreview",), _NO_MODEL),
    Untested("SeedVR2 conditioning", ("SeedVR2Conditioning",), _NO_MODEL),
    Untested("Keys and values of references kept", ("FluxKVCache",), _NO_MODEL),
    Untested(
        "Models that detect",
        ("RTDETR_detect", "SAM3_Detect", "SAM3_VideoTrack", "SDPoseKeypointExtractor"),
        "not diffusion models, or used as none",
    ),
    Untested("IC-LoRA parameters", ("GetICLoRAParameters",), "reads the metadata of a LoRA alone"),
    Untested("Block swap", ("wanBlockSwap",), "does nothing, by ComfyUI's decision"),
]
