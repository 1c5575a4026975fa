"""What the benchmarks share: goals, turns, results on disk, and the table that is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import common, table
from benchmarks.common import Bars, Goal


def test_goals_are_reached_from_the_right_side() -> None:
    assert Goal("faster", 4.0, 4.0).reached and not Goal("faster", 4.0, 3.9).reached
    assert Goal("slower", 3.0, 3.0, most=True).reached and not Goal("slower", 3.0, 3.1, most=True).reached


def test_the_sides_take_turns() -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) or len(order) for name in ("a", "b")}
    assert common.interleaved(sides, 3) == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert order == ["a", "b"] * 3


def test_results_are_written_and_the_table_is_made_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    goals = [Goal("faster", 4.0, 2.5, "x"), Goal("overhead", 3.0, 1.25, "ms", most=True)]
    facts = {**common.machine(), "date": "2026-11-23", "processor": "Some CPU", "cores": 2}
    plot = Bars("title", "ms", ["one", "two"], {"ours": [1.0, 2.0], "theirs": [3.0, 4.0]})
    common.finish(tmp_path / "topic", facts, {"runs": [1, 2]}, goals, 2.5, plot)
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "ratio: 2.50" and said[-3].endswith("MISSED") and said[-2].endswith("reached")
    content = json.loads((tmp_path / "topic/results.json").read_text())
    assert content["ratio"] == 2.5 and content["result"] == {"runs": [1, 2]}
    assert [goal["reached"] for goal in content["goals"]] == [False, True]
    monkeypatch.setattr(table, "ROOT", tmp_path)
    rows = table.table().splitlines()
    assert rows[2].endswith("| faster ≥ 4 x | 2.5 x | **no** | Some CPU, 2 cores, 2026-11-23 |")
    assert rows[3].endswith("| overhead ≤ 3 ms | 1.25 ms | yes | Some CPU, 2 cores, 2026-11-23 |")
    page = tmp_path / "page.md"
    page.write_text("# Goals\n<!-- goals -->\nold\n<!-- /goals -->\nend\n")
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["table", "--write"])
    table.main()
    assert page.read_text() == f"# Goals\n<!-- goals -->\n{table.table()}\n<!-- /goals -->\nend\n"


def test_machine_facts_are_known_here() -> None:
    facts = common.machine()
    assert facts["cores"] >= 1 and facts["memory_gib"] > 0 and facts["processor"]
