"""Threads of preprocessing: as many as there are cores, results in order, the first error."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import workers
from workers import Workers, cores


def test_results_come_in_order_and_side_by_side() -> None:
    together = threading.Barrier(3, timeout=10)  # passed only if three run at once

    def work(item: int) -> int:
        together.wait()
        return item * 10

    assert Workers(3).each(work, range(3)) == [0, 10, 20]
    assert Workers(1).each(lambda item: item + 1, range(3)) == [1, 2, 3]


def test_the_first_error_counts() -> None:
    def work(item: int) -> int:
        if item:
            raise ValueError(f"item {item}")
        return item

    with pytest.raises(ValueError, match="item 1"):
        Workers(4).each(work, range(4))


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000", 6), ("150000 100000", 2), ("50000 100000", 1), ("odd", 6), (None, 6)]
)
def test_cores_of_a_container(text: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    file = tmp_path / "cpu.max"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(workers, "CGROUP_V2", file)
    monkeypatch.setattr(workers, "CGROUP_V1", (tmp_path / "quota", tmp_path / "period"))
    assert cores() == expected


def test_cores_of_an_old_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    quota, period = tmp_path / "quota", tmp_path / "period"
    quota.write_text("300000\n")
    period.write_text("100000\n")
    monkeypatch.setattr(workers, "CGROUP_V2", tmp_path / "absent")
    monkeypatch.setattr(workers, "CGROUP_V1", (quota, period))
    assert cores() == 3
    quota.write_text("-1\n")
    assert cores() == workers.MOST
