"""What a kernel accepts, as values that check a case and say what they ask for."""

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch


class Case(NamedTuple):
    """What decides which implementation decodes: the key of a cache, made for every call.

    Attributes:
        device: of the codes.
        dtype: of the result.
        books: codebooks of additive codes, bits of a trellis, 0 for int8 codes.
        block: of the rotation, 0 without one.
        index_bits: 32, or 64 for weights that 32 signed bits cannot count.
        window: bits of a trellis code's window, 0 for other codes.
    """

    device: torch.device
    dtype: torch.dtype
    books: int = 0
    block: int = 0
    index_bits: int = 32
    window: int = 0


class Constraint(Protocol):
    """``str`` of it says what is asked for."""

    def refusal(self, case: Case) -> str | None:
        """What was found instead, or None where the case is as asked for."""
        ...


@dataclass(frozen=True)
class OneOf:
    """A field of the case has one of some values."""

    field: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.field} " + _choice([str(v).removeprefix("torch.") for v in self.values])

    def refusal(self, case: Case) -> str | None:
        found = getattr(case, self.field)
        return None if found in self.values else str(found).removeprefix("torch.")


@dataclass(frozen=True)
class OnGraphicsCard:
    """A device that Triton compiles for, or the CPU if TRITON_INTERPRET=1 asks for its interpreter."""

    def __str__(self) -> str:
        return "a device cuda, or cpu with TRITON_INTERPRET=1"

    def refusal(self, case: Case) -> str | None:
        return None if case.device.type == "cuda" or interprets(case.device) else str(case.device)


@dataclass(frozen=True)
class OnCPU:
    """Main memory."""

    def __str__(self) -> str:
        return "a device cpu"

    def refusal(self, case: Case) -> str | None:
        return None if case.device.type == "cpu" else str(case.device)


@dataclass(frozen=True)
class Architecture:
    """A graphics card that the kernels were compiled for.

    Attributes:
        capability: least of an NVIDIA card.
        hip: names of AMD's architectures.
    """

    capability: tuple[int, int]
    hip: tuple[str, ...]

    def __str__(self) -> str:
        return f"compute capability {_dotted(self.capability)} or AMD's {_choice(list(self.hip))}"

    def refusal(self, case: Case) -> str | None:
        if interprets(case.device):
            return None
        if torch.version.hip is not None:
            name = torch.cuda.get_device_properties(case.device).gcnArchName.split(":")[0]
            return None if name in self.hip else name
        found = torch.cuda.get_device_capability(case.device)
        return None if found >= self.capability else _dotted(found)


def interprets(device: torch.device) -> bool:
    """Whether Triton's interpreter stands in for a graphics card here, as in tests."""
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _choice(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
