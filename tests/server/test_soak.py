"""The soak in small: every kind of request is sent and judged right, and a wrong answer would be seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tritonclient.grpc import service_pb2

from benchmarks.soak import asks, drive, run


def test_a_short_soak(tmp_path: Path) -> None:
    assert run.main(["--models", "vila", "--requests", "150", "--clients", "4", "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "soak.json").read_text())
    vila = result["servers"]["vila"]
    assert set(vila["right"]) == set(run.SHARES) and sum(vila["right"].values()) == result["requests"] == 150
    assert vila["wrong"] == vila["unexpected"] == {} and not vila["ended"]
    steps = {"server", "preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls"}
    assert steps | {"/dev/shm"} <= set(vila["growth_per_10000"])


def answer(*texts: bytes) -> object:
    response = service_pb2.ModelInferResponse()
    response.outputs.add().name = "text_output"
    response.raw_output_contents.append(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    return response


def test_what_is_wrong_is_seen() -> None:
    ask = asks.Ask("a", "valid", None, True, ("right",))
    bad = replace(ask, kind="invalid", texts=(), refusal=("image",))
    pieces: dict[int, str] = {0: ""}
    drive.add(pieces, answer(b"rig"))
    drive.compare(ask, pieces, prefix=True)
    with pytest.raises(drive.Wrong):
        drive.compare(ask, pieces)
    drive.add(pieces, answer(b"ht"))
    drive.compare(ask, pieces)
    with pytest.raises(drive.Wrong, match="answered instead"):
        drive.compare(bad, pieces)
    drive.refusal(bad, "no image [error 01234567]", None)
    for message in ("no image", "no picture [error 01234567]", "image Traceback [error 01234567]"):
        with pytest.raises(drive.Wrong):
            drive.refusal(bad, message, None)
    with pytest.raises(RuntimeError, match="broken"):
        drive.refusal(ask, "broken [error 01234567]", None)
