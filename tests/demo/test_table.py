import json

from comfy_vq.demo.measure import Alignment
from comfy_vq.demo.table import Row, to_json, to_text

ROWS = [
    Row("dense", 16.0, 42.04, Alignment(1.0, 0.95, 0.9, 0.875), 12.34),
    Row("VQ3", 3.001, 7.9, Alignment(1, 1, 1, 1), 13.0, 18.26, (18.0, 19.0), 30.0, 60.0),
]


def test_text_has_a_line_per_model_and_aligned_columns():
    lines = to_text(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[1] for line in lines[2:]] == ["dense", "VQ3"]
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells == ["dense", "16.00", "42.0", "-", "-", "100%", "95%", "90%", "88%", "-", "12.3"]


def test_json_keeps_every_digit():
    stored = json.loads(json.dumps(to_json(ROWS, {"host": "diffusers"})))
    assert stored["host"] == "diffusers"
    assert stored["models"][1]["bits"] == 3.001
    assert stored["models"][0]["noise_sqnr_db"] is None
    assert stored["models"][0]["alignment"]["scene"] == 0.875
