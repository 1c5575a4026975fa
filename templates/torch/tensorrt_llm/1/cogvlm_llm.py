"""The language model of a CogVLM checkpoint: a Llama with a second set of weights, the visual experts, in every layer.

Written from the architecture that the checkpoint's own code shows; none of that code is executed. Order and roundings
are its too: angles are computed in the weights' dtype, as it does, so that bfloat16 knows no odd position above 256.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.modeling_outputs import CausalLMOutputWithPast

VISION = "model.vision."
FREQUENCIES = ".rotary_emb.inv_freq"
BASE = 10000.0
NEXT_GENERATION = "num_multi_query_heads"  # which CogVLM2 has under the same architecture's name


class Norm(nn.Module):  # type: ignore[misc]
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        exact = states.float()
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * exact).to(states.dtype)


class Mlp(nn.Module):  # type: ignore[misc]
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, grown = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, grown, bias=False)
        self.up_proj = nn.Linear(width, grown, bias=False)
        self.down_proj = nn.Linear(grown, width, bias=False)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.down_proj(self.activation(self.gate_proj(states)) * self.up_proj(states))
        return output


def routed(states: torch.Tensor, experts: torch.Tensor, vision: nn.Module, language: nn.Module) -> torch.Tensor:
    """`vision` of the states [B, L, c] where `experts` [B, L] is true, `language` of the others."""
    seen, read = vision(states[experts]), language(states[~experts])
    output = states.new_empty((*states.shape[:2], read.shape[-1]))
    output[experts], output[~experts] = seen, read
    return output


class Attention(nn.Module):  # type: ignore[misc]
    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.index = index
        self.heads = config.num_attention_heads
        self.vision_expert_query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.vision_expert_dense = nn.Linear(width, width, bias=False)
        self.language_expert_query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.language_expert_dense = nn.Linear(width, width, bias=False)

    def forward(
        self, states: torch.Tensor, experts: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], cache: Any
    ) -> torch.Tensor:
        batch, length, _ = states.shape
        fused = routed(states, experts, self.vision_expert_query_key_value, self.language_expert_query_key_value)
        query, key, value = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in fused.chunk(3, -1))
        query, key = turned(query, *turns), turned(key, *turns)
        if cache is not None:
            key, value = cache.update(key, value, self.index)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=length == key.shape[2])
        mixed = mixed.transpose(1, 2).reshape(states.shape)
        return routed(mixed, experts, self.vision_expert_dense, self.language_expert_dense)


def turned(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Heads [B, H, L, c] turned by their positions; pairs are (i, i + c / 2)."""
    one, two = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat([-two, one], dim=-1) * sine


class Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = nn.ModuleDict({"language_mlp": Mlp(config), "vision_mlp": Mlp(config)})

    def forward(
        self, states: torch.Tensor, experts: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], cache: Any
    ) -> torch.Tensor:
        states = states + self.self_attn(self.input_layernorm(states), experts, turns, cache)
        normed = self.post_attention_layernorm(states)
        return states + routed(normed, experts, self.mlp["vision_mlp"], self.mlp["language_mlp"])


class CogvlmLlm(transformers.PreTrainedModel, transformers.GenerationMixin):  # type: ignore[misc]
    """Under transformers' generate() for beam search; the state of a call is its arguments and its cache."""

    config_class = transformers.PretrainedConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.model = nn.ModuleDict({"embed_tokens": embeddings, "layers": layers, "norm": norm})
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.register_buffer("frequencies", None, persistent=False)

    def get_input_embeddings(self) -> Any:
        return self.model["embed_tokens"]

    def forward(
        self,
        *,
        position_ids: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        vision_experts: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = True,
        return_dict: bool = True,
    ) -> Any:
        """The logits [B, L, V] float32 of ids [B, L] or embeddings [B, L, hidden], which are all of them tokens.

        `position_ids` [B, L]; `vision_experts` [B, L] says which are read by the experts, None means none.
        """
        states = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        if past_key_values is None and use_cache:
            past_key_values = transformers.DynamicCache()
        if vision_experts is None:
            vision_experts = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
        angles = position_ids.to(states.dtype)[..., None] * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        turns = angles.cos(), angles.sin()
        for layer in self.model["layers"]:
            states = layer(states, vision_experts, turns, past_key_values)
        logits = self.lm_head(self.model["norm"](states)).float()
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        attention_mask: Any = None,
        *,
        prompt: Any,
        **_: Any,
    ) -> dict[str, Any]:
        """Arguments of the next call. `prompt` has the prompt's positions and experts [1, L]; `input_ids` are new."""
        beams, read = len(input_ids), past_key_values.get_seq_length() if past_key_values is not None else 0
        if read == 0:
            expanded = {name: values.expand(beams, -1) for name, values in prompt.items()}
            return {"inputs_embeds": inputs_embeds, "past_key_values": past_key_values, **expanded}
        positions = prompt["position_ids"]
        position = (positions[:, -1:] + 1 + read - positions.shape[1]).expand(beams, -1)
        return {"input_ids": input_ids[:, -1:], "past_key_values": past_key_values, "position_ids": position}


def load(settings: dict[str, Any], dtype: torch.dtype) -> Any:
    """The language model of the checkpoint's folder, on the CPU, in `dtype`.

    Raises ValueError, naming folder and remedy, when its weights are not there or are those of another model.
    """
    folder = Path(settings["checkpoint"])
    stated: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if NEXT_GENERATION in stated:
        raise ValueError(f"{folder} is CogVLM2 (config.json has {NEXT_GENERATION}): give one of cogvlm-chat-hf")
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as tensors:
            names = [name for name in tensors.keys() if not name.startswith(VISION)]  # noqa: SIM118 (not a mapping)
            weights.update({name: tensors.get_tensor(name).to(dtype) for name in names})
    if not weights:
        raise ValueError(f"{folder} holds no .safetensors file: download the checkpoint's weights again")
    config = transformers.PretrainedConfig(**stated)
    frequencies = [weights.pop(name) for name in list(weights) if name.endswith(FREQUENCIES)]
    with torch.device("meta"):
        model = CogvlmLlm(config)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as problem:
        raise ValueError(f"{folder} is not a checkpoint of CogVLM's first generation: {problem}") from None
    width = config.hidden_size // config.num_attention_heads
    computed = 1 / BASE ** (torch.arange(0, width, 2) / width)
    model.frequencies = (frequencies or [computed])[0].to(dtype)
    return model
