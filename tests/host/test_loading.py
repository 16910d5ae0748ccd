"""A VQ model in ComfyUI: loaded by the host's loader, it is the model that it decodes to."""

import comfy.model_base
import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.diffusionmodules import openaimodel
from comfy.model_patcher import ModelPatcher
from torch.utils._python_dispatch import TorchDispatchMode

from comfy_vq import checkpoint, codecs
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.loader import InMemory, load, load_file
from comfy_vq.hosts.comfy.model.ops import CodedWeight
from comfy_vq.model import Source, VQModel
from host.families import FAMILIES, random_vq_model, random_weight, tiny_state_dict
from host.sampling import load_dense, relative_l2, rounding, sample


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def vq(family):
    return random_vq_model(family)


@pytest.fixture(scope="module")
def model(vq):
    return load(InMemory(vq))


def sampling_bytes(model: ModelPatcher) -> int:
    """The host counts the tables of the noise schedule to the model."""
    return comfy.model_management.module_size(model.model.model_sampling)


def test_is_detected(model, family):
    assert type(model.model).__name__ == FAMILIES[family].host_class
    assert isinstance(model.model, getattr(comfy.model_base, FAMILIES[family].host_class))


def test_samples_as_the_dense_model_of_its_decoded_weights(model, vq, family):
    weights = vq.decode(torch.float32)
    expected = sample(load_dense(weights), family)
    found = relative_l2(expected, sample(model, family))
    assert found <= max(1e-5, 2 * rounding(expected, weights, family))


def test_has_the_compressed_size(model, vq):
    assert model.model_size() - sampling_bytes(model) == vq.nbytes


def test_layers_hold_their_codes_and_share_the_sets(model, vq):
    coded = [m for m in model.model.modules() if isinstance(m, CodedWeight) and is_coded(m.weight)]
    assert len(coded) == len(vq.layers)
    sets = {id(m.weight._params.codebooks): m for m in coded if m.weight._params.set_name}
    assert len(sets) == len(vq.codebook_sets())


def test_clones_share(model):
    clone = model.clone()
    assert clone.model is model.model
    assert clone.model_size() == model.model_size()
    assert clone.cached_patcher_init == model.cached_patcher_init


def test_every_key_of_the_state_dict_resolves(model):
    patches = model.get_key_patches()
    assert {k for k in patches if k.endswith("weight")} <= set(model.model.state_dict())
    plain = model.model.state_dict().values()
    assert not any(is_coded(tensor) for tensor in plain)


def test_the_host_rebuilds_it_from_its_origin(model, vq):
    rebuild, arguments = model.cached_patcher_init
    again = rebuild(*arguments, disable_dynamic=True)
    assert again.model is not model.model
    assert again.model_size() == model.model_size()


def test_unloads_and_loads_again(model, vq, family):
    before = sample(model, family)
    comfy.model_management.unload_all_models()
    assert model.loaded_size() == 0
    assert torch.equal(sample(model, family), before)


class Shapes(TorchDispatchMode):
    """Records the shapes of all float tensors that come to be in memory."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
            if plain and tensor.is_floating_point() and not tensor.is_meta:
                self.seen.add(tuple(tensor.shape))
        return out


def test_loading_builds_no_dense_weight(vq):
    with Shapes() as shapes:
        load(InMemory(vq))
    assert shapes.seen  # norms and biases
    assert shapes.seen.isdisjoint(w.shape for w in vq.layers.values())


def test_half_precision_weights_decode_to_what_the_host_computes_in():
    vq = random_vq_model("flux", torch.bfloat16)
    model, dense = load(InMemory(vq)), load_dense(vq.decode(torch.bfloat16))
    assert model.model_dtype() == dense.model_dtype()
    assert model.model.manual_cast_dtype == dense.model.manual_cast_dtype


def test_from_file(tmp_path, family, vq, model):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, vq)
    loaded = load_file(str(path))
    assert loaded.model_size() == model.model_size()
    assert torch.equal(sample(loaded, family), sample(model, family))


@pytest.mark.parametrize("loader", ["diffusion_model", "checkpoint"])
def test_core_loaders_refuse_the_file(tmp_path, family, vq, loader):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, vq)
    with pytest.raises(RuntimeError, match="Could not detect model type"):
        if loader == "checkpoint":
            comfy.sd.load_checkpoint_guess_config(str(path))
        else:
            comfy.sd.load_diffusion_model(str(path))


def test_layers_that_ours_do_not_hold_are_decoded():
    """A file may code what the host holds in other modules, such as an embedding."""
    vq = random_vq_model("flux")
    shape = tuple(tiny_state_dict("flux")["txt_in.weight"].shape)
    model = load(InMemory(vq))
    model.model.other = torch.nn.Embedding(*shape)
    coded = {"weight": comfy_pending(random_weight("additive", 3, shape))}
    model.model.other.load_state_dict(coded)
    assert torch.equal(model.model.other.weight, random_weight("additive", 3, shape).decode())


def comfy_pending(weight):
    from comfy_vq.hosts.comfy.model.layout import pending

    return pending(weight)


def test_unknown_models_are_refused_with_advice():
    layers = {"some.layer": random_weight("additive", 3, (16, 16))}
    with pytest.raises(VQError, match="recognizes no diffusion model"):
        load(InMemory(VQModel(layers, {}, Source("strange.safetensors"))))


def sdxl_on_meta(root: dict[str, torch.Tensor]) -> VQModel:
    """An SDXL model at its full size whose codes take no memory."""
    with torch.device("meta"):
        unet = openaimodel.UNetModel(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            num_res_blocks=[2, 2, 2],
            channel_mult=[1, 2, 4],
            transformer_depth=[0, 0, 2, 2, 10, 10],
            transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
            transformer_depth_middle=10,
            context_dim=2048,
            adm_in_channels=2816,
            num_classes="sequential",
            use_spatial_transformer=True,
            use_linear_in_transformer=True,
            num_head_channels=64,
            legacy=False,
            operations=comfy.ops.manual_cast,
        )
    layers, dense = {}, {}
    shared = codecs.shipped_set(3)
    for key, tensor in unet.state_dict().items():
        shape = tuple(tensor.shape)
        if len(shape) in (2, 4) and shape[1] % 8 == 0:
            spec = codecs.spec_for("additive", 3, shape)
            pieces = {
                name: torch.empty(piece.shape, dtype=piece.dtype, device="meta")
                for name, piece in codecs.get("additive").pieces(spec, shape).items()
            }
            weight = codecs.VQWeight(spec, shape, torch.float16, pieces, shared)
            layers[key.removesuffix(".weight")] = weight
        else:
            dense[key] = torch.zeros(shape, dtype=torch.float16)
    return VQModel(layers, dense, Source("sdxl.safetensors", root=root))


PRESENT = torch.zeros(1)


@pytest.mark.parametrize(
    ("root", "kind", "zero_snr"),
    [
        ({}, "EPS", False),
        ({"v_pred": PRESENT}, "V_PREDICTION", False),
        ({"v_pred": PRESENT, "ztsnr": PRESENT}, "V_PREDICTION", True),
        ({"edm_vpred.sigma_max": torch.tensor(80.0)}, "V_PREDICTION_EDM", None),
        ({"edm_mean": PRESENT, "edm_std": PRESENT}, "EDM", None),
    ],
    ids=["plain", "v", "v-zsnr", "edm-v", "edm"],
)
def test_sdxl_samples_as_its_checkpoint_said(root, kind, zero_snr):
    model = load(InMemory(sdxl_on_meta(root)))
    assert type(model.model).__name__ == "SDXL"
    assert model.model.model_type.name == kind
    assert getattr(model.model.model_sampling, "zsnr", None) == zero_snr
