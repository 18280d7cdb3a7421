"""Compiles every Triton kernel for sm_90, no GPU needed; prints a table and fails where one would not fit or spills."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from selfplay_fast.kernels._head import Head
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from selfplay_fast.kernels import _grouped_products as grouped
from selfplay_fast.kernels import (
    _head_triton,
    _sample_triton,
    _vocab_kl_triton,
    discounted_sums,
    expert_routing,
    segment_normalise,
)

SHARED, SPILLED = 232_448, 32  # bytes that a Hopper GPU gives a block; bytes that may be traded
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


class Case(NamedTuple):
    """A kernel, the types of what is no number, its constants and how it is launched."""

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    launch: dict[str, int]
    products: bool = True  # whether it must use the tensor cores


def token_logprobs_cases() -> dict[str, Case]:
    """Plain and with every option."""
    cases = {}
    for what, options in (("", False), (", bias, cap", True)):
        head = Head(torch.ones(1), softcap=float(options))
        for name, tile in (
            ("forward", _head_triton._TILE),
            ("backward", _head_triton._tile_backward(head)),
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
                constants |= {"TILES": _head_triton._TILES, "SQUARES": options}
            kernel = getattr(_head_triton, f"_{name}_kernel")
            cases[f"token_logprobs {name}{what}"] = Case(kernel, types, constants, _head_triton._LAUNCH)
    combine = {"SQUARES": True, "BLOCK": _head_triton._COMBINED}
    cases["token_logprobs combine"] = Case(
        _head_triton._combine_kernel, {"top1_ptr": "*i1"}, combine, {"num_warps": 1}, products=False
    )
    return cases


def fused_token_loss_cases() -> dict[str, Case]:
    """The products are the vendor's: these fold a row of them and make its gradient."""
    types = {"targets_ptr": "*i64", "rows_ptr": "*i64", "bias_ptr": "*bf16", "out_ptr": "*bf16"}
    cases = {}
    for what, options in (("", False), (", bias, cap", True)):
        for name in ("fold", "gradient"):
            launch = dict(getattr(_head_triton, f"_{name.upper()}"))
            constants: dict[str, Any] = {"BLOCK": launch.pop("BLOCK"), "HAS_BIAS": options, "CAPPED": options}
            if not options:
                constants["bias_ptr"] = None
            kernel = getattr(_head_triton, f"_{name}_kernel")
            kinds = types | {"softcap": "fp32", "inner": "fp32"}
            cases[f"fused_token_loss {name}{what}"] = Case(kernel, kinds, constants, launch, products=False)
    return cases


def vocab_kl_cases() -> dict[str, Case]:
    """Plain, and with every option of both heads."""
    tile = _vocab_kl_triton._TILE
    cases = {}
    for what, options in (("", False), (", bias, cap", True)):
        types, constants = {"out_ptr": "*bf16"}, dict[str, Any](tile)
        for other in ("", "other_"):
            for matrix, size in (("hidden", "BLOCK_T"), ("weight", "BLOCK_V")):
                types[other + matrix] = f"tensordesc<bf16[{tile[size]}, {tile['BLOCK_H']}]>"
            types |= {f"{other}bias_ptr": "*bf16", f"{other}softcap": "fp32", f"{other}inner": "fp32"}
            constants |= {f"{other.upper()}HAS_BIAS": options, f"{other.upper()}CAPPED": options}
            if not options:
                constants[f"{other}bias_ptr"] = None
        for name, more in (("forward", {"TILES": _vocab_kl_triton._TILES}), ("backward", {})):
            kernel = getattr(_vocab_kl_triton, f"_{name}_kernel")
            launch = _vocab_kl_triton._LAUNCH
            cases[f"vocab_kl {name}{what}"] = Case(kernel, types, {**constants, **more}, launch)
    return cases


def expert_routing_cases() -> dict[str, Case]:
    types = {name: "*i64" for name in ("index_ptr", "counts_ptr", "first_ptr", "order_ptr")}
    sizes = {"EXPERTS": 64, "BLOCK": 128}
    return {
        "expert_routing count": Case(expert_routing._count_kernel, types, sizes, {}, products=False),
        "expert_routing rank": Case(expert_routing._rank_kernel, types, sizes, {}, products=False),
    }


def grouped_mlp_cases() -> dict[str, Case]:
    """With all that can be fused into the products; in float32 they have no tensor cores to use."""
    values = ("x", "weight", "bias", "hidden", "before", "rows", "grad", "left", "right", "out", "pairs")
    integers = dict.fromkeys(("order_ptr", "offsets_ptr", "key_ptr"), "*i64")
    fused = {"ACTIVATION": "gelu", "DROPOUT": True, "KEEP_BEFORE": True}
    gated = {"GATED": True}
    cases: dict[str, Case] = {}

    def add(
        name: str, kernel: Any, constants: dict[str, Any], tile: dict[str, int], kind: str, products: bool
    ) -> None:
        types = {f"{value}_ptr": kind for value in values} | integers | {"scale": "fp32"}
        sizes = {option: value for option, value in tile.items() if option.isupper()}
        launch = {option: value for option, value in tile.items() if option not in sizes}
        cases[f"grouped_mlp {name}"] = Case(kernel, types, {**constants, **sizes}, launch, products)

    tiles = {f"bf16 {rows}": ("*bf16", tile) for rows, tile in grouped._TILES.items()}
    tiles["fp32"] = ("*fp32", grouped._TILE_FLOAT32)
    for name, (kind, tile) in tiles.items():
        wide = {**tile, "EXPERTS": 16}
        narrow = {**wide, "BLOCK_N": grouped._HIDDEN_GRAD_COLUMNS}
        halves = kind == "*bf16"
        add(f"up {name}", grouped._up_kernel, fused, wide, kind, halves)
        add(f"d hidden {name}", grouped._hidden_grad_kernel, fused, narrow, kind, halves)
        if name in ("bf16 128", "fp32"):
            add(f"down {name}", grouped._down_kernel, gated, wide, kind, halves)
            add(f"d w2 {name}", grouped._weight_grad_kernel, gated, grouped._WEIGHT_TILE, kind, halves)
    add("d w1", grouped._weight_grad_kernel, {"GATED": False}, grouped._WEIGHT_TILE, "*bf16", True)
    add("d b2", grouped._bias_grad_kernel, gated, grouped._BIAS_TILE, "*bf16", False)
    add("combine", grouped._combine_kernel, {}, {"BLOCK": grouped._COMBINE_BLOCK}, "*bf16", False)
    return cases


def discounted_sums_cases() -> dict[str, Case]:
    types = {"segments_ptr": "*i64", "mask_ptr": "*u8", "discount": "fp32", "lambda_": "fp32"}
    plain = dict.fromkeys(("SEGMENTS", "MASK", "BASELINE", "DISCOUNTS", "BOOTSTRAP"), False)
    forms = {
        "returns": {},
        "advantages": {"MASK": True, "BASELINE": True, "BOOTSTRAP": True},
        "segmented": {"MASK": True, "BASELINE": True, "SEGMENTS": True, "DISCOUNTS": True},
    }
    return {
        f"discounted_sums {form}": Case(
            discounted_sums._scan_kernel,
            types,
            {**plain, **flags, "BLOCK": discounted_sums._BLOCK},
            {"num_warps": 4},
            products=False,
        )
        for form, flags in forms.items()
    }


def segment_normalise_cases() -> dict[str, Case]:
    flags = ("SEGMENTS", "WEIGHTS", "SCALE", "UNBIASED", "EPS_INSIDE", "LEAVE_ONE_OUT", "KEEP")
    constants = {
        **dict.fromkeys(flags, True),
        "BLOCK": segment_normalise._BLOCK,
        "OTHERS": segment_normalise._OTHERS,
    }
    types = {"segments_ptr": "*i64", "eps": "fp32"}
    kernel = Case(segment_normalise._normalise_kernel, types, constants, {"num_warps": 4}, products=False)
    return {"segment_normalise": kernel}


def sample_with_logprob_cases() -> dict[str, Case]:
    """For a vocabulary of at most 262,144 tokens."""
    types = {"seeds_ptr": "*i64", "top_k_ptr": "*i64", "tokens_ptr": "*i64", "counter": "i64"}
    sizes = {"BLOCK": _sample_triton._BLOCK, "BLOCKS": (1 << 18) // _sample_triton._BLOCK}
    launch = {"num_warps": _sample_triton._WARPS}
    return {
        f"sample_with_logprob {dtype}": Case(
            _sample_triton._sample_kernel,
            {**types, "logits_ptr": f"*{dtype}"},
            sizes,
            launch,
            products=False,
        )
        for dtype in ("bf16", "fp32")
    }


CASES = (
    token_logprobs_cases,
    fused_token_loss_cases,
    vocab_kl_cases,
    discounted_sums_cases,
    segment_normalise_cases,
    expert_routing_cases,
    grouped_mlp_cases,
    sample_with_logprob_cases,
)


def compiled(case: Case) -> Any:
    """Numbers and pointers are taken to be multiples of 16, as torch's are."""
    kernel, types, constants, launch, _ = case
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
    for name, case in [pair for cases in CASES for pair in cases().items()]:
        done = compiled(case)
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(done.asm["ptx"])
            file.flush()
            command = [str(PTXAS), "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        registers = int(re.search(r"Used (\d+) registers", said)[1])  # type: ignore[index]
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", said)))
        products = len(re.findall(r"wgmma\.mma_async|mma\.sync", done.asm["ptx"]))
        shared = done.metadata.shared
        print(
            f"{name:36}{registers:4} registers{spilled:5} B spilled{shared:8} B shared{products:4} tensor-core products"
        )
        if spilled > SPILLED or shared > SHARED or (case.products and products == 0):
            bad.append(name)
    if bad:
        sys.exit(
            f"spills more than {SPILLED} B, needs more than {SHARED} B shared or multiplies without tensor cores: {bad}"
        )


if __name__ == "__main__":
    main()
