"""CogVLM: EVA2-CLIP-E at 490 pixels, a Llama whose layers have a second set of weights for the image's rows.

Sources: the code that THUDM/cogvlm-chat-hf comes with, for pixels, rows, prompt and positions; TensorRT-LLM
`multimodal_builder.py` (build_cogvlm_engine) and its examples/cogvlm. The prompt is that code's `chat` template, which
THUDM's README names for this checkpoint as well; the guide's " [INST] ... [/INST] " is CogAgent's, and can be sent
without the chat template. In-flight batching came with 0.13.0.
"""

from generator.build_spec import BuildSpec, EngineBuild
from generator.models.llava import CLIP_MEAN, CLIP_STD
from generator.sizes import COGVLM_LLM, EVA2_CLIP_E
from generator.spec import (
    MERLION,
    Acceptance,
    CheckpointSpec,
    Conversation,
    Evidence,
    LayoutSpec,
    ModelSpec,
    Piece,
    PixelSpec,
    PromptSpec,
    Tokens,
    TorchSpec,
    Variant,
)

SIDE, PATCH = 490, 14
PATCHES = (SIDE // PATCH) ** 2

SPEC = ModelSpec(
    name="cogvlm",
    title="CogVLM",
    variants=(
        Variant(
            name="cogvlm-chat-hf",
            source="THUDM/cogvlm-chat-hf",
            hidden_size=4096,
            llm_size=COGVLM_LLM,
            tower=EVA2_CLIP_E,
            vocab_size=32000,
            max_positions=2048,
            rows_per_image=PATCHES + 2,  # a row before the patches, and one behind them
            pixels=PixelSpec(steps=(("resize", SIDE, SIDE),), shape=(3, SIDE, SIDE), mean=CLIP_MEAN, std=CLIP_STD),
            conversation=Conversation("question", "Question: {text} Answer:"),
            tokens=Tokens(bos=1, end=2, pad=0),
        ),
    ),
    engine_model_types=("cogvlm",),
    checkpoint_model_types=("cogvlm", "CogVLMForCausalLM"),
    image_mark="<image>",
    image_token=False,
    image_prefix="",
    prompt=PromptSpec(
        "question_prompt", before=(Piece(token="<s>", token_id=1),), after=(Piece(text="Question: {text} Answer:"),)
    ),
    layout=LayoutSpec(shared_positions=PATCHES - 1),
    checkpoint=CheckpointSpec(llm="", more_rows=2, other_model="num_multi_query_heads"),
    image_required=True,
    dtype="bfloat16",
    vision_dtype="bfloat16",
    only_dtype=True,
    routes=("python_executor",),
    llm_parameters={"enable_context_fmha_fp32_acc": "true"},  # the guide's run.py flag
    torch=TorchSpec("cogvlm_layout", llm_module="cogvlm_llm", prompt_form="visual_expert"),
    build=BuildSpec(
        converter="cogvlm",
        vision_arguments="--model_type cogvlm",
        convert_arguments="--use_prompt_tuning",
        engines=(
            EngineBuild(
                flags=(
                    ("--gemm_plugin", "DTYPE"),
                    ("--gpt_attention_plugin", "DTYPE"),
                    ("--remove_input_padding", "enable"),
                    ("--paged_kv_cache", "enable"),
                    ("--enable_xqa", "disable"),
                    ("--bert_attention_plugin", "disable"),
                    ("--moe_plugin", "disable"),
                )
            ),
        ),
        plain_attention=True,
        tokenizer_source="lmsys/vicuna-7b-v1.5",
        converted_folder="",
        not_quantized="the guide supports it in bfloat16 only",
        untried_parallel="the converter has --tp_size and --pp_size, but the guide never splits this model",
        notes=(
            "The guide's 1280 rows per image are rounded up; the engine gives 1227.",
            "The guide patches visual.py by line numbers, which breaks silently when the file changes; here by its "
            "text.",
        ),
    ),
    evidence=Evidence(
        "the published code composed anew",
        truth="cogvlm:CogvlmOracle",
        original="equal pixels, ids, positions, rows, logits and text",
        acceptance=Acceptance(MERLION, " [INST] which city is this? [/INST] ", ("singapore",), exact=True, raw=True),
    ),
)
