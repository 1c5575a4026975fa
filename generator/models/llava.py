"""LLaVA-1.5: CLIP-L/14 at 336 pixels, two-layer projector, Vicuna. One image of 576 rows.

Sources: TensorRT-LLM `multimodal_builder.py` (LlavaVisionWrapper) for the engine; llava-hf/llava-1.5-* for sizes;
transformers' LlavaProcessor and CLIPImageProcessor for prompt and pixels (one BOS, and the newline behind the image,
where TensorRT-LLM's own runner has two BOS and the newline before it).
"""

from generator.sizes import CLIP_L_336, LLAMA_2_7B, LLAMA_2_13B, LlmSize
from generator.spec import (
    MERLION,
    WHICH_CITY,
    Acceptance,
    BuildSpec,
    Conversation,
    Evidence,
    ModelSpec,
    PixelSpec,
    Tokens,
    TorchSpec,
    Variant,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

PIXELS = PixelSpec(
    steps=(("on_white",), ("resize_shortest", 336), ("center_crop", 336, 336)),
    shape=(3, 336, 336),
    mean=CLIP_MEAN,
    std=CLIP_STD,
)

NO_SMOOTHQUANT = (
    "the guide names SmoothQuant, but its converter stops at every LLaVA and VILA (llama/convert.py refuses them)"
)


def _variant(name: str, hidden_size: int, llm_size: LlmSize) -> Variant:
    return Variant(
        name=name,
        source=f"llava-hf/{name}",
        hidden_size=hidden_size,
        llm_size=llm_size,
        tower=CLIP_L_336,
        vocab_size=32064,  # 32000 + <image> + <pad>, padded to a multiple of 64 by transformers' conversion script
        max_positions=4096,
        rows_per_image=576,  # (336 / 14) ** 2, the class token dropped
        pixels=PIXELS,
        conversation=Conversation("vicuna", "USER: {text} ASSISTANT:", following=" {answer} USER: {text} ASSISTANT:"),
        tokens=Tokens(bos=1, end=2, pad=32001, image=32000),
    )


SPEC = ModelSpec(
    name="llava",
    title="LLaVA-1.5",
    variants=(_variant("llava-1.5-7b-hf", 4096, LLAMA_2_7B), _variant("llava-1.5-13b-hf", 5120, LLAMA_2_13B)),
    engine_model_types=("llava",),
    checkpoint_model_types=("llava",),
    image_mark="<image>",
    image_token=True,
    image_prefix="<image>\n",
    torch=TorchSpec("hf_llava"),
    build=BuildSpec(
        converter="llama",
        vision_arguments="--model_type llava",
        fused_mlp=True,
        quantizations=("int8_wo", "int4_wo", "int4_awq", "fp8"),
        not_quantized=NO_SMOOTHQUANT,
        notes=("The guide builds the vision engine for 4 images whatever the LLM's batch is.",),
    ),
    max_images=1,
    evidence=Evidence(
        "transformers: LlavaForConditionalGeneration, LlavaProcessor",
        truth="llava:LlavaOracle",
        acceptance=Acceptance(MERLION, WHICH_CITY, ("singapore",), exact=True),
    ),
)
