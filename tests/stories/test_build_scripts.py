"""build_engines.sh of every model, release, precision and parallelism: its commands against the guide's formulas.

The table is the guide's (examples/multimodal README) in words of its own; nothing in it is taken from the generator.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest

from generator import contract, render
from generator.findings import has_errors
from generator.generate import decide
from generator.options import Options
from tests import shell_commands

NOWHERE = Path("/nonexistent")
BATCH = 3  # no number of any guide, so that nothing fits by accident
EXAMPLES = "/opt/examples"
WEIGHT_ONLY = {
    "int8_wo": {"--use_weight_only": "", "--weight_only_precision": "int8"},
    "int4_wo": {"--use_weight_only": "", "--weight_only_precision": "int4"},
}
QFORMAT = {
    "int4_awq": {"--qformat": "int4_awq", "--calib_size": "32"},
    "fp8": {"--qformat": "fp8"},
}
FOLDERS = {"int8_wo": "int8_weightonly", "int4_wo": "int4_weightonly", "int4_awq": "int4_awq", "fp8": "fp8"}


@dataclass(frozen=True)
class Row:
    """One model of the guide.

    Attributes:
        rows: of the prompt table per request; images: that the vision engine takes per request (for phi-3-vision the
            guide's script counts pictures, gen-repo's own build counts crops).
        converter: folder of the converter below examples/ in the old and in the new layout.
        quantizations: that must work; every other is refused.
    """

    variant: str
    source: str
    converter: tuple[str, str]
    convert: dict[str, str]
    vision_type: str
    rows: int
    images: int
    plugins: tuple[str, ...] = ("--gemm_plugin",)
    dtype: str = "float16"
    fused: bool = False
    quantizations: tuple[str, ...] = ()
    pipeline: bool = True
    own_images: int = 0  # entries per request where gen-repo builds the vision engine itself
    archive: str = ""
    projector: str = ""
    converted: str = "{precision}/{gpus}"
    vision_folder: str = "vision_encoder"


GPT = ("gpt/convert_checkpoint.py", "models/core/gpt/convert_checkpoint.py")
LLAMA = ("llama/convert_checkpoint.py", "models/core/llama/convert_checkpoint.py")
ATTENTION = ("--gpt_attention_plugin", "--gemm_plugin")
LLAVA = ("int8_wo", "int4_wo", "int4_awq", "fp8")
WO = ("int8_wo", "int4_wo")
RENAMED = (
    "model:model.language_model attention.linear_qkv.layer_norm_bias:input_layernorm.bias "
    "attention.linear_qkv.layer_norm_weight:input_layernorm.weight "
    "mlp.linear_fc1.layer_norm_bias:post_attention_layernorm.bias "
    "mlp.linear_fc1.layer_norm_weight:post_attention_layernorm.weight linear_qkv:query_key_value "
    "linear_fc1:dense_h_to_4h linear_fc2:dense_4h_to_h linear_proj:dense decoder:encoder"
)
TABLE = [
    *(
        Row(
            name,
            f"Salesforce/{name}",
            ("opt/convert_checkpoint.py", "models/contrib/opt/convert_checkpoint.py"),
            {"--model_type": "blip2"},
            "blip2",
            rows=32,
            images=1,
            quantizations=WO,
            pipeline=False,
        )
        for name in ("blip2-opt-2.7b", "blip2-opt-6.7b")
    ),
    Row(
        "fuyu-8b",
        "adept/fuyu-8b",
        GPT,
        {"--gpt_variant": "persimmon"},
        "fuyu",
        rows=36 * 64,
        images=1,
        fused=True,
        quantizations=WO,
    ),
    Row(
        "kosmos-2",
        "microsoft/kosmos-2-patch14-224",
        GPT,
        {"--gpt_variant": "kosmos-2"},
        "kosmos-2",
        rows=64,
        images=1,
        plugins=ATTENTION,
        quantizations=WO,
    ),
    *(
        Row(name, f"llava-hf/{name}", LLAMA, {}, "llava", rows=576, images=1, fused=True, quantizations=LLAVA)
        for name in ("llava-1.5-7b-hf", "llava-1.5-13b-hf")
    ),
    *(
        Row(
            name,
            f"llava-hf/{name}",
            LLAMA,
            {},
            "llava_next",
            rows=5 * 576 + 1,
            images=5,
            plugins=ATTENTION,
            fused=True,
            quantizations=WO,
        )
        for name in ("llava-v1.6-mistral-7b-hf", "llava-v1.6-34b-hf")
    ),
    *(
        Row(
            name,
            f"Efficient-Large-Model/VILA1.5-{name.rpartition('-')[2]}",
            LLAMA,
            {},
            "vila",
            rows=4 * rows,
            images=4,
            fused=True,
            quantizations=LLAVA,
        )
        for name, rows in (("vila1.5-3b", 196), ("vila1.5-13b", 196), ("vila1.5-40b", 256))
    ),
    Row(
        "neva",
        "",
        GPT,
        {"--nemo_rename_key": RENAMED},
        "neva",
        rows=728,
        images=1,
        plugins=ATTENTION,
        dtype="bfloat16",
        quantizations=WO,
        archive="neva.nemo",
        converted="",
    ),
    Row(
        "Phi-3-vision-128k-instruct",
        "microsoft/Phi-3-vision-128k-instruct",
        ("phi/convert_checkpoint.py", "models/core/phi/convert_checkpoint.py"),
        {},
        "phi-3-vision",
        rows=17 * 144 + 2,
        images=1,
        own_images=17,
        plugins=ATTENTION,
        quantizations=WO,
        pipeline=False,
    ),
    Row(
        "nemotron-3",
        "",
        ("quantization/quantize.py", "quantization/quantize.py"),
        {"--batch_size": "64", "--qformat": "full_prec"},
        "video-neva",
        rows=12 * 256,
        images=1,
        plugins=ATTENTION,
        dtype="bfloat16",
        quantizations=("int4_awq", "fp8"),
        archive="nemotron.nemo",
        projector="projector.nemo",
        vision_folder="visual_encoder",
    ),
]
OLD = ("0.12.0", "0.13.0", "0.14.0", "0.15.0", "0.16.0", "0.17.0", "0.18.0", "0.18.1", "0.18.2")
FLAT = (*OLD, "0.19.0")
NO_PHI = contract.releases()[contract.releases().index("0.15.0") :]
ALL = ("none", "int8_wo", "int4_wo", "int4_awq", "fp8", "smoothquant")


def script(**options: object) -> tuple[str, bool]:
    """The script's text, and whether findings forbid it."""
    made = Options(working_dir=NOWHERE, max_batch_size=BATCH, **options)  # type: ignore[arg-type]
    plan, _, findings = decide(made)
    return render.top_level(plan, "build_engines.sh.jinja").decode(), has_errors(findings)


def expected(row: Row, release: str, quantization: str, tp: int, pp: int) -> dict[str, list[dict[str, str]]]:
    """What each step must run: flags by command, the program and its script under ""."""
    gpus = f"{tp * pp}-gpu" + (f"-pp{pp}" if pp > 1 else "")
    plain = {"float16": "fp16", "bfloat16": "bf16"}[row.dtype]
    precision = FOLDERS.get(quantization, plain)
    default = quantization == "none" and tp * pp == 1
    tail = row.converted or ("" if default else "{gpus}" if quantization == "none" else "{precision}/{gpus}")
    converted = "/".join(filter(None, ("tmp/trt_models", row.variant, tail.format(precision=precision, gpus=gpus))))
    built = f"tmp/trt_engines/{row.variant}/{precision}/{gpus}"
    llm = built if release in OLD else f"{built}/llm"
    vision = f"tmp/trt_engines/{row.variant}/{row.vision_folder}" if release in OLD else f"{built}/vision"
    checkpoint = row.archive or f"tmp/hf_models/{row.variant}"
    root = ".." if release in FLAT else "../../.."
    guide = "multimodal" if release in FLAT else "models/core/multimodal"
    made = f"python3 {root}/{row.converter[0 if release in FLAT else 1]}"
    extra = dict(row.convert)
    if quantization in QFORMAT:
        made = f"python3 {root}/quantization/quantize.py"
        extra = ({"--batch_size": "64"} if row.archive else {}) | QFORMAT[quantization]
    extra |= WEIGHT_ONLY.get(quantization, {})
    extra |= {"--tp_size": str(tp)} if tp > 1 else {}
    extra |= {"--pp_size": str(pp)} if pp > 1 else {}
    plugins = dict.fromkeys(row.plugins, row.dtype)
    if row.archive and quantization in QFORMAT:
        del plugins["--gemm_plugin"]
    if row.fused and quantization == "none" and tp * pp == 1:
        plugins["--use_fused_mlp"] = "" if release == "0.12.0" else "enable"
    old_script = "build_visual_engine.py" if release in OLD else "build_multimodal_engine.py"
    side = row.projector or checkpoint
    build: dict[str, str] = {
        "": f"python3 {root}/{guide}/{old_script}",
        "--model_type": row.vision_type,
        "--model_path": side,
        "--output_dir": f"{vision}.part",
        "--max_batch_size": str(BATCH * row.images),
    }
    if row.vision_type == "vila":
        build["--vila_path"] = "tmp/hf_models/VILA"
    if row.own_images and release in NO_PHI:
        build = {
            "": "gen-repo build-vision",
            "--model": row.variant,
            "--hf-model-dir": checkpoint,
            "--output": f"{vision}.part",
            "--max-batch-size": str(BATCH * row.own_images),
            "--precision": "fp16",
        }
    return {
        "convert": [
            {
                "": made,
                "--nemo_ckpt_path" if row.archive else "--model_dir": checkpoint,
                "--output_dir": f"{converted}.part",
                "--dtype": row.dtype,
                **extra,
            }
        ],
        "llm": [
            {
                "": "trtllm-build",
                "--checkpoint_dir": converted,
                "--output_dir": f"{llm}.part",
                **plugins,
                "--max_beam_width": "1",
                "--max_batch_size": str(BATCH),
                "--max_multimodal_len": str(BATCH * row.rows),
            }
        ],
        "vision": [build],
    }


def combinations(row: Row) -> list[tuple[str, str, int, int]]:
    """(release, quantization, tp, pp): all releases plain and split, all quantizations in the first and last."""
    ends = (contract.releases()[0], "0.18.2", contract.releases()[-1])
    plain = [(release, "none", tp, 1) for release in contract.releases() for tp in (1, 2)]
    quantized = [(release, name, tp, 1) for release in ends for name in row.quantizations for tp in (1, 4)]
    split = [(release, "none", tp, 2) for release in ends for tp in (1, 2)] if row.pipeline else []
    return plain + quantized + split


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.variant)
def test_commands(row: Row) -> None:
    for release, quantization, tp, pp in combinations(row):
        text, refused = script(model=row.variant, release=release, quantization=quantization, tp=tp, pp=pp)
        assert not refused
        steps = shell_commands.commands(text)
        for step, wanted in expected(row, release, quantization, tp, pp).items():
            case = (release, quantization, tp, pp, step)
            found = []
            for words in steps[step]:
                first = next(i for i, word in enumerate(words) if word.startswith("--"))
                found.append({"": " ".join(words[:first])} | shell_commands.flags(words[first:]))
            limits = {"--max_input_len", "--max_seq_len", "--max_num_tokens"}
            assert [{k: v for k, v in c.items() if k not in limits} for c in found] == wanted, case
            if step == "llm":
                check_lengths(row, {name: int(found[0][name]) for name in limits})


def check_lengths(row: Row, numbers: dict[str, int]) -> None:
    """A request with its images fits the prompt, the prompt one step, and an answer the rest."""
    separators = {"llava_next": 0, "phi-3-vision": 17 * 12 + 1, "fuyu": 36}.get(row.vision_type, 0)
    most = {"llava_next": 576 + 48 * 49, "phi-3-vision": 17 * 144}.get(row.vision_type, row.rows) + separators
    assert numbers["--max_input_len"] > most
    assert numbers["--max_seq_len"] > numbers["--max_input_len"]
    assert numbers["--max_num_tokens"] >= numbers["--max_input_len"]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.variant)
def test_what_the_guide_does_not_have_is_refused(row: Row) -> None:
    for quantization in ALL[1:]:
        _, refused = script(model=row.variant, quantization=quantization)
        assert refused == (quantization not in row.quantizations), quantization
    assert script(model=row.variant, pp=2)[1] == (not row.pipeline)
    assert not script(model=row.variant, tp=2)[1]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.variant)
def test_weights_come_first_and_the_repository_last(row: Row) -> None:
    text, _ = script(model=row.variant, streaming=True, max_tokens=77, tp=2)
    steps = shell_commands.commands(text)
    assert list(steps) == [*(["download"] if "download" in steps else []), "convert", "llm", "vision", "generate"]
    if row.archive:
        assert "download" not in steps
    else:
        assert steps["download"][0][:3] == ["git", "clone", f"https://huggingface.co/{row.source}"]
        assert steps["download"][0][3] == f"tmp/hf_models/{row.variant}.part"
    [again] = steps["generate"]
    given = shell_commands.flags(again)
    assert given["--model"] == row.variant and given["--output"] == shell_commands.REPOSITORY
    assert given["--max-batch-size"] == str(BATCH) and given["--max-tokens"] == "77" and given["--tp"] == "2"
    assert given["--streaming"] == "" and given["--force"] == ""
    assert given.get("--projector", "") == row.projector


def test_sources_of_vila_are_pinned_and_its_path_checked() -> None:
    text, _ = script(model="vila")
    steps = shell_commands.commands(text)
    assert steps["download"][1][:4] == ["git", "clone", "--branch", "vila1.5"]
    assert "[[ $checkpoint == *vila* ]] || fail" in text


def test_paged_context_is_built_for_what_needs_it() -> None:
    for options in ({"kv_cache_reuse": True}, {"set": (("tensorrt_llm", "enable_chunked_context", "true"),)}):
        text, refused = script(model="llava", **options)
        assert not refused
        [llm] = shell_commands.commands(text)["llm"]
        assert shell_commands.flags(llm)["--use_paged_context_fmha"] == "enable"


def test_beams_and_long_prompts_are_built_for() -> None:
    text, _ = script(model="vila1.5-8b", max_images=36, set=(("tensorrt_llm", "max_beam_width", "4"),))
    [llm] = shell_commands.commands(text)["llm"]
    given = shell_commands.flags(llm)
    assert given["--max_beam_width"] == "4" and given["--max_multimodal_len"] == str(BATCH * 36 * 196)
    assert given["--max_num_tokens"] == "8192"


def test_every_pair_of_the_table_is_different_on_disk() -> None:
    """Engines of two precisions or parallelisms never share a folder."""
    for row in TABLE:
        cases = itertools.product(("none", *row.quantizations), (1, 2, 4), (1, 2) if row.pipeline else (1,))
        seen = set()
        for quantization, tp, pp in cases:
            text, _ = script(model=row.variant, quantization=quantization, tp=tp, pp=pp)
            known = shell_commands.variables(text)
            seen.add((known["converted"], known["llm_engine"]))
            assert len({name for pair in seen for name in pair}) == 2 * len(seen), (row.variant, quantization, tp, pp)
