import pytest

from benchmarks.weights import weights_of_a_unet
from comfy_vq.errors import VQError


@pytest.fixture
def weights():
    return weights_of_a_unet()


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
