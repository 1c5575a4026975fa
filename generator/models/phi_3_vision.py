"""Phi-3-vision: CLIP-L/14 at 336 pixels over a grid of crops and a global view, patches merged 2 x 2, Phi-3.

Sources: the code that microsoft/Phi-3-vision-128k-instruct comes with (image processor, hd_feature_transform);
TensorRT-LLM `multimodal_builder.py` up to 0.14, which built this encoder; later releases run it in torch.
"""

from collections.abc import Mapping
from typing import Any

from generator.models.llava import CLIP_MEAN, CLIP_STD
from generator.sizes import CLIP_L_336, PHI_3_MINI
from generator.spec import (
    MERLION,
    WITH_ATTENTION_PLUGIN,
    Acceptance,
    BuildSpec,
    CheckpointSpec,
    Conversation,
    Evidence,
    LayoutSpec,
    ModelSpec,
    PixelSpec,
    PromptSpec,
    Tokens,
    TorchSpec,
    Variant,
)

TILE = 336
SIDE = 12
CROPS = 16


def largest(settings: Mapping[str, Any]) -> tuple[int, int]:
    """All crops and the global view; all crops in one column have the most line ends."""
    entries, side = settings["max_crops"] + 1, settings["rows_per_side"]
    return entries, entries * side**2 + 1 + entries * side


def smallest(settings: Mapping[str, Any]) -> tuple[int, int]:
    """One crop and the global view, their line ends and the separator."""
    side = settings["rows_per_side"]
    return 2 * side**2, 2 * side**2 + 1 + 2 * side


SPEC = ModelSpec(
    name="phi-3-vision",
    title="Phi-3-vision",
    variants=(
        Variant(
            name="Phi-3-vision-128k-instruct",
            source="microsoft/Phi-3-vision-128k-instruct",
            hidden_size=3072,
            llm_size=PHI_3_MINI,
            tower=CLIP_L_336,
            vocab_size=32064,
            max_positions=131072,
            short_positions=4096,
            rows_per_image=SIDE**2,
            pixels=PixelSpec(steps=(), shape=(3, TILE, TILE), mean=CLIP_MEAN, std=CLIP_STD, resample=2),
            conversation=Conversation(
                "phi-3",
                "<|user|>\n{text}<|end|>\n<|assistant|>\n",
                stop_words=("<|end|>",),
                following="{answer}<|end|>\n<|user|>\n{text}<|end|>\n<|assistant|>\n",
            ),
            tokens=Tokens(bos=1, end=32000, pad=32000),
        ),
    ),
    engine_model_types=("phi-3-vision",),
    checkpoint_model_types=("phi3_v",),
    image_mark="<image>",
    image_token=False,
    image_prefix="<image>\n",
    prompt=PromptSpec("tagged_prompt", image_tag="<|image_NUMBER|>"),
    layout=LayoutSpec(
        "hd_tiles",
        {"max_crops": CROPS, "tile": TILE, "rows_per_side": SIDE},
        largest=largest,
        smallest=smallest,
        in_order=False,
        from_processor={"max_crops": "num_crops"},
    ),
    checkpoint=CheckpointSpec(llm=""),
    constant_rows=2,
    constants=("image_newlines.safetensors", ("sub_GN", "glb_GN")),
    default_release="0.14.0",  # the last whose script builds this encoder
    max_images=None,
    default_images=1,
    torch=TorchSpec("phi3_vision", llm_module="phi3_vision_llm"),
    build=BuildSpec(
        converter="phi",
        vision_arguments="--model_type phi-3-vision",
        engines=(WITH_ATTENTION_PLUGIN,),
        vision_counts_images=True,
        untried=dict.fromkeys(("int8_wo", "int4_wo"), "its converter offers it, the guide never builds it"),
        no_pipeline="its converter refuses pipeline parallelism",
        notes=("The guide's 4608 positions cross the 4096 where the model changes its position factors.",),
    ),
    evidence=Evidence(
        "transformers: CLIP and Phi3; the HD transform and arrangement of the model's own code composed anew",
        truth="phi3_vision:Phi3VisionOracle",
        original="equal pixels, ids and features",
        acceptance=Acceptance(MERLION, "Which city is this?", ("singapore",)),
    ),
)
