"""An answer and what it was made from, as a served repository has it and as the oracle has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from generator import ask, routes
from generator.server import ServerError
from generator.verify.questions import Question
from generator.verify.repository import Repository

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient, InferInput

    from generator.oracle.common import Oracle

IMAGE = -1  # stands in `ids` at each position that takes a vision row
LOGITS = "generation_logits"


@dataclass(frozen=True)
class Answer:
    """One side's stages of one question.

    Attributes:
        ids: [L], of the whole prompt, IMAGE where a vision row stands.
        pixels: what the vision encoder gets, without the batch axis; None where nothing is shown.
        rows: [k, h] float32, which the LLM gets in the order of their positions; None where nothing is shown.
        logits: [n, vocabulary] float32 of the n new tokens; None where the engine does not keep them.
        text: of the answer.
    """

    ids: NDArray[np.int64]
    pixels: NDArray[Any] | None
    rows: NDArray[np.float32] | None
    logits: NDArray[np.float32] | None
    text: str


def served(url: str, repository: Repository, question: Question, max_tokens: int) -> Answer:
    """What the server makes of a question: preprocessing and the vision step asked by themselves, then the whole.

    Raises ServerError, with the server's own message, when one of them refuses.
    """
    from tritonclient.utils import InferenceServerException

    with ask.connect(url) as client:
        try:
            made = _call(client, repository.names["preprocessing"], question.values(max_tokens))
            prompt = made.as_numpy("input_ids").reshape(-1).astype(np.int64)
            is_image = prompt >= repository.vocab_size
            rows = _rows(client, repository, made, prompt[is_image]) if question.media else None
            pixels = _array(made, "pixel_values") if question.media else None
            text, logits = _answer(client, repository.face, question, max_tokens)
        except InferenceServerException as problem:
            what = f"the server answered {question}: {problem.message()}"
            raise ServerError(what, "change the question as the message says, or mend the step that it names") from None
    return Answer(np.where(is_image, IMAGE, prompt), None if pixels is None else pixels[0], rows, logits, text)


def true(oracle: Oracle, question: Question, max_tokens: int) -> Answer:
    """What the oracle makes of it."""
    shown = list(question.media)
    ids = np.array(oracle.ids(question.text, shown), np.int64)
    pixels = oracle.seen(question.text, shown) if shown else None
    rows = oracle.carried(question.text, shown).astype(np.float32) if shown else None
    _, text = oracle.generate(question.text, shown, max_tokens)
    return Answer(np.where(ids == oracle.image_id, IMAGE, ids), pixels, rows, oracle.logits, text)


def _rows(client: Any, repository: Repository, made: Any, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """The rows that the ids choose of the table; where the LLM attends to them, all."""
    name = repository.names["vision_encoder"]
    steps = client.get_model_config(repository.names["ensemble"]).config.ensemble_scheduling.step
    [step] = [step for step in steps if step.model_name == name]  # which knows what an engine calls its tensors
    asked = [_passed_on(made, edge.removeprefix("_"), own) for own, edge in step.input_map.items()]
    result = client.infer(name, asked)
    given = {edge.removeprefix("_"): own for own, edge in step.output_map.items()}
    features = _array(result, given.get(routes.FEATURES, ""))
    if features is not None:
        return features[0].astype(np.float32)  # type: ignore[no-any-return]
    table = _array(result, given.get(routes.TABLE, ""))
    if table is None:
        raise ServerError(f"{name} gave neither a prompt table nor features", "check it with `gen-repo check`")
    return table[0][chosen - repository.vocab_size].astype(np.float32)  # type: ignore[no-any-return]


def _answer(
    client: InferenceServerClient, face: str, question: Question, max_tokens: int
) -> tuple[str, NDArray[np.float32] | None]:
    """Text and logits of the greedy answer; without logits where the LLM cannot give them."""
    from tritonclient.utils import InferenceServerException

    try:
        result = _streamed(client, face, question.values(max_tokens, return_generation_logits=True))
    except InferenceServerException:  # an engine that was built without them; any other reason shows again
        result = _streamed(client, face, question.values(max_tokens))
    text = result.as_numpy("text_output").reshape(-1)[0].decode(errors="replace")
    logits = _array(result, LOGITS)
    return text, None if logits is None or not logits.size else logits[0, 0].astype(np.float32)


def _call(client: InferenceServerClient, model: str, values: Mapping[str, Any]) -> Any:
    return client.infer(model, ask.inputs_of(client.get_model_config(model).config, values))


def _streamed(client: InferenceServerClient, model: str, values: Mapping[str, Any]) -> Any:
    """The response that has the text; over a stream, which decoupled and other models take alike."""
    inputs = ask.inputs_of(client.get_model_config(model).config, values)
    found = list(ask.responses(client, model, inputs))
    if not found:
        raise ServerError(f"{model} answered nothing", "look into the server's log")
    return found[-1]


def _array(result: Any, name: str) -> NDArray[Any] | None:
    """An output, one of BF16 as float32, whatever the client makes of it; None where it is absent."""
    array: NDArray[Any] | None = result.as_numpy(name)
    if array is not None and result.get_output(name).datatype == "BF16":
        return array.astype(np.float32)
    return array


def _passed_on(result: Any, name: str, own: str) -> InferInput:
    """An output as the next step's input `own`, its type kept."""
    from tritonclient.grpc import InferInput

    values = result.as_numpy(name)
    made = InferInput(own, list(values.shape), result.get_output(name).datatype)
    made.set_data_from_numpy(values)
    return made
