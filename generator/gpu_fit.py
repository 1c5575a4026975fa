"""Whether GPUs of a stated size hold a repository, and the share of one that the KV cache may take."""

from __future__ import annotations

import math

from generator.findings import Finding, error, warning
from generator.memory import MIB, MemoryPlan, entry_rows, human
from generator.plan import Plan

KV_FRACTION = 0.9  # the backend's own default, and never exceeded here


def kv_fraction(memory: MemoryPlan, total: int, *, vision_beside_llm: bool) -> float:
    """The share of the memory that is free after the LLM was loaded which its KV cache may take, at most the default.

    The vision step may load later, so the rest must hold all of it, whoever comes first.
    """
    if not vision_beside_llm:
        return KV_FRACTION
    free = total - memory.llm_bytes - memory.cuda_pool
    rest = free - (memory.vision_bytes - memory.cuda_pool)
    if rest <= 0:
        return 0.0
    return min(KV_FRACTION, math.floor(100 * rest / free) / 100)


def vision_cache(plan: Plan) -> list[Finding]:
    """A finding when --vision-cache cannot hold the rows of one image."""
    needed = entry_rows(plan)
    if not 0 < plan.vision_cache < needed:
        return []
    kept = f"the rows of one {plan.spec.media.noun} take {needed} bytes"
    what = f"a cache of {human(plan.vision_cache)} keeps nothing: {kept}"
    remedy = f"give at least --vision-cache {-(-needed // MIB)}, or leave it out"
    return [error("vision-cache", what, "--vision-cache", remedy)]


def check(plan: Plan, memory: MemoryPlan) -> list[Finding]:
    """Findings of a GPU of --gpu-memory bytes that cannot hold the repository, or a small part of a full batch."""
    total = plan.launch.gpu_memory
    if total is None or plan.runtime != "trtllm":
        return []
    beside = plan.launch.vision_beside_llm
    fixed = memory.llm_bytes + (memory.vision_bytes if beside else 0)
    if not beside and memory.vision_bytes > total:
        what = f"the GPU has {human(total)}; the vision step alone takes {human(memory.vision_bytes)}"
        return [error("gpu-memory", what, "--gpu-memory", "give a smaller --max-batch-size or --max-images")]
    where = "--gpu-memory"
    if fixed + memory.kv_least_bytes > total:
        what = (
            f"the GPU has {human(total)}; the LLM takes {human(memory.llm_bytes)}, the vision step and the pool "
            f"{human(memory.vision_bytes)}, the KV cache at least {human(memory.kv_least_bytes)}"
        )
        remedy = "build the LLM for more GPUs (--tp) or with --quantization, give a smaller --max-batch-size, or "
        return [error("gpu-memory", what, where, remedy + "a vision GPU of its own (--vision-gpus)")]
    if not plan.route.paged_kv_cache:
        return []
    free = total - memory.llm_bytes - (memory.cuda_pool if beside else 0)
    left = int(free * kv_fraction(memory, total, vision_beside_llm=beside))
    if memory.kv_bytes > left:
        fits = left // (memory.kv_token_bytes or 1)
        what = (
            f"{human(left)} remain for the KV cache, {fits} tokens; a full batch of {plan.limits.max_batch_size} "
            f"requests of {plan.limits.max_seq_len} tokens would fill {human(memory.kv_bytes)}"
        )
        return [warning("kv-cache-small", what, where, "nothing to do if requests are shorter; some would wait")]
    return []
