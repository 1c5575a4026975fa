"""A trtllm repository of BLIP2-T5 in a real Triton: its own LLM step over the stand-in for TensorRT-LLM.

Only the vision step, which needs an engine, is the torch runtime's. The stand-in lies in the LLM step's folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from generator.generate import generate
from generator.options import Options
from generator.oracle.blip2 import Blip2T5Oracle
from generator.server import Server
from generator.verify.command import Verify, run
from tests import checkpoints, engines, photos
from tests.parity.client import Case, ask, ask_all, inputs, refusal
from tests.server.harness import triton

TOKENS = 12
DOUBLE = Path(__file__).parents[1] / "doubles" / "tensorrt_llm"
# The machine has no GPU; the step asks for one before it loads anything.
PRETENDED = """
import contextlib
import torch
torch.cuda.is_available = lambda: True
torch.cuda.stream = contextlib.nullcontext
"""


@cache
def oracle() -> Blip2T5Oracle:
    return Blip2T5Oracle(checkpoints.cached("blip2-t5"))


def repository(folder: Path) -> Path:
    checkpoint = checkpoints.cached("blip2-t5")
    engine = engines.encoder_decoder(
        folder / "llm",
        vocab_size=1024,
        hidden_size=64,
        dtype="bfloat16",
        max_batch_size=4,
        table=4 * 32,
        content=json.dumps({"checkpoint": str(checkpoint)}),
    )
    common = {"model": "blip2-t5", "hf_model_dir": checkpoint, "llm_engine_dir": engine, "max_tokens": TOKENS}
    made = generate(Options(**common, output=folder / "repo")).output  # type: ignore[arg-type]
    torch = generate(Options(**common, output=folder / "torch", runtime="torch")).output  # type: ignore[arg-type]
    shutil.rmtree(made / "vision_encoder")
    shutil.copytree(torch / "vision_encoder", made / "vision_encoder")
    package = made / "tensorrt_llm" / "1" / "tensorrt_llm"
    shutil.copytree(DOUBLE, package)
    with (package / "__init__.py").open("a") as file:
        file.write(PRETENDED)
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("enc-dec"))


@pytest.fixture(scope="module")
def served(made: Path) -> Iterator[Server]:
    with triton(made) as server:
        yield server


def cases() -> list[Case]:
    names = photos.names()
    return [
        Case(text[:20], text, (photos.encoded(names[i % len(names)]),)) for i, text in enumerate(photos.PROMPTS[:12])
    ]


@cache
def truth(number: int, tokens: int = TOKENS) -> str:
    case = cases()[number]
    return oracle().generate(case.text, case.images, tokens)[1]


def test_texts_asked_singly(served: Server) -> None:
    with InferenceServerClient(served.grpc) as client:
        for number, case in enumerate(cases()[:4]):
            assert ask(client, case, TOKENS) == truth(number)


def test_texts_asked_together(served: Server) -> None:
    assert ask_all(served.grpc, cases(), TOKENS, threads=12) == [truth(number) for number in range(len(cases()))]
    assert len({truth(number) for number in range(len(cases()))}) == len(cases())


def test_answers_of_their_own_length_and_sampling(served: Server) -> None:
    with InferenceServerClient(served.grpc) as client:
        assert ask(client, cases()[0], 3) == truth(0, 3)
        stop = np.array([[truth(1).split()[1].encode()]], dtype=np.object_)
        assert truth(1).startswith(ask(client, cases()[1], TOKENS, stop_words=stop))
        said = refusal(client, "ensemble", inputs([cases()[0]], return_log_probs=np.array([[True]])))
        assert "return_log_probs is not supported on the route python_enc_dec" in said
        said = refusal(client, "ensemble", inputs([cases()[0]], max_tokens=np.array([[1024]], np.int32)))
        assert "max_tokens is 1024: an answer has at most 1023" in said
        assert ask(client, cases()[2], TOKENS) == truth(2)


def test_verify_goes_through_the_steps_of_a_trtllm_repository(served: Server, made: Path) -> None:
    wanted = Verify(made, checkpoints.cached("blip2-t5"), url=served.grpc, max_tokens=TOKENS)
    found = run(wanted, tell=print)
    assert found.right and len(found.stages) == 3
    for _, stages in found.stages:
        verdicts = {stage.name: stage.verdict for stage in stages}
        assert verdicts.pop("first token") == "not compared"  # this route gives no logits
        assert set(verdicts.values()) == {"equal"}
