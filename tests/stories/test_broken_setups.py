"""Each broken set-up gives exactly its finding, with both values and a remedy, and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from generator.cli import main
from tests import engines

Setup = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Story:
    """`setup` makes the folders and gives further arguments; `code` and `says` are what the one error must hold."""

    name: str
    setup: Setup
    code: str
    says: tuple[str, ...]
    exit_code: int = 1
    model: str = "llava"


def both(vision: Callable[[Path], Path], llm: Callable[[Path], Path]) -> Setup:
    def make(folder: Path) -> list[str]:
        return [
            "--visual-engine-dir",
            str(vision(folder / "vision")),
            "--llm-engine-dir",
            str(llm(folder / "llm")),
        ]

    return make


def only_llm(**changes: object) -> Setup:
    return lambda folder: ["--llm-engine-dir", str(engines.llm(folder / "llm", **changes))]  # type: ignore[arg-type]


def only_vision(**changes: object) -> Setup:
    return lambda folder: ["--visual-engine-dir", str(engines.vision(folder / "v", **changes))]  # type: ignore[arg-type]


def arguments(*values: str) -> Setup:
    return lambda folder: list(values)


def with_config(text: str, option: str = "--llm-engine-dir") -> Setup:
    def make(folder: Path) -> list[str]:
        (folder / "e").mkdir()
        (folder / "e" / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        return [option, str(folder / "e")]

    return make


def swapped(folder: Path) -> list[str]:
    return [
        "--visual-engine-dir",
        str(engines.llm(folder / "llm")),
        "--llm-engine-dir",
        str(engines.vision(folder / "vision")),
    ]


def missing_rank(folder: Path) -> list[str]:
    made = engines.llm(folder / "llm", tp=2)
    (made / "rank1.engine").unlink()
    return ["--llm-engine-dir", str(made)]


def no_engine_file(folder: Path) -> list[str]:
    made = engines.vision(folder / "v")
    (made / "model.engine").unlink()
    return ["--visual-engine-dir", str(made)]


def checkpoint(folder: Path, **config: object) -> Path:
    made = folder / "checkpoint"
    made.mkdir()
    text = {"vocab_size": 32064, "hidden_size": 4096, "max_position_embeddings": 4096}
    whole = {
        "model_type": "llava",
        "text_config": text,
        "vision_config": {"image_size": 336, "patch_size": 14},
    }
    (made / "config.json").write_text(json.dumps(whole | config))
    (made / "tokenizer.json").write_text("{}")
    return made


def other_model(folder: Path) -> list[str]:
    return ["--hf-model-dir", str(checkpoint(folder, model_type="llava_next"))]


STORIES = [
    Story("unknown model", arguments(), "unknown-model", ("'lava'", "--model llava"), 2, model="lava"),
    Story("refused variant", arguments(), "refused-variant", ("two scales", "vila1.5-3b"), model="vila1.5-3b-s2"),
    Story("unknown release", arguments("--release", "0.11"), "unknown-release", ("'0.11'", "0.12.0"), 2),
    Story("no such folder", arguments("--llm-engine-dir", "/no/where"), "no-such-directory", ("/no/where",)),
    Story(
        "no config.json",
        lambda f: ["--llm-engine-dir", str(f)],
        "config-missing",
        ("LLM engine", "config.json"),
    ),
    Story(
        "truncated config.json",
        with_config('{"pretrained_config": {'),
        "config-invalid",
        ("truncated", "line 1"),
    ),
    Story("config.json is a list", with_config("[1]"), "config-invalid", ("no JSON object",)),
    Story("config.json is not text", with_config("\udcff\udcfe{}"), "config-unreadable", ("UTF-8",)),
    Story("swapped engines", swapped, "not-a-vision-engine", ("LLM engine", "swap")),
    Story(
        "vision engine of another model",
        only_vision(model_type="vila"),
        "engine-model",
        ("'vila'", "'llava'"),
    ),
    Story("vision engine without file", no_engine_file, "engine-missing", ("model.engine",)),
    Story("vision dtype", only_vision(precision="int8"), "engine-dtype", ("'int8'", "float16")),
    Story("missing rank file", missing_rank, "engine-missing", ("rank1.engine", "tp 2")),
    Story("no prompt table", only_llm(table=0), "no-prompt-table", ("max_prompt_embedding_table_size is 0",)),
    Story(
        "table too small",
        only_llm(table=575 * 8),
        "table-too-small",
        ("4600 / max_batch_size 8 gives 575", "576"),
    ),
    Story(
        "unpaged",
        only_llm(plugins={"paged_kv_cache": False}),
        "no-paged-kv-cache",
        ("--paged_kv_cache enable",),
    ),
    Story("dtype", only_llm(dtype="int8"), "engine-dtype", ("'int8'", "bfloat16")),
    Story("old engine", only_llm(version="0.9.0"), "engine-release", ("0.9.0", "0.12.0")),
    Story(
        "engine of another release",
        lambda f: [*only_llm(version="0.16.0")(f), "--release", "0.19.0"],
        "engine-release",
        ("0.16.0", "0.19.0"),
    ),
    Story(
        "batch beyond the engine's",
        lambda f: [*only_llm()(f), "--max-batch-size", "16"],
        "engine-batch",
        ("batches of 8", "16"),
    ),
    Story("input too short", only_llm(max_input_len=500), "input-too-short", ("500", "576")),
    Story("too many images", arguments("--max-images", "2"), "max-images", ("1 image", "2 asked")),
    Story(
        "images beyond the table",
        lambda f: [
            *only_llm(vocab_size=32000, hidden_size=2560, table=8 * 196)(f),
            "--max-images",
            "2",
        ],
        "table-too-small",
        ("1 image(s) of 196 rows, not 2", "--max-images 1"),
        model="vila",
    ),
    Story(
        "hidden sizes of the engines differ",
        both(
            lambda f: engines.vision(f, output_shape=[-1, 576, 5120]),
            lambda f: engines.llm(f, hidden_size=4096),
        ),
        "engine-hidden-size",
        ("5120", "4096"),
    ),
    Story("checkpoint of another model", other_model, "wrong-checkpoint", ("'llava_next'", "'llava'")),
    Story(
        "reuse without paged context",
        lambda f: [*only_llm()(f), "--kv-cache-reuse"],
        "kv-cache-reuse",
        ("--use_paged_context_fmha enable",),
    ),
    Story(
        "reuse before 0.13",
        arguments("--release", "0.12.0", "--kv-cache-reuse"),
        "kv-cache-reuse",
        ("0.12.0", "0.13.0"),
    ),
    Story("unknown parameter", arguments("--set", "tensorrt_llm.kv_cache=1"), "unknown-set", ("'kv_cache'",)),
    Story(
        "bad parameter value",
        arguments("--set", "tensorrt_llm.kv_cache_free_gpu_mem_fraction=1.5"),
        "bad-set",
        ("at most 1", "'1.5'"),
    ),
    Story("no torch", arguments("--runtime", "torch"), "no-torch", ("InternViT",), model="vila1.5-40b"),
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_broken_setup(story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "repository"
    code = main(["--model", story.model, "--output", str(output), "--json", *story.setup(tmp_path)])
    findings = json.loads(capsys.readouterr().out)["findings"]
    errors = [finding for finding in findings if finding["level"] == "error"]
    assert story.code in [finding["code"] for finding in errors], findings
    first = next(finding for finding in errors if finding["code"] == story.code)
    text = " ".join(first.values())
    for phrase in story.says:
        assert phrase in text, text
    assert first["remedy"]
    assert code == story.exit_code
    assert not output.exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_errors_of_both_engines_are_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "l").mkdir()
    arguments = ["--visual-engine-dir", str(tmp_path / "v"), "--llm-engine-dir", str(tmp_path / "l")]
    assert main(["--model", "llava", "--output", str(tmp_path / "o"), *arguments]) == 1
    text = capsys.readouterr().err
    assert text == (
        f"error[config-missing]: config.json of the vision engine is missing\n"
        f"  where:  {tmp_path}/v/config.json\n"
        f"  remedy: --visual-engine-dir: build it with build_engines.sh, or point the option at the folder that holds "
        f"config.json and the engine\n"
        f"error[config-missing]: config.json of the LLM engine is missing\n"
        f"  where:  {tmp_path}/l/config.json\n"
        f"  remedy: --llm-engine-dir: build it with build_engines.sh, or point the option at the folder that holds "
        f"config.json and the engine\n"
    )


def test_engines_that_fit_are_accepted_with_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = both(
        lambda f: engines.vision(f, model_type="vila"),
        lambda f: engines.llm(f, table=8 * 196 * 3, max_input_len=1500, **engines.VILA_LLM),  # type: ignore[arg-type]
    )
    output = tmp_path / "repository"
    assert main(["--model", "vila", "--output", str(output), *make(tmp_path)]) == 0
    settings = json.loads((output / "preprocessing/1/settings.json").read_text())
    assert settings["limits"]["max_images"] == 3
    assert settings["limits"]["max_table_rows"] == 588
    assert settings["limits"]["max_input_len"] == 1500
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["release"] == "0.16.0"
    assert "requests are limited to 3" in capsys.readouterr().err
