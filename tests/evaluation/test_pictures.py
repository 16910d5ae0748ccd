"""The picture grid."""

import pytest
import torch

from comfy_vq.evaluation.pictures import draw_grid

CELL = 168


def flat(*colours) -> torch.Tensor:
    return torch.tensor(colours, dtype=torch.float32)[:, None, None].expand(-1, 8, 8, 3)


def cells(grid, rows: int, columns: int):
    """Colours in the middles of the pictures, row by row."""
    width, height = grid.size
    return [
        [
            grid.getpixel((width - (columns - c) * CELL + 80, height - (rows - r) * CELL + 80))
            for c in range(columns)
        ]
        for r in range(rows)
    ]


def test_prompts_down_and_each_candidate_with_its_difference_across():
    reference = flat((1, 0, 0), (0, 0, 0))
    candidate = flat((1, 0.6, 0), (0, 0, 0))
    grid = draw_grid(["a red square", "nothing"], {"dense": reference, "VQ3": candidate})
    assert cells(grid, 2, 3) == [
        [(255, 0, 0), (255, 153, 0), (0, 153, 0)],
        [(0, 0, 0), (0, 0, 0), (0, 0, 0)],
    ]


def test_differences_are_amplified_alike():
    shown = {
        "dense": flat((0.5, 0.5, 0.5)),
        "a": flat((0.51, 0.5, 0.5)),
        "b": flat((0.5, 0.5, 0.54)),
    }
    (row,) = cells(draw_grid(["x"], shown), 1, 5)
    assert row[2] == pytest.approx((51, 0, 0), abs=1)  # 0.01 twenty times
    assert row[4] == pytest.approx((0, 0, 204), abs=1)


def test_pictures_keep_their_proportions():
    wide = torch.zeros(1, 30, 60, 3)
    width, height = draw_grid(["x"], {"dense": wide}).size
    wider, higher = draw_grid(["x"], {"dense": wide, "VQ": wide}).size
    assert wider - width == 2 * CELL and height == higher < CELL
