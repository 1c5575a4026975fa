"""Whether a step that is gone has ended by itself, or with its server: only processes' ends tell."""

from __future__ import annotations

import subprocess

import pytest

from generator import supervise
from generator.processes import GONE, Step


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


def test_steps_that_left_before_the_server_was_seen_to_end() -> None:
    """Of a killed server the steps may be gone while the kernel still clears its memory away."""
    with subprocess.Popen(["sleep", "0.5"]) as server:
        assert supervise._is_ending(server, [Step(1, "whole", GONE), Step(2, "pieces", GONE)])


def test_a_step_that_ended_under_a_living_server(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "GOING_SECONDS", 0.1)
    try:
        assert not supervise._is_ending(sleeper, [Step(1, "whole", "SIGKILL")])
        assert not supervise._is_ending(sleeper, [Step(1, "whole", GONE)])
    finally:
        sleeper.kill()
        sleeper.wait()
