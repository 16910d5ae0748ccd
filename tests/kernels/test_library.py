"""The operators that compiled code decodes with."""

import shutil
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters

from comfy_vq import codecs, compute
from comfy_vq.kernels import Additive, Int8, Rotation, Trellis, dispatch, eager, library, scratch

SEEDS = [0, 1, 2**63 - 1, 2**63, 2**64 - 1]


def on_grid(kind, rows=5, width=128, bits=3, block=128, period=None, seed=2**64 - 1):
    """A random weight."""
    generator = torch.Generator().manual_seed(rows * width + bits)
    codes = torch.randint(256, (rows, width // 8, bits), dtype=torch.uint8, generator=generator)
    set_shape = (bits, 256, 8) if kind is Additive else (1, 1024, 1)
    tables = torch.randint(256, set_shape, dtype=torch.uint8, generator=generator)
    scales = torch.randn(rows, generator=generator).half()
    rotation = Rotation(block, seed) if block else None
    return kind(codes, tables, 0.0123, 131, scales, rotation, period or width)


additive = partial(on_grid, Additive)


def int8(rows=5, width=24):
    generator = torch.Generator().manual_seed(rows * width)
    codes = torch.randint(-127, 128, (rows, width), dtype=torch.int8, generator=generator)
    return Int8(codes, torch.randn(rows, generator=generator).half())


@pytest.fixture
def compiling(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def arguments_of_the_operator(monkeypatch, operator, *arguments):
    """What ``decode`` hands to torch."""
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(torch.compiler, "is_compiling", lambda: True)
        patched.setattr(torch.ops.comfy_vq, operator, lambda *found: seen.append(found))
        library.decode(*arguments)
    return seen[0]


SHAPES = [
    {"width": 40, "block": 0},
    {"rows": 1, "width": 8, "block": 0},
    {"width": 128, "block": 64},
    {"width": 256, "block": 128, "period": 128},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("kind", "bits"),
    [*((Additive, books) for books in (1, 2, 3, 4)), *((Trellis, bits) for bits in (2, 3, 5))],
)
def test_torch_finds_no_fault_with_what_decodes(shape, kind, bits, monkeypatch):
    operator = "decode_trellis" if kind is Trellis else "decode_additive"
    arguments = arguments_of_the_operator(
        monkeypatch, operator, on_grid(kind, bits=bits, **shape), torch.float16
    )
    torch.library.opcheck(getattr(torch.ops.comfy_vq, operator).default, arguments)


@pytest.mark.parametrize("shape", [(1, 1), (5, 24), (33, 128)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_torch_finds_no_fault_with_decode_int8(shape, dtype):
    torch.library.opcheck(torch.ops.comfy_vq.decode_int8.default, (*int8(*shape), dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_decode_as_the_reference(shape, dtype, compiling):
    sums, paths = additive(**shape), on_grid(Trellis, **shape)
    assert torch.equal(library.decode(sums, dtype), eager.decode_additive(sums, dtype))
    assert torch.equal(library.decode(paths, dtype), eager.decode_trellis(paths, dtype))
    assert torch.equal(library.decode(int8(), dtype), eager.decode_int8(*int8(), dtype))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_schema_holds_every_seed(seed, compiling):
    assert -(2**63) <= library.signed(seed) < 2**63
    weight = additive(seed=seed)
    expected = eager.decode_additive(weight, torch.float32)
    assert torch.equal(library.decode(weight, torch.float32), expected)


def test_different_seeds_stay_different():
    assert len({library.signed(seed) for seed in SEEDS}) == len(SEEDS)


def test_the_kernel_is_chosen_when_the_code_runs(monkeypatch):
    compiled = torch.compile(library.decode, backend="aot_eager", fullgraph=True)
    weight = additive()
    compiled(weight, torch.float32)
    marked = torch.full((5, 128), 7.0)
    monkeypatch.setattr(dispatch, "decode", lambda *_: marked.clone())
    assert torch.equal(compiled(weight, torch.float32), marked)


def test_results_are_memory_of_their_own(compiling):
    weight = additive()
    room = scratch.scratch(5, 128, torch.float32, torch.device("cpu"))
    found = [library.decode(weight, torch.float32) for _ in range(2)]
    kept = found[0].clone()
    room.fill_(7)
    found[1].fill_(7)
    assert torch.equal(found[0], kept)


@pytest.mark.parametrize("run", ["eager", "compiled"])
def test_another_copy_of_the_package_does_not_register_again(run):
    again = torch.library.Library(library.NAMESPACE, "FRAGMENT")
    schema = "decode_int8(Tensor codes, Tensor scales, ScalarType dtype) -> Tensor"

    def wrong(*_):
        raise AssertionError("the first copy's runs")

    library._register(again, schema, wrong, wrong)
    decode = lambda weight, dtype: torch.ops.comfy_vq.decode_int8(*weight, dtype)
    if run == "compiled":
        decode = torch.compile(library.decode, backend="aot_eager", fullgraph=True)
    expected = eager.decode_int8(*int8(), torch.float32)
    assert torch.equal(decode(int8(), torch.float32), expected)


def weights():
    """Of every kind, with and without a rotation."""
    generator = torch.Generator().manual_seed(0)
    for bits, codec, shape in (
        (2, "additive", (64, 24)),
        (3, "trellis", (128, 64)),
        (8, "int8", (128, 128)),
        (4, "additive", (24, 128)),
    ):
        weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        yield codecs.encode(weight, bits, codec, effort="fast")


class Chain(nn.Module):
    """Linear layers, and a convolution before them."""

    def __init__(self):
        super().__init__()
        kernel = torch.randn(24, 8, 3, 3, generator=torch.Generator().manual_seed(1)) / 8
        self.kernel = codecs.encode(kernel, 3, effort="fast")
        self.weights = list(weights())
        self.bias = nn.Parameter(torch.linspace(-1, 1, 24))

    def forward(self, x):
        x = compute.convolution(partial(F.conv2d, padding=1), x, self.kernel, self.bias)
        x = x.flatten(2).transpose(1, 2)
        for weight in self.weights:
            x = F.gelu(compute.linear(x, weight))
        return compute.linear(x, self.weights[0], None)


@pytest.fixture
def fresh():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def pictures(seed=0):
    return torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(seed))


BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(
            not any(map(shutil.which, ("g++", "c++", "clang++"))),
            reason="TORCH.COMPILE NOT TESTED WITH INDUCTOR: it needs a C++ compiler on the PATH",
        ),
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limit", [64 << 20, 6000], ids=["whole", "in slices"])
def test_a_model_compiles_in_one_graph_once(backend, limit, fresh, monkeypatch):
    monkeypatch.setattr(compute, "LIMIT", limit)
    model = Chain()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for seed in range(3):
        with torch.inference_mode():
            expected, found = model(pictures(seed)), compiled(pictures(seed))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_code_holds_one_dense_weight_at_a_time(backend, fresh, monkeypatch):
    alive, most = weakref.WeakSet(), []

    def watched(decode, *arguments):
        weight = decode(*arguments)
        alive.add(weight.untyped_storage())
        most.append(len(alive))
        return weight

    model = Chain()  # coded before: the encoder decodes, too
    monkeypatch.setattr(dispatch, "decode", partial(watched, dispatch.decode))
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.inference_mode():
        compiled(pictures())
    assert len(most) >= 5 and max(most) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_compiled_code_reach_the_input(backend, fresh):
    model, inputs = Chain().requires_grad_(False), [pictures().requires_grad_() for _ in range(2)]
    torch.compile(model, backend=backend, fullgraph=True)(inputs[0]).square().sum().backward()
    model(inputs[1]).square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_of_the_diffusers_adapter_compile(backend, fresh):
    pytest.importorskip("diffusers")
    from comfy_vq.hosts.diffusers import CodedConv2d, CodedLinear

    like = nn.Conv2d(8, 24, 3, padding=1)
    model = nn.Sequential(
        CodedConv2d(Chain().kernel, like.bias, like),
        nn.Flatten(2),
        nn.Linear(9, 24),
        *(CodedLinear(weight, None) for weight in weights()),
    )
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        expected, found = model(pictures()), compiled(pictures())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
