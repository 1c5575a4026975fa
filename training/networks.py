"""The two networks, built of the very classes that serving loads, and how their checkpoints are written.

Both have a tower of 8 x 8 patches and the same small Llama. VILA merges 2 x 2 patches into one row of its prompt table
(16 rows an image), LLaVA has a row for every patch (64).
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from training import texts
from training.texts import write_json

SIDE = 96
PATCHES = 8
VISION_HIDDEN = 96
HIDDEN = 96
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def llama(vocab_size: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": 256,
        "max_position_embeddings": 2048,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": vocab_size,
    }


def tower(model_type: str, **more: Any) -> dict[str, Any]:
    """A tower whose last layer is not read, as those of the published models."""
    return {
        "hidden_size": VISION_HIDDEN,
        "image_size": SIDE,
        "intermediate_size": 256,
        "model_type": model_type,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "patch_size": SIDE // PATCHES,
        **more,
    }


class Network(nn.Module):  # type: ignore[misc]
    """What training and checkpoints need of a model.

    Attributes:
        llm: the language model, LlamaForCausalLM or its twin inside LLaVA: `llm(inputs_embeds=...)`.
        mean, std: of the pixels, for values of 0..1.
        grid: side of the grid whose cells the rows are; `columns_first` where rows run down columns.
        system, image_id: of the prompts. tokenizer: the sub-folder of the checkpoint with the tokenizer.
        most_images: in one prompt.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    grid: int
    columns_first: bool
    system: str
    image_id: int | None
    tokenizer: str
    most_images: int
    tower: nn.Module

    @abstractmethod
    def rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [n, 3, SIDE, SIDE] to rows of the prompt table [n, grid * grid, HIDDEN]."""

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The Llama without its head."""

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """Hidden states to logits."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the checkpoint in fp16, in the published layout, with tokenizer and processor."""

    @abstractmethod
    def write_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files into a checkpoint's folder."""

    def begin_with(self, other: Network) -> None:
        """Start from what another network has learnt; weights that it does not have, or not in this shape, stay."""
        if self.name == other.name:
            self.load_state_dict(other.state_dict())
            return
        for mine, its in ((self.decoder, other.decoder), (self.head, other.head), (self.tower, other.tower)):
            _take(mine, its)


def _take(mine: nn.Module, its: nn.Module) -> None:
    theirs = its.state_dict()
    with torch.no_grad():
        for name, weight in mine.state_dict().items():
            if name not in theirs or weight.shape[1:] != theirs[name].shape[1:]:
                continue
            rows = min(len(weight), len(theirs[name]))  # of embeddings: one may have tokens or places more
            if "position" in name:
                weight[-rows:] = theirs[name][-rows:]  # the class token's comes first
            else:
                weight[:rows] = theirs[name][:rows]


def second_last(tower: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """The hidden states before the tower's last layer, which is not run."""
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, None)
    return hidden


class Vila(Network):
    name = "vila"
    mean = std = (0.5, 0.5, 0.5)
    grid, columns_first = PATCHES // 2, True
    system, image_id, tokenizer = texts.VILA_SYSTEM, None, "llm"
    most_images = 2

    def __init__(self) -> None:
        super().__init__()
        self.tower_config = tower("siglip_vision_model", architectures=["SiglipVisionModel"], vision_use_head=False)
        self.llm_config = llama(texts.PIECES)
        self.tower = SiglipVisionModel(SiglipVisionConfig.from_dict(self.tower_config))
        merged = 4 * VISION_HIDDEN
        self.projector = nn.Sequential(
            nn.LayerNorm(merged), nn.Linear(merged, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN)
        )
        self.llm = LlamaForCausalLM(LlamaConfig.from_dict(self.llm_config))

    @property
    def decoder(self) -> nn.Module:
        return self.llm.model

    @property
    def head(self) -> nn.Module:
        return self.llm.lm_head

    def rows(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = second_last(self.tower, self.tower.embeddings(pixels))
        blocks = hidden.reshape(-1, self.grid, 2, self.grid, 2, VISION_HIDDEN)  # [n, row, down, column, right, c]
        merged = blocks.permute(0, 3, 1, 2, 4, 5).reshape(len(pixels), self.grid**2, 4 * VISION_HIDDEN)
        rows: torch.Tensor = self.projector(merged)
        return rows

    def write_tokenizer(self, folder: Path) -> None:
        texts.write_tokenizer(folder / self.tokenizer)

    def write(self, folder: Path) -> None:
        self.write_tokenizer(folder)
        _save(self.llm.state_dict(), folder / "llm", self.llm_config)
        write_json(folder / "llm/generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
        tower_config = {**self.tower_config, "torch_dtype": "float16"}
        weights = {f"vision_model.{name}": weight for name, weight in self.tower.state_dict().items()}
        _save(weights, folder / "vision_tower", tower_config)
        processor = _processor("SiglipImageProcessor", self.mean, self.std)
        write_json(
            folder / "vision_tower/preprocessor_config.json", {**processor, "size": {"height": SIDE, "width": SIDE}}
        )
        projector = {
            "architectures": ["MultimodalProjector"],
            "mm_projector_type": "mlp_downsample",
            "model_type": "v2l_projector",
            "torch_dtype": "float16",
        }
        numbered = {f"layers.{place + 1}": part for place, part in enumerate(self.projector)}  # 0 is the merge
        weights = {f"{name}.{key}": w for name, part in numbered.items() for key, w in part.state_dict().items()}
        _save(weights, folder / "mm_projector", projector)
        write_json(
            folder / "config.json",
            {
                "architectures": ["LlavaLlamaModel"],
                "hidden_size": HIDDEN,
                "image_aspect_ratio": "resize",
                "interpolate_mode": "linear",
                "llm_cfg": self.llm_config,
                "mm_hidden_size": VISION_HIDDEN,
                "mm_projector_cfg": projector,
                "mm_use_im_patch_token": False,
                "mm_use_im_start_end": False,
                "mm_vision_select_feature": "cls_patch",
                "mm_vision_select_layer": -2,
                "model_dtype": "torch.float16",
                "model_type": "llava_llama",
                "num_video_frames": 8,
                "s2": False,
                "vision_resolution": -1,
                "vision_tower_cfg": tower_config,
            },
        )


class Llava(Network):
    name = "llava"
    mean, std = CLIP_MEAN, CLIP_STD
    grid, columns_first = PATCHES, False
    system, image_id, tokenizer = "", texts.PIECES, ""
    most_images = 1
    PUBLISHED: ClassVar[dict[str, str]] = {
        "lm_head.": "language_model.lm_head.",
        "model.language_model.": "language_model.model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.vision_tower.": "vision_tower.vision_model.",
    }

    def __init__(self) -> None:
        super().__init__()
        self.config = {
            "architectures": ["LlavaForConditionalGeneration"],
            "ignore_index": -100,
            "image_token_index": texts.PIECES,
            "model_type": "llava",
            "pad_token_id": texts.PIECES + 1,
            "projector_hidden_act": "gelu",
            "text_config": llama(texts.PIECES + 64),  # <image>, <pad>, and on to a multiple of 64
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "vision_config": tower("clip_vision_model", projection_dim=VISION_HIDDEN),
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        }
        whole = LlavaForConditionalGeneration(LlavaConfig.from_dict(self.config))
        self.whole = whole.float()  # its text_config asks for fp16
        self.tower: CLIPVisionModel = self.whole.model.vision_tower

    @property
    def decoder(self) -> nn.Module:
        return self.whole.model.language_model

    @property
    def head(self) -> nn.Module:
        return self.whole.lm_head

    def rows(self, pixels: torch.Tensor) -> torch.Tensor:
        embedded = self.tower.pre_layrnorm(self.tower.embeddings(pixels))
        rows: torch.Tensor = self.whole.model.multi_modal_projector(second_last(self.tower, embedded)[:, 1:])
        return rows

    def write_tokenizer(self, folder: Path) -> None:
        texts.write_tokenizer(folder, (texts.IMAGE, "<pad>"), padding_side="left", processor_class="LlavaProcessor")

    def write(self, folder: Path) -> None:
        self.write_tokenizer(folder)
        spelled = {}
        for name, weight in self.whole.state_dict().items():
            ours = next(prefix for prefix in self.PUBLISHED if name.startswith(prefix))
            spelled[self.PUBLISHED[ours] + name.removeprefix(ours)] = weight
        _save(spelled, folder, self.config)
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": self.config["pad_token_id"]}
        write_json(folder / "generation_config.json", ids)
        processor = {
            **_processor("CLIPImageProcessor", self.mean, self.std),
            "crop_size": {"height": SIDE, "width": SIDE},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "processor_class": "LlavaProcessor",
            "size": {"shortest_edge": SIDE},
        }
        write_json(folder / "preprocessor_config.json", processor)
        write_json(
            folder / "processor_config.json",
            {
                "image_token": texts.IMAGE,
                "num_additional_image_tokens": 1,
                "patch_size": SIDE // PATCHES,
                "processor_class": "LlavaProcessor",
                "vision_feature_select_strategy": "default",
            },
        )
        write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
NETWORKS: dict[str, type[Network]] = {"vila": Vila, "llava": Llava}


def _processor(kind: str, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    return {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(mean),
        "image_processor_type": kind,
        "image_std": list(std),
        "resample": 3,
        "rescale_factor": 1 / 255,
    }


def _save(weights: dict[str, torch.Tensor], folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: weight.detach().cpu().half().contiguous() for name, weight in weights.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
