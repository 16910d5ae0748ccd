"""Which tensors and coded layers of a file belong to which of its models."""

from __future__ import annotations

from collections.abc import Iterable

from .fields import Description, LayerRecord
from .header import FileHeader
from .layout import COMPONENTS, ROOT, Layout
from .refusal import refuse


def split(
    file: FileHeader, description: Description, layout: Layout
) -> dict[str, tuple[dict[str, LayerRecord], Layout]]:
    """Coded layers and tensors of each component by its name, and of the diffusion model by ``""``.

    Names of layers and keys come without the component's prefix.

    Raises:
        VQError: something belongs to a component that the header does not list, or one that it lists
            holds no weights.
    """
    layers = _by_owner(file, description, layout.pieces)
    tensors = _by_owner(file, description, layout.dense)
    parts = {}
    for name in ("", *description.components):
        records = {inner: description.layers[key] for inner, key in layers[name].items()}
        found = {inner: layout.dense[key] for inner, key in tensors[name].items()}
        root = {k.removeprefix(ROOT): e for k, e in found.items() if name and k.startswith(ROOT)}
        used = {record.codebooks for record in records.values() if record.codebooks is not None}
        part = Layout(
            pieces={inner: layout.pieces[key] for inner, key in layers[name].items()},
            codebooks={s: layout.codebooks[s] for s in sorted(used)},
            dense={k: e for k, e in found.items() if not (name and k.startswith(ROOT))},
            root=root if name else layout.root,
        )
        if name and not records and not any(entry.numel for entry in part.dense.values()):
            refuse(file.path, f"vq.components, component {name}", "no weight of it", "some")
        parts[name] = records, part
    return parts


def _by_owner(
    file: FileHeader, description: Description, keys: Iterable[str]
) -> dict[str, dict[str, str]]:
    """Component -> name within it -> key."""
    owned: dict[str, dict[str, str]] = {name: {} for name in ("", *description.components)}
    for key in keys:
        owner, inner = "", key
        if key.startswith(COMPONENTS):
            owner, _, inner = key.removeprefix(COMPONENTS).partition(".")
            if owner not in description.components or not inner:
                known = ", ".join(description.components) or "none here"
                expected = f"a name in one of vq.components: {known}"
                refuse(file.path, key, f"component {owner!r}", expected)
        owned[owner][inner] = key
    return owned
