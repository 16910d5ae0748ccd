"""Codecs by name. A file stores the name; whatever implements it is found here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..errors import VQError
from .weight import Piece, VQWeight

OnProgress = Callable[[float], None]
"""Called with the number of weights coded since the last call; may raise to interrupt."""


class Codec(Protocol):
    """What a codec provides. ``spec`` is always an instance of the codec's own ``Spec``."""

    name: str
    version: int

    def supports(self, shape: tuple[int, ...]) -> bool:
        """Whether weights of this shape can be coded."""
        ...

    def spec_for(
        self, bits: int, shape: tuple[int, ...], seed: int = 0, effort: str = "balanced"
    ) -> Any:
        """The specification that ``encode`` would choose without looking at the weight."""
        ...

    encode: Callable[..., VQWeight]
    """Code a checked float weight; keyword options as in ``codecs.encode``."""

    def pieces(self, spec: Any, shape: tuple[int, ...]) -> dict[str, Piece]:
        """The tensors that a layer stores."""
        ...

    def codebook_shape(self, spec: Any) -> tuple[int, ...] | None:
        """Shape of the uint8 codebook set that a layer refers to, or None."""
        ...

    def to_record(self, spec: Any) -> dict[str, Any]:
        """The specification as JSON values."""
        ...

    def from_record(self, record: dict[str, Any]) -> Any:
        """The inverse of ``to_record``. Raises VQError that names a bad field."""
        ...


_CODECS: dict[str, Codec] = {}


def register(codec: Codec) -> None:
    """Make a codec known under its name. Raises VQError if the name is taken."""
    if codec.name in _CODECS:
        raise VQError(f"a codec named {codec.name!r} is registered already; choose another name")
    _CODECS[codec.name] = codec


def get(name: str) -> Codec:
    """The codec of a name. Raises VQError that lists the known names."""
    if name not in _CODECS:
        raise VQError(
            f"unknown codec {name!r}; this version knows {', '.join(names())}: "
            "update comfy-vq, or choose one of these"
        )
    return _CODECS[name]


def names() -> list[str]:
    """Names of all registered codecs."""
    return sorted(_CODECS)


def stored_bits(spec: Any, shape: tuple[int, ...]) -> int:
    """Bits of a layer's own pieces, without its codebook set."""
    return 8 * sum(piece.nbytes for piece in get(spec.codec).pieces(spec, shape).values())
