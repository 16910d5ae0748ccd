"""Tests on a real graphics card: there, kernels give the bits that eager PyTorch gives on a CPU.

Skipped, loudly, where torch sees no card. ``VQ_GPU_TESTS_ON=cpu`` runs them on the CPU, which
shows that the tests are in order, and with ``TRITON_INTERPRET=1`` that the kernels are.
"""

from __future__ import annotations

import os

import pytest
import torch

ON = os.environ.get("VQ_GPU_TESTS_ON", "cuda")
_WHY_NOT = "torch sees no graphics card" if ON == "cuda" and not torch.cuda.is_available() else ""


def pytest_collection_modifyitems(items):
    if _WHY_NOT:
        for item in items:
            if item.path.parent.name == "gpu":
                item.add_marker(pytest.mark.skip(reason=_WHY_NOT))


def pytest_terminal_summary(terminalreporter):
    if _WHY_NOT:
        terminalreporter.section("GPU TESTS SKIPPED", sep="!", yellow=True, bold=True)
        terminalreporter.write_line(f"Nothing ran on a graphics card: {_WHY_NOT}")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(ON)


@pytest.fixture(autouse=True)
def whole_float32():
    """No TF32 in convolutions, which would differ from their reference by more than rounding."""
    held, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = held
