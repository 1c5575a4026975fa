"""What the user asked for, after argument parsing and before any file has been read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Runtime = Literal["trtllm", "torch"]
LaunchMode = Literal["leader", "orchestrator"]
PixelForm = Literal["float", "uint8"]
VisionBackend = Literal["python", "tensorrt"]


@dataclass(frozen=True)
class Options:
    """Options of one generation; None means that the user did not say. `gpu_memory` and
    `vision_cache` are in bytes of one GPU."""

    model: str
    hf_model_dir: Path | None = None
    visual_engine_dir: Path | None = None
    llm_engine_dir: Path | None = None
    tokenizer_dir: Path | None = None
    projector: Path | None = None
    header_font: Path | None = None
    output: Path | None = None
    runtime: Runtime = "trtllm"
    release: str | None = None
    route: str | None = None
    quantization: str | None = None
    tp: int | None = None
    pp: int | None = None
    max_batch_size: int | None = None
    max_images: int | None = None
    max_tokens: int | None = None
    streaming: bool = False
    kv_cache_reuse: bool = False
    client_cache_ids: bool = False
    vision_backend: VisionBackend = "python"
    vision_cache: int | None = None
    pixels: PixelForm | None = None
    decode_scale: bool = False
    tokenizer: Literal["hf", "checkpoint"] = "hf"
    frame_order: Literal["rgb", "bgr"] | None = None
    name: str | None = None
    limits: tuple[tuple[str, int], ...] = ()
    image_hosts: tuple[str, ...] = ()
    path_map: tuple[tuple[str, str], ...] = ()
    set: tuple[tuple[str, str, str], ...] = ()
    launch_mode: LaunchMode = "leader"
    nodes: int = 1
    vision_gpus: tuple[int, ...] = (0,)
    gpu_memory: int | None = None
    deploy: Literal["kubernetes"] | None = None
    container: str | None = None
    force: bool = False
    working_dir: Path = field(default_factory=Path.cwd)

    def as_manifest(self) -> dict[str, object]:
        """The options that shape the output's bytes, for manifest.json; paths are facts and stand elsewhere."""
        chosen: dict[str, object] = {
            "model": self.model,
            "runtime": self.runtime,
            "streaming": self.streaming,
            "kv_cache_reuse": self.kv_cache_reuse,
            "tokenizer": self.tokenizer,
        }
        optional: dict[str, object] = {
            "release": self.release,
            "route": self.route,
            "quantization": self.quantization,
            "tp": self.tp,
            "pp": self.pp,
            "max_batch_size": self.max_batch_size,
            "max_images": self.max_images,
            "frame_order": self.frame_order,
            "max_tokens": self.max_tokens,
            "client_cache_ids": self.client_cache_ids,
            "vision_backend": self.vision_backend if self.vision_backend != "python" else None,
            "vision_cache": self.vision_cache,
            "pixels": self.pixels,
            "decode_scale": self.decode_scale,
            "name": self.name,
            "limits": dict(self.limits),
            "image_hosts": list(self.image_hosts),
            "path_map": [list(pair) for pair in self.path_map],
            "set": [list(entry) for entry in self.set],
            "launch_mode": self.launch_mode if self.launch_mode != "leader" else None,
            "nodes": self.nodes if self.nodes != 1 else None,
            "vision_gpus": list(self.vision_gpus) if self.vision_gpus != (0,) else None,
            "gpu_memory": self.gpu_memory,
            "deploy": self.deploy,
            "container": self.container,
        }
        return chosen | {key: value for key, value in optional.items() if value}

    def words(self) -> tuple[str, ...]:
        """The command line that repeats this generation, without model, folders and limits, which are the plan's."""
        values = {
            "--release": self.release,
            "--route": self.route,
            "--quantization": self.quantization,
            "--tp": self.tp,
            "--pp": self.pp,
            "--tokenizer": self.tokenizer if self.tokenizer != "hf" else None,
            "--frame-order": self.frame_order,
            "--pixels": self.pixels,
            "--vision-backend": self.vision_backend if self.vision_backend != "python" else None,
            "--vision-cache": self.vision_cache and self.vision_cache >> 20,
            "--name": self.name,
            "--launch-mode": self.launch_mode if self.launch_mode != "leader" else None,
            "--nodes": self.nodes if self.nodes != 1 else None,
            "--vision-gpus": ",".join(map(str, self.vision_gpus)) if self.vision_gpus != (0,) else None,
            "--gpu-memory": f"{self.gpu_memory / (1 << 30):g}" if self.gpu_memory else None,
            "--deploy": self.deploy,
            "--container": self.container,
        }
        words = [word for name, value in values.items() if value is not None for word in (name, str(value))]
        words += ["--streaming"] * self.streaming + ["--kv-cache-reuse"] * self.kv_cache_reuse
        for limit, most in self.limits:
            words += ["--limit", f"{limit}={most}"]
        words += ["--client-cache-ids"] * self.client_cache_ids
        words += ["--decode-scale"] * self.decode_scale
        for host in self.image_hosts:
            words += ["--image-host", host]
        for step, parameter, value in self.set:
            words += ["--set", f"{step}.{parameter}={value}"]
        return tuple(words)
