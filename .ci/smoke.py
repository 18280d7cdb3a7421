"""A tiny run of an installed wheel, from a folder that is not the repository.

python .ci/smoke.py SITE_PACKAGES_THE_PROJECT_MUST_COME_FROM
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages

sys.path.pop(0)  # the folder of this script

import torch

import selfplay_fast as spf
from selfplay_fast import _native
from selfplay_fast.kernels import token_logprobs

site = Path(sys.argv[1]).resolve()
for module in (spf, _native, token_logprobs):
    assert site in Path(str(module.__file__)).resolve().parents, f"{module} does not come from the wheel"
assert find_spec("kernels") is None, "a top-level module named kernels is importable"
for name in ("py.typed", "_native.pyi"):
    assert files("selfplay_fast").joinpath(name).is_file(), f"{name} is not in the wheel"

for name in spf.games.names():
    game = spf.games.make(name, batch_size=64, seed=0)
    game.random_playouts()
    assert game.terminated.all(), name

hidden, weight, targets = torch.randn(5, 8), torch.randn(11, 8), torch.randint(11, (5,))
ours = token_logprobs.token_logprobs(hidden, weight, targets)
reference = torch.log_softmax(hidden @ weight.T, dim=-1).gather(-1, targets[:, None])[:, 0]
torch.testing.assert_close(ours, reference)

# The extras "integrations", "trl", "server", "serve", "tasks" and "verify", and verl.
foreign = {
    "gymnasium",
    "pettingzoo",
    "open_spiel",
    "pyspiel",
    "textarena",
    "trl",
    "verl",
    "httpx2",
    "lm_eval",
    "math_verify",
    "tenacity",
    "uvicorn",
    "starlette",
    "pydantic",
}
clients = ("endpoint", "openai_server", "patience", "token_servers", "model_server")
of_extras = (
    ".integrations.",
    ".evaluate._answer_process",
    ".evaluate.benchmarks",
    ".evaluate.instructions",
    *(f".policies.{name}" for name in clients),
)
for module_info in walk_packages(spf.__path__, "selfplay_fast."):  # what the package imports is declared
    try:
        import_module(module_info.name)
    except ModuleNotFoundError as error:
        integration = error.name in foreign and any(part in module_info.name for part in of_extras)
        device_code = error.name == "triton" and ".kernels._" in module_info.name  # of the extra "triton"
        if not integration and not device_code:
            raise

print(f"selfplay_fast {spf.__version__} with {', '.join(spf.games.names())}: installed wheel works")
