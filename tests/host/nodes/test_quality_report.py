"""VQ Quality Report in this process; over HTTP it is in ``test_workflows.py``."""

import json

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.model.loader import InMemory, load, load_file
from comfy_vq.nodes.quality_report import VQQualityReport
from host.families import FAMILIES, random_vq_model, tiny_state_dict
from host.sampling import load_dense
from host.testing_nodes import conditioning

pytestmark = pytest.mark.one_host(
    reason="test_bench measures, and test_workflows runs the node, in every version"
)


@pytest.fixture(autouse=True)
def inference_mode():
    """As ComfyUI runs every node, loaders included."""
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    return tmp_path / "output"


def run(family, reference, *candidates, **options):
    chosen = FAMILIES[family]
    named = zip(("candidate", "candidate_2", "candidate_3"), candidates, strict=False)
    inputs = {
        "reference": reference,
        "positive": conditioning("a", chosen.context, 16, chosen.pooled),
        "negative": conditioning("", chosen.context, 16, chosen.pooled),
        "latent": {"samples": torch.zeros(chosen.latent)},
        "seed": 7,
        "steps": 2,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "pictures": 2,
        **dict(named),
        **options,
    }
    return VQQualityReport.execute(**inputs)


@pytest.fixture(scope="module", params=["flux", "sd15", "wan"])
def family(request):
    return request.param


@pytest.fixture
def vq(family):
    return random_vq_model(family)


@pytest.fixture
def decoded(vq):
    return load_dense(vq.decode(torch.float32))


def test_measures_each_candidate(family, vq, decoded, output):
    others = [load_dense(tiny_state_dict(family, seed=9)), decoded]
    node = run(family, decoded, load(InMemory(vq)), *others)
    text, pictures, values = node.result
    report = json.loads(values)
    coded, other, same = report["candidates"]
    assert report["seeds"] == [7, 8]
    assert coded["size"]["bits_per_weight"] == pytest.approx(vq.bits_per_weight)
    sqnr = [float(c["noise"]["sqnr_db"]["value"]) for c in (coded, other, same)]
    assert sqnr[0] > 100 and sqnr[1] < 40 and sqnr[2] == float("inf")
    assert coded["layer_nmse"].keys() == other["layer_nmse"].keys()
    (folder,) = (output / "vq_reports").iterdir()
    assert (folder / "report.md").read_text(encoding="utf-8") == text
    assert (folder / "report.json").read_text(encoding="utf-8") == values
    assert len(pictures) == len(list(folder.glob("*.png")))
    assert pictures.shape[3] == 3 and 0 <= pictures.min() <= pictures.max() <= 1
    assert node.ui["text"] == (text,) and len(node.ui["images"]) == len(pictures)


def test_the_noise_floor_is_the_reference_in_bfloat16(family, vq, decoded):
    _, _, values = run(family, decoded, load(InMemory(vq)), noise_floor=True).result
    floor, coded = json.loads(values)["candidates"]
    assert floor["name"] == "bf16 floor" and floor["size"]["bits_per_weight"] == 16
    assert 20 < floor["noise"]["sqnr_db"]["value"] < 80
    assert float(coded["noise"]["sqnr_db"]["value"]) > 80


def test_compares_pictures_where_there_is_a_vae(output):
    layout = TAESD(latent_channels=4).state_dict()
    generator = torch.Generator().manual_seed(0)
    weights = {k: 0.05 * torch.randn(t.shape, generator=generator) for k, t in layout.items()}
    vae = comfy.sd.VAE(sd=weights)
    model, other = (load_dense(tiny_state_dict("sd15", seed=seed)) for seed in (0, 1))
    (candidate,) = json.loads(run("sd15", model, other, vae=vae).result[2])["candidates"]
    assert 0 < candidate["pictures"]["psnr_db"]["value"] < 60
    assert (output / "vq_reports" / "BaseModel_00001_" / "pictures.png").is_file()


def test_rows_are_named_after_files(tmp_path, vq, family, output):
    checkpoint.save(tmp_path / "coded.safetensors", vq)
    save_file(tiny_state_dict(family), tmp_path / "original (1).safetensors")
    reference = comfy.sd.load_diffusion_model(str(tmp_path / "original (1).safetensors"))
    coded, clone = load_file(str(tmp_path / "coded.safetensors")), reference.clone()
    unsaved = load(InMemory(vq))
    report = json.loads(run(family, reference, coded, unsaved, clone).result[2])
    assert report["reference"]["name"] == "original (1)"
    names = [candidate["name"] for candidate in report["candidates"]]
    unsaved_name = f"{family}-VQ{vq.bits_per_weight:.3g}"
    assert names == ["coded", unsaved_name, "original (1) #2"]
    assert [path.name for path in (output / "vq_reports").iterdir()] == ["original_1_00001_"]


def test_every_report_has_its_own_folder(output):
    model = load_dense(tiny_state_dict("flux"))
    for _ in range(2):
        run("flux", model, model.clone())
    folders = sorted(path.name for path in (output / "vq_reports").iterdir())
    assert folders == ["Flux_00001_", "Flux_00002_"]


def test_progress_reaches_its_end(monkeypatch):
    shown = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, *rest, **_: shown.append((value, total)),
    )
    run("flux", *(load_dense(tiny_state_dict("flux", seed=seed)) for seed in (0, 1)))
    values, totals = zip(*shown, strict=True)
    assert len(set(totals)) == 1 and values[-1] == totals[0]
    assert list(values) == sorted(values)


def test_interruption_ends_it():
    model = load_dense(tiny_state_dict("flux"))
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run("flux", model, model.clone())


def test_batches_are_refused():
    model = load_dense(tiny_state_dict("flux"))
    with pytest.raises(VQError, match="set batch_size to 1"):
        run("flux", model, model.clone(), latent={"samples": torch.zeros(2, 16, 8, 8)})


def test_models_of_different_families_are_refused():
    models = [load_dense(tiny_state_dict(family)) for family in ("flux", "sd3")]
    with pytest.raises(VQError, match="no candidate could be measured"):
        run("flux", *models)
