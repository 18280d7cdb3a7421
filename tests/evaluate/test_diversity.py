"""Oracle: nltk's BLEU-free formulas by hand, sacrebleu's own sentence score, all pairs one by one, and torch."""

import math

import numpy as np
import pytest
import torch

from selfplay_fast.evaluate import diversity
from selfplay_fast.evaluate.diversity import embedding_distance, mean_pooling_encoder, self_bleu


def test_self_bleu_of_equal_and_of_disjoint_texts():
    """By hand: equal texts have 1; texts without a common word are near 0; fewer than two have none."""
    pytest.importorskip("sacrebleu", reason="comes with the extra 'test'")
    assert self_bleu(["a b c d e"] * 3) == pytest.approx(1)
    assert self_bleu(["a b c d e", "f g h i j", "k l m n o"]) < 0.05
    assert math.isnan(self_bleu(["alone"]))


def test_self_bleu_is_the_mean_of_sentence_scores():
    """Oracle: sacrebleu.sentence_bleu for each text, the others its references; then some of them only."""
    sacrebleu = pytest.importorskip("sacrebleu", reason="comes with the extra 'test'")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["red", "blue", "old", "new", "cat", "dog"], size=6)) for _ in range(12)]
    scores = [
        sacrebleu.sentence_bleu(text, texts[:i] + texts[i + 1 :], use_effective_order=True).score
        for i, text in enumerate(texts)
    ]
    assert self_bleu(texts) == pytest.approx(np.mean(scores) / 100)
    few = self_bleu(texts, max_references=3)
    assert few < self_bleu(texts)
    assert few == self_bleu(texts, max_references=3)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(diversity.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="the package sacrebleu is not installed: pip install"):
        self_bleu(["a", "b"])


def test_distances_are_those_of_all_pairs():
    """Oracle: a loop over pairs, with scipy's cosine; a vector of zeros is at distance 1."""
    spatial = pytest.importorskip("scipy.spatial.distance")
    vectors = np.random.default_rng(0).normal(size=(7, 5))
    texts = [str(i) for i in range(7)]
    pairs = [spatial.cosine(vectors[i], vectors[j]) for i in range(7) for j in range(i)]
    assert embedding_distance(texts, lambda t: vectors) == pytest.approx(np.mean(pairs))
    vectors[2] = 0
    others = [i for i in range(7) if i != 2]
    pairs = [spatial.cosine(vectors[i], vectors[j]) for i in others for j in others if j < i] + [1.0] * 6
    assert embedding_distance(texts, lambda t: vectors) == pytest.approx(np.mean(pairs))
    assert math.isnan(embedding_distance(["one"], lambda t: vectors[:1]))
    with pytest.raises(ValueError, match="encode: must give one vector for each of 3 texts"):
        embedding_distance(["a", "b", "c"], lambda t: vectors)


def test_an_encoder_takes_the_mean_over_tokens(toy_policy, tmp_path):
    """Oracle: each text by itself, without padding, with the model's own hidden states."""
    toy_policy.save(tmp_path / "model")
    encode = mean_pooling_encoder(tmp_path / "model", batch_size=2)
    texts = ["one two", "two and three and more", "x", "take turns"]
    got = encode(texts)
    for text, vector in zip(texts, got, strict=True):
        ids = torch.tensor([toy_policy.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            want = toy_policy.model.base_model(ids).last_hidden_state[0].mean(0)
        assert np.abs(vector - want.numpy()).max() < 1e-4
    assert 0 < embedding_distance(texts, encode) < 2
    with pytest.raises(ValueError, match=r"encoder .* cannot be loaded"):
        mean_pooling_encoder(tmp_path / "nothing")
