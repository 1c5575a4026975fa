"""The language model of a NeMo archive. Nemotron is the GPT among NeMo's that transformers has a class for."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

WEIGHTS = ("model_weights.ckpt", "mp_rank_00/model_weights.ckpt")
NEMOTRON = {"activation": "squared-relu", "normalization": "layernorm1p", "position_embedding_type": "rope"}
EMBEDDING, OUTPUT = "model.embedding.word_embeddings.weight", "model.output_layer.weight"

Weights = dict[str, torch.Tensor]


def load(settings: dict[str, Any], dtype: torch.dtype) -> Any:
    """NemotronForCausalLM with the archive's weights, on the CPU. Nothing in the archive is executed.

    Raises ValueError, naming file and remedy, when the language model is another variant of GPT, or is not saved as one
    checkpoint.
    """
    archive = Path(settings["checkpoint"])
    config, weights = _read(archive)
    variant = {name: config.get(name) for name in NEMOTRON}
    if variant != NEMOTRON or config.get("bias"):
        raise ValueError(
            f"{archive}: the language model is GPT with {variant}, bias {config.get('bias')}; --runtime torch runs "
            f"Nemotron's, {NEMOTRON} without biases: use --runtime trtllm"
        )
    groups = config.get("num_query_groups") or config["num_attention_heads"]
    state = {
        "model.embed_tokens.weight": weights[EMBEDDING],
        "lm_head.weight": weights[EMBEDDING if config.get("share_embeddings_and_output_weights") else OUTPUT],
        **_both(weights, "model.decoder.final_layernorm.", "model.norm."),
    }
    for layer in range(config["num_layers"]):
        state |= _layer(weights, f"model.decoder.layers.{layer}.", f"model.layers.{layer}.", groups)
    return transformers.NemotronForCausalLM.from_pretrained(
        None, config=_config(config, groups, len(weights[EMBEDDING])), state_dict=state, torch_dtype=dtype
    )


def _config(config: dict[str, Any], groups: int, vocab_size: int) -> Any:
    return transformers.NemotronConfig(
        vocab_size=vocab_size,
        hidden_size=config["hidden_size"],
        intermediate_size=config["ffn_hidden_size"],
        num_hidden_layers=config["num_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=groups,
        head_dim=config.get("kv_channels") or config["hidden_size"] // config["num_attention_heads"],
        hidden_act="relu2",
        max_position_embeddings=config["max_position_embeddings"],
        norm_eps=config["layernorm_epsilon"],
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(config.get("rotary_base", 10000)),
            "partial_rotary_factor": config.get("rotary_percentage", 1.0),
        },
        bos_token_id=None,  # the request says which token ends an answer
        eos_token_id=None,
    )


def _layer(weights: Weights, source: str, target: str, groups: int) -> Weights:
    """One layer by the names of transformers. Megatron fuses the projections group by group: the group's queries, then
    its one key and its one value."""
    attention, mlp = f"{source}self_attention.", f"{source}mlp."
    fused = weights[f"{attention}linear_qkv.weight"]
    size = weights[f"{attention}linear_proj.weight"].shape[1]  # of all queries together
    head = (len(fused) - size) // (2 * groups)
    queries, key, value = fused.unflatten(0, (groups, -1)).split([size // groups, head, head], dim=1)
    return {
        f"{target}self_attn.q_proj.weight": queries.flatten(0, 1),
        f"{target}self_attn.k_proj.weight": key.flatten(0, 1),
        f"{target}self_attn.v_proj.weight": value.flatten(0, 1),
        f"{target}self_attn.o_proj.weight": weights[f"{attention}linear_proj.weight"],
        f"{target}mlp.up_proj.weight": weights[f"{mlp}linear_fc1.weight"],
        f"{target}mlp.down_proj.weight": weights[f"{mlp}linear_fc2.weight"],
        **_both(weights, f"{attention}linear_qkv.layer_norm_", f"{target}input_layernorm."),
        **_both(weights, f"{mlp}linear_fc1.layer_norm_", f"{target}post_attention_layernorm."),
    }


def _both(weights: Weights, source: str, target: str) -> Weights:
    """Gain and bias of a normalisation."""
    return {f"{target}{part}": weights[f"{source}{part}"] for part in ("weight", "bias")}


def _read(archive: Path) -> tuple[dict[str, Any], Weights]:
    """Configuration and weights. The weights are extracted to a temporary file, which is mapped."""
    with tarfile.open(archive) as content:
        members = {entry.name.removeprefix("./"): entry for entry in content}
        stated = content.extractfile(members["model_config.yaml"])
        config: dict[str, Any] = yaml.safe_load(stated.read() if stated else b"")
        found = next((members[name] for name in WEIGHTS if name in members), None)
        if found is None or config.get("tensor_model_parallel_size", 1) != 1:
            raise ValueError(f"{archive} is split over several ranks: save the model again as one checkpoint")
        packed = content.extractfile(found)
        if packed is None:
            raise ValueError(f"{archive}: {found.name} is no file; download the archive again")
        with tempfile.NamedTemporaryFile() as unpacked:
            shutil.copyfileobj(packed, unpacked)
            unpacked.flush()
            # Transformer Engine leaves its extra states as io.BytesIO, which torch does not count as harmless.
            with torch.serialization.safe_globals([io.BytesIO, bytes]):
                weights: Weights = torch.load(unpacked.name, map_location="cpu", weights_only=True, mmap=True)
    return config, weights
