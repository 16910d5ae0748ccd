"""Make the sensitivity tables of Stable Diffusion UNets from MixDQ's published log.

MixDQ (arXiv 2405.17873) quantized one layer of SDXL-Turbo at a time, at 2, 4 and 8 bits, and
logged the SQNR of the model's output in dB:

    git clone https://github.com/thu-nics/MixDQ
    python -m training.derive_unet_table MixDQ/mixed_precision_scripts/sensitivity_log/\
sdxl_turbo/weight/sqnr/bs32_split_sqnr_weight/sensitivity.yaml

A layer's sensitivity is minus the mean of its 2-bit and 4-bit SQNR, plus the mean SQNR of such
weights themselves (10.5 dB: Gaussian rows, 4 and 16 even levels between their extremes).
``unet.json`` has the mean of each role; ``sdxl.json`` the mean of each role in each block.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean

from comfy_vq.plan.families import unet_name

WEIGHT_DB = 10.5
SOURCE = (
    "MixDQ, arXiv 2405.17873: published sensitivity logs of SDXL-Turbo (github.com/thu-nics/MixDQ, "
    "sensitivity_log/sdxl_turbo/weight/sqnr), averaged by training/derive_unet_table.py"
)
TABLES = Path(__file__).parent.parent / "comfy_vq" / "plan" / "tables"
_SINGLE = re.compile(r"time_embed|label_emb|out\.2|input_blocks\.0\.")


def read_log(path: Path) -> dict[str, list[float]]:
    """Output SQNR at 2, 4 and 8 bits by layer name (a flat YAML mapping to lists)."""
    log: dict[str, list[float]] = {}
    values: list[float] = []
    for line in path.read_text().splitlines():
        if line.startswith("- "):
            values.append(float(line[2:]))
        elif line.endswith(":"):
            values = log.setdefault(unet_name(line[:-1].removeprefix("model.")), [])
    return log


def globs_of(name: str) -> tuple[str, str]:
    """Patterns of the layers that a name is averaged with: everywhere, and in its block."""
    if _SINGLE.match(name):
        return name, name
    name = re.sub(r"transformer_blocks\.\d+", "transformer_blocks.*", name)
    return re.sub(r"^(input|output)_blocks\.\d+\.\d+|^middle_block\.\d+", "*", name), name


def write(table_name: str, values: dict[str, list[float]], **fields: object) -> None:
    """A table with the mean of each pattern's values, most sensitive first, one rule a line."""
    means = {glob: round(mean(found), 1) for glob, found in values.items()}
    rules = sorted(means.items(), key=lambda rule: (-rule[1], rule[0]))
    table = json.dumps({"source": SOURCE, "size_exponent": 0, **fields, "rules": rules})
    text = table.replace("[[", "[\n[").replace("], [", "],\n[").replace("]]", "]\n]")
    (TABLES / f"{table_name}.json").write_text(text + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="MixDQ's sensitivity.yaml")
    roles, blocks, everything = defaultdict(list), defaultdict(list), []
    for name, (two, four, _) in read_log(parser.parse_args().log).items():
        value = WEIGHT_DB - (two + four) / 2
        role, block = globs_of(name)
        roles[role].append(value)
        everything.append(value)
        if block != role:
            blocks[block].append(value)
    write("unet", roles, default=round(mean(everything), 1))
    write("sdxl", blocks, extends="unet", absolute=True)


if __name__ == "__main__":
    main()
