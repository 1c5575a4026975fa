"""Quantizations of the LLM: what each is to TensorRT-LLM's converters and in an engine's config.json.

Sources: the guide's sections on quantization, the converters' arguments, quantize.py's formats and the `quant_algo`
that they write (TensorRT-LLM `tensorrt_llm/quantization/mode.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

NONE = "none"


@dataclass(frozen=True)
class Quantization:
    """One --quantization.

    Attributes:
        folder: the guide's name of its precision folder.
        algorithms: how an engine's config.json may call it.
        convert_arguments: of convert_checkpoint.py; empty = quantize.py makes it.
        quantize_arguments: of quantize.py.
    """

    folder: str
    algorithms: tuple[str, ...]
    convert_arguments: tuple[tuple[str, str], ...] = ()
    quantize_arguments: tuple[tuple[str, str], ...] = ()


QUANTIZATIONS = {
    "int8_wo": Quantization(
        "int8_weightonly",
        ("W8A16",),
        convert_arguments=(("--use_weight_only", ""), ("--weight_only_precision", "int8")),
        quantize_arguments=(("--qformat", "int8_wo"),),
    ),
    "int4_wo": Quantization(
        "int4_weightonly",
        ("W4A16",),
        convert_arguments=(("--use_weight_only", ""), ("--weight_only_precision", "int4")),
        quantize_arguments=(("--qformat", "int4_wo"),),
    ),
    "int4_awq": Quantization(
        "int4_awq", ("W4A16_AWQ",), quantize_arguments=(("--qformat", "int4_awq"), ("--calib_size", "32"))
    ),
    "fp8": Quantization("fp8", ("FP8",), quantize_arguments=(("--qformat", "fp8"),)),
    "smoothquant": Quantization(
        "int8_sq",
        (
            "W8A8_SQ_PER_CHANNEL",
            "W8A8_SQ_PER_TENSOR_PLUGIN",
            "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
            "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
            "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
        ),
        quantize_arguments=(("--qformat", "int8_sq"),),
    ),
}
NAMES = (NONE, *QUANTIZATIONS)


def name_of(algorithm: str | None) -> str:
    """The --quantization that an engine's `quant_algo` is; its own word where there is no such option."""
    if algorithm is None:
        return NONE
    return next((name for name, known in QUANTIZATIONS.items() if algorithm in known.algorithms), algorithm)
