"""The question about a known picture that TensorRT-LLM's own example asks, and the answer that it accepts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from generator import ask
from generator.evidence import Acceptance
from generator.findings import EXIT_USAGE, Refused, error
from generator.spec import ModelSpec
from generator.verify.questions import Question


@dataclass(frozen=True)
class Accepted:
    """What was asked and answered, and whether that is what is expected."""

    question: str
    answer: str
    expected: tuple[str, ...]
    exact: bool
    right: bool


def known(spec: ModelSpec, question: Question) -> Acceptance:
    """The model's acceptance. Raises Refused when there is none, or the user gave no picture for it."""
    acceptance = spec.evidence.acceptance
    if acceptance is None:
        what = f"TensorRT-LLM's example expects no answer of {spec.name}"
        remedy = "verify it without --acceptance"
        raise Refused(error("verify", what, "--acceptance", remedy), exit_code=EXIT_USAGE)
    if not question.media:
        option = "--video" if spec.media.input.startswith("video") else "--image"
        what = f"the answer that is expected is about {acceptance.picture}, and no file was given"
        raise Refused(error("verify", what, option, f"give it with {option} FILE"), exit_code=EXIT_USAGE)
    return acceptance


def asked(url: str, model: str, acceptance: Acceptance, question: Question, text: str | None) -> Accepted:
    """Asks `model` about the question's files, with `text` instead of the usual one when it is given.

    Compared in lower case, without white space at the ends. Raises ServerError when the server refuses.
    """
    wanted = acceptance.text if text is None else text
    parameters = {"apply_chat_template": False} if acceptance.raw and text is None else {}
    values = replace(question, text=wanted).values(acceptance.max_tokens, **parameters)
    answer = "".join(ask.ask(url, model, None, (), parameters=values))
    plain = answer.lower().strip()
    right = any(plain == one if acceptance.exact else one in plain for one in acceptance.expected)
    return Accepted(wanted, answer, acceptance.expected, acceptance.exact, right)
