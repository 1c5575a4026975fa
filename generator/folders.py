"""The guide's names for precision and parallelism in paths: fp16/1-gpu, bf16/2-gpu, int4_weightonly/1-gpu, ..."""

from __future__ import annotations

from pathlib import PurePosixPath

from generator.quantization import NONE, QUANTIZATIONS

SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


def precision(dtype: str, quantization: str) -> str:
    """The precision folder; a quantization that is no option here is called as the engine calls it."""
    if quantization == NONE:
        return SHORT[dtype]
    known = QUANTIZATIONS.get(quantization)
    return known.folder if known else quantization.lower()


def fill(template: str, dtype: str, quantization: str, tp: int, pp: int) -> PurePosixPath:
    """A spec's folder template filled in.

    Args:
        template: may hold PRECISION (fp16), DTYPE (float16) and GPUS (2-gpu). Where the guide names no folder for
            precision and parallelism, those of another than its own build get one, so that no two builds share files.
    """
    gpus = f"{tp * pp}-gpu" + (f"-pp{pp}" if pp > 1 else "")
    if quantization != NONE and "PRECISION" not in template:
        template += "/PRECISION"
    if (quantization != NONE or tp * pp > 1) and "GPUS" not in template:
        template += "/GPUS"
    named = {"PRECISION": precision(dtype, quantization), "DTYPE": dtype, "GPUS": gpus}
    return PurePosixPath(*(named.get(part, part) for part in template.split("/") if part))
