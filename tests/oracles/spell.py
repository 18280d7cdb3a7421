"""A step of SPELL, phase by phase and sample by sample, written from the published description alone.

Yang et al. 2025, arXiv 2509.23863, and its released code. Nothing of selfplay_fast is imported, and nothing is clever:
this is what the scheduler, the rules and the choice of samples are held against. What is random comes from outside:
``ask(role, reading, prompt)`` is a policy, ``next_cluster(reading)``, ``new_documents(reading, unseen)`` and
``choose(purpose, candidates, count)`` are draws.
"""

import json
import math

GOOD, FORMAT, GROUND, DROPPED = "asked", "bad_format", "bad_ground", "dropped"


def read_json(text):
    """The last block that is valid, or the whole text; None where neither is an object."""
    printable = ""
    for character in text:
        printable += " " if ord(character) < 32 or ord(character) == 127 else character
    blocks = []
    for part in printable.split("```json")[1:]:
        if "```" in part:
            blocks.append(part.split("```")[0])
    for candidate in [*reversed(blocks), printable]:
        try:
            value = json.loads(candidate)
        except ValueError:
            continue
        if type(value) is dict:
            return value
    return None


def extract(text):
    """What stands behind the last "answer is", up to the end of the line."""
    place = text.lower().rfind("answer is")
    if place < 0:
        return None
    line = text[place + len("answer is") :].strip().split("\n")[0].strip(" :*\t")
    if line.endswith("."):
        line = line[:-1]
    return line.strip(" *") or None


def normalise(text):
    """Lower case, no punctuation, no articles, single blanks."""
    kept = ""
    for character in text.lower():
        if character not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~":
            kept += character
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def number_in(text):
    """The first number in a text without anything tricky; None where there is none."""
    digits = ""
    for character in text.replace(",", "") + " ":
        if character.isdigit() or (character == "." and digits) or (character in "+-" and not digits):
            digits += character
        elif any(c.isdigit() for c in digits):
            break
        else:
            digits = ""
    return float(digits.rstrip(".")) if any(c.isdigit() for c in digits) else None


def rule(task, question, text):
    """1.0 or 0.0 by the rule of a task."""
    answer = extract(text)
    if answer is None:
        return 0.0
    gold = question["answer"]
    if task == "choice":
        for word in answer.replace("(", " ").replace(")", " ").replace(".", " ").split():
            if word in ("A", "B", "C", "D"):
                return 1.0 if word == gold else 0.0
        return 0.0
    if task == "numeric":
        one, other = number_in(answer), number_in(gold)
        if one is None or other is None:
            return 0.0
        if math.ceil(one * 1000) / 1000 == math.ceil(other * 1000) / 1000:
            return 1.0
        for factor in (1, 100, 1000, 1000000, 1000000000):
            for left, right in ((one * factor, other), (one, other * factor)):
                if abs(left - right) <= 0.0015 * max(abs(one), abs(other)):
                    return 1.0
        return 0.0
    return 1.0 if normalise(gold) and normalise(gold) in normalise(answer) else 0.0


def vote_in(text):
    """The last decision."""
    yes, no = text.rfind("[[YES]]"), text.rfind("[[NO]]")
    if yes == no:
        return -1
    return 1 if yes > no else 0


def most_common(votes):
    """The majority; of equals the one that comes first."""
    best = votes[0]
    for vote in votes:
        if votes.count(vote) > votes.count(best):
            best = vote
    return best


class Reading:
    """One question of one cluster and all that became of it."""

    def __init__(self, index, cluster, task, old, new, examples):
        self.index, self.cluster, self.task = index, cluster, task
        self.shown, self.new, self.examples = old + new, new, examples
        self.status, self.question, self.success = None, None, None
        self.said, self.answers, self.rules, self.votes, self.majorities = None, [], [], [], []
        self.rewards = []
        self.reward = 0.0


class Step:
    """Generation batches, each of four phases that wait for the last reply of the one before."""

    def __init__(
        self, documents, tasks, history, ask, prompts, next_cluster, new_documents, *,
        batch, most_batches, questions, group=8, votes=8, mode="paper", length=3, first=0,
    ):  # fmt: skip
        """documents, tasks: of each cluster; history: cluster -> [(documents, question, answer)], which is changed;
        prompts: functions "question"(task, texts, examples), "answer"(task, texts, question), "vote"(question, answer).
        """
        self.documents, self.tasks, self.history = documents, tasks, history
        self.ask, self.prompts = ask, prompts
        self.group, self.number_of_votes, self.mode, self.length = group, votes, mode, length
        self.readings, self.requests, self.phases = [], 0, 0
        while len(self.readings) < most_batches * batch and self.useful() < questions:
            new = []
            for _ in range(batch):
                index = first + len(self.readings) + len(new)
                cluster = next_cluster(index)
                past = history.get(cluster, [])
                old = []
                for seen, _, _ in past:
                    old += [document for document in seen if document not in old]
                unseen = [d for d in range(len(documents[cluster])) if d not in old]
                fresh = list(new_documents(index, unseen))
                new.append(Reading(index, cluster, tasks[cluster], old, fresh, list(past)))
            self.question_phase(new)
            self.ground_phase([one for one in new if one.status is None])
            self.answer_phase([one for one in new if one.status is None])
            self.vote_phase([one for one in new if one.status == GOOD])
            self.readings += new
            for one in new:
                self.remember(one)

    def say(self, role, reading, prompt):
        """One request."""
        self.requests += 1
        return self.ask(role, reading.index, prompt)

    def useful(self):
        """Questions to which some answers are right and some are not."""
        return sum(1 for one in self.readings if one.status == GOOD and len(set(one.rewards)) > 1)

    def question_phase(self, readings):
        """Everybody's question."""
        self.phases += 1
        for one in readings:
            texts = [self.documents[one.cluster][d] for d in one.shown]
            past = [(question, answer) for _, question, answer in one.examples]
            one.said = self.say("questioner", one, self.prompts["question"](one.task, texts, past))
            if "<think>" in one.said and "</think>" not in one.said:
                one.status = DROPPED
                continue
            found = read_json(one.said)
            if not self.is_valid(found, one.task):
                one.status, one.reward = FORMAT, -1.0
                continue
            one.question = {"question": found["question"], "answer": found["answer"].strip()}
            if one.task == "choice":
                one.question["options"] = found["options"]
            too_long = len(one.question["answer"].split()) > 40
            if too_long or (one.task == "numeric" and number_in(one.question["answer"]) == 0):
                one.status = DROPPED

    def is_valid(self, found, task):
        """Keys and values as they were asked for."""
        if found is None:
            return False
        for key in ("question", "answer"):
            if type(found.get(key)) is not str or found[key].strip() == "":
                return False
        if task == "choice":
            options = found.get("options")
            return (
                type(options) is dict
                and sorted(options) == ["A", "B", "C", "D"]
                and found["answer"] in options
            )
        return task != "numeric" or number_in(found["answer"]) is not None

    def ground_phase(self, readings):
        """Whoever can be answered without documents is out."""
        self.phases += 1
        for one in readings:
            text = self.say("responder", one, self.prompts["answer"](one.task, [], one.question))
            if rule(one.task, one.question, text) >= 0.1:
                one.status, one.reward = GROUND, -0.5

    def answer_phase(self, readings):
        """All answers, from all documents."""
        self.phases += 1
        for one in readings:
            one.status = GOOD
            prompt = self.prompts["answer"](one.task, self.documents[one.cluster], one.question)
            for _ in range(self.group):
                text = self.say("responder", one, prompt)
                one.answers.append(text)
                one.rules.append(rule(one.task, one.question, text))

    def vote_phase(self, readings):
        """All judgements of all answers, and what everybody has earned."""
        self.phases += 1
        for one in readings:
            for text, score in zip(one.answers, one.rules, strict=True):
                answer = extract(text)
                votes = []
                if answer is not None:
                    prompt = self.prompts["vote"](one.question, answer)
                    votes = [vote_in(self.say("verifier", one, prompt)) for _ in range(self.number_of_votes)]
                one.votes.append(votes)
                most = most_common(votes) if votes else -1
                one.majorities.append(most)
                one.rewards.append(score if most == -1 else max(score, float(most)))
            one.success = sum(one.rewards) / len(one.rewards)
            if 0 < one.success < 1:
                one.reward = math.exp(-((one.success - 0.5) ** 2) / (2 * (0.5 / 3) ** 2))

    def remember(self, one):
        """The paper remembers what is neither always nor never right, the code all but what is never right."""
        if one.success is None:
            return
        kept = 0 < one.success < 1 if self.mode == "paper" else one.success >= 0.01
        if kept:
            seen = one.new if self.mode == "paper" else one.shown
            entry = (list(seen), one.question["question"], one.question["answer"])
            self.history[one.cluster] = [*self.history.get(one.cluster, []), entry][-self.length :]


def z_scores(values):
    """With the unbiased deviation; a single value has mean 0 and deviation 1."""
    if len(values) == 1:
        return [values[0] / (1 + 1e-6)]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return [(v - mean) / (deviation + 1e-6) for v in values]


def batch(readings, questions, choose, group=8, votes=8, share=0.125, tasks=("numeric", "general", "choice")):
    """(role, reading, which) -> advantage of every sample that is learned from; which: a reply's number."""
    result = {}
    useful = [one for one in readings if one.status == GOOD and len(set(one.rewards)) > 1]
    kept = useful[:questions]
    for one in kept:
        for k, advantage in enumerate(z_scores(one.rewards)):
            result["responder", one.index, k] = advantage
    wasted = [one for one in readings if one.status != DROPPED and one not in useful]
    shortfall = 0
    for task in tasks:
        positives = [one for one in kept if one.task == task]
        candidates = [one for one in wasted if one.task == task]
        wanted = len(positives) + shortfall
        taken = choose(task, candidates, min(wanted, len(candidates)))
        shortfall = wanted - len(taken)
        both = sorted([*positives, *taken], key=lambda one: one.index)
        if both:
            for one, advantage in zip(both, z_scores([one.reward for one in both]), strict=True):
                result["questioner", one.index, 0] = advantage
    groups = []
    for one in readings:
        for k, own in enumerate(one.votes):
            valid = [vote for vote in own if vote != -1]
            most = one.majorities[k]
            if (
                valid
                and most != -1
                and most == one.rules[k]
                and 0.51 <= valid.count(most) / len(valid) <= 0.99
            ):
                groups.append((one, k))
    number = int(len(kept) * group * share / votes)
    if len(groups) >= number:
        for one, k in choose("votes", groups, number):
            paid = [-1.0 if v == -1 else float(v == one.majorities[k]) for v in one.votes[k]]
            for j, advantage in enumerate(z_scores(paid)):
                result["verifier", one.index, (k, j)] = advantage
    return result
