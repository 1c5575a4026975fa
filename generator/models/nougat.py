"""Nougat: a Swin encoder over a page of 896 x 672 pixels, and an mBART decoder that attends to its 588 features.

No prompt: the text of a request is not looked at. transformers bans the unknown token, so do we. Sources: TensorRT-LLM
`multimodal_builder.py` (nougat) and the guide for the precisions; facebook/nougat-base and -small for sizes;
transformers' NougatImageProcessor for pixels, NougatTokenizer for the Markdown.
"""

from generator.build_spec import BuildSpec, EngineBuild
from generator.enc_dec_builds import DECODER_LIMITS, ENC_DEC_FLAGS, NOT_QUANTIZED
from generator.sizes import DONUT_SWIN, NOUGAT_BASE_DECODER, NOUGAT_SMALL_DECODER
from generator.spec import (
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
    Tokens,
    TorchSpec,
    Variant,
)

HEIGHT, WIDTH = 896, 672
PIXELS_PER_ROW = 32  # patches of 4, merged two by two in each of three stages
PIXELS = PixelSpec(
    steps=(), shape=(3, HEIGHT, WIDTH), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resample=2
)


def _variant(size: str, max_positions: int) -> Variant:
    return Variant(
        name=f"nougat-{size}",
        source=f"facebook/nougat-{size}",
        hidden_size=1024,
        llm_size=NOUGAT_BASE_DECODER if size == "base" else NOUGAT_SMALL_DECODER,
        tower=DONUT_SWIN,
        vocab_size=50000,
        max_positions=max_positions,
        rows_per_image=(HEIGHT // PIXELS_PER_ROW) * (WIDTH // PIXELS_PER_ROW),
        pixels=PIXELS,
        conversation=Conversation("none", "{text}"),
        tokens=Tokens(bos=0, end=2, pad=1, start=0),
    )


SPEC = ModelSpec(
    name="nougat",
    title="Nougat",
    variants=(_variant("base", 4096), _variant("small", 3584)),
    engine_model_types=("nougat",),
    checkpoint_model_types=("vision-encoder-decoder",),
    image_mark="",
    image_token=False,
    image_prefix="",
    prompt=PromptSpec(
        "sequence_prompt", before=(Piece(start=True),), text=False, banned=(Piece(token="<unk>", token_id=3),)
    ),
    layout=LayoutSpec(
        "whole_page",
        {"size": {"height": HEIGHT, "width": WIDTH}, "crop_margin": True, "align_long_axis": False},
        largest=lambda settings: (1, 0),
        from_processor={"size": "size", "crop_margin": "do_crop_margin", "align_long_axis": "do_align_long_axis"},
    ),
    checkpoint=CheckpointSpec(
        llm="decoder",
        hidden_size="d_model",
        vision="encoder",
        start=("decoder", "bos_token_id"),
        processor={"do_resize": True, "do_thumbnail": True, "do_pad": True},
    ),
    media=MediaSpec(file="page.png"),
    post=PostSpec("markdown_text", outputs=("markdown",)),
    image_required=True,
    torch=TorchSpec("hf_nougat", llm_module="hf_nougat_llm", prompt_form="cross_features"),
    build=BuildSpec(
        converter="enc_dec",
        vision_arguments="--model_type nougat",
        convert_arguments="--model_type bart --nougat",
        engines=(EngineBuild("decoder", ENC_DEC_FLAGS, DECODER_LIMITS),),
        converted_folder="DTYPE",
        engine_folder="GPUS/DTYPE",
        not_quantized=NOT_QUANTIZED,
        notes=(
            "The guide's max_seq_len of 101 ends a page after 100 tokens; a page needs thousands.",
            "max_encoder_input_len is per request: it is not multiplied by the batch.",
        ),
    ),
    routes=("python_enc_dec", "encoder_features"),
    carries="encoder_input_features",
    default_max_tokens=4096,
    dtype="bfloat16",
    evidence=Evidence(
        "transformers: VisionEncoderDecoderModel, NougatProcessor",
        truth="nougat:NougatOracle",
    ),
)
