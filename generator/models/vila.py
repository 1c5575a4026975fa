"""VILA-1.5: SigLIP or InternViT, a projector that merges 2 x 2 patches, Llama. Several images in one prompt.

Sources: NVlabs/VILA (branch vila1.5 and main of 2024-09): conversation templates, `process_images`, `mlp_downsample`,
training scripts for towers and sizes; TensorRT-LLM `multimodal_builder.py` (VilaVisionWrapper) for the engine.
Hidden and vocabulary sizes of the 8b and 40b siblings are those of their base LLMs; an engine's or a checkpoint's own
numbers take precedence.
"""

from generator.models.llava import NO_SMOOTHQUANT
from generator.sizes import INTERN_VIT_6B, LLAMA_2_13B, LLAMA_3_8B, SHEARED_LLAMA_2_7B, SIGLIP_SO_384, YI_34B, LlmSize
from generator.spec import (
    MERLION,
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

VICUNA_V1 = Conversation(
    "vicuna_v1",
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: {text} ASSISTANT:",
    following=" {answer}</s>USER: {text} ASSISTANT:",
)
# The original code spells out the begin token and its tokenizer adds another: the model has always seen two.
LLAMA_3 = Conversation(
    "llama_3",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, and assist the user with a variety of "
    "tasks using natural language.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    stop_words=("<|eot_id|>",),
    following="{answer}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
)
HERMES_2 = Conversation(
    "hermes-2",
    "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n",
    stop_words=("<|im_end|>",),
    following="{answer}<|im_end|><|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n",
)

SIGLIP_384 = PixelSpec(
    steps=(("resize", 384, 384), ("on_white",)),
    shape=(3, 384, 384),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
INTERN_VIT_448 = PixelSpec(
    steps=(("resize", 448, 448), ("on_white",)),
    shape=(3, 448, 448),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)

VICUNA_TOKENS = Tokens(bos=1, end=2, pad=0)
IN_THE_STREET = (
    "the image captures a bustling city intersection teeming with life. from the perspective of a car's dashboard "
    "camera, we see"
)
BY_THE_MERLION = (
    "the image captures the iconic merlion statue in singapore, a renowned worldwide landmark. the merlion, a mythical"
)
TWO_SCALES = "its tower looks at the image at two scales (384 and 768 pixels), which is not supported"


def _siglip(
    name: str,
    hidden_size: int,
    llm_size: LlmSize,
    *,
    source: str = "",
    vocab_size: int = 32000,
    max_positions: int = 4096,
    conversation: Conversation = VICUNA_V1,
    tokens: Tokens = VICUNA_TOKENS,
    refused: str = "",
) -> Variant:
    return Variant(
        name=name,
        source=source or f"Efficient-Large-Model/{name.replace('vila', 'VILA')}",
        hidden_size=hidden_size,
        llm_size=llm_size,
        tower=SIGLIP_SO_384,
        vocab_size=vocab_size,
        max_positions=max_positions,
        rows_per_image=196,  # 27 x 27 patches, padded to 28 x 28 and merged 2 x 2
        pixels=SIGLIP_384,
        conversation=conversation,
        tokens=tokens,
        refused=refused,
    )


WITH_LLAMA_3 = {
    "vocab_size": 128256,
    "max_positions": 8192,
    "conversation": LLAMA_3,
    "tokens": Tokens(bos=128000, end=128001, pad=128001),
}

SPEC = ModelSpec(
    name="vila",
    title="VILA-1.5",
    variants=(
        _siglip("vila1.5-3b", 2560, SHEARED_LLAMA_2_7B),
        _siglip("vila1.5-8b", 4096, LLAMA_3_8B, source="Efficient-Large-Model/Llama-3-VILA1.5-8B", **WITH_LLAMA_3),  # type: ignore[arg-type]
        _siglip("vila1.5-13b", 5120, LLAMA_2_13B),
        Variant(
            name="vila1.5-40b",
            source="Efficient-Large-Model/VILA1.5-40b",
            hidden_size=7168,
            llm_size=YI_34B,
            tower=INTERN_VIT_6B,
            vocab_size=64000,
            max_positions=4096,
            rows_per_image=256,  # 32 x 32 patches merged 2 x 2
            pixels=INTERN_VIT_448,
            conversation=HERMES_2,
            tokens=Tokens(bos=1, end=2, pad=0),
            no_torch="its InternViT-6B tower is not in transformers and would run code from the checkpoint",
        ),
        _siglip("vila1.5-3b-s2", 2560, SHEARED_LLAMA_2_7B, refused=TWO_SCALES),
        _siglip(
            "vila1.5-8b-s2",
            4096,
            LLAMA_3_8B,
            source="Efficient-Large-Model/Llama-3-VILA1.5-8B-s2",
            refused=TWO_SCALES,
        ),
    ),
    engine_model_types=("vila",),
    checkpoint_model_types=("llava_llama",),
    image_mark="<image>",
    image_token=False,
    image_prefix="<image>\n",
    torch=TorchSpec("vila_layout"),
    build=BuildSpec(
        converter="llama",
        vision_arguments='--model_type vila --vila_path "$VILA_PATH"',
        fused_mlp=True,
        vila_sources=True,
        quantizations=("int8_wo", "int4_wo", "int4_awq", "fp8"),
        not_quantized=NO_SMOOTHQUANT,
        notes=(
            "The guide's table of 4096 rows is no number of the model: an image has 196 (40b: 256).",
            "The guide clones VILA's main branch, which became NVILA; the converter needs branch vila1.5.",
        ),
    ),
    llm_folder="llm",
    max_images=None,
    default_images=4,
    evidence=Evidence(
        "transformers: Siglip and Llama; VILA's projector and prompt rules composed anew",
        truth="vila:VilaOracle",
        original="equal pixels, ids and projector",
        acceptance=Acceptance(
            f"av.png of VILA's demo_images, or {MERLION}",
            "<image>\n Please elaborate what you see in the images?",
            (IN_THE_STREET, BY_THE_MERLION),
            exact=True,
        ),
    ),
)
