"""What the builds of encoder-decoders share; their specs take it.

Source: the guide's sections on BLIP2-T5, Deplot and Nougat. Their engines are built without paged KV cache, as
TensorRT-LLM's own Python runtime wants them; the C++ backend wants it, so the route decides.
"""

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
