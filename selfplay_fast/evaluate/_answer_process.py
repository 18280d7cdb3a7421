"""Run as a script, beside the process that asks: lines of JSON, [gold, answer], to lines that say if they are equal.

Mathematics may take for ever or all memory, and only a process of its own can be stopped then (`AnswerVerifier`). It
imports nothing of ours, so that it starts quickly. The argument is how many bytes of memory it may take.
"""

import json
import logging
import resource
import sys

from math_verify import parse, verify


def equal(gold: str, answer: str) -> bool:
    """By math-verify, without its own timeouts, which are signals."""
    read = [parse(f"${text}$", parsing_timeout=None) for text in (gold, answer)]
    return bool(verify(*read, timeout_seconds=None))


if __name__ == "__main__":
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            print(json.dumps(equal(*json.loads(line))), flush=True)
        except Exception:  # whatever a text does to a parser, it is no answer
            print("false", flush=True)
