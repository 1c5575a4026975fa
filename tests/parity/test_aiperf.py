"""AIPerf, NVIDIA's benchmark of OpenAI endpoints, before the gateway.

It wants a great many packages, so it is not installed for the tests: AIPERF=/path/to/aiperf, of an environment of its
own (`pip install aiperf==0.13.0`), runs this one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.parity.conftest import Served

REQUESTS = 12


@pytest.mark.skipif("AIPERF" not in os.environ, reason="opt-in: AIPERF=/path/to/aiperf")
@pytest.mark.parametrize("streaming", ["vila"], indirect=True)
def test_aiperf_completes_streamed_multimodal_requests(streaming: Served, streamed_url: str, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(streaming.folder / "preprocessing/1/tokenizer.json", tokenizer)
    (tokenizer / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}'
    )
    command = [
        os.environ["AIPERF"],
        "profile",
        "--model",
        "vila1.5-3b",
        "--url",
        streamed_url,
        "--endpoint-type",
        "chat",
    ]
    command += ["--streaming", "--image-width-mean", "320", "--image-height-mean", "240", "--image-format", "jpeg"]
    command += ["--isl", "16", "--osl", "12", "--request-count", str(REQUESTS), "--concurrency", "4"]
    command += ["--use-server-token-count", "--tokenizer", str(tokenizer), "--ui", "simple"]
    command += ["--artifact-dir", str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-3000:]
    result = json.loads((tmp_path / "out/profile_export_aiperf.json").read_text())
    assert result["request_count"]["avg"] == REQUESTS and not result["error_summary"]
    assert result["output_sequence_length"]["max"] <= 12
    # A picture is worth 196 of the prompt's tokens.
    assert result["input_sequence_length"]["min"] > 196
    assert 0 < result["time_to_first_token"]["avg"] < result["request_latency"]["avg"]
