"""RLSP: demonstrations of reasoning, then PPO with a reward for exploring.  Ye et al. 2025, arXiv 2502.06773.

One policy solves problems by itself ("self-play": it learns from what it generated). A reply is paid for the answer in
its box, and, whether that is right or wrong, for how far it explored: less C / L where its reasoning is L tokens long,
or what a judge of effort grades. `reward` is exactly what the released code serves. PPO has a critic of its own, and a
penalty on leaving the model of step 0 in the reward of every token. The preset `nano` makes its problems and
demonstrations itself: chains of small sums (`play.word_problems`). docs/papers.md lists every difference.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from selfplay_fast.config import (
    Count,
    Natural,
    NotNegative,
    Nucleus,
    Positive,
    Share,
    Temperature,
    check_warmed_up,
)
from selfplay_fast.evaluate.answers import (
    AnswerVerifier,
    answer_metrics,
    answered,
    first_boxed,
    paid_metrics,
)
from selfplay_fast.games import Style
from selfplay_fast.learn import (
    TokenBatch,
    Update,
    batch_logprobs,
    batch_values,
    critic_update,
    distributed,
    gae,
    only_turns,
    pack_dialogues,
    pack_replies,
    ppo_clip_loss,
    shaped_rewards,
    update,
    whiten,
)
from selfplay_fast.learn.chat_rows import Row, read_rows
from selfplay_fast.learn.schedules import iteration_rates
from selfplay_fast.learn.warmup import imitate
from selfplay_fast.learners import load_critic
from selfplay_fast.model_folder import folder_facts
from selfplay_fast.play import Outcome, play_dialogues
from selfplay_fast.play.effort import EffortJudge, effort_judge
from selfplay_fast.play.word_problems import (
    MADE,
    ChainSettings,
    Problem,
    Source,
    in_turn,
    listed,
    read_problems,
    texts_of,
)
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano_of
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask, Episode, Reply
from selfplay_fast.run import Run
from selfplay_fast.settings import SampleConfig
from selfplay_fast.throughput import Throughput
from selfplay_fast.training import (
    adam,
    computed_in,
    finish_step,
    load_model,
    load_reference,
    notes_of,
    save_step,
    start,
)


def train(config: Config, run: Run) -> None:
    """PPO from the first iteration, or from the newest checkpoint of the run."""
    distributed.check_enough(config.problems_per_step, "problems_per_step")
    asked = [] if config.problems == MADE else read_problems("problems", config.problems)
    held_out = config.chains()
    if config.eval_problems != MADE:
        held_out = listed(read_problems("eval_problems", config.eval_problems))
    judge = effort_judge(config.judge, config.judge_attempts) if config.judge else None
    verifier = run.enter(AnswerVerifier(config.answers, timeout=config.answer_timeout))
    policy, optimizer, state = start(
        config,
        run,
        build=partial(load_policy, config, run),
        optimizer_of=partial(adam, rate=config.learning_rate, weight_decay=config.weight_decay),
        evaluate=partial(_evaluate, config, verifier, held_out, full=True),
    )
    critic, critic_optimizer = load_critic(
        config, run, policy, state.step, rate=config.critic_learning_rate, source=config.critic
    )
    reference = load_reference(config, run, policy) if config.uses_reference else None
    problems = _fitting(config, run, policy, asked) if asked else config.chains()
    throughput = Throughput(run, policy, computed_in(config), reference)
    cast = {"solver": policy, **({} if judge is None else judge.cast)}
    save = partial(save_step, run, policy, optimizer, critic=(critic, critic_optimizer))
    for step in run.steps(config.steps, start=state.step):
        seed = derive_seed(config.seed, step)
        with run.phase("rollout"):
            own = problems(step - 1, config.problems_per_step, derive_seed(config.seed, 1))
            protocol = partial(solve, config, verifier.equal, judge)
            replied = distributed.play_dealt(
                partial(play_dialogues, cast, protocol, own, seed=seed, name="rlsp")
            )
            episodes = answered(notes_of(run, step), replied)
        with run.phase("advantages"):
            settings = Update(
                **config.limits(),
                loss=ppo_clip_loss(config.clip),
                old="sampler",
                token_mean=True,
                **config.updates(step, config.learning_rate),
            )
            batch = packed(config, episodes).shuffled(seed)
            logprobs = batch_logprobs(policy, batch, settings)
            known = None
            if reference is not None:
                known = batch_logprobs(policy, batch, settings, reference=reference)
            values = batch_values(critic, batch, max_batch_tokens=config.max_batch_tokens)
            batch, returns = experience(config, batch, logprobs, known, values)
        with run.phase("update"):
            metrics = critic_update(
                critic,
                critic_optimizer,
                batch,
                values,
                returns,
                clip=config.value_clip,
                **config.limits() | config.updates(step, config.critic_learning_rate),
            )
            if step > config.freezing_actor_steps:
                metrics |= update(policy, optimizer, batch, settings)
        metrics |= paid_metrics(episodes)
        if known is not None:
            metrics["reference_kl"] = (logprobs - known).mean().item()
        metrics["no_room"] = len(replied) - len(episodes)
        metrics |= throughput.metrics(episodes, batch, epochs=config.epochs)
        rewards = [[turn.reward for turn in episode.turns] for episode in episodes]
        evaluate = partial(_evaluate, config, verifier, held_out, policy)
        last = step == config.steps
        finish_step(config, run, step, metrics, episodes, rewards, last=last, evaluate=evaluate, save=save)


def solve(
    config: Config,
    equal: Callable[[str, str], bool],
    judge: EffortJudge | None,
    problem: Problem,
    temperature: float | None = None,
) -> Generator[Ask, Reply, Outcome]:
    """One problem: a reply, the grade of its effort where there is a judge, and what it is paid."""
    sampling = config.sampling(top_p=config.top_p, top_k=config.top_k)
    if temperature is not None:
        sampling = replace(sampling, temperature=temperature)
    said = yield Ask(role="solver", append=problem.asked(config.prompt), sampling=sampling)
    if said.finish_reason == "forfeit":
        return Outcome(returns={"solver": 0.0}, kept={"failure": said.failure})
    found = first_boxed(said.text)
    reasoning = said.text if found is None else found[1]
    kept: dict[str, Any] = {"answer": problem.answer, "characters": len(reasoning)}
    kept |= {"boxed": found is not None, "right": found is not None and equal(problem.answer, found[0])}
    if judge is not None:
        kept["effort"] = yield from judge.grade(problem.question, reasoning)
    paid = reward(config, kept["right"] if kept["boxed"] else None, reasoning, kept.get("effort"))
    return Outcome(returns={"solver": paid}, rewards={0: paid}, kept=kept)


def reward(config: Config, right: bool | None, reasoning: str, effort: float | None = None) -> float:
    """What the released reward server pays; ``right`` is None where nothing is boxed, and then all is reasoning.

        r = 1 or 0, -0.5 without a box;  r - C / L, L = characters / 4;  with a judge 0.8 r + 0.2 effort

    A grade that did not come is 0.5. Without reasoning C / L fails, and the server pays 0 where anything fails.
    """
    if config.length_bonus and not reasoning:
        return 0.0
    paid = -0.5 if right is None else float(right)
    if config.length_bonus:
        paid -= config.length_bonus / (len(reasoning) / 4)
    if not config.judge:
        return paid
    share = config.correctness_weight
    return share * paid + (1 - share) * (0.5 if effort is None else effort)


def experience(
    config: Config, batch: TokenBatch, logprobs: Tensor, reference: Tensor | None, values: Tensor
) -> tuple[TokenBatch, Tensor]:
    """The batch with PPO's advantages in place of the rewards of its samples, and the returns, float64 [T].

    A sample's reward comes with its last token, the penalty on log p - log p_ref with every token; generalised
    advantages, whitened over the tokens of all samples. All arguments are [T], of the batch's tokens.
    """
    offsets = torch.from_numpy(batch.offsets)
    rewards = torch.from_numpy(batch.advantages)[offsets[1:] - 1]
    apart = None if reference is None else logprobs - reference
    mask = torch.from_numpy(batch.weights > 0)  # forced tokens are nobody's doing
    paid = shaped_rewards(rewards, offsets, apart, kl_coef=config.kl, limit=config.reward_limit, mask=mask)
    samples = torch.arange(len(rewards)).repeat_interleave(offsets.diff())
    advantages, returns = gae(
        paid, values.double(), samples, discount=config.discount, lambda_=config.gae_lambda
    )
    own = whiten(advantages, mask=mask).float().numpy()
    return replace(batch, advantages=own, sampler_logprobs=logprobs.numpy()), returns


def packed(config: Config, episodes: Sequence[Episode]) -> TokenBatch:
    """What the solver said, each sample with its reward for an advantage."""
    rewards = [[episode.returns["solver"]] for episode in episodes]
    batch = pack_replies(only_turns(episodes, [[0]] * len(episodes)), rewards)
    assert batch is not None
    return replace(batch, temperature=config.logprob_temperature)


def _evaluate(
    config: Config, verifier: AnswerVerifier, source: Source, policy: LanguageModel, *, full: bool
) -> dict[str, float]:
    """Accuracy and length on other problems, each of them once."""
    count, seed = config.eval_episodes if full else config.eval_episodes_between, derive_seed(config.seed, -1)
    problems = list(dict.fromkeys(source(0, count, seed)))
    protocol = partial(solve, config, verifier.equal, None, temperature=config.eval_temperature)
    games = partial(play_dialogues, {"solver": policy}, protocol, problems, seed=seed, name="rlsp")
    return answer_metrics(distributed.play_dealt(games), "held_out/")


def load_policy(config: Config, run: Run) -> LanguageModel:
    """The model named by the configuration, after its demonstrations."""
    if config.critic:
        folder_facts(config.critic, "critic")
    shown = _demonstrations(config)
    policy = load_model(
        config,
        (),
        run.status,
        build=lambda: build_nano_of(*texts_of(config.chains(), config.prompt), config.seed),
    )
    if shown is not None:
        imitate(
            policy,
            lambda step: pack_dialogues(policy, shown(step), setting="demonstrations"),
            steps=config.demonstration_steps,
            learning_rate=config.demonstration_learning_rate,
            layer_rate=1.0,
            progress=run.status,
        )
    return policy


def _demonstrations(config: Config) -> Callable[[int], Sequence[Row]] | None:
    """The dialogues of each supervised step, if there are such steps."""
    seed, count = derive_seed(config.seed, 0), config.demonstrations_per_step
    if not (config.demonstrations and config.demonstration_steps):
        return None
    if config.demonstrations == MADE:
        return config.half_worked(count, config.demonstration_steps, seed, config.prompt)
    rows = read_rows(config.demonstrations, "demonstrations")
    return lambda step: [rows[i] for i in in_turn(len(rows), count, step, seed)]


def _fitting(config: Config, run: Run, policy: LanguageModel, asked: Sequence[Problem]) -> Source:
    """Those that are not too long."""
    prompts = policy.encode([policy.render(problem.asked(config.prompt), fresh=True) for problem in asked])
    fitting = [p for p, prompt in zip(asked, prompts, strict=True) if len(prompt) <= config.max_prompt_tokens]
    if left := len(asked) - len(fitting):
        run.note(f"problems: {left} of {len(asked)} are over {config.max_prompt_tokens} tokens and left out")
    if not fitting:
        raise ValueError(f"max_prompt_tokens: no problem has at most {config.max_prompt_tokens}; allow more")
    return listed(fitting)


@dataclass(frozen=True, kw_only=True)
class Config(ChainSettings, SampleConfig):
    """RLSP's settings; the defaults are the `nano` preset."""

    critic: str = ""
    """what the critic begins as: a folder or hub id of the same family; empty: the model after its demonstrations"""
    problems: str = MADE
    """`chains`, made here, or a JSONL file whose rows have a `problem` and an `answer`"""
    eval_problems: str = MADE
    """the same, to be evaluated on"""
    prompt: str = "{question}"
    """what the solver is asked"""
    demonstrations: str = MADE
    """what is imitated first: `chains`, made here, a JSONL file of dialogues (`messages`), or nothing"""
    demonstration_steps: Natural = 140
    """supervised steps on them"""
    demonstrations_per_step: Count = 32
    """dialogues of each of these steps"""
    demonstration_learning_rate: NotNegative = 3e-3
    """its peak; it falls to 0"""
    steps: Natural = 24
    """PPO iterations"""
    problems_per_step: Count = 64
    """problems per iteration, one reply each"""
    sequences_per_update: Count | None = 32
    """replies per optimizer step; none: all of an iteration"""
    epochs: Count = 1
    """passes over the replies of an iteration"""
    learning_rate: NotNegative = 2e-4
    """AdamW's peak for the policy, betas 0.9 and 0.95; falls along a cosine to a tenth"""
    critic_learning_rate: NotNegative = 1e-3
    """the critic's"""
    learning_rate_warmup: Share = 0.03
    """share of the optimizer steps until the peak"""
    weight_decay: NotNegative = 0.0
    """of AdamW, for the policy"""
    freezing_actor_steps: Natural = 4
    """iterations in which only the critic learns"""
    length_bonus: NotNegative = 3.0
    """C: a reply is paid C / L less, L being the length of its reasoning in tokens (characters / 4); 0: nothing"""
    judge: str = ""
    """who grades effort: nobody, `strategies` (a count of different steps), a function of question and reasoning,
    `MODULE:FUNCTION`, or a model on a server, `server:URL#MODEL`"""
    judge_attempts: Count = 10
    """how often a model is asked for a grade that can be read"""
    correctness_weight: Share = 0.8
    """of the reward of the answer where there is a judge; the grade has the rest"""
    answers: Literal["math", "exact"] = "exact"
    """how answers are compared: by mathematics (math-verify), or as texts and plain numbers"""
    answer_timeout: Positive = 5.0
    """seconds for one comparison; afterwards the answer is wrong"""
    reward_limit: Positive = 10.0
    """what the reward of a reply is clipped to, either way"""
    kl: NotNegative = 0.05
    """weight of the divergence from the model of step 0 (k1), in the reward of every token"""
    discount: Share = 1.0
    """gamma"""
    gae_lambda: Share = 0.95
    """lambda of the generalised advantages"""
    value_clip: Positive = 0.2
    """how far a value may usefully move in an iteration"""
    top_p: Nucleus = 1.0
    """nucleus, in training and evaluation"""
    top_k: Natural = 0
    """most tokens to choose from in both, 0 for all"""
    logprob_temperature: Temperature = 1.0
    """of the log-probs in loss and penalty, whatever was sampled at"""
    max_prompt_tokens: Count = 2048
    """longer problems are left out"""
    max_tokens: Count = 56
    eval_temperature: NotNegative = 1.0
    """sampling temperature of evaluation"""
    eval_every: Count = 10
    eval_episodes: Count = 512
    """problems at the first and last evaluation; fewer make a short run"""
    eval_episodes_between: Count = 128
    """the same at the evaluations in between"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_warmed_up(self.model, None)
        if "{question}" not in self.prompt:
            raise ValueError("prompt: must hold {question}, which stands for the problem")
        if self.demonstrations == MADE != self.problems:
            raise ValueError(
                "demonstrations: those made here are about other problems; name a file of dialogues, or leave it empty"
            )
        if self.lora_rank and self.kl and self.demonstrations and self.demonstration_steps:
            raise ValueError(
                "kl: adapters that were trained on demonstrations would be pulled back to the model before these; "
                "fine-tune it first and leave demonstrations empty, or set kl to 0"
            )

    @property
    def uses_reference(self) -> bool:
        return self.kl > 0

    @property
    def critic_of(self) -> str:
        return self.critic or self.model

    @property
    def style(self) -> Style:
        """Of games, which are not played here."""
        return "brief"

    def updates(self, step: int, peak: float) -> dict[str, Any]:
        """The optimizer steps of an iteration, of the policy or the critic."""
        size = self.sequences_per_update or self.problems_per_step
        updates = -(-self.problems_per_step // size) * self.epochs
        warmup = round(self.learning_rate_warmup * self.steps * updates)
        return {
            "minibatch": self.sequences_per_update,
            "epochs": self.epochs,
            "rates": iteration_rates(step, self.steps, updates, peak=peak, warmup=warmup),
        }


PRESETS = {
    "nano": Config(),
    "paper": Config(
        model="meta-llama/Llama-3.1-8B-Instruct",
        problems="math_train.jsonl",
        eval_problems="math_500.jsonl",
        prompt="Problem:{question}",
        demonstrations="",
        problems_per_step=512,
        sequences_per_update=128,
        steps=200,
        learning_rate=2e-7,
        critic_learning_rate=2e-6,
        length_bonus=1000.0,
        answers="math",
        temperature=0.7,
        eval_temperature=0.0,
        max_tokens=4096,
        eval_episodes=500,
        eval_episodes_between=500,
    ),
}
