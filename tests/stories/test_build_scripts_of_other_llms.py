"""build_engines.sh of the encoder-decoders and of CogVLM, in every release that their routes have and split over GPUs:
each command against the guide's formulas. Nothing of the table is taken from the generator."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from generator import contract
from tests import shell_commands
from tests.stories.test_build_scripts import ALL, BATCH, script

RELEASES = contract.releases()
ENC_DEC = {"--paged_kv_cache": "disable", "--moe_plugin": "disable", "--remove_input_padding": "enable"}
PLUGINS = ("--gemm_plugin", "--bert_attention_plugin", "--gpt_attention_plugin")


@dataclass(frozen=True)
class Model:
    """`rows` of the image in one request; `parts`: engines of the LLM; `fmha`: the guide leaves context FMHA on."""

    variant: str
    dtype: str
    rows: int
    model_type: dict[str, str]
    vision_type: str
    parts: tuple[str, ...]
    fmha: bool = False
    since: str = "0.12.0"
    flags: dict[str, str] = field(default_factory=lambda: ENC_DEC)


TABLE = [
    *(
        Model(name, "bfloat16", 32, {"--model_type": "blip2"}, "blip2", ("encoder", "decoder"))
        for name in ("blip2-flan-t5-xl", "blip2-flan-t5-xxl")
    ),
    Model("deplot", "float16", 2048, {"--model_type": "pix2struct"}, "pix2struct", ("decoder",)),
    *(
        Model(name, "bfloat16", 588, {"--model_type": "bart", "--nougat": ""}, "nougat", ("decoder",), fmha=True)
        for name in ("nougat-base", "nougat-small")
    ),
    Model(
        "cogvlm-chat-hf",
        "bfloat16",
        1227,
        {"--use_prompt_tuning": ""},
        "cogvlm",
        ("",),
        fmha=True,
        since="0.13.0",
        flags={
            "--paged_kv_cache": "enable",
            "--moe_plugin": "disable",
            "--bert_attention_plugin": "disable",
            "--remove_input_padding": "enable",
        },
    ),
]


@pytest.mark.parametrize("model", TABLE, ids=lambda model: model.variant)
@pytest.mark.parametrize("tp", [1, 2])
def test_commands(model: Model, tp: int) -> None:
    for release in RELEASES[RELEASES.index(model.since) :]:
        text, refused = script(model=model.variant, release=release, tp=tp)
        assert not refused, release
        steps = shell_commands.commands(text)
        [convert] = steps["convert"]
        made = shell_commands.flags(convert)
        assert model.model_type.items() <= made.items() and made["--dtype"] == model.dtype, release
        assert made.get("--tp_size", "1") == str(tp), release
        [vision] = steps["vision"]
        assert any("build_multimodal_engine.py" in word for word in vision) == (release >= "0.19.0"), release
        built = shell_commands.flags(vision)
        assert (built["--model_type"], built["--max_batch_size"]) == (model.vision_type, str(BATCH)), release
        engines = [shell_commands.flags(command) for command in steps["llm"]]
        assert len(engines) == len(model.parts)
        for part, engine in zip(model.parts, engines, strict=True):
            check_engine(model, part, engine, release)
            for name, folder in (("--checkpoint_dir", "trt_models"), ("--output_dir", "trt_engines")):
                assert f"tmp/{folder}/{model.variant}" in engine[name] and engine[name].endswith(part)
        if model.parts == ("encoder", "decoder"):  # the decoder attends to the whole prompt, rows of the image included
            assert engines[1]["--max_encoder_input_len"] == engines[0]["--max_input_len"]


def check_engine(model: Model, part: str, engine: dict[str, str], release: str) -> None:
    assert model.flags.items() <= engine.items(), (release, part)
    assert {engine[name] for name in PLUGINS if name not in model.flags} == {model.dtype}
    assert ("--enable_xqa" in engine) == (release < "0.16.0"), release
    assert ("--context_fmha" in engine) == (not model.fmha)
    assert engine["--max_batch_size"] == str(BATCH) and engine["--max_beam_width"] == "1"
    table = None if part == "decoder" else str(BATCH * model.rows)
    assert engine.get("--max_multimodal_len") == table, "the table is shared by all slots, and no decoder's"
    if part == "decoder":
        assert engine["--max_input_len"] == "1" and int(engine["--max_seq_len"]) > 1
        if model.parts == ("decoder",):
            assert engine["--max_encoder_input_len"] == str(model.rows), "of one request, whatever the batch"
    else:
        assert int(engine["--max_input_len"]) >= model.rows


@pytest.mark.parametrize("model", TABLE, ids=lambda model: model.variant)
def test_no_quantization_is_taken(model: Model) -> None:
    for release, quantization in itertools.product((model.since, RELEASES[-1]), ALL[1:]):
        assert script(model=model.variant, release=release, quantization=quantization)[1], (release, quantization)
