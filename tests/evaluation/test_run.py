"""The ruler as a whole, on a host that knows its answers."""

import json
import sys
import weakref

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq.errors import VQError
from comfy_vq.evaluation import cosine, psnr_db, relative_l2, run, sqnr_db, ssim
from comfy_vq.evaluation.bench import Size
from comfy_vq.evaluation.run import Named, evaluate
from evaluation.toy import Network, ToyBench, noisy

PLOTS = {"rate_quality.png", "timesteps.png", "layers.png"}
DENSE = Size(1600, 800)


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    models = {"dense": Network(), "good": noisy(Network(), 0.01), "poor": noisy(Network(), 0.1)}
    for name, model in models.items():
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in (*models, "missing")}


@pytest.fixture
def measure(files):
    """Measure candidates by name against the dense model."""

    def measure(*names, bench=None, out=None, say=silent, **options):
        reference = Named("dense", files["dense"], DENSE)
        candidates = [Named(name, files[name], Size(400, 800)) for name in names]
        return evaluate(bench or ToyBench(), reference, candidates, out, say=say, **options)

    return measure


def test_figures_are_those_of_the_metrics(measure, files):
    bench = ToyBench()
    dense, good = bench.load(files["dense"]), bench.load(files["good"])
    recording, latents = bench.record(dense), bench.sample(good)
    predicted = bench.predict(good, recording)
    pairs = list(zip(recording.latents, latents, strict=True))
    pictures = bench.decode(recording.latents), bench.decode(latents)
    (found,) = measure("good", bench=bench).candidates
    assert found.size.bits_per_weight == 4 and found.megabytes == 0.0004
    assert found.noise.sqnr_db.value == pytest.approx(sqnr_db(recording.noise, predicted), abs=1e-4)
    for step, interval in enumerate(found.noise.by_timestep_db):
        expected = sqnr_db(recording.noise[step], predicted[step])
        assert interval.value == pytest.approx(expected, abs=1e-4)
        assert interval.low <= interval.value <= interval.high

    def mean(metric, *arguments):
        return pytest.approx(sum(metric(*pair, *arguments) for pair in pairs) / len(pairs))

    peak = float(recording.latents.max() - recording.latents.min())
    assert found.latents.psnr_db.value == mean(psnr_db, peak)
    assert found.latents.relative_l2.value == mean(relative_l2)
    assert found.latents.cosine.value == mean(cosine)
    assert found.pictures.ssim.value == pytest.approx(ssim(*pictures).mean().item(), abs=1e-5)
    assert list(found.layer_nmse) == ["conv", "mix", "out"]


def test_the_better_candidate_is_better_in_everything(measure):
    good, poor = measure("good", "poor").candidates
    assert good.noise.sqnr_db.low > poor.noise.sqnr_db.high
    assert good.latents.psnr_db.value > poor.latents.psnr_db.value
    assert good.latents.relative_l2.value < poor.latents.relative_l2.value
    assert good.pictures.psnr_db.value > poor.pictures.psnr_db.value
    assert all(good.layer_nmse[name] < poor.layer_nmse[name] for name in good.layer_nmse)


def test_the_reference_measured_against_itself_has_no_error(measure):
    (found,) = measure("dense").candidates
    assert found.noise.sqnr_db.value == found.latents.psnr_db.value == float("inf")
    assert found.latents.relative_l2.value == 0 and found.latents.cosine.value == pytest.approx(1)
    assert set(found.layer_nmse.values()) == {0}


def test_one_prompt_has_no_intervals(measure):
    (found,) = measure("good", bench=ToyBench(prompts=1)).candidates
    assert found.noise.sqnr_db.margin is None and found.latents.cosine.margin is None


def test_files_that_are_written(measure, tmp_path):
    said = []
    measure("good", "poor", out=tmp_path / "new" / "out", say=said.append)
    written = {path.name for path in (tmp_path / "new" / "out").iterdir()}
    assert written == PLOTS | {"report.md", "report.json", "pictures.png"}
    assert [line.split(":")[0] for line in said] == ["dense", "good", "poor"]


def test_what_is_not_asked_for_is_not_measured(measure, tmp_path):
    bench = ToyBench(autoencoder=False)
    (found,) = measure("good", bench=bench, layers=False, out=tmp_path).candidates
    assert found.pictures is None and found.judged is None and found.layer_nmse == {}
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"report.md", "report.json", "rate_quality.png", "timesteps.png"}


def test_without_matplotlib_all_but_plots_comes(measure, tmp_path, monkeypatch):
    for name in [
        m for m in sys.modules if m.startswith(("matplotlib", "comfy_vq.evaluation.plots"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = []
    measure("good", out=tmp_path, say=said.append)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md",
        "report.json",
        "pictures.png",
    }
    assert "pip install matplotlib" in said[-1]


def test_the_floor_is_the_reference_rounded(measure, files):
    floor, good = measure("good", floor=True).candidates
    rounded = Network().bfloat16().float()
    bench = ToyBench()
    recording = bench.record(bench.load(files["dense"]))
    expected = sqnr_db(recording.noise, bench.predict(rounded, recording))
    assert floor.name == "bf16 floor" and floor.size.bits_per_weight == 16
    assert floor.noise.sqnr_db.value == pytest.approx(expected, abs=1e-3)
    assert good.name == "good"


def test_a_host_may_have_no_floor(measure, files):
    class Floorless(ToyBench):
        def floor(self, path):
            return None

    report = measure("good", bench=Floorless(), floor=True)
    assert [found.name for found in report.candidates] == ["good"]


def test_a_candidate_that_cannot_be_loaded_does_not_stop_the_others(measure, tmp_path):
    said = []
    report = measure("missing", "good", out=tmp_path, say=said.append)
    assert [found.name for found in report.candidates] == ["good"]
    assert "no such file" in report.failures["missing"]
    assert any("missing: cannot be measured" in line for line in said)
    assert "no such file" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "no such file" in json.loads((tmp_path / "report.json").read_text())["failures"]["missing"]
    )


def test_all_failing_is_an_error(measure, files):
    with pytest.raises(VQError, match=r"no candidate could be measured.*no such file"):
        measure("missing", floor=True)


def test_another_family_is_refused(measure):
    class Other(ToyBench):
        def predict(self, model, recording):
            return recording.noise[:, :, :2]

    with pytest.raises(VQError, match="one family"):
        measure("good", bench=Other())


def test_loaded_models_are_taken_as_they_are():
    bench = ToyBench()
    reference = Named("dense", Network(), DENSE)
    (found,) = evaluate(
        bench, reference, [Named("good", noisy(Network(), 0.01), DENSE)], None, say=silent
    ).candidates
    assert found.noise.sqnr_db.value > 20 and bench.loaded == []


def test_one_candidate_is_held_at_a_time(measure):
    held: list[weakref.ref] = []

    class Watching(ToyBench):
        def load(self, path):
            alive = [model for model in held if model() is not None]
            assert len(alive) <= 1  # the reference
            model = super().load(path)
            held.append(weakref.ref(model))
            return model

    measure("good", "poor", bench=Watching())
    assert len(held) == 3


def test_the_judge_sees_the_reference_too(measure):
    def judge(pictures):
        return {"bright": float((pictures > 0.5).float().mean())}

    report = measure("good", judge=judge)
    assert 0 < report.reference.judged["bright"] < 1
    assert report.candidates[0].judged["bright"] == pytest.approx(
        report.reference.judged["bright"], abs=0.05
    )


def test_layers_that_do_not_run_cost_only_themselves(measure):
    class Failing(ToyBench):
        def call(self, model, recording, step):
            raise torch.OutOfMemoryError("no memory for two models")

    said = []
    (found,) = measure("good", bench=Failing(), say=said.append).candidates
    assert found.layer_nmse == {} and found.noise is not None
    assert any("layers cannot be compared: no memory" in line for line in said)


def test_missing_packages_are_named_before_anything_is_measured(measure, monkeypatch):
    bench = ToyBench()
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "scipy" else object())
    with pytest.raises(VQError, match="pip install scipy$"):
        measure("good", bench=bench)
    assert bench.loaded == []
