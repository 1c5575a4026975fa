"""What the soak sends: requests of every kind, each with the one answer that is right.

Texts come from Hugging Face's generate() on the same checkpoint, before the server starts. A refusal is right when its
message has the words that tell the client what to change, and carries an id.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from generator.oracle import Oracle
from tests import photos

FINAL = "triton_final_response"
TEXTS = ("What is shown here?", "Name one colour.", "Où est-ce ? 🌍", "a", "List three things, then stop.")
LONG = 24  # tokens of an answer that a client reads slowly or leaves

Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Ask:
    """One request and what is right for it.

    Attributes:
        kind: valid, invalid, slow (its reader lingers over each piece), cancelled (its reader leaves).
        streams: whether the model is decoupled, so that it is asked over a gRPC stream.
        texts: of each row. A cancelled one may see any beginning of them. refusal: words of the error's message.
    """

    name: str
    kind: str
    request: Any
    streams: bool
    texts: tuple[str, ...] = ()
    refusal: tuple[str, ...] = ()


def strings(*rows: Sequence[bytes]) -> NDArray[np.object_]:
    array = np.empty((len(rows), len(rows[0])), dtype=np.object_)
    for place, row in enumerate(rows):
        array[place] = list(row)
    return array


def request_of(model: str, inputs: Inputs) -> Any:
    """The request as it goes over the wire: made once, sent many times."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name in ("text_output", "batch_index") if len(inputs["text_input"]) > 1 else ("text_output",):
        request.outputs.add().name = name
    for name, values in inputs.items():
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = name, np_to_triton_dtype(values.dtype)
        tensor.shape.extend(values.shape)
        raw = serialize_byte_tensor(values).item() if values.dtype == np.object_ else values.tobytes()
        request.raw_input_contents.append(raw)
    return request


def question(text: str, images: Sequence[bytes], tokens: int, stream: bool | None) -> Inputs:
    inputs: Inputs = {"text_input": strings([text.encode()]), "max_tokens": np.array([[tokens]], np.int32)}
    if images:
        inputs["image_encoded_input"] = strings(list(images))
    if stream is not None:
        inputs["stream"] = np.array([[stream]])
    return inputs


def pictures() -> list[bytes]:
    """Small files of each format, cut from photographs, so that decoding does not eat the time."""
    photo = Image.open(io.BytesIO(photos.encoded("china")))
    made = []
    for number, kind in enumerate(("JPEG", "PNG", "WEBP")):
        buffer = io.BytesIO()
        photo.crop((60 * number, 40, 60 * number + 96, 40 + 64)).save(buffer, kind)
        made.append(buffer.getvalue())
    return made


def answered(oracle: Oracle, model: str, streams: bool) -> list[Ask]:
    """Valid, slow and cancelled requests; `streams` when `model` is the front of a streaming repository."""
    files = pictures()
    asks = []
    for number, text in enumerate(TEXTS):
        for images in ([], [files[number % len(files)]]):
            tokens = 1 + number % 4
            right = (oracle.generate(text, images, tokens)[1],)
            name = f"{len(images)} image(s), {tokens} tokens: {text}"
            ways = (True, False) if streams else (None,)
            asks += [
                Ask(name, "valid", request_of(model, question(text, images, tokens, way)), streams, right)
                for way in ways
            ]
    if not streams:
        return asks
    for number, images in enumerate(([], [files[0]])):
        text = TEXTS[number]
        right = (oracle.generate(text, images, LONG)[1],)
        request = request_of(model, question(text, images, LONG, True))
        asks += [Ask(f"{kind}, {len(images)} image(s)", kind, request, True, right) for kind in ("slow", "cancelled")]
    pair = (oracle.generate(TEXTS[0], [], 2)[1], oracle.generate(TEXTS[1], [files[1]], 2)[1])
    batch: Inputs = {
        "text_input": strings([TEXTS[0].encode()], [TEXTS[1].encode()]),
        "image_encoded_input": strings([b""], [files[1]]),
        "max_tokens": np.full((2, 1), 2, np.int32),
        "stream": np.full((2, 1), True),
    }
    return [*asks, Ask("two rows", "valid", request_of(model, batch), True, pair)]


def refused(model: str, streams: bool) -> list[Ask]:
    """Every kind of bad input that a client can send through the public tensors."""
    file = pictures()[0]
    gif = io.BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    bomb = io.BytesIO()
    Image.new("1", (30000, 30000)).save(bomb, "PNG")
    text, stream = TEXTS[0], False if streams else None

    def with_files(*files: bytes) -> Inputs:
        return question(text, files, 2, stream)

    def with_inputs(**inputs: NDArray[Any]) -> Inputs:
        return {**question(text, [], 2, stream), **inputs}

    kinds: dict[str, tuple[Inputs, tuple[str, ...]]] = {
        "no image": (with_files(b"this is no image"), ("image_encoded_input",)),
        "truncated image": (with_files(file[: len(file) // 2]), ("image_encoded_input",)),
        "image's first bytes": (with_files(file[:20]), ("image_encoded_input",)),
        "unknown image format": (with_files(gif.getvalue()), ("JPEG",)),
        "image of too many pixels": (with_files(bomb.getvalue()), ("pixels",)),
        "too many images": (with_files(*[file] * 9), ("9",)),
        "more marks than images": (question("<image> and <image>?", [file], 2, stream), ("2", "1")),
        "prompt too long": (question("word and " * 3000, [], 2, stream), ("tokens",)),
        "answer too long": (question(text, [], 100000, stream), ("100000",)),
        "no tokens": (question(text, [], 0, stream), ("max_tokens",)),
        "text that is no UTF-8": (with_inputs(text_input=strings([b"\xff\xfe"])), ("text_input", "UTF-8")),
        "other media": (with_inputs(video_encoded_input=strings([b"x"])), ("video_encoded_input",)),
        "web address": (with_inputs(image_url_input=strings([b"http://127.0.0.1:1/x.jpg"])), ("image",)),
        "broken data URI": (with_inputs(image_url_input=strings([b"data:image/png;base64,%%"])), ("image_url_input",)),
        "pixels of a wrong shape": (with_inputs(image_input=np.zeros((1, 1, 3, 8, 8), np.float16)), ("image_input",)),
        "negative temperature": (with_inputs(temperature=np.array([[-1]], np.float32)), ("temperature",)),
        "top_p above 1": (with_inputs(top_p=np.array([[1.5]], np.float32)), ("top_p",)),
        "bias without weights": (with_inputs(embedding_bias_words=strings([b"a"])), ("embedding_bias",)),
    }
    return [
        Ask(name, "invalid", request_of(model, inputs), streams, (), words) for name, (inputs, words) in kinds.items()
    ]
