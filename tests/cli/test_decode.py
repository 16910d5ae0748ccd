import torch
from safetensors import safe_open
from safetensors.torch import load_file

from comfy_vq import checkpoint


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
