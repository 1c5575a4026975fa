"""Fixtures of the LLM step over the executor's bindings, as generated, run by the stand-in for TensorRT-LLM."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from google.protobuf import json_format, text_format
from tensorrt_llm.bindings import executor as trtllm
from tritonclient.grpc import model_config_pb2

from generator.generate import generate
from generator.options import Options
from generator.oracle.cogvlm import CogvlmOracle
from tests import engines
from tests.checkpoints import cogvlm
from tests.unit.executor_requests import HIDDEN, ROWS, SIDE, TEXT, TOKENS, VOCAB, table

MODULES = ("executor_calls", "executor_loading", "in_flight")


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16}
    monkeypatch.setattr(pb_utils, "triton_string_to_numpy", kinds.get, raising=False)
    decoupled = lambda config: config.get("model_transaction_policy", {}).get("decoupled", False)  # noqa: E731
    monkeypatch.setattr(pb_utils, "using_decoupled_model_transaction_policy", decoupled, raising=False)
    monkeypatch.setattr(trtllm, "old_names", False)
    monkeypatch.setattr(trtllm, "rank", 0)
    monkeypatch.setattr(trtllm.Executor, "made", [])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    cogvlm.make(folder, SIDE)
    return folder / cogvlm.FOLDER


@pytest.fixture(scope="module")
def oracle(checkpoint: Path) -> CogvlmOracle:
    return CogvlmOracle(checkpoint)


Load = Callable[..., Any]


@pytest.fixture
def load(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Generates a repository for an engine of the stand-in, and loads its LLM step."""
    loaded = []

    def generated(
        *, streaming: bool = False, version: str = "1.2.1", parameters: dict[str, str] | None = None, **options: Any
    ) -> Any:
        engine = engines.llm(
            tmp_path / "engine",
            version=version,
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            dtype="bfloat16",
            max_input_len=200,
            max_seq_len=400,
            table=8 * ROWS,
        )
        (engine / "rank0.engine").write_text(json.dumps({"checkpoint": str(checkpoint)}))
        outcome = generate(
            Options(
                model="cogvlm",
                hf_model_dir=checkpoint,
                llm_engine_dir=engine,
                output=tmp_path / "repository",
                streaming=streaming,
                **options,
            )
        )
        assert not outcome.failed, "\n".join(map(str, outcome.findings))
        step = outcome.output / "tensorrt_llm"
        config = text_format.Parse((step / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        values = json_format.MessageToDict(config, preserving_proto_field_name=True)
        for name, value in (parameters or {}).items():
            values["parameters"][name] = {"string_value": value}
        monkeypatch.syspath_prepend(str(step / "1"))
        for name in MODULES:
            sys.modules.pop(name, None)
        spec = importlib.util.spec_from_file_location("executor_step", step / "1/model.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize({"model_config": json.dumps(values)})
        loaded.append(model)
        return model

    yield generated
    for model in loaded:
        model.finalize()
    for name in MODULES:
        sys.modules.pop(name, None)


def expected(oracle: CogvlmOracle, row: int = 0, tokens: int = TOKENS, text: Sequence[int] = TEXT) -> list[int]:
    """The oracle's new ids, without the end token."""
    ids = [1, *[oracle.image_id] * ROWS, *text]
    return [token for token in oracle.continuation(ids, table(row).float().numpy(), tokens) if token != 2]
