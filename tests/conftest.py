"""What all tests share. Fixtures for tests in the real ComfyUI are in ``tests/host/conftest.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


class _RootIsNoPackage:
    """Keeps pytest from importing the extension's ``__init__.py``, which is for ComfyUI alone.

    It would take the checkout for a package of tests and import a second copy of the extension.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == CHECKOUT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_RootIsNoPackage())
