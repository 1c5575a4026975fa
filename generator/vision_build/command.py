"""`gen-repo build-vision`: everything from the checkpoint to a folder that --visual-engine-dir takes."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator import __version__
from generator.facts.engines import OWN_SECTION
from generator.findings import EXIT_ENVIRONMENT, Finding, Refused, error
from generator.vision_build.subject import BuildOptions, Subject, subject

Tell = Callable[[str], None]
ONNX, ENGINE, CONFIG = "model.onnx", "model.engine", "config.json"
NEEDED = {
    "torch": "pip install 'gen-repo[torch]'",
    "transformers": "pip install 'gen-repo[torch]'",
    "safetensors": "pip install 'gen-repo[torch]'",
    "onnx": "pip install 'gen-repo[onnx]'",
    "tensorrt": "run it in the tritonserver *-trtllm-python-py3 container that will serve, or use --onnx-only",
}


@dataclass(frozen=True)
class Built:
    """What a build came to: the file that was asked for, and whether it was made or found as it would have been."""

    file: Path
    made: bool
    findings: tuple[Finding, ...]


def build(options: BuildOptions, tell: Tell) -> Built:
    """Builds what `options` ask for; `tell` hears of each step.

    Raises:
        Refused: a contradiction, a package or GPU that is missing here, or a build that failed.
    """
    wanted, findings = subject(options)
    needed = ["torch", "transformers", "safetensors", "onnx"] + ["tensorrt"] * (not options.onnx_only)
    _require(needed)
    if not options.onnx_only:
        _require_gpu()  # asked first: without a GPU, TensorRT 8.6 kills the process
    from generator.vision_build import onnx_file, tower

    output = options.working_dir / options.output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        what = f"{options.output} cannot be the engine's folder: {problem.strerror}"
        raise Refused(error("output", what, "--output", "choose another folder")) from None
    tell(f"loading the encoder of {wanted.model}")
    module, constants = tower.load(wanted)
    tower.check(wanted, module)
    if options.onnx_only:
        tell(f"exporting {wanted.dtype} ONNX")
        onnx_file.export(wanted, module, output / ONNX)
        _write_constants(wanted, constants, output)
        return Built(output / ONNX, True, tuple(findings))
    from generator.vision_build import engine

    versions = _versions(options)
    digest = tower.digest(wanted, module, constants, versions)
    if (output / ENGINE).is_file() and _digest_at(output) == digest:
        _write_constants(wanted, constants, output)  # they may have been lost
        return Built(output / ENGINE, False, tuple(findings))
    (output / CONFIG).unlink(missing_ok=True)  # it is written last: a folder with one is whole
    onnx = output / "onnx" / ONNX
    tell(f"exporting {wanted.dtype} ONNX")
    onnx_file.export(wanted, module, onnx)
    _free(module)
    what = f"requests of {requests.max_entries} entries" if (requests := wanted.requests) else "images"
    tell(f"building the engine for up to {wanted.max_batch_size} {what} with TensorRT {versions['tensorrt']}")
    engine.build(
        onnx,
        output / ENGINE,
        wanted.profile,
        wanted.dtype,
        tell=tell,
        optimization_level=options.optimization_level,
    )
    shutil.rmtree(onnx.parent)
    _write_constants(wanted, constants, output)  # not before: until then the engine that is there is the one before
    content = json.dumps(config(wanted, digest, versions), indent=2) + "\n"
    (output / CONFIG).write_text(content, encoding="utf-8")
    return Built(output / ENGINE, True, tuple(findings))


def config(wanted: Subject, digest: str, versions: dict[str, str]) -> dict[str, Any]:
    """config.json: what TensorRT-LLM's readers look for, and a section of ours, which they do not see."""
    requests = wanted.requests
    builder: dict[str, Any] = {
        "model_name": "multiModal",
        "model_type": wanted.model_type,
        "precision": wanted.dtype,
        "tensor_parallel": 1,
        "max_batch_size": wanted.max_batch_size,
        "output_shape": [-1, wanted.rows or -1 if requests is None else -1, wanted.hidden_size],
    }
    if wanted.num_frames:
        builder["num_frames"] = wanted.num_frames
    own: dict[str, Any] = {"digest": digest, "pixels": wanted.pixels, "versions": versions}
    if requests:
        own["requests"] = {
            "max_entries": requests.max_entries,
            "rows": wanted.rows,
            "constant_rows": requests.constant_rows,
            "table_dtype": requests.table_dtype,
        }
    if wanted.normalisation:
        own["normalisation"] = wanted.normalisation
    return {"builder_config": builder, OWN_SECTION: own}


def _require(packages: list[str]) -> None:
    missing = []
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as problem:
            missing.append(error("package-missing", f"{name} cannot be imported: {problem}", "python", NEEDED[name]))
    if missing:
        raise Refused(*missing, exit_code=EXIT_ENVIRONMENT)


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        what = "no GPU is visible, and an engine is built on the type of GPU that will run it"
        remedy = "run this on that machine (containers: --gpus all), or use --onnx-only"
        raise Refused(error("no-gpu", what, "this machine", remedy), exit_code=EXIT_ENVIRONMENT)


def _versions(options: BuildOptions) -> dict[str, str]:
    """What else an engine depends on."""
    import tensorrt
    import torch
    import transformers

    versions = {
        "gen_repo": __version__,
        "tensorrt": tensorrt.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gpu": torch.cuda.get_device_name(),
    }
    if options.optimization_level is not None:
        versions["optimization_level"] = str(options.optimization_level)
    return versions


def _digest_at(folder: Path) -> str | None:
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        digest: str | None = content[OWN_SECTION]["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no engine of ours
    return digest


def _write_constants(wanted: Subject, constants: Any, folder: Path) -> None:
    """The rows that all images share, each under its name, [hidden]."""
    from safetensors.torch import save_file

    name, rows = wanted.constants
    if rows and wanted.requests is None:  # else they are inside the engine
        unfinished = folder / f"{name}.unfinished"
        save_file({row: values.clone() for row, values in zip(rows, constants, strict=True)}, str(unfinished))
        unfinished.chmod(0o644)  # safetensors makes it private, but the server may be another user
        unfinished.replace(folder / name)


def _free(module: Any) -> None:
    """TensorRT gets the GPU's memory for itself."""
    import torch

    module.to("meta")
    torch.cuda.empty_cache()
