"""Contradictions between engines, checkpoint, tokenizer, release and options, each with both values."""

from __future__ import annotations

from collections.abc import Iterator

from generator import build_options, contract
from generator.facts.engines import LlmEngineFacts
from generator.facts.gather import Facts
from generator.findings import Finding, error, warning
from generator.options import Options
from generator.prompting import FRAME_ORDER
from generator.routes import TABLE, Route
from generator.spec import ModelSpec, Variant

LEVEL_LAYOUTS = ("fixed_rows", "anyres_tiles", "video_frames")  # what they send are levels of a table
DTYPES = ("float16", "bfloat16", "float32")


def check(
    options: Options, spec: ModelSpec, variant: Variant, facts: Facts, release: str, rows: int, route: Route
) -> list[Finding]:
    """All contradictions of one run, in the order of the pipeline."""
    return [
        *_vision(spec, facts, rows),
        *_pixels(options, spec, variant, facts),
        *_llm(spec, facts, route),
        *_variant(spec, variant, facts),
        *_tokenizer(spec, facts),
        *build_options.check(options, spec, variant, facts),
        *_options(options, spec, variant, facts, release, route),
    ]


def _vision(spec: ModelSpec, facts: Facts, rows: int) -> Iterator[Finding]:
    vision, llm, checkpoint = facts.vision_engine, facts.llm_engine, facts.checkpoint
    if vision is None:
        return
    where = vision.folder / "config.json"
    if vision.model_type is not None and vision.model_type not in spec.engine_model_types:
        wanted = " or ".join(repr(t) for t in spec.engine_model_types)
        what = f"the vision engine's model_type is {vision.model_type!r}, {spec.title} has {wanted}"
        yield error("engine-model", what, where, f"build it with --model_type {spec.engine_model_types[0]}")
    if vision.dtype not in DTYPES:
        what = f"the vision engine's precision is {vision.dtype!r}; known are {', '.join(DTYPES)}"
        yield error("engine-dtype", what, where, "build it with --precision float16")
    elif spec.only_dtype and vision.dtype != spec.vision_dtype:
        what = f"the vision engine's precision is {vision.dtype!r}, {spec.title} runs in {spec.vision_dtype} only"
        yield error("engine-dtype", what, where, f"build it with --precision {spec.vision_dtype}")
    if vision.hidden_size and llm and vision.hidden_size != llm.hidden_size:
        what = f"the vision engine gives rows of {vision.hidden_size} values, the LLM engine takes {llm.hidden_size}"
        yield error("engine-hidden-size", what, where, "build both engines from the same checkpoint")
    frames = (checkpoint.layout if checkpoint else spec.layout.settings).get("num_frames")
    if vision.num_frames and frames and vision.num_frames != frames:
        what = (
            f"the vision engine takes {vision.num_frames} frames, the {'projector' if checkpoint else 'spec'} {frames}"
        )
        yield error("engine-frames", what, where, "give the archive that it was built from with --projector")
    if vision.rows and checkpoint and checkpoint.rows_per_image and vision.rows != checkpoint.rows_per_image:
        what = (
            f"the vision engine gives {vision.rows} rows per image, the checkpoint's tower {checkpoint.rows_per_image}"
        )
        yield error("engine-rows", what, where, "build the vision engine from this checkpoint")


def vision_batch(spec: ModelSpec, facts: Facts, entries: int) -> Iterator[Finding]:
    """Whether one call of the vision engine takes all `entries` that one request can have."""
    vision = facts.vision_engine
    if vision and vision.max_batch_size and vision.max_batch_size < entries:
        what = (
            f"the vision engine takes {vision.max_batch_size} in one call, one request of {spec.title} has up to "
            f"{entries}: it will be called {-(-entries // vision.max_batch_size)} times"
        )
        yield warning("vision-batch", what, vision.folder / "config.json", f"build it with --max_batch_size {entries}")


def _pixels(options: Options, spec: ModelSpec, variant: Variant, facts: Facts) -> Iterator[Finding]:
    vision = facts.vision_engine
    wanted = options.pixels or (vision.pixels if vision else "float")
    if wanted == "uint8" and spec.layout.module not in LEVEL_LAYOUTS:
        what = f"{spec.title}'s pixels are no 8-bit levels after its own scaling, so they cannot cross as uint8"
        yield error("no-uint8-pixels", what, "--pixels", "use --pixels float")
    if vision is None:
        return
    where = vision.folder / "config.json"
    if options.pixels and options.pixels != vision.pixels:
        what = f"the vision engine takes {vision.pixels} pixels, --pixels asks for {options.pixels}"
        remedy = f"leave --pixels out, or build the engine with gen-repo build-vision --pixels {options.pixels}"
        yield error("engine-pixels", what, where, remedy)
    pixels = (facts.checkpoint and facts.checkpoint.pixels) or variant.pixels
    own = {"rescale_factor": pixels.rescale_factor, "mean": list(pixels.mean), "std": list(pixels.std)}
    if vision.normalisation is not None and vision.normalisation != own:
        what = f"the vision engine normalises with {vision.normalisation}, the checkpoint says {own}"
        yield error("engine-pixels", what, where, "build the vision engine from this checkpoint")


def _llm(spec: ModelSpec, facts: Facts, route: Route) -> Iterator[Finding]:
    llm, checkpoint = facts.llm_engine, facts.checkpoint
    if llm is None:
        return
    where = llm.config
    if llm.dtype not in DTYPES:
        what = f"the LLM engine's dtype is {llm.dtype!r}; a prompt table can be {', '.join(DTYPES)}"
        yield error("engine-dtype", what, where, "build it with --dtype float16 or bfloat16")
    elif spec.only_dtype and (llm.dtype != spec.dtype or llm.quantization):
        found = f"{llm.dtype}, quantized as {llm.quantization}" if llm.quantization else llm.dtype
        what = f"the LLM engine's dtype is {found}, {spec.title} runs in {spec.dtype} only"
        yield error("engine-dtype", what, where, f"build it with --dtype {spec.dtype} and without quantization")
    if spec.carries == TABLE and llm.max_table_rows == 0:
        what = "the LLM engine was built without a prompt table (max_prompt_embedding_table_size is 0)"
        yield error("no-prompt-table", what, where, "build it with --max_multimodal_len, see build_engines.sh")
    yield from _decoder_and_encoder(spec, llm, route)
    if route.paged_kv_cache and not llm.paged_kv_cache:
        what = "the LLM engine has no paged KV cache, which in-flight batching needs"
        others = "" if spec.routes[0] == route.name else f", or use --route {spec.routes[0]}"
        yield error("no-paged-kv-cache", what, where, f"build it with --paged_kv_cache enable{others}")
    if route.paged_kv_cache and not llm.packed:
        what = "the LLM engine was built with padded input, which in-flight batching cannot use"
        yield error("padded-input", what, where, "build it with --remove_input_padding enable")
    if route.paged_kv_cache and not llm.attention_plugin:
        what = "the LLM engine was built without the attention plugin, which in-flight batching needs"
        yield error("no-attention-plugin", what, where, f"build it with --gpt_attention_plugin {llm.dtype}")
    if checkpoint is None:
        return
    if llm.hidden_size != checkpoint.hidden_size:
        what = f"the LLM engine's hidden size is {llm.hidden_size}, the checkpoint's {checkpoint.hidden_size}"
        yield error("engine-hidden-size", what, where, "give the checkpoint that the engine was built from")
    if llm.vocab_size < checkpoint.vocab_size:
        what = f"the LLM engine's vocabulary has {llm.vocab_size} ids, the checkpoint's {checkpoint.vocab_size}"
        yield error("engine-vocabulary", what, where, "give the checkpoint that the engine was built from")
    elif llm.vocab_size > checkpoint.vocab_size:
        what = (
            f"the LLM engine's vocabulary has {llm.vocab_size} ids, the checkpoint's {checkpoint.vocab_size}; "
            "image tokens count from the engine's"
        )
        yield warning("engine-vocabulary", what, where, "nothing to do if the engine was padded for tensor parallelism")


def _decoder_and_encoder(spec: ModelSpec, llm: LlmEngineFacts, route: Route) -> Iterator[Finding]:
    """Whether the engine has the parts that the model's LLM has, and whether they fit each other and the route."""
    attends = llm.max_encoder_input_len is not None
    if attends and llm.folder.name == "decoder" and llm.config.parent == llm.folder:
        what = "this is the engine of the decoder alone"
        yield error("engine-parts", what, llm.config, f"give the folder above it, {llm.folder.parent}")
        return
    if spec.separate_decoder and not attends:
        what = f"the engine's {llm.architecture} attends to no encoder, the decoder of {spec.title} does"
        yield error("engine-parts", what, llm.config, "give the folder that holds decoder/, see build_engines.sh")
        return
    if attends and not spec.separate_decoder:
        what = f"the engine is a decoder that attends to an encoder; {spec.title} has none"
        yield error("engine-parts", what, llm.config, "give the engine of this model with --llm-engine-dir")
        return
    if spec.encodes_prompt and llm.encoder is None:
        what = f"the folder has decoder/ but no encoder/, which reads the prompts of {spec.title}"
        yield error("engine-parts", what, llm.folder, "build the encoder's engine, too: build_engines.sh")
    if route.own_code and spec.separate_decoder and not llm.packed:
        what = "an engine takes padded sequences, this route sends packed ones"
        yield error("engine-padding", what, llm.config, "build it with --remove_input_padding enable")
    if llm.encoder is None:
        return
    pairs = (
        ("dtype", llm.encoder.dtype, llm.dtype),
        ("vocabulary", llm.encoder.vocab_size, llm.vocab_size),
        ("hidden size", llm.encoder.hidden_size, llm.hidden_size),
        ("number of GPUs", llm.encoder.world_size, llm.world_size),
        ("TensorRT-LLM version", llm.encoder.version, llm.version),
    )
    for name, of_encoder, of_decoder in pairs:
        if of_encoder != of_decoder:
            what = f"the {name} of the encoder engine is {of_encoder}, of the decoder engine {of_decoder}"
            yield error("engine-pair", what, llm.encoder.config, "build both engines from one converted checkpoint")


def _variant(spec: ModelSpec, variant: Variant, facts: Facts) -> Iterator[Finding]:
    checkpoint = facts.checkpoint
    if checkpoint is None or checkpoint.hidden_size == variant.hidden_size:
        return
    siblings = [v.name for v in spec.variants if v.hidden_size == checkpoint.hidden_size and not v.refused]
    what = f"the checkpoint's hidden size is {checkpoint.hidden_size}, {variant.name} has {variant.hidden_size}"
    where = checkpoint.llm_config
    if siblings:
        yield error("other-variant", f"{what}; it is that of {siblings[0]}", where, f"use --model {siblings[0]}")
    else:
        remedy = f"check that it is a {spec.title} whose prompt is the {variant.conversation.name} template"
        yield warning("unknown-size", f"{what}; the checkpoint's own numbers are used", where, remedy)


def _tokenizer(spec: ModelSpec, facts: Facts) -> Iterator[Finding]:
    tokenizer, llm = facts.tokenizer, facts.llm_engine
    if tokenizer is None:
        return
    where = facts.places.tokenizer
    vocabulary = llm.vocab_size if llm else facts.checkpoint.vocab_size if facts.checkpoint else None
    if vocabulary is not None and tokenizer.vocabulary > vocabulary:
        what = f"the tokenizer has {tokenizer.vocabulary} ids, the LLM {vocabulary}: some would be taken for image rows"
        yield error("tokenizer-vocabulary", what, where, "give the tokenizer of this checkpoint with --tokenizer-dir")
    if spec.image_token and tokenizer.image is None:
        what = f"the tokenizer has no token {spec.image_mark!r}, which marks the image's place"
        yield error("no-image-token", what, where, "give the tokenizer of this checkpoint with --tokenizer-dir")
    named = facts.checkpoint.image_token_id if facts.checkpoint else None
    if spec.image_token and named is not None and tokenizer.image is not None and named != tokenizer.image:
        what = f"config.json says that {spec.image_mark!r} is token {named}, the tokenizer says {tokenizer.image}"
        yield error("no-image-token", what, where, "give the tokenizer of this checkpoint with --tokenizer-dir")


def _options(
    options: Options, spec: ModelSpec, variant: Variant, facts: Facts, release: str, route: Route
) -> Iterator[Finding]:
    llm = facts.llm_engine
    if options.runtime == "torch" and variant.no_torch:
        what = f"--runtime torch cannot run {variant.name}: {variant.no_torch}"
        yield error("no-torch", what, "--runtime", "use --runtime trtllm")
    if options.frame_order and FRAME_ORDER not in spec.layout.settings:
        what = f"{spec.title} takes no video, whose frames the option is about"
        yield error("no-frames", what, "--frame-order", "leave it out")
    if options.kv_cache_reuse and not route.reuses_kv_cache:
        what = f"KV cache reuse tells images apart only on the route prompt_table, {variant.name} takes {route.name}"
        yield error("kv-cache-reuse", what, "--kv-cache-reuse", "leave it out")
    elif options.kv_cache_reuse and "prompt_table_extra_ids" not in contract.contract(release).inputs:
        what = f"KV cache reuse with images needs prompt_table_extra_ids, which release {release} does not have"
        yield error("kv-cache-reuse", what, "--kv-cache-reuse", "use release 0.13.0 or later")
    if options.kv_cache_reuse and options.runtime == "torch":
        what = "the torch runtime keeps no KV cache from one request to the next"
        yield warning("no-effect", what, "--kv-cache-reuse", "leave it out, or use --runtime trtllm")
    if options.client_cache_ids and not options.kv_cache_reuse:
        what = "clients have no KV blocks to keep apart: without --kv-cache-reuse no request shares another's"
        yield error("client-cache-ids", what, "--client-cache-ids", "leave it out, or add --kv-cache-reuse")
    if options.kv_cache_reuse and route.reuses_kv_cache and llm and not llm.paged_context_fmha:
        what = "KV cache reuse needs an engine built with paged context attention, and this one has it disabled"
        yield error(
            "kv-cache-reuse",
            what,
            llm.config,
            "build the LLM engine with --use_paged_context_fmha enable, or leave out --kv-cache-reuse",
        )
