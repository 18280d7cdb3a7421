"""`selfplay-fast serve`."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import tyro

from ..command_line import PROGRAM, UsageError, optional, parse
from .subject import SERVER, subject

_PASSWORD = "SELFPLAY_FAST_SERVER_KEY"
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Answer other processes with a model, and take new weights from whoever trains it (docs/rollouts.md).

    The environment variable SELFPLAY_FAST_SERVER_KEY sets a password.
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """a run folder (its newest checkpoint), a transformers folder or a hub id"""
    host: str = "127.0.0.1"
    """the address to listen at; 0.0.0.0 lets other machines in, and asks for a password"""
    port: int = 8000
    """0 takes any that is free"""
    step: Annotated[int | None, optional("INT")] = None
    """serve the checkpoint of this step of the run (default: the newest)"""
    weights_folder: Annotated[Path | None, optional("FOLDER")] = None
    """new weights may be read from folders below this one (default: they can only be sent)"""
    max_waiting: int = 4096
    """requests beyond are told to come back later"""
    threads: int = 1
    """CPU threads of the model"""


def serve(arguments: list[str]) -> None:
    """Answer other processes with a model, over HTTP."""
    options = parse(ServeOptions, arguments, f"{PROGRAM} serve")
    if options.target.startswith(SERVER):
        raise UsageError(f"{options.target}: that is a server already; name a run or a model")
    if not 0 <= options.port < 65536:
        raise UsageError(f"--port: must be 0 to 65535, got {options.port}")
    for name in ("threads", "max_waiting"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')}: must be at least 1, got {getattr(options, name)}")
    token = os.environ.get(_PASSWORD, "").strip() or None
    if token is None and options.host not in _LOCAL:
        raise UsageError(f"--host: {options.host} is open to others; set a password in {_PASSWORD} first")
    chosen = subject(options.target, options.step)

    from ..policies.model_server import ModelServer, run

    listening = _listen(options.host, options.port)
    import torch

    torch.set_num_threads(options.threads)
    server = ModelServer(
        chosen.load(),
        name=options.target,
        token=token,
        weights_folder=options.weights_folder,
        max_waiting=options.max_waiting,
    )
    port = listening.getsockname()[1]
    print(f"serving {options.target} at http://{options.host}:{port}/v1", file=sys.stderr, flush=True)
    run(server, listening)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"--port: cannot listen at {host}:{port}: {error.strerror or error}") from None
