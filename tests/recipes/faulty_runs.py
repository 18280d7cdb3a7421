"""Training runs in processes of their own, in which one file operation goes wrong. Run by test_faults.py.

Reads requests from standard input, one JSON object a line, and forks a process for each that runs the command line:

    {"arguments": ["train", …], "folder": "path", "passed": ["mkdir episodes", …], "kind": "kill"}

Every change that the process makes to a file below `folder` is an operation: making, opening, writing, syncing,
renaming, removing. The first one that is not named in `passed` goes wrong (`at` names the one that does): the process
is killed ("kill"; of a file that was to be synced half of what is new is gone), or that operation and all later ones
fail with the error `kind` ("ENOSPC", "EROFS"). `limit` is the largest file in bytes that the kernel lets it write.
Answers {"status", "stderr", "operations"}: how it ended, and its operations in order, the last one being the one that
went wrong first.
"""

import contextlib
import errno
import json
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

torch.set_num_threads(1)

from selfplay_fast import cli  # noqa: E402
from selfplay_fast.learn import warmup  # noqa: E402, F401
from selfplay_fast.recipes import spiral  # noqa: E402, F401

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod")


class Faults:
    """Counts the operations below a folder and makes one of them fail."""

    def __init__(self, request: dict[str, Any], log: Any) -> None:
        self.folder, self.kind = request["folder"], request.get("kind", "kill")
        self.passed, self.at, self.log = request.get("passed"), request.get("at"), log
        self.broken = self.dying = False
        self.sizes: dict[str, int] = {}  # of files when they were opened
        sys.addaudithook(self.audit)
        self._fsync, os.fsync = os.fsync, self.fsync
        self._serialize, safetensors.torch.serialize_file = safetensors.torch.serialize_file, self.serialize

    def operation(self, name: str, path: Any, torn: bool = False) -> None:
        path = os.fsdecode(path)
        if self.dying or not os.path.abspath(path).startswith(self.folder):
            return
        short = re.sub(r"\.[a-z0-9_]{8}\.tmp$", ".tmp", os.path.relpath(path, self.folder))
        label = f"{name} {short}"
        if not self.broken:
            self.log.write(label + "\n")
            self.log.flush()
        if self.broken or label == self.at or (self.passed is not None and label not in self.passed):
            if self.kind == "kill":
                self.dying = True
                if torn and os.path.isfile(path):
                    size = os.path.getsize(path)
                    os.truncate(path, (size + min(size, self.sizes.get(path, 0))) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            self.broken = True
            number = getattr(errno, self.kind)
            raise OSError(number, os.strerror(number), path)

    def audit(self, event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.operation("open", arguments[0])
                if os.path.isfile(arguments[0]):
                    self.sizes[os.path.abspath(os.fsdecode(arguments[0]))] = os.path.getsize(arguments[0])
        elif event in CHANGES and isinstance(arguments[0], str | bytes | os.PathLike):
            path, handle = os.fsdecode(arguments[0]), arguments[-1]
            if event in ("os.remove", "os.rmdir") and isinstance(handle, int) and handle >= 0:
                path = os.path.join(os.readlink(f"/proc/self/fd/{handle}"), path)
            self.operation(event.removeprefix("os."), path)

    def fsync(self, handle: int) -> None:
        self.operation("fsync", os.readlink(f"/proc/self/fd/{handle}"), torn=True)
        self._fsync(handle)

    def serialize(self, tensors: Any, path: Any, metadata: Any = None) -> None:
        self.operation("write", path)
        self._serialize(tensors, path, metadata)


def child(request: dict[str, Any], errors: int, log_path: str) -> None:
    """Run the command line and end the process with its exit code."""
    code = 99
    try:
        signal.alarm(120)  # a process that hangs is a failure, too
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        if request.get("limit") is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"],) * 2)
        Faults(request, open(log_path, "w"))  # noqa: SIM115 - as long as the process lives
        code = cli.main(request["arguments"])
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:  # so that a forked process has nothing left to import
        settings = (
            "--games kuhn_poker --steps 1 --samples-per-step 2 --warmup-steps 1 --eval-episodes 1 --magnet"
        )
        with contextlib.redirect_stdout(sys.stderr):
            for more in (
                ["spiral", *settings.split(), "--run-dir", f"{folder}/run"],
                ["--resume", f"{folder}/run"],
            ):
                assert cli.main(["train", *more]) == 0
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryDirectory() as scratch:
            # No file holds what the process says, and none its operations where files are limited.
            log_path = f"{scratch}/log" if request.get("limit") is None else os.devnull
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                child(request, writing, log_path)
            os.close(writing)
            with open(reading, errors="replace") as pipe:
                said = pipe.read()
            _, status = os.waitpid(pid, 0)
            operations = Path(log_path).read_text().splitlines() if os.path.exists(log_path) else []
            answer = {
                "status": os.waitstatus_to_exitcode(status),
                "stderr": said,
                "operations": operations,
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
