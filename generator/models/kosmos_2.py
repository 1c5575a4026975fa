"""Kosmos-2: CLIP-L/14 at 224 pixels, a resampler of 64 queries, a decoder that names places in the image.

Sources: TensorRT-LLM `multimodal_builder.py` (build_kosmos_engine); microsoft/kosmos-2-patch14-224 for sizes;
transformers' Kosmos2Processor for pixels and ids.
"""

from generator.models.llava import CLIP_MEAN, CLIP_STD
from generator.sizes import CLIP_L_224, KOSMOS_2_TEXT
from generator.spec import (
    WITH_ATTENTION_PLUGIN,
    Acceptance,
    BuildSpec,
    CheckpointSpec,
    Conversation,
    Evidence,
    ModelSpec,
    Piece,
    PixelSpec,
    PostSpec,
    PromptSpec,
    Tokens,
    TorchSpec,
    Variant,
)

SPEC = ModelSpec(
    name="kosmos-2",
    title="Kosmos-2",
    variants=(
        Variant(
            name="kosmos-2",
            source="microsoft/kosmos-2-patch14-224",
            hidden_size=2048,
            llm_size=KOSMOS_2_TEXT,
            tower=CLIP_L_224,
            vocab_size=65037,
            max_positions=2048,
            rows_per_image=64,
            pixels=PixelSpec(
                steps=(("on_white",), ("resize", 224, 224)), shape=(3, 224, 224), mean=CLIP_MEAN, std=CLIP_STD
            ),
            conversation=Conversation("none", "{text}"),
            tokens=Tokens(bos=0, end=2, pad=1),
        ),
    ),
    engine_model_types=("kosmos-2",),
    checkpoint_model_types=("kosmos-2",),
    image_mark="<image>",
    image_token=False,
    image_prefix="",
    prompt=PromptSpec(
        "sequence_prompt", before=(Piece(text="<s><image>"),), after=(Piece(text="</image>{text}", strip=True),)
    ),
    checkpoint=CheckpointSpec(hidden_size="embed_dim", rows="latent_query_num", squash=True),
    post=PostSpec("entities_text", outputs=("clean_text", "entities")),
    image_required=True,
    torch=TorchSpec("hf_kosmos2", llm_attribute="text_model"),
    build=BuildSpec(
        converter="gpt",
        vision_arguments="--model_type kosmos-2",
        convert_arguments="--gpt_variant kosmos-2",
        engines=(WITH_ATTENTION_PLUGIN,),
        untried=dict.fromkeys(("int8_wo", "int4_wo"), "its converter offers it, the guide never builds it"),
    ),
    evidence=Evidence(
        "transformers: Kosmos2ForConditionalGeneration, Kosmos2Processor",
        truth="kosmos2:Kosmos2Oracle",
        acceptance=Acceptance(
            "snowman.png of microsoft/kosmos-2-patch14-224",
            "<grounding>An image of",
            ("snowman",),
        ),
    ),
)
