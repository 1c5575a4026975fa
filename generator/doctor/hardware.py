"""GPUs, memory, /dev/shm and ports against what the memory plan of the repository says."""

from __future__ import annotations

import math
from collections.abc import Iterator

from generator.doctor.machine import Gpu, Machine
from generator.doctor.needs import Needs
from generator.findings import Finding, error, warning
from generator.memory import GIB, human

MORE_MEMORY = (
    "give the container more memory, end other programs, or generate with a lower --limit image-pixels=N, --max-images "
    "or --max-batch-size"
)
SMALL = "build the engines for more GPUs (--tp), smaller batches or with --quantization, or use larger GPUs"


def check(needs: Needs, machine: Machine) -> list[Finding]:
    return [*_gpus(needs, machine), *_memory(needs, machine), *_ports(needs, machine)]


def _gpus(needs: Needs, machine: Machine) -> Iterator[Finding]:
    if not needs.on_gpu:
        return
    numbers, where = needs.numbers, "nvidia-smi"
    wanted = numbers["gpus"]
    if machine.gpus is None:
        what = f"no NVIDIA driver answers here, the repository needs {wanted} GPU(s)"
        yield error("no-gpu", what, where, "start the container with --gpus, or generate with --runtime torch")
        return
    found = len(machine.gpus)
    if found < wanted:
        what = f"{found} GPU(s) are visible, the repository needs {wanted}"
        remedy = "give the container more GPUs (--gpus, CUDA_VISIBLE_DEVICES), or generate for fewer"
        yield error("too-few-gpus", what, where, remedy)
    for number, gpu in enumerate(machine.gpus[:wanted]):
        if gpu.total == 0:
            continue
        yield from _gpu(needs, number, gpu)


def _gpu(needs: Needs, number: int, gpu: Gpu) -> Iterator[Finding]:
    numbers, where = needs.numbers, f"GPU {number}, {gpu.name}"
    llm = numbers["llm_bytes"] if number in numbers["llm_gpus"] else 0
    vision = numbers["vision_bytes"] if number in numbers["vision_gpus"] else 0
    least = llm + vision + (numbers["kv_least_bytes"] if llm else 0)
    parts = {"LLM": llm, "vision step": vision, "KV cache": least - llm - vision}
    listed = ", ".join(f"{name} {human(size)}" for name, size in parts.items() if size)
    needed = f"{human(least)} are needed at least ({listed})"
    if gpu.total < least:
        yield error("gpu-memory", f"it has {human(gpu.total)}, {needed}", where, SMALL)
        return
    if gpu.free < least:
        what = f"{human(gpu.free)} of {human(gpu.total)} are free, {needed}"
        yield error("gpu-busy", what, where, "end what else runs on it (nvidia-smi shows it), or choose other GPUs")
        return
    if not (llm and vision) or numbers["kv_fraction"] is None:
        return
    pool = numbers["cuda_pool"]
    free, vision_left = gpu.free - llm - pool, vision - pool
    left = int((1 - numbers["kv_fraction"]) * free)
    if left < vision_left:
        fits = math.floor(100 * (free - vision_left) / free) / 100
        what = (
            f"the KV cache takes {numbers['kv_fraction']} of what is free and leaves {human(left)}; the vision step, "
            f"should it load later, needs {human(vision_left)}"
        )
        remedy = (
            f"generate with --gpu-memory {gpu.total / GIB:.0f}, or with "
            f"--set tensorrt_llm.kv_cache_free_gpu_mem_fraction={fits:.2f}"
        )
        yield warning("kv-fraction", what, where, remedy)


def _memory(needs: Needs, machine: Machine) -> Iterator[Finding]:
    numbers = needs.numbers
    if machine.shm_free < numbers["shm_bytes"]:
        what = (
            f"{human(machine.shm_free)} of {human(machine.shm_total)} are free; requests at their limits take "
            f"{human(numbers['shm_bytes'])}"
        )
        remedy = f"start the container with --shm-size={numbers['shm_bytes']}, or delete what crashed servers left"
        yield warning("shm-small", what, "/dev/shm", remedy)
    if 0 < machine.memory_free < numbers["host_bytes"]:
        what = (
            f"{human(machine.memory_free)} of memory are free, loading and serving take {human(numbers['host_bytes'])}"
        )
        yield warning("memory-small", what, "/proc/meminfo", MORE_MEMORY)


def _ports(needs: Needs, machine: Machine) -> Iterator[Finding]:
    for service, port in needs.ports.items():
        if port in machine.taken_ports:
            what = f"port {port} ({service}) is taken"
            remedy = f"end what listens there, or start with ./launch.sh --{service}-port=N"
            yield error("port-taken", what, f"port {port}", remedy)
