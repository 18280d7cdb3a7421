"""Instructions that a program can check. Oracles: verdicts by hand, lm-eval's two functions, standard errors by numpy.

Runs with the extra `tasks`. The data that NLTK would download is a tokenizer without any abbreviations, written here.
"""

import importlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay_fast.policies import ScriptedPolicy
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.records import Reply, Sampling

for module in ("lm_eval", "langdetect", "immutabledict", "nltk"):
    pytest.importorskip(module, reason="comes with the extra 'tasks'")

pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and what it imports

with pytest.MonkeyPatch.context() as alone:
    alone.setattr("nltk.download", lambda *names, **options: False)  # no test reaches the network
    instructions = importlib.import_module("selfplay_fast.evaluate.instructions")
    utils = importlib.import_module("lm_eval.tasks.ifeval.utils")
Followed, read_instructions = instructions.Followed, instructions.read_instructions
follow, instruction_rows = instructions.follow, instructions.instruction_rows
sentence_tokenizer = utils.instructions_registry.instructions.instructions_util._get_sentence_tokenizer

# (instruction, arguments, a response that follows it, one that does not)
CASES = [
    ("keywords:existence", {"keywords": ["river", "bridge"]}, "A Bridge over a river.", "A bridge."),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "at least"}, "Sea, sea.", "Sea."),
    ("keywords:forbidden_words", {"forbidden_words": ["sea"]}, "Oversea.", "The sea."),
    (
        "keywords:letter_frequency",
        {"letter": "z", "let_frequency": 2, "let_relation": "less than"},
        "zoo",
        "zigzag",
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Der Fluss ist heute sehr ruhig und breit.",
        "The river is very calm today.",
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two three", "one two"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        "It is.",
        "It is. So it is.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n\n***\n\ntwo", "one\n\ntwo"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First.\n\nThen, more.",
        "First.\n\nAnd then.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. One more.", "Bye."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n* two", "* one"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "a *b* c", "a b c"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1\na",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{'a': 1}"),
    ("detectable_format:title", {}, "<<A river>>\nIt flows.", "A river"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "Say it. It.", "It."),
    ("startend:end_checker", {"end_phrase": "That is all."}, "So. That is all.", "That is all. So."),
    ("startend:quotation", {}, '"So it is."', "So it is."),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": "less than"},
        "so it is",
        "so IT is",
    ),
    ("change_case:english_capital", {}, "THE RIVER IS CALM TODAY.", "The river is calm today."),
    ("change_case:english_lowercase", {}, "the river is calm today.", "The river is calm today."),
    ("punctuation:no_comma", {}, "one and two", "one, two"),
]


@pytest.fixture(scope="module", autouse=True)
def sentences(tmp_path_factory):
    """NLTK's data: a sentence ends at every stop."""
    data = tmp_path_factory.mktemp("nltk")
    folder = data / "tokenizers/punkt_tab/english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (folder / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nltk.data.path", [str(data)])
        sentence_tokenizer.cache_clear()
        yield
    sentence_tokenizer.cache_clear()


@pytest.fixture
def read(tmp_path):
    """read(rows) -> what is read from a file of them; a string is a line as it stands."""

    def read_rows(*rows):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return read_instructions(path)

    return read_rows


def prompt(*instructions, text="Say it."):
    """A row of the file; ``instructions`` are pairs of name and arguments."""
    names, arguments = zip(*instructions, strict=True)
    return {"prompt": text, "instruction_id_list": list(names), "kwargs": list(arguments)}


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_each_instruction(name, arguments, good, bad, read):
    """Oracle: by hand, of one response that follows and one that does not; lm-eval's own two functions say the same."""
    row = prompt((name, arguments | {"of_another": None}))
    (item,) = read(row)
    assert item.check(good).strict == (True,)
    assert item.check(bad).strict == (False,)
    assert item.check(" \n").loose == (False,)
    theirs = utils.InputExample(key=0, **row)
    for response in (good, bad, f"Sure:\n{good}", f"**{bad}**", f"{good}\n*Bye*"):
        found = item.check(response)
        strict = utils.test_instruction_following_strict(theirs, response)
        loose = utils.test_instruction_following_loose(theirs, response)
        assert list(found.strict) == strict.follow_instruction_list
        assert list(found.loose) == loose.follow_instruction_list


def test_every_instruction_has_a_case():
    """Oracle: lm-eval's registry."""
    assert {case[0] for case in CASES} == set(utils.instructions_registry.INSTRUCTION_DICT)


def test_loose_forgives_what_stands_around(read):
    """Oracle: by hand: a first line of courtesy, a last one, both, asterisks; not a breach in the middle."""
    (item,) = read(prompt(("punctuation:no_comma", {}), ("startend:end_checker", {"end_phrase": "End."})))
    for response in ("Sure, here:\nIt is.\nEnd.", "Well, well\n*It is. End.*\nMore, then?"):
        assert item.check(response).strict != (True, True)
        assert item.check(response).loose == (True, True)
    assert item.check("One.\nTwo, three.\nEnd.") == Followed(strict=(False, True), loose=(False, True))
    assert item.check("Sure, here:\nIt is.\nEnd.").strict == (False, True)


def test_nought_is_a_number(read):
    """Oracle: by hand; lm-eval's functions would draw another number where 0 is given."""
    arguments = {"letter": "z", "let_frequency": 0, "let_relation": "at least"}
    (item,) = read(prompt(("keywords:letter_frequency", arguments)))
    assert item.check("none").strict == (True,)


def test_a_letter_that_is_none_is_the_same_one_every_time(read):
    """Oracle: two readings. IFEval has such prompts; lm-eval draws a letter for each response."""
    arguments = {"letter": "#", "let_frequency": 1, "let_relation": "at least"}
    drawn = {read(prompt(("keywords:letter_frequency", arguments)))[0].checkers[0]._letter for _ in range(8)}
    assert len(drawn) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "it is not JSON: Expecting value"),
        ("[1]", "it is no JSON object"),
        ('{"prompt": "a\\ud800"}', "half a character"),
        ({"instruction_id_list": [], "kwargs": []}, 'it has no "prompt"'),
        ({"prompt": "a", "kwargs": []}, 'its "instruction_id_list" must be a list of names'),
        (
            {"prompt": "a", "instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
            'its "kwargs" must be a list of 1 objects',
        ),
        (prompt(("punctuation:no_dash", {})), "there is no check for instruction 'punctuation:no_dash'"),
        (
            prompt((["punctuation:no_comma"], {})),
            "there is no check for instruction ['punctuation:no_comma']",
        ),
        (prompt(("punctuation:no_comma", [])), "the arguments of punctuation:no_comma must be an object"),
        (prompt(("punctuation:no_comma", {"n": 1})), "punctuation:no_comma does not take {'n': 1}"),
        (
            prompt(("length_constraints:number_words", {"num_words": 3, "relation": None})),
            "length_constraints:number_words needs relation",
        ),
        (
            prompt(("length_constraints:number_words", {"num_words": 3, "relation": "about"})),
            "length_constraints:number_words does not take",
        ),
        (
            prompt(("length_constraints:number_words", {"num_words": "3", "relation": "at least"})),
            "does not take",
        ),
        (prompt(("keywords:existence", {"keywords": ["a", 5]})), "keywords:existence does not take"),
        (prompt(("keywords:existence", {"keywords": ["a", "("]})), "keywords:existence does not take"),
        (
            prompt(("language:response_language", {"language": "Elvish"})),
            "language:response_language does not take",
        ),
    ],
)
def test_lines_that_are_no_prompt(line, words, read, tmp_path):
    """Oracle: the number of the line and what is wrong with it, in one line."""
    good = prompt(("punctuation:no_comma", {}))
    with pytest.raises(ValueError, match="line 3 of") as refused:
        read(good, "", line, good)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_data_that_is_not_there(read, monkeypatch):
    """Oracle: the command that fetches it; what needs none is read all the same."""
    monkeypatch.setattr("nltk.data.path", [])
    sentence_tokenizer.cache_clear()
    arguments = {"num_sentences": 2, "relation": "less than"}
    with pytest.raises(ValueError, match=r"line 1 of .*: .*python -m nltk\.downloader punkt_tab"):
        read(prompt(("length_constraints:number_sentences", arguments)))
    assert len(read(prompt(("punctuation:no_comma", {})))) == 1


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """A prompt with all instructions."""
    path = tmp_path_factory.mktemp("every") / "all.jsonl"
    path.write_text(json.dumps(prompt(*[case[:2] for case in CASES])) + "\n")
    return read_instructions(path)[0]


@settings(max_examples=40)
@given(st.one_of(st.text(), st.text("*[]<>#\"{}'.\nPSaz1 ,()-", max_size=60)))
def test_no_reply_stops_a_check(every, response):
    """Oracle: as many verdicts as instructions, loose where strict."""
    found = every.check(response)
    assert len(found.strict) == len(CASES)
    assert all(loose or not strict for strict, loose in zip(found.strict, found.loose, strict=True))


def test_deeply_nested_json_is_none(read):
    """Oracle: by hand; Python's own reader gives up with a RecursionError."""
    (item,) = read(prompt(("detectable_format:json_format", {})))
    assert item.check("[" * 200_000).loose == (False,)


class Absent:
    """A policy of which every third ask is not answered."""

    def generate(self, asks):
        said = [Reply(text="yes, and no"), Reply(text="yes"), Reply(text="", finish_reason="forfeit")]
        return [said[ask.key.episode % 3] for ask in asks]


def test_accuracies_and_standard_errors(read):
    """Oracle: numpy's mean and standard deviation over prompts; over instructions 1,000 prompts drawn anew often."""
    comma, short = (
        ("punctuation:no_comma", {}),
        ("length_constraints:number_words", {"num_words": 2, "relation": "less than"}),
    )
    rows = [prompt(comma) if k % 2 else prompt(comma, short) for k in range(12)]
    found = follow(Absent(), read(*rows))
    assert [one is None for one in found] == [k % 3 == 2 for k in range(12)]
    table = {row["measure"]: row for row in instruction_rows("small", found)}
    right = np.array([[0, 0], [1, 1]])[[k % 3 for k in range(12) if k % 3 < 2], 0]
    strict = table["prompt strict"]
    assert strict["value"] == pytest.approx(right.mean())
    assert strict["error"] == pytest.approx(right.std(ddof=1) / np.sqrt(8))
    assert (strict["questions"], strict["unanswered"]) == (8, 4)
    assert (table["instruction strict"]["questions"], table["instruction strict"]["value"]) == (12, 0.5)

    rng = np.random.default_rng(0)
    sizes, chance = rng.integers(1, 4, 1000), rng.random(1000)
    verdicts = [tuple(rng.random(n) < p) for n, p in zip(sizes, chance, strict=True)]
    rows = instruction_rows("drawn", [Followed(strict=one, loose=one) for one in verdicts])
    (row,) = (row for row in rows if row["measure"] == "instruction loose")
    hits = np.array([sum(one) for one in verdicts])
    again = rng.integers(0, 1000, (4000, 1000))
    assert row["error"] == pytest.approx((hits[again].sum(1) / sizes[again].sum(1)).std(), rel=0.05)


def test_a_text_in_no_language_is_not_repeated(read, caplog):
    """Oracle: by hand: lm-eval lets it pass, and says so in its log, which is switched off."""
    (item,) = read(prompt(("language:response_language", {"language": "de"})))
    assert item.check("12345 67").strict == (True,)
    assert not caplog.records


def test_nobody_answers(read):
    """Oracle: the word to put right."""
    with pytest.raises(ValueError, match="nobody answered"):
        instruction_rows("none", [None, None])


def test_any_policy_can_be_asked(read):
    """Oracle: what a scripted policy says to each prompt, all in one batch; what nano says is the same twice."""
    items = read(*[prompt(("punctuation:no_comma", {}), text=f"Prompt {k}") for k in range(300)])
    sizes = []

    class Counting(ScriptedPolicy):
        def generate(self, asks):
            sizes.append(len(asks))
            return super().generate(asks)

    policy = Counting(lambda ask, sample: "so, so" if ask.append[0]["content"].endswith("7") else "so")
    found = follow(policy, items)
    assert [one.strict for one in found] == [(k % 10 != 7,) for k in range(300)]
    assert sizes == [300]
    nano = LanguageModel(*build_nano(["kuhn_poker"], seed=0))
    brief = Sampling(temperature=1.0, max_tokens=8)
    assert follow(nano, items[:20], sampling=brief) == follow(nano, items[:20], sampling=brief)
