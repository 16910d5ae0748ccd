"""Triton where it is installed and works, without importing it before it is needed."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import eager, viterbi
from .coded import Additive, Trellis
from .constraints import Architecture, Case, OneOf, OnGraphicsCard
from .hadamard import Rotation
from .tables import sums_are_bytes

log = logging.getLogger(__name__)

ARCHITECTURE = Architecture((8, 0), ("gfx942", "gfx1100", "gfx1201"))

_broken: dict[tuple[torch.device, str], str] = {}
"""Devices whose kernels failed, and which: of additive codes and int8, of a trellis, or of its search."""
_batches: dict[tuple[Case, bool], str | None] = {}


@lru_cache(maxsize=1)
def kernels() -> ModuleType | str:
    """The module of the Triton kernels, or why it does not import."""
    try:
        from . import triton_decode
    except Exception as error:  # noqa: BLE001 - a Triton that does not fit raises anything
        return _line(error)
    return triton_decode


@dataclass(frozen=True)
class Works:
    """Triton imports, and decodes a tiny case of the same kind here as eager PyTorch does.

    What fails once is not tried again on that device, by any kernel of its module.

    Attributes:
        searches: for a trellis's best path instead.
    """

    searches: bool = False

    def __str__(self) -> str:
        return "a Triton that works"

    def refusal(self, case: Case) -> str | None:
        module = kernels()
        if isinstance(module, str):
            return module
        kind = "search" if self.searches else "trellis" if case.window else "additive"
        key = (case.device, kind)
        if key not in _broken:
            failure = _try_search(case) if self.searches else _try(module, case)
            if failure is None:
                return None
            _broken[key] = failure
            does = "searches" if self.searches else "decodes"
            log.warning("VQ: no Triton on %s, eager PyTorch %s: %s", case.device, does, failure)
        return _broken[key]


ADDITIVE = (
    OnGraphicsCard(),
    ARCHITECTURE,
    OneOf("dtype", (torch.float16, torch.bfloat16, torch.float32)),
    OneOf("books", (1, 2, 3, 4, 5, 6)),
    OneOf("block", (0, 64, 128)),
    OneOf("index_bits", (32,)),
    Works(),
)
ADDITIVE_INT8 = (
    OnGraphicsCard(),
    ARCHITECTURE,
    OneOf("dtype", (torch.int8,)),
    OneOf("books", (1, 2, 3, 4, 5, 6)),
    OneOf("index_bits", (32,)),
    Works(),
)
TRELLIS = (
    OnGraphicsCard(),
    ARCHITECTURE,
    OneOf("dtype", (torch.float16, torch.bfloat16, torch.float32)),
    OneOf("books", (2, 3, 4, 5)),
    OneOf("window", (10, 12)),
    OneOf("block", (0, 64, 128)),
    OneOf("index_bits", (32,)),
    Works(),
)
TRELLIS_INT8 = (
    OnGraphicsCard(),
    ARCHITECTURE,
    OneOf("dtype", (torch.int8,)),
    OneOf("books", (2, 3, 4, 5)),
    OneOf("window", (10, 12)),
    OneOf("index_bits", (32,)),
    Works(),
)
INT8 = (
    OnGraphicsCard(),
    ARCHITECTURE,
    OneOf("dtype", (torch.float16, torch.bfloat16, torch.float32)),
    OneOf("index_bits", (32,)),
    Works(),
)


SEARCH = (
    OnGraphicsCard(),
    ARCHITECTURE,
    OneOf("dtype", (torch.float32,)),
    OneOf("books", (2, 3, 4, 5)),
    OneOf("window", (10, 12)),
    Works(searches=True),
)


def decode_additive(weight: Additive, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """As ``eager.decode_additive``, where nothing in ``ADDITIVE`` refuses."""
    return _loaded().decode_additive(weight, dtype, out, sums_are_bytes(weight.codebooks))


def decode_additive_int8(*arguments: Any, out: Tensor | None = None) -> Tensor:
    """As ``eager.decode_additive_int8``, where nothing in ``ADDITIVE_INT8`` refuses."""
    return _loaded().decode_additive_int8(*arguments, out=out)


def decode_trellis(weight: Trellis, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """As ``eager.decode_trellis``, where nothing in ``TRELLIS`` refuses."""
    return _trellis().decode_trellis(weight, dtype, out)


def decode_trellis_int8(*arguments: Any, out: Tensor | None = None) -> Tensor:
    """As ``eager.decode_trellis_int8``, where nothing in ``TRELLIS_INT8`` refuses."""
    return _trellis().decode_trellis_int8(*arguments, out=out)


def decode_int8(*arguments: Any, out: Tensor | None = None) -> Tensor:
    """As ``eager.decode_int8``, where nothing in ``INT8`` refuses."""
    return _loaded().decode_int8(*arguments, out=out)


def best_path(*arguments: Any) -> Tensor:
    """As ``viterbi.best_path``, where nothing in ``SEARCH`` refuses."""
    from . import triton_viterbi

    return triton_viterbi.best_path(*arguments)


def batch_refusal(case: Case, byte_sums: bool) -> str | None:
    """Why weights of a case are not decoded in batches here, or None; see ``triton_batch``.

    Tried once: a batch of two tiny weights is built and launched.
    """
    for constraint in TRELLIS if case.window else ADDITIVE:
        found = constraint.refusal(case)
        if found is not None:
            return f"needs {constraint}, found {found}"
    key = (case, byte_sums)
    if key not in _batches:
        _batches[key] = _try_batch(case, byte_sums)
        if _batches[key] is not None:
            log.warning("VQ: no batches on %s: %s", case.device, _batches[key])
    return _batches[key]


def batch(
    items: Sequence[tuple[Additive | Trellis, Tensor]], byte_sums: bool
) -> Callable[[], None]:
    """One launch for several weights, where ``batch_refusal`` finds nothing against their case.

    Args:
        items: as for ``triton_batch.Batch``; held from here on.

    Raises:
        ValueError: as ``triton_batch.refusal`` says.
    """
    from . import triton_batch

    launch, device = triton_batch.Batch(tuple(items), byte_sums).launch, items[0][1].device
    if torch.cuda.device_count() < 2:
        return launch

    def launch_there() -> None:
        with torch.cuda.device(device):
            launch()

    return launch_there


def _try_batch(case: Case, byte_sums: bool) -> str | None:
    from . import triton_batch

    first = _tiny_trellis(case) if case.window else _tiny_additive(case, byte_sums)
    weights = [
        first,
        first._replace(codes=first.codes[:1].clone(), scales=first.scales[:1].clone()),
    ]
    expected = [_eagerly(weight, case.dtype) for weight in weights]
    outs = [torch.empty_like(matrix) for matrix in expected]

    def same() -> bool:
        batch = triton_batch.Batch(tuple(zip(weights, outs, strict=True)), byte_sums)
        for out in outs:
            out.zero_()
        batch.launch()
        return all(map(torch.equal, outs, expected))

    return _compare(same, case)


def _eagerly(weight: Additive | Trellis, dtype: torch.dtype) -> Tensor:
    if isinstance(weight, Trellis):
        return eager.decode_trellis(weight, dtype)
    return eager.decode_additive(weight, dtype)


def _loaded() -> Any:
    return kernels()


def _trellis() -> Any:
    from . import triton_trellis

    return triton_trellis


def _try(module: Any, case: Case) -> str | None:
    """What is wrong with decoding tiny cases, or None."""
    if case.window and case.dtype == torch.int8:
        tiny = _tiny_trellis(case)
        numbers = tiny.codes, tiny.codebooks, tiny.offset
        return _differs("decode_trellis_int8", _trellis(), case, numbers)
    if case.window:
        return _differs("decode_trellis", _trellis(), case, (_tiny_trellis(case), case.dtype))
    if case.dtype == torch.int8:
        return _differs("decode_additive_int8", module, case, _tiny_sums(case))
    if not case.books:
        codes = torch.arange(-64, 64, dtype=torch.int8, device=case.device).reshape(2, 64)
        scales = torch.ones(2, dtype=torch.float16, device=case.device)
        return _differs("decode_int8", module, case, (codes, scales, case.dtype))
    return _differs(
        "decode_additive", module, case, (_tiny_additive(case), case.dtype), sums_are_bytes=False
    ) or _differs(
        "decode_additive",
        module,
        case,
        (_tiny_additive(case, True), case.dtype),
        sums_are_bytes=True,
    )


def _try_search(case: Case) -> str | None:
    """What is wrong with a short search, or None. Sums are whole, so that only ties may differ."""
    count = 1 << case.window
    table = torch.arange(count, device=case.device).mul_(4093).remainder_(509).float() - 254
    weights = (
        torch.arange(48, device=case.device).mul_(37).remainder_(499).float().view(16, 3) - 249
    )
    joint = torch.arange(3, device=case.device)

    def cost(states: Tensor) -> Tensor:
        closed = (states[0] >> case.books == joint) & (states[-1] % (count >> case.books) == joint)
        error = (table[states.long()] - weights).square().sum(0)
        return torch.where(closed, error, torch.inf)

    arguments = weights, table, case.books, joint, joint
    return _compare(
        lambda: torch.allclose(
            cost(best_path(*arguments)), cost(viterbi.best_path(*arguments)), rtol=1e-4
        ),
        case,
    )


def _differs(
    name: str, module: Any, case: Case, arguments: tuple[Any, ...], **options: bool
) -> str | None:
    expected = getattr(eager, name)(*arguments)
    run = getattr(module, name)
    return _compare(lambda: torch.equal(run(*arguments, **options), expected), case)


def _compare(same: Callable[[], bool], case: Case) -> str | None:
    try:
        return None if same() else f"wrong weights in {case}"
    except torch.OutOfMemoryError:
        raise  # the host frees memory and comes back
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise anything
        return _line(error)


def _tiny_additive(case: Case, byte_sums: bool = False) -> Additive:
    width = 2 * case.block or 40
    groups, device = width // 8, case.device
    codes = torch.arange(3 * groups * case.books, device=device).mul_(37).to(torch.uint8)
    tables = torch.arange(case.books * 2048, device=device).mul_(101).to(torch.uint8)
    if byte_sums:
        tables //= case.books
    return Additive(
        codes.reshape(3, groups, case.books),
        tables.reshape(case.books, 256, 8),
        0.01,
        128,
        torch.tensor([1.0, -0.5, 0.3], dtype=torch.float16, device=device),
        Rotation(case.block, 0) if case.block else None,
        width,
    )


def _tiny_trellis(case: Case) -> Trellis:
    codes, _, step, offset, scales, rotation, period = _tiny_additive(case)
    table = torch.arange(1 << case.window, device=codes.device).mul_(101).to(torch.uint8)
    return Trellis(codes, table[None, :, None], step, offset, scales, rotation, period)


def _tiny_sums(case: Case) -> tuple[Any, ...]:
    tiny = _tiny_additive(case, byte_sums=True)
    return tiny.codes, tiny.codebooks, tiny.offset


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
