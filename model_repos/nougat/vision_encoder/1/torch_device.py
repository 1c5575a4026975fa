"""Which device a torch step of the repository runs on."""

from __future__ import annotations

from typing import Any

import torch


def prepare(settings: dict[str, Any], args: dict[str, str]) -> torch.device:
    """The device of this model instance; also sets torch's CPU threads when settings name a number.

    settings["device"] is a torch device, or "auto": the GPU that Triton gave to the instance, else the first
    GPU, else the CPU. settings["threads"] (optional) bounds the CPU threads of one forward call.
    """
    if settings.get("threads"):
        torch.set_num_threads(settings["threads"])
    if settings["device"] != "auto":
        return torch.device(settings["device"])
    if not torch.cuda.is_available():
        return torch.device("cpu")
    on_gpu = args.get("model_instance_kind") == "GPU"
    return torch.device("cuda", int(args.get("model_instance_device_id", 0)) if on_gpu else 0)
