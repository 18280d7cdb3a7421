"""Judges by name: policies that label or score what others say, and do not learn."""

from __future__ import annotations

from selfplay_fast.policies.base import Policy

_KINDS = "server:URL#MODEL, classifier:FOLDER or model:FOLDER"


def load_judge(name: str, setting: str = "judge", *, device: str = "auto", timeout: float = 120.0) -> Policy:
    """``server:URL#MODEL``, with OpenAI's interface, ``classifier:FOLDER`` or ``model:FOLDER``, for a hub id as well.

    A server has said a word; ``timeout`` are the seconds until an attempt to ask it has failed. ValueError that names
    the ``setting`` for another name, and where it does not answer or cannot be loaded.
    """
    try:
        return _judge(name, device, timeout)
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error


def _judge(name: str, device: str, timeout: float) -> Policy:
    kind, _, rest = name.partition(":")
    if kind == "classifier" and rest:
        from selfplay_fast.policies.classifier import SequenceClassifier

        return SequenceClassifier.load(rest, device=device)
    if kind == "model" and rest:
        from selfplay_fast.policies.language_model import LanguageModel

        return LanguageModel.load(rest, device=device)
    if kind != "server":
        raise ValueError(f"must be {_KINDS}, got {name!r}")
    from selfplay_fast.policies.endpoint import Limits
    from selfplay_fast.policies.openai_server import OpenAIServer

    server = OpenAIServer.from_name(name, limits=Limits(timeout=timeout, deadline=5 * timeout))
    server.check()
    return server
