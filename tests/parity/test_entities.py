"""Places named in answers, through a real Triton: as transformers' processor reads them out of the same answer."""

from __future__ import annotations

import json
import urllib.request
from base64 import b64encode
from typing import Any

import numpy as np
import pytest

from tests.parity.client import Case, inputs, strings, tokens
from tests.parity.conftest import MAX_TOKENS, Served

TEXTS = ("text_output", "clean_text", "entities")
PROMPT = "<grounding>"  # penalties count the prompt's tokens too: it must hold none of the following
NAMED = ("It", "<phrase>", "a", "</phrase>", "<object>", "<patch_index_0044>", "<patch_index_0863>", "</object>", "!")

served_model = pytest.mark.parametrize("served", ["kosmos-2"], indirect=True)
streaming_model = pytest.mark.parametrize("streaming", ["kosmos-2"], indirect=True)


def truth(served: Served, text: str) -> tuple[str, list[Any]]:
    """What transformers makes of an answer, entities as JSON has them."""
    clean, entities = served.oracle.processor.post_process_generation(text)  # type: ignore[attr-defined]
    return clean, [
        {"phrase": phrase, "start": start, "end": end, "boxes": [list(box) for box in boxes]}
        for phrase, (start, end), boxes in entities
    ]


def forced(words: tuple[str, ...]) -> dict[str, Any]:
    """Inputs that make any model say `words` once each in this order, whatever it is shown.

    A word of two tokens may be the last, if the first of them is that of "," too, which has the space before it.
    """
    biased = [*words, ","]
    weights = [1e6 / 2**place for place in range(len(biased))]
    return {
        "embedding_bias_words": strings([[word.encode() for word in biased]]),
        "embedding_bias_weights": np.array([weights], np.float32),
        "frequency_penalty": np.array([[1e8]], np.float32),
        "max_tokens": tokens(len(words) + 1),
    }


@served_model
def test_what_any_answer_says_of_places(served: Served) -> None:
    tagged = 0
    with served.client() as client:
        for case, text in zip(served.cases, served.expected, strict=True):
            result = client.infer("ensemble", inputs([case], max_tokens=tokens(MAX_TOKENS)))
            answer, clean, entities = (result.as_numpy(name)[0, 0].decode() for name in TEXTS)
            assert answer == text and (clean, json.loads(entities)) == truth(served, text)
            tagged += clean != text.strip()
    assert tagged > len(served.cases) / 2  # with random weights, most answers hold some tags


@served_model
def test_a_named_place(served: Served) -> None:
    with served.client() as client:
        for shown in served.cases[:4]:
            result = client.infer("ensemble", inputs([Case("", PROMPT, shown.images)], **forced(NAMED)))
            answer, clean, entities = (result.as_numpy(name)[0, 0].decode() for name in TEXTS)
            assert answer == "It<phrase> a</phrase><object><patch_index_0044><patch_index_0863></object>!"
            assert (clean, json.loads(entities)) == truth(served, answer)
            [entity] = json.loads(entities)
            assert clean[entity["start"] : entity["end"]] == entity["phrase"] == "a"
            assert entity["boxes"] == [[0.390625, 0.046875, 0.984375, 0.828125]]


@streaming_model
def test_the_front_gives_them_with_whole_answers(streaming: Served) -> None:
    case = streaming.cases[0]
    body = {
        "text_input": case.text,
        "image_url_input": "data:image/jpeg;base64," + b64encode(case.images[0]).decode(),
        "max_tokens": MAX_TOKENS,
    }
    url = f"http://{streaming.http}/v2/models/tensorrt_llm_bls/generate"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=60) as response:
        answer = json.load(response)
    assert answer["text_output"] == streaming.expected[0]
    assert (answer["clean_text"], json.loads(answer["entities"])) == truth(streaming, streaming.expected[0])
