"""eva: a creator evolves the prompts that a solver learns most from.  Ye et al. 2024, arXiv 2411.00062.

In every iteration the solver answers a set of prompts a few times and a reward model scores the responses. The creator
draws prompts by a proxy of regret, how much better the best response is than another, and evolves each in a chain of
mutations. The solver answers these too, and learns from a mix of old and new prompts by a preference loss or RLOO.
The creator is the policy itself, a model, a server, or a rule. The preset `nano` learns graded sums
(`play/graded_sums.py`). docs/papers.md lists every difference from the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch

from selfplay_fast.config import RecipeConfig, check_warmed_up
from selfplay_fast.games import Style
from selfplay_fast.learn import (
    RoleBaseline,
    TokenBatch,
    Update,
    checkpoint,
    distributed,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    leave_one_out_advantages,
    orpo_loss,
    pack,
    pack_pairs,
    preference_update,
    reinforce_loss,
    rpo_loss,
    simpo_loss,
    sppo_loss,
    update,
)
from selfplay_fast.learn.preferences import PreferenceLoss
from selfplay_fast.learn.schedules import cosine_rates, linear_rates
from selfplay_fast.learn.warmup import demonstration_batch, imitate
from selfplay_fast.play import Cast, DialogueTable, graded_sums, play
from selfplay_fast.play.evolve_prompts import GRADED, METHODS, EvolvePrompts, chosen_methods
from selfplay_fast.play.evolving import (
    CREATOR,
    SCORER,
    SOLVER,
    Answered,
    Prompt,
    Row,
    Rules,
    answer_table,
    answered_in,
    evolve_table,
    group_episode,
    mixed,
    preference_rows,
    read_prompts,
    without_copies,
)
from selfplay_fast.play.informativeness import Method, check_metric, choose, informativeness
from selfplay_fast.policies import Policy
from selfplay_fast.policies.adapters import check_installed
from selfplay_fast.policies.judges import load_judge
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano_of
from selfplay_fast.policies.reward_models import function_reward, load_reward_model
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode, Sampling
from selfplay_fast.run import Run
from selfplay_fast.training import fresh_optimizer, load_model, start, write_rows

SUMS, RULE, POLICY = "sums", "rule", "policy"
Loss = Literal["dpo", "ipo", "rpo", "sppo", "simpo", "orpo", "hinge", "rloo"]

_LEAST = {
    "eval_count prompts_per_step responses max_tokens creator_tokens score_tokens pair_cutoff": 1,
    "prompts_per_update epochs warmup_rows warmup_terms threads max_batch_tokens": 1,
    "steps evolutions warmup_steps lora_rank learning_rate temperature creator_temperature eval_temperature": 0,
    "nll_weight warmup_learning_rate": 0,
}
_SHARES = "fraction topic_share base_share evolved_share rate_warmup warmup_care"


@dataclass(frozen=True, kw_only=True)
class Config(RecipeConfig):
    """eva's settings; the defaults are the `nano` preset."""

    model: str = "nano"
    """the solver: `nano` (built here), a local transformers folder, or a hub id"""
    prompts: str = SUMS
    """what is answered at first: `sums`, nano's, or a file of JSON lines with `prompt` and, if you like, `topic`"""
    eval_prompts: str = SUMS
    """what is only measured on, as `prompts`; the first `eval_count`"""
    eval_count: int = 400
    """prompts of an evaluation"""
    creator: str = RULE
    """who evolves prompts: the `policy` itself, `server:URL#MODEL` with OpenAI's interface, `model:FOLDER`, or for
    sums a `rule`"""
    reward_model: str = RULE
    """who scores: `classifier:FOLDER` with one label, `server:URL#MODEL`, which is asked for a grade, or for sums a
    `rule` (exact)"""
    reward_timeout: float = 120.0
    """seconds until an attempt to ask a server has failed; a response that gets no reward is left out"""
    seed: int = 0
    """everything random follows from it"""
    steps: int = 8
    """iterations"""
    prompts_per_step: int = 96
    """prompts of an iteration (N)"""
    next_prompts: Literal["split", "evolved"] = "evolved"
    """an iteration's: the next of `prompts`, or those that the last iteration learned from, filled up from its own"""
    plain_step: bool = False
    """learn from an iteration's prompts once before they are evolved (the paper's plain iteration)"""
    responses: int = 6
    """to each prompt"""
    temperature: float = 1.0
    """of responses"""
    top_p: float = 1.0
    """their nucleus"""
    max_tokens: int = 18
    """their length limit"""
    metric: str = "reward_gap"
    """how informative a prompt is: `reward_gap` (best - worst reward), `reward_maxmean` (best - mean), `reward_dts` (best
    - second best), `reward_var`, `reward_mean`, `reward_mean_inv`, or `uniform`, the ablation"""
    sampling: Method = "importance_weighted"
    """how prompts are drawn to be evolved: by weight without replacement, the best, by weight in each of ten quantiles,
    or by weight and how rare their topic is"""
    fraction: float = 0.25
    """of the prompts that are drawn"""
    topic_share: float = 0.25
    """what rare topics are worth in `iw_topic`, of 1"""
    evolutions: int = 4
    """mutations in the chain of each drawn prompt"""
    evolve_methods: tuple[str, ...] = tuple(METHODS)
    """ways to mutate, drawn evenly; sums have their own"""
    creator_temperature: float = 0.88
    """of mutations"""
    creator_tokens: int = 40
    """their length limit"""
    score_tokens: int = 512
    """length limit of a server's grade"""
    keep_copies: bool = False
    """keep evolved prompts that are there already"""
    base_share: float = 0.2
    """of the prompts of an iteration that go into the mix that is learned from"""
    evolved_share: float = 0.8
    """of the evolved prompts in it"""
    keep_equal: bool = False
    """keep pairs of prompts whose responses are all worth the same: the first response against itself"""
    loss: Loss = "dpo"
    """what is learned by: a loss of pairs, best against worst response, or `rloo` of all responses"""
    beta: float | None = None
    """of the loss, in `orpo` its weight; None: dpo, ipo and hinge 0.05, rpo and orpo 0.1, sppo 0.001, simpo 2"""
    nll_weight: float = 1.0
    """in `rpo`, of the chosen responses' mean negative log-likelihood"""
    simpo_margin: float = 1.0
    """in `simpo`, what chosen responses should be ahead by"""
    optimizer: Literal["adamw", "rmsprop"] | None = None
    """a fresh one in every iteration; None: rmsprop for sppo, else adamw"""
    learning_rate: float = 1e-4
    """its peak"""
    learning_rate_decay: Literal["cosine", "linear"] | None = None
    """down to 0 within an iteration; None: linear for sppo, else cosine"""
    rate_warmup: float = 0.1
    """share of an iteration's optimizer steps over which the rate rises"""
    epochs: int | None = None
    """passes over an iteration's pairs; None: 1 for rpo and rloo, else 2"""
    prompts_per_update: int = 16
    """pairs of an optimizer step, or in `rloo` prompts with their responses"""
    pair_cutoff: int = 2048
    """longer pairs are left out"""
    max_grad_norm: float = 1.0
    """gradient clipping"""
    max_loss: float = 1e6
    """a loss of `rloo` beyond it has exploded, and the run stops"""
    warmup_steps: int = 60
    """supervised steps on short sums before all else: what stands for a pretrained model in nano"""
    warmup_rows: int = 64
    """responses of each of these steps"""
    warmup_terms: int = 3
    """terms of the longest of them"""
    warmup_care: float = 0.9
    """chance that a term of them is right on purpose"""
    warmup_learning_rate: float = 3e-3
    """of the warm-up"""
    eval_temperature: float = 1.0
    """of responses in evaluations; 0: greedy"""
    device: str = "auto"
    """where the model lives: `cpu`, `cuda`, or `auto` for a GPU where there is one"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """what passes are computed in; weights that are trained are float32 beside it. `auto`: bfloat16 on a GPU, but for
    nano"""
    lora_rank: int = 0
    """train adapters of this rank at all linear layers but the head, and nothing else; 0: the whole model"""
    gradient_checkpointing: bool = False
    """compute layers again in the backward pass: a third more work, a small part of the memory"""
    max_batch_tokens: int = 16384
    """tokens of one forward pass over prompts and of one micro-batch"""
    max_cache_tokens: int | None = None
    """tokens whose keys and values replies in the making hold; None: 16 times as many as in a pass"""
    threads: int = 1
    """CPU threads of the model; more help only where cores are idle"""

    def __post_init__(self) -> None:
        super().__post_init__() if hasattr(super(), "__post_init__") else None

    @property
    def style(self) -> Style:
        """Prompts are chats."""
        return "spiral"
