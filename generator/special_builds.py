"""Build facts of the models whose LLM is more than one decoder that reads a prompt table; their specs take them.

Source: the guide's sections on BLIP2-T5, Deplot, Nougat and CogVLM. The encoder-decoder engines are built without paged
KV cache, as TensorRT-LLM's own Python runtime wants them; the C++ backend wants it, so the route decides.
"""

from generator.spec import BuildSpec, EngineBuild

ENC_DEC_FLAGS = (
    ("--paged_kv_cache", "ROUTE"),
    ("--moe_plugin", "disable"),
    ("--enable_xqa", "disable"),
    ("--gemm_plugin", "DTYPE"),
    ("--bert_attention_plugin", "DTYPE"),
    ("--gpt_attention_plugin", "DTYPE"),
    ("--remove_input_padding", "enable"),
)
NO_CONTEXT_FMHA = (("--context_fmha", "disable"),)  # attention with relative positions has no such kernel
DECODER_LIMITS = ("max_beam_width", "max_batch_size", "decoder_seq_len", "max_encoder_input_len", "decoder_input_len")
NOT_QUANTIZED = "TensorRT-LLM quantizes no encoder-decoder models"

BLIP2_T5 = BuildSpec(
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
)
DEPLOT = BuildSpec(
    converter="enc_dec",
    vision_arguments="--model_type pix2struct",
    convert_arguments="--model_type pix2struct",
    engines=(EngineBuild("decoder", ENC_DEC_FLAGS + NO_CONTEXT_FMHA, DECODER_LIMITS),),
    converted_folder="DTYPE",
    engine_folder="GPUS/DTYPE",
    not_quantized=NOT_QUANTIZED,
    notes=("max_encoder_input_len is per request: it is not multiplied by the batch.",),
)
NOUGAT = BuildSpec(
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
)
COGVLM = BuildSpec(
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
        "The guide patches visual.py by line numbers, which breaks silently when the file changes; here by its text.",
    ),
)
