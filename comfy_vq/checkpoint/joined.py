"""All models of a file as one, under the names that they are stored by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import torch

from ..codecs import CodebookSet, VQWeight
from ..model import Component, VQModel
from .components import NAME
from .layout import COMPONENTS, RESERVED, component_prefix, root_key
from .refusal import refuse


def joined(
    path: str | os.PathLike[str], model: VQModel, components: Mapping[str, Component]
) -> VQModel:
    """The diffusion model with the layers and keys of components beside its own.

    A codebook set that the models share stays one; one that only bears the name of another gets
    another name.

    Args:
        path: of the file to write, for messages.

    Raises:
        VQError: a component has a name, or a tensor or layer a key, that the format cannot hold; or
            a component is empty.
    """
    _refuse_reserved(path, model)
    layers, dense = dict(model.layers), dict(model.dense)
    sets = model.codebook_sets()
    for name, component in sorted(components.items()):
        part = component.model
        if not NAME.fullmatch(name):
            refuse(path, "components", repr(name), "names of a-z, 0-9 and _", "rename it")
        if not part.numel:
            refuse(path, f"component {name}", "nothing", "weights", "leave it out")
        _refuse_reserved(path, part)
        prefix = component_prefix(name)
        for layer, weight in part.layers.items():
            layers[prefix + layer] = _with_own_name(weight, prefix, sets)
        dense |= {prefix + key: tensor for key, tensor in part.dense.items()}
        dense |= {prefix + root_key(key): tensor for key, tensor in part.source.root.items()}
    return replace(model, layers=layers, dense=dense)


def same_set(a: CodebookSet, b: CodebookSet) -> bool:
    """Whether two sets decode alike."""
    if (a.step, a.offset) != (b.step, b.offset):
        return False
    return a.codebooks is b.codebooks or torch.equal(a.codebooks.cpu(), b.codebooks.cpu())


def _with_own_name(weight: VQWeight, prefix: str, sets: dict[str, CodebookSet]) -> VQWeight:
    shared = weight.codebooks
    if shared is None:
        return weight
    known = sets.setdefault(shared.name, shared)
    if known is shared:
        return weight
    if not same_set(known, shared):
        shared = replace(shared, name=prefix + shared.name)
        sets.setdefault(shared.name, shared)
        return replace(weight, codebooks=sets[shared.name])
    return replace(weight, codebooks=known)


def _refuse_reserved(path: str | os.PathLike[str], model: VQModel) -> None:
    misleading = [layer for layer in model.layers if layer.startswith(COMPONENTS)]
    for key in (*model.dense, *misleading):
        if key.startswith(RESERVED):
            expected = f"a name that does not begin with {' or '.join(RESERVED)}"
            refuse(path, "tensors", key, expected, "rename it in the source")
