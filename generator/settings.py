"""What the Python steps read at load time: one settings.json beside each model.py, plain data from the plan."""

from __future__ import annotations

from typing import Any

from generator import interface
from generator.plan import FRONT, ROLES, Plan

TOKENIZER = "tokenizer.json"
FRONT_THREADS = 64


def preprocessing(plan: Plan) -> dict[str, Any]:
    limits, tokens = plan.limits, plan.tokens
    return {
        "model": plan.variant.name,
        "tokenizer": {
            "file": TOKENIZER,
            "bos_id": tokens.bos,
            "end_id": tokens.end,
            "pad_id": tokens.pad,
            "vocab_size": plan.vocab_size,
        },
        "prompt": {
            "module": plan.spec.prompt_module,
            "template": plan.conversation.template,
            "image_prefix": plan.spec.image_prefix,
            "image_mark": plan.spec.image_mark,
            "image_token_id": tokens.image,
            "image_required": plan.spec.image_required,
            "stop_words": list(plan.conversation.stop_words),
        },
        "pixels": {
            "steps": [list(step) for step in plan.pixels.steps],
            "resample": plan.pixels.resample,
            "rescale_factor": plan.pixels.rescale_factor,
            "mean": list(plan.pixels.mean),
            "std": list(plan.pixels.std),
            "shape": list(plan.pixels.shape),
            "dtype": plan.vision_dtype,
        },
        "layout": {"module": plan.spec.layout_module, **plan.spec.layout_settings},
        "rows_per_image": plan.rows_per_image,
        "constant_rows": plan.spec.constant_rows,
        "release": {
            "min_tokens": plan.contract.min_tokens,
            "seed": plan.contract.seed,
            "extra_ids": "prompt_table_extra_ids" in plan.contract.inputs,
        },
        "limits": {
            "max_images": limits.max_images,
            "max_batch": limits.max_batch_size if plan.streaming else 1,
            "max_input_len": limits.max_input_len,
            "max_seq_len": limits.max_seq_len,
            "max_table_rows": limits.max_table_rows,
            "default_max_tokens": limits.default_max_tokens,
            "max_image_bytes": limits.max_image_bytes,
            "max_image_pixels": limits.max_image_pixels,
        },
        "image_hosts": list(plan.image_hosts),
    }


def postprocessing(plan: Plan) -> dict[str, Any]:
    return {"model": plan.variant.name, "tokenizer": {"file": TOKENIZER}, "skip_special_tokens": True}


def front(plan: Plan) -> dict[str, Any]:
    parts = interface.models(plan)
    passed = [t.name for t in parts[FRONT].outputs if t.name != "text_output"]
    return {
        "model": plan.variant.name,
        "tokenizer": {"file": TOKENIZER},
        "skip_special_tokens": True,
        "steps": {role: plan.names[role] for role in ROLES},
        "preprocessing_inputs": [t.name for t in parts["preprocessing"].inputs],
        "preprocessing_outputs": [t.name for t in parts["preprocessing"].outputs],
        "llm_inputs": dict(interface.DIRECT),
        "llm_outputs": ["output_ids", "sequence_length", *(n for n in passed if n != "batch_index")],
        "max_threads": FRONT_THREADS,
        "poll_seconds": 0.01,
        "silence_seconds": 60.0,
    }


def _vision_numbers(plan: Plan) -> dict[str, Any]:
    """What both vision steps check their encoder against."""
    return {
        "rows_per_image": plan.rows_per_image,
        "constant_rows": plan.spec.constant_rows,
        "hidden_size": plan.hidden_size,
        "image_shape": list(plan.pixels.shape),
    }


def torch_vision_encoder(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.variant.name,
        "module": plan.spec.torch.vision_module,
        "checkpoint": plan.paths.checkpoint,
        "dtype": plan.vision_dtype,
        "table_dtype": plan.llm_dtype,
        **_vision_numbers(plan),
        "cpu_entries_per_call": 1 if plan.variant.entries_per_image == 1 else None,
        "device": "auto",
    }


def torch_tensorrt_llm(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.variant.name,
        "checkpoint": plan.paths.checkpoint,
        "subfolder": plan.spec.llm_folder,
        "auto_class": plan.spec.torch.llm_class,
        "dtype": plan.llm_dtype,
        "vocab_size": plan.vocab_size,
        "hidden_size": plan.hidden_size,
        "max_seq_len": plan.limits.max_seq_len,
        "decoupled": plan.streaming,
        "device": "auto",
    }


def trtllm_vision_encoder(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.variant.name,
        "engine": plan.paths.vision_engine,
        "dtype": plan.vision_dtype,
        "table_dtype": plan.llm_dtype,
        **_vision_numbers(plan),
        "max_batch": plan.vision_batch,
    }
