"""VQ Quantize CLIP, Save VQ CLIP and Load VQ CLIP, and what the host's own nodes make of the result."""

import json
import os
from pathlib import Path

import comfy.hooks
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy_aimdo.host_buffer
import folder_paths
import nodes
import pytest
import torch
from comfy.cli_args import args
from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXL
from comfy_extras.nodes_flux import CLIPTextEncodeFlux
from comfy_extras.nodes_model_merging import CLIPMergeSimple, CLIPSave
from safetensors.torch import load_file

from comfy_vq import checkpoint
from comfy_vq.budget import Fit
from comfy_vq.cache import Cache
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.clip.encoders import (
    ClipInMemory,
    load_clip,
    load_clip_file,
    refuse_unbuildable,
)
from comfy_vq.hosts.comfy.clip.quantizing import quantize_clip
from comfy_vq.hosts.comfy.clip.source import ClipSource
from comfy_vq.hosts.comfy.files import folders
from comfy_vq.hosts.comfy.files.saving import save_clip
from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.loader import origin_of
from comfy_vq.model import VQModel
from host.encoders import (
    KINDS,
    PROMPT,
    clip_lora,
    clip_of,
    decoded_clip,
    encode,
    meta_vq_clip,
    random_clip,
    random_encoders,
    random_vq_clip,
    tiny_encoders,
)
from host.sampling import relative_l2
from host.test_dynamic import Dynamic, NoBuffer


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with tiny_encoders():
        yield


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def made(tiny, kind):
    """Dense text encoders, the VQ ones, and the report."""
    dense = random_clip(kind)
    return dense, *quantize_clip(dense, 4.0, "fast", "")


@pytest.fixture(scope="module")
def flux(tiny):
    """A VQ CLIP of two encoders."""
    quantized, _ = quantize_clip(random_clip("flux"), 4.0, "fast", "")
    return quantized


def model_of(clip):
    """The coded text encoders of a VQ CLIP."""
    return origin_of(clip.patcher).read().model


def alike(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b, limit: float) -> bool:
    return a.keys() == b.keys() and max(relative_l2(a[name], b[name]) for name in a) <= limit


def test_encodes_as_its_decoded_weights(made, kind):
    _, quantized, _ = made
    dense = decoded_clip(model_of(quantized), kind)
    assert close(encode(dense), encode(quantized), 1e-5)


def test_meets_the_bits_of_all_but_the_tables(made):
    dense, quantized, report = made
    vq, tables = model_of(quantized), ClipSource(dense).tables
    assert tables and all(torch.equal(vq.dense[key], ClipSource(dense).read(key)) for key in tables)
    bits = 8 * (vq.nbytes - sum(vq.dense[key].nbytes for key in tables))
    weights = vq.numel - sum(vq.dense[key].numel() for key in tables)
    assert bits / weights == pytest.approx(4.0, abs=0.02)
    assert f"{vq.bits_per_weight:.3f} bits per weight, everything counted" in report
    assert "token and position tables stay as they are" in report


def test_coded_as_a_trellis(tiny):
    dense = random_clip("flux")
    quantized, _ = quantize_clip(dense, 4.0, "fast", "", codec="trellis")
    layers = model_of(quantized).layers.values()
    assert any(weight.codec == "trellis" for weight in layers)
    assert close(encode(decoded_clip(model_of(quantized), "flux")), encode(quantized), 1e-5)


def test_reports_the_quality_of_the_conditioning(made):
    dense, _, report = made
    (line,) = [line for line in report.splitlines() if line.startswith("conditioning")]
    assert "cond " in line and "dB SQNR" in line
    assert ("pooled" in line) == ("pooled_output" in encode(dense))


def test_more_bits_are_closer_to_the_dense_encoders():
    dense = random_clip("sd1")
    found = []
    for bits in (3.0, 4.0, 6.0):
        quantized, _ = quantize_clip(dense, bits, "fast", "")
        found.append(relative_l2(encode(dense)["cond"], encode(quantized)["cond"]))
    assert found == sorted(found, reverse=True) and found[-1] < 0.1


def test_the_input_is_left_alone(made, kind):
    dense, _, _ = made
    assert origin_of(dense.patcher) is None
    assert alike(encode(dense), encode(clip_of(random_encoders(kind), kind)))


def test_the_compressed_size_is_what_the_host_counts(made):
    dense, quantized, _ = made
    vq = model_of(quantized)
    size = quantized.patcher.model_size()
    assert size < dense.patcher.model_size()
    # Grids of codebook sets are numbers in the layers.
    assert size == pytest.approx(vq.nbytes, abs=64 + 4 * len(vq.source.root))


def test_saved_and_loaded_it_encodes_the_same_bits(made, output, kind):
    _, quantized, _ = made
    path = save_clip(quantized, "text_encoders/tiny")
    assert path == str(output / "text_encoders" / "tiny_00001_.safetensors")
    loaded = load_clip_file(path)
    assert type(loaded.tokenizer) is type(quantized.tokenizer)
    assert loaded.patcher.model_size() == quantized.patcher.model_size()
    assert alike(encode(loaded), encode(quantized))
    facts = checkpoint.inspect(path).components["clip"].about
    assert facts["type"] == {"sd3": "sd3", "flux": "flux"}.get(kind, "stable_diffusion")
    again = save_clip(loaded, "again")
    assert Path(again).read_bytes() == Path(path).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tables_keep_their_dtype(output, dtype):
    quantized, _ = quantize_clip(random_clip("sd1", dtype), 4.0, "fast", "")
    loaded = load_clip_file(save_clip(quantized, "half"))
    table = loaded.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    assert table.dtype == dtype
    assert alike(encode(loaded), encode(quantized))


def test_a_full_size_clip_l(output, monkeypatch):
    """The honest case: 123 M weights, as the host has them; random codes cost no encoding."""
    monkeypatch.setattr("comfy.sd1_clip.json", json)
    component = random_vq_clip("sd1", torch.float16)
    vq = component.model
    assert vq.numel > 123e6
    checkpoint.save(output / "clip_l.safetensors", VQModel({}, {}), components={"clip": component})
    loaded = load_clip_file(str(output / "clip_l.safetensors"))
    assert loaded.patcher.model_size() == pytest.approx(vq.nbytes, rel=1e-4)
    assert close(encode(decoded_clip(vq, "sd1")), encode(loaded), 1e-5)


def test_the_text_encoders_of_flux_at_full_shape(monkeypatch):
    """4.9 G weights. The codes are not there (meta), all else is: built, checked and counted."""
    monkeypatch.setattr("comfy.sd1_clip.json", json)
    component = meta_vq_clip("flux")
    vq = component.model
    assert vq.numel > 4.8e9
    # Which would make memory of the codes.
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *a, **k: None)
    origin = ClipInMemory(component, comfy.text_encoders.flux.FluxClipModel, None, {})
    clip = load_clip(origin)
    linear = {
        name: layer
        for name, layer in clip.cond_stage_model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    assert linear.keys() == vq.layers.keys()
    assert all(is_coded(layer.weight) for layer in linear.values())
    assert clip.patcher.model_size() == pytest.approx(vq.nbytes, rel=1e-4)
    assert clip.patcher.model_size() < 2.3e9
    refuse_unbuildable(component)


@pytest.mark.parametrize("at", ["never loaded", "loaded"])
def test_a_lora_does_to_it_what_it_does_to_its_decoded_weights(flux, at):
    dense = decoded_clip(model_of(flux), "flux")
    if at == "loaded":
        encode(flux)
    lora = clip_lora(dense)
    _, patched = comfy.sd.load_lora_for_models(None, flux, lora, 0, 0.8)
    _, expected = comfy.sd.load_lora_for_models(None, dense, lora, 0, 0.8)
    plain = encode(flux)
    assert close(encode(expected), encode(patched), 1e-4)
    assert not close(plain, encode(patched), 1e-3), "the LoRA had no effect"
    assert alike(plain, encode(flux)), "the LoRA stayed"


@pytest.mark.parametrize("scheduled", [False, True], ids=["always", "scheduled"])
def test_lora_hooks_do_to_it_what_they_do_to_its_decoded_weights(flux, scheduled):
    dense = decoded_clip(model_of(flux), "flux")
    lora, plain = clip_lora(dense), encode(flux)
    results = []
    for clip in (flux, dense):
        _, hooked, hooks = comfy.hooks.load_hook_lora_for_models(None, clip, lora, 0, 0.8)
        target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Clip)
        hooked.patcher.forced_hooks, hooked.use_clip_schedule = hooks.clone(), scheduled
        hooked.patcher.register_all_hook_patches(hooks, target)
        results.append(encode(hooked))
    assert close(results[1], results[0], 1e-4)
    assert not close(plain, results[0], 1e-3), "the hook had no effect"
    assert alike(plain, encode(flux)), "the hook stayed"


def test_a_lora_on_the_dense_encoders_is_baked_in():
    dense = random_clip("sd1")
    _, patched = comfy.sd.load_lora_for_models(None, dense, clip_lora(dense), 0, 1.0)
    quantized, report = quantize_clip(patched, 8.0, "fast", "")
    assert not quantized.patcher.patches and "baked in" in report
    assert close(encode(patched), encode(quantized), 0.05)
    assert not close(encode(dense), encode(quantized), 0.05)


def conditionings(node, clips, **inputs):
    """What a node that encodes prompts makes with each of some CLIPs."""
    run = node.execute if hasattr(node, "execute") else node().encode
    return [run(clip=clip, **inputs)[0][0] for clip in clips]


SIZES = {"width": 64, "height": 64, "crop_w": 0, "crop_h": 0, "target_width": 64}
NODES = {
    "CLIPTextEncode": (nodes.CLIPTextEncode, {"text": PROMPT}),
    "CLIPTextEncodeFlux": (
        CLIPTextEncodeFlux,
        {"clip_l": PROMPT, "t5xxl": "a fox", "guidance": 3.5},
    ),
    "CLIPTextEncodeSDXL": (
        CLIPTextEncodeSDXL,
        {**SIZES, "target_height": 64, "text_g": PROMPT, "text_l": "a fox"},
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_stock_nodes_take_it(flux, name):
    node, inputs = NODES[name]
    kind = "sdxl" if name.endswith("SDXL") else "flux"
    quantized = flux if kind == "flux" else quantize_clip(random_clip("sdxl"), 4.0, "fast", "")[0]
    clips = quantized, decoded_clip(model_of(quantized), kind)
    found, expected = conditionings(node, clips, **inputs)
    assert relative_l2(expected[0], found[0]) <= 1e-5
    assert relative_l2(expected[1]["pooled_output"], found[1]["pooled_output"]) <= 1e-5


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_last_layer_can_be_set_before_and_after(order):
    dense = random_clip("sd1")
    skip = nodes.CLIPSetLastLayer().set_last_layer
    if order == "before":
        quantized, _ = quantize_clip(skip(dense, -2)[0], 4.0, "fast", "")
    else:
        quantized = skip(quantize_clip(dense, 4.0, "fast", "")[0], -2)[0]
    expected = skip(decoded_clip(model_of(quantized), "sd1"), -2)[0]
    assert close(encode(expected), encode(quantized), 1e-5)
    assert not close(encode(decoded_clip(model_of(quantized), "sd1")), encode(quantized), 1e-3)


def test_what_the_host_leaves_uninitialized_is_neither_an_error_nor_saved(output):
    """Files of CLIP-L as in Stable Diffusion 1 and XL lack a projection that nothing uses."""
    for kind in ("sd1", "sdxl"):
        dense = random_clip(kind)
        projection = dense.cond_stage_model.clip_l.transformer.text_projection.weight
        torch.nn.init.constant_(projection, float("nan"))
        expected = encode(dense)
        quantized, _ = quantize_clip(dense, 8.0, "fast", "")
        assert close(expected, encode(quantized), 0.1)
        clip = load_clip_file(save_clip(quantized, kind))
        decoded = clip.cond_stage_model.clip_l.transformer.text_projection.weight.dequantize()
        assert relative_l2(torch.eye(len(decoded)), decoded) < 0.1


def test_options_of_the_input_stay():
    dense = random_clip("flux")
    dense.set_tokenizer_option("t5xxl_min_length", 300)
    dense.tokenizer.clip_l.embedding_directory = ["somewhere"]
    dense.use_clip_schedule = True
    quantized, _ = quantize_clip(dense, 4.0, "fast", "")
    assert quantized.tokenizer is dense.tokenizer
    assert quantized.tokenizer_options == {"t5xxl_min_length": 300}
    assert quantized.use_clip_schedule and quantized.patcher.is_clip
    assert encode(quantized)["cond"].shape[1] == 300


def test_a_clone_is_one_too(flux):
    clone = flux.clone()
    assert origin_of(clone.patcher) is origin_of(flux.patcher)
    assert alike(encode(clone), encode(flux))
    assert clone.patcher.model_size() == flux.patcher.model_size()


def test_the_host_loads_it_anew_as_a_vq_one(flux, output):
    for clip in (flux, load_clip_file(save_clip(flux, "anew"))):
        load_again, arguments = clip.patcher.cached_patcher_init
        fresh = load_again(*arguments, disable_dynamic=True)
        assert origin_of(fresh) is not None and fresh.model is not clip.cond_stage_model
        assert fresh.model_size() == clip.patcher.model_size()
        twin = clip.clone()
        twin.patcher = clip.patcher.deepclone_multigpu()
        twin.cond_stage_model = twin.patcher.model
        assert alike(encode(twin), encode(clip))


def test_the_hosts_dynamic_loader_holds_it_too(flux, output, monkeypatch):
    """As far as that runs without a graphics card, which patches dense tables; see ``test_dynamic.py``."""
    dense = decoded_clip(model_of(flux), "flux")
    lora = clip_lora(dense, tables=False)
    _, patched = comfy.sd.load_lora_for_models(None, dense, lora, 0, 0.8)
    plain, expected = encode(dense), encode(patched)
    path = save_clip(flux, "dynamic")
    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", NoBuffer)
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic)
    with torch.inference_mode():
        quantized, _ = quantize_clip(random_clip("flux"), 4.0, "fast", "")
        for clip in (load_clip_file(path), quantized):
            assert (
                clip.patcher.is_dynamic() and clip.patcher.model_size() == flux.patcher.model_size()
            )
            assert close(plain, encode(clip), 1e-5)
            _, changed = comfy.sd.load_lora_for_models(None, clip, lora, 0, 0.8)
            assert close(expected, encode(changed), 1e-4)
            static = clip.clone(disable_dynamic=True)
            static.cond_stage_model = static.patcher.model
            assert not static.patcher.is_dynamic() and origin_of(static.patcher) is not None
            assert close(plain, encode(static), 1e-5)
    comfy.model_management.unload_all_models()


@pytest.mark.parametrize("with_lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("loaded", [False, True], ids=["not loaded", "loaded"])
def test_core_saves_it_decoded(flux, output, loaded, with_lora):
    clip = flux.clone()
    dense = decoded_clip(model_of(flux), "flux")
    if with_lora:
        lora = clip_lora(dense)
        _, clip = comfy.sd.load_lora_for_models(None, clip, lora, 0, 1.0)
        _, dense = comfy.sd.load_lora_for_models(None, dense, lora, 0, 1.0)
    if loaded:
        encode(clip)
    saver = CLIPSave()
    saver.output_dir = str(output)
    saver.save(clip, "clip/dense")
    files = sorted(os.listdir(output / "clip"))
    assert files == ["dense_clip_l_00001_.safetensors", "dense_t5xxl_00001_.safetensors"]
    encoders = {name: load_file(output / "clip" / name) for name in files}
    assert not [k for sd in encoders.values() for k in sd if "codes" in k or "codebooks" in k]
    again = clip_of({name: dict(sd) for name, sd in encoders.items()}, "flux")
    assert close(encode(dense), encode(again), 1e-4 if with_lora else 1e-5)


def test_it_can_be_merged_into_a_dense_one(flux):
    dense, other = random_clip("flux", seed=5), decoded_clip(model_of(flux), "flux")
    (merged,) = CLIPMergeSimple().merge(dense, flux, 0.25)
    (expected,) = CLIPMergeSimple().merge(dense, other, 0.25)
    assert close(encode(expected), encode(merged), 1e-4)


def test_excluded_encoders_stay_as_they_are():
    dense = random_clip("flux")
    quantized, _ = quantize_clip(dense, 18.0, "fast", "clip_l")
    vq = model_of(quantized)
    assert vq.layers and not [name for name in vq.layers if name.startswith("clip_l.")]
    assert relative_l2(encode(dense)["pooled_output"], encode(quantized)["pooled_output"]) == 0


def test_fits_an_amount_of_memory():
    dense = random_clip("sd1")
    with pytest.raises(VQError, match='ask for "fit'):
        quantize_clip(dense, Fit(1000), "fast", "")
    quantized, _ = quantize_clip(dense, Fit(10**9), "fast", "")
    assert quantized.patcher.model_size() < dense.patcher.model_size()


def test_an_earlier_quantization_is_found_again(tmp_path):
    cache = Cache(tmp_path / "cache", 10**9)
    dense = random_clip("sd1")
    first, report = quantize_clip(dense, 4.0, "fast", "", cache=cache)
    again, found = quantize_clip(dense, 4.0, "fast", "", cache=cache)
    assert "from the cache" in found and "from the cache" not in report
    assert alike(encode(first), encode(again))
    _, report = quantize_clip(dense, 5.0, "fast", "", cache=cache)
    assert "from the cache" not in report


def test_what_cannot_be_quantized_is_refused(flux):
    with pytest.raises(VQError, match="vector-quantized already: connect the dense CLIP"):
        quantize_clip(flux, 4.0, "fast", "")
    dense = random_clip("sd1")
    _, bypass = comfy.sd.load_bypass_lora_for_models(None, dense, clip_lora(dense), 0, 1.0)
    with pytest.raises(VQError, match="put it after VQ Quantize CLIP"):
        quantize_clip(bypass, 4.0, "fast", "")


def test_what_cannot_be_saved_is_refused(flux, output):
    with pytest.raises(VQError, match="put VQ Quantize CLIP before Save VQ CLIP"):
        save_clip(random_clip("sd1"), "a")
    _, patched = comfy.sd.load_lora_for_models(None, flux, clip_lora(flux), 0, 1.0)
    with pytest.raises(VQError, match="put the LoRA before VQ Quantize CLIP"):
        save_clip(patched, "a")
    with pytest.raises(VQError, match="which leads to"):
        save_clip(flux, "../a")
    assert not list(output.iterdir())


def test_disable_metadata_is_honoured(flux, output, monkeypatch):
    path = save_clip(flux, "a", {"1": {}}, {"workflow": {}})
    assert {"prompt", "workflow"} <= set(checkpoint.inspect(path).metadata)
    monkeypatch.setattr(args, "disable_metadata", True)
    path = save_clip(flux, "a", {"1": {}}, {"workflow": {}})
    assert not {"prompt", "workflow"} & set(checkpoint.inspect(path).metadata)


def test_a_type_that_this_host_does_not_know_is_refused(flux, output):
    path = save_clip(flux, "a")
    component = checkpoint.load_component(path, "clip")
    component.about["type"] = "of_tomorrow"
    checkpoint.save(path, VQModel({}, {}),
                    components={"clip": component})  # fmt: skip
    with pytest.raises(VQError, match="type 'of_tomorrow' .* expected one that this ComfyUI knows"):
        load_clip_file(path)


def test_encoders_that_this_host_takes_for_others_are_refused(flux, output):
    path = save_clip(flux, "a")
    component = checkpoint.load_component(path, "clip")
    component.about["type"] = "stable_diffusion"
    checkpoint.save(path, VQModel({}, {}), components={"clip": component})
    with pytest.raises(
        VQError,
        match="found 'FluxClipModel', but of type 'stable_diffusion' this ComfyUI makes 'SDXLClipModel'",
    ):
        load_clip_file(path)


def test_encoders_of_an_unknown_class_run_but_cannot_be_saved(flux, output, monkeypatch):
    monkeypatch.setattr("comfy_vq.hosts.comfy.clip.types._TYPES", {})
    quantized, _ = quantize_clip(random_clip("sd1"), 4.0, "fast", "")
    assert encode(quantized)
    with pytest.raises(VQError, match="class SD1ClipModel, of which it is not known how"):
        save_clip(quantized, "a")


def test_the_drop_down_lists_files_with_text_encoders_alone(flux, tmp_path, monkeypatch):
    folder = tmp_path / "text_encoders"
    folder.mkdir()
    known = {name: ([], {".safetensors"}) for name in ("checkpoints", "vq")}
    known["text_encoders"] = ([str(folder)], {".safetensors"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    component = origin_of(flux.patcher).read()
    checkpoint.save(folder / "vq-t5.safetensors", VQModel({}, {}),
                    components={"clip": component})  # fmt: skip
    checkpoint.write_dense(folder / "t5.safetensors", {"a": torch.zeros(2)})
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    assert "vq-t5.safetensors" in folders.vq_files(folders.ENCODERS)
    assert "t5.safetensors" not in folders.vq_files(folders.ENCODERS)
    assert folders.path_of("vq-t5.safetensors", folders.ENCODERS) == str(
        folder / "vq-t5.safetensors"
    )
    with pytest.raises(VQError, match="another kind of file.*CLIPLoader or DualCLIPLoader"):
        folders.path_of("t5.safetensors", folders.ENCODERS)
