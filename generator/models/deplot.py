"""Deplot: Pix2Struct fine-tuned on charts. The question is drawn above the chart, the answer is a table.

Sources: TensorRT-LLM `multimodal_builder.py` (build_pix2struct_engine) for the engine, whose config.json says bfloat16
although it is float16 (line and column ids up to 2048 are exact in the latter only); transformers'
Pix2StructImageProcessor for pixels; Pix2StructConfig for sizes. NVIDIA's runner lets the decoder attend to the rows of
patches that do not exist; here, as in transformers, it sees the valid ones.
"""

from generator.build_spec import BuildSpec, EngineBuild
from generator.enc_dec_builds import DECODER_LIMITS, ENC_DEC_FLAGS, NO_CONTEXT_FMHA, NOT_QUANTIZED
from generator.sizes import PIX2STRUCT_DECODER, PIX2STRUCT_ENCODER
from generator.spec import (
    Acceptance,
    CheckpointSpec,
    Conversation,
    Evidence,
    LayoutSpec,
    MediaSpec,
    ModelSpec,
    Piece,
    PixelSpec,
    PostSpec,
    PromptSpec,
    TokenizerSpec,
    Tokens,
    Tolerance,
    TorchSpec,
    Variant,
)

PATCH = 16
MAX_PATCHES = 2048
QUESTION = "Generate underlying data table of the figure below:"
IDS = 2  # line and column of a patch, before its pixels

SPEC = ModelSpec(
    name="deplot",
    title="Deplot",
    variants=(
        Variant(
            name="deplot",
            source="google/deplot",
            hidden_size=768,
            llm_size=PIX2STRUCT_DECODER,
            tower=PIX2STRUCT_ENCODER,
            vocab_size=50244,
            max_positions=2558,  # what the guide builds for; positions are relative and have no end
            rows_per_image=MAX_PATCHES,
            pixels=PixelSpec(steps=(), shape=(MAX_PATCHES, IDS + 3 * PATCH**2), mean=(), std=()),
            conversation=Conversation("none", "{text}"),
            tokens=Tokens(bos=None, end=1, pad=0, start=0),
        ),
    ),
    engine_model_types=("pix2struct",),
    checkpoint_model_types=("pix2struct",),
    image_mark="",
    image_token=False,
    image_prefix="",
    prompt=PromptSpec("sequence_prompt", before=(Piece(start=True),)),
    layout=LayoutSpec("flattened_patches", {"patch": PATCH, "max_patches": MAX_PATCHES}),
    media=MediaSpec(
        "headed_images",
        "a chart",
        file="chart.png",
        question=QUESTION,
        font="Arial",
        default_text=QUESTION,
    ),
    checkpoint=CheckpointSpec(
        start=("text_config", "decoder_start_token_id"),
        processor={"is_vqa": True, "max_patches": MAX_PATCHES, "patch_size": {"height": PATCH, "width": PATCH}},
    ),
    tokenizer=TokenizerSpec(spelled={"<0x0A>": "\n"}),
    post=PostSpec("table_text", ("table_csv",)),
    routes=("python_enc_dec", "encoder_features"),
    carries="encoder_input_features",
    image_required=True,
    misstated_precision={"bfloat16": "float16"},
    torch=TorchSpec("hf_pix2struct", llm_module="hf_pix2struct_llm", prompt_form="cross_features"),
    build=BuildSpec(
        converter="enc_dec",
        vision_arguments="--model_type pix2struct",
        convert_arguments="--model_type pix2struct",
        engines=(EngineBuild("decoder", ENC_DEC_FLAGS + NO_CONTEXT_FMHA, DECODER_LIMITS),),
        converted_folder="DTYPE",
        engine_folder="GPUS/DTYPE",
        not_quantized=NOT_QUANTIZED,
        notes=("max_encoder_input_len is per request: it is not multiplied by the batch.",),
    ),
    evidence=Evidence(
        "transformers: Pix2StructForConditionalGeneration, Pix2StructProcessor, the same font file",
        truth="deplot:DeplotOracle",
        tolerance=Tolerance(pixels=1e-5),
        acceptance=Acceptance(
            "multi_col_40963.png of ChartQA's validation set",
            "",
            ("characteristic | cat food, day | cat food, wet | cat treats",),
            max_tokens=100,
        ),
    ),
)
