"""The encoder as an ONNX file."""

from __future__ import annotations

import inspect
import io
import logging
import tempfile
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from generator.findings import Refused, error
from generator.vision_build import tower as towers
from generator.vision_build.fold import fold
from generator.vision_build.subject import Subject

OPSET = 17  # the newest that TensorRT 8.6 reads, and what TensorRT-LLM exports
LARGEST_FILE = 2**31 - 2**24  # a protobuf message ends at 2 GiB; the graph itself needs some


def export(subject: Subject, tower: nn.Module, file: Path) -> None:
    """Writes `file`: opset 17, the subject's names, batch and open axes dynamic, weights in the encoder's dtype.

    Weights of 2 GiB and more lie beside it, in one file called `file`.data.

    Raises:
        Refused: torch cannot export an operation of the encoder; the finding names it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = towers.sample(subject, tower)
    arguments: dict[str, Any] = {
        "input_names": [subject.input],
        "output_names": [subject.output],
        "opset_version": OPSET,
        "dynamic_axes": subject.dynamic_axes,
    }
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        arguments["dynamo"] = False  # the other exporter starts at opset 18, which TensorRT 8.6 does not read
    size = sum(weight.numel() * weight.element_size() for weight in tower.state_dict().values())
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        exported = Path(folder, file.name) if size > LARGEST_FILE else file  # torch writes a file for each weight then
        try:
            with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")  # of the tracer, about sizes that are constants here
                logging.getLogger("torch.onnx").setLevel(logging.ERROR)
                torch.onnx.export(tower, (pixels,), str(exported), **arguments)
        except Exception as problem:  # exporters raise nearly anything
            first = next((line for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
            what = f"torch {torch.__version__} cannot export the encoder: {first.strip()}"
            remedy = "use the releases of torch and transformers that gen-repo[onnx] names"
            raise Refused(error("onnx-export", what, subject.source, remedy)) from problem
        if exported != file:
            _gathered(exported, file)
    content = onnx.load(str(file), load_external_data=False)
    fold(content)
    onnx.save_model(content, str(file))


def _gathered(exported: Path, file: Path) -> None:
    """`exported` again as `file`, its weights in one file beside."""
    content = onnx.load(str(exported))
    beside = f"{file.name}.data"
    file.with_name(beside).unlink(missing_ok=True)  # onnx would append
    onnx.save_model(
        content,
        str(file),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=beside,
        size_threshold=1024,
    )
