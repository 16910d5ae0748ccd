"""Files that hold more than a diffusion model, or none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comfy_vq import checkpoint, codecs
from comfy_vq.checkpoint import fields
from comfy_vq.checkpoint.encoders import by_encoder, split_encoders
from comfy_vq.errors import VQError
from comfy_vq.model import Component, Source, VQModel

from .conftest import Damage, full_components, own_set, tiny_model


@pytest.fixture
def components() -> dict[str, Component]:
    return full_components()


@pytest.fixture
def full(model: VQModel, components: dict[str, Component], tmp_path: Path) -> Path:
    path = tmp_path / "full.safetensors"
    checkpoint.save(path, model, components=components)
    return path


def alike(a: VQModel, b: VQModel) -> bool:
    """Whether two models are the same to the last bit."""
    same = a.layers.keys() == b.layers.keys() and (a.source, a.plan) == (
        replace(b.source, root=a.source.root),
        b.plan,
    )
    same &= all(
        torch.equal(w.decode(torch.float32), b.layers[name].decode(torch.float32))
        for name, w in a.layers.items()
    )
    for one, other in ((a.dense, b.dense), (a.source.root, b.source.root)):
        same &= one.keys() == other.keys()
        same &= all(t.dtype == other[k].dtype and torch.equal(t, other[k]) for k, t in one.items())
    return same


def test_each_model_comes_back_as_it_was(full, model, components) -> None:
    assert alike(model, checkpoint.load(full))
    for name, component in components.items():
        loaded = checkpoint.load_component(full, name)
        assert loaded.about == component.about
        assert alike(component.model, loaded.model)


def test_each_model_is_counted_by_itself(full, model, components) -> None:
    header = checkpoint.inspect(full)
    assert (header.numel, header.nbytes) == (model.numel, model.nbytes)
    assert header.bits_per_weight == model.bits_per_weight
    for name, component in components.items():
        part = header.components[name]
        assert (part.numel, part.nbytes) == (component.model.numel, component.model.nbytes)


def test_the_model_is_read_without_the_rest(full, monkeypatch) -> None:
    read = []
    finite = checkpoint.reader.check_finite
    monkeypatch.setattr(
        checkpoint.reader,
        "check_finite",
        lambda p, where, t: (read.append(where), finite(p, where, t)),
    )
    checkpoint.load(full)
    assert read and not [where for where in read if "components" in where]


def test_a_shared_codebook_set_is_stored_once(full, model, components) -> None:
    shared = set(model.codebook_sets()) & set(components["clip"].model.codebook_sets())
    assert shared
    index = Damage(full).index
    for name in shared:
        assert [key for key in index if key.endswith(f"codebooks.{name}")] == [
            f"vq.codebooks.{name}"
        ]


def test_sets_that_only_share_a_name_are_kept_apart(model, tmp_path) -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))
    other = replace(own_set("own.blocks.0"), offset=own_set("x").offset + 1)
    coded = codecs.encode(weight, 2, effort="fast", codebooks=other)
    clip = Component(VQModel({"l.q": coded, "l.k": coded}, {}))
    path = tmp_path / "full.safetensors"
    checkpoint.save(path, model, components={"clip": clip})
    assert alike(model, checkpoint.load(path))
    layers = checkpoint.load_component(path, "clip").model.layers
    assert {w.codebooks.name for w in layers.values()} == {"components.clip.own.blocks.0"}
    assert torch.equal(layers["l.q"].decode(torch.float32), coded.decode(torch.float32))


def test_a_file_of_components_alone(components, tmp_path) -> None:
    path = tmp_path / "clip.safetensors"
    checkpoint.save(path, VQModel({}, {}), components={"clip": components["clip"]})
    assert alike(components["clip"].model, checkpoint.load_component(path, "clip").model)
    assert checkpoint.inspect(path).numel == 0
    with pytest.raises(
        VQError, match="found clip, expected a diffusion model; load it with Load VQ CLIP"
    ):
        checkpoint.load(path)


def test_contents_tell_what_may_be_loaded(full, saved, components, tmp_path) -> None:
    alone = tmp_path / "clip.safetensors"
    checkpoint.save(alone, VQModel({}, {}), components={"clip": components["clip"]})
    assert checkpoint.contents(full) == ("model", "clip", "vae")
    assert checkpoint.contents(saved) == ("model",)
    assert checkpoint.contents(alone) == ("clip",)
    checkpoint.write_dense(tmp_path / "dense.safetensors", {"a": torch.zeros(2)})
    assert checkpoint.contents(tmp_path / "dense.safetensors") == ()
    damage = Damage(full)
    damage.index["__metadata__"]["vq.components"] = "["
    assert checkpoint.contents(damage.write()) == ("model", "clip", "vae"), "so its error is seen"


def test_a_reader_that_knows_no_components_refuses_the_file(full, monkeypatch) -> None:
    monkeypatch.setattr(fields, "FEATURES", frozenset())
    with pytest.raises(VQError, match="vq.requires: found components, .*update comfy-vq"):
        checkpoint.inspect(full)


def test_a_file_without_components_has_not_changed(saved) -> None:
    metadata = Damage(saved).index["__metadata__"]
    assert json.loads(metadata["vq.requires"]) == []
    assert "vq.components" not in metadata


def test_the_same_models_give_the_same_bytes(full, components, tmp_path) -> None:
    again = tmp_path / "again.safetensors"
    checkpoint.save(again, tiny_model(), components=dict(reversed(components.items())))
    assert again.read_bytes() == full.read_bytes()


def test_a_component_decodes_to_a_file_of_its_own(full, components, tmp_path) -> None:
    component = checkpoint.load_component(full, "clip")
    checkpoint.write_decoded(tmp_path / "dense.safetensors", component.model)
    dense = checkpoint.open_dense(tmp_path / "dense.safetensors")
    assert set(dense.keys()) >= {"l.embedding.weight", "l.q.weight"}
    assert components["clip"].model.source == Source("clip.safetensors", None, "", {}, dict(
        components["clip"].model.source.root))  # fmt: skip


def test_keys_are_split_by_encoder() -> None:
    keys = ["t5xxl.transformer.shared.weight", "clip_l.transformer.a.transformer.b", "clip_l.scale"]
    encoders, others = by_encoder(keys)
    assert encoders == {"clip_l": {"a.transformer.b": keys[1]}, "t5xxl": {"shared.weight": keys[0]}}
    assert others == ["clip_l.scale"]


def test_an_encoder_has_the_keys_of_its_own_file(components) -> None:
    clip = components["clip"].model
    layers = {f"l.transformer.{name[2:]}": weight for name, weight in clip.layers.items()}
    dense = {
        "l.transformer.embedding.weight": clip.dense["l.embedding.weight"],
        "l.scale": torch.ones(1),
    }
    (name, encoder), *others = split_encoders(replace(clip, layers=layers, dense=dense)).items()
    assert (name, others) == ("l", [])
    assert set(encoder.decode()) == {
        "embedding.weight", "q.weight", "k.weight", "out.weight", "spiece_model"
    }  # fmt: skip
