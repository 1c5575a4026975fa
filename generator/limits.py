"""The limits of one repository: computed from the engines where they exist, else the numbers to build engines with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from generator.facts.engines import LlmEngineFacts
from generator.facts.gather import Facts
from generator.findings import Finding, error, warning
from generator.options import Options
from generator.routes import FEATURES
from generator.spec import ModelSpec, Variant

DEFAULT_BATCH_SIZE = 8
DEFAULT_INPUT_LEN = 2048  # the guide's --max_input_len and --max_seq_len
DEFAULT_OUTPUT_LEN = 512
TEXT_BUDGET = 1024  # prompt tokens left for text beside the image tokens
MAX_IMAGE_BYTES = 32 * 1024 * 1024
MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own warning threshold: a 24-bit image of 256 MiB
MAX_VIDEO_BYTES = 128 * 1024 * 1024
MAX_VIDEO_FRAMES = 10_000  # all are decoded to look at a few
MAX_VIDEO_SECONDS = 3600
MAX_FRAME_PIXELS = 4096 * 2304  # 4K


@dataclass(frozen=True)
class Limits:
    """Per request unless said otherwise.

    Attributes:
        max_batch_size: requests that the LLM runs together.
        max_table_rows: prompt table rows of one request; engine build size = this x max_batch_size.
        max_input_len: prompt tokens, image tokens included.
        max_seq_len: prompt and answer, or where the decoder does not read the prompt, its start token and the answer.
        max_images: images or videos of one prompt.
        max_image_bytes, ..., max_frame_pixels: of one image or video; MediaSpec.limits says which apply.
        max_output_len: of an answer whose decoder does not read the prompt; None = what the prompt leaves.
    """

    max_batch_size: int
    max_images: int
    max_table_rows: int
    max_input_len: int
    max_seq_len: int
    default_max_tokens: int
    max_image_bytes: int = MAX_IMAGE_BYTES
    max_image_pixels: int = MAX_IMAGE_PIXELS
    max_video_bytes: int = MAX_VIDEO_BYTES
    max_video_frames: int = MAX_VIDEO_FRAMES
    max_video_seconds: int = MAX_VIDEO_SECONDS
    max_frame_pixels: int = MAX_FRAME_PIXELS
    max_output_len: int | None = None


def decide(
    options: Options, spec: ModelSpec, variant: Variant, facts: Facts, rows: int, layout: Mapping[str, Any]
) -> tuple[Limits, list[Finding]]:
    """The limits, and findings where an option asks for more than an engine was built for.

    Args:
        rows: prompt table rows of one entry of the engine's input.
        layout: settings of the image layout.
    """
    findings: list[Finding] = []
    default = options.max_tokens or spec.default_max_tokens
    engine = facts.llm_engine
    entries, tokens = spec.layout.largest(layout) if spec.layout.largest else (1, rows)
    rows *= entries
    fewest_rows, fewest_tokens = spec.layout.smallest(layout) if spec.layout.smallest else (rows, tokens)
    shared, noun = spec.constant_rows, spec.media.noun
    if options.max_images is not None and spec.max_images is not None and options.max_images > spec.max_images:
        what = f"{spec.title} takes {spec.max_images} {noun} per prompt, {options.max_images} asked"
        findings.append(error("max-images", what, "--max-images", f"use --max-images {spec.max_images}"))
    images = options.max_images or spec.default_images
    batch = options.max_batch_size or (engine.max_batch_size if engine else DEFAULT_BATCH_SIZE)

    if spec.carries == FEATURES:
        return _attended(options, spec, variant, facts, (batch, images, rows * images), findings)
    if engine is None:
        input_len = max(DEFAULT_INPUT_LEN, tokens * images + TEXT_BUDGET)
        positions = (facts.checkpoint and facts.checkpoint.max_positions) or variant.max_positions
        if variant.short_positions and tokens * images < variant.short_positions:
            positions = min(positions, variant.short_positions)
        positions += spec.layout.shared_positions * images
        seq_len = min((1 if spec.encodes_prompt else input_len) + DEFAULT_OUTPUT_LEN, positions)
        input_len = min(input_len, positions if spec.encodes_prompt else seq_len - 1)
        if tokens * images > input_len:
            what = f"{images} {noun}(s) of {tokens} tokens exceed {input_len} prompt tokens ({positions} positions)"
            remedy = f"use --max-images {max(1, input_len // tokens)}"
            findings.append(error("max-images", what, "--max-images", remedy))
        answer = seq_len - 1 if spec.encodes_prompt else None
        table = shared + rows * images
        return Limits(batch, images, table, input_len, seq_len, default, max_output_len=answer), findings

    where = engine.config
    findings += _batch(batch, engine)
    # The runtime gives each slot floor(table / max_batch_size) rows of the table (TensorRT-LLM promptTuningBuffers).
    per_request = engine.max_table_rows // engine.max_batch_size
    needed = shared + rows * images
    build = f"build the LLM engine with --max_multimodal_len {engine.max_batch_size * needed}"
    arithmetic = (
        f"max_prompt_embedding_table_size {engine.max_table_rows} / max_batch_size {engine.max_batch_size} "
        f"gives {per_request} prompt table rows per request"
    )
    if engine.max_table_rows == 0:
        pass  # no table at all, which the cross-check says
    elif per_request < shared + fewest_rows:
        least = "" if fewest_rows == rows else " at least"
        what = f"{arithmetic}, but one {noun} of {spec.title} has{least} {shared + fewest_rows}"
        findings.append(error("table-too-small", what, where, build))
    elif per_request < shared + rows:
        what = f"{arithmetic}, but one {noun} of {spec.title} has up to {shared + rows}; larger ones are refused"
        findings.append(warning("table-too-small", what, where, build))
    elif per_request < needed:
        fits = (per_request - shared) // rows
        what = f"{arithmetic}: {fits} {noun}(s) of {rows} rows, not {images}"
        if options.max_images is not None:
            findings.append(error("table-too-small", what, where, f"use --max-images {fits}, or {build}"))
        else:
            findings.append(warning("table-too-small", f"{what}; requests are limited to {fits}", where, build))
            images = fits
    if spec.encodes_prompt:
        input_len, answer = engine.max_input_len, engine.max_seq_len - 1
        findings += _answer(default, engine)
        longer = "build the encoder with --max_input_len {0} and the decoder with --max_encoder_input_len {0}"
    else:
        input_len, answer = min(engine.max_input_len, engine.max_seq_len - 1), None
        longer = "build it with --max_input_len {0}"
        if engine.max_num_tokens and not engine.paged_context_fmha and engine.max_num_tokens < input_len:
            input_len = engine.max_num_tokens  # without chunked context the whole prompt is one context step
    enough = longer.format(tokens + TEXT_BUDGET)
    if input_len < fewest_tokens:
        least = "" if fewest_tokens == tokens else " at least"
        what = f"the LLM engine takes {input_len} prompt tokens, one {noun} alone has{least} {fewest_tokens}"
        findings.append(error("input-too-short", what, where, enough))
    elif input_len < tokens:
        what = f"the LLM engine takes {input_len} prompt tokens, one {noun} has up to {tokens}; larger ones are refused"
        findings.append(warning("input-too-short", what, where, enough))
    elif input_len < tokens * images:
        what = f"the LLM engine takes {input_len} prompt tokens, {images} {noun}s have {tokens * images}"
        remedy = f"{longer.format(tokens * images + TEXT_BUDGET)}, or use fewer {noun}s"
        findings.append(warning("input-too-short", what, where, remedy))
    table = max(per_request, 1) if per_request < shared + rows else shared + rows * images
    return Limits(batch, images, table, input_len, engine.max_seq_len, default, max_output_len=answer), findings


def _attended(
    options: Options,
    spec: ModelSpec,
    variant: Variant,
    facts: Facts,
    sizes: tuple[int, int, int],
    findings: list[Finding],
) -> tuple[Limits, list[Finding]]:
    """Limits of a decoder that attends to the image: in its own sequence stand its start token and the answer.

    Args:
        sizes: batch size, images and rows of one request.
    """
    batch, images, rows = sizes
    engine = facts.llm_engine
    seq_len = (facts.checkpoint and facts.checkpoint.max_positions) or variant.max_positions
    default = options.max_tokens or min(spec.default_max_tokens, seq_len - 1)
    if engine is not None:
        seq_len = engine.max_seq_len
        findings += _batch(batch, engine)
        if engine.max_encoder_input_len is not None and engine.max_encoder_input_len < rows:
            what = f"the decoder engine attends to {engine.max_encoder_input_len} rows, {spec.title} gives it {rows}"
            remedy = f"build it with --max_encoder_input_len {rows} (per request, whatever the batch)"
            findings.append(error("encoder-input-too-short", what, engine.config, remedy))
        findings += _answer(default, engine)
    return Limits(batch, images, rows, 1, seq_len, default, max_output_len=seq_len - 1), findings


def _answer(default: int, engine: LlmEngineFacts) -> Iterator[Finding]:
    """Whether a decoder that starts from a token of its own holds an answer of the default length."""
    room = engine.max_seq_len - 1
    if room < default:
        what = f"the decoder engine holds {room} tokens of an answer, the default is {default}"
        remedy = f"build it with --max_seq_len {default + 1} or more, or use --max-tokens {room}"
        yield warning("answer-too-short", what, engine.config, remedy)


def _batch(batch: int, engine: LlmEngineFacts) -> Iterator[Finding]:
    if batch > engine.max_batch_size:
        what = f"the LLM engine was built for batches of {engine.max_batch_size}, --max-batch-size asks for {batch}"
        remedy = f"use --max-batch-size {engine.max_batch_size}, or build with --max_batch_size {batch}"
        yield error("engine-batch", what, engine.config, remedy)
