"""How different texts of one kind are from each other: for attacks, off the path of training."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

Encoder = Callable[[Sequence[str]], NDArray[np.floating]]

_MISSING = "the package sacrebleu is not installed: pip install -c constraints.txt -e '.[diversity]'"


def self_bleu(texts: Sequence[str], *, max_references: int = 64, seed: int = 0) -> float:
    """Self-BLEU in 0 … 1, smaller is more diverse: the mean BLEU-4 of each text, the others its references.

    Zhu et al. 2018, arXiv 1802.01886, by sacrebleu. Where there are more than ``max_references`` other texts, so many
    are drawn. NaN for fewer than two texts. ValueError where sacrebleu is missing.
    """
    if importlib.util.find_spec("sacrebleu") is None:
        raise ValueError(f"self_bleu: {_MISSING}")
    from sacrebleu.metrics.bleu import BLEU

    if len(texts) < 2:
        return float("nan")
    bleu = BLEU(effective_order=True)  # a text of three words has no four-gram
    rng = np.random.default_rng(seed)
    scores = []
    for i, text in enumerate(texts):
        others = [*texts[:i], *texts[i + 1 :]]
        if len(others) > max_references:
            others = [others[j] for j in rng.permutation(len(others))[:max_references]]
        scores.append(bleu.sentence_score(text, others).score / 100)
    return float(np.mean(scores))


def embedding_distance(texts: Sequence[str], encode: Encoder) -> float:
    """The mean cosine distance of all pairs of texts, 0 … 2, larger is more diverse; NaN for fewer than two.

    ``encode(texts)`` gives vectors [N, D]; a vector of zeros is at distance 1 from all others. One product instead of
    all pairs: the sum of all cosines is the squared length of the sum of the unit vectors.
    """
    if len(texts) < 2:
        return float("nan")
    vectors = np.asarray(encode(texts), np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(f"encode: must give one vector for each of {len(texts)} texts, got {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    pairs = len(texts) * (len(texts) - 1)
    return float(1 - ((units.sum(0) ** 2).sum() - (lengths > 0).sum()) / pairs)


def mean_pooling_encoder(name: str | Path, *, batch_size: int = 64, device: str = "cpu") -> Encoder:
    """A transformers encoder, from a folder or a hub id: the mean of the last hidden states over a text's tokens.

    As the sentence encoders of SBERT are used (Reimers and Gurevych 2019, arXiv 1908.10084).
    """
    from transformers import AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(name).to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"encoder {str(name)!r} cannot be loaded: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> NDArray[np.floating]:
        parts = []
        for begin in range(0, len(texts), batch_size):
            batch = tokenizer(
                list(texts[begin : begin + batch_size]), padding=True, truncation=True, return_tensors="pt"
            ).to(device)
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            parts.append(((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).float().cpu().numpy())
        return np.concatenate(parts)

    return encode
