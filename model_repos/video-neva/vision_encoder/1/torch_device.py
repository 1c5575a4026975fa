"""Which device a torch step of the repository runs on."""

from __future__ import annotations

from typing import Any

import torch


def prepare(settings: dict[str, Any], args: dict[str, str]) -> torch.device:
    """The device of this model instance; also sets how many CPU threads torch uses for one operation, and the GPU that
    this thread works on: a process whose own is another would take some hundred megabytes of the first, too.

    settings["device"] is a torch device, or "auto": the GPU that Triton gave to the instance, else the first
    GPU, else the CPU. settings["threads"] (optional) bounds the threads on a CPU. Beside a GPU it is one: what is left
    to do there is copying, and a team of threads of which one has lost its core spins for 30 ms and more.
    """
    device = _device(settings["device"], args)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    threads = 1 if device.type == "cuda" else settings.get("threads")
    if threads:
        torch.set_num_threads(threads)
    return device


def _device(name: str, args: dict[str, str]) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    on_gpu = args.get("model_instance_kind") == "GPU"
    return torch.device("cuda", int(args.get("model_instance_device_id", 0)) if on_gpu else 0)
