import shutil
from types import SimpleNamespace

import pytest
from safetensors import safe_open

from comfy_vq import checkpoint
from comfy_vq.cli import quantize

FAST = ("--effort", "fast", "--device", "cpu")


def test_meets_the_bits_and_prints_the_plan(run, dense, tmp_path):
    status, out, _ = run("quantize", dense, tmp_path / "a.safetensors", "--bits", 4, *FAST)
    assert status == 0
    assert "time_embed" in out and "bits per weight" in out
    assert checkpoint.inspect(tmp_path / "a.safetensors").bits_per_weight == pytest.approx(
        4, abs=0.02
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_model_is_coded_by_the_codec_asked_for(run, dense, tmp_path):
    path = tmp_path / "a.safetensors"
    assert run("quantize", dense, path, "--bits", 4, "--codec", "trellis", *FAST)[0] == 0
    header = checkpoint.inspect(path)
    assert header.bits_per_weight == pytest.approx(4, abs=0.02)
    used = {header.spec(layer).codec for layer in header.layers}
    assert "trellis" in used <= {"trellis", "additive", "int8"}
    assert "trellis" in run("info", path)[1]


def test_layers_can_be_left_alone(run, dense, tmp_path):
    path = tmp_path / "a.safetensors"
    command = ("quantize", dense, path, "--bits", 5, *FAST, "--exclude", "time_embed", "out.*")
    assert run(*command)[0] == 0
    header = checkpoint.inspect(path)
    assert "time_embed.0.weight" in header.dense and "out.2.weight" in header.dense


@pytest.mark.parametrize("bits", ["1.9", "8.1", "nan", "three"])
def test_bits_out_of_range(run, dense, tmp_path, bits):
    status, _, err = run("quantize", dense, tmp_path / "a.safetensors", "--bits", bits)
    assert status == 2
    assert f"found '{bits}', expected 2 to 8 bits per weight" in err


@pytest.mark.parametrize("wanted", ["fit 9 GB", "fit 9gb"])
def test_bits_can_be_left_to_the_memory(run, dense, tmp_path, wanted):
    status, out, _ = run("quantize", dense, tmp_path / "a.safetensors", "--bits", wanted, *FAST)
    assert status == 0 and "asked for 8)" in out


def test_too_little_memory_is_refused_with_the_least_that_does(run, dense, tmp_path):
    command = ("quantize", dense, tmp_path / "a.safetensors", "--bits", "fit 1 MB", *FAST)
    assert "found 'fit 1 MB', expected 2 to 8" in run(*command)[2]
    command = ("quantize", dense, tmp_path / "a.safetensors", "--bits", "fit 0.001 GB", *FAST)
    status, _, err = run(*command)
    assert status == 2 and "the fewest" in err and 'ask for "fit' in err and err.count("\n") == 1


def test_estimates_are_printed_before_it_starts(run, dense, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize, "quantize", interrupted)
    _, out, _ = run("quantize", dense, tmp_path / "a.safetensors", "--bits", 4, *FAST)
    assert "MB on disk" in out and "to quantize" in out and "while sampling" in out


def test_activations_that_are_not_known_are_said_to_be(run, dense, tmp_path):
    command = ("quantize", dense, tmp_path / "a.safetensors", "--bits", 4, *FAST)
    assert "activations taken" not in run(*command, "--family", "sdxl")[1]
    assert "activations taken as 1 GB" in run(*command, "--family", "dit", "--force")[1]


def test_a_full_disk_is_refused_before_the_work(run, dense, tmp_path, monkeypatch):
    def full(_):
        return SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000)

    monkeypatch.setattr(shutil, "disk_usage", full)
    monkeypatch.setattr(quantize, "quantize", None)
    status, _, err = run("quantize", dense, tmp_path / "a.safetensors", "--bits", 4, *FAST)
    assert status == 2 and "MB free" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_forced(run, dense, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("precious")
    status, _, err = run("quantize", dense, path, "--bits", 4, *FAST)
    assert status == 2 and "--force" in err and path.read_text() == "precious"
    assert run("quantize", dense, path, "--bits", 4, *FAST, "--force")[0] == 0
    assert checkpoint.is_vq(path)


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        ("missing.safetensors", "a.safetensors", "missing.safetensors"),
        (None, "", "is a folder"),
        (None, "nowhere/a.safetensors", "is not a folder"),
    ],
)
def test_errors_are_one_line(run, dense, tmp_path, src, dst, message):
    source = tmp_path / src if src else dense
    status, _, err = run("quantize", source, tmp_path / dst, "--bits", 4, *FAST)
    assert status == 2
    assert err.startswith("comfy-vq: ") and message in err and err.count("\n") == 1


def test_interruption_leaves_nothing_behind(run, dense, tmp_path, monkeypatch):
    def interrupted(*arguments, progress, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize, "quantize", interrupted)
    status, _, err = run("quantize", dense, tmp_path / "a.safetensors", "--bits", 4, *FAST)
    assert status == 130 and "interrupted" in err
    assert list(tmp_path.iterdir()) == []


def test_what_the_source_said_about_itself_is_kept(coded):
    source = checkpoint.load(coded).source
    assert source.prefix == "model.diffusion_model." and "v_pred" in source.root
    assert source.metadata["author"] == "someone"
    with safe_open(coded, "pt") as file:
        assert all(key.startswith("vq.") for key in file.keys())  # noqa: SIM118 - not a mapping
