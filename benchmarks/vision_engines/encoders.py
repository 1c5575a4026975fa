"""Checkpoints with the published encoders at their real sizes, random weights, and language models of no layers.

Sizes are those of the published config.json files, as transformers' documentation and conversion scripts state them.
Weights have the scale that keeps a signal's size from layer to layer, so that errors show; gains and biases vary.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from safetensors.torch import save_file
from torch import nn

VOCABULARY = 64  # of the absent language models
CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "image_size": 384,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
EVA_G = {
    "hidden_size": 1408,
    "image_size": 224,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_hidden_layers": 39,
    "patch_size": 14,
}
EVA2_E = {
    "dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 1792,
    "image_size": 490,
    "in_channels": 3,
    "intermediate_size": 15360,
    "layer_norm_eps": 1e-06,
    "num_heads": 16,
    "num_hidden_layers": 63,
    "num_positions": 1226,
    "patch_size": 14,
}
NEMO = "model.embedding.word_embeddings"
PROJECTOR = f"{NEMO}.adapter_layer.mm_projector_adapter.mm_projector"


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _noise(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator, device=generator.device)
    if len(shape) < 2:
        return 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
    inputs = noise.numel() // shape[0]
    return noise * inputs**-0.5


def _random(model: nn.Module, dtype: torch.dtype, scales: dict[str, float] | None = None) -> Any:
    """`scales`: factors of the weights whose names end so."""
    generator = torch.Generator(_device()).manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = next((factor for end, factor in (scales or {}).items() if name.endswith(end)), 1.0)
            weight.copy_(scale * _noise(name, tuple(weight.shape), generator))
    return model.to(dtype)


def _tensors(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator(_device()).manual_seed(9)
    return {name: _noise(name, shape, generator).to(dtype).cpu() for name, shape in shapes.items()}


def _save(
    folder: Path,
    made: type,
    config: Any,
    dtype: torch.dtype = torch.float16,
    scales: dict[str, float] | None = None,
) -> None:
    with torch.device(_device()):
        model = made(config)
    config.architectures = [made.__name__]
    _random(model, dtype, scales).save_pretrained(str(folder))


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def _llama(hidden: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": 0, "vocab_size": VOCABULARY}
    return {"model_type": "llama", "intermediate_size": 64, "num_attention_heads": 32, **sizes}


def _layers(sizes: dict[str, Any], fewer: int | None) -> dict[str, Any]:
    return sizes if fewer is None else {**sizes, "num_hidden_layers": fewer}


def llava(folder: Path, fewer: int | None) -> None:
    vision = {"model_type": "clip_vision_model", "image_size": 336, **_layers(CLIP_L, fewer)}
    config = transformers.LlavaConfig(vision_config=vision, text_config=_llama(4096), image_token_index=32)
    _save(folder, transformers.LlavaForConditionalGeneration, config)


def llava_next(folder: Path, fewer: int | None) -> None:
    vision = {"model_type": "clip_vision_model", "image_size": 336, **_layers(CLIP_L, fewer)}
    config = transformers.LlavaNextConfig(
        vision_config=vision,
        text_config=_llama(4096),
        image_token_index=32,
        image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    )
    _save(folder, transformers.LlavaNextForConditionalGeneration, config)


def _blip2(folder: Path, fewer: int | None, text: dict[str, Any]) -> None:
    config = transformers.Blip2Config(
        vision_config=_layers(EVA_G, fewer),
        qformer_config=_layers({"vocab_size": 30522, "encoder_hidden_size": 1408}, fewer),
        text_config=text,
        num_query_tokens=32,
    )
    _save(folder, transformers.Blip2ForConditionalGeneration, config)


def blip2_opt(folder: Path, fewer: int | None) -> None:
    sizes = {"hidden_size": 2560, "word_embed_proj_dim": 2560, "num_hidden_layers": 0, "vocab_size": VOCABULARY}
    _blip2(folder, fewer, {"model_type": "opt", "num_attention_heads": 32, "ffn_dim": 64, **sizes})


def blip2_t5(folder: Path, fewer: int | None) -> None:
    sizes = {"d_model": 2048, "num_layers": 0, "num_decoder_layers": 0, "vocab_size": VOCABULARY}
    _blip2(folder, fewer, {"model_type": "t5", "num_heads": 32, "d_kv": 64, "d_ff": 64, **sizes})


def kosmos_2(folder: Path, fewer: int | None) -> None:
    text = {"embed_dim": 2048, "layers": 0, "attention_heads": 32, "ffn_dim": 64, "vocab_size": VOCABULARY}
    config = transformers.Kosmos2Config(
        vision_config={"image_size": 224, **_layers(CLIP_L, fewer)}, text_config=text, latent_query_num=64
    )
    _save(folder, transformers.Kosmos2ForConditionalGeneration, config)


def fuyu(folder: Path, fewer: int | None) -> None:
    text = {"model_type": "persimmon", **{k: v for k, v in _llama(4096).items() if k != "model_type"}}
    config = transformers.FuyuConfig(text_config=text, **{k: v for k, v in text.items() if k != "model_type"})
    _save(folder, transformers.FuyuForCausalLM, config)


def vila(folder: Path, fewer: int | None) -> None:
    hidden, merged = 2560, 4 * 1152
    _write(
        folder / "config.json",
        {
            "model_type": "llava_llama",
            "image_aspect_ratio": "resize",
            "mm_projector_type": "mlp_downsample",
            "mm_vision_select_feature": "cls_patch",
            "mm_vision_select_layer": -2,
        },
    )
    _write(folder / "llm/config.json", _llama(hidden))
    tower = transformers.SiglipVisionConfig(**_layers(SIGLIP_SO400M, fewer), hidden_act="gelu_pytorch_tanh")
    _save(folder / "vision_tower", transformers.SiglipVisionModel, tower)
    _write(folder / "mm_projector/config.json", {"mm_projector_type": "mlp_downsample"})
    shapes: dict[str, tuple[int, ...]] = {"layers.1.weight": (merged,), "layers.1.bias": (merged,)}
    shapes |= {"layers.2.weight": (hidden, merged), "layers.2.bias": (hidden,)}
    shapes |= {"layers.4.weight": (hidden, hidden), "layers.4.bias": (hidden,)}
    save_file(_tensors(shapes, torch.float16), folder / "mm_projector/model.safetensors")


def phi_3_vision(folder: Path, fewer: int | None) -> None:
    vision, width, hidden = "model.vision_embed_tokens.", 1024, 3072
    config = transformers.CLIPVisionConfig(image_size=336, **_layers(CLIP_L, fewer))
    with torch.device(_device()):
        tower = transformers.CLIPVisionModel(config)
    inner = _random(getattr(tower, "vision_model", tower), torch.float16)
    weights = {f"{vision}img_processor.vision_model.{k}": v.cpu() for k, v in inner.state_dict().items()}
    shapes = {f"{vision}img_projection.0.weight": (hidden, 4 * width), f"{vision}img_projection.0.bias": (hidden,)}
    shapes |= {f"{vision}img_projection.2.weight": (hidden, hidden), f"{vision}img_projection.2.bias": (hidden,)}
    shapes |= {f"{vision}sub_GN": (1, 1, 1, 4 * width), f"{vision}glb_GN": (1, 1, 4 * width)}
    weights |= _tensors(shapes, torch.float16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in weights.items() if "position_ids" not in k}, folder / "model.safetensors")
    _write(
        folder / "config.json",
        {
            "model_type": "phi3_v",
            "hidden_size": hidden,
            "vocab_size": VOCABULARY,
            "embd_layer": {"hd_transform_order": "sub_glb", "projection_cls": "mlp", "use_hd_transform": True},
            "img_processor": {"name": "clip_vision_model"},
        },
    )


def _nemo(file: Path, tower: str, adapter: str, shapes: dict[str, tuple[int, ...]], frames: int | None) -> None:
    multimodal = {
        "mm_mlp_adapter_type": adapter,
        "vision_encoder": {"class_token_length": 1, "from_pretrained": tower, "vision_select_layer": -2},
    }
    config: dict[str, Any] = {"hidden_size": 4096, "mm_cfg": multimodal}
    if frames:
        config["data"] = {"num_frames": frames}
    weights = _tensors({f"{NEMO}.weight": (VOCABULARY, 4096)}, torch.bfloat16)
    weights |= _tensors({f"{PROJECTOR}.{name}": shape for name, shape in shapes.items()}, torch.bfloat16)
    content = io.BytesIO()
    torch.save(weights, content)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        members = {"model_config.yaml": yaml.safe_dump(config).encode(), "model_weights.ckpt": content.getvalue()}
        for name, member in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(member)
            archive.addfile(entry, io.BytesIO(member))


def neva(folder: Path, fewer: int | None) -> None:
    tower = transformers.SiglipVisionConfig(**_layers(SIGLIP_SO400M, fewer), hidden_act="gelu_pytorch_tanh")
    _save(folder / "siglip", transformers.SiglipVisionModel, tower, torch.bfloat16)
    shapes = {"0.weight": (4096, 1152), "0.bias": (4096,), "2.weight": (4096, 4096), "2.bias": (4096,)}
    _nemo(folder / "neva.nemo", "siglip", "mlp2x_gelu", shapes, None)


def video_neva(folder: Path, fewer: int | None) -> None:
    tower = transformers.CLIPVisionConfig(image_size=224, **_layers(CLIP_L, fewer))
    _save(folder / "clip", transformers.CLIPVisionModel, tower, torch.bfloat16)
    shapes = {"weight": (4096, 1024), "bias": (4096,)}
    _nemo(folder / "projector.nemo", "clip", "linear", shapes, 12)
    _nemo(folder / "nemotron.nemo", "clip", "linear", shapes, None)


def nougat(folder: Path, fewer: int | None) -> None:
    depths = [2, 2, 14, 2] if fewer is None else [1, 1, 1, 1]
    encoder = transformers.DonutSwinConfig(
        image_size=[896, 672], depths=depths, embed_dim=128, num_heads=[4, 8, 16, 32], window_size=7
    )
    sizes: dict[str, Any] = {"d_model": 1024, "decoder_ffn_dim": 64, "decoder_layers": 1, "vocab_size": VOCABULARY}
    decoder = transformers.MBartConfig(is_decoder=True, add_cross_attention=True, scale_embedding=True, **sizes)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    _save(folder, transformers.VisionEncoderDecoderModel, config)


def deplot(folder: Path, fewer: int | None) -> None:
    layers = 12 if fewer is None else fewer
    config = transformers.Pix2StructConfig(
        vision_config={"num_hidden_layers": layers}, text_config={"num_layers": 1, "vocab_size": VOCABULARY}
    )
    # Its attention does not divide by the root of a head's width; trained weights have that in them.
    _save(folder, transformers.Pix2StructForConditionalGeneration, config, scales={"attention.query.weight": 64**-0.5})


def cogvlm(folder: Path, fewer: int | None) -> None:
    vision = _layers(EVA2_E, fewer)
    width, grown, hidden, gated = vision["hidden_size"], vision["intermediate_size"], 4096, 11008
    shapes: dict[str, tuple[int, ...]] = {
        "boi": (1, 1, hidden),
        "eoi": (1, 1, hidden),
        "linear_proj.linear_proj.weight": (hidden, width),
        "linear_proj.norm1.weight": (hidden,),
        "linear_proj.norm1.bias": (hidden,),
        "linear_proj.gate_proj.weight": (gated, hidden),
        "linear_proj.dense_h_to_4h.weight": (gated, hidden),
        "linear_proj.dense_4h_to_h.weight": (hidden, gated),
        "patch_embedding.cls_embedding": (1, width),
        "patch_embedding.position_embedding.weight": (vision["num_positions"], width),
        "patch_embedding.proj.weight": (width, 3, 14, 14),
        "patch_embedding.proj.bias": (width,),
    }
    linear = {"attention.query_key_value": (3 * width, width), "attention.dense": (width, width)}
    linear |= {"mlp.fc1": (grown, width), "mlp.fc2": (width, grown)}
    for number in range(vision["num_hidden_layers"]):
        layer = f"transformer.layers.{number}"
        for name, shape in linear.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{layer}.{name}.weight": (width,), f"{layer}.{name}.bias": (width,)}
    weights = _tensors({f"model.vision.{name}": shape for name, shape in shapes.items()}, torch.bfloat16)
    for number in range(vision["num_hidden_layers"]):
        # Norms come last in its layers: each adds two of unit size to a sum that nothing normalises before it is used.
        for name in ("attention.query_key_value", "mlp.fc1"):
            weights[f"model.vision.transformer.layers.{number}.{name}.weight"] *= (1 + 2 * number) ** -0.5
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    sizes = {"hidden_size": hidden, "intermediate_size": gated, "vocab_size": VOCABULARY, "num_hidden_layers": 0}
    _write(folder / "config.json", {"architectures": ["CogVLMForCausalLM"], "vision_config": vision, **sizes})


MAKERS: dict[str, Callable[[Path, int | None], None]] = {
    "blip2-opt": blip2_opt,
    "blip2-t5": blip2_t5,
    "cogvlm": cogvlm,
    "deplot": deplot,
    "fuyu": fuyu,
    "kosmos-2": kosmos_2,
    "llava": llava,
    "llava-next": llava_next,
    "neva": neva,
    "nougat": nougat,
    "phi-3-vision": phi_3_vision,
    "video-neva": video_neva,
    "vila": vila,
}
