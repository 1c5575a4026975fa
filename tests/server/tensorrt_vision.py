"""Repositories of --vision-backend tensorrt that run without TensorRT, for tests.

The vision step is a stand-in for the TensorRT backend that runs the exported ONNX in onnxruntime; the LLM step is the
torch runtime's, which obeys the contract of the release. All else is as generated.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from generator.generate import generate
from generator.options import Options, PixelForm, VisionBackend
from generator.vision_build.command import build
from generator.vision_build.subject import BuildOptions, subject
from tests import engines
from tests.checkpoints import cached
from tests.parity.client import MAX_TOKENS

DOUBLE = Path(__file__).parents[1] / "doubles/tensorrt_plan/model.py"


@dataclass(frozen=True)
class Asked:
    """One repository: `max_images` per prompt; `requests` says whether the engine takes those, or images."""

    model: str
    max_images: int = 1
    streaming: bool = False
    requests: bool = True
    pixels: PixelForm = "float"

    @property
    def checkpoint(self) -> Path:
        return cached(self.model)


def repository(asked: Asked, folder: Path) -> Path:
    common: dict[str, Any] = {
        "model": asked.model,
        "hf_model_dir": asked.checkpoint,
        "streaming": asked.streaming,
        "max_tokens": MAX_TOKENS,
        "max_images": asked.max_images,
        "pixels": asked.pixels,
    }
    engine = None
    if not asked.requests:
        engine = engines.vision(folder / "vision", max_batch_size=8, output_shape=[-1, 576, 64])
    options = Options(**common, vision_backend="tensorrt", visual_engine_dir=engine, output=folder / "repository")
    made, torch = generate(options), generate(Options(**common, runtime="torch", output=folder / "torch"))
    assert not made.failed and not torch.failed, (made.findings, torch.findings)
    shutil.rmtree(made.output / "tensorrt_llm")
    shutil.copytree(torch.output / "tensorrt_llm", made.output / "tensorrt_llm")
    backend: VisionBackend = "tensorrt" if asked.requests else "python"
    _stand_in(
        made.output / "vision_encoder",
        BuildOptions(
            model=asked.model,
            hf_model_dir=asked.checkpoint,
            output=folder / "onnx",
            vision_backend=backend,
            onnx_only=True,
            max_images=asked.max_images if asked.requests else None,
            max_batch_size=made.plan.limits.max_batch_size,
            pixels=asked.pixels,
        ),
    )
    return made.output


def _stand_in(step: Path, wanted: BuildOptions) -> None:
    """Puts the stand-in into the step's folder; the tensors and the batching of its config stay."""
    config = text_format.Parse((step / "config.pbtxt").read_text(), ModelConfig())
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    config.platform, config.backend, config.default_model_filename = "", "python", ""
    config.instance_group[0].kind = ModelInstanceGroup.KIND_CPU
    del config.instance_group[0].gpus[:]
    (step / "config.pbtxt").write_text(text_format.MessageToString(config))
    exported = onnx.load(str(build(wanted, tell=print).file))
    [made] = exported.graph.output
    for node in exported.graph.node:  # TensorRT-LLM's releases do not agree on its name
        node.output[:] = [config.output[0].name if name == made.name else name for name in node.output]
    made.name = config.output[0].name
    onnx.save(exported, str(step / "1/model.onnx"))
    (step / "1/profile.json").write_text(json.dumps(subject(wanted)[0].profile))
    shutil.copy(DOUBLE, step / "1/model.py")


def batches(repository: Path) -> list[list[int]]:
    """Shapes of all calls of the engine so far."""
    lines = (repository / "vision_encoder/1/batches.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


class Engine:
    """The same ONNX in the test's process."""

    def __init__(self, asked: Asked, repository: Path) -> None:
        self._requests = asked.requests
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        file = repository / "vision_encoder/1/model.onnx"
        self._session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])

    def rows(self, pixels: NDArray[Any]) -> NDArray[np.float16]:
        """Rows [k, hidden] of one request's pixels [n, ...]."""
        [source] = self._session.get_inputs()
        [rows] = self._session.run(None, {source.name: pixels[None] if self._requests else pixels})
        return rows.reshape(-1, rows.shape[-1])  # type: ignore[no-any-return]
