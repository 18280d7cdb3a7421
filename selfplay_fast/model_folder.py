"""What a model's folder says of it, read in milliseconds and without torch, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

ADAPTER_CONFIG = "adapter_config.json"  # what peft calls it; a folder with it holds adapters and no model
_CONFIG = "config.json"
_RUN = "config.yaml"
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


class Facts(NamedTuple):
    """Has it a chat template, and how many tokens are its context? None: not known before it is loaded."""

    chat_template: bool | None = None
    context_limit: int | None = None


def folder_facts(model: str, setting: str = "model") -> Facts:
    """Of a local transformers folder; nothing is known of nano, hub ids and folders of adapters.

    ValueError with one line, which names the ``setting``, for a path that is none, a run, or a folder without a model.
    """
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith((".", "/", "~")):
            raise ValueError(f"{setting}: there is no folder {model!r}")
        return Facts()
    if (folder / ADAPTER_CONFIG).is_file():
        return Facts()
    if not (folder / _CONFIG).is_file():
        hint = f"a run; first write its model with selfplay-fast export {model} FOLDER"
        reason = hint if (folder / _RUN).is_file() else f"no model folder: it has no {_CONFIG}"
        raise ValueError(f"{setting}: {model!r} is {reason}")
    config = _read(folder / _CONFIG)
    text = config.get("text_config")
    limit = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    template = any((folder / name).is_file() for name in _TEMPLATES)
    if not template and (folder / "tokenizer_config.json").is_file():
        template = bool(_read(folder / "tokenizer_config.json").get("chat_template"))
    return Facts(template, limit if isinstance(limit, int) else None)


def check_facts(model: str, facts: Facts, *, style: str, max_tokens: int) -> None:
    """ValueError where a model cannot play like this."""
    if facts.chat_template is False and style in ("spiral", "mars"):
        raise ValueError(
            f"model: {model!r} has no chat template; put one into its folder (chat_template.jinja), "
            "or use --style brief"
        )
    if facts.context_limit is not None and max_tokens >= facts.context_limit:
        raise ValueError(
            f"max_tokens: {max_tokens} leave no room for a prompt in the model's context of "
            f"{facts.context_limit} tokens; use fewer"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"model: {path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}
