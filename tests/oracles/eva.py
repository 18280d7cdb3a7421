"""An evolve step of eva, pass by pass and prompt by prompt, written from the published description alone.

Ye et al. 2024, arXiv 2411.00062, and its released code of the offline pipeline. Nothing of selfplay_fast is imported,
and nothing is clever: this is what dialogues, weights and draws are held against. ``solve(prompt, i)`` is response i to
a prompt, ``score(prompt, response)`` its reward or None where there is none, ``rewrite(prompt, method)`` the text of a
mutation. Every random number is handed in.
"""

import math

RESPONSES = 6
MUTATIONS = 4
FRACTION = 0.25
KEEP_BASE = 0.2
KEEP_EVOLVED = 0.8


class Example:
    """A prompt, its responses that have a reward, and numbers made of the rewards."""

    def __init__(self, prompt):
        self.prompt = prompt
        self.responses = []
        self.rewards = []

    def numbers(self):
        best = max(self.rewards)
        mean = sum(self.rewards) / len(self.rewards)
        ordered = sorted(self.rewards, reverse=True)
        return {
            "reward_gap": best - min(self.rewards),
            "reward_maxmean": best - mean,
            "reward_dts": ordered[0] - ordered[1] if len(ordered) > 1 else 0.0,
            "reward_var": sum((r - mean) ** 2 for r in self.rewards) / len(self.rewards),
            "reward_mean": mean,
        }

    def pair(self):
        """(chosen, rejected): the first of the best and the first of the worst."""
        chosen = 0
        rejected = 0
        for i, reward in enumerate(self.rewards):
            if reward > self.rewards[chosen]:
                chosen = i
            if reward < self.rewards[rejected]:
                rejected = i
        return self.responses[chosen], self.responses[rejected]


class EvolveStep:
    """Counts of passes are of those over all prompts, in which every prompt is generated for once."""

    def __init__(self, solve, score, rewrite):
        self.solve = solve
        self.score = score
        self.rewrite = rewrite
        self.generation_passes = 0
        self.scoring_passes = 0

    def examples(self, prompts):
        """Six passes for responses, and a pass of the reward model for each prompt."""
        said = [[] for _ in prompts]
        for i in range(RESPONSES):
            self.generation_passes += 1
            for place, prompt in enumerate(prompts):
                said[place].append(self.solve(prompt, i))
        examples = []
        for place, prompt in enumerate(prompts):
            self.scoring_passes += 1
            example = Example(prompt)
            for response in said[place]:
                reward = self.score(prompt, response)
                if reward is not None:
                    example.responses.append(response)
                    example.rewards.append(reward)
            if example.rewards:
                examples.append(example)
        return examples

    def run(self, prompts, metric, uniform, method_of, shuffle):
        """``uniform``: a number in (0, 1] for each example; ``method_of(i, k)``: of mutation k of drawn prompt i;
        ``shuffle(n)``: 0 … n - 1 in an order, a new one with each call."""
        self.base = self.examples(prompts)
        self.weights = weights([example.numbers()[metric] for example in self.base])
        self.drawn = without_replacement(self.weights, int(FRACTION * len(self.base)), uniform)
        chains = [[] for _ in self.drawn]
        last = [self.base[place].prompt for place in self.drawn]
        for k in range(MUTATIONS):
            self.generation_passes += 1
            for i in range(len(self.drawn)):
                text = self.rewrite(last[i], method_of(i, k)).strip()
                if text != "" and text != last[i]:
                    chains[i].append(text)
                    last[i] = text
        self.new_prompts = [prompt for chain in chains for prompt in chain]
        self.evolved = self.examples(self.new_prompts)
        base = [self.base[i] for i in shuffle(len(self.base))[: int(KEEP_BASE * len(self.base))]]
        evolved = [
            self.evolved[i] for i in shuffle(len(self.evolved))[: int(KEEP_EVOLVED * len(self.evolved))]
        ]
        both = base + evolved
        self.mix = [both[i] for i in shuffle(len(both))]
        self.pairs = [(example.prompt, *example.pair()) for example in self.mix]


def weights(values):
    """Scaled to 0 … 1 and to the sum 1; equal where all values are."""
    low = min(values)
    high = max(values)
    if high == low:
        return [1 / len(values) for _ in values]
    scaled = [(value - low) / (high - low) for value in values]
    total = sum(scaled)
    return [value / total for value in scaled]


def without_replacement(weights, count, uniform):
    """Exponential clocks: prompt i rings after -log(uniform_i) / weight_i, and the first to ring are taken."""
    times = []
    for place, weight in enumerate(weights):
        if weight > 0:
            times.append((-math.log(uniform[place]) / weight, place))
    times.sort()
    return [place for _, place in times[:count]]


def leave_one_out(rewards):
    """RLOO: each reward less the mean of the others."""
    advantages = []
    for i, reward in enumerate(rewards):
        others = [other for j, other in enumerate(rewards) if j != i]
        advantages.append(reward - sum(others) / len(others) if others else 0.0)
    return advantages
