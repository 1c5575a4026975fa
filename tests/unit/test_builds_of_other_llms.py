"""Build commands of encoder-decoders and of CogVLM, against the guide's own; batches of 3, not the guide's."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from generator import contract, render
from generator.generate import decide
from generator.models import specs
from generator.options import Options
from generator.plan import Plan
from generator.routes import FEATURES, ROUTES, TABLE
from generator.spec import BuildSpec
from tests import shell_commands

BATCH = 3
ENC_DEC = {
    "--paged_kv_cache": "disable",
    "--moe_plugin": "disable",
    "--enable_xqa": "disable",
    "--gemm_plugin": "DTYPE",
    "--bert_attention_plugin": "DTYPE",
    "--gpt_attention_plugin": "DTYPE",
    "--remove_input_padding": "enable",
}


def planned(build: BuildSpec, dtype: str, carries: str, rows: int, route: str, release: str = "0.15.0") -> Plan:
    """A plan with the given build facts, its other parts those of a model that exists."""
    plan, _, _ = decide(Options(model="blip2-opt", release=release, working_dir=Path("/nonexistent")))
    spec = replace(plan.spec, build=build, routes=(route,), carries=carries)  # type: ignore[arg-type]
    limits = replace(
        plan.limits,
        max_batch_size=BATCH,
        max_table_rows=rows,
        max_input_len=924,
        max_seq_len=101,
        max_output_len=100,
    )
    return replace(plan, spec=spec, limits=limits, route=ROUTES[route], llm_dtype=dtype)


def commands(plan: Plan) -> dict[str, list[list[str]]]:
    return shell_commands.commands(render.top_level(plan, "build_engines.sh.jinja").decode())


def built(plan: Plan) -> list[dict[str, str]]:
    return [shell_commands.flags(command) for command in commands(plan)["llm"]]


def wanted(dtype: str, folders: tuple[str, str], **numbers: int) -> dict[str, str]:
    plugins = {name: dtype if value == "DTYPE" else value for name, value in ENC_DEC.items()}
    given = {f"--{name}": str(value) for name, value in numbers.items()}
    return {"--checkpoint_dir": folders[0], "--output_dir": folders[1], **plugins, **given}


def test_blip2_t5_builds_encoder_with_the_table_and_decoder_without() -> None:
    plan = planned(specs()["blip2-t5"].build, "bfloat16", TABLE, 32, "python_enc_dec")
    steps = commands(plan)
    made = steps["convert"][0]
    assert made[1].endswith("/enc_dec/convert_checkpoint.py")
    assert shell_commands.flags(made)["--model_type"] == "blip2" and shell_commands.flags(made)["--dtype"] == "bfloat16"
    encoder, decoder = built(plan)
    checkpoint = "tmp/trt_models/blip2-opt-2.7b/bfloat16"
    engine = plan.paths.llm_engine + ".part"
    common = {"max_beam_width": 1, "max_batch_size": BATCH}
    assert encoder == {"--context_fmha": "disable"} | wanted(
        "bfloat16",
        (f"{checkpoint}/encoder", f"{engine}/encoder"),
        max_input_len=924,
        max_num_tokens=8192,
        max_multimodal_len=BATCH * 32,
        **common,
    )
    assert decoder == {"--context_fmha": "disable"} | wanted(
        "bfloat16",
        (f"{checkpoint}/decoder", f"{engine}/decoder"),
        max_seq_len=101,
        max_encoder_input_len=924,
        max_input_len=1,
        **common,
    )


def test_the_encoder_takes_a_full_batch_of_prompts_in_one_step() -> None:
    plan = planned(specs()["blip2-t5"].build, "bfloat16", TABLE, 32, "python_enc_dec")
    plan = replace(plan, limits=replace(plan.limits, max_batch_size=16))
    assert built(plan)[0]["--max_num_tokens"] == str(16 * 924)


@pytest.mark.parametrize(
    ("build", "dtype", "rows", "model_type", "vision", "fmha"),
    [
        (specs()["deplot"].build, "float16", 2048, "pix2struct", "pix2struct", {"--context_fmha": "disable"}),
        (specs()["nougat"].build, "bfloat16", 588, "bart", "nougat", {}),
    ],
)
def test_decoders_that_attend_to_features(
    build: BuildSpec, dtype: str, rows: int, model_type: str, vision: str, fmha: dict[str, str]
) -> None:
    plan = planned(build, dtype, FEATURES, rows, "python_enc_dec")
    steps = commands(plan)
    convert = shell_commands.flags(steps["convert"][0])
    assert convert["--model_type"] == model_type and ("--nougat" in convert) == (model_type == "bart")
    [decoder] = built(plan)
    folders = (f"tmp/trt_models/blip2-opt-2.7b/{dtype}/decoder", f"{plan.paths.llm_engine}.part/decoder")
    assert decoder == fmha | wanted(
        dtype,
        folders,
        max_beam_width=1,
        max_batch_size=BATCH,
        max_seq_len=101,
        max_encoder_input_len=rows,  # of one request, not of the batch
        max_input_len=1,
    )
    assert shell_commands.flags(steps["vision"][0])["--model_type"] == vision


def test_the_backend_wants_the_paged_cache_that_the_python_runtime_does_not() -> None:
    for route, paged in (("python_enc_dec", "disable"), ("encoder_features", "enable")):
        plan = planned(specs()["nougat"].build, "bfloat16", FEATURES, 588, route)
        assert built(plan)[0]["--paged_kv_cache"] == paged


@pytest.mark.parametrize("release", contract.releases())
def test_the_flag_that_went_with_0_16(release: str) -> None:
    known = contract.releases().index(release) < contract.releases().index("0.16.0")
    for build in (specs()["deplot"].build, specs()["cogvlm"].build):
        plan = planned(build, "bfloat16", FEATURES, 588, "python_enc_dec", release)
        assert all(("--enable_xqa" in command) == known for command in built(plan))


def test_cogvlm(tmp_path: Path) -> None:
    plan = planned(specs()["cogvlm"].build, "bfloat16", TABLE, 1227, "python_executor", "1.2.1")
    plan = replace(
        plan, paths=replace(plan.paths, checkpoint=str(tmp_path / "cog"), tokenizer=str(tmp_path / "vicuna"))
    )
    steps = commands(plan)
    assert [c[2] for c in steps["download"]] == [
        "https://huggingface.co/Salesforce/blip2-opt-2.7b",
        "https://huggingface.co/lmsys/vicuna-7b-v1.5",
    ]
    assert steps["convert"][0][1].endswith("models/contrib/cogvlm/convert_checkpoint.py")
    assert "--use_prompt_tuning" in shell_commands.flags(steps["convert"][0])
    [llm] = built(plan)
    assert llm["--max_multimodal_len"] == str(BATCH * 1227) and llm["--paged_kv_cache"] == "enable"
    assert llm["--moe_plugin"] == llm["--bert_attention_plugin"] == "disable"
    assert shell_commands.flags(steps["generate"][0])["--tokenizer-dir"] == str(tmp_path / "vicuna")


VISUAL = """import torch
from torch import nn
from argparse import Namespace
import xformers.ops as xops


class Attention(nn.Module):
    def forward(self, x):
        q, k, v = self.qkv(x)

        out = xops.memory_efficient_attention(
            q, k, v, scale=self.scale,
        )
        output = self.dense(out)
        return output

    def attention(self, q, k, v):
        return q
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])  # public copies of the file have the latter
def test_cogvlm_vision_code_is_patched_by_its_text(tmp_path: Path, end: str) -> None:
    """The same four lines that the guide replaces by number; another version of the file is refused."""
    checkpoint, tokenizer = tmp_path / "cog", tmp_path / "vicuna"
    checkpoint.mkdir()
    tokenizer.mkdir()
    plan = planned(specs()["cogvlm"].build, "bfloat16", TABLE, 1227, "python_executor", "1.2.1")
    plan = replace(plan, paths=replace(plan.paths, checkpoint=str(checkpoint), tokenizer=str(tokenizer)))
    script = tmp_path / "repository/build_engines.sh"
    script.parent.mkdir()
    script.write_bytes(render.top_level(plan, "build_engines.sh.jinja"))
    visual = checkpoint / "visual.py"
    visual.write_bytes(VISUAL.replace("\n", end).encode())
    for _ in range(2):  # again, it has nothing to do
        subprocess.run(["bash", str(script), "download"], check=True, capture_output=True, cwd=tmp_path)
        text = visual.read_text()
        compile(text, "visual.py", "exec")
        assert "xops" not in text and text.count("self.attention(q.transpose(1, 2)") == 1
        assert text.splitlines()[-5].startswith("        output = self.dense(out)")
    visual.write_text(VISUAL.replace("xops.memory", "xops.fmha.memory"))
    refused = subprocess.run(["bash", str(script), "download"], capture_output=True, cwd=tmp_path, text=True)
    assert refused.returncode == 1 and "is another version" in refused.stderr


@pytest.mark.parametrize("release", contract.releases())
@pytest.mark.parametrize("tp", [1, 2])
def test_blip2_t5_in_every_release(release: str, tp: int) -> None:
    """The model's own spec: scripts, folders and flags of the release, and what its quantization says."""
    options = Options(model="blip2-t5", release=release, max_batch_size=BATCH, tp=tp, working_dir=Path("/nonexistent"))
    plan, _, _ = decide(options)
    known = contract.releases().index
    old, flat = known(release) < known("0.19.0"), known(release) < known("0.20.0")
    steps = commands(plan)
    folder = "tmp/trt_engines/blip2-flan-t5-xl/bfloat16" + ("/2-gpu" if tp == 2 else "")
    assert plan.paths.llm_engine == (folder if old else f"{folder}/llm")
    convert = steps["convert"][0]
    assert convert[1] == f"{'..' if flat else '../../..'}/{'' if flat else 'models/core/'}enc_dec/convert_checkpoint.py"
    assert shell_commands.flags(convert).get("--tp_size", "1") == str(tp)
    encoder, decoder = built(plan)
    assert encoder["--max_multimodal_len"] == str(BATCH * 32) and "--max_multimodal_len" not in decoder
    assert encoder["--max_input_len"] == decoder["--max_encoder_input_len"]
    assert decoder["--max_input_len"] == "1" and int(decoder["--max_seq_len"]) > 100
    vision = steps["vision"][0]
    assert vision[1].endswith("build_visual_engine.py" if old else "build_multimodal_engine.py")
    assert shell_commands.flags(vision)["--max_batch_size"] == str(BATCH)
    for quantization in ("int8_wo", "int4_wo", "int4_awq", "fp8", "smoothquant"):
        _, _, findings = decide(replace(options, quantization=quantization))
        assert [f.what for f in findings if f.code == "quantization"] == [
            f"BLIP2-T5 cannot have --quantization {quantization}: TensorRT-LLM quantizes no encoder-decoder models"
        ]
