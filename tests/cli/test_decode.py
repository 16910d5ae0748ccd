import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from comfy_vq import checkpoint
from comfy_vq.model import VQModel


def test_the_dense_model_has_the_names_and_precision_of_its_source(run, dense, coded, tmp_path):
    path = tmp_path / "back.safetensors"
    assert run("decode", coded, path)[0] == 0
    source, back = load_file(dense), load_file(path)
    kept = {key for key in source if not key.startswith("first_stage_model.")}
    assert back.keys() == kept
    model = checkpoint.load(coded)
    for key, tensor in back.items():
        assert (tensor.dtype, tensor.shape) == (source[key].dtype, source[key].shape)
        layer = key.removeprefix("model.diffusion_model.").removesuffix(".weight")
        if layer in model.layers:
            assert torch.equal(tensor, model.layers[layer].decode(torch.float16))
        else:
            assert torch.equal(tensor, source[key])
    with safe_open(path, "pt") as file:
        assert file.metadata()["author"] == "someone"


def test_precision_can_be_chosen(run, coded, tmp_path):
    path = tmp_path / "back.safetensors"
    assert run("decode", coded, path, "--dtype", "fp32")[0] == 0
    assert load_file(path)["model.diffusion_model.time_embed.0.weight"].dtype == torch.float32


def test_an_existing_file_is_kept_unless_forced(run, coded, tmp_path):
    path = tmp_path / "back.safetensors"
    path.write_text("precious")
    status, _, err = run("decode", coded, path)
    assert status == 2 and "--force" in err and path.read_text() == "precious"


def test_the_model_alone_comes_out_of_a_full_file(run, full, coded, tmp_path):
    status, out, _ = run("decode", full, tmp_path / "full")
    assert status == 0
    assert "left out, each to be had with --part: clip_l, t5xxl, vae" in out
    run("decode", coded, tmp_path / "coded")
    assert (tmp_path / "full").read_bytes() == (tmp_path / "coded").read_bytes()


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("t5xxl", {"shared.weight", "q.weight", "spiece_model"}),
        ("clip_l", {"norm.weight", "spiece_model"}),
        ("vae", {"decoder.conv.weight"}),
    ],
)
def test_each_part_comes_out_as_its_own_loader_reads_it(run, full, tmp_path, part, keys):
    path = tmp_path / "part.safetensors"
    status, out, _ = run("decode", full, path, "--part", part)
    assert status == 0 and f"{path}: {part}, " in out
    assert load_file(path).keys() == keys


def test_a_part_that_is_not_there_is_refused_with_those_that_are(run, full, tmp_path):
    status, _, err = run("decode", full, tmp_path / "x", "--part", "clip_g")
    assert status == 2 and "found clip_g, expected one of what the file holds: model, clip_l" in err
    assert not (tmp_path / "x").exists()


def test_of_several_parts_without_a_model_one_has_to_be_named(run, full, tmp_path):
    components = {"clip": checkpoint.load_component(full, "clip")}
    checkpoint.save(tmp_path / "clip.safetensors", VQModel({}, {}), components=components)
    status, _, err = run("decode", tmp_path / "clip.safetensors", tmp_path / "x")
    assert status == 2 and "--part: found nothing, expected one of" in err
