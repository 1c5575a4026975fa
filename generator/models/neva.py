"""NeVA: SigLIP at 384 pixels, a two-layer projector and NVIDIA's GPT, in one NeMo archive. One image of 728 rows.

Sources: TensorRT-LLM `multimodal_builder.py` (build_neva_engine) for the engine, `multimodal_model_runner.py` for the
prompt; NeMo's neva_model.py and neva_inference.yaml for dropped tokens and stop words. SigLIP has no class token, but
training and engine drop the first of its 729 patches as if it were one.
"""

from generator.models.vila import SIGLIP_384
from generator.sizes import NEMOTRON_3_8B, SIGLIP_SO_384
from generator.spec import (
    MERLION,
    WHICH_CITY,
    WITH_ATTENTION_PLUGIN,
    Acceptance,
    BuildSpec,
    CheckpointSpec,
    Conversation,
    Evidence,
    ModelSpec,
    Piece,
    PromptSpec,
    TokenizerSpec,
    Tokens,
    TorchSpec,
    Variant,
)

RENAMED_KEYS = (
    "model:model.language_model "
    "attention.linear_qkv.layer_norm_bias:input_layernorm.bias "
    "attention.linear_qkv.layer_norm_weight:input_layernorm.weight "
    "mlp.linear_fc1.layer_norm_bias:post_attention_layernorm.bias "
    "mlp.linear_fc1.layer_norm_weight:post_attention_layernorm.weight "
    "linear_qkv:query_key_value linear_fc1:dense_h_to_4h linear_fc2:dense_4h_to_h linear_proj:dense decoder:encoder"
)

SPEC = ModelSpec(
    name="neva",
    title="NeVA",
    variants=(
        Variant(
            name="neva",
            source="",
            hidden_size=4096,  # NVGPT-8B
            llm_size=NEMOTRON_3_8B,
            tower=SIGLIP_SO_384,
            vocab_size=256000,
            max_positions=4096,
            rows_per_image=728,
            pixels=SIGLIP_384,
            conversation=Conversation("nvgpt", "{text}", stop_words=("<extra_id_1>", "<extra_id_7>")),
            tokens=Tokens(bos=1, end=2, pad=2),
        ),
    ),
    engine_model_types=("neva",),
    checkpoint_model_types=("nemo",),
    image_mark="<image>",
    image_token=False,
    image_prefix="",
    prompt=PromptSpec(
        "chat_sequence_prompt",
        before=(Piece(text="<extra_id_0>System\n\n<extra_id_1>User\n"),),
        after=(Piece(text="\n{text}\n<extra_id_1>Assistant\n"),),
    ),
    checkpoint=CheckpointSpec(archive="neva.nemo"),
    tokenizer=TokenizerSpec("tokenizer.model", "sentencepiece_text"),
    image_required=True,
    dtype="bfloat16",
    vision_dtype="bfloat16",
    torch=TorchSpec("neva_layout", llm_module="nemo_llm"),
    build=BuildSpec(
        converter="gpt",
        vision_arguments="--model_type neva",
        convert_arguments=f"--nemo_rename_key {RENAMED_KEYS}",
        engines=(WITH_ATTENTION_PLUGIN,),
        converted_folder="",
        untried=dict.fromkeys(("int8_wo", "int4_wo"), "its converter offers it, the guide never builds it"),
        notes=("The guide counts 729 rows; the engine drops the first and gives 728.",),
    ),
    evidence=Evidence(
        "transformers: Siglip and Nemotron; sentencepiece; NeMo's projector and prompt composed anew",
        truth="neva:NevaOracle",
        acceptance=Acceptance(MERLION, WHICH_CITY, ("singapore",)),
    ),
)
