"""What was measured stands beside what the paper reports."""

from comfy_vq.evaluation.bench import Size
from comfy_vq.evaluation.figures import Figures, NoiseFigures
from comfy_vq.evaluation.intervals import Interval
from comfy_vq.evaluation.report import Report
from comfy_vq.protocol.published import SDXL
from comfy_vq.protocol.report import comparison


def report() -> Report:
    size = Size(200, 100)
    noise = NoiseFigures(Interval(12.34, 11.84, 12.84), ())
    candidate = Figures("VQDM-3", Size(40, 100), 1.0, noise, judged={"scene": 0.5})
    return Report(
        "host", "torch", ("a",), (1,), (999.0,), Figures("dense", size, 1.0), (candidate,), {}
    )


def rows(**scores: list[float]) -> dict[str, list[str]]:
    table = comparison(report(), {"VQDM-3": 90.0}, scores, SDXL)
    split = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {line[0]: line[1:] for line in [*split[:1], *split[2:]]} | {"last": split[-1]}


def test_measured_and_published():
    found = rows()
    assert found["model"][:3] == ["bits/weight", "made in", "noise SQNR dB"]
    assert found["VQDM-3"] == ["3.20", "1 min 30 s", "12.3 ± 0.5", "-", "50%", "-", "-", "-"]
    assert found["in the paper: SDXL"][-3:] == ["0.226", "0.357", "18.99"]
    assert found["last"] == ["in the paper: PTQ4DM", "4.00", *["-"] * 4, "0.224", "0.353", "19.78"]


def test_scores_are_those_of_the_models_in_order():
    found = rows(CLIP=[0.3571, 0.3012], Pickscore=[0.226, 0.2])
    assert found["dense"][-3:] == ["0.226", "0.357", "-"]
    assert found["VQDM-3"][-3:] == ["0.200", "0.301", "-"]
