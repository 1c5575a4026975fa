"""Video NeVA: CLIP-L/14 at 224 pixels over the frames of a clip, a linear projector, Nemotron-3.

Sources: TensorRT-LLM `multimodal_builder.py` (build_video_neva_engine) for the engine, `multimodal_model_runner.py` for
the SteerLM prompt; NeMo's video loader for frames: short clips repeat their last one, colours are RGB (NVIDIA's runner
reverses them, as NeMo did in May 2024 only: --frame-order bgr).
"""

from generator.models.llava import CLIP_MEAN, CLIP_STD
from generator.sizes import CLIP_L_224, NEMOTRON_3_8B
from generator.spec import (
    VIDEO,
    WITH_ATTENTION_PLUGIN,
    Acceptance,
    BuildSpec,
    CheckpointSpec,
    Conversation,
    Evidence,
    LayoutSpec,
    ModelSpec,
    Piece,
    PixelSpec,
    PromptSpec,
    TokenizerSpec,
    Tokens,
    TorchSpec,
    Variant,
)

FRAMES = 12
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
STEERING = "quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4"

SPEC = ModelSpec(
    name="video-neva",
    title="Video NeVA",
    variants=(
        Variant(
            name="nemotron-3",
            source="",
            hidden_size=4096,  # Nemotron-3-8B
            llm_size=NEMOTRON_3_8B,
            tower=CLIP_L_224,
            vocab_size=256000,
            max_positions=4352,  # what the guide builds for: 4096 trained positions and its answer
            rows_per_image=FRAMES * 256,
            pixels=PixelSpec(
                steps=(("on_white",), ("resize_shortest", 224), ("center_crop", 224, 224)),
                shape=(3, 224, 224),
                mean=CLIP_MEAN,
                std=CLIP_STD,
            ),
            conversation=Conversation("nv_steerlm", "{text}", stop_words=("<extra_id_1>", "<extra_id_7>")),
            tokens=Tokens(bos=1, end=2, pad=2),
        ),
    ),
    engine_model_types=("video-neva",),
    checkpoint_model_types=("nemo",),
    image_mark="<image>",
    image_token=False,
    image_prefix="",
    prompt=PromptSpec(
        "chat_sequence_prompt",
        before=(Piece(text=f"<extra_id_0>System\n{SYSTEM}\n\n<extra_id_1>User"),),
        after=(Piece(text=f"\n{{text}}\n<extra_id_1>Assistant\n<extra_id_2>{STEERING}\n"),),
    ),
    layout=LayoutSpec("video_frames", {"num_frames": FRAMES, "reverse_channels": False}),
    media=VIDEO,
    checkpoint=CheckpointSpec(archive="nemotron.nemo", projector="projector.nemo"),
    tokenizer=TokenizerSpec("tokenizer.model", "sentencepiece_text"),
    image_required=True,
    dtype="bfloat16",
    vision_dtype="bfloat16",
    torch=TorchSpec("neva_layout", llm_module="nemo_llm"),
    build=BuildSpec(
        converter="quantization",
        vision_arguments="--model_type video-neva",
        engines=(WITH_ATTENTION_PLUGIN,),
        quantize=True,
        vision_folder="visual_encoder",
        quantizations=("int4_awq", "fp8"),
        not_quantized="the Nemotron example exports FP8 and INT4 AWQ only",
    ),
    evidence=Evidence(
        "transformers: CLIP and Nemotron; sentencepiece; frames, projector and prompt composed anew",
        truth="video_neva:VideoNevaOracle",
        acceptance=Acceptance("a video of a robot", "Question: what is in the video? Answer:", ("robot",)),
    ),
)
