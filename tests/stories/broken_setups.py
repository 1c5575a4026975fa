"""Broken set-ups: folders and arguments, the errors that they must give, and what the console says.

python -m tests.stories.broken_setups --write      writes what the console says again (make goldens)
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from generator.cli import main as gen_repo
from tests import engines

CONSOLE = Path(__file__).with_name("broken_setups.txt")

Setup = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Story:
    """`setup` makes the folders and gives further arguments; `code` is of the one error, or all codes of several.

    `says` must stand in the first: both values, or the name of what is missing.
    """

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


FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
TEXT = {"vocab_size": 32064, "hidden_size": 4096, "max_position_embeddings": 4096}


def checkpoint(folder: Path, **config: object) -> Path:
    made = folder / "checkpoint"
    made.mkdir()
    whole = {
        "model_type": "llava",
        "text_config": TEXT,
        "vision_config": {"image_size": 336, "patch_size": 14},
    }
    (made / "config.json").write_text(json.dumps(whole | config))
    words = {"<image>": 0, "</s>": 1, "<unk>": 2}
    added = [{"id": i, "content": word, "special": True} | FLAGS for word, i in words.items()]
    model = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
    (made / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": added, "model": model}))
    (made / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "</s>"}))
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
    Story("swapped engines", swapped, "not-a-vision-engine not-an-llm-engine", ("LLM engine", "swap")),
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
    Story(
        "reuse on a route that does not tell images apart",
        arguments("--kv-cache-reuse"),
        "kv-cache-reuse",
        ("prompt_table", "python_executor"),
        model="cogvlm",
    ),
    Story(
        "cache ids of clients without reuse",
        arguments("--client-cache-ids"),
        "client-cache-ids",
        ("--kv-cache-reuse",),
    ),
    Story(
        "a cache of rows that holds none",
        arguments("--vision-cache", "4"),
        "vision-cache",
        ("4.0 MiB", "4718592 bytes", "--vision-cache 5"),
    ),
    Story("unknown parameter", arguments("--set", "tensorrt_llm.kv_cache=1"), "unknown-set", ("'kv_cache'",)),
    Story(
        "bad parameter value",
        arguments("--set", "tensorrt_llm.kv_cache_free_gpu_mem_fraction=1.5"),
        "bad-set",
        ("at most 1", "'1.5'"),
    ),
    Story("no torch", arguments("--runtime", "torch"), "no-torch", ("InternViT",), model="vila1.5-40b"),
    Story(
        "month between releases",
        arguments("--release", "25.11"),
        "unknown-release",
        ("1.0.3.2510", "25.10", "25.12"),
        2,
    ),
    Story("month of the future", arguments("--release", "27.01"), "unknown-release", ("27.01", "26.07 with 1.2.1"), 2),
    Story(
        "engine of the wrong container",
        lambda f: [*only_llm(version="0.20.0")(f), "--release", "25.12"],
        "engine-release",
        ("0.20.0", "1.1.0"),
    ),
    Story(
        "wrong tensor parallelism",
        lambda f: [*only_llm(tp=2)(f), "--tp", "4"],
        "engine-mapping",
        ("tp 2", "--tp asks for 4"),
    ),
    Story(
        "wrong pipeline parallelism",
        lambda f: [*only_llm(tp=2)(f), "--tp", "2", "--pp", "2"],
        "engine-mapping",
        ("pp 1", "--pp asks for 2"),
    ),
    Story(
        "heads do not divide",
        lambda f: [
            *("--hf-model-dir", str(checkpoint(f, text_config={**TEXT, "num_attention_heads": 32}))),
            *("--tokenizer", "checkpoint", "--tp", "3"),
        ],
        "tensor-parallel",
        ("--tp 3", "32 attention heads"),
    ),
    Story(
        "no pipeline", arguments("--pp", "2"), "pipeline-parallel", ("refuses pipeline", "--tp 2"), model="phi-3-vision"
    ),
    Story(
        "quantization of another engine",
        lambda f: [*only_llm(quantization="W4A16_AWQ")(f), "--quantization", "fp8"],
        "engine-quantization",
        ("W4A16_AWQ", "fp8"),
    ),
    Story(
        "engine not quantized",
        lambda f: [*only_llm()(f), "--quantization", "int8_wo"],
        "engine-quantization",
        ("not quantized", "int8_wo"),
    ),
    Story(
        "smoothquant of llava",
        arguments("--quantization", "smoothquant"),
        "quantization",
        ("SmoothQuant", "use one of none, int8_wo, int4_wo, int4_awq, fp8"),
    ),
    Story(
        "awq of a model that its script does not know",
        arguments("--quantization", "int4_awq"),
        "quantization",
        ("quantize.py does not know",),
        model="llava-next",
    ),
    Story(
        "quantized torch",
        arguments("--runtime", "torch", "--quantization", "fp8"),
        "torch-runtime",
        ("--quantization fp8", "--runtime trtllm"),
    ),
    Story("torch over GPUs", arguments("--runtime", "torch", "--tp", "2"), "torch-runtime", ("--tp 2",)),
    Story(
        "padded input",
        only_llm(plugins={"remove_input_padding": False}),
        "padded-input",
        ("--remove_input_padding enable",),
    ),
    Story(
        "no attention plugin",
        only_llm(plugins={"gpt_attention_plugin": None}),
        "no-attention-plugin",
        ("--gpt_attention_plugin float16",),
    ),
    Story(
        "reuse with a cache in fp8",
        lambda f: [*only_llm(kv_cache="FP8", plugins={"use_paged_context_fmha": True})(f), "--kv-cache-reuse"],
        "bad-pair",
        ("FP8", "issue 2699"),
    ),
    Story(
        "chunked context of tiles",
        arguments("--set", "tensorrt_llm.enable_chunked_context=true"),
        "bad-pair",
        ("out of order", "3380"),
        model="llava-next",
    ),
    Story(
        "lookahead", arguments("--set", "tensorrt_llm.decoding_mode=lookahead"), "bad-pair", ("issues 6009 and 3137",)
    ),
    Story(
        "beams beyond the engine's",
        lambda f: [*only_llm()(f), "--set", "tensorrt_llm.max_beam_width=4"],
        "bad-pair",
        ("max_beam_width 4", "engine's 1"),
    ),
    Story(
        "too few devices",
        lambda f: [*only_llm(tp=2)(f), "--set", "tensorrt_llm.gpu_device_ids=0"],
        "bad-pair",
        ("names 1", "runs on 2"),
    ),
    Story(
        "parameter of a later release",
        arguments("--release", "0.18.2", "--set", "tensorrt_llm.num_nodes=2"),
        "unknown-set",
        ("0.18.2", "'num_nodes'"),
    ),
    Story(
        "parameter that is decided",
        arguments("--set", "tensorrt_llm.enable_kv_cache_reuse=true"),
        "reserved-set",
        ("--kv-cache-reuse",),
    ),
    Story(
        "queue of words", arguments("--set", "tensorrt_llm.max_queue_size=many"), "bad-set", ("'many'", "whole number")
    ),
    Story(
        "part of a tile's rows",
        only_llm(version="0.16.0", vocab_size=32064, max_input_len=4096, max_seq_len=5120, table=8 * 1000),
        "table-too-small",
        ("8000 / max_batch_size 8 gives 1000", "at least 1729"),
        model="llava-next",
    ),
]


def console(story: Story, folder: Path) -> tuple[int, str]:
    """Exit code and what stderr gets, the folder's own path written FOLDER."""
    out = io.StringIO()
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(io.StringIO()):
        code = gen_repo(["--model", story.model, "--output", str(folder / "repository"), *story.setup(folder)])
    return code, out.getvalue().replace(str(folder), "FOLDER")


def section(story: Story, text: str) -> str:
    return f"== {story.name}\n{text}\n"


def main() -> int:
    if sys.argv[1:] != ["--write"]:
        print(__doc__)
        return 2
    texts = []
    for story in STORIES:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            texts.append(section(story, console(story, Path(folder).resolve())[1]))
    CONSOLE.write_text("".join(texts))
    print(CONSOLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
