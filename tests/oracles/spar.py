"""SPaR's tree search and its data, one request after another, written from the published description alone.

Cheng et al. 2024, arXiv 2412.11605. Nothing of selfplay_fast is imported, and nothing is clever: this is what the
batched search is held against. ``ask(chat, role, draw, sample)`` gives the text of one sample; ``draw`` names the
sampling stream of a request, because a sequential and a batched search can only agree if equal requests draw equally.
"""

import hashlib


class Node:
    """A response in the tree."""

    def __init__(self, response, parent, branch, number):
        self.response = response
        self.parent = parent
        self.branch = branch
        self.number = number  # of the path from the root: names the draws of its refinements
        self.children = []
        self.value = 0.0
        self.critique = None
        self.refinement = None
        self.depth = 0 if parent is None else parent.depth + 1

    def best(self):
        """(node, value) of the best of this subtree; ties go to the later and deeper one."""
        best_node = self
        best_value = self.value
        for child in self.children:
            node, value = child.best()
            if value >= best_value:
                best_node = node
                best_value = value
        return best_node, best_value


def label_of(critique):
    """1 for yes, 0 for no, -1 where the verdict cannot be read."""
    parts = critique.split("Final Judgement")
    if len(parts) < 2:
        return -1
    verdict = parts[1]
    yes = verdict.find("Yes")
    no = verdict.find("No")
    if yes == -1 and no == -1:
        return -1
    if yes == -1:
        return 0
    if no == -1:
        return 1
    return 1 if yes < no else 0


def refined_response(text):
    """What stands between [[start]] and [[end]]; None where nothing does."""
    start = text.find("[[start]]")
    if start == -1:
        return None
    rest = text[start + len("[[start]]") :]
    end = rest.find("[[end]]")
    if end == -1:
        return None
    inside = rest[:end].strip()
    if inside == "":
        return None
    return inside


class Search:
    """The search for one prompt."""

    def __init__(self, ask, judge_prompt, refine_prompt, prompt, response, critique, depth_first=False):
        self.ask = ask
        self.judge_prompt = judge_prompt  # (prompt, response) -> text
        self.refine_prompt = refine_prompt  # text
        self.prompt = prompt
        self.depth_first = depth_first
        self.branch = 3
        self.select_branch = 2
        self.max_depth = 3
        self.end_gate = 0.5
        self.cache = {}
        self.requests = 0
        self.nodes = []  # in the order of creation
        self.root = Node(response, None, 0, 0)
        self.root.critique = critique

    def run(self):
        """The final node; the root where no refinement was ever made."""
        found = self.dfs(self.root) if self.depth_first else self.bfs()
        if found is not None:
            return found
        node, _ = self.root.best()
        return node

    def bfs(self):
        frontier = [self.root]
        for _ in range(self.max_depth):
            candidates = []
            for node in frontier:
                for child in self.expand(node):
                    candidates.append(child)
            if len(candidates) == 0:
                return None
            ranked = sorted(candidates, key=lambda node: node.value, reverse=True)
            if ranked[0].value > self.end_gate:
                return ranked[0]
            frontier = ranked[: min(self.select_branch, len(ranked))]
        return None

    def dfs(self, node):
        if node.depth >= self.max_depth:
            return None
        children = self.expand(node)
        if len(children) == 0:
            return None
        ranked = sorted(children, key=lambda node: node.value, reverse=True)
        if ranked[0].value > self.end_gate:
            return ranked[0]
        for child in ranked[: min(self.select_branch, len(ranked))]:
            found = self.dfs(child)
            if found is not None:
                return found
        return None

    def expand(self, node):
        """The children of a node that could be made and judged."""
        made = []
        for branch in range(self.branch):
            child = self.refine(node, branch)
            if child is None:
                continue
            if not self.judge(child):
                continue
            node.children.append(child)
            self.nodes.append(child)
            made.append(child)
        return made

    def refine(self, node, branch):
        chat = [
            {"role": "user", "content": self.judge_prompt(self.prompt, node.response)},
            {"role": "assistant", "content": node.critique},
            {"role": "user", "content": self.refine_prompt},
        ]
        number = node.number * self.branch + branch + 1
        for outer in range(3):
            for inner in range(3):
                attempt = 3 * outer + inner
                self.requests += 1
                if attempt == 0:  # the first attempts of a node are samples of one draw
                    text = self.ask(chat, "refiner", 9 * node.number, branch)
                else:
                    text = self.ask(chat, "refiner", 9 * number + attempt, 0)
                response = refined_response(text)
                if response is not None:
                    child = Node(response, node, branch, number)
                    child.refinement = text
                    return child
        return None

    def judge(self, node):
        """Value and critique of a node; False where the votes were tied each time."""
        if node.response in self.cache:
            node.value, node.critique = self.cache[node.response]
            return True
        for attempt in range(3):
            self.requests += 1
            judged = vote(self.ask, self.judge_prompt, self.prompt, node.response, attempt)
            if judged is None:
                continue
            node.value, node.critique = judged
            self.cache[node.response] = judged
            return True
        return False


def vote(ask, judge_prompt, prompt, response, attempt):
    """(value, critique kept) after five critiques; None where they are tied."""
    chat = [{"role": "user", "content": judge_prompt(prompt, response)}]
    digest = hashlib.blake2b(f"{attempt} {response}".encode(), digest_size=8).digest()
    draw = int.from_bytes(digest, "big") >> 1
    critiques = []
    for sample in range(5):
        critiques.append(ask(chat, "judge", draw, sample))
    labels = [label_of(critique) for critique in critiques]
    ones = labels.count(1)
    zeros = labels.count(0)
    if ones == zeros:
        return None
    majority = 1 if ones > zeros else 0
    return ones / (ones + zeros), critiques[labels.index(majority)]


def actor_nodes(ask, judge_prompt, prompt, count):
    """The actor's responses to a prompt, judged once; without those whose votes were tied."""
    nodes = []
    for sample in range(count):
        response = ask([{"role": "user", "content": prompt}], "actor", 0, sample).strip()
        judged = vote(ask, judge_prompt, prompt, response, 0)
        if judged is None:
            continue
        node = Node(response, None, sample, 0)
        node.value, node.critique = judged
        nodes.append(node)
    return nodes


def negative_of(nodes, choose):
    """One of those voted down; None where there is none."""
    down = [node for node in nodes if node.value < 0.5]
    return choose(down) if len(down) > 0 else None


def actor_judge_examples(judge_prompt, prompt, nodes):
    """(positives, negatives): all judgements of the actor's responses that were not unanimous."""
    positive = []
    negative = []
    for node in nodes:
        chat = [
            {"role": "user", "content": judge_prompt(prompt, node.response)},
            {"role": "assistant", "content": node.critique},
        ]
        if 0.5 < node.value < 1:
            positive.append(chat)
        if 0 < node.value < 0.5:
            negative.append(chat)
    return positive, negative


def dpo_pair(search, final):
    """The preference pair of a search, None where its final node is not good enough."""
    if final is search.root:
        return None
    if not final.value > 0.5:
        return None
    return {
        "prompt": [{"role": "user", "content": search.prompt}],
        "chosen": [{"role": "assistant", "content": final.response}],
        "rejected": [{"role": "assistant", "content": search.root.response}],
    }


def refine_example(search, final):
    """The last hop to a final node that is good enough, as a dialogue."""
    if final is search.root or not final.value > 0.5:
        return None
    parent = final.parent
    return [
        {"role": "user", "content": search.judge_prompt(search.prompt, parent.response)},
        {"role": "assistant", "content": parent.critique},
        {"role": "user", "content": search.refine_prompt},
        {"role": "assistant", "content": final.refinement},
    ]


def judge_examples(search, choose):
    """(positives, negatives), at most one each: judgements that were not unanimous. choose(items) picks one."""
    positive = []
    negative = []
    for node in search.nodes:
        chat = [
            {"role": "user", "content": search.judge_prompt(search.prompt, node.response)},
            {"role": "assistant", "content": node.critique},
        ]
        if 0.5 < node.value < 1:
            positive.append(chat)
        if 0 < node.value < 0.5:
            negative.append(chat)
    picked = []
    for items in (positive, negative):
        if len(items) > 0:
            picked.append([choose(items)])
        else:
            picked.append([])
    return picked[0], picked[1]


def capped(items, cap, rng):
    """At most ``cap`` of them, shuffled."""
    order = rng.permutation(len(items))
    return [items[i] for i in order][:cap]


def refiner_data(searches, finals, choose, rng, actor_positives=(), actor_negatives=()):
    """Dialogues to fine-tune the refiner on; ``choose(number of the search, items)``."""
    refine = []
    positives = []
    negatives = []
    for number, (search, final) in enumerate(zip(searches, finals, strict=True)):
        example = refine_example(search, final)
        if example is not None:
            refine.append(example)
        positive, negative = judge_examples(search, lambda items, number=number: choose(number, items))
        positives = positives + positive
        negatives = negatives + negative
    chats = capped(refine, 4000, rng) + capped(positives, 1500, rng) + capped(negatives, 1000, rng)
    chats = chats + capped(actor_positives, 2500, rng) + capped(actor_negatives, 500, rng)
    seen = set()
    kept = []
    for chat in chats:
        first_turn = chat[0]["content"]
        if first_turn in seen:
            continue
        seen.add(first_turn)
        kept.append({"messages": chat})
    return kept
