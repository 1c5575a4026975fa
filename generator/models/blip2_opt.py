"""BLIP-2 over OPT: EVA ViT-g, a Q-Former of 32 queries, a projection. The 32 rows stand before the text.

Sources: TensorRT-LLM `multimodal_builder.py` (build_blip2_engine); Salesforce/blip2-opt-* for sizes; transformers'
Blip2Processor for pixels and ids. An answer ends with a newline, not with OPT's end token.
"""

from generator.models.llava import CLIP_MEAN, CLIP_STD
from generator.sizes import EVA_G_QFORMER, OPT_2_7B, OPT_6_7B, LlmSize
from generator.spec import (
    MERLION,
    WHICH_CITY,
    Acceptance,
    BuildSpec,
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
        vocab_size=50304,  # 50265 + <image>, padded; 50272 in older revisions of the checkpoint
        max_positions=2048,
        rows_per_image=32,
        pixels=PixelSpec(
            steps=(("on_white",), ("resize", 224, 224)), shape=(3, 224, 224), mean=CLIP_MEAN, std=CLIP_STD
        ),
        conversation=Conversation("none", "{text}"),
        tokens=Tokens(bos=2, end=50118, pad=1),
    )


SPEC = ModelSpec(
    name="blip2-opt",
    title="BLIP2-OPT",
    variants=(_variant("blip2-opt-2.7b", 2560, OPT_2_7B), _variant("blip2-opt-6.7b", 4096, OPT_6_7B)),
    engine_model_types=("blip2-opt",),
    checkpoint_model_types=("blip-2",),
    image_mark="<image>",
    image_token=False,
    image_prefix="",
    prompt=PromptSpec("sequence_prompt", after=(Piece(text="{text}", special_tokens=True),)),
    checkpoint=CheckpointSpec(rows="num_query_tokens", llm_defaults=(50272, 768), llm_types=("opt",)),
    end_text="\n",
    image_required=True,
    torch=TorchSpec("hf_blip2", llm_attribute="language_model"),
    build=BuildSpec(
        converter="opt",
        vision_arguments="--model_type blip2",
        convert_arguments="--model_type blip2",
        untried=dict.fromkeys(
            ("int8_wo", "int4_wo"),
            "the guide builds it, TensorRT-LLM's own table of precisions denies it",
        ),
        not_quantized="its converter knows weight-only quantization alone",
        no_pipeline="its converter splits tensors only",
        notes=(
            "The guide's command for weight-only quantization lacks --model_type blip2, without which it fails.",
            "Known to export with transformers up to 4.45.1; a later one keeps the Q-Former in float32.",
        ),
    ),
    evidence=Evidence(
        "transformers: Blip2ForConditionalGeneration, Blip2Processor",
        truth="blip2:Blip2OptOracle",
        acceptance=Acceptance(MERLION, WHICH_CITY, ("singapore",)),
    ),
)
