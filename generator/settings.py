"""What the Python steps read at load time: one settings.json beside each model.py, plain data from the plan."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from generator import interface, memory
from generator.plan import FRONT_ROWS, LLM_RESPONSES, ROLES, Plan
from generator.routes import TABLE

NUMBERS = {"bfloat16": "bfloat16"}  # dtype of pixels that numpy lacks -> the module that has it
FONT_FILE = "header_font.ttf"


def _tokenizer(plan: Plan) -> dict[str, Any]:
    return {
        "module": plan.spec.tokenizer.module,
        "file": plan.spec.tokenizer.file,
        "dropped_ids": list(plan.dropped_ids),
    }


def _decoding_tokenizer(plan: Plan) -> dict[str, Any]:
    replacements = plan.tokenizer.replacements if plan.tokenizer else ()
    return _tokenizer(plan) | ({"replacements": [list(pair) for pair in replacements]} if replacements else {})


def _media(plan: Plan) -> dict[str, Any]:
    media = plan.spec.media
    drawn = {"font": FONT_FILE, "default_text": media.default_text} if media.font else {}
    return {"module": media.module, "needed": media.needed, "input": media.input, "noun": media.noun, **drawn}


def preprocessing(plan: Plan) -> dict[str, Any]:
    limits, tokens = plan.limits, plan.tokens
    return {
        "model": plan.variant.name,
        "tokenizer": {
            **_tokenizer(plan),
            "bos_id": tokens.bos,
            "end_id": tokens.end,
            "pad_id": tokens.pad,
            "vocab_size": plan.vocab_size,
        },
        "prompt": plan.prompt,
        "pixels": {
            "steps": [list(step) for step in plan.pixels.steps],
            "resample": plan.pixels.resample,
            "rescale_factor": plan.pixels.rescale_factor,
            "mean": list(plan.pixels.mean),
            "std": list(plan.pixels.std),
            "shape": list(plan.pixel_shape),
            "dtype": plan.pixel_dtype,
            "decode_edge": plan.decode_edge,
            "least_entries": 1 if plan.tensorrt_vision else 0,
            "module": NUMBERS.get(plan.pixel_dtype, "numpy_numbers"),
        },
        "layout": plan.layout,
        "media": _media(plan),
        "rows_per_image": plan.rows_per_image,
        "constant_rows": plan.spec.constant_rows,
        "release": {
            "min_tokens": plan.contract.min_tokens,
            "seed": plan.contract.seed,
            "extra_ids": "prompt_table_extra_ids" in plan.contract.inputs,
            "client_cache_ids": plan.client_cache_ids,
        },
        "limits": {
            "max_images": limits.max_images,
            "max_batch": plan.request_rows,
            "max_input_len": limits.max_input_len,
            "max_seq_len": limits.max_seq_len,
            "max_table_rows": limits.max_table_rows,
            "default_max_tokens": limits.default_max_tokens,
            **{name: getattr(limits, name) for name in plan.spec.media.limits},
            "max_output_len": limits.max_output_len,
        },
        "image_hosts": list(plan.image_hosts),
    }


def postprocessing(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.variant.name,
        "tokenizer": _decoding_tokenizer(plan),
        "texts": {"module": plan.spec.post.module},
    }


def chat(plan: Plan) -> dict[str, Any]:
    """How a conversation is written for this model, for gateways that render several turns (chat.json)."""
    talk, whole = plan.conversation, plan.prompt.get("template")
    return {
        "model": plan.variant.name,
        "template": whole or "{text}",
        "following": talk.following if whole else "",
        "image_prefix": plan.spec.image_prefix,
    }


def front(plan: Plan) -> dict[str, Any]:
    parts = interface.models(plan)
    texts = [t.name for t in parts["postprocessing"].outputs]
    vision, names = parts["vision_encoder"], interface.vision_names(plan)
    return {
        "model": plan.variant.name,
        "tokenizer": _decoding_tokenizer(plan),
        "steps": {role: plan.names[role] for role in ROLES},
        "preprocessing_inputs": [t.name for t in parts["preprocessing"].inputs],
        "required_inputs": [t.name for t in interface.public_inputs(plan) if not t.optional],
        "preprocessing_outputs": [t.name for t in interface.handed_on(plan)],
        "vision_inputs": {t.name: names[t.name] for t in vision.inputs},
        "vision_outputs": {t.name: names[t.name] for t in vision.outputs},
        "llm_inputs": dict(interface.DIRECT),
        "llm_responses": plan.names[LLM_RESPONSES],
        "returned": {f"_{t.name}": t.name for t in interface.returned(plan)},
        "texts": texts,
        "max_threads": FRONT_ROWS,
        "poll_seconds": 0.01,
    }


def _vision_numbers(plan: Plan) -> dict[str, Any]:
    """What both vision steps check their encoder against."""
    return {
        "rows_per_image": None if -1 in plan.pixels.shape else plan.rows_per_image,  # open: one row per patch
        "constant_rows": plan.spec.constant_rows,
        "hidden_size": plan.hidden_size,
        "image_shape": list(plan.entry_shape),
        "output": plan.spec.carries,
        **_cache(plan),
    }


def _cache(plan: Plan) -> dict[str, Any]:
    """What the vision step keeps rows in; nothing where it keeps none."""
    if not plan.vision_cache:
        return {}
    return {"cache": {"module": "row_cache", "bytes": plan.vision_cache, "entry_bytes": memory.entry_rows(plan)}}


def torch_vision_encoder(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.variant.name,
        "module": plan.spec.torch.vision_module,
        "checkpoint": plan.paths.projector or plan.paths.checkpoint,
        "dtype": plan.vision_dtype,
        "table_dtype": plan.llm_dtype,
        **_vision_numbers(plan),
        **_levels(plan),
        "device": "auto",
    }


def _levels(plan: Plan) -> dict[str, Any]:
    """How the torch encoder normalises levels; nothing where pixels cross normalised."""
    if plan.pixel_form == "float":
        return {}
    pixels = plan.pixels
    numbers = {"rescale_factor": pixels.rescale_factor, "mean": list(pixels.mean), "std": list(pixels.std)}
    return {"levels": {"module": "levels", **numbers}}


def _constants(plan: Plan) -> dict[str, Any]:
    """The file of constant rows that the engine's build writes beside it; empty where the model has none."""
    name, rows = plan.spec.constants
    if not rows:
        return {}
    file = PurePosixPath(plan.paths.vision_engine).with_name(name)
    return {"module": "constants_file", "file": str(file), "names": list(rows)}


def _llm_numbers(plan: Plan) -> dict[str, Any]:
    """What every LLM step of our own checks its weights or engine and its requests against."""
    return {
        "dtype": plan.llm_dtype,
        "vocab_size": plan.vocab_size,
        "hidden_size": plan.hidden_size,
        "max_seq_len": plan.limits.max_seq_len,
        "carries": plan.spec.carries,
        # where the decoder does not read input_ids itself
        "decoder_start_id": plan.tokens.start if plan.spec.carries == TABLE else None,
        "decoupled": plan.streaming,
    }


def torch_tensorrt_llm(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.variant.name,
        "module": plan.spec.torch.llm_module,
        "prompt": {"module": plan.spec.torch.prompt_form, "rows_per_image": plan.rows_per_image},
        "checkpoint": plan.paths.checkpoint,
        "subfolder": plan.spec.llm_folder,
        "attribute": plan.spec.torch.llm_attribute,
        **_llm_numbers(plan),
        "device": "auto",
    }


def trtllm_own_step(plan: Plan) -> dict[str, Any]:
    """Of an LLM step that runs the engine from Python."""
    return {
        "model": plan.variant.name,
        "engine": plan.paths.llm_engine,
        "release": plan.release,
        **_llm_numbers(plan),
        "rows_per_image": plan.rows_per_image,
        "pad_id": plan.tokens.pad,
        "max_batch": plan.limits.max_batch_size,
        "max_beam_width": int(plan.llm_parameters["max_beam_width"]),
        "max_input_len": plan.limits.max_input_len,
        "max_table_rows": plan.limits.max_table_rows,
        "tp": plan.tp,
        "pp": plan.pp,
    }


def trtllm_executor(plan: Plan) -> dict[str, Any]:
    """Of the LLM step over the executor's bindings, whose arguments were renamed together with the contract's inputs:
    0.19 takes the old names, 0.20 the new."""
    renamed = plan.contract.seed == "seed"
    names = {
        "max_tokens": "max_tokens" if renamed else "max_new_tokens",
        "min_tokens": plan.contract.min_tokens,
        "seed": plan.contract.seed,
    }
    return {
        "model": plan.variant.name,
        "engine": plan.paths.llm_engine,
        **_llm_numbers(plan),
        "rows_per_image": plan.rows_per_image,
        "max_input_len": plan.limits.max_input_len,
        "names": names,
    }


def trtllm_vision_encoder(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.variant.name,
        "engine": plan.paths.vision_engine,
        "table_dtype": plan.llm_dtype,
        **_vision_numbers(plan),
        "constants": _constants(plan),
        "max_batch": plan.vision_batch,
    }
