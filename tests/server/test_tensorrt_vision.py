"""--vision-backend tensorrt on a real Triton: the generated repository, with a stand-in for the TensorRT backend that runs
the exported ONNX, and the torch runtime's LLM, which obeys the same contract as the engine's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from generator.generate import generate
from generator.oracle import LlavaOracle, Oracle, VilaOracle
from generator.options import Options
from generator.vision_build.command import build
from generator.vision_build.subject import BuildOptions, subject
from tests import photos
from tests.checkpoints import cached
from tests.parity.client import MAX_TOKENS, Case, ask, ask_all, ask_stream, inputs, passed_on
from tests.server.harness import triton

DOUBLE = Path(__file__).parents[1] / "doubles/tensorrt_plan/model.py"
ORACLES = {"llava": LlavaOracle, "vila": VilaOracle}
MOST = {"llava": 1, "vila": 2}


def served_by_stand_in(step: Path, wanted: BuildOptions) -> None:
    """The step's folder with the stand-in in the engine's place; tensors and batching stay as they are."""
    config = text_format.Parse((step / "config.pbtxt").read_text(), ModelConfig())
    assert (config.platform, config.backend, config.default_model_filename) == (
        "tensorrt_plan",
        "tensorrt",
        "model.plan",
    )
    config.platform, config.backend, config.default_model_filename = "", "python", ""
    config.instance_group[0].kind = ModelInstanceGroup.KIND_CPU
    del config.instance_group[0].gpus[:]
    (step / "config.pbtxt").write_text(text_format.MessageToString(config))
    build(wanted, tell=print)
    (step / "1/profile.json").write_text(json.dumps(subject(wanted)[0].profile))
    shutil.copy(DOUBLE, step / "1/model.py")


def repository(model: str, folder: Path, *, streaming: bool) -> Path:
    common: dict[str, Any] = {
        "model": model,
        "hf_model_dir": cached(model),
        "streaming": streaming,
        "max_tokens": MAX_TOKENS,
        "max_images": MOST[model],
    }
    made = generate(Options(**common, vision_backend="tensorrt", output=folder / "repository"))
    torch = generate(Options(**common, runtime="torch", output=folder / "torch"))
    assert not made.failed and not torch.failed
    for same in ("postprocessing",):
        for file in (torch.output / same).rglob("*.*"):
            assert file.read_bytes() == (made.output / file.relative_to(torch.output)).read_bytes()
    shutil.rmtree(made.output / "tensorrt_llm")
    shutil.copytree(torch.output / "tensorrt_llm", made.output / "tensorrt_llm")
    step = made.output / "vision_encoder"
    wanted = BuildOptions(
        model=model,
        hf_model_dir=cached(model),
        output=step / "1",
        vision_backend="tensorrt",
        onnx_only=True,
        max_images=MOST[model],
        max_batch_size=made.plan.limits.max_batch_size,
    )
    served_by_stand_in(step, wanted)
    return made.output


@dataclass
class Served:
    model: str
    url: str
    folder: Path

    @cached_property
    def oracle(self) -> Oracle:
        return ORACLES[self.model](cached(self.model))

    @cached_property
    def cases(self) -> list[Case]:
        """Four prompts with each number of images, none included."""
        names = photos.names()
        return [
            Case(f"{count} image(s): {text[:20]}", text, tuple(photos.encoded(names[3 * i + k]) for k in range(count)))
            for i, text in enumerate(photos.PROMPTS[:4])
            for count in range(MOST[self.model] + 1)
        ]

    @cached_property
    def expected(self) -> list[str]:
        return [self.oracle.generate(case.text, list(case.images), MAX_TOKENS)[1] for case in self.cases]


@pytest.fixture(scope="module", params=[("llava", False), ("vila", False), ("vila", True)], ids=str)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model, streaming = request.param
    folder = repository(model, tmp_path_factory.mktemp(model), streaming=streaming)
    with triton(folder) as server:
        yield Served(model, server.grpc, folder)


def test_x(served: Served) -> None:
    with InferenceServerClient(served.url) as client:
        for case, wanted in zip(served.cases, served.expected, strict=True):
            print(case.name)
            if len(case.images):
                made = client.infer("preprocessing", inputs([case]))
                table = client.infer("vision_encoder", [passed_on(made, "pixel_values")]).as_numpy("prompt_embedding_table")[0]
                ids = made.as_numpy("input_ids")[0]
                v=json.loads((served.folder/"preprocessing/1/settings.json").read_text())["tokenizer"]["vocab_size"]
                sel = table[ids[ids >= v] - v]
                truth = served.oracle.selected(case.images)
                print(sel.shape, np.abs(sel.astype(np.float32)-truth.astype(np.float32)).max(), np.abs(truth).max(), (sel!=truth).mean())
            print(ask(client, case, MAX_TOKENS) == wanted, wanted[:40])
    print((served.folder/"vision_encoder/1/batches.jsonl").read_text())
