"""Every model family that the real ComfyUI detects, quantized, saved, loaded, sampled, with a LoRA.

    python make.py python -m benchmarks.families
    python make.py python -m benchmarks.families flux-dev wan-i2v   # some of them, nothing is written

Writes docs/families.md. Needs the environment of a ComfyUI, found as the tests find it; what is
checked is what tests/host/test_families.py checks.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import comfyui_version, find_comfyui

if TYPE_CHECKING:
    from host.family_checks import Outcome
    from host.full_shapes import Detected

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "families.md"
COMMAND = "python make.py python -m benchmarks.families"
ENCODED_BELOW = 3_000_000
"""Weights of models that are coded by the encoder; in larger ones random codes stand for them."""

_REASONS = {
    "Embedding": "looked up, not multiplied",
    "ConvTranspose": "transposed convolution",
    "MoEGate": "router of experts, in a module of the host's own",
    "Equal": "scaled as it is used, in a module of the host's own",
    "Direction": "in a module of the host's own",
    "FourierFeatures": "in a module of the host's own",
}
_NO_REASON = "parameter of no layer"
_UNTESTED = {
    "SeedVR2 7B": "detection asks for 36 blocks of width 3072; SeedVR2 3B, of the same code, is here",
    "RT-DETR v4, SAM 3, Depth Anything 3": "the host detects them, but they are no diffusion models: "
    "no sampler runs them",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="some of them only")
    args = parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        raise VQError("no ComfyUI was found: set COMFYUI_PATH to the folder of its main.py")
    with tempfile.TemporaryDirectory() as folder:
        boot(comfyui, cpu=True, base_directory=Path(folder))
        logging.disable(logging.WARNING)
        sys.path.insert(0, str(ROOT / "tests"))
        lines = list(_page(args.families, Path(folder), comfyui_version(comfyui)))
    if not args.families:
        PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"wrote {PAGE}")


def _page(chosen: list[str], folder: Path, version: str) -> Iterator[str]:
    from host.families import ALL_FAMILIES

    names = [name for name, family in ALL_FAMILIES.items() if not chosen or name in chosen]
    known = [name for name in names if not ALL_FAMILIES[name].missing]
    yield _INTRODUCTION.format(command=COMMAND, version=version)
    yield from _printed(_SMALL_HEAD, (_small_row(_checked(name, folder)) for name in known))
    yield _FULL_INTRODUCTION
    yield from _printed(_FULL_HEAD, (_full_row(n) for n in known if ALL_FAMILIES[n].full))
    yield _UNTESTED_INTRODUCTION
    missing = {name: ALL_FAMILIES[name].missing for name in names if name not in known}
    yield from (f"* {name}: {why}" for name, why in {**_UNTESTED, **missing}.items())


def _printed(head: str, rows: Iterable[str]) -> Iterator[str]:
    for line in chain([head], rows):
        print(line, flush=True)
        yield line


def _checked(name: str, folder: Path) -> Outcome:
    import comfy.model_management

    from host.families import ALL_FAMILIES
    from host.family_checks import check

    weights = sum(tensor.numel() for tensor in ALL_FAMILIES[name].build().state_dict().values())
    found = check(name, folder, quantized=weights < ENCODED_BELOW)
    (folder / f"{name}.safetensors").unlink()
    comfy.model_management.unload_all_models()
    gc.collect()
    return found


_SMALL_HEAD = """\
| family | host class | M weights | layers coded | weights coded | left dense | bits | sampled | LoRA | built |
|---|---|---|---|---|---|---|---|---|---|"""


def _small_row(found: Outcome) -> str:
    from host.families import ALL_FAMILIES

    family = ALL_FAMILIES[found.family]
    bits = "random codes" if found.asked is None else f"{found.asked:g} / {found.bits:.3f}"
    cells = (
        found.family,
        found.host_class if found.host_class == family.host_class else "WRONG",
        f"{found.weights / 1e6:.1f}",
        f"{found.coded[0]}",
        f"{100 * found.coded[1] / found.weights:.1f} %",
        _dense(found.dense, found.weights),
        bits,
        f"{found.sampled:.0e}",
        f"{found.adapted:.0e}",
        "smaller numbers" if family.smaller else "as detected",
    )
    return f"| {' | '.join(cells)} |"


_FULL_HEAD = """\
| family | host class | plan | B weights | layers coded | weights coded | left dense | bits | kinds | L2 |
|---|---|---|---|---|---|---|---|---|---|"""


def _full_row(name: str) -> str:
    from host.families import ALL_FAMILIES
    from host.full_shapes import differences, full_size

    found: Detected = full_size(name)
    family = ALL_FAMILIES[name]
    cells = (
        name,
        found.host_class if found.host_class == family.host_class else "WRONG",
        found.plan_family,
        f"{found.weights / 1e9:.2f}",
        f"{found.coded[0]}",
        f"{100 * found.coded[1] / found.weights:.2f} %",
        _dense(found.dense, found.weights),
        f"{found.bits:.3f}",
        f"{len(found.shapes)}",
        f"{max(differences(found.shapes)):.0e}",
    )
    gc.collect()
    return f"| {' | '.join(cells)} |"


def _dense(kinds: Mapping[str, int], weights: int) -> str:
    """What is not coded, by reason, where it is more than a thousandth of all weights."""
    shares: dict[str, float] = {}
    for kind, count in kinds.items():
        layer = "." not in kind  # else a parameter of its own name
        known = (w for start, w in _REASONS.items() if layer and kind.startswith(start))
        why = next(known, _NO_REASON)
        shares[why] = shares.get(why, 0) + count / weights
    large = {why: share for why, share in shares.items() if share > 1e-3}
    return "; ".join(f"{100 * share:.1f} % {why}" for why, share in large.items()) or "-"


_INTRODUCTION = """\
# Model families

Every family of diffusion models that ComfyUI {version} detects goes through ComfyUI's own loader: quantized,
saved, loaded, sampled, sampled with a LoRA of the stock kind. This page is written by

    {command}

and the same is checked by `tests/host/test_families.py`, in ComfyUI 0.27 as well. Weights are random: this says that a family
works, not how well it stands few bits.

## Small models

Models of each family's own code, few layers and random weights. "as detected": built from what the host's detection finds in
the weights, nothing else. "smaller numbers": detection recognizes the family and chooses its class, but writes down fixed
sizes, for which the test puts smaller ones; the real sizes are in the next table.

* `layers coded`, `weights coded`: linear layers and convolutions in one to three dimensions, experts among them.
  `left dense`: what is no such layer of ComfyUI's and more than a thousandth of all weights, and why; besides,
  norms and biases, and what the plan leaves alone.
* `bits`: per weight, everything counted, asked / in the file; in models of more than 3 M weights random codes of all widths stand
  for an encoded model.
* `sampled`: relative L2 between latents (2 steps of euler with guidance, float32) of the VQ model as loaded from its
  file, and of the dense model that holds the weights which the file decodes to. At most 1e-4 counts as equal; where it is not
  0, float32 sums were taken in another order.
* `LoRA`: the same with a LoRA of rank 4 on eight layers of both.
"""
_FULL_INTRODUCTION = """
## Real sizes

The families above that are told by sizes which the small models do not have. The model is loaded through the host at its real size
with codes that take no memory, and one layer of each kind (shape and geometry) multiplies on its own.

* `plan`: whose sensitivities plan it, see [plan.md](plan.md). `bits`: of a plan for 4 bits per weight, everything counted.
* `kinds`: distinct layers. `L2`: the largest relative L2 between the output of a layer with a random coded weight and that of
  ComfyUI's own layer with the decoded one.
"""
_UNTESTED_INTRODUCTION = """
## Not here
"""


if __name__ == "__main__":
    main()
