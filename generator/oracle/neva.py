"""NeVA out of a NeMo archive: tower and LLM by transformers, tokens by sentencepiece, the rest composed here.

The language model is Nemotron's architecture (layernorm1p, squared ReLU, rotary positions in half of each head), which
transformers has; NeMo's own conversion script tells where each weight belongs.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor  # type: ignore[import-untyped]
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    CLIPVisionModel,
    NemotronConfig,
    NemotronForCausalLM,
    SiglipVisionModel,
)

from generator.oracle.common import MARK, Checkpoint, Image, Oracle, open_image, with_pillow

BFloat16 = NDArray[Any]
"""numpy has no bf16: float32 arrays of values that bf16 holds exactly."""
ADAPTER = "model.embedding.word_embeddings.adapter_layer.mm_projector_adapter.mm_projector."
TOWERS = {"siglip": SiglipVisionModel, "clip": CLIPVisionModel}


class NevaOracle(Oracle):
    """Truth of a NeVA checkpoint: `folder` holds neva.nemo and the tower's folder. bf16 on the CPU.

    Each request has one image, which stands at a fixed place of the prompt. Pieces of the prompt are encoded on their
    own, without begin or end tokens.
    """

    image_id = -1
    before = "<extra_id_0>System\n\n<extra_id_1>User\n"
    after = "\n{text}\n<extra_id_1>Assistant\n"
    stop_words = ("<extra_id_1>", "<extra_id_7>")

    def __init__(self, folder: Path, language_model: str = "neva.nemo", projector: str = "neva.nemo") -> None:
        llm_config, weights, tokenizer = read_archive(folder / language_model)
        self.tokenizer = SentencePieceProcessor(model_proto=tokenizer)
        self.model = nemotron(llm_config, weights)
        self.end_ids = [self.tokenizer.eos_id(), *(self.tokenizer.piece_to_id(word) for word in self.stop_words)]
        self.pad_id = self.end_ids[0]  # the tokenizer has none

        self.config, weights, _ = read_archive(folder / projector)
        self.projector = {name.removeprefix(ADAPTER): weights[name] for name in weights if name.startswith(ADAPTER)}
        self.encoder = self.config["mm_cfg"]["vision_encoder"]
        tower = folder / Path(self.encoder["from_pretrained"]).name
        kind = json.loads((tower / "config.json").read_text())["model_type"]
        self.tower = TOWERS[kind].from_pretrained(tower, dtype=torch.bfloat16).eval()
        self.image_processor = with_pillow(AutoImageProcessor, tower)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> NevaOracle:
        archive = checkpoint.folder
        return cls(archive.parent, archive.name, archive.name) if archive.is_file() else cls(archive)

    def prompt(self, text: str, images: int, raw: bool = False) -> str:
        """Here the mark shows where the image stands; `text` may hold it only if `raw`."""
        prompt = text if raw else self.before + MARK + self.after.replace("{text}", text)
        if images != 1 or prompt.count(MARK) != 1:
            raise ValueError(f"the prompt takes one image, {images} were given, and no {MARK} in {text!r}")
        return prompt

    def ids(self, text: str, images: Sequence[Any] = (), raw: bool = False) -> list[int]:
        before, after = (self.tokenizer.encode(piece) for piece in self.prompt(text, len(images), raw).split(MARK))
        return [*before, *[self.image_id] * self.rows_per_image, *after]

    @property
    def rows_per_image(self) -> int:
        side = self.tower.config.image_size // self.tower.config.patch_size
        class_tokens = 1 if hasattr(self.tower.config, "projection_dim") else 0  # CLIP has one, SigLIP none
        return int(side * side + class_tokens - self.encoder["class_token_length"])

    def pixels(self, images: Sequence[Image]) -> BFloat16:
        """By the processor in the tower's folder: [n, 3, S, S]."""
        opened = [open_image(image) for image in images]
        pixels: torch.Tensor = self.image_processor(opened, return_tensors="pt")["pixel_values"]
        return pixels.bfloat16().float().numpy()  # type: ignore[no-any-return]

    def rows(self, pixels: BFloat16) -> BFloat16:
        with torch.inference_mode():
            states = self.tower(torch.from_numpy(pixels).bfloat16(), output_hidden_states=True).hidden_states
            patches = states[self.encoder["vision_select_layer"]][:, self.encoder["class_token_length"] :]
            return self.project(patches).float().numpy()  # type: ignore[no-any-return]

    def project(self, patches: torch.Tensor) -> torch.Tensor:
        """[..., c] to [..., h]: two linear layers with GELU between them."""
        first, second = ((self.projector[f"{at}.weight"], self.projector[f"{at}.bias"]) for at in (0, 2))
        return functional.linear(functional.gelu(functional.linear(patches, *first)), *second)

    def continuation(self, ids: Sequence[int], rows: BFloat16 | None, max_new_tokens: int) -> list[int]:
        """As the base class has it, in bf16."""
        sequence = torch.tensor([list(ids)])
        is_image = sequence == self.image_id
        embedded = self.model.get_input_embeddings()(sequence.masked_fill(is_image, 0))
        given = np.zeros((0, 1, embedded.shape[-1]), np.float32) if rows is None else rows
        flat = torch.from_numpy(np.ascontiguousarray(given)).flatten(0, 1).to(embedded)
        if len(flat) != int(is_image.sum()):
            raise ValueError(f"{int(is_image.sum())} image positions but {len(flat)} vision rows")
        embedded[is_image] = flat
        return self._generate(max_new_tokens, inputs_embeds=embedded, attention_mask=torch.ones_like(sequence))

    def text(self, ids: Sequence[int]) -> str:
        """Text of new token ids. The stop word is none of the answer's text; NeMo strips it, too."""
        return str(self.tokenizer.decode([token for token in ids if token not in self.end_ids]))


def read_archive(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], bytes]:
    """Configuration, weights and tokenizer.model of a .nemo file."""
    with tarfile.open(file) as archive:
        members = {Path(member.name).name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    config = yaml.safe_load(members["model_config.yaml"])
    with torch.serialization.safe_globals([BytesIO, bytes]):
        weights = torch.load(BytesIO(members["model_weights.ckpt"]), weights_only=True)
    return config, weights, members[config["tokenizer"]["model"].removeprefix("nemo:")]


def nemotron(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    """Megatron's GPT with squared ReLU and layernorm1p as transformers' Nemotron, bf16."""
    expected = {"activation": "squared-relu", "normalization": "layernorm1p", "bias": False}
    if {name: config[name] for name in expected} != expected:
        raise ValueError(f"the oracle knows Nemotron's architecture only, {expected}")
    heads = config["num_attention_heads"]
    groups = config["num_query_groups"] or heads
    hf_config = NemotronConfig(
        bos_token_id=None,
        eos_token_id=None,
        hidden_act="relu2",
        hidden_size=config["hidden_size"],
        intermediate_size=config["ffn_hidden_size"],
        max_position_embeddings=config["max_position_embeddings"],
        norm_eps=config["layernorm_epsilon"],
        num_attention_heads=heads,
        num_hidden_layers=config["num_layers"],
        num_key_value_heads=groups,
        partial_rotary_factor=config["rotary_percentage"],
        vocab_size=len(weights["model.embedding.word_embeddings.weight"]),
    )
    state = {
        "model.embed_tokens.weight": weights["model.embedding.word_embeddings.weight"],
        "model.norm.weight": weights["model.decoder.final_layernorm.weight"],
        "model.norm.bias": weights["model.decoder.final_layernorm.bias"],
        "lm_head.weight": weights["model.output_layer.weight"],
    }
    for number in range(config["num_layers"]):
        state |= _layer(
            weights,
            f"model.decoder.layers.{number}.",
            f"model.layers.{number}.",
            groups,
            config["hidden_size"] // heads,
        )
    model, report = NemotronForCausalLM.from_pretrained(
        None, config=hf_config, state_dict=state, dtype=torch.bfloat16, output_loading_info=True
    )
    if any(report.values()):
        raise ValueError(f"weights do not fit: {report}")
    return model.eval()


def _layer(
    weights: dict[str, torch.Tensor], theirs: str, ours: str, groups: int, head_size: int
) -> dict[str, torch.Tensor]:
    """A layer's weights. In the fused projection every group has its queries, then one key head, one value head."""
    fused = weights[f"{theirs}self_attention.linear_qkv.weight"]
    hidden = fused.shape[1]
    by_group = fused.view(groups, -1, head_size, hidden)
    return {
        f"{ours}self_attn.q_proj.weight": by_group[:, :-2].reshape(-1, hidden),
        f"{ours}self_attn.k_proj.weight": by_group[:, -2].reshape(-1, hidden),
        f"{ours}self_attn.v_proj.weight": by_group[:, -1].reshape(-1, hidden),
        f"{ours}self_attn.o_proj.weight": weights[f"{theirs}self_attention.linear_proj.weight"],
        f"{ours}mlp.up_proj.weight": weights[f"{theirs}mlp.linear_fc1.weight"],
        f"{ours}mlp.down_proj.weight": weights[f"{theirs}mlp.linear_fc2.weight"],
        f"{ours}input_layernorm.weight": weights[f"{theirs}self_attention.linear_qkv.layer_norm_weight"],
        f"{ours}input_layernorm.bias": weights[f"{theirs}self_attention.linear_qkv.layer_norm_bias"],
        f"{ours}post_attention_layernorm.weight": weights[f"{theirs}mlp.linear_fc1.layer_norm_weight"],
        f"{ours}post_attention_layernorm.bias": weights[f"{theirs}mlp.linear_fc1.layer_norm_bias"],
    }
