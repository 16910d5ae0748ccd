"""VQDM's protocol through the host's own modules and sampler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comfy_vq import checkpoint
from comfy_vq.calibration import Calibration
from comfy_vq.cli import main
from comfy_vq.codecs.weight import to_matrix
from comfy_vq.hosts.comfy.evaluation.bench import ComfyBench, Prompt, Settings
from comfy_vq.hosts.comfy.matching import Way, matched
from comfy_vq.hosts.comfy.reproducing import ComfyHost, write_result
from comfy_vq.protocol.encode import Encoding, encode
from comfy_vq.protocol.ledger import Ledger
from comfy_vq.protocol.moments import Collector
from comfy_vq.protocol.run import Schedule, run
from comfy_vq.protocol.selection import BlockGroup
from comfy_vq.protocol.tuning import Student, Tuning, tune
from host.families import FAMILIES, random_vq_model, tiny_state_dict
from host.sampling import load_dense
from host.tiny_clip import write_clip

BLOCK = "output_blocks.0.1.transformer_blocks.0"
LAYERS = (f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn1.to_out.0")
HOW = Encoding(books=1, kmeans_steps=1, adam_steps=2, beam=2, rounds=1)


@pytest.fixture(scope="module")
def teacher():
    return load_dense(tiny_state_dict("sd15"))


@pytest.fixture
def host(teacher) -> ComfyHost:
    return ComfyHost(teacher, *inputs(), lambda: None)


def inputs(cfg: float = 4.0) -> tuple[list[Prompt], Settings]:
    positive, negative = FAMILIES["sd15"].conditioning(1)
    prompts = [Prompt(str(seed), positive, negative, seed) for seed in (7, 8)]
    settings = Settings(
        {"samples": FAMILIES["sd15"].empty_latent()}, 2, cfg, "ddim", "ddim_uniform"
    )
    return prompts, settings


def coded(host: ComfyHost, name: str):
    shape = host.shapes[name]
    columns = to_matrix(torch.empty(shape)).shape[1]
    return encode(host.read(name), torch.eye(columns), HOW, torch.Generator().manual_seed(0)).weight


def sampled(model) -> torch.Tensor:
    return ComfyBench(*inputs()).sample(model)


def test_layers_have_the_names_of_the_original_checkpoint(host):
    weights = tiny_state_dict("sd15")
    assert host.numel == sum(tensor.numel() for tensor in weights.values())
    for name, module in host.layers().items():
        assert torch.equal(host.read(name), weights[f"{name}.weight"])
        assert torch.equal(module.weight, host.read(name))


def heard(host: ComfyHost) -> torch.Tensor:
    """What goes into the second of the layers."""
    name = LAYERS[1]
    collector = Collector({name: host.layers()[name]}, {name: host.shapes[name]})
    with collector.listening():
        host.sample(0, 1)
    return collector.mean(name)


def test_exchanged_weights_are_sampled_with_and_the_teacher_stays(host, teacher):
    before, plain = sampled(teacher), heard(host)
    torch.testing.assert_close(heard(host), plain)
    host.put(LAYERS[0], 5 * host.read(LAYERS[0]))
    assert not torch.allclose(heard(host), plain, rtol=0.01)
    assert torch.equal(sampled(teacher), before)


@pytest.mark.parametrize(("cfg", "rows"), [(4.0, 2), (1.0, 1)])
def test_the_teacher_answers_each_step_and_prompts_come_again_with_other_seeds(teacher, cfg, rows):
    host = ComfyHost(teacher, *inputs(cfg), lambda: None)
    questions = host.taught(0, 3)
    assert host.rows == rows and sum(question.rows for question in questions) == 3 * 2 * rows
    first, _, third = (questions[len(questions) // 3 * i] for i in range(3))
    assert not torch.equal(first.args[0], third.args[0])
    texts = [question.kwargs["context"].data_ptr() for question in questions[: len(questions) // 3]]
    assert len(set(texts)) <= 2  # one copy for all steps


def test_the_network_learns_in_float32(host):
    weights = {name: coded(host, name) for name in LAYERS}
    questions = host.taught(0, 1)
    with host.learning():
        student = Student(host.sites(LAYERS), weights)
        state = student.state()
        assert all(tensor.dtype == torch.float32 for tensor in state.values())
        parts = {f"{part}.{name}" for part in ("codebooks", "scales") for name in LAYERS}
        dense = {f"dense.{key}" for key in tiny_state_dict("sd15")}
        assert state.keys() == parts | dense - {f"dense.{name}.weight" for name in LAYERS}
        before = {name: tensor.detach().clone() for name, tensor in state.items()}
        generator = torch.Generator().manual_seed(0)
        errors = [
            tune(student, questions, Tuning(batch=2, rate=1e-5), host.rows, generator)
            for _ in range(2)
        ]
        assert errors[1] < errors[0]
        moved = [name for name, tensor in student.state().items() if not tensor.equal(before[name])]
        assert set(moved) > parts and len(moved) > 0.9 * len(before)
        student.restore(before)
        assert all(tensor.equal(before[name]) for name, tensor in student.state().items())


def test_a_run_and_its_file(host, teacher, tmp_path, monkeypatch):
    """Of two layers alone, or it would take minutes."""
    groups = [BlockGroup(f"group {i}", (name,)) for i, name in enumerate(LAYERS)]
    monkeypatch.setattr("comfy_vq.protocol.run.block_groups", lambda shapes: groups)
    how = Schedule(HOW, Tuning(count=1, epochs=1, batch=2), count=1)
    result = run(host, how, Ledger(tmp_path, {}), "VQDM-1", lambda line: None)
    path = tmp_path / "theirs.safetensors"
    write_result(path, host.source, result)
    stored = load_file(path)
    prefix = host.source.source.prefix
    assert stored.keys() == {f"{prefix}{key}" for key in tiny_state_dict("sd15")}
    assert all(tensor.dtype == torch.float16 for tensor in stored.values())
    for name, weight in result.weights.items():
        assert torch.equal(stored[f"{prefix}{name}.weight"], weight.dense().detach().half())
    bench = ComfyBench(*inputs())
    recording = bench.record(teacher)
    error = bench.predict(bench.load(path), recording) - recording.noise
    assert 0 < float(error.square().sum() / recording.noise.square().sum()) < 0.1


class Encoded:
    """Writes a VQ file of random codes, and counts how often."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def __call__(self, path: Path, heard: Calibration, bits: float) -> None:
        assert heard.pictures == 1
        self.calls.append(bits)
        checkpoint.save(path, random_vq_model("sd15"))


def ours(teacher, folder: Path, seconds: float, encode: Encoded):
    way = Way(teacher, *inputs(), 1, encode, lambda: None, lambda line: None)
    return matched(way, Ledger(folder, {}), "ours-3", 3.0, seconds)


def test_what_time_is_left_is_learned_in(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("comfy_vq.hosts.comfy.matching._RECORDED", 0.9)  # to learn for seconds only
    encode = Encoded()
    short = ours(teacher, tmp_path, 0.0, encode)
    assert short.tuning is None and short.path.name == "ours-3-untuned.safetensors"
    found = ours(teacher, tmp_path, short.seconds + 8 * short.calibrating, encode)
    assert encode.calls == [3.0]  # once, and then it was known
    assert found.path.name == "ours-3.safetensors" and found.path.exists()
    assert (found.calibrating, found.encoding) == (short.calibrating, short.encoding)
    assert found.tuning is not None and found.tuning >= 6 * short.calibrating
    before = found.path.read_bytes()
    assert ours(teacher, tmp_path, found.seconds, encode) is not None
    assert found.path.read_bytes() == before
    assert not list(tmp_path.glob("*.state"))


@pytest.mark.slow
def test_the_command_on_the_shipped_model(tmp_path, capsys):
    """Two minutes: the layers are those of the real one, the counts as small as they can be."""
    command = ["reproduce", "--model", "demo", "--out", str(tmp_path), "--bits", "2"]
    command += ["--count", "1", "--steps", "2", "--kmeans-steps", "1", "--adam-steps", "1"]
    command += ["--beam", "2", "--rounds", "1", "--tuning-count", "1", "--evaluate", "2"]
    command += ["--our-count", "1", "--effort", "fast"]
    clip = tmp_path / "clip"
    clip.mkdir()
    write_clip(clip)
    command += ["--clip-score", str(clip), "--pickscore", str(clip)]
    assert main(command) == 0
    table = capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    bits = [one["size"]["bits_per_weight"] for one in report["candidates"]]
    assert [one["name"] for one in report["candidates"]] == ["VQDM-2", "ours-2"]
    assert abs(bits[0] - bits[1]) < 0.03
    assert all(one["noise"]["sqnr_db"]["value"] > 10 for one in report["candidates"])
    assert "in the paper: VQDM" in table and "19.18" in table
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    scores = [row[-4:-2] for row in rows if row[1:2] and row[1] in ("dense", "VQDM-2", "ours-2")]
    assert len(scores) == 3 and all(a == b and -1 < float(a) < 1 for a, b in scores)
    assert (tmp_path / "reproduce.md").read_text("utf-8").strip() in table
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.safetensors")}
    assert main(command) == 0  # only measures again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.safetensors")} == files
    assert main([*command, "--seed", "1"]) == 2
    assert "seed: found 1000 from an earlier run" in capsys.readouterr().err
