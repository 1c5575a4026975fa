"""`gen-repo verify`: asks the server first and then the checkpoint, so that one of them at a time is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator import ask, loaded, server
from generator.findings import EXIT_USAGE, Refused, error
from generator.verify import acceptance, questions, truth
from generator.verify.acceptance import Accepted
from generator.verify.questions import Question
from generator.verify.repository import Repository, read

if TYPE_CHECKING:
    from generator.verify.answers import Answer
    from generator.verify.stages import Stage

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Verify:
    """What to verify.

    Attributes:
        repository: its folder. url: host:port of a server that has it loaded; None = start one.
        checkpoint: None = no stages, the acceptance question alone.
        projector, tokenizer, font: where they are not part of the checkpoint.
        text, images, videos: the user's own question; without any, a few usual ones are asked.
        max_tokens: of each greedy answer. acceptance: whether to ask the acceptance question.
    """

    repository: Path
    checkpoint: Path | None
    url: str | None = None
    text: str | None = None
    images: tuple[Path, ...] = ()
    videos: tuple[Path, ...] = ()
    max_tokens: int = 16
    projector: Path | None = None
    tokenizer: Path | None = None
    font: Path | None = None
    acceptance: bool = False


@dataclass(frozen=True)
class Verified:
    """The stages of each question, and what came of the acceptance question."""

    stages: list[tuple[Question, list[Stage]]] = field(default_factory=list)
    accepted: Accepted | None = None

    @property
    def first_deviation(self) -> tuple[Question, Stage] | None:
        """The earliest stage that deviates in any question: later ones may only follow from it."""
        differing = [
            (number, question, stage)
            for question, stages in self.stages
            for number, stage in enumerate(stages)
            if stage.verdict == "differs"
        ]
        found = min(differing, key=lambda one: one[0], default=None)
        return found and found[1:]

    @property
    def right(self) -> bool:
        return self.first_deviation is None and (self.accepted is None or self.accepted.right)

    def as_dict(self) -> dict[str, Any]:
        first = self.first_deviation
        return {
            "right": self.right,
            "first_deviation": first and {"question": str(first[0]), "stage": first[1].name},
            "questions": [
                {"question": str(question), "stages": [asdict(stage) for stage in stages]}
                for question, stages in self.stages
            ],
            "acceptance": self.accepted and asdict(self.accepted),
        }


def run(wanted: Verify, tell: Tell) -> Verified:
    """Verify a repository.

    Raises:
        Refused: the folder is none of ours, a package or a file is missing, or the checkpoint is another model's.
        ServerError: the server did not start, or refused a question.
    """
    repository = read(wanted.repository)
    truth.check_packages()
    if wanted.checkpoint:
        truth.check_checkpoint(wanted.checkpoint, repository)
    own = questions.given(wanted.text, wanted.images, wanted.videos, repository.spec)
    known = acceptance.known(repository.spec, own) if wanted.acceptance else None
    every = _questions(wanted, repository, own)
    from generator.verify.answers import served

    ours, accepted = [], None
    if wanted.url:
        with ask.connect(wanted.url) as client:
            loaded.must_be(wanted.repository, repository.names.values(), wanted.url, client)
    with server.started_or(wanted.url, wanted.repository) as (url, _):
        for number, question in enumerate(every, 1):
            tell(f"asking the server [{number}/{len(every)}] {question}")
            ours.append(served(url, repository, question, wanted.max_tokens))
        if known:
            accepted = acceptance.asked(url, repository.face, known, own, wanted.text)
    found = _compared(wanted, repository, every, ours, tell) if wanted.checkpoint else []
    return Verified(list(zip(every, found, strict=True)), accepted)


def _compared(
    wanted: Verify, repository: Repository, every: Sequence[Question], ours: Sequence[Answer], tell: Tell
) -> list[list[Stage]]:
    from generator.oracle.common import Checkpoint
    from generator.verify.answers import true
    from generator.verify.stages import compare

    tell(f"loading {wanted.checkpoint}: {repository.spec.evidence.oracle}")
    folder = wanted.checkpoint or Path()
    oracle = truth.oracle(Checkpoint(folder, "", wanted.projector, wanted.tokenizer, wanted.font), repository)
    found = []
    for number, (question, answer) in enumerate(zip(every, ours, strict=True), 1):
        tell(f"asking the checkpoint [{number}/{len(every)}] {question}")
        wished = true(oracle, question, wanted.max_tokens)
        tolerance, quantized = repository.spec.evidence.tolerance, repository.quantized
        found.append(compare(answer, wished, tolerance, quantized=quantized, as_levels=repository.as_levels))
    return found


def show(verified: Verified, tell: Tell) -> None:
    """Print each question's stages, the acceptance question's answer, and the stage that deviates first."""
    for question, stages in verified.stages:
        tell(f"{question}")
        for stage in stages:
            tell(f"  {stage.name:<12} {stage.verdict:<13} {stage.note}")
    if accepted := verified.accepted:
        how = "is exactly" if accepted.exact else "contains"
        expected = " or ".join(map(repr, accepted.expected))
        tell(f"acceptance: {accepted.question!r}\n  answer       {accepted.answer!r}")
        tell(f"  {'right' if accepted.right else 'WRONG':<12} a right one {how} {expected}, in lower case")
    if first := verified.first_deviation:
        question, stage = first
        tell(f"The first stage that deviates is `{stage.name}` ({question}): {stage.note}")


def _questions(wanted: Verify, repository: Repository, own: Question) -> list[Question]:
    if wanted.checkpoint is None:
        if wanted.acceptance:
            return []
        what, remedy = "nothing to compare with", "give the checkpoint, or --acceptance with its picture"
        raise Refused(error("verify", what, "--hf-model-dir", remedy), exit_code=EXIT_USAGE)
    if wanted.text is not None or own.media:
        return [own]
    return questions.usual(repository.spec, repository.most_images)
