"""Compiles every Triton kernel for sm_90, no GPU needed; prints a table and fails where one would not fit or spills."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from selfplay_fast.kernels import discounted_sums, segment_normalise, token_logprobs

SHARED, SPILLED = 232_448, 32  # bytes that a Hopper GPU gives a block; bytes that may be traded
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


class Kernel(NamedTuple):
    """What is compiled: types of what is no int32 and no float32 pointer, constants, launch options."""

    function: Any
    types: dict[str, str]
    constants: dict[str, Any]
    launch: dict[str, int]
    products: bool = True  # whether it must use the tensor cores


def token_logprobs_kernels() -> dict[str, Kernel]:
    tile = token_logprobs._TILE
    matrices = {
        "hidden": f"tensordesc<bf16[{tile['BLOCK_T']}, {tile['BLOCK_H']}]>",
        "weight": f"tensordesc<bf16[{tile['BLOCK_V']}, {tile['BLOCK_H']}]>",
        "targets_ptr": "*i64",
        "out_ptr": "*bf16",
    }
    forward = {**tile, "TILES": token_logprobs._TILES}
    launch = token_logprobs._LAUNCH
    return {
        "token_logprobs forward": Kernel(token_logprobs._forward_kernel, matrices, forward, launch),
        "token_logprobs backward": Kernel(token_logprobs._backward_kernel, matrices, tile, launch),
    }


def discounted_sums_kernels() -> dict[str, Kernel]:
    types = {"segments_ptr": "*i64", "mask_ptr": "*u8", "discount": "fp32", "lambda_": "fp32"}
    plain = dict.fromkeys(("SEGMENTS", "MASK", "BASELINE", "DISCOUNTS", "BOOTSTRAP"), False)
    forms = {
        "returns": {},
        "advantages": {"MASK": True, "BASELINE": True, "BOOTSTRAP": True},
        "segmented": {"MASK": True, "BASELINE": True, "SEGMENTS": True, "DISCOUNTS": True},
    }
    return {
        f"discounted_sums {form}": Kernel(
            discounted_sums._scan_kernel,
            types,
            {**plain, **flags, "BLOCK": discounted_sums._BLOCK},
            {"num_warps": 4},
            products=False,
        )
        for form, flags in forms.items()
    }


def segment_normalise_kernels() -> dict[str, Kernel]:
    flags = ("SEGMENTS", "WEIGHTS", "SCALE", "UNBIASED", "EPS_INSIDE", "LEAVE_ONE_OUT", "KEEP")
    constants = {
        **dict.fromkeys(flags, True),
        "BLOCK": segment_normalise._BLOCK,
        "OTHERS": segment_normalise._OTHERS,
    }
    types = {"segments_ptr": "*i64", "eps": "fp32"}
    kernel = Kernel(segment_normalise._normalise_kernel, types, constants, {"num_warps": 4}, products=False)
    return {"segment_normalise": kernel}


KERNELS = (token_logprobs_kernels, discounted_sums_kernels, segment_normalise_kernels)


def compiled(kernel: Kernel) -> Any:
    """Numbers and pointers are taken to be multiples of 16, as torch's are."""
    names = kernel.function.arg_names
    kinds = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in names}
    kinds.update({name: kind for name, kind in kernel.types.items() if name in kinds})
    kinds.update(dict.fromkeys(kernel.constants, "constexpr"))
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if kinds[name].startswith(("*", "i"))
    }
    source = ASTSource(fn=kernel.function, signature=kinds, constexprs=kernel.constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernel.launch)


def main() -> None:
    bad = []
    for name, kernel in [pair for kernels in KERNELS for pair in kernels().items()]:
        done = compiled(kernel)
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
            f"{name:28}{registers:4} registers{spilled:5} B spilled{shared:8} B shared{products:4} tensor-core products"
        )
        if spilled > SPILLED or shared > SHARED or (kernel.products and products == 0):
            bad.append(name)
    if bad:
        sys.exit(
            f"spills more than {SPILLED} B, needs more than {SHARED} B shared or uses no tensor core: {bad}"
        )


if __name__ == "__main__":
    main()
