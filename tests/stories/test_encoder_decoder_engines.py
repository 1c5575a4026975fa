"""Engines of encoder-decoders: the guide's own builds are taken, and parts that do not fit are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from generator import crosscheck, limits
from generator.cli import main
from generator.facts import engines as facts
from generator.facts.gather import Facts, Places
from generator.models import specs
from generator.models.blip2_t5 import SPEC
from generator.options import Options
from generator.routes import FEATURES, ROUTES
from tests import engines

T5 = {"vocab_size": 32128, "hidden_size": 2048, "dtype": "bfloat16"}


def generated(folder: Path, capsys: pytest.CaptureFixture[str], engine: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Exit code and what `--json` prints."""
    vision = engines.vision(folder / "vision", model_type="blip2-t5", output_shape=[-1, 32, 2048])
    given = ["--visual-engine-dir", str(vision), "--llm-engine-dir", str(engine)]
    code = main(["--model", "blip2-t5", "--output", str(folder / "repo"), "--json", *given, *more])
    return code, json.loads(capsys.readouterr().out)


def test_the_guides_own_build_of_blip2_t5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = generated(tmp_path, capsys, engines.encoder_decoder(tmp_path / "llm", version="0.13.0", **T5))
    assert code == 0 and {finding["code"] for finding in said["findings"]} == {"not-servable-yet"}
    step = json.loads((tmp_path / "repo/tensorrt_llm/1/settings.json").read_text())
    assert step["engine"] == str(tmp_path / "llm")
    assert (step["max_seq_len"], step["max_input_len"], step["max_table_rows"]) == (1024, 924, 32)
    assert (step["vocab_size"], step["hidden_size"], step["dtype"], step["max_batch"]) == (32128, 2048, "bfloat16", 8)
    before = json.loads((tmp_path / "repo/preprocessing/1/settings.json").read_text())["limits"]
    assert (before["max_input_len"], before["max_output_len"], before["max_table_rows"]) == (924, 1023, 32)
    assert main(["check", str(tmp_path / "repo")]) == 0


def test_the_folder_above_both_engines(tmp_path: Path) -> None:
    engines.encoder_decoder(tmp_path / "llm", **T5)
    engines.vision(tmp_path / "vision")
    assert facts.llm_engine(tmp_path) == facts.llm_engine(tmp_path / "llm")
    assert facts.vision_engine(tmp_path).folder == tmp_path / "vision"


def only(part: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        made = engines.encoder_decoder(folder, **T5)
        for path in (made / part).iterdir():
            path.unlink()
        (made / part).rmdir()
        return made

    return make


def pair(**encoder: Any) -> Callable[[Path], Path]:
    return lambda folder: engines.encoder_decoder(folder, **T5, encoder=encoder)


STORIES: dict[str, tuple[Callable[[Path], Path], str, tuple[str, ...]]] = {
    "no encoder": (only("encoder"), "engine-parts", ("no encoder/", "build_engines.sh")),
    "no decoder": (only("decoder"), "config-missing", ("config.json",)),
    "the decoder's own folder": (
        lambda folder: engines.encoder_decoder(folder, **T5) / "decoder",
        "engine-parts",
        ("decoder alone", "give the folder above it"),
    ),
    "a decoder-only engine": (
        lambda folder: engines.llm(folder, **T5),
        "engine-parts",
        ("LlamaForCausalLM", "holds decoder/"),
    ),
    "two dtypes": (pair(dtype="float16"), "engine-pair", ("float16", "bfloat16", "one converted checkpoint")),
    "two vocabularies": (pair(vocab_size=32100), "engine-pair", ("32100", "32128")),
    "two releases": (pair(version="0.15.0"), "engine-pair", ("0.15.0", "0.16.0")),
    "two splits": (pair(tp=2), "engine-pair", ("is 2", "engine 1")),
    "padding": (pair(plugins={"remove_input_padding": False}), "engine-padding", ("--remove_input_padding enable",)),
    "table": (pair(table=255), "table-too-small", ("255", "gives 31 prompt table rows", "--max_multimodal_len 256")),
    "no table": (pair(table=0), "no-prompt-table", ("max_prompt_embedding_table_size is 0",)),
    "short encoder": (
        pair(max_input_len=31),
        "input-too-short",
        ("31", "32", "--max_input_len", "--max_encoder_input"),
    ),
    "short attention": (
        lambda folder: engines.encoder_decoder(folder, **T5, max_encoder_input_len=31),
        "input-too-short",
        ("31", "32", "--max_encoder_input_len"),
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_parts_that_do_not_fit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, wanted, says = STORIES[name]
    code, said = generated(tmp_path, capsys, make(tmp_path / "llm"))
    assert code == 1 and not (tmp_path / "repo").exists()
    errors = [finding for finding in said["findings"] if finding["level"] == "error"]
    [found] = [finding for finding in errors if finding["code"] == wanted]
    text = " ".join(str(value) for value in found.values())
    assert all(word in text for word in says), text


def test_an_attending_decoder_is_no_engine_of_a_decoder_only_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = engines.attending(tmp_path / "llm")
    assert main(["--model", "llava", "--output", str(tmp_path / "r"), "--json", "--llm-engine-dir", str(engine)]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert "engine-parts" in {finding["code"] for finding in found if finding["level"] == "error"}


def test_streaming_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = generated(tmp_path, capsys, engines.encoder_decoder(tmp_path / "llm", **T5), "--streaming")
    assert code == 1
    assert [f["code"] for f in said["findings"] if f["level"] == "error"] == ["no-streaming"]


ATTENDS = replace(SPEC, carries=FEATURES, title="A model of features")


def decided(engine: Path, *, route: str = "python_enc_dec", rows: int = 2048, **options: Any) -> tuple[Any, set[str]]:
    """Limits and the codes of all findings about an engine that attends to `rows` rows of an image."""
    read = facts.llm_engine(engine)
    nowhere = Path("/nonexistent")
    known = Facts(Places(nowhere, nowhere, nowhere, nowhere), None, None, None, read)
    asked = Options(model="x", **options)
    made, findings = limits.decide(asked, ATTENDS, ATTENDS.variants[0], known, rows, {})
    findings += crosscheck.check(asked, ATTENDS, ATTENDS.variants[0], known, "0.16.0", rows, ROUTES[route])
    return made, {finding.code for finding in findings}


@pytest.mark.parametrize(
    ("seq_len", "rows", "batch", "codes"),
    [(2558, 2048, 8, set()), (101, 588, 1, {"answer-too-short"})],  # Deplot's and Nougat's builds in the guide
)
def test_the_guides_builds_of_decoders_that_attend_to_an_image(
    seq_len: int, rows: int, batch: int, codes: set[str], tmp_path: Path
) -> None:
    engine = engines.attending(tmp_path, max_seq_len=seq_len, max_encoder_input_len=rows, max_batch_size=batch)
    made, found = decided(engine, rows=rows)
    assert found == codes
    assert (made.max_input_len, made.max_seq_len, made.max_output_len) == (1, seq_len, seq_len - 1)
    assert (made.max_table_rows, made.max_batch_size) == (rows, batch)


def test_what_such_a_decoder_cannot_hold(tmp_path: Path) -> None:
    engine = engines.attending(tmp_path, max_encoder_input_len=588)
    assert decided(engine, rows=589)[1] == {"encoder-input-too-short"}
    assert decided(engine, rows=588, max_batch_size=9)[1] == {"engine-batch"}
    assert decided(engine, rows=588, max_tokens=1024)[1] == {"answer-too-short"}


def test_in_flight_batching_needs_a_paged_kv_cache(tmp_path: Path) -> None:
    plain = engines.attending(tmp_path / "plain", max_encoder_input_len=2048)
    paged = engines.attending(tmp_path / "paged", max_encoder_input_len=2048, paged=True)
    assert decided(plain, route="encoder_features")[1] == {"no-paged-kv-cache"}
    assert decided(paged, route="encoder_features")[1] == set()
    assert decided(paged)[1] == set()


def test_every_engine_config_states_an_encoder_length(tmp_path: Path) -> None:
    """So the architecture says whether a decoder attends to anything."""
    assert facts.llm_engine(engines.llm(tmp_path / "a")).max_encoder_input_len is None
    assert facts.llm_engine(engines.attending(tmp_path / "b")).max_encoder_input_len == 924


def test_a_short_decoder_holds_less_than_the_default_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = generated(tmp_path, capsys, engines.encoder_decoder(tmp_path / "llm", **T5, max_seq_len=101))
    assert code == 0
    [found] = [finding for finding in said["findings"] if finding["code"] == "answer-too-short"]
    assert "100 tokens of an answer, the default is 128" in found["what"] and "--max-tokens 100" in found["remedy"]


def checkpoint(folder: Path, **text: Any) -> list[str]:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "blip-2", "text_config": text}))
    return ["--hf-model-dir", str(folder)]


def test_what_a_checkpoints_config_leaves_out_is_t5s_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = engines.encoder_decoder(tmp_path / "llm", **T5)
    given = checkpoint(tmp_path / "hf", model_type="t5", d_model=2048)
    _, said = generated(tmp_path, capsys, engine, *given)
    assert not {f["code"] for f in said["findings"]} & {"engine-vocabulary", "engine-hidden-size", "other-variant"}


@pytest.mark.parametrize(("model", "kind", "wanted"), [("blip2-t5", "opt", "'t5'"), ("blip2-opt", "t5", "'opt'")])
def test_the_two_blip2_models_are_told_apart_by_their_language_model(
    model: str, kind: str, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = checkpoint(tmp_path / "hf", model_type=kind)
    assert main(["--model", model, "--output", str(tmp_path / "r"), "--json", *given]) == 1
    [found] = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["code"] == "wrong-checkpoint"]
    assert f"language model is '{kind}'" in found["what"] and wanted in found["what"]


def test_without_engines_the_numbers_are_the_specs() -> None:
    nowhere = Path("/nonexistent")
    known = Facts(Places(nowhere, nowhere, nowhere, nowhere), None, None, None, None)
    options, spec = Options(model="blip2-t5"), specs()["blip2-t5"]
    made, _ = limits.decide(options, spec, spec.variants[0], known, 32, {})
    assert (made.max_input_len, made.max_seq_len, made.max_output_len, made.max_table_rows) == (1024, 513, 512, 32)
    made, _ = limits.decide(options, ATTENDS, ATTENDS.variants[0], known, 588, {})
    assert (made.max_input_len, made.max_seq_len, made.max_output_len, made.max_table_rows) == (1, 1024, 1023, 588)
