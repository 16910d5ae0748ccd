"""A plan as text."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from .layers import Layer
from .plan import Plan

_NUMBERED = re.compile(r"\b(\w*blocks?|(?:double_|single_)?layers)\.\d+")
_HEADER = ("layers like", "layers", "M weights", "share", "widths")


def to_table(plan: Plan) -> str:
    """A line per role of layers, most weights first, then what is never coded and the total.

    ``widths`` says how many layers of the role took which width, ``d`` being dense.
    """
    roles: dict[str, list[Layer]] = defaultdict(list)
    for layer in plan.layers:
        roles[_NUMBERED.sub(r"\1.*", layer.name)].append(layer)
    weights = sum(layer.numel for layer in plan.layers) + plan.other_numel
    rows = [
        (
            role,
            str(len(members)),
            *_size(sum(m.numel for m in members), weights),
            _widths(plan, members),
        )
        for role, members in roles.items()
    ]
    rows.sort(key=lambda row: (-float(row[2]), row[0]))
    rows.append(("(never coded)", "", *_size(plan.other_numel, weights), ""))
    rows.append(
        ("total", str(len(plan.layers)), *_size(weights, weights), _widths(plan, plan.layers))
    )
    lines = _aligned([_HEADER, *rows])
    quality = "" if plan.sqnr_db is None else f", {plan.sqnr_db:.1f} dB output SQNR expected"
    lines.append(
        f"{plan.bits:.3f} bits per weight, everything counted (asked for {plan.target:g}); "
        f"sensitivities: {'measured' if plan.sensitivity_db else plan.family}{quality}"
    )
    return "\n".join(lines)


def _size(numel: int, total: int) -> tuple[str, str]:
    return f"{numel / 1e6:.3f}", f"{100 * numel / total:.1f}%"


def _widths(plan: Plan, members: tuple[Layer, ...] | list[Layer]) -> str:
    choices = [plan.choices[m.name] for m in members]
    counts = Counter("d" if c.codec is None else str(c.bits) for c in choices)
    return " ".join(f"{width}x{count}" for width, count in sorted(counts.items()))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Text columns: the first and the last to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(w) for cell, w in zip(row[1:-1], widths[1:-1], strict=True)]
            + [row[-1]]
        ).rstrip()
        for row in rows
    ]
