"""What works with VQ models in ComfyUI, feature by feature: makes docs/compatibility.md.

python make.py python -m benchmarks.compatibility --write

Runs every row of tests/host/features in the real ComfyUI, on tiny models with random weights, on the CPU.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.complaints import missing_tests
from benchmarks.complaints import table as complaints_table
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import VARIABLE, comfyui_version, find_comfyui

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
COMMAND = "python make.py python -m benchmarks.compatibility --write"

INTRODUCTION = """\
# What works with VQ models

Made by running every row in ComfyUI {version}:

    {command}

A row **works** if a VQ model with the feature and the dense model that holds its decoded weights, with the same
feature, give the same latents (relative L2 distance at most {tolerance}, float32), if these differ from
the latents without the feature (by more than {effect}), and if the VQ model samples afterwards exactly as before,
with as many coded layers. Models are tiny and have random weights; nodes are ComfyUI's own, called as a
graph calls them, in one process, one row after the other on the same models. **Refused** means one error, before
anything is changed, that says what to do. The same rows are tests (`tests/host/test_features.py`), which run in
every ComfyUI that `make test` finds, from 0.27.0 on; there, rows whose nodes an older ComfyUI has not are skipped. A
test also checks that every node of ComfyUI that takes a MODEL has a row. Nothing here has run on a graphics card.

{counts}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    if missing := missing_tests():
        print(f"tests that are named and do not exist: {', '.join(missing)}", file=sys.stderr)
        return 1
    comfyui = find_comfyui()
    if comfyui is None:
        raise VQError(f"no ComfyUI found: set {VARIABLE} to the folder that its main.py is in")
    with tempfile.TemporaryDirectory() as base:
        boot(comfyui, cpu=True, base_directory=Path(base))
        sections, counts = _run()
    page = "\n".join(
        [_introduction(str(comfyui_version(comfyui)), counts), *sections, _complaints()]
    )
    if options.write:
        PAGE.write_text(page, encoding="utf-8")
    else:
        print(page)
    print(_counted(counts), file=sys.stderr)
    return 1 if counts.keys() - {"works", "refused", "untested"} else 0


def _run() -> tuple[list[str], Counter[str]]:
    """The sections as Markdown, and how many rows had each outcome."""
    sys.path[:0] = [str(ROOT / "tests")]
    logging.disable()
    warnings.simplefilter("ignore")
    import comfy.utils

    from host.features import SECTIONS
    from host.features.feature import Feature, Outcome, check

    comfy.utils.set_progress_bar_enabled(False)
    sections, counts = [], Counter()
    for title, rows in SECTIONS.items():
        lines = [
            f"\n## {title}\n",
            "| feature | nodes | model | outcome | distance | effect | remark |",
        ]
        lines.append("|---|---|---|---|---:|---:|---|")
        for row in rows:
            found = check(row) if isinstance(row, Feature) else Outcome("untested", row.why)
            print(f"{found.status:8} {row.name}", file=sys.stderr, flush=True)
            counts[found.status] += 1
            lines.append(_line(row, found))
        sections.append("\n".join(lines))
    return sections, counts


def _line(row: Any, found: Any) -> str:
    nodes = ", ".join(f"`{node}`" for node in row.nodes)
    model = getattr(row, "variant", "")
    remark = found.detail.replace("|", "\\|")
    figures = (_figure(found.error), _figure(found.effect))
    return f"| {row.name} | {nodes} | {model} | {found.status} | {' | '.join(figures)} | {remark} |"


def _figure(value: float) -> str:
    if math.isnan(value):
        return ""
    return "other shape" if math.isinf(value) else f"{value:.0e}" if value else "0"


def _introduction(version: str, counts: Counter[str]) -> str:
    from host.features.feature import EFFECT, TOLERANCE

    return INTRODUCTION.format(
        version=version,
        command=COMMAND,
        tolerance=f"{TOLERANCE:g}",
        effect=f"{EFFECT:g}",
        counts=_counted(counts),
    )


def _counted(counts: Counter[str]) -> str:
    named = (("works", "work"), ("refused", "are refused"), ("untested", "are untested"))
    parts = [f"{counts[status]} {verb}" for status, verb in named]
    parts += [f"{n} are {status}" for status, n in counts.items() if status not in dict(named)]
    return f"Of {sum(counts.values())} rows, {', '.join(parts)}."


def _complaints() -> str:
    return (
        "\n## Known complaints about quantized models\n\n"
        "What users of other formats have reported, and the tests that would notice it here; "
        f"the script checks that they exist.\n\n{complaints_table()}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
