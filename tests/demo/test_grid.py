import torch

from comfy_vq.demo.grid import draw_grid


def test_pictures_lie_in_columns_by_model_and_rows_by_prompt():
    red, blue = torch.zeros(2, 8, 8, 3), torch.zeros(2, 8, 8, 3)
    red[0, ..., 0] = 1
    blue[..., 2] = 1
    grid = draw_grid(["a red square", "nothing"], {"dense": red, "3 bits": blue})
    width, height = grid.size
    cell = 168
    first, second = width - 2 * cell + cell // 2, width - cell // 2 - 8
    top, bottom = height - 2 * cell + cell // 2, height - cell // 2
    assert grid.getpixel((first, top)) == (255, 0, 0)
    assert grid.getpixel((first, bottom)) == (0, 0, 0)
    assert grid.getpixel((second, top)) == grid.getpixel((second, bottom)) == (0, 0, 255)
