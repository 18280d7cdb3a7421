"""Oracle: the transformers model itself, one text at a time."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from selfplay_fast.play.attack_rules import Labels, read_labels
from selfplay_fast.policies.classifier import SequenceClassifier
from selfplay_fast.records import Ask

NAMES = ["harmful_request", "response_refusal", "harmful_response"]


@pytest.fixture
def folder(toy_policy, tmp_path):
    """A tiny random classifier of three labels, with nano's tokenizer."""
    config = BertConfig(
        vocab_size=len(toy_policy.tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        initializer_range=1.0,
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
        pad_token_id=toy_policy.tokenizer.pad_token_id,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    toy_policy.tokenizer.model_max_length = 64
    toy_policy.tokenizer.save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def asks(pairs, n=1):
    return [
        Ask(
            role="judge",
            append=[{"role": "user", "content": a}, {"role": "assistant", "content": b}],
            n=n,
        )
        for a, b in pairs
    ]


def test_long_texts_are_cut_whatever_the_tokenizer_says(folder):
    """Oracle: no error, and the labels of the cut text. Tokenizers of fine-tuned models often know no length."""
    judge = SequenceClassifier.load(folder)
    want = judge.generate(asks([("x " * 200, "y")]))[0].text
    judge = SequenceClassifier.load(folder)
    judge.tokenizer.model_max_length = int(1e30)
    judge = SequenceClassifier(judge.model, judge.tokenizer)
    assert judge.generate(asks([("x " * 200, "y")]))[0].text == want


def test_labels_are_those_of_the_model(folder):
    """In batches with padding as one by one; the reader of labels understands them; long texts are cut."""
    judge = SequenceClassifier.load(folder, batch_size=3)
    pairs = [(f"take turns {i}" * (i + 1), "and more " * (7 - i)) for i in range(7)] + [("x " * 200, "y")]
    got = [read_labels(reply.text) for reply in judge.generate(asks(pairs))]
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    for (attack, answer), labels in zip(pairs, got, strict=True):
        batch = judge.tokenizer([attack], [answer], truncation=True, return_tensors="pt")
        with torch.no_grad():
            want = (model(**batch).logits[0] > 0).tolist()
        assert labels == Labels(*want)
    assert len({str(labels) for labels in got}) > 1
    assert len(judge.generate(asks(pairs[:2], n=2))) == 4
    assert judge.generate([]) == []


def test_names_and_thresholds(folder):
    names = {"harmful_request": "asked"}
    (reply,) = SequenceClassifier.load(folder, names=names, threshold=1.0).generate(asks([("a", "b")]))
    assert reply.text == "asked: no\nresponse refusal: no\nharmful response: no"


def test_what_it_cannot_do(folder, tmp_path):
    with pytest.raises(ValueError, match=r"classifier .* cannot be loaded"):
        SequenceClassifier.load(tmp_path / "nothing")
    judge = SequenceClassifier.load(folder)
    with pytest.raises(ValueError, match="a classifier reads messages; the ask of role 'judge' has none"):
        judge.generate([Ask(role="judge", append="text")])
    with pytest.raises(ValueError, match="no log-probs"):
        judge.score(asks([("a", "b")]))
