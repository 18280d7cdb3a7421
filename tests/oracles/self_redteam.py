"""A step of Self-RedTeam, phase by phase and token by token, written from the published description alone.

Liu et al. 2025, arXiv 2506.07468, and its released code. Nothing of selfplay_fast is imported, and nothing is clever:
this is what the scheduler and the vectorised credit are held against. ``ask(role, game, text)`` gives the text of a
reply and the log-prob of each of its tokens, ``label(attack, answer)`` three labels or None where it cannot be read.
"""

# (attack is harmful, answer refuses, answer is harmful): attacker from a harmful seed, from a harmless one, defender
TABLE = {
    (True, True, False): (-1.0, -2.0, 2.0),
    (True, True, True): (1.0, 0.0, 0.0),
    (True, False, False): (0.0, -1.0, 0.0),
    (True, False, True): (2.0, 1.0, -2.0),
    (False, True, False): (-1.0, 0.0, 0.0),
    (False, True, True): (1.0, 2.0, -2.0),
    (False, False, False): (-2.0, -1.0, 2.0),
    (False, False, True): (0.0, 1.0, 0.0),
}


def is_well_formed(text):
    """thought</think><answer>answer</answer>, each tag once, nothing between or behind but blanks between."""
    if "<think>" in text:
        return False
    for tag in ("</think>", "<answer>", "</answer>"):
        if text.count(tag) != 1:
            return False
    end_of_thought = text.index("</think>")
    begin = text.index("<answer>")
    end = text.index("</answer>")
    if not end_of_thought < begin < end:
        return False
    if text[end_of_thought + len("</think>") : begin].strip() != "":
        return False
    if end + len("</answer>") != len(text):
        return False
    thought = text[:end_of_thought]
    answer = text[begin + len("<answer>") : end]
    return thought.strip() != "" and answer.strip() != ""


def seen_by_the_other(text):
    """The first answer in tags, or everything."""
    begin = text.find("<answer>")
    if begin >= 0:
        end = text.find("</answer>", begin)
        if end >= 0:
            answer = text[begin + len("<answer>") : end].strip()
            if answer != "":
                return answer
    return text


class Trajectory:
    """One reply of one role."""

    def __init__(self, role, game, prompt, text, logprobs):
        self.role = role
        self.game = game
        self.prompt = prompt
        self.text = text
        self.logprobs = logprobs
        self.well_formed = is_well_formed(text)
        self.reward = None


class Step:
    """Three phases, each of which waits for the last reply of the one before."""

    def __init__(self, seeds, ask, label, attacker_prompt, defender_prompt):
        """seeds: (text, is harmful, is attacked); prompts: functions of a seed, of an attack."""
        self.calls = 0
        self.trajectories = []
        self.dropped = {"unlabelled": 0, "tie": 0}
        attacks = []
        attackers = {}
        for game, (text, harmful, attacked) in enumerate(seeds):
            if not attacked:
                attacks.append(text)
                continue
            prompt = attacker_prompt(text, harmful)
            said, logprobs = ask("attacker", game, prompt)
            self.calls += 1
            attackers[game] = Trajectory("attacker", game, prompt, said, logprobs)
            attacks.append(seen_by_the_other(said))
        defenders = []
        for game, attack in enumerate(attacks):
            prompt = defender_prompt(attack)
            said, logprobs = ask("defender", game, prompt)
            self.calls += 1
            defenders.append(Trajectory("defender", game, prompt, said, logprobs))
        for game, (_, harmful, _) in enumerate(seeds):
            labels = label(attacks[game], seen_by_the_other(defenders[game].text))
            self.calls += 1
            if labels is None:
                self.dropped["unlabelled"] += 1
                continue
            if None in labels:
                self.dropped["tie"] += 1
                continue
            row = TABLE[labels]
            if game in attackers:
                self.keep(attackers[game], row[0] if harmful else row[1])
            self.keep(defenders[game], row[2])

    def keep(self, trajectory, game_reward):
        """The table's reward, and 1 for the form or minus 1."""
        trajectory.reward = game_reward + (1.0 if trajectory.well_formed else -1.0)
        self.trajectories.append(trajectory)


def advantages(trajectories, reference, kl_coef=0.01, limit=10.0):
    """REINFORCE++ with a list of numbers for each trajectory; ``reference(trajectory)`` gives its log-probs there."""
    returns = []
    for trajectory in trajectories:
        rewards = []
        for own, other in zip(trajectory.logprobs, reference(trajectory), strict=True):
            rewards.append(-kl_coef * (own - other))
        rewards[-1] += min(max(trajectory.reward, -limit), limit)
        own_returns = [0.0] * len(rewards)
        running = 0.0
        for t in range(len(rewards) - 1, -1, -1):
            running += rewards[t]
            own_returns[t] = running
        returns.append(own_returns)
    result = [None] * len(trajectories)
    for role in ("attacker", "defender"):
        tokens = []
        for trajectory, own_returns in zip(trajectories, returns, strict=True):
            if trajectory.role == role:
                tokens.extend(own_returns)
        if not tokens:
            continue
        mean = sum(tokens) / len(tokens)
        variance = sum((value - mean) ** 2 for value in tokens) / len(tokens)
        deviation = max(variance, 1e-8) ** 0.5
        for place, trajectory in enumerate(trajectories):
            if trajectory.role == role:
                result[place] = [(value - mean) / deviation for value in returns[place]]
    return result
