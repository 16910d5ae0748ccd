"""How and where a model runs: compiled, cached, copied, unloaded, in batches, with previews."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy.taesd.taesd import TAESD
from torch import Tensor
from torch._dynamo.utils import counters

from host.features.feature import Feature, Run
from host.features.files import folder_of, random_weights
from host.features.graph import Graph, one, sample
from host.features.lora import with_lora


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    """Nothing compiled before; something must be after.

    On a CPU the host's attention asks the system for free memory, which no compiler can trace.
    """

    def free(device: object = None, torch_free_too: bool = False) -> tuple[int, int] | int:
        return (1 << 30, 1 << 30) if torch_free_too else 1 << 30

    torch.compiler.reset()
    counters.clear()
    asked = comfy.model_management.get_free_memory
    comfy.model_management.get_free_memory = free
    try:
        yield
        graphs = counters["stats"]["unique_graphs"]
    finally:
        comfy.model_management.get_free_memory = asked
        torch.compiler.reset()
    assert graphs >= 1, "nothing was compiled"


def _compiled(backend: str, lora: bool = False) -> Run:
    def run(graph: Graph) -> Tensor:
        graph = with_lora(graph) if lora else graph
        with _fresh_compiler():
            model = one("TorchCompileModel", model=graph.model, backend=backend)
            return sample(graph.with_(model=model, steps=3))

    return run


def _cached(node: str) -> Run:
    def run(graph: Graph) -> Tensor:
        limits = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0}
        return sample(graph.with_(model=one(node, model=graph.model, **limits), steps=8))

    return run


def _steps(count: int) -> Run:
    return lambda graph: sample(graph.with_(steps=count))


def _in_bfloat16(graph: Graph) -> Tensor:
    return sample(
        graph.with_(model=one("ModelComputeDtype", model=graph.model, dtype="bf16"))
    ).float()


def _deep_clone(graph: Graph) -> Tensor:
    """The copy that the host makes of a model for another graphics card, used by itself."""
    copy = with_lora(graph).model.deepclone_multigpu()
    assert copy.model is not graph.model.model, "the copy shares the weights"
    return sample(graph.with_(model=copy))


def _on_cpu(graph: Graph) -> Tensor:
    model = one("SelectModelDevice", model=graph.model, device="cpu")
    assert model.load_device.type == "cpu"
    return sample(with_lora(graph.with_(model=model)))


def _lora(graph: Graph) -> Tensor:
    return sample(with_lora(graph))


def _unloaded_between(graph: Graph) -> Tensor:
    """Sampled, unloaded, and sampled further from there."""
    first = sample(graph)
    comfy.model_management.unload_all_models()
    assert graph.model.loaded_size() == 0, "still loaded"
    comfy.model_management.free_memory(1e30, comfy.model_management.get_torch_device())
    return sample(graph.with_(latent={"samples": first}, denoise=0.5))


def _two_in_turn(graph: Graph) -> Tensor:
    """Two models by turns on one latent."""
    other = graph.second()
    latent = graph.latent
    for model in (graph.model, other, graph.model):
        latent = {"samples": sample(graph.with_(model=model, latent=latent, denoise=0.7))}
    return latent["samples"]


def _upscaled(graph: Graph) -> Tensor:
    """Sampled, made larger, and sampled again."""
    first = {"samples": sample(graph)}
    larger = one("LatentUpscaleBy", samples=first, upscale_method="bicubic", scale_by=1.5)
    return sample(graph.with_(latent=larger, denoise=0.5))


def _larger_without(graph: Graph) -> Tensor:
    size = [int(1.5 * side) for side in graph.latent["samples"].shape[-2:]]
    shape = (*graph.latent["samples"].shape[:2], *size)
    return sample(graph.with_(latent={"samples": torch.zeros(shape)}, denoise=0.5))


def _batches(graph: Graph) -> Tensor:
    """Batches and sizes that change from prompt to prompt."""
    found = []
    for batch, height, width in ((1, 8, 8), (3, 8, 8), (2, 16, 8), (1, 7, 9)):
        channels = graph.latent["samples"].shape[1]
        latent = {"samples": torch.zeros((batch, channels, height, width))}
        found.append(sample(graph.with_(latent=latent)).flatten())
    return torch.cat(found)


def _batch_from_list(graph: Graph) -> Tensor:
    latent = one("RepeatLatentBatch", samples=graph.latent, amount=4)
    return sample(
        graph.with_(latent=one("LatentFromBatch", samples=latent, batch_index=1, length=2))
    )


def _two_pictures(graph: Graph) -> Tensor:
    return sample(graph.with_(latent=one("RepeatLatentBatch", samples=graph.latent, amount=2)))


def _previewed(method: LatentPreviewMethod) -> Run:
    """The pictures that the interface shows during sampling, in place of latents."""

    def run(graph: Graph) -> Tensor:
        decoder = TAESD(latent_channels=4).taesd_decoder
        weights = {k: v.contiguous() for k, v in random_weights(decoder).items()}
        path = folder_of("vae_approx") / "taesd_decoder.safetensors"
        comfy.utils.save_torch_file(weights, str(path))
        shown: list[Tensor] = []

        def show(value: int, total: int, preview: tuple | None, node_id: str | None = None) -> None:
            if preview is not None:
                pixels = preview[1].convert("RGB").resize((8, 8)).tobytes()
                shown.append(torch.frombuffer(bytearray(pixels), dtype=torch.uint8).float())

        before, hook = args.preview_method, comfy.utils.PROGRESS_BAR_HOOK
        args.preview_method = method
        comfy.utils.set_progress_bar_global_hook(show)
        try:
            sample(graph.with_(steps=3))
        finally:
            args.preview_method = before
            comfy.utils.set_progress_bar_global_hook(hook)
        assert len(shown) == 3, f"{len(shown)} previews of 3 steps"
        return torch.cat(shown)

    return run


FEATURES = [
    Feature(
        "torch.compile",
        ("TorchCompileModel",),
        "flux",
        _compiled("aot_eager"),
        _steps(2),
        note="backend aot_eager here; [compile.md](compile.md)",
    ),
    Feature(
        "torch.compile with a LoRA",
        ("TorchCompileModel", "LoraLoaderModelOnly"),
        "flux",
        _compiled("aot_eager", lora=True),
        _steps(3),
        note="backend aot_eager here",
        slow=True,
    ),
    Feature(
        "torch.compile with inductor",
        ("TorchCompileModel",),
        "flux",
        _compiled("inductor"),
        _steps(2),
        slow=True,
    ),
    Feature("EasyCache", ("EasyCache",), "flux", _cached("EasyCache"), _steps(8)),
    Feature("LazyCache", ("LazyCache",), "flux", _cached("LazyCache"), _steps(8)),
    Feature("Compute dtype", ("ModelComputeDtype",), "flux", _in_bfloat16),
    Feature(
        "Copy for another graphics card",
        ("MultiGPU_WorkUnits",),
        "flux",
        _deep_clone,
        note="the copy made and used; split over cards not tried, that needs two",
    ),
    Feature("Model on the CPU", ("SelectModelDevice",), "flux", _on_cpu, note="with a LoRA"),
    Feature("Unloaded between samplings", ("KSampler",), "sd15", _unloaded_between),
    Feature("Two VQ models by turns", ("KSampler",), "sd15", _two_in_turn),
    Feature(
        "Second pass at a larger size",
        ("LatentUpscaleBy", "KSampler"),
        "sd15",
        _upscaled,
        _larger_without,
    ),
    Feature("Batches and sizes that change", ("KSampler",), "sd15", _batches),
    Feature(
        "Part of a batch, with its own noise",
        ("LatentFromBatch", "RepeatLatentBatch"),
        "sd15",
        _batch_from_list,
        _two_pictures,
    ),
    *(
        Feature(
            f"Previews: {method.value}",
            ("KSampler",),
            "sd15",
            _previewed(method),
            note="the same pictures",
        )
        for method in (LatentPreviewMethod.Latent2RGB, LatentPreviewMethod.TAESD)
    ),
]
