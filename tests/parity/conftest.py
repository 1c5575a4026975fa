"""Repositories of the torch runtime over tiny checkpoints, served by a real Triton, and the oracle's answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from generator.generate import generate
from generator.options import Options
from tests import photos
from tests.checkpoints import cached
from tests.oracle import LlavaOracle, Oracle, VilaOracle
from tests.parity.client import Case
from tests.server.harness import triton

MAX_TOKENS = 12
ORACLES = {"llava": LlavaOracle, "vila": VilaOracle}
# Images per prompt that a model is asked about, text only (0) included.
IMAGES = {"llava": (0, 1), "vila": (0, 1, 2, 3)}


def repository(model: str, folder: Path, *, streaming: bool = False) -> Path:
    outcome = generate(
        Options(
            model=model,
            hf_model_dir=cached(model),
            runtime="torch",
            output=folder,
            streaming=streaming,
            max_tokens=MAX_TOKENS,
        )
    )
    assert not outcome.failed, outcome.findings
    return outcome.output


def cases(model: str) -> list[Case]:
    """30 prompts for each number of images; photographs of all shapes take turns."""
    names = photos.names()
    made = []
    for count in IMAGES[model]:
        for i, prompt in enumerate(photos.PROMPTS):
            chosen = [names[(i * 3 + k * 7 + count) % len(names)] for k in range(count)]
            images = tuple(photos.encoded(name) for name in chosen)
            made.append(Case(f"{count} image(s) {','.join(chosen)}: {prompt[:30]!r}", prompt, images))
    return made


@dataclass
class Served:
    """A served repository and what the oracle says of its cases."""

    model: str
    grpc: str
    http: str
    folder: Path
    oracle: Oracle
    cases: list[Case]

    @cached_property
    def expected(self) -> list[str]:
        """Greedy texts of the oracle, one request at a time."""
        return [self.oracle.generate(c.text, list(c.images), MAX_TOKENS)[1] for c in self.cases]

    @contextlib.contextmanager
    def client(self) -> Iterator[InferenceServerClient]:
        with InferenceServerClient(self.grpc) as client:
            yield client


@pytest.fixture(scope="session")
def oracle_of() -> dict[str, Oracle]:
    return {}


def _serve(model: str, folder: Path, known: dict[str, Oracle], *, streaming: bool) -> Iterator[Served]:
    where = repository(model, folder, streaming=streaming)
    if model not in known:
        known[model] = ORACLES[model](cached(model))
    with triton(where) as server:
        yield Served(model, server.grpc, server.http, where, known[model], cases(model))


@pytest.fixture(scope="module", params=sorted(IMAGES))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, oracle_of: dict[str, Oracle]
) -> Iterator[Served]:
    """A plain repository of each model."""
    yield from _serve(request.param, tmp_path_factory.mktemp("plain") / request.param, oracle_of, streaming=False)


@pytest.fixture(scope="module", params=sorted(IMAGES))
def streaming(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, oracle_of: dict[str, Oracle]
) -> Iterator[Served]:
    """A --streaming repository of each model."""
    yield from _serve(request.param, tmp_path_factory.mktemp("streaming") / request.param, oracle_of, streaming=True)
