"""SPaR's tree search for all prompts at once against the same search as it was published, one request after another.

Both search with the untrained nano model: it computes every reply, of a fixed length, and keeps the keys and values of
what it has read. As such a model writes no verdicts, what a reply says is drawn from (prompt, draw, sample). The trees
are asserted equal, all of them; the peer, for which every prompt costs alike, computes those of the first few and is
reckoned up. tests/oracles/spar.py is a literal port of the published algorithm, whose requests are one refinement or
five verdicts. Rounds are the calls that depend on each other. The words around a prompt are few: nano's tokenizer needs
a token for two letters of them. Seconds are those of the wall, and the last ratio that of seconds of the processor.

    python bench/refine_rounds.py [--prompts 256] [--sequential 16] [--length 8] [--accept 0.1] [--orders bfs dfs]
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from _measure import machine, measure, save

from selfplay_fast.play import RefinePrompts, RefineTable, play, self_play
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.policies.streams import sample_streams, stream_ids, uniforms
from selfplay_fast.records import Ask, Key, Reply, Sampling
from selfplay_fast.search import Draft, RefineOptions

SEED = 0
PROMPTS = RefinePrompts(
    judge="Final Judgement?\nInstruction: {prompt}\nOutput: {response}",
    refine="Improve it: [[start]]…[[end]]",
)


class Worded:
    """nano's tokens under words that can be read; or the words alone."""

    def __init__(self, policy: LanguageModel | None, accept: float) -> None:
        self.policy = policy
        self.accept = accept
        self.calls = 0

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """As a policy."""
        self.calls += 1
        samples = [(ask, k) for ask in asks for k in range(ask.n)]
        replies = [Reply(text="")] * len(samples) if self.policy is None else self.policy.generate(asks)
        return [
            replace(reply, text=self.say(ask.append[-1]["content"] == PROMPTS.refine, ask.key, k))
            for (ask, k), reply in zip(samples, replies, strict=True)
        ]

    def say(self, refines: bool, key: Key, sample: int) -> str:
        """A new response, or one of five equal verdicts; a response passes with probability ``accept``."""
        streams = sample_streams(stream_ids([key]), np.array([sample if refines else 0]))
        u = float(uniforms(streams, 0)[0])
        if refines:
            return f"More of it. [[start]]response {u:.9f}[[end]]"
        return f"Looked at. Final Judgement: {'Yes' if u < self.accept else 'No'}"


def drafts_of(count: int) -> list[Draft]:
    """Prompts as they are evolved from one constraint and another."""
    forms = ("in capital letters", "as a list", "in two sentences", "without the letter e", "as a letter")
    return [
        Draft(
            prompt=f"Write about subject {i} {forms[i % 5]}, in at most {20 + i} words.",
            response=f"About subject {i} there is little to say.",
            critique=f"It is not {forms[i % 5]}. Final Judgement: No",
        )
        for i in range(count)
    ]


def batched(worded: Worded, drafts: Sequence[Draft], order: str, length: int) -> tuple[list[Any], int]:
    """The trees as plain values, and the dependent calls."""
    assert worded.policy is not None
    worded.policy.forget()
    samplings = {kind: Sampling(temperature=0.7, max_tokens=length) for kind in ("judge", "refine")}
    options = RefineOptions(order=order)  # type: ignore[arg-type]
    table = RefineTable(
        drafts, seed=SEED, options=options, prompts=PROMPTS, samplings=samplings, keep_turns=False
    )
    trees = [episode.kept["refined"] for episode in play(self_play(worded), [table])]
    return [
        ([(n.parent, n.branch, n.response, n.value, n.critique) for n in tree.nodes[1:]], tree.final)
        for tree in trees
    ], max(tree.rounds for tree in trees)


def sequential(
    spar: ModuleType, worded: Worded, drafts: Sequence[Draft], order: str, length: int
) -> tuple[list[Any], int]:
    """The same of the peer: a policy call per request."""
    if worded.policy is not None:
        worded.policy.forget()
    sampling = Sampling(temperature=0.7, max_tokens=length)
    trees = []
    requests = 0
    for index, draft in enumerate(drafts):
        said: list[str] = []

        def ask(
            chat: list[dict[str, str]],
            role: str,
            draw: int,
            sample: int,
            index: int = index,
            said: list[str] = said,
        ) -> str:
            key = Key(SEED, index, draw)
            if role == "judge" and sample > 0:
                return said[sample]
            judges = role == "judge"
            replies = worded.generate(
                [Ask(role=role, append=chat, key=key, n=5 if judges else 1, sampling=sampling)]
            )
            said[:] = [reply.text for reply in replies]
            return said[0] if judges else worded.say(True, key, sample)

        search = spar.Search(
            ask,
            lambda prompt, response: PROMPTS.judge_chat(prompt, response)[0]["content"],
            PROMPTS.refine,
            draft.prompt,
            draft.response,
            draft.critique,
            depth_first=order == "dfs",
        )
        final = search.run()
        requests += search.requests
        nodes = [search.root, *search.nodes]
        place = {id(node): k for k, node in enumerate(nodes)}
        rows = [(place[id(n.parent)], n.branch, n.response, n.value, n.critique) for n in search.nodes]
        trees.append((rows, place[id(final)]))
    return trees, requests


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--sequential", type=int, default=16, help="of them, computed one after another")
    parser.add_argument("--length", type=int, default=8, help="tokens of every reply")
    parser.add_argument("--accept", type=float, default=0.1, help="probability that a refinement passes")
    parser.add_argument("--orders", nargs="+", choices=["bfs", "dfs"], default=["bfs", "dfs"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.set_num_threads(1)
    path = Path(__file__).parents[1] / "tests" / "oracles" / "spar.py"
    spec = importlib.util.spec_from_file_location("spar", path)
    assert spec is not None
    assert spec.loader is not None
    spar = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(spar)

    model, tokenizer = build_nano(["kuhn_poker"], seed=0)
    model.to(args.device).eval()
    policy = LanguageModel(model, tokenizer)
    policy.end_tokens = frozenset()  # every reply has the full length
    worded = Worded(policy, args.accept)
    drafts = drafts_of(args.prompts)
    facts = machine(["selfplay_fast", "torch", "transformers"])
    facts["device"] = torch.cuda.get_device_name() if args.device == "cuda" else "cpu, 1 thread"
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    rows: list[dict[str, Any]] = []
    for order in args.orders:
        found: dict[str, Any] = {}

        def ours(order: str = order, found: dict[str, Any] = found) -> float:
            start = time.process_time()
            found["ours"] = batched(worded, drafts, order, args.length)
            found["ours_cpu"] = time.process_time() - start
            return float(len(drafts))

        def peer(order: str = order, found: dict[str, Any] = found) -> float:
            start = time.process_time()
            timed = drafts[: args.sequential]
            found["peer"] = sequential(spar, worded, timed, order, args.length)
            found["peer_cpu"] = (time.process_time() - start) * len(drafts) / len(timed)
            return float(len(timed))

        times = measure({"ours": ours, "peer": peer}, args.repeats)
        (trees, rounds), (part, _) = found["ours"], found["peer"]
        expected, requests = sequential(spar, Worded(None, args.accept), drafts, order, args.length)
        assert trees == expected, "the trees differ"
        assert trees[: len(part)] == part, "the trees differ where the peer computes"
        spread = {f"{side}_spread": timing.spread for side, timing in times.items()}
        seconds = {f"{side}_seconds": timing.seconds for side, timing in times.items()}
        for unit, rate in (
            ("prompts/s", {side: timing.rate for side, timing in times.items()}),
            ("prompts/s of the processor", {side: len(drafts) / found[f"{side}_cpu"] for side in times}),
        ):
            case = f"{order}, {args.prompts} prompts, {args.length} tokens: {rounds} rounds for {requests:,} requests"
            ratio = rate["ours"] / rate["peer"]
            print(f"{case}: {rate['ours']:.2f} against {rate['peer']:.2f} {unit}, {ratio:.2f}", flush=True)
            rows.append({"case": case, "unit": unit, **rate, "ratio": ratio, **spread, **seconds})
            rows[-1] |= {"accept": args.accept, "peer_prompts": times["peer"].work}
    save("refine_rounds", facts, rows)


if __name__ == "__main__":
    main()
