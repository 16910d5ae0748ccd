"""The table, the worst layers and the JSON."""

import json
import math

import pytest

from comfy_vq.evaluation.bench import Size
from comfy_vq.evaluation.figures import Figures, LatentFigures, NoiseFigures, PictureFigures
from comfy_vq.evaluation.intervals import Interval
from comfy_vq.evaluation.report import Report, to_json, to_markdown, to_table

EXACT = Interval(math.inf)
CANDIDATE = Figures(
    name="VQ3",
    size=Size(3000, 8000),
    sample_seconds=12.34,
    noise=NoiseFigures(Interval(34.44, 33.0, 36.0), (EXACT, Interval(30.0, 29.0, 31.0))),
    latents=LatentFigures(Interval(50.0), Interval(0.01234), Interval(0.99987)),
    layer_nmse={f"block.{number}": 10.0**-number for number in range(1, 15)},
    extra={"quantize s": 60.0},
)
REPORT = Report(
    host="toy 1.0",
    torch="2.0",
    prompts=("a", "b"),
    seeds=(1,),
    timesteps=(900.0, 100.0),
    reference=Figures("dense", Size(16000, 8000), 10.0, judged={"scene": 1.0}),
    candidates=(CANDIDATE,),
    failures={"odd": "odd.safetensors: no such file"},
)


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_a_line_per_model_and_aligned_columns():
    table = to_table(REPORT)
    assert len({len(line) for line in table.splitlines()}) == 1
    headings, _, dense, candidate = rows(table)
    found = dict(zip(headings, candidate, strict=True))
    assert found["bits/weight"] == "3.00" and found["noise SQNR dB"] == "34.4 ± 1.5"
    assert found["rel. L2"] == "0.0123" and found["quantize s"] == "60.0"
    assert found["scene"] == "-" and found["sample s"] == "12.3"
    found = dict(zip(headings, dense, strict=True))
    assert found["noise SQNR dB"] == "-" and found["scene"] == "100%"


@pytest.mark.parametrize("heading", ["SSIM", "picture PSNR dB"])
def test_columns_that_nothing_fills_are_left_out(heading):
    assert heading not in to_table(REPORT)
    pictures = PictureFigures(Interval(30.0), Interval(0.9))
    shown = Figures("VQ3", Size(1, 1), 1.0, pictures=pictures)
    assert heading in to_table(Report("", "", (), (), (), REPORT.reference, (shown,), {}))


def test_the_ten_worst_layers_come_worst_first():
    text = to_markdown(REPORT)
    worst = rows(text.partition("## Worst layers of VQ3\n\n")[2].strip())
    assert worst[0] == ["layer", "NMSE", "dB"]
    assert [row[0] for row in worst[2:]] == [f"block.{number}" for number in range(1, 11)]
    assert worst[2] == ["block.1", "1.00e-01", "-10.0"]
    assert "odd.safetensors: no such file" in text


def test_json_keeps_every_digit_and_says_inf():
    stored = json.loads(to_json(REPORT), parse_constant=pytest.fail)
    assert (
        stored["host"] == "toy 1.0" and stored["seeds"] == [1] and stored["prompts"] == ["a", "b"]
    )
    (model,) = stored["candidates"]
    assert model["noise"]["sqnr_db"] == {"value": 34.44, "low": 33.0, "high": 36.0}
    assert model["noise"]["by_timestep_db"][0] == {"value": "inf", "low": None, "high": None}
    assert model["size"] == {"nbytes": 3000, "numel": 8000, "bits_per_weight": 3.0}
    assert stored["reference"]["noise"] is None
