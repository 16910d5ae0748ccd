"""How layers of coded weights may be computed, by the names that nodes and commands use."""

from __future__ import annotations

from pathlib import Path

COMPUTE = ("auto", "exact", "int8")
"""``exact``: weights decode to the dtype of the activations. ``int8``: products of bytes where the
activations stand it. ``auto``: int8 where it is faster on the graphics card at hand."""


def split_compute(path: Path) -> tuple[Path, str]:
    """A model file and how to compute: ``FILE@int8`` names both, ``FILE`` alone means exact.

    A file that is really called so is taken as it is.
    """
    name, at, compute = path.name.rpartition("@")
    if at and name and compute in COMPUTE and not path.is_file():
        return path.with_name(name), compute
    return path, "exact"
