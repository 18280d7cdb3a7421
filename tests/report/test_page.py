"""The report's structure. Oracles: the synthetic run's own numbers, and an HTML parser that is not ours."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from selfplay_fast.report import changes, read_metrics, write_report
from selfplay_fast.report.charts import sections
from selfplay_fast.report.data import read_benchmarks
from selfplay_fast.report.page import MAX_STEPS, json_for_html, transcripts
from selfplay_fast.report.summary import benchmark_changes, format_value
from selfplay_fast.report.terminal import Display, closing_table


class Elements(HTMLParser):
    """Collects (tag, attributes) and the text of every element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self._open, []).append(data)


def embedded(page: str) -> dict:
    match = re.search(r'<script type="application/json" id="run-data">(.*?)</script>', page, re.S)
    assert match is not None
    return json.loads(match[1])


def test_page_is_self_contained_and_nothing_in_it_is_markup_from_a_model(
    synthetic_run: Path, hostile_text: str
) -> None:
    """Oracle: Python's HTML parser sees three scripts, no image, no link out, no address of another host."""
    page = write_report(synthetic_run).read_text()
    parsed = Elements(page)
    tags = [tag for tag, _ in parsed.found]
    assert tags.count("script") == 3
    assert "img" not in tags
    assert "iframe" not in tags
    for tag, attributes in parsed.found:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if tag in ("a", "link"):
            assert (attributes.get("href") or "").startswith(("#", "data:,"))
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    assert hostile_text not in page
    assert hostile_text in embedded(page)["transcripts"]["texts"]
    policy = next(a["content"] for t, a in parsed.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


@pytest.mark.parametrize(
    "text", ["</script>", "<!--", "]]>", "a&b", "'\"\\", "\u2028\u2029", "\ud800", "\x00"]
)
def test_embedded_json_cannot_leave_its_element(text: str) -> None:
    """Oracle: json.loads gives the text back, and no character that HTML reads is in it."""
    encoded = json_for_html({"text": text})
    assert json.loads(encoded)["text"] == text
    assert not set(encoded) & set("<>&'")
    assert encoded.isascii()


def test_curves_hold_the_rows(synthetic_run: Path) -> None:
    """Oracle: the metrics file read with json: steps that have a key, null where it was not a number."""
    rows = [json.loads(line) for line in (synthetic_run / "metrics.jsonl").read_text().splitlines()]
    found = sections(read_metrics(synthetic_run))
    charts = {chart["title"]: chart for section in found for chart in section["charts"]}
    by_key = {series["key"]: series for chart in charts.values() for series in chart["series"]}
    for key in {key for row in rows for key in row} - {"step", "time_s"}:
        having = [row for row in rows if key in row]
        if key.endswith("_error"):
            assert by_key[key.removesuffix("_error")]["e"] == [row[key] for row in having]
            continue
        assert by_key[key]["x"] == [row["step"] for row in having]
        assert by_key[key]["y"] == [row[key] for row in having]
    assert by_key["loss"]["y"][56] is None
    for title in ("NashConv", "Legal replies", "Entropy", "Gradient norm", "Tokens per second", "Loss"):
        assert title in charts
    assert [s["name"] for s in charts["Legal replies"]["series"]] == [
        "Kuhn poker",
        "Tic tac toe",
        "Negotiation",
    ]
    assert [s["name"] for s in charts["Kuhn poker: returns by role"]["series"]] == ["Player 0", "Player 1"]


def test_before_and_after(synthetic_run: Path) -> None:
    """Oracle: the first and last row that hold the key, and which direction is good."""
    rows = [json.loads(line) for line in (synthetic_run / "metrics.jsonl").read_text().splitlines()]
    table = {(change.game, change.key): change for change in changes(rows)}
    nash = table["kuhn_poker", "nash_conv"]
    assert (nash.before, nash.after) == (rows[0]["kuhn_poker/nash_conv"], rows[100]["kuhn_poker/nash_conv"])
    assert (nash.before_step, nash.after_step, nash.better) == (0, 100, True)
    assert table["tic_tac_toe", "score_vs_perfect"].better
    assert table["kuhn_poker", "score_vs_random"].after_error == 0.05
    assert table["kuhn_poker", "return/player_0"].better is None
    assert ("kuhn_poker", "score_vs_random_error") not in table
    page = write_report(synthetic_run).read_text()
    assert f"{nash.before:.3f}" in page
    assert f"{nash.after:.3f}" in page


def test_a_doubtful_nash_conv_is_starred(synthetic_run: Path) -> None:
    """Oracle: the first row's scored mass set below 0.99: a star and its explanation, and no praise."""
    path = synthetic_run / "metrics.jsonl"
    assert "* less than 99" not in write_report(synthetic_run).read_text()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["kuhn_poker/scored_mass"] = 0.98
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    nash = next(change for change in changes(rows) if change.key == "nash_conv")
    assert (nash.before_doubtful, nash.after_doubtful, nash.better) == (True, False, None)
    page = write_report(synthetic_run).read_text()
    assert "0.910 *" in page
    assert "* less than 99" in page


@pytest.mark.parametrize(("after", "verdict"), [(0.25, None), (0.3, True), (-0.3, False)])
def test_noise_is_not_praised(after: float, verdict: bool | None) -> None:
    """Oracle: two standard errors of a difference, here 2 sqrt(0.1^2 + 0.1^2) = 0.283."""
    rows = [
        {"step": 0, "g/score_vs_random": 0.0, "g/score_vs_random_error": 0.1},
        {"step": 9, "g/score_vs_random": after, "g/score_vs_random_error": 0.1},
    ]
    assert [change.better for change in changes(rows)] == [verdict]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("legal_rate", 0.99999, "99.9 %"),
        ("legal_rate", 1.0, "100.0 %"),
        ("scored_mass", 0.29, "29.0 %"),
        ("nash_conv", None, "–"),
        ("return/player_0", -0.5, "−0.500"),
        ("nash_conv", 0.25, "0.250"),
    ],
)
def test_values_are_never_flattered(key: str, value: float | None, text: str) -> None:
    """Oracle: written by hand; a rate short of 1 must not read 100 %."""
    assert format_value(key, value) == text


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_short_runs_make_a_page(synthetic_run: Path, keep: int) -> None:
    """Oracle: a page with tables for runs of no, one and two rows; a lone value has no 'after'."""
    path = synthetic_run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))
    page = write_report(synthetic_run).read_text()
    tables = sum(tag == "table" for tag, _ in Elements(page).found)
    assert tables == (1, 4, 5)[keep]  # the first row of this run knows no phases
    assert ("Nothing has been measured yet." in page) == (keep == 0)
    assert all(change.after is None for change in changes(read_metrics(synthetic_run))) == (keep < 2)


def test_a_run_without_anything_else(tmp_path: Path) -> None:
    """Oracle: config.yaml alone is enough; without it the folder is no run."""
    (tmp_path / "config.yaml").write_text("recipe: spiral\nconfig: {}\n")
    assert embedded(write_report(tmp_path).read_text())["transcripts"]["steps"] == []
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ValueError, match="no run at"):
        write_report(tmp_path)


def test_transcripts_keep_what_was_said(synthetic_run: Path) -> None:
    """Oracle: the episode files, joined again from the page's table of texts."""
    page = transcripts(synthetic_run)
    texts = page["texts"]
    assert len(set(texts)) == len(texts)
    for step in page["steps"]:
        path = synthetic_run / "episodes" / f"step-{step['step']:06d}.jsonl"
        written = [json.loads(line) for line in path.read_text().splitlines()]
        for shown, episode in zip(step["episodes"], written, strict=True):
            assert shown["returns"] == episode["returns"]
            assert shown["seed"] == str(episode["seed"])
            for turn, original in zip(shown["turns"], episode["turns"], strict=True):
                assert texts[turn["prompt"]] == original["prompt"]
                assert texts[turn["reply"]] == original["reply"]
                thought = turn["reasoning"]
                assert ("" if thought is None else texts[thought]) == original["reasoning"]
                assert (turn["refusal"] is None) == (original["refusal"] is None)
                assert turn["advantage"] == original["advantage"]


def test_long_runs_show_a_spread_of_steps(tmp_path: Path) -> None:
    """Oracle: first and last step are there, no more than the limit, and the rest is counted."""
    (tmp_path / "config.yaml").write_text("recipe: spiral\nconfig: {}\n")
    (tmp_path / "episodes").mkdir()
    for step in range(1, 501):
        (tmp_path / "episodes" / f"step-{step:06d}.jsonl").write_text('{"game": "g"}\nbroken\n')
    page = transcripts(tmp_path)
    shown = [step["step"] for step in page["steps"]]
    assert (shown[0], shown[-1], len(shown), len(set(shown))) == (1, 500, MAX_STEPS, MAX_STEPS)
    assert page["left_out"] == 500 - MAX_STEPS
    assert all(len(step["episodes"]) == 1 for step in page["steps"])


def test_huge_replies_are_cut(tmp_path: Path) -> None:
    """Oracle: eight megabytes of replies become a page of less than six, which says what is missing."""
    (tmp_path / "config.yaml").write_text("recipe: spiral\nconfig: {}\n")
    (tmp_path / "episodes").mkdir()
    turn = {"role": "player_0", "prompt": "p", "reply": "y" * 1_000_000}
    for step in range(8):
        text = json.dumps(
            {"game": "g", "returns": {}, "turns": [turn | {"reply": str(step) + turn["reply"]}]}
        )
        (tmp_path / "episodes" / f"step-{step:06d}.jsonl").write_text(text + "\n")
    page = write_report(tmp_path).read_text()
    assert len(page) < 6_000_000
    assert "980,001 more characters" in page


def test_benchmarks_are_compared_where_they_were_asked_alike(synthetic_run: Path) -> None:
    """Oracle: by hand. Of every step the last answer counts, half a line is left out, other numbers of questions stand
    apart, and a difference of two standard errors has a direction."""
    asked = {"task": "sums", "measure": "acc", "questions": 100, "few_shot": 0, "chat_template": False}
    lines = [
        {"step": 0, "value": 0.9, "error": 0.03, "higher_is_better": True},
        {"step": 0, "value": 0.2, "error": 0.04, "higher_is_better": True},
        {"step": 60, "value": 0.3, "error": 0.03, "higher_is_better": True},
        {"step": 120, "value": 0.35, "error": 0.03, "higher_is_better": True},
        {"step": 120, "measure": "loss, <b>", "value": None, "error": None, "higher_is_better": False},
        {"step": 0, "task": "few", "questions": 5, "value": 0.5, "error": None, "higher_is_better": True},
        {"step": 120, "task": "few", "questions": 6, "value": 0.25, "error": None, "higher_is_better": True},
    ]
    text = "".join(json.dumps(asked | line) + "\n" for line in lines) + '{"step": 120, "ta'
    (synthetic_run / "benchmarks.jsonl").write_text(text)
    found = benchmark_changes(read_benchmarks(synthetic_run))
    by_name = {(c.task, c.measure, c.questions): c for c in found}
    sums = by_name["sums", "acc", 100]
    assert (sums.before, sums.after, sums.better) == (0.2, 0.35, True)
    assert (sums.difference, sums.error) == (pytest.approx(0.15), pytest.approx(0.05))
    assert by_name["sums", "loss, <b>", 100].better is None
    assert (by_name["few", "acc", 5].before, by_name["few", "acc", 5].after) == (0.5, None)
    assert (by_name["few", "acc", 6].before, by_name["few", "acc", 6].after) == (None, 0.25)
    page = write_report(synthetic_run).read_text()
    assert "+0.150 ± 0.050" in page
    assert "loss, &lt;b&gt;" in page
    (synthetic_run / "benchmarks.jsonl").unlink()
    assert 'id="benchmarks"' not in write_report(synthetic_run).read_text()


def test_what_went_wrong_with_replies_is_shown_where_it_happened(synthetic_run: Path) -> None:
    """Oracle: 101 rows without trouble show nothing; with one bad step, its share and the mean of all."""
    path = synthetic_run / "metrics.jsonl"
    rows = [json.loads(line) | {"forfeits": 0, "forfeit_rate": 0.0} for line in path.read_text().splitlines()]

    def written() -> tuple[str, list[str], str]:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = read_metrics(synthetic_run)
        charts = [chart["title"] for section in sections(found) for chart in section["charts"]]
        return write_report(synthetic_run).read_text(), charts, str(closing_table(found).caption)

    page, charts, caption = written()
    assert "Replies that went wrong" not in charts
    assert not any("orfeit" in title for title in charts)
    assert "reply never came" not in page + caption
    rows[50] |= {"forfeits": 3, "forfeit_rate": 0.5, "unclosed_rate": 0.25}
    page, charts, caption = written()
    assert "Replies that went wrong" in charts
    assert "Games dropped because a reply never came: 0.4 % on average, at most 50.0 % in a step." in caption
    assert "replies whose reasoning was cut or did not end" in page
    assert "25.0 % on average, at most 25.0 % in a step" in page


def test_what_step_0_is_evaluated_by_is_compared() -> None:
    """Oracle: the rows. Held-out prompts stand where games do, better or worse by two standard errors; what only
    training measures does not."""
    rows = [
        {"step": 0, "held_out/reward": 0.5, "held_out/reward_error": 0.02, "held_out_topic/2": 0.25},
        {"step": 1, "base/reward": 0.9, "difficulty/base": 2.0},
        {"step": 2, "held_out/reward": 0.6, "held_out/reward_error": 0.03, "held_out_topic/2": 0.5},
    ]
    found = {(c.game, c.key): (c.before, c.after, c.better) for c in changes(rows)}
    assert found == {("held_out", "reward"): (0.5, 0.6, True), ("held_out_topic", "2"): (0.25, 0.5, None)}
    table = closing_table(rows)
    assert [list(column.cells) for column in table.columns[:4]] == [
        ["held_out"],
        ["reward"],
        ["0.500 ± 0.020"],
        ["0.600 ± 0.030"],
    ]
    assert "self-play" not in str(table.caption)
    played = closing_table([{"step": 0, "kuhn_poker/legal_rate": 1.0}])
    assert "self-play" in str(played.caption)


def test_a_line_of_progress_names_what_has_values() -> None:
    """Oracle: the rows that were told; a group without a number for the line is not in it."""
    display = Display(Console(file=(written := io.StringIO()), width=200))
    display.begin(2, 0)
    display.metrics({"step": 0, "held_out/reasoning_characters": 12.0, "words/accuracy": 0.5})
    display.advance(2)
    (line,) = written.getvalue().splitlines()
    assert line.endswith("| words: accuracy 0.500")
