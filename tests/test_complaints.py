"""Each known complaint about quantized models in ComfyUI has tests that would notice it."""

from benchmarks.complaints import COMPLAINTS, ROOT, missing_tests, table


def test_every_test_that_is_named_exists():
    assert missing_tests() == []


def test_a_test_that_does_not_exist_is_noticed(monkeypatch):
    from benchmarks import complaints

    invented = complaints.Complaint("x", "y", ("test_packaging.py::test_of_nothing", "no.py::test"))
    monkeypatch.setattr(complaints, "COMPLAINTS", (invented,))
    assert complaints.missing_tests() == ["no.py::test", "test_packaging.py::test_of_nothing"]


def test_each_complaint_has_a_test():
    assert all(complaint.tests for complaint in COMPLAINTS)


def test_the_page_holds_the_table_as_it_is():
    assert table() in (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
