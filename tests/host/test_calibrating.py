"""VQ Calibrate, Save VQ Calibration and Load VQ Calibration in this process."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from comfy_vq.cache import Cache
from comfy_vq.calibration import Calibration
from comfy_vq.calibration.gate import describe
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.files import folders
from comfy_vq.hosts.comfy.model.loader import InMemory, load, origin_of
from comfy_vq.hosts.comfy.model.source import ModelSource
from comfy_vq.hosts.comfy.quantizing import Planning, quantize_model
from comfy_vq.nodes.calibrate import VQCalibrate
from comfy_vq.nodes.load_calibration import LoadVQCalibration
from comfy_vq.nodes.save_calibration import SaveVQCalibration
from host.families import FAMILIES, random_vq_model, tiny_state_dict
from host.loras import low_rank_lora
from host.sampling import load_dense, relative_l2, sample


@pytest.fixture(autouse=True)
def inference_mode():
    """As ComfyUI runs every node, loaders included."""
    with torch.inference_mode():
        yield


@pytest.fixture(params=["flux", "sd15", "wan"])
def family(request):
    return request.param


def calibrated(family: str, model, **options) -> Calibration:
    positive, negative = FAMILIES[family].conditioning(1)
    inputs = {
        "positive": positive,
        "negative": negative,
        "latent": {"samples": FAMILIES[family].empty_latent()},
        "seed": 1,
        "steps": 2,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "pictures": 1,
        **options,
    }
    return VQCalibrate.execute(model, **inputs).result[0]


def same(one: Calibration, other: Calibration) -> bool:
    return one.digest() == other.digest() and one.pictures == other.pictures


def test_every_layer_is_heard_in_every_step_with_both_conditionings(family):
    model, heard = load_dense(tiny_state_dict(family)), {}
    source = ModelSource(model)
    for name, layer in source.layers().items():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(
                lambda layer, args, name=name: heard.setdefault(name, []).append(args[0].float())
            )
    sample(model, family)
    found = calibrated(family, model)
    assert found.moments.keys() == found.shapes.keys()
    found.check({name: source.shape(f"{name}.weight") for name in source.layers()})
    for name, inputs in heard.items():
        rows = torch.cat([x.reshape(-1, x.shape[-1]) for x in inputs[: len(inputs) // 2]])
        assert found.moments[name].count == len(rows), name
        torch.testing.assert_close(found.moments[name].mean()[0], rows.T @ rows / len(rows))


def test_the_model_is_left_as_it_was(family):
    model = load_dense(tiny_state_dict(family))
    before = sample(model, family)
    calibrated(family, model)
    assert torch.equal(sample(model, family), before)
    assert not any(m._forward_pre_hooks for m in model.model.diffusion_model.modules())
    assert not model.wrappers and not model.patches


def test_prompts_are_chained(family):
    """One after the other they give what all at once do, and the first stays what it was."""
    model = load_dense(tiny_state_dict(family))
    first = calibrated(family, model)
    digest = first.digest()
    both = calibrated(family, model, seed=2, calibration=first)
    assert same(both, calibrated(family, model, pictures=2)) and first.digest() == digest
    assert both.pictures == 2


def test_a_lora_is_calibrated_along():
    model = load_dense(tiny_state_dict("flux"))
    lora = low_rank_lora(model)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    before = sample(patched, "flux")
    with_lora = calibrated("flux", patched)
    assert not same(with_lora, calibrated("flux", model))
    assert torch.equal(sample(patched, "flux"), before)


def test_an_interrupted_calibration_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    model, calls = load_dense(tiny_state_dict("flux")), []
    start = calibrated("flux", model)
    digest = start.digest()

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        calibrated("flux", model, pictures=4, calibration=start)
    assert len(calls) == 3 and start.digest() == digest
    assert not any(m._forward_pre_hooks for m in model.model.diffusion_model.modules())
    assert not list(tmp_path.rglob("*"))


def test_the_progress_bar_counts_evaluations(monkeypatch):
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *state, **_: shown.append(state))
    calibrated("flux", load_dense(tiny_state_dict("flux")), pictures=2)
    ours = [state[:2] for state in shown if state[1] == 4]  # the host may leave some out
    assert ours == sorted(ours) and ours[-1] == (4, 4) and len(ours) > 1


def test_a_model_that_is_quantized_already_is_refused():
    model = load(InMemory(random_vq_model("flux")))
    with pytest.raises(VQError, match="vector-quantized already"):
        calibrated("flux", model)


def test_another_model_is_not_continued():
    start = calibrated("flux", load_dense(tiny_state_dict("flux")))
    with pytest.raises(VQError, match="calibration, layer .*: found no such layer in the model"):
        calibrated("wan", load_dense(tiny_state_dict("wan")), calibration=start)


@pytest.fixture
def output(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    found, extensions = folder_paths.folder_names_and_paths[folders.CALIBRATIONS]
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths,
        folders.CALIBRATIONS,
        ([*found, str(tmp_path / folders.CALIBRATIONS)], extensions),
    )
    return tmp_path


def _save(found: Calibration, embed: bool = False) -> str:
    prefix = f"{folders.CALIBRATIONS}/mine"
    SaveVQCalibration.hidden = type("Hidden", (), {"prompt": {"1": 2}, "extra_pnginfo": None})
    saved = SaveVQCalibration.execute(found, prefix, embed)
    return saved.ui.as_dict()["text"][0]


def test_what_was_saved_is_listed_loaded_and_continued(output):
    model = load_dense(tiny_state_dict("flux"))
    first = calibrated("flux", model)
    path = Path(_save(first, embed=True))
    assert path.parent == output / folders.CALIBRATIONS
    assert path.name in folders.calibration_files()
    (loaded,) = LoadVQCalibration.execute(path.name).result
    assert same(loaded, first)
    both = calibrated("flux", model, seed=2, calibration=loaded)
    assert same(both, calibrated("flux", model, pictures=2))
    with safe_open(path, "pt") as file:
        assert file.metadata()["prompt"] == '{"1": 2}'


def test_other_files_in_the_folder_are_not_listed(output):
    folder = output / folders.CALIBRATIONS
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\xff" * 99)
    assert not {"other.safetensors", "broken.safetensors"} & set(folders.calibration_files())
    with pytest.raises(VQError, match="another kind of safetensors file"):
        LoadVQCalibration.execute("other.safetensors")
    with pytest.raises(VQError, match="no such file"):
        LoadVQCalibration.execute("absent.safetensors")


def test_the_list_and_the_fingerprint_follow_the_file(output):
    path = _save(calibrated("flux", load_dense(tiny_state_dict("flux"))))
    before = LoadVQCalibration.fingerprint_inputs(Path(path).name)
    Path(path).touch()
    assert LoadVQCalibration.fingerprint_inputs(Path(path).name) != before


def quantized(family, model, calibration, cache=None):
    positive, negative = FAMILIES[family].conditioning(3)
    latent = {"samples": FAMILIES[family].empty_latent()}
    how = {"planning": Planning(positive=positive, negative=negative, latent=latent)}
    return quantize_model(model, 3.2, "fast", "", cache=cache, calibration=calibration, **how)


def test_a_calibrated_model_is_as_large_and_nearer_to_the_dense_one(family):
    model = load_dense(tiny_state_dict(family))
    found = calibrated(family, model, pictures=2)
    plain, _ = quantized(family, model, None)
    fed, report = quantized(family, model, found)
    read = origin_of(fed).read()
    assert read.nbytes == origin_of(plain).read().nbytes
    expected = sample(model, family)
    fed_l2, plain_l2 = (relative_l2(expected, sample(m, family)) for m in (fed, plain))
    assert fed_l2 < 0.8 * plain_l2
    said = read.plan["calibration"]
    assert said["pictures"] == 2 and said["gated"] and said["layers"] > 0
    assert describe(said) in report


def test_the_cache_tells_calibrations_apart(tmp_path):
    model, cache = load_dense(tiny_state_dict("flux")), Cache(tmp_path, 10**9)
    one, two = calibrated("flux", model), calibrated("flux", model, seed=2)
    coded = [quantized("flux", model, found, cache) for found in (None, one, two, one)]
    assert ["from the cache" in report for _, report in coded] == [False, False, False, True]
    models = [origin_of(m).read() for m, _ in coded]
    assert [m.plan.get("calibration") for m in models][1:] == [
        models[1].plan["calibration"],
        models[2].plan["calibration"],
        models[1].plan["calibration"],
    ]
    assert describe(models[1].plan["calibration"]) in coded[3][1]


def test_a_calibration_of_another_model_is_refused_by_its_layer():
    model = load_dense(tiny_state_dict("flux"))
    found = calibrated("wan", load_dense(tiny_state_dict("wan")))
    with pytest.raises(VQError, match="calibration, layer .*: found no such layer in the model"):
        quantized("flux", model, found)
