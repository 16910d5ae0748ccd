"""VQ Quantize Model: what it reads from a MODEL, what it leaves alone, what its output keeps."""

import re

import comfy.lora
import comfy.model_detection
import comfy.model_management
import comfy.model_sampling
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from nodes import NODE_CLASS_MAPPINGS
from safetensors.torch import save_file

from comfy_vq.budget import Fit, activation_bytes, native_side
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.encoding import patterns
from comfy_vq.hosts.comfy.model.loader import InMemory, load, origin_of
from comfy_vq.hosts.comfy.model.source import ModelSource
from comfy_vq.hosts.comfy.quantizing import quantize_model, sampling_bytes_of
from comfy_vq.quantize import plan_for
from host.families import FAMILIES, random_vq_model, tiny_state_dict
from host.loras import low_rank_lora
from host.sampling import load_dense, relative_l2, sample

UNET = {"use_spatial_transformer": True, "legacy": False, "use_temporal_attention": False}
UNET |= {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320}
UNETS = {
    "sd15": {
        **UNET,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "context_dim": 768,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": (1, 2, 4, 4),
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
    },
    "sdxl": {
        **UNET,
        "use_linear_in_transformer": True,
        "adm_in_channels": 2816,
        "num_classes": "sequential",
        "context_dim": 2048,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": (1, 2, 4),
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
    },
}


@pytest.fixture(scope="module", params=["flux", "sd3", "wan"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def weights(family):
    return tiny_state_dict(family)


@pytest.fixture(scope="module")
def quantized(weights):
    dense = load_dense(weights)
    return (dense, *quantize_model(dense, 4.0, "fast", ""))


def read_all(source: ModelSource) -> dict[str, torch.Tensor]:
    return {key: source.read(key) for key in source.keys()}  # noqa: SIM118


def test_reads_every_weight_under_its_original_name(weights):
    read = read_all(ModelSource(load_dense(weights)))
    assert set(read) == set(weights)
    assert all(torch.equal(read[key], weights[key]) for key in weights)


def test_meets_the_bits_and_reports_them(quantized):
    _, model, report = quantized
    vq = origin_of(model).read()
    assert vq.bits_per_weight == pytest.approx(4.0, abs=0.02)
    assert f"{vq.bits_per_weight:.3f} bits per weight" in report
    assert "layers like" in report  # the plan


def test_reports_what_to_expect(quantized):
    _, _, report = quantized
    assert re.search(
        r"estimated: .* MB on disk, \d+ s to quantize, .* GB of graphics memory", report
    )
    assert "patches" not in report


@pytest.mark.parametrize("bits", [3.0, 5.5])
def test_fits_an_amount_of_memory(weights, bits):
    dense = load_dense(weights)
    limit = sampling_bytes_of(dense, plan_for(ModelSource(dense), bits))
    quantized, report = quantize_model(dense, Fit(limit), "fast", "")
    reached = origin_of(quantized).read().bits_per_weight
    assert bits - 0.15 < reached <= bits + 0.02 and "graphics memory" in report


def test_too_little_memory_is_refused_with_the_least_that_does(weights):
    with pytest.raises(VQError, match=r'fewest, sampling one picture .* ask for "fit [\d.]+ GB"'):
        quantize_model(load_dense(weights), Fit(1000), "fast", "")


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_table_of_activations_is_the_hosts_formula(name, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)
    config = comfy.model_detection.model_config_from_unet_config(UNETS[name])
    config.set_inference_dtype(torch.float16, None)
    model = config.get_model({}, device="meta")
    side = native_side(name)
    host = model.memory_required([2, 4, side, side])
    assert activation_bytes(name) == pytest.approx(host, rel=0.05)


def test_samples_as_its_decoded_weights(quantized, family):
    _, model, _ = quantized
    dense = load_dense(origin_of(model).read().decode(torch.float32))
    assert relative_l2(sample(dense, family), sample(model, family)) <= 1e-5


def test_leaves_its_input_alone(quantized, weights, family):
    dense, _, _ = quantized
    assert origin_of(dense) is None
    untouched = dense.model.diffusion_model.state_dict()
    assert all(torch.equal(untouched[key], weights[key]) for key in weights)
    assert torch.equal(sample(dense, family), sample(load_dense(weights), family))


def test_takes_over_what_nodes_attached(weights):
    model = load_dense(weights)
    model.set_model_sampler_cfg_function(lambda args: args["cond"])
    sampling = comfy.model_sampling.ModelSamplingDiscreteFlow()
    model.add_object_patch("model_sampling", sampling)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "mine", lambda executor, *a: executor(*a))
    quantized, _ = quantize_model(model, 4.0, "fast", "")
    assert quantized.model_options.keys() == model.model_options.keys()
    assert quantized.get_model_object("model_sampling") is sampling
    assert quantized.get_wrappers(WrappersMP.APPLY_MODEL, "mine")
    assert quantized.model_size() < model.model_size() / 4


def test_a_compiled_dense_model_is_left_behind(weights):
    model = load_dense(weights)
    set_torch_compile_wrapper(model, backend="eager")
    quantized, _ = quantize_model(model, 4.0, "fast", "")
    assert not quantized.get_all_wrappers(WrappersMP.APPLY_MODEL)


def test_bakes_in_loras(weights, family):
    model = load_dense(weights)
    lora = low_rank_lora(model)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0)
    expected = load_dense(weights)
    expected, _ = comfy.sd.load_lora_for_models(expected, None, lora, 0.7, 0)
    comfy.model_management.load_models_gpu([expected], force_full_load=True)
    baked = expected.model.diffusion_model.state_dict()
    sample(patched, family)  # leaves the patches in the weights that clones share

    read = read_all(ModelSource(patched))
    touched = [key.removeprefix("diffusion_model.") for key in patched.patches]
    assert touched and not any(torch.equal(read[key], weights[key]) for key in touched)
    assert all(torch.allclose(read[key], baked[key], atol=1e-6) for key in weights)
    quantized, report = quantize_model(patched, 4.0, "fast", "")
    assert not quantized.patches
    assert f"{len(touched)} weights carry patches (a LoRA, for instance)" in report
    assert re.search(r"codes the model anew \(about \d+ s\)", report)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_reads_other_precisions(dtype):
    weights = tiny_state_dict("flux")
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options={"dtype": dtype})
    read = read_all(ModelSource(model))
    assert all(torch.equal(read[k].float(), weights[k].to(dtype).float()) for k in weights)
    assert {tensor.dtype for tensor in read.values()} == {dtype}
    quantized, _ = quantize_model(model, 4.0, "fast", "")
    assert origin_of(quantized).read().bits_per_weight == pytest.approx(4.0, abs=0.02)


def test_reads_natively_quantized_weights():
    """Scaled float8, as ComfyUI's own quantized checkpoints hold it."""
    weights = tiny_state_dict("flux")
    stored = {}
    for key, tensor in weights.items():
        stored[key] = tensor
        if key.endswith(".weight") and tensor.ndim == 2 and "blocks" in key:
            scale = tensor.abs().max() / 448
            stored[key] = (tensor / scale).to(torch.float8_e4m3fn)
            stored[key.replace(".weight", ".scale_weight")] = scale
    stored["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    model = load_dense(stored)
    read = read_all(ModelSource(model))
    assert set(read) == set(weights)
    assert all(relative_l2(weights[k].float(), read[k].float()) < 0.05 for k in weights)
    quantized, _ = quantize_model(model, 4.0, "fast", "")
    assert torch.isfinite(sample(quantized, "flux")).all()


def test_the_host_rebuilds_an_unsaved_quantization(quantized):
    _, model, _ = quantized
    rebuild, arguments = model.cached_patcher_init
    again = rebuild(*arguments)
    assert again.model_size() == model.model_size()


def test_layers_to_leave_alone(weights):
    matrices = [key for key in weights if key.endswith(".weight") and weights[key].ndim == 2]
    name = min(matrices, key=lambda key: weights[key].numel())
    layer = name.removesuffix(".weight")
    quantized, _ = quantize_model(load_dense(weights), 6.0, "fast", f"\n {layer} \n")
    vq = origin_of(quantized).read()
    assert layer not in vq.layers and torch.equal(vq.dense[name], weights[name])


def test_patterns_are_lines():
    assert patterns("a.b\n\n  c.*  \r\n") == ["a.b", "c.*"]


def test_interruption_ends_it(weights):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        quantize_model(load_dense(weights), 4.0, "fast", "")


def test_quantizing_twice_is_refused():
    with pytest.raises(VQError, match="vector-quantized already"):
        quantize_model(load(InMemory(random_vq_model("flux"))), 3.0, "fast", "")


def test_a_bypass_lora_is_refused():
    if "LoraLoaderBypassModelOnly" not in NODE_CLASS_MAPPINGS and not hasattr(
        comfy.sd, "load_bypass_lora_for_models"
    ):
        pytest.skip("this ComfyUI has no bypass LoRA")
    model = load_dense(tiny_state_dict("flux"))
    patched, _ = comfy.sd.load_bypass_lora_for_models(model, None, low_rank_lora(model), 1.0, 0)
    with pytest.raises(VQError, match="put it after VQ Quantize Model"):
        quantize_model(patched, 3.0, "fast", "")


def test_a_v_prediction_model_says_so():
    model = load_dense(tiny_state_dict("sd15"))

    class VPrediction(
        comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION
    ):
        pass

    model.add_object_patch("model_sampling", VPrediction(model.model.model_config, zsnr=True))
    assert set(ModelSource(model).source.root) == {"v_pred", "ztsnr"}


def test_names_the_checkpoint_that_it_came_from(tmp_path):
    path = tmp_path / "some-model.safetensors"
    weights = {f"model.diffusion_model.{k}": v for k, v in tiny_state_dict("flux").items()}
    save_file(weights, path, metadata={"modelspec.author": "somebody"})
    source = ModelSource(comfy.sd.load_diffusion_model(str(path))).source
    assert (source.name, source.prefix) == ("some-model.safetensors", "model.diffusion_model.")
    assert source.metadata == {"modelspec.author": "somebody"}


def test_undoes_the_widening_that_the_host_does_on_a_cpu(tmp_path):
    weights = tiny_state_dict("flux", torch.float16)
    save_file(weights, tmp_path / "half.safetensors")
    model = comfy.sd.load_diffusion_model(str(tmp_path / "half.safetensors"))
    assert model.model_dtype() == torch.float32
    read = read_all(ModelSource(model))
    assert all(torch.equal(read[key], weights[key]) for key in weights)
    assert {tensor.dtype for tensor in read.values()} == {torch.float16}


def test_all_families_are_covered():
    assert set(FAMILIES) == {"sd15", "sd3", "flux", "wan"}
