"""Compiles every Triton kernel for sm_90, no GPU needed; prints a table and fails where one would not fit or spills."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from selfplay_fast.kernels import token_logprobs

SHARED, SPILLED = 232_448, 32  # bytes that a Hopper GPU gives a block; bytes that may be traded
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


def token_logprobs_kernels() -> dict[str, tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Name -> kernel, types of what is no number, constants, launch options; plain and with every option."""
    kernels = {}
    for what, options in (("", False), (", bias, cap", True)):
        head = token_logprobs.Head(torch.ones(1), softcap=float(options))
        for name, tile in (
            ("forward", token_logprobs._TILE),
            ("backward", token_logprobs._tile_backward(head)),
        ):
            types = {
                "hidden": f"tensordesc<bf16[{tile['BLOCK_T']}, {tile['BLOCK_H']}]>",
                "weight": f"tensordesc<bf16[{tile['BLOCK_V']}, {tile['BLOCK_H']}]>",
                "targets_ptr": "*i64",
                "bias_ptr": "*bf16",
                "out_ptr": "*bf16",
                "softcap": "fp32",
                "inner": "fp32",
            }
            constants: dict[str, Any] = {**tile, "HAS_BIAS": options, "CAPPED": options}
            if not options:
                constants["bias_ptr"] = None
            if name == "forward":
                constants |= {"TILES": token_logprobs._TILES, "SQUARES": options}
            kernel = getattr(token_logprobs, f"_{name}_kernel")
            kernels[f"token_logprobs {name}{what}"] = (kernel, types, constants, token_logprobs._LAUNCH)
    return kernels


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], launch: dict[str, int]) -> Any:
    """Numbers and pointers are taken to be multiples of 16, as torch's are."""
    names = kernel.arg_names
    kinds = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in names}
    kinds.update({name: kind for name, kind in types.items() if name in kinds})
    kinds.update(dict.fromkeys(constants, "constexpr"))
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if kinds[name].startswith(("*", "i"))
    }
    source = ASTSource(fn=kernel, signature=kinds, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch)


def main() -> None:
    bad = []
    for name, parts in token_logprobs_kernels().items():
        done = compiled(*parts)
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(done.asm["ptx"])
            file.flush()
            command = [str(PTXAS), "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        registers = int(re.search(r"Used (\d+) registers", said)[1])  # type: ignore[index]
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", said)))
        products = done.asm["ptx"].count("wgmma.mma_async")
        shared = done.metadata.shared
        print(
            f"{name:36}{registers:4} registers{spilled:5} B spilled{shared:8} B shared{products:4} tensor-core products"
        )
        if spilled > SPILLED or shared > SHARED or products == 0:
            bad.append(name)
    if bad:
        sys.exit(
            f"spills more than {SPILLED} B, needs more than {SHARED} B shared or uses no tensor core: {bad}"
        )


if __name__ == "__main__":
    main()
