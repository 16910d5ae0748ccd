import pytest

from benchmarks.weights import Weights
from comfy_vq.errors import VQError


@pytest.fixture
def weights():
    return Weights()


@pytest.fixture(scope="session")
def real_ggml():
    """ggml itself, out of a package that no test environment has to have."""
    pytest.importorskip("gguf")
    from benchmarks.formats import ggml

    try:
        ggml.library()
    except VQError as error:
        pytest.skip(f"NOT TESTED against ggml: {error}")
    return ggml
