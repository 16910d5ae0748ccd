"""Every model family that the host detects: quantized, saved, loaded, sampled, with a LoRA.

Each is built small, as the host's own code builds it from what its detection finds; where detection
writes fixed sizes down, those are made smaller in what it found (``Family.smaller``), and the real
sizes are checked with codes that take no memory.
"""

from pathlib import Path

import comfy.model_management
import comfy.supported_models
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import families
from comfy_vq import checkpoint
from comfy_vq.checkpoint.dense import DenseCheckpoint
from comfy_vq.checkpoint.header import Entry, FileHeader
from comfy_vq.hosts.comfy.model.described import with_config
from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.loader import load_file
from comfy_vq.hosts.comfy.model.ops import CodedWeight
from comfy_vq.hosts.comfy.model.source import ModelSource, held_weights
from comfy_vq.plan import FAMILIES as PLAN_FAMILIES
from comfy_vq.plan import detect_family
from host.families import ALL_FAMILIES, FAMILIES, beside_weights, tiny_state_dict
from host.families.weights import in_original_naming
from host.family_checks import BITS, Outcome, check, load_family, random_codes
from host.full_shapes import differences, full_size
from host.sampling import load_dense, relative_l2, sample

LARGE = {
    "ace-step",
    "ace-step-1.5",
    "anima",
    "hunyuan-dit",
    "hunyuan-dit-1.0",
    "kandinsky5-image",
    "koala-1b",
    "koala-700m",
    "sd2-v",
    "sdxl",
    "sdxl-inpaint",
    "sdxl-instruct-pix2pix",
    "sdxl-refiner",
    "segmind-vega",
    "ssd-1b",
    "stable-cascade-c",
    "sv3d-p",
    "sv3d-u",
    "svd",
    "z-image",
    "z-image-pixel",
}
"""Whose smallest models take seconds."""
QUANTIZED = ("chroma", "hidream", "ltxv", "qwen-image", "sd35")
"""Whose weights are coded by the encoder; for the others, random codes stand for them."""
V_PREDICTION = {"hunyuan-dit", "hunyuan-dit-1.0", "sd-x4-upscaler", "sd2-v"}
NOT_SAMPLED = {
    "RT_DETR_v4": "finds objects",
    "SAM3": "cuts out objects",
    "SAM31": "cuts out objects",
    "DepthAnything3": "estimates depth",
}
"""What the host detects beside diffusion models."""


def marked(names, large=LARGE):
    return [pytest.param(n, marks=pytest.mark.slow if n in large else ()) for n in names]


def known(name: str) -> str:
    if ALL_FAMILIES[name].missing:
        pytest.skip(ALL_FAMILIES[name].missing)
    return name


@pytest.fixture(scope="module", params=marked(n for n in ALL_FAMILIES if n not in FAMILIES))
def outcome(request, tmp_path_factory) -> Outcome:
    name = known(request.param)
    found = check(name, tmp_path_factory.mktemp("families"), quantized=name in QUANTIZED)
    comfy.model_management.unload_all_models()
    return found


def test_is_loaded_as_its_class_and_samples_as_its_decoded_weights(outcome):
    assert outcome.host_class == ALL_FAMILIES[outcome.family].host_class
    assert outcome.sampled <= 1e-4
    dense, loaded = outcome.predicts
    assert loaded == dense
    assert (loaded == "V_PREDICTION") == (outcome.family in V_PREDICTION)


def test_a_stock_lora_does_what_it_does_on_the_decoded_weights(outcome):
    assert outcome.adapted <= 1e-4
    assert outcome.effect > 100 * outcome.adapted


def test_has_the_bits_that_were_asked_for(outcome):
    if outcome.asked is None:
        pytest.skip("random codes")
    assert outcome.bits == pytest.approx(BITS, abs=0.02)


@pytest.mark.parametrize("name", marked(n for n, f in ALL_FAMILIES.items() if f.full))
def test_at_full_size(name):
    """It is detected, nearly all of it is coded, and its plan is that of its family."""
    family, found = ALL_FAMILIES[known(name)], full_size(name)
    assert found.host_class == family.host_class
    assert found.plan_family == family.known_as in PLAN_FAMILIES
    assert found.coded[1] > 0.98 * found.weights or name == "hidream-o1"  # an embedding of 8 %


@pytest.mark.parametrize("name", marked(n for n, f in ALL_FAMILIES.items() if f.full))
@pytest.mark.slow
def test_every_layer_at_full_size(name):
    """Coded, it multiplies as the host's layer with the decoded weight does."""
    assert max(differences(full_size(known(name)).shapes)) < 1e-5


@pytest.mark.parametrize(
    "name", sorted(n for n, f in ALL_FAMILIES.items() if not f.full and f.known_as)
)
def test_its_plan_is_that_of_its_family(name):
    family = ALL_FAMILIES[known(name)]
    keys = {family.prefix + k: tuple(t.shape) for k, t in family.build().state_dict().items()}
    assert detect_family(keys) == family.known_as


@pytest.mark.parametrize("name", sorted(ALL_FAMILIES))
def test_the_command_line_codes_the_same_layers(name):
    """From a file alone, by keys and shapes, as the node does from the modules of the host."""
    family = ALL_FAMILIES[known(name)]
    held = {family.prefix + h.key: h for h in held_weights(family.build())}
    entries = {k: Entry(torch.float16, tuple(h.tensor.shape), 0, 1) for k, h in held.items()}
    dense = DenseCheckpoint(FileHeader(Path(name), {}, {}), "", entries, {})
    coded = {key for key in dense.keys() if dense.codable(key)}  # noqa: SIM118
    assert coded == {key for key, h in held.items() if h.codable}


@pytest.mark.parametrize(
    "name",
    [
        "hunyuan-video",
        pytest.param("stable-cascade-c", marks=pytest.mark.slow),
        "wan-dancer",
        "pixeldit",
    ],
)
def test_a_file_in_the_original_naming_that_the_host_renames_or_cuts_up(name, tmp_path):
    """As the command line makes one: what is cut up stays dense, what is renamed is coded."""
    family = ALL_FAMILIES[known(name)]
    weights = in_original_naming(name, tiny_state_dict(name))
    assert set(weights) != set(tiny_state_dict(name))
    save_file(weights, tmp_path / "dense.safetensors")
    source = checkpoint.open_dense(tmp_path / "dense.safetensors")
    checkpoint.save(tmp_path / "vq.safetensors", random_codes(source))
    with family.detected():
        model = load_file(str(tmp_path / "vq.safetensors"))
        vq = checkpoint.load(tmp_path / "vq.safetensors")
        decoded = load_dense(vq.decode(torch.float32))
    layers = [m for m in model.model.modules() if isinstance(m, CodedWeight)]
    assert sum(is_coded(layer.weight) for layer in layers) == len(vq.layers)
    assert relative_l2(sample(decoded, name), sample(model, name)) <= 1e-4


@pytest.mark.parametrize("name", ["zero123", "stable-audio"])
def test_the_command_line_keeps_what_lies_beside_the_model(name, tmp_path):
    family = ALL_FAMILIES[known(name)]
    path = tmp_path / "model.safetensors"
    save_file({"model.diffusion_model.x.weight": torch.zeros(8, 8), **beside_weights(family)}, path)
    assert set(checkpoint.open_dense(path).source.root) == set(family.root)


@pytest.mark.parametrize("name", ["ltxv", "wan-causal-ar", "wan-flow-rvs"])
def test_what_the_host_reads_from_a_header_goes_into_the_header(name):
    """Also where the file that it came from is not known."""
    family = ALL_FAMILIES[known(name)]
    model = load_family(name, tiny_state_dict(name))
    source = ModelSource(model)
    assert "config" in source.source.metadata
    shapes = {key: source.shape(key) for key in source.keys()}  # noqa: SIM118
    assert with_config(model, shapes, dict(family.metadata)) == dict(family.metadata)


def test_every_model_of_the_host_has_a_family():
    """A new one in a newer host is no failure of ours, but should get a row in docs/families.md."""
    tested = {family.model for family in ALL_FAMILIES.values()} | set(NOT_SAMPLED)
    tested |= {"SD15", "SD3", "FluxSchnell", "WAN21_T2V"}  # of FAMILIES
    host = {model.__name__ for model in comfy.supported_models.models}
    assert host - tested == set()


def test_the_page_is_what_its_command_prints(tmp_path):
    """A row of each kind, made as in benchmarks/families.py and with nothing wrong in it."""
    small = families._small_row(check("ltxv", tmp_path, quantized=True))
    cells = [cell.strip() for cell in small.strip("|").split("|")]
    assert (
        cells[:2] == ["ltxv", "LTXV"] and cells[6].startswith("4 / ") and cells[9] == "as detected"
    )
    assert len(cells) == families._SMALL_HEAD.splitlines()[0].count("|") - 1
    full = families._full_row("pixart-sigma")
    cells = [cell.strip() for cell in full.strip("|").split("|")]
    assert cells[:3] == ["pixart-sigma", "PixArt", "pixart"] and float(cells[9]) < 1e-5
    assert len(cells) == families._FULL_HEAD.splitlines()[0].count("|") - 1
    page = families.PAGE.read_text(encoding="utf-8")
    assert "WRONG" not in page and families.COMMAND in page
    assert all(
        f"| {name} | " in page for name, family in ALL_FAMILIES.items() if not family.missing
    )
