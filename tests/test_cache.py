"""The cache of quantizations: what makes two of them the same, and what becomes of the files."""

import os
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq import cache as caching
from comfy_vq import checkpoint
from comfy_vq.cache import Cache, configured
from comfy_vq.cache_key import key_of
from comfy_vq.quantize import plan_for, quantize

TENSORS = {
    **{
        f"blocks.{i}.ff.weight": torch.sin(torch.arange(64 + 8 * i)[:, None] + torch.arange(256.0))
        for i in range(12)
    },
    "norm.weight": torch.ones(256, dtype=torch.float16),
    "v_pred": torch.zeros(1),
}
HOW = {"bits": 4.0, "effort": "fast", "exclude": (), "seed": 0}


def key(folder, tensors=TENSORS, name="model.safetensors", metadata=None, **how):
    folder.mkdir(exist_ok=True)
    tensors = {f"model.diffusion_model.{k}" if "." in k else k: t for k, t in tensors.items()}
    save_file(tensors, folder / name, metadata)
    weights, how = checkpoint.open_dense(folder / name), {**HOW, **how}
    codec = how.pop("codec", "additive")
    plan = plan_for(weights, how.pop("bits"), exclude=how["exclude"], codec=codec)
    return key_of(weights, plan, **how)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    save_file(TENSORS, path)
    return quantize(checkpoint.open_dense(path), 4.0, effort="fast")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", 10**9)


def entry_bytes(model, tmp_path):
    checkpoint.save(tmp_path / "size.safetensors", model, extra={"comfy_vq_seconds": "1.0"})
    return (tmp_path / "size.safetensors").stat().st_size + 64


def last_used(cache, key, seconds_ago):
    at = time.time() - seconds_ago
    os.utime(cache.folder / f"{key}.safetensors", (at, at))


def test_the_same_weights_are_found_wherever_they_lie(tmp_path):
    assert key(tmp_path / "here") == key(tmp_path / "there")


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 4.5},
        {"effort": "balanced"},
        {"codec": "trellis"},
        {"seed": 1},
        {"exclude": ("blocks.0.",)},
        {"name": "other.safetensors"},
        {"metadata": {"author": "someone"}},
        {"tensors": {k: t for k, t in TENSORS.items() if k != "v_pred"}},
        {"tensors": {k.replace("norm", "norms"): t for k, t in TENSORS.items()}},
        {"tensors": {k: t.bfloat16() if "norm" in k else t for k, t in TENSORS.items()}},
        {"tensors": {k: t.view(-1, 64) if "norm" in k else t for k, t in TENSORS.items()}},
        {"tensors": {k: t + 1e-4 * (t == t.max()) for k, t in TENSORS.items()}},
    ],
)
def test_whatever_decides_the_result_decides_the_key(tmp_path, change):
    assert key(tmp_path / "a") != key(tmp_path / "b", **change)


def test_looking_can_be_interrupted(tmp_path):
    seen = []

    def stop(name):
        seen.append(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        key(tmp_path / "a", on_tensor=stop)
    assert len(seen) == 1


def test_what_was_stored_is_found_as_it_was(cache, model, tmp_path):
    assert cache.find("a") is None
    cache.store("a", model, 83.2)
    found = cache.find("a")
    assert found.seconds == 83.2 and found.when.startswith("20")
    for name, saved in (("one", model), ("two", found.model)):
        checkpoint.save(tmp_path / name, saved)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps files that are in use")
def test_an_entry_in_use_outlives_its_file(cache, model):
    cache.store("a", model, 1.0)
    entry = cache.find("a")
    (cache.folder / "a.safetensors").unlink()
    name, weight = next(iter(model.layers.items()))
    assert torch.equal(entry.model.layers[name].tensors["codes"], weight.tensors["codes"])


def test_the_least_recently_used_makes_room(cache, model, tmp_path):
    cache = replace(cache, limit=2 * entry_bytes(model, tmp_path))
    for name, seconds_ago in (("a", 30), ("b", 20)):
        cache.store(name, model, 1.0)
        last_used(cache, name, seconds_ago)
    assert cache.find("a") is not None
    cache.store("c", model, 1.0)
    assert [name for name in "abc" if cache.find(name)] == ["a", "c"]


def test_the_newest_stays_even_if_its_header_is_over_the_limit(cache, model):
    cache = replace(cache, limit=model.nbytes)
    for name in "ab":
        cache.store(name, model, 1.0)
    assert [path.stem for path in cache.folder.iterdir()] == ["b"]


def test_what_is_over_the_limit_alone_is_not_stored(cache, model):
    cache.store("a", model, 1.0)
    assert replace(cache, limit=model.nbytes - 1).store("b", model, 1.0) is None
    assert cache.find("a") and not cache.find("b")


def test_what_a_killed_process_left_is_removed_after_a_day(cache, model):
    cache.folder.mkdir()
    for name, hours in ((".old.safetensors.0.tmp", 25), (".new.safetensors.0.tmp", 1)):
        (cache.folder / name).touch()
        os.utime(cache.folder / name, (time.time() - 3600 * hours,) * 2)
    cache.store("a", model, 1.0)
    left = {path.name for path in cache.folder.iterdir()}
    assert left == {".new.safetensors.0.tmp", "a.safetensors"}


def flip(data):
    return data[:-50] + bytes([data[-50] ^ 1]) + data[-49:]


@pytest.mark.parametrize("damage", [flip, lambda d: d[: len(d) // 2], lambda d: b"", bytes.upper])
def test_a_damaged_entry_is_removed(cache, model, caplog, damage):
    cache.store("a", model, 1.0)
    path = cache.folder / "a.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert cache.find("a") is None and not path.exists()
    assert "damaged cache entry" in caplog.text
    assert cache.store("a", model, 1.0) and cache.find("a")


def test_a_folder_that_cannot_be_written_to_is_only_logged(tmp_path, model, caplog):
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "cache", 10**9)
    assert cache.find("a") is None and cache.store("a", model, 1.0) is None
    assert "not kept in the cache" in caplog.text


def test_a_full_disk_is_only_logged(cache, model, caplog, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.checkpoint, "save", full)
    assert cache.store("a", model, 1.0) is None
    assert "No space left" in caplog.text


@pytest.mark.parametrize("value", ["off", "OFF", " 0 "])
def test_the_environment_switches_it_off(monkeypatch, tmp_path, value):
    monkeypatch.setenv("COMFY_VQ_CACHE", value)
    assert configured(tmp_path) is None


@pytest.mark.parametrize(
    ("size", "nbytes"), [("1.5", 1_500_000_000), ("", 20 * 10**9), ("lots", 20 * 10**9)]
)
def test_the_environment_says_where_and_how_much(monkeypatch, tmp_path, size, nbytes):
    monkeypatch.setenv("COMFY_VQ_CACHE_GB", size)
    monkeypatch.delenv("COMFY_VQ_CACHE", raising=False)
    assert configured(tmp_path) == Cache(tmp_path, nbytes)
    monkeypatch.setenv("COMFY_VQ_CACHE", str(tmp_path / "elsewhere"))
    assert configured(tmp_path) == Cache(tmp_path / "elsewhere", nbytes)
