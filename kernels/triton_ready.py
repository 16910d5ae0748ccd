"""Triton where it is installed and works, without importing it before it is needed."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import eager
from .constraints import Architecture, Case, OneOf, OnGraphicsCard
from .hadamard import Rotation

log = logging.getLogger(__name__)

ARCHITECTURE = Architecture((8, 0), ("gfx942", "gfx1100", "gfx1201"))

_broken: dict[torch.device, str] = {}


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

    What fails once is not tried again on that device, by any kernel.
    """

    def __str__(self) -> str:
        return "a Triton that works"

    def refusal(self, case: Case) -> str | None:
        module = kernels()
        if isinstance(module, str):
            return module
        if case.device not in _broken:
            failure = _try(module, case)
            if failure is None:
                return None
            _broken[case.device] = failure
            log.warning("VQ: no Triton on %s, eager PyTorch decodes: %s", case.device, failure)
        return _broken[case.device]


ADDITIVE = (
    OnGraphicsCard(),
    ARCHITECTURE,
    OneOf("dtype", (torch.float16, torch.bfloat16, torch.float32)),
    OneOf("books", (1, 2, 3, 4, 5, 6)),
    OneOf("block", (0, 64, 128)),
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


def decode_additive(*arguments: Any, out: Tensor | None = None) -> Tensor:
    """As ``eager.decode_additive``, where nothing in ``ADDITIVE`` refuses."""
    return _loaded().decode_additive(*arguments, out=out)


def decode_int8(*arguments: Any, out: Tensor | None = None) -> Tensor:
    """As ``eager.decode_int8``, where nothing in ``INT8`` refuses."""
    return _loaded().decode_int8(*arguments, out=out)


def _loaded() -> Any:
    return kernels()


def _try(module: Any, case: Case) -> str | None:
    """What is wrong with decoding a tiny case, or None."""
    if case.books:
        arguments = _tiny_additive(case)
        run: Callable[..., Tensor] = module.decode_additive
        expected = eager.decode_additive(*arguments)
    else:
        codes = torch.arange(-64, 64, dtype=torch.int8, device=case.device).reshape(2, 64)
        arguments = (codes, torch.ones(2, dtype=torch.float16, device=case.device), case.dtype)
        run, expected = module.decode_int8, eager.decode_int8(*arguments)
    try:
        same = torch.equal(run(*arguments), expected)
    except torch.OutOfMemoryError:
        raise  # the host frees memory and comes back
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise anything
        return _line(error)
    return None if same else f"wrong weights in {case}"


def _tiny_additive(case: Case) -> tuple[Any, ...]:
    width = 2 * case.block or (64 if case.paired else 8)
    groups, device = width // 8, case.device
    codes = torch.arange(3 * groups * case.books, device=device).mul_(37).to(torch.uint8)
    tables = torch.arange(case.books * 2048, device=device).mul_(101).to(torch.uint8)
    scales = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float16, device=device)
    return (
        codes.reshape(3, groups, case.books),
        tables.reshape(case.books, 256, 8),
        0.01,
        128,
        scales,
        Rotation(case.block, 0) if case.block else None,
        width,
        case.dtype,
    )


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
