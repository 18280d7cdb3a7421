"""Both ways of an operation."""

import os
from collections.abc import Callable

import pytest


@pytest.fixture(params=["pytorch", "triton"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call it with a module and its settings for Triton's interpreter: where the PyTorch code is meant, nothing is set.

    On a GPU Triton compiles, and the tests that are marked for it run the kernels.
    """

    def choose(module: object, **settings: object) -> str:
        if request.param == "triton":
            pytest.importorskip("triton")
            if os.environ.get("TRITON_INTERPRET") != "1":
                pytest.skip("Triton compiles here; the tests on the GPU run this")
            for name, value in settings.items():
                monkeypatch.setattr(module, name, value)
        return str(request.param)

    return choose
