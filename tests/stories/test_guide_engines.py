"""Engines built by the guide's own commands: tight limits, but legal ones. Each gives a repository, with a warning."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from generator.cli import main
from generator.models import find
from tests import engines


@dataclass(frozen=True)
class Guide:
    """Numbers of the guide's trtllm-build: `table` is --max_multimodal_len; `warned` are the findings to expect."""

    variant: str
    batch: int
    input_len: int
    seq_len: int
    table: int
    warned: tuple[str, ...] = ()
    build: dict[str, Any] = field(default_factory=dict)


GUIDE = [
    Guide("blip2-opt-2.7b", 8, 924, 1024, 256),
    Guide("fuyu-8b", 1, 2048, 2560, 2048, ("table-too-small", "input-too-short")),
    Guide("kosmos-2", 1, 512, 1024, 64),
    Guide("llava-1.5-7b-hf", 1, 2048, 2560, 576),
    Guide("llava-v1.6-mistral-7b-hf", 1, 4096, 5120, 4096, build={"max_num_tokens": 4096}),
    Guide("vila1.5-3b", 1, 2048, 2560, 4096),
    Guide("neva", 1, 2048, 2560, 729),
    Guide("Phi-3-vision-128k-instruct", 1, 4096, 4608, 4096),
    Guide("nemotron-3", 1, 4096, 4352, 3072),
]


@pytest.mark.parametrize("guide", GUIDE, ids=lambda guide: guide.variant)
def test_engines_of_the_guide_are_accepted(
    guide: Guide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec, variant = find(guide.variant)
    vision = engines.vision(tmp_path / "vision", model_type=spec.engine_model_types[0], precision=spec.vision_dtype)
    llm = engines.llm(
        tmp_path / "llm",
        version="0.13.0",
        vocab_size=variant.vocab_size,
        hidden_size=variant.hidden_size,
        dtype=spec.dtype,
        max_batch_size=guide.batch,
        max_input_len=guide.input_len,
        max_seq_len=guide.seq_len,
        table=guide.table,
        **guide.build,
    )
    arguments = ["--visual-engine-dir", str(vision), "--llm-engine-dir", str(llm), "--output", "repository", "--json"]
    assert main(["--model", guide.variant, *arguments]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert sorted(f["code"] for f in findings) == sorted((*guide.warned, "not-servable-yet")), findings
    limits = json.loads((tmp_path / "repository/preprocessing/1/settings.json").read_text())["limits"]
    assert limits["max_table_rows"] <= guide.table // guide.batch
    assert limits["max_input_len"] == min(guide.input_len, guide.seq_len - 1)


def test_a_small_table_is_a_limit_of_each_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fuyu's table of 2048 rows: what preprocessing must refuse beyond is in its settings."""
    monkeypatch.chdir(tmp_path)
    llm = engines.llm(tmp_path / "llm", vocab_size=262144, max_batch_size=1, table=2048)
    assert main(["--model", "fuyu", "--llm-engine-dir", str(llm), "--output", "repository"]) == 0
    limits = json.loads((tmp_path / "repository/preprocessing/1/settings.json").read_text())["limits"]
    assert limits["max_table_rows"] == 2048
