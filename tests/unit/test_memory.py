"""The memory plan against arithmetic done by hand, and the sizes it starts from against transformers' own models."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import workers
from hypothesis import given
from hypothesis import strategies as st

from generator import gpu_fit, sizes
from generator.cli import main
from generator.generate import decide
from generator.memory import CALLS_OF_ROWS, DECODING_THREADS, GIB, MIB, MemoryPlan, Term, make
from generator.models import specs
from generator.options import Options
from generator.plan import Plan
from generator.render import templates_root
from tests import engines

NOWHERE = Path("/nonexistent")


def plan_of(**changes: Any) -> Plan:
    return decide(Options(**({"model": "llava", "working_dir": NOWHERE} | changes)))[0]


def terms(plan: Plan) -> dict[str, int]:
    return {term.name: term.bytes for term in (*make(plan).llm, *make(plan).vision)}


def test_tables_on_their_way_are_as_many_as_the_vision_step_lets_be() -> None:
    """Two calls that the GPU computes, one whose tables are sent, and those that the step's queue holds."""
    source = (templates_root() / "shared" / "vision_answers.py").read_text()
    [waiting] = re.findall(r"^CALLS = (\d+)", source, re.MULTILINE)
    assert 3 + int(waiting) == CALLS_OF_ROWS


def test_llava_without_engines_by_hand() -> None:
    plan = plan_of(max_batch_size=4)
    assert terms(plan) == {
        "driver": 500 << 20,
        "LLM weights": 6_740_000_000 * 2,
        "LLM activations": 8192 * (2 * 11008 + 4 * 4096) * 2,
        "LLM prompt table": 4 * 576 * 4096 * 2,
        "CUDA context, LLM": 700 << 20,
        "vision weights": 326_000_000 * 2,
        "vision activations": 4 * 577 * (6 * 1024 + 2 * 16 * 577) * 2,
        "vision buffers": 4 * 3 * 336 * 336 * 2 + 5 * 4 * 576 * 4096 * 2,
        "CUDA memory pool": 64 << 20,  # two tables for each of four requests would be 36 MiB
        "CUDA context, vision step": 700 << 20,
    }
    assert make(plan).kv_token_bytes == 2 * 32 * 32 * 128 * 2
    assert make(plan).kv_tokens == 4 * plan.limits.max_seq_len
    shm = {term.name: term.bytes for term in make(plan).shm}
    pixels = 3 * 336 * 336 * 2
    assert shm == {
        "preprocessing": 2 * (MIB + 4 * (32 * MIB + pixels)),
        "vision_encoder": MIB + 4 * pixels,
        "postprocessing": MIB,
    }


def host(plan: Plan) -> dict[str, int]:
    return {term.name: term.bytes for term in make(plan).host}


def test_levels_are_a_byte_each() -> None:
    """In /dev/shm and in the engine's input; the rows that come of them are as many as ever."""
    plan = plan_of(max_batch_size=4, pixels="uint8")
    levels, rows = 3 * 336 * 336, 576 * 4096 * 2
    shm = {term.name: term.bytes for term in make(plan).shm}
    assert shm["preprocessing"] == 2 * (MIB + 4 * (32 * MIB + levels))
    assert shm["vision_encoder"] == MIB + 4 * levels
    assert terms(plan)["vision buffers"] == 4 * levels + 5 * 4 * rows
    torch = plan_of(max_batch_size=4, pixels="uint8", runtime="torch")
    assert {t.name: t.bytes for t in make(torch).shm}["vision_encoder"] == MIB + 4 * (levels + rows)


def test_images_that_are_decoded_at_once() -> None:
    """Two instances; each keeps a whole request's images at 4 bytes a pixel, and up to 8 of them take 12 more."""
    assert host(plan_of(max_batch_size=1))["decoded images"] == 2 * 16 * 89_478_485
    assert host(plan_of(max_batch_size=4))["decoded images"] == 2 * 16 * 89_478_485  # such a request has one row
    assert host(plan_of(max_batch_size=4, streaming=True))["decoded images"] == 2 * 4 * 16 * 89_478_485
    limits = (("image-pixels", 1_000_000),)
    many = plan_of(model="vila", max_batch_size=4, max_images=5, streaming=True, limits=limits)
    assert host(many)["decoded images"] == 2 * (20 * 4 + 8 * 12) * 1_000_000
    video = plan_of(model="video-neva", max_batch_size=3, streaming=True, limits=(("frame-pixels", 1_000_000),))
    assert host(video)["decoded videos"] == 2 * (3 * 4 + 3 * 4) * 12 * 1_000_000


def test_no_more_threads_decode_than_the_plan_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(workers, "_quota", lambda: workers.MOST)
    assert workers.cores() == DECODING_THREADS


def test_several_images_tiles_and_frames_count() -> None:
    vila = plan_of(model="vila", max_images=5, max_batch_size=8)
    assert vila.entries_per_call == 40
    assert terms(vila)["CUDA memory pool"] == 77 * MIB  # 2 x 8 requests x 5 images x 196 rows x 2560 x 2 bytes = 76.6
    next_ = plan_of(model="llava-next", max_batch_size=2)
    assert next_.entries_per_call == 10  # the small view and four tiles
    video = plan_of(model="video-neva", max_batch_size=1)
    assert terms(video)["vision activations"] == 12 * 257 * (6 * 1024 + 2 * 16 * 257) * 2
    fuyu = plan_of(model="fuyu", max_batch_size=1)
    assert fuyu.entry_elements == 2304 * 2700


def test_engines_are_weighed(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 40, "num_attention_heads": 40, "intermediate_size": 13824, "num_key_value_heads": 8}
    llm = engines.llm(
        tmp_path / "l", tp=2, pp=2, hidden_size=5120, table=8 * 576, rank_bytes=7 * GIB + 5, pretrained=shape
    )
    vision = engines.vision(tmp_path / "v", max_batch_size=2)
    with (vision / "model.engine").open("wb") as file:
        file.truncate(700 * MIB)
    plan = plan_of(llm_engine_dir=llm, visual_engine_dir=vision, model="llava-1.5-13b-hf")
    found = terms(plan)
    assert found["LLM weights"] == 7 * GIB + 5
    assert found["vision weights"] == 700 * MIB
    assert found["vision buffers"] == 2 * 3 * 336 * 336 * 2 + 5 * 2 * 576 * 5120 * 2  # two images in one call
    assert make(plan).kv_token_bytes == 2 * (40 // 2) * (8 // 2) * 128 * 2
    assert found["LLM activations"] == 8192 * (2 * 13824 // 2 + 4 * 5120) * 2
    assert {term.name for term in make(plan).shm} >= {"MPI and NCCL"}


@pytest.mark.parametrize("runtime", ["trtllm", "torch"])
def test_the_cache_of_rows_is_memory_of_the_vision_gpu(runtime: str) -> None:
    plain, more = make(plan_of(runtime=runtime)), make(plan_of(runtime=runtime, vision_cache=300 << 20))
    on_gpu = runtime == "trtllm"
    assert more.vision_bytes - plain.vision_bytes == (300 << 20) * on_gpu
    assert more.gpu_bytes - plain.gpu_bytes == (300 << 20) * on_gpu


def test_few_kv_heads_are_copied_to_every_rank_and_fp8_halves_them(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336, "num_key_value_heads": 2}
    quantized = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    for more, value in (({}, 2), (quantized, 1)):
        llm = engines.llm(tmp_path / f"l{value}", tp=4, pretrained=shape | more)
        assert make(plan_of(llm_engine_dir=llm)).kv_token_bytes == 2 * 32 * 1 * 128 * value


@pytest.mark.parametrize("variant", [v for spec in specs().values() for v in spec.variants], ids=lambda v: v.name)
def test_every_variant_has_sizes(variant: Any) -> None:
    assert variant.llm_size is not None and variant.tower is not None
    assert variant.tower.tokens > 0 and variant.llm_size.layers > 0


@pytest.mark.parametrize("model", specs())
@pytest.mark.parametrize("runtime", ["trtllm", "torch"])
def test_every_term_says_how_and_totals_are_sums(model: str, runtime: str) -> None:
    plan = plan_of(model=model, runtime=runtime, streaming="python_enc_dec" not in specs()[model].routes)
    found = make(plan)
    for term in (*found.llm, *found.vision, *found.shm, *found.host):
        assert term.bytes > 0 and term.how, term
    assert found.gpu_bytes == sum(t.bytes for t in (*found.llm, *found.vision)) + found.kv_bytes
    assert bool(found.llm) == (runtime == "trtllm")
    assert found.shm_bytes >= sum(t.bytes for t in found.shm) and found.shm_bytes % (64 * MIB) == 0


def test_sizes_are_those_of_transformers_models() -> None:
    """Parameters counted on models without weights, and their config.json read as a checkpoint's."""
    torch = pytest.importorskip("torch")
    import transformers as hf

    def llama(size: sizes.LlmSize, hidden: int, heads: int, vocab: int, cls: str = "Llama") -> tuple[Any, Any]:
        config = getattr(hf, f"{cls}Config")(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.layers,
            num_attention_heads=heads,
            num_key_value_heads=size.kv_heads,
            pad_token_id=None,
        )
        return config, getattr(hf, f"{cls}ForCausalLM")

    def opt(size: sizes.LlmSize, hidden: int) -> tuple[Any, Any]:
        config = hf.OPTConfig(
            vocab_size=50272,
            hidden_size=hidden,
            word_embed_proj_dim=hidden,
            ffn_dim=size.intermediate_size,
            num_hidden_layers=size.layers,
            num_attention_heads=size.kv_heads,
        )
        return config, hf.OPTForCausalLM

    cases = [
        (sizes.LLAMA_2_7B, *llama(sizes.LLAMA_2_7B, 4096, 32, 32000)),
        (sizes.LLAMA_2_13B, *llama(sizes.LLAMA_2_13B, 5120, 40, 32000)),
        (sizes.SHEARED_LLAMA_2_7B, *llama(sizes.SHEARED_LLAMA_2_7B, 2560, 20, 32000)),
        (sizes.LLAMA_3_8B, *llama(sizes.LLAMA_3_8B, 4096, 32, 128256)),
        (sizes.MISTRAL_7B, *llama(sizes.MISTRAL_7B, 4096, 32, 32064, "Mistral")),
        (sizes.YI_34B, *llama(sizes.YI_34B, 7168, 56, 64000)),
        (sizes.PHI_3_MINI, *llama(sizes.PHI_3_MINI, 3072, 32, 32064, "Phi3")),
        (sizes.OPT_2_7B, *opt(sizes.OPT_2_7B, 2560)),
        (sizes.OPT_6_7B, *opt(sizes.OPT_6_7B, 4096)),
    ]
    for stated, config, model in cases:
        with torch.device("meta"):
            counted = sum(p.numel() for p in model(config).parameters())
        assert stated.parameters == pytest.approx(counted, rel=0.01), config.model_type
        read = sizes.llm_size(json.loads(config.to_json_string()), config.hidden_size, config.vocab_size)
        assert read is not None and read.parameters == pytest.approx(counted, rel=0.003), config.model_type
        assert replace(read, parameters=0) == replace(stated, parameters=0)
    towers = [
        (sizes.CLIP_L_336, hf.CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14), hf.CLIPVisionModel),
        (sizes.CLIP_L_224, hf.CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224, patch_size=14), hf.CLIPVisionModel),
        (sizes.SIGLIP_SO_384, hf.SiglipVisionConfig(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384, patch_size=14), hf.SiglipVisionModel),
    ]  # fmt: skip
    for tower, config, model in towers:
        with torch.device("meta"):
            counted = sum(p.numel() for p in model(config).parameters())
        assert counted <= tower.parameters * 1.01 and tower.parameters <= counted * 1.1  # and a projector
        assert (tower.width, tower.heads) == (config.hidden_size, config.num_attention_heads)


def test_config_without_numbers_has_no_size() -> None:
    assert sizes.llm_size({"num_hidden_layers": 4}, 64, 100) is None
    assert sizes.llm_size({"num_hidden_layers": "x", "num_attention_heads": 4, "ffn_dim": 8}, 64, 100) is None


@given(st.integers(1, 80 * GIB), st.integers(1, 20 * GIB), st.integers(1, 400 * GIB))
def test_kv_fraction_leaves_room_for_the_vision_step(llm: int, vision: int, total: int) -> None:
    pool = min(vision, 64 * MIB)
    plan = MemoryPlan((Term("l", llm, "."),), (Term("v", vision, "."),), 1, 1, 1, (), (), pool)
    fraction = gpu_fit.kv_fraction(plan, total, vision_beside_llm=True)
    free = total - llm - pool
    assert 0 <= fraction <= 0.9
    if fraction:
        assert (1 - fraction) * free >= vision - pool - 1
    if 0 < fraction < 0.9:  # and no less than it can be
        assert (1 - fraction - 0.0101) * free < vision - pool
    assert gpu_fit.kv_fraction(plan, total, vision_beside_llm=False) == 0.9


def test_gpu_memory_decides_the_fraction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "r"

    def fraction(*more: str) -> str:
        assert main(["--model", "llava", "--output", str(output), "--force", *more]) == 0
        text = (output / "tensorrt_llm/config.pbtxt").read_text()
        return text.split('key: "kv_cache_free_gpu_mem_fraction"')[1].split('string_value: "')[1].split('"')[0]

    assert fraction() == "0.9"
    assert fraction("--gpu-memory", "80") == "0.9"
    small = float(fraction("--gpu-memory", "24"))
    assert small < 0.9
    assert "kv-cache-small" in capsys.readouterr().err
    explicit = ["--set", "tensorrt_llm.kv_cache_free_gpu_mem_fraction=0.5"]
    assert fraction("--gpu-memory", "24", *explicit) == "0.5"
    assert fraction("--gpu-memory", "24", "--vision-gpus", "1") == "0.9"
    elsewhere = ["--set", "tensorrt_llm.gpu_device_ids=1"]
    assert fraction("--gpu-memory", "24", *elsewhere) == "0.9"
    assert float(fraction("--gpu-memory", "24", "--vision-gpus", "1", *elsewhere)) == small


def test_a_gpu_too_small_is_refused_with_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "r"
    assert main(["--model", "llava", "--output", str(output), "--gpu-memory", "14"]) == 1
    assert capsys.readouterr().err.endswith(
        "error[gpu-memory]: the GPU has 14.0 GiB; the LLM takes 14.3 GiB, the vision step and the pool 1.8 GiB, the KV "
        "cache at least 1.2 GiB\n"
        "  where:  --gpu-memory\n"
        "  remedy: build the LLM for more GPUs (--tp) or with --quantization, give a smaller --max-batch-size, or a "
        "vision GPU of its own (--vision-gpus)\n"
    )
    assert not output.exists()


def test_explain_prints_every_term(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "llava", "--explain"]) == 0
    table = capsys.readouterr().out.split("\n\n")[-1]
    assert table == EXPLAINED


def test_explain_as_json_holds_what_the_text_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "llava", "--explain", "--json"]) == 0
    explained = json.loads(capsys.readouterr().out)
    assert main(["--model", "llava", "--explain"]) == 0
    text = capsys.readouterr().out.splitlines()
    for row in explained["plan"]:
        assert any(row["name"] in line and f"{row['value']}   [{row['source']}]" in line for line in text)
    terms = [term for place in explained["memory"].values() for term in place]
    for term in terms:
        assert any(term["name"] in line and f"{term['bytes']:,}" in line and term["how"] in line for line in text)
    totals = len(explained["memory"])
    assert len(explained["plan"]) + 1 + len(terms) + 2 * totals == len(text)
    assert {"code", "what", "where", "remedy", "level"} == set().union(*explained["findings"])


EXPLAINED = """\
memory of a GPU with the LLM
  driver                         524,288,000   500.0 MiB  estimate
  LLM weights                 13,480,000,000    12.6 GiB  6740000000 parameters x 2 bytes / 1 rank(s)
  LLM activations                629,145,600   600.0 MiB  estimate: 8192 tokens x (2 x 11008 / tp 1 + 4 x 4096) x 2
  LLM prompt table                37,748,736    36.0 MiB  8 requests x 576 rows x 4096 x 2 bytes
  CUDA context, LLM              734,003,200   700.0 MiB  estimate: one process
  KV cache of a full batch    10,737,418,240    10.0 GiB  20480 tokens x 524288 bytes
  total                       26,142,603,776    24.3 GiB
memory of a GPU with the vision step, besides
  vision weights                 652,000,000   621.8 MiB  326000000 parameters x 2 bytes
  vision activations             227,181,056   216.7 MiB  estimate: 8 images x 577 tokens x (6 x 1024 + 2 x 16 heads x 577) x 2 bytes
  vision buffers                 194,162,688   185.2 MiB  8 x 338688 pixel values x 2 bytes, and their rows 5 times
  CUDA memory pool                75,497,472    72.0 MiB  2 x 8 requests x 576 rows x 4096 x 2 bytes, whole MiB, at least 64
  CUDA context, vision step      734,003,200   700.0 MiB  estimate: one process
  total                        1,882,844,416     1.8 GiB
/dev/shm
  preprocessing                  549,806,080   524.3 MiB  2 instances x 8 requests x (33554432 bytes of files + 677376 of pixels)
  vision_encoder                   6,467,584     6.2 MiB  1 instance(s) x 8 requests x 677376 bytes
  postprocessing                   1,048,576     1.0 MiB  token ids and texts
  total                          557,322,240   531.5 MiB
memory of a node, without GPUs
  engine files being loaded   14,132,000,000    13.2 GiB  1 rank(s), and the vision engine
  server processes             4,294,967,296     4.0 GiB  estimate: 1 x 4294967296 bytes
  Python steps                 4,294,967,296     4.0 GiB  estimate: 4 x 1073741824 bytes
  decoded images               2,863,311,520     2.7 GiB  2 instances x (1 image(s) x 4 + 1 at once x 12 bytes) x 89478485 pixels
  pinned memory pool             268,435,456   256.0 MiB  Triton's default
  /dev/shm                       603,979,776   576.0 MiB  see above
  total                       26,457,661,344    24.6 GiB
"""
