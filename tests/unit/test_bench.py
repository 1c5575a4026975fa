"""`gen-repo bench` without a server: the sweep, perf_analyzer's input, what its export says, and warnings."""

from __future__ import annotations

import base64
import json
import struct
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from generator.ask import StepTime
from generator.bench import analyzer, command, inputs, report
from generator.bench.points import Point, Requests, sweep
from generator.cli import main
from generator.server import ServerError

REQUESTS = Requests((64, 48), 2, 5, 4)


def export(folder: Path, *rows: dict[str, Any]) -> Path:
    """A profile export; times in ms. It holds a byte that is not UTF-8, as perf_analyzer's do."""
    requests = [
        {
            "timestamp": int(row["sent"] * 1e6),
            "request_inputs": {"image_encoded_input": "@"},
            "response_timestamps": [int(at * 1e6) for at in row["at"]],
            "response_outputs": [{"output_tokens": count} for count in row.get("tokens", [])],
        }
        for row in rows
    ]
    file = folder / "profile.json"
    file.write_bytes(json.dumps({"experiments": [{"requests": requests}]}).encode().replace(b"@", b"\xff\xd8\n"))
    return file


def measured(*answered: analyzer.Answered, **changes: Any) -> report.Measured:
    values = {"command": ("perf_analyzer",), "answered": answered, "cpu_s": 0.01, "overhead": 0.0}
    point = Point(REQUESTS, 1)
    known = {"point": point, "steps": {}, "decoupled": frozenset(), "server_cpu_s": 0.5, "cores": 2}
    run = analyzer.Run(**{**values, **{name: changes.pop(name) for name in list(changes) if name in values}})
    return report.Measured(run=run, **{**known, **changes})


def answered(sent: float, *at: float, tokens: tuple[int, ...] | None = (4,)) -> analyzer.Answered:
    return analyzer.Answered(sent, at, tokens)


def test_the_sweep_has_every_combination_once() -> None:
    points = sweep([(64, 48), (32, 32)], [0, 1], [5], [4, 8], [1, 2])
    assert len(points) == len(set(points)) == (1 + 2) * 2 * 2  # without images there is one size: none
    assert [point.concurrency for point in points[:4]] == [1, 2, 1, 2]
    assert all((point.requests.size is None) == (point.requests.images == 0) for point in points)


def test_made_pictures_have_the_size_differ_and_come_again() -> None:
    pictures = inputs.Pictures()
    one = pictures.jpeg(0, (64, 48))
    assert Image.open(BytesIO(one)).size == (64, 48) and Image.open(BytesIO(one)).format == "JPEG"
    assert one == inputs.Pictures().jpeg(0, (64, 48)) != pictures.jpeg(1, (64, 48))
    large = pictures.jpeg(0, (640, 480))
    assert 1 < 8 * len(large) / (640 * 480) < 2.5  # bits per pixel, as photographs of this quality have


def test_given_pictures_are_scaled(tmp_path: Path) -> None:
    Image.new("RGB", (10, 20), (200, 0, 0)).save(tmp_path / "red.png")
    scaled = Image.open(BytesIO(inputs.Pictures([tmp_path / "red.png"]).jpeg(7, (32, 16))))
    assert scaled.size == (32, 16) and scaled.getpixel((5, 5))[0] > 190
    with pytest.raises(ServerError, match=r"none\.jpg"):
        inputs.Pictures([tmp_path / "none.jpg"])


def test_a_request_is_written_as_perf_analyzer_reads_it(tmp_path: Path) -> None:
    pictures = inputs.Pictures()
    request = inputs.values(REQUESTS, 3, pictures, [], stream=True)
    inputs.write(tmp_path / "in.json", [request])
    (row,) = json.loads((tmp_path / "in.json").read_text())["data"]
    assert row["text_input"]["shape"] == [1] and len(row["text_input"]["content"][0].split()) == 5
    assert [row[name]["content"] for name in ("max_tokens", "min_tokens", "stream")] == [[4], [4], [True]]
    wire = base64.b64decode(row["image_encoded_input"]["b64"])
    found = []
    while wire:
        (length,) = struct.unpack_from("<I", wire)
        found.append(wire[4 : 4 + length])
        wire = wire[4 + length :]
    assert found == request["image_encoded_input"] == [pictures.jpeg(6, (64, 48)), pictures.jpeg(7, (64, 48))]
    assert row["image_encoded_input"]["shape"] == [2]


def test_a_model_without_prompt_gets_no_text_and_a_video_no_images() -> None:
    request = inputs.values(Requests(None, 1, 0, 4), 1, inputs.Pictures(), [b"a", b"b"], stream=False)
    assert set(request) == {"max_tokens", "min_tokens", "video_encoded_input"}
    assert request["video_encoded_input"] == [b"b"]


def test_export_of_whole_answers(tmp_path: Path) -> None:
    rows = [{"sent": 10.0, "at": [30.0], "tokens": [4]}, {"sent": 15.0, "at": [60.0], "tokens": [4]}]
    read = analyzer.read(export(tmp_path, *rows), decoupled=False)
    assert [one.latency for one in read] == [20.0, 45.0]
    assert [one.first_token for one in read] == [20.0, 45.0] and read[0].between_tokens is None
    found = measured(*read)
    assert found.run.seconds == pytest.approx(0.05) and found.run.throughput == pytest.approx(40)
    assert found.tokens() == 4


def test_export_of_streams_leaves_out_what_ends_them_and_what_was_not_sent(tmp_path: Path) -> None:
    """The last response is empty; of outputs that a response lacks there is rubbish."""
    row = {"sent": 0.0, "at": [10.0, 12.0, 16.0, 16.5, 17.0], "tokens": [1, 1, 2, -1879048048, 461344416]}
    (read,) = analyzer.read(export(tmp_path, row), decoupled=True)
    assert read.tokens == (1, 1, 2, 0) and read.latency == 16.5
    assert read.first_token == 10.0 and read.between_tokens == pytest.approx(6.0 / 3)


def test_a_whole_answer_of_a_decoupled_model_may_be_its_only_response(tmp_path: Path) -> None:
    (read,) = analyzer.read(export(tmp_path, {"sent": 0.0, "at": [9.0], "tokens": [4]}), decoupled=True)
    assert read.latency == 9.0 and read.tokens == (4,)


def test_an_export_without_token_counts_counts_responses(tmp_path: Path) -> None:
    (read,) = analyzer.read(export(tmp_path, {"sent": 0.0, "at": [10.0, 12.0, 14.0, 15.0]}), decoupled=True)
    assert read.tokens is None and read.between_tokens == 2.0 and measured(read).tokens() is None


@pytest.mark.parametrize("rows", [[], [{"sent": 0.0, "at": []}]])
def test_an_export_without_answers_is_an_error(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ServerError, match="answer"):
        analyzer.read(export(tmp_path, *rows), decoupled=False)


def test_percentiles_are_values_that_were_measured() -> None:
    assert report.percentiles(range(1, 101)) == {"p50": 50, "p90": 90, "p99": 99}
    assert report.percentiles([3.0, 1.0]) == {"p50": 1.0, "p90": 3.0, "p99": 3.0}
    assert report.percentiles([]) == {}


def test_profile_takes_a_decoupled_llm_from_the_total() -> None:
    steps = {
        "p": StepTime("p", 2, 1.0, 9.0),
        "v": StepTime("v", 2, 2.0, 40.0),
        "llm": StepTime("llm", 2, 0.0, 1.0),
    }
    both = [answered(0.0, 100.0), answered(0.0, 120.0)]
    assert measured(*both, steps=steps).profile("v", "llm") == {"vision_ms": 20.0, "llm_ms": 0.5, "total_ms": 110.0}
    streamed = measured(*both, steps=steps, decoupled=frozenset({"llm"})).profile("v", "llm")
    assert streamed == {"vision_ms": 20.0, "llm_ms": 110.0 - (1.0 + 9.0 + 2.0 + 40.0) / 2, "total_ms": 110.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"cpu_s": 1.9}, "1.9 of 2 cores"),
        ({"cpu_s": 0.6, "server_cpu_s": 1.3}, "the server beside it has 1.3"),
        ({"cpu_s": 0.1, "server_cpu_s": 1.8}, ""),  # a busy machine, but of the server's own work
        ({"cpu_s": 0.6, "server_cpu_s": None}, ""),  # the server runs elsewhere
        ({"overhead": 35.0}, "35 %"),
    ],
)
def test_a_client_that_is_the_bottleneck_is_told(changes: dict[str, Any], said: str) -> None:
    found = report.warnings(measured(answered(0.0, 1000.0), **changes))
    assert [finding.code for finding in found] == ["client-bottleneck"] * bool(said)
    assert not said or said in found[0].what


def test_answers_of_another_length_are_told() -> None:
    (found,) = report.warnings(measured(answered(0.0, 1000.0, tokens=(2,))))
    assert found.code == "answer-length" and "2.0" in found.what and "4 were" in found.what


def test_tables_and_plot_show_what_was_measured(tmp_path: Path) -> None:
    steps = {"preprocessing": StepTime("preprocessing", 2, 1.0, 9.0)}
    made = measured(answered(0.0, 100.0), answered(100.0, 300.0), steps=steps)
    row = json.loads(json.dumps(report.as_dict(made, "vision_encoder", "tensorrt_llm")))
    text = report.table([row])
    assert "64x48" in text and "6.67" in text and "0.5+4.5" in text and "next p50" not in text
    if report.plot([row], tmp_path / "plot.svg", "title"):
        assert b"<svg" in (tmp_path / "plot.svg").read_bytes()


def test_without_perf_analyzer_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(ServerError, match="perf-analyzer") as raised:
        analyzer.find()
    assert "glibc 2.38" in raised.value.remedy
    program = tmp_path / "perf_analyzer"
    program.write_text("#!/bin/sh\necho 'version GLIBC_2.38 not found' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(ServerError, match=r"does not start: version GLIBC_2\.38 not found"):
        analyzer.find()
    program.write_text("#!/bin/sh\necho Perf Analyzer Version\n")
    assert analyzer.find() == str(program)


def test_a_failed_run_is_told_in_its_own_words(tmp_path: Path) -> None:
    program = tmp_path / "perf_analyzer"
    program.write_text("#!/bin/sh\necho 'Failed to init manager inputs' >&2\nexit 99\n")
    program.chmod(0o755)
    with pytest.raises(ServerError, match="code 99 and no figures: Failed to init manager inputs"):
        analyzer.run([str(program), "-m", "ensemble"], 10)


def test_the_command_line_refuses_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for wrong in (["--concurrency", "0"], ["--image-size", "640"], ["--images", "1,x"], ["--output-tokens", ""]):
        with pytest.raises(SystemExit) as stopped:
            main(["bench", "repository", *wrong])
        assert stopped.value.code == 2
    assert main(["--model", "llava", "--output", "llava"]) == 0
    refused = {
        ("llava", "--output", "llava/perf"): "inside the repository",
        ("llava", "--stream"): "--streaming",
    }
    for words, said in refused.items():
        capsys.readouterr()
        assert main(["bench", *words]) == 3
        assert said in capsys.readouterr().err
    assert not (tmp_path / "llava/perf").exists() and command.RESULTS not in {p.name for p in tmp_path.iterdir()}
