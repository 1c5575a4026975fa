"""What streams leave behind: 10 000 one after another, then 200 at once, on the real front and a double for the LLM.

    python -m benchmarks.streaming.leaks

Every third fails in one of the steps, every fifth is cancelled at once, half have two rows. The front's threads, open
files and memory are read after a tenth and at the end. Of the 200 at once, those over the bound of the front must be
refused by its message, and the others answered.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.common import machine
from benchmarks.soak.usage import usage
from benchmarks.streaming.run import process
from generator.server import running
from tests.server.front_repository import FAIL, FRONT, build
from tests.server.test_front import Question, whole

TEXT = "some text"
FAILING = list(FAIL.values())


def one(server: object, number: int) -> str:
    """Ask, and say how it ended."""
    seed = FAILING[number % len(FAILING)] if number % 3 == 0 else 0
    rows = 1 + number % 2
    question = Question(server, [TEXT] * rows, stream=number % 4 != 0, seed=seed)  # type: ignore[arg-type]
    if number % 5 == 0:
        question.cancel()
        return "cancelled"
    responses = question.all()
    if responses[-1].error:
        return "failed" if seed else f"unexpected: {responses[-1].error}"
    texts = [whole(responses, row if rows > 1 else None) for row in range(rows)]
    return "answered" if texts == [TEXT] * rows else f"wrong: {texts}"


def at_once(server: object, count: int) -> Counter[str]:
    questions = [Question(server, [TEXT * 20], stream=True, temperature=5) for _ in range(count)]  # type: ignore[arg-type]
    found: Counter[str] = Counter()
    for question in questions:
        responses = question.all()
        error = responses[-1].error
        if error is None:
            found["answered" if whole(responses) == TEXT * 20 else "wrong"] += 1
        else:
            found["refused" if "row(s) wanted" in error else f"unexpected: {error}"] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("leaks.json"))
    chosen = parser.parse_args()
    facts, ended = machine(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        repository = build(Path(folder, "repository"), "float16")
        with running(repository) as server:
            front = process(repository, FRONT)
            usages = {}
            for number in range(chosen.requests):
                ended[one(server, number)] += 1
                if number + 1 == chosen.requests // 10:
                    time.sleep(1)
                    usages["after a tenth"] = usage(front)
            time.sleep(1)
            usages["after all"] = usage(front)
            together = at_once(server, chosen.at_once)
            time.sleep(1)
            usages[f"after {chosen.at_once} at once"] = usage(front)
            assert one(server, 1) == "answered"
    result = {
        "machine": facts,
        "one after another": ended,
        "at once": together,
        "front": {when: vars(used) for when, used in usages.items()},
    }
    chosen.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return int(any(key.startswith(("wrong", "unexpected")) for key in ended | together))


if __name__ == "__main__":
    raise SystemExit(main())
