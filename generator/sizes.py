"""Sizes of language models and vision towers, for memory plans made before there is an engine to weigh.

Source: the config.json of each base model. A checkpoint's or an engine's own numbers take precedence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LlmSize:
    """An LLM, or the decoder of one with an encoder: `kv_heads` heads of `head_size` are cached in each layer."""

    parameters: int
    layers: int
    kv_heads: int
    head_size: int
    intermediate_size: int


@dataclass(frozen=True)
class TowerSize:
    """A vision tower with its projector: it sees an image as `tokens` of `width` values. 0 heads: no attention."""

    parameters: int
    tokens: int
    width: int
    heads: int


@dataclass(frozen=True)
class Sizes:
    """What files and specs say of the two engines; None = not known yet."""

    llm: LlmSize | None
    llm_rank_bytes: int | None
    llm_num_tokens: int
    llm_value_bytes: float
    kv_value_bytes: int
    tower: TowerSize | None
    vision_bytes: int | None


OPT_2_7B = LlmSize(2_650_000_000, 32, 32, 80, 10240)
OPT_6_7B = LlmSize(6_660_000_000, 32, 32, 128, 16384)
PERSIMMON_8B = LlmSize(9_400_000_000, 36, 64, 64, 16384)
KOSMOS_2_TEXT = LlmSize(1_340_000_000, 24, 32, 64, 8192)
LLAMA_2_7B = LlmSize(6_740_000_000, 32, 32, 128, 11008)
LLAMA_2_13B = LlmSize(13_020_000_000, 40, 40, 128, 13824)
SHEARED_LLAMA_2_7B = LlmSize(2_700_000_000, 32, 20, 128, 6912)
LLAMA_3_8B = LlmSize(8_030_000_000, 32, 8, 128, 14336)
MISTRAL_7B = LlmSize(7_250_000_000, 32, 8, 128, 14336)
YI_34B = LlmSize(34_400_000_000, 60, 8, 128, 20480)
NEMOTRON_3_8B = LlmSize(8_540_000_000, 32, 32, 128, 16384)
PHI_3_MINI = LlmSize(3_820_000_000, 32, 32, 96, 8192)
COGVLM_LLM = LlmSize(13_220_000_000, 32, 32, 128, 11008)  # Llama-2-7B and a second set of weights for image tokens
PIX2STRUCT_DECODER = LlmSize(190_000_000, 12, 12, 64, 2048)
NOUGAT_BASE_DECODER = LlmSize(275_000_000, 10, 16, 64, 4096)
NOUGAT_SMALL_DECODER = LlmSize(175_000_000, 4, 16, 64, 4096)
FLAN_T5_XL = LlmSize(2_850_000_000, 24, 32, 64, 5120)
FLAN_T5_XXL = LlmSize(11_140_000_000, 24, 64, 64, 10240)

CLIP_L_224 = TowerSize(305_000_000, 257, 1024, 16)
CLIP_L_336 = TowerSize(326_000_000, 577, 1024, 16)
EVA_G_QFORMER = TowerSize(1_100_000_000, 257, 1408, 16)
EVA2_CLIP_E = TowerSize(4_400_000_000, 1226, 1792, 16)
SIGLIP_SO_384 = TowerSize(443_000_000, 729, 1152, 16)
INTERN_VIT_6B = TowerSize(5_940_000_000, 1025, 3200, 25)
FUYU_PATCHES = TowerSize(11_000_000, 2304, 4096, 0)
PIX2STRUCT_ENCODER = TowerSize(92_000_000, 2048, 768, 12)
DONUT_SWIN = TowerSize(74_000_000, 37632, 128, 0)  # attention is within windows of 49 or 100 tokens


def llm_size(config: Mapping[str, Any], hidden_size: int, vocab_size: int) -> LlmSize | None:
    """The size that a checkpoint's config.json or an engine's pretrained_config states; None where it is silent.

    Norms and biases are left out, which is under 0.3 % of the parameters.
    """

    def number(*keys: str) -> int:
        found = (config.get(key) for key in keys)
        return next((value for value in found if isinstance(value, int) and value > 0), 0)

    layers, heads = number("num_hidden_layers", "num_layers"), number("num_attention_heads")
    inner = number("intermediate_size", "ffn_dim", "ffn_hidden_size")
    if not (layers and heads and inner):
        return None
    kv_heads = number("num_key_value_heads", "num_query_groups") or heads
    head_size = number("head_size", "head_dim", "kv_channels") or hidden_size // heads
    activation = str(config.get("hidden_act") or config.get("activation_function") or config.get("activation", "silu"))
    matrices = 3 if activation in ("silu", "swiglu", "fast-swiglu", "geglu") else 2
    attention = 2 * hidden_size * head_size * (heads + kv_heads)
    tied = config.get("tie_word_embeddings") or config.get("share_embeddings_and_output_weights")
    embeddings = vocab_size * hidden_size * (1 if tied else 2)
    parameters = embeddings + layers * (attention + matrices * hidden_size * inner)
    return LlmSize(parameters, layers, kv_heads, head_size, inner)
