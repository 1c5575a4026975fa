"""`gen-repo demo`: a small trained model that comes with gen-repo, its repository, a real Triton, and some pictures.

The models know scenes of coloured shapes and nothing else (data/demo/*/README.md); they run by `--runtime torch`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from generator import ask, models
from generator.findings import EXIT_ENVIRONMENT, Refused, error
from generator.generate import generate
from generator.options import Options
from generator.plan import FRONT
from generator.server import Server, ServerError, running
from generator.spec import ModelSpec
from generator.terminal_picture import show

DATA = Path(__file__).parent / "data" / "demo"
MAX_TOKENS = 64
NEEDED = ("torch", "transformers", "safetensors", "tokenizers", "numpy", "PIL", "tritonclient")
"""Packages that the server's steps and our client import."""


@dataclass(frozen=True)
class Shown:
    """Pictures and a question about them with its right answer."""

    pictures: tuple[Path, ...]
    question: str
    answer: str


def names() -> list[str]:
    """Models that there is a trained checkpoint of."""
    return sorted(folder.name for folder in DATA.iterdir() if (folder / "config.json").is_file())


def checkpoint(model: str) -> Path:
    """The trained checkpoint of one of `names()`."""
    return DATA / model


def questions(spec: ModelSpec) -> list[Shown]:
    """What the demo asks of a model: questions about no more pictures than it takes."""
    every = json.loads((DATA / "questions.json").read_text(encoding="utf-8"))
    folder = DATA / "pictures"
    shown = [Shown(tuple(folder / name for name in one["pictures"]), one["question"], one["answer"]) for one in every]
    return [one for one in shown if spec.max_images is None or len(one.pictures) <= spec.max_images]


def measured(model: str) -> str:
    """How many held-out questions the checkpoint answers exactly, in words."""
    figures = json.loads((checkpoint(model) / "held_out.json").read_text(encoding="utf-8"))
    every = []
    for one in figures:
        pictures = "1 picture" if one["pictures"] == 1 else f"{one['pictures']} pictures"
        every.append(f"{one['exact']:.1%} of {one['questions']} held-out questions about {pictures}")
    return ", ".join(every)


def run(model: str, *, keep: bool = False) -> int:
    """Shows the demo; with `keep` the server runs on until it is interrupted. Returns 0.

    Raises:
        Refused: a package is missing, or no checkpoint of that model comes with gen-repo.
        ServerError: the server did not start, died, or refused a question.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        what = f"the demo runs a model with torch, and these packages are not installed: {', '.join(missing)}"
        raise Refused(
            error("demo", what, sys.executable, "pip install 'gen-repo[torch,serve]'"), exit_code=EXIT_ENVIRONMENT
        )
    if model not in names():
        what = f"no trained checkpoint of {model} comes with this gen-repo, but of {', '.join(names())}"
        raise Refused(error("demo", what, checkpoint(model), "use --model " + names()[0]))
    spec, _ = models.find(model)
    for number in (signal.SIGINT, signal.SIGTERM):  # so that the server ends with us; a shell's & may ignore the first
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="gen-repo-demo-") as folder:
        repository = Path(folder, model)
        options = Options(
            model=model,
            hf_model_dir=checkpoint(model),
            runtime="torch",
            streaming=True,
            max_tokens=MAX_TOKENS,
            output=repository,
        )
        print(f"The small model in {checkpoint(model)} answers exactly: {measured(model)}.\n")
        print(
            f"gen-repo --model {model} --hf-model-dir {checkpoint(model)} --runtime torch --streaming "
            f"--max-tokens {MAX_TOKENS} --output {repository}"
        )
        outcome = generate(options)
        if outcome.failed:
            raise Refused(*outcome.findings)
        print(f"{repository}: written\n\ngen-repo serve {repository}", flush=True)
        with running(repository) as server:
            print(f"ready: http {server.http}, grpc {server.grpc}, metrics {server.metrics}")
            for shown in questions(spec):
                _ask(server, shown.question, shown.pictures)
            if sys.stdin.isatty() and sys.stdout.isatty():
                _converse(server, questions(spec)[0].pictures)
            if keep:
                print(how_to_ask(server, questions(spec)[0]), flush=True)
                _wait(server)
    return 0


def _ask(server: Server, question: str, pictures: Sequence[Path]) -> None:
    print()
    for picture in pictures:
        show(picture)
    print(f"> {question}", flush=True)
    ask.run(server.grpc, FRONT, question, pictures, max_tokens=MAX_TOKENS, stream=True, times=True)


def _converse(server: Server, pictures: Sequence[Path]) -> None:
    """Questions typed by the user, each on its own, about the pictures that were named last."""
    print("\nAsk about a picture; FILE... alone changes the pictures, an empty line ends.")
    for line in _lines():
        words = [Path(word) for word in line.split()]
        if all(word.is_file() for word in words):
            pictures = words
            for picture in pictures:
                show(picture)
        else:
            try:
                ask.run(server.grpc, FRONT, line, pictures, max_tokens=MAX_TOKENS, stream=True)
            except ServerError as problem:  # a refused question is no reason to end
                print(f"{problem.message}\n{problem.remedy}")


def _lines() -> Iterator[str]:
    """Lines that the user types, until an empty one, the end of the input or an interrupt."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while line := input("> ").strip():
            yield line


def how_to_ask(server: Server, shown: Shown) -> str:
    """Commands that ask the running server the same question."""
    picture, question = shown.pictures[0], shown.question
    return f"""
With gen-repo:
  gen-repo ask --url {server.grpc} --model {FRONT} --stream --image {picture} --text '{question}'

With curl (a picture as data URI):
  printf '{{"text_input": "{question}", "max_tokens": {MAX_TOKENS}, "image_url_input": "data:image/png;base64,%s"}}' \\
    "$(base64 -w 0 {picture})" | curl -s http://{server.http}/v2/models/ensemble/generate -d @-

With Python:
  from pathlib import Path
  from generator import ask
  print(*ask.ask("{server.grpc}", "{FRONT}", "{question}", [Path("{picture}").read_bytes()], stream=True), sep="")

The server runs until Ctrl-C."""


def _wait(server: Server) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        server.process.wait()
