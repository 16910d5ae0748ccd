"""Lets ComfyUI import on a machine without a GPU: on PYTHONPATH of the tests' host environment only.

ComfyUI imports torchvision and torchaudio at start. Their wheels are built for CUDA, so beside a CPU build of
torch torchvision stops with ``operator torchvision::nms does not exist`` and torchaudio cannot be installed at
all. Neither is used on the way from a checkpoint to a picture. Where the real ones work, nothing here acts.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path

_MISSING_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_EMPTY_PACKAGES = ("torchaudio", "torchaudio.functional", "torchaudio.transforms")


def _declare_missing_operators(package: Path) -> None:
    """Declares the operators for which torchvision registers meta functions, if its library cannot load."""
    import torch

    for library in package.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:
            continue
    for name, signature in _MISSING_OPERATORS.items():
        torch.library.define(f"torchvision::{name}", signature)


class _TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Prepares torch the moment torchvision is first imported; never finds anything itself."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.machinery.PathFinder.find_spec(fullname)
            if spec is not None and spec.origin is not None:
                _declare_missing_operators(Path(spec.origin).parent)


class _TorchaudioFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An empty torchaudio, for imports that no installed one has answered."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in _EMPTY_PACKAGES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__version__ = "0"
        return module

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _TorchvisionFinder())
sys.meta_path.append(_TorchaudioFinder())
