"""Compiles the games for GPUs (sm_90) in the folder given; prints registers per kernel and fails if one spills much."""

import re
import subprocess
import sys
from pathlib import Path

ROOT, FOLDER = Path(__file__).parents[1], sys.argv[1]
TRADED = 64  # bytes that the assembler may spill to have one more block of threads at a time
FLAGS = ["-DSPF_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90", "-DCMAKE_CUDA_FLAGS=-Xptxas -v"]


def output(*command: str) -> str:
    """What a command prints; what it printed, and the end, if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(done.stdout)
    return done.stdout


output("cmake", "-G", "Unix Makefiles", "-S", str(ROOT), "-B", FOLDER, *FLAGS)
# One file's lines stay together.
log = output("cmake", "--build", FOLDER, "--target", "spf_cuda", "--", "--output-sync=target")
kernels = re.findall(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    log,
    re.DOTALL,
)
names = output("c++filt", *(kernel[0] for kernel in kernels)).splitlines()
rows = set()
for name, (_, stack, stores, loads, registers) in zip(names, kernels, strict=True):
    does, _, game = re.search(r"block::(\w+)(<spf::(\w+)>)?", name).groups()
    rows.add((game or "any", does, int(registers), int(stack), int(stores) + int(loads)))
for game, does, registers, stack, spilled in sorted(rows):
    print(f"{game:14}{does:14}{registers:4} registers{stack:5} B stack{spilled:5} B spilled")
if not rows:
    sys.exit("no kernel was compiled")
if any(row[-1] > TRADED for row in rows):
    sys.exit(f"kernels spill more than {TRADED} bytes")
