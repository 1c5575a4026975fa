"""BLIP-2 over Flan-T5: the vision side of BLIP2-OPT, whose 32 rows and the text go through T5's encoder.

Sources: TensorRT-LLM 0.12 to 0.16, `multimodal_builder.py` (build_blip2_engine), `enc_dec_model_runner.py` and
`multimodal_model_runner.py`; Salesforce/blip2-flan-t5-* for sizes; transformers' Blip2Processor for pixels and ids. The
guide converts the LLM to bfloat16 under a vision engine in float16.
"""

from generator.build_spec import BuildSpec, EngineBuild
from generator.enc_dec_builds import DECODER_LIMITS, ENC_DEC_FLAGS, NO_CONTEXT_FMHA, NOT_QUANTIZED
from generator.models.llava import CLIP_MEAN, CLIP_STD
from generator.sizes import EVA_G_QFORMER, FLAN_T5_XL, FLAN_T5_XXL, LlmSize
from generator.spec import (
    MERLION,
    WHICH_CITY,
    Acceptance,
    CheckpointSpec,
    Conversation,
    Evidence,
    ModelSpec,
    Piece,
    PixelSpec,
    PromptSpec,
    Tokens,
    TorchSpec,
    Variant,
)


def _variant(name: str, hidden_size: int, llm_size: LlmSize) -> Variant:
    return Variant(
        name=name,
        source=f"Salesforce/{name}",
        hidden_size=hidden_size,
        llm_size=llm_size,
        tower=EVA_G_QFORMER,
        vocab_size=32128,
        max_positions=1024,  # relative positions have no end; as the guide builds
        rows_per_image=32,
        pixels=PixelSpec(
            steps=(("on_white",), ("resize", 224, 224)), shape=(3, 224, 224), mean=CLIP_MEAN, std=CLIP_STD
        ),
        conversation=Conversation("none", "{text}"),
        tokens=Tokens(bos=None, end=1, pad=0, start=0),
    )


SPEC = ModelSpec(
    name="blip2-t5",
    title="BLIP2-T5",
    variants=(_variant("blip2-flan-t5-xl", 2048, FLAN_T5_XL), _variant("blip2-flan-t5-xxl", 4096, FLAN_T5_XXL)),
    engine_model_types=("blip2-t5",),
    checkpoint_model_types=("blip-2",),
    image_mark="<image>",
    image_token=False,
    image_prefix="",
    prompt=PromptSpec("sequence_prompt", after=(Piece(text="{text}", special_tokens=True),)),
    checkpoint=CheckpointSpec(
        hidden_size="d_model",
        rows="num_query_tokens",
        start=("text_config", "decoder_start_token_id"),
        llm_defaults=(32128, 512),
        llm_types=("t5",),
    ),
    image_required=True,
    torch=TorchSpec("hf_blip2", llm_attribute="language_model", prompt_form="encoder_prompt"),
    build=BuildSpec(
        converter="enc_dec",
        vision_arguments="--model_type blip2",
        convert_arguments="--model_type blip2",
        engines=(
            EngineBuild(
                "encoder",
                ENC_DEC_FLAGS + NO_CONTEXT_FMHA,
                ("max_beam_width", "max_batch_size", "max_input_len", "encoder_num_tokens", "max_multimodal_len"),
            ),
            EngineBuild("decoder", ENC_DEC_FLAGS + NO_CONTEXT_FMHA, DECODER_LIMITS),
        ),
        converted_folder="DTYPE",
        engine_folder="DTYPE",
        not_quantized=NOT_QUANTIZED,
        notes=(
            "max_encoder_input_len counts the rows of the image as well as the text's tokens.",
            "Known to export with transformers up to 4.45.1; a later one keeps the Q-Former in float32.",
        ),
    ),
    routes=("python_enc_dec",),
    evidence=Evidence(
        "transformers: Blip2ForConditionalGeneration, Blip2Processor; T5 in bfloat16 under fp16 rows",
        truth="blip2:Blip2T5Oracle",
        acceptance=Acceptance(MERLION, WHICH_CITY, ("singapore",)),
    ),
    dtype="bfloat16",
)
