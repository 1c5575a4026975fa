"""Repositories of the torch runtime over tiny checkpoints, served by a real Triton, and the oracle's answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient

from generator import models
from generator.generate import generate
from generator.options import Options
from generator.oracle import LlavaOracle, Oracle, VilaOracle
from generator.oracle.blip2 import Blip2OptOracle, Blip2T5Oracle
from generator.oracle.cogvlm import CogvlmOracle
from generator.oracle.fuyu import FuyuOracle
from generator.oracle.kosmos2 import Kosmos2Oracle
from generator.oracle.llava_next import LlavaNextOracle
from generator.oracle.neva import NevaOracle
from generator.oracle.phi3_vision import Phi3VisionOracle
from tests import photos
from tests.checkpoints import cached
from tests.parity import openai_gateway
from tests.parity.client import MAX_TOKENS, Case
from tests.server.harness import Kept, triton


@dataclass(frozen=True)
class Subject:
    """What is asked: a model or variant over a tiny checkpoint.

    Attributes:
        images: images per prompt, text only (0) included.
        prompts: how many of the 30 prompts are asked for each number of images.
        marks: whether the text may say where an image goes. raw_marks: whether it must, without the chat template.
        client_pixels: whether a client may send the engine's pixels.
        other_tower: the tiny checkpoint has a tower that torch can run, unlike the variant's own.
        folder: of the tiny checkpoint's folders, the one that is the model's.
    """

    model: str
    checkpoint: str
    oracle: Callable[[Path], Oracle]
    images: tuple[int, ...]
    prompts: int = 30
    marks: bool = True
    raw_marks: bool = False
    client_pixels: bool = True
    other_tower: bool = False
    folder: str = ""

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return cached(self.checkpoint) / self.folder


SUBJECTS = {
    "llava": Subject("llava", "llava", LlavaOracle, (0, 1)),
    "vila": Subject("vila", "vila", VilaOracle, (0, 1, 2, 3)),
    "blip2-opt": Subject("blip2-opt", "blip2-opt", Blip2OptOracle, (1,), 20, marks=False),
    "blip2-t5": Subject("blip2-t5", "blip2-t5", Blip2T5Oracle, (1,), 20, marks=False),
    "llava-next": Subject("llava-next", "llava-next", LlavaNextOracle, (0, 1), 20, client_pixels=False),
    "llava-v1.6-34b": Subject(
        "llava-v1.6-34b-hf", "llava-next-hermes-2", LlavaNextOracle, (0, 1), 8, client_pixels=False
    ),
    "cogvlm": Subject("cogvlm", "cogvlm", CogvlmOracle, (1,), 20, marks=False, folder="cogvlm-chat-hf"),
    "fuyu": Subject("fuyu", "fuyu", FuyuOracle, (1,), 20, marks=False, client_pixels=False),
    "kosmos-2": Subject("kosmos-2", "kosmos-2", Kosmos2Oracle, (1,), 20, marks=False),
    "neva": Subject("neva", "neva", NevaOracle, (1,), 20, marks=False, raw_marks=True),
    "phi-3-vision": Subject("phi-3-vision", "phi-3-vision-4", Phi3VisionOracle, (0, 1, 2), 20, client_pixels=False),
    "vila1.5-8b": Subject("vila1.5-8b", "vila-llama_3", partial(VilaOracle, conversation="llama_3"), (0, 1, 2), 8),
    "vila1.5-40b": Subject(
        "vila1.5-40b", "vila-hermes-2", partial(VilaOracle, conversation="hermes-2"), (0, 1, 2), 8, other_tower=True
    ),
}
STREAMED = ("llava", "vila", "neva")


def repository(subject: Subject, folder: Path, *, streaming: bool = False) -> Path:
    options = Options(
        model=subject.model,
        hf_model_dir=subject.path,
        runtime="torch",
        output=folder,
        streaming=streaming,
        max_tokens=MAX_TOKENS,
        max_images=max(subject.images),
    )
    with pytest.MonkeyPatch.context() as patch:
        if subject.other_tower:
            spec, variant = models.find(subject.model)
            patch.setattr(models, "find", lambda name: (spec, replace(variant, no_torch="")))
        outcome = generate(options)
    assert not outcome.failed, outcome.findings
    return outcome.output


def cases(subject: Subject) -> list[Case]:
    """The prompts for each number of images; photographs of all shapes take turns."""
    names = photos.names()
    made = []
    for count in subject.images:
        for i, prompt in enumerate(photos.PROMPTS[: subject.prompts]):
            chosen = [names[(i * 3 + k * 7 + count) % len(names)] for k in range(count)]
            images = tuple(photos.encoded(name) for name in chosen)
            made.append(Case(f"{count} image(s) {','.join(chosen)}: {prompt[:30]!r}", prompt, images))
    return made


@dataclass
class Served:
    """A served repository and what the oracle says of its cases."""

    subject: Subject
    server: Kept
    folder: Path
    oracle: Oracle
    cases: list[Case]

    @property
    def grpc(self) -> str:
        return self.server.grpc

    @property
    def http(self) -> str:
        return self.server.http

    @cached_property
    def expected(self) -> list[str]:
        """Greedy texts of the oracle, one request at a time."""
        return [self.oracle.generate(c.text, list(c.images), MAX_TOKENS)[1] for c in self.cases]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings of the served preprocessing."""
        content: dict[str, Any] = json.loads((self.folder / "preprocessing/1/settings.json").read_text())
        return content

    @property
    def vocab_size(self) -> int:
        return int(self.settings["tokenizer"]["vocab_size"])

    @property
    def mark(self) -> str:
        return str(self.settings["prompt"]["image_mark"])

    @contextlib.contextmanager
    def client(self) -> Iterator[InferenceServerClient]:
        with InferenceServerClient(self.grpc) as client:
            yield client


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one server go to one worker, so that each server starts once."""
    for item in items:
        called = getattr(item, "callspec", None)
        for kind in ("served", "streaming", "levels"):
            if called and kind in called.params:
                item.add_marker(pytest.mark.xdist_group(f"{kind} {called.params[kind]}"))


@pytest.fixture(scope="session")
def oracle_of() -> dict[str, Oracle]:
    return {}


def _serve(name: str, folder: Path, known: dict[str, Oracle], *, streaming: bool) -> Iterator[Served]:
    subject = SUBJECTS[name]
    where = repository(subject, folder, streaming=streaming)
    if name not in known:
        known[name] = subject.oracle(subject.path)
    with triton(where) as server:
        yield Served(subject, server, where, known[name], cases(subject))


@pytest.fixture(scope="session", params=SUBJECTS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, oracle_of: dict[str, Oracle]
) -> Iterator[Served]:
    """A plain repository of each subject."""
    yield from _serve(request.param, tmp_path_factory.mktemp("plain") / request.param, oracle_of, streaming=False)


@pytest.fixture(scope="session", params=STREAMED)
def streaming(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, oracle_of: dict[str, Oracle]
) -> Iterator[Served]:
    """A --streaming repository of each subject."""
    yield from _serve(request.param, tmp_path_factory.mktemp("streaming") / request.param, oracle_of, streaming=True)


@pytest.fixture(scope="module")
def streamed_url(streaming: Served) -> Iterator[str]:
    """`gen-repo openai` before the server of the --streaming repository."""
    with openai_gateway.gateway(streaming.folder, streaming.grpc) as url:
        yield url


@pytest.fixture(scope="module")
def plain_url(served: Served) -> Iterator[str]:
    """The same before the server of the plain repository."""
    with openai_gateway.gateway(served.folder, served.grpc) as url:
        yield url
