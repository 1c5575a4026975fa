"""Stand-in for an engine in Triton's TensorRT backend: the ONNX file that the engine is built from, in onnxruntime.

It keeps the backend's rules: one input and one output, by the names of config.pbtxt and nothing else; requests of a
batch concatenated along the first axis, which have one shape; sizes within the engine's profile (profile.json).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        here = Path(__file__).parent
        config = json.loads(args["model_config"])
        [self.input], [self.output] = config["input"], config["output"]
        self.least, _, self.most = json.loads((here / "profile.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(here / "model.onnx"), options, ["CPUExecutionProvider"])
        assert [made.name for made in self.session.get_inputs()] == [self.input["name"]]
        assert [made.name for made in self.session.get_outputs()] == [self.output["name"]]
        assert config["max_batch_size"] <= self.most[0]
        self.batches = here / "batches.jsonl"

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        taken = []
        for request in requests:
            [tensor] = request.inputs()
            taken.append(tensor.as_numpy())
        [_] = {values.shape[1:] for values in taken}
        batch = np.concatenate(taken)
        with self.batches.open("a") as file:
            file.write(json.dumps(batch.shape) + "\n")
        inside = all(low <= size <= high for low, size, high in zip(self.least, batch.shape, self.most, strict=True))
        if not inside:
            problem = pb_utils.TritonError(f"the profile is {self.least} to {self.most}, received {batch.shape}")
            return [pb_utils.InferenceResponse(error=problem) for _ in requests]
        [rows] = self.session.run(None, {self.input["name"]: batch})
        cuts = np.cumsum([len(values) for values in taken])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(self.output["name"], np.ascontiguousarray(part))])
            for part in np.split(rows, cuts)
        ]
