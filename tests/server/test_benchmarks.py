"""The benchmark of the preprocessing step runs, and both of its sides answer alike under a real Triton."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.preprocessing_step import run


def test_the_preprocessing_step_beside_the_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The benchmark itself compares pixels and ids bit for bit, and stops where they differ."""
    few = ["--concurrency", "1", "2", "--requests", "3", "--repetitions", "2", "--size", "96x64"]
    monkeypatch.setattr("sys.argv", ["run", "--output", str(tmp_path), *few])
    run.main()
    assert capsys.readouterr().out.splitlines()[-1].startswith("ratio: ")
    content = json.loads((tmp_path / "results.json").read_text())
    for row in content["result"]["by_concurrency"].values():
        assert set(row) == {run.OURS, run.USUAL} and all(side["requests_per_s"] > 0 for side in row.values())
    ratios = [
        row[run.OURS]["requests_per_s"] / row[run.USUAL]["requests_per_s"]
        for row in content["result"]["by_concurrency"].values()
    ]
    assert content["ratio"] == pytest.approx(min(ratios), abs=1e-3)
