"""Oracle: the class that a name stands for, and one line where it stands for none."""

import json

import pytest

from selfplay_fast.policies.judges import load_judge
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.openai_server import OpenAIServer


def test_kinds(toy_policy, tmp_path, scripted_server):
    async def yes(body, attempt, headers):
        yield server.reply("yes")

    server = scripted_server(yes)
    judge = load_judge(f"server:{server.url}#guard", timeout=7.0)
    assert isinstance(judge, OpenAIServer)
    assert judge.endpoint.limits.timeout == 7.0
    assert json.loads(json.dumps(server.seen[0][2]))["model"] == "guard"
    toy_policy.save(tmp_path / "model")
    assert isinstance(load_judge(f"model:{tmp_path / 'model'}", device="cpu"), LanguageModel)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("guard", "judge: must be server:URL#MODEL, classifier:FOLDER or model:FOLDER, got 'guard'"),
        ("classifier:", "judge: must be"),
        ("server:http://127.0.0.1:1/v1", "judge: 'server:.*' must look like server:"),
        ("classifier:./nothing", "judge: classifier './nothing' cannot be loaded"),
        ("model:./nothing", "judge: model './nothing' cannot be loaded"),
    ],
)
def test_names_that_stand_for_nobody(name, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        load_judge(name)
    with pytest.raises(ValueError, match=f"^{problem.replace('judge', 'verifier', 1)}"):
        load_judge(name, "verifier")
