"""Benchmarks of lm-eval on a policy's weights: does what was learned in games help elsewhere?

Needs the extra `tasks`; nothing else imports lm-eval. Its tasks are read, prompted and scored by it alone.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import lm_eval
except ModuleNotFoundError as missing:
    if missing.name != "lm_eval":
        raise
    raise ModuleNotFoundError(
        "--tasks: lm-eval is not installed: pip install -c constraints.txt -e '.[tasks]', or leave the option out",
        name="lm_eval",
    ) from None
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from selfplay_fast.policies.language_model import LanguageModel

_NO_FILTER = "none"


def find_tasks(names: Sequence[str], folder: Path | None = None) -> TaskManager:
    """Where lm-eval finds these tasks, groups or patterns (`mmlu_*`): in ``folder``, or among its own.

    Tasks are YAML files, and what they name as `!function` is run. Raises ValueError for a folder that is not there,
    or for an unknown name, with the nearest known one.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ValueError(f"--task-path: there is no folder {folder}")
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if all(own.match_tasks([name]) for name in names):
            return own  # lm-eval has 14,000 of its own, and reading their names takes half a minute
    manager = TaskManager(include_path=None if folder is None else str(folder))
    for name in names:
        if not manager.match_tasks([name]):
            close = difflib.get_close_matches(name, manager.all_tasks, n=1, cutoff=0.6)
            hint = f" (did you mean {close[0]!r}?)" if close else "; `lm-eval ls tasks` lists them"
            raise ValueError(f"--tasks: lm-eval knows no task {name!r}{hint}")
    return manager


def benchmark(
    policy: LanguageModel,
    names: Sequence[str],
    tasks: TaskManager,
    *,
    limit: int | None = None,
    few_shot: int | None = None,
    batch_size: int = 8,
    chat_template: bool = False,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Ask a policy's model the questions of these tasks; one row per task and measure.

    limit: questions of each task, the first ones; few_shot: examples before a question; None: all, and the task's own
    number. Each row holds `task`, `measure`, `value`, `error` (lm-eval's standard error or None), `higher_is_better`,
    `questions`, `few_shot`, `chat_template`, `seed` and `lm_eval`, the version. Raises ValueError with one line when a
    task's data cannot be had, or when lm-eval stops for another reason.
    """
    policy.release()  # its memory is needed
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        results = lm_eval.simple_evaluate(
            HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=batch_size),
            tasks=tasks.match_tasks(list(names)),
            num_fewshot=few_shot,
            limit=limit,
            task_manager=tasks,
            apply_chat_template=chat_template,
            log_samples=False,
            bootstrap_iters=1000,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except ConnectionError as error:
        raise ValueError(
            f"--tasks: no data: {error}; connect once, or name tasks with data of their own by --task-path"
        ) from error
    except Exception as error:  # tasks are programs of others, and fail as they like
        raise ValueError(f"--tasks: lm-eval stopped: {type(error).__name__}: {error}") from error
    assert results is not None  # of the first process there are some
    settings = {"chat_template": chat_template, "seed": seed, "lm_eval": results["lm_eval_version"]}
    return [row | settings for row in _rows(results)]


def _rows(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What lm-eval reports as `acc,none` beside `acc_stderr,none`, task by task."""
    for task, found in results["results"].items():
        better = results["higher_is_better"].get(task) or {}
        for key, value in found.items():
            name, comma, chosen = key.partition(",")
            if not comma or name.endswith("_stderr"):
                continue
            yield {
                "task": task,
                "measure": name if chosen == _NO_FILTER else f"{name}, {chosen}",
                "value": _number(value),
                "error": _number(found.get(f"{name}_stderr,{chosen}")),
                "higher_is_better": better.get(name),
                "questions": found.get("sample_len"),
                "few_shot": results["n-shot"].get(task),
            }


def _number(value: Any) -> float | None:
    """lm-eval writes "N/A" where it has no number."""
    return float(value) if isinstance(value, int | float) and value == value else None
