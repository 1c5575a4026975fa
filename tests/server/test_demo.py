"""`gen-repo demo` as a user runs it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from generator import demo, models

TIMEOUT = 300


@pytest.mark.parametrize("model", demo.names())
def test_demo_answers_and_ends_or_stays(model: str, tmp_path: Path) -> None:
    """All questions are answered with times; with --keep the printed commands get the first answer again, until Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "generator", "demo", "--model", model, "--keep"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    try:
        said = ""
        while "until Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        spec, _ = models.find(model)
        asked = demo.questions(spec)
        answers = [re.search(rf"^> {re.escape(one.question)}\n(.+)\n", said, re.MULTILINE) for one in asked]
        assert [found and found[1] for found in answers] == [one.answer for one in asked], said
        assert said.count("first text after") == len(asked)
        for step in ("preprocessing", "vision_encoder", "tensorrt_llm_bls"):
            assert len(re.findall(rf"^{step} +\d+ ", said, re.MULTILINE)) == len(asked), said
        command = next(line.strip() for line in said.splitlines() if line.strip().startswith("gen-repo ask"))
        again = subprocess.run(
            [sys.executable, "-m", "generator", *shlex.split(command)[1:]],
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert answers[0] is not None and again.stdout.strip() == answers[0].group(1)
        curl = said[said.index("  printf") : said.index("With Python")]
        raw = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout
        assert f'"text_output":"{answers[0].group(1)}"' in raw
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)
