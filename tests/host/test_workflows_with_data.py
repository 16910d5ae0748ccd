"""The shipped workflows that ask the model or teach it, run on a real server, and interrupted."""

import pytest

from comfy_server import messages
from comfy_vq import calibration, checkpoint
from host.shipped_workflows import interrupted, output_of, painted, runnable


@pytest.mark.one_host(reason="hundreds of evaluations; test_measuring measures in every version")
def test_quantize_measured(server, tiny_checkpoint):
    prompt = runnable(server, "quantize_measured", SaveVQCheckpoint={"filename_prefix": "measured"})
    record = server.run(prompt)
    report = output_of(prompt, record, "VQQuantizeModel")["text"][0]
    assert "sensitivities: measured" in report
    (path,) = output_of(prompt, record, "SaveVQCheckpoint")["text"]
    assert checkpoint.inspect(path).plan["sensitivity_db"]


@pytest.fixture(scope="module")
def calibrated(server, tiny_checkpoint):
    """The record of the workflow, which writes a calibration and a VQ file."""
    listening = {"VQCalibrate": {"steps": 2, "pictures": 1}}
    prompt = runnable(server, "calibrate_and_quantize", **listening)
    return prompt, server.run(prompt, seconds=900)  # each layer is coded twice and asked about


def quantized_again(prompt: dict, **changes) -> dict:
    """A model from the calibration that was saved, without sampling for it."""
    unused = ("VQCalibrate", "SaveVQCalibration")
    again = {k: {**n, "inputs": {**n["inputs"]}} for k, n in prompt.items()}
    again = {key: node for key, node in again.items() if node["class_type"] not in unused}
    for node in again.values():
        if node["class_type"] == "VQQuantizeModel":
            node["inputs"] |= {"calibration": ["load", 0], **changes}
    loader = {"calibration_name": "ComfyUI-VQ_00001_.safetensors"}
    return {**again, "load": {"class_type": "LoadVQCalibration", "inputs": loader}}


def test_calibrate_and_quantize(server, calibrated):
    prompt, record = calibrated
    report = output_of(prompt, record, "VQQuantizeModel")["text"][0]
    assert "calibrated on 2 pictures" in report and "unchecked" not in report
    found = server.output / "vq_calibrations" / "ComfyUI-VQ_00001_.safetensors"
    assert output_of(prompt, record, "SaveVQCalibration")["text"] == [str(found)]
    assert calibration.load(found).pictures == 2
    saved = server.output / "diffusion_models" / "ComfyUI-VQ-calibrated_00001_.safetensors"
    assert checkpoint.inspect(saved).plan["calibration"]["layers"] > 0
    stock = ("CheckpointLoaderSimple", "TestConditioning", "EmptyLatentImage")
    stock += ("KSampler", "VAEDecode", "SaveImage")
    loaded = {key: node for key, node in prompt.items() if node["class_type"] in stock}
    for key, node in loaded.items():
        if node["class_type"] == "KSampler":
            loaded[key] = {**node, "inputs": {**node["inputs"], "model": ["vq", 0]}}
    loaded["vq"] = {"class_type": "LoadVQCheckpoint", "inputs": {"vq_name": saved.name}}
    assert painted(server, loaded, server.run(loaded)) == painted(server, prompt, record)


def test_quantize_again_at_other_bits_without_asking_the_model(server, calibrated):
    again = quantized_again(calibrated[0], bits="4.0")
    for node in again.values():
        if node["class_type"] == "VQQuantizeModel":
            for asked in ("positive", "negative", "latent"):
                del node["inputs"][asked]
    report = output_of(again, server.run(again), "VQQuantizeModel")["text"][0]
    assert "calibrated on 2 pictures" in report and "unchecked" in report


def test_interrupting_a_calibration(server, tiny_checkpoint):
    prompt = runnable(server, "calibrate_and_quantize", VQCalibrate={"steps": 500, "pictures": 9})
    before = set((server.output / "vq_calibrations").glob("*"))
    node, _ = interrupted(server, prompt)
    assert node == "VQCalibrate"
    assert set((server.output / "vq_calibrations").glob("*")) == before


def test_interrupting_while_the_model_is_asked_about_its_layers(server, calibrated):
    slow = quantized_again(calibrated[0], bits="3.5", effort="best")
    node, _ = interrupted(server, slow)
    assert node == "VQQuantizeModel"


BRIEFLY = {"steps": 2, "pictures": 2, "minutes": 0.05}
# Other inputs than in other tests, whose report ComfyUI would otherwise not print a second time.
QUANTIZED = {"effort": "fast", "codec": "additive"}


def test_fine_tune_and_save(server, tiny_checkpoint):
    changes = {"SaveVQCheckpoint": {"filename_prefix": "tuned"}, "VQFineTune": BRIEFLY}
    changes["VQQuantizeModel"] = QUANTIZED
    prompt = runnable(server, "fine_tune", **changes)
    record = server.run(prompt)
    header = checkpoint.inspect(server.output / "tuned_00001_.safetensors")
    assert header.bits_per_weight == pytest.approx(3.0, abs=0.02)
    shown = output_of(prompt, record, "VQFineTune")
    assert "bits per weight as before" in shown["text"][0]
    assert output_of(prompt, record, "PreviewAny")["text"] == shown["text"]
    assert len(shown["images"]) == 1


def test_interrupting_a_fine_tuning(server, tiny_checkpoint):
    changes = {"VQFineTune": {**BRIEFLY, "minutes": 60, "pictures": 3}}
    changes["VQQuantizeModel"] = QUANTIZED
    prompt_id = server.post_prompt(runnable(server, "fine_tune", **changes))
    server.wait_for_log("recorded 4 questions", 120)
    server.interrupt()
    (stopped,) = messages(server.wait(prompt_id, 60), "execution_interrupted")
    assert stopped["node_type"] == "VQFineTune"
