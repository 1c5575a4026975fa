"""Runs a Python step outside the server: files as gen-repo lays them out, requests in their wire shapes."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import tempfile
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers

ROOT = Path(__file__).parents[2]

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
CLIP_STEPS = [["on_white"], ["resize_shortest", 336], ["center_crop", 336, 336]]
SMALL_PIXELS = {"steps": [["resize_shortest", 8], ["center_crop", 8, 8]], "shape": [3, 8, 8]}
VOCAB_SIZE = 640  # of the imagined LLM: the tokenizer's, padded as LLMs do
ROWS = 6
ERROR_ID = r"\[error [0-9a-f]{8}\]"
INTERNAL_ERROR = rf"^internal error: .* {ERROR_ID}$"
CORPUS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful "
    "answers to the user's questions. USER: What is shown in the picture? Which city is this? "
    "ASSISTANT: the street, a dog. "
).splitlines() * 4


class RequestFailed(Exception):
    """The error that a step answered a request with."""

    def __init__(self, error: pb_utils.TritonError) -> None:
        super().__init__(error.message())
        self.code = error.code()


@cache
def tokenizer_json() -> str:
    """A tokenizer built like Llama 2's: `▁` for spaces, byte fallback, `<s>` put first, `<image>` a token."""
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    unknown: dict[str, Any] = {"unk_token": "<unk>"}
    trained = Tokenizer(models.BPE(**unknown))
    trained.normalizer = spaces
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"]))
    bpe = json.loads(trained.to_str())["model"]
    pieces = [piece for piece in sorted(bpe["vocab"], key=bpe["vocab"].__getitem__) if piece != "<unk>"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocab = {name: number for number, name in enumerate(names)}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in bpe["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, **unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>", "<image>", "<pad>")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert tokenizer.get_vocab_size() < VOCAB_SIZE
    return tokenizer.to_str()


def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json())


def settings(*, image_token: bool = True, **changes: Any) -> Any:
    """Settings of a small model; `changes` replace top-level entries or update those that are objects."""
    base: dict[str, Any] = {
        "model": "tiny-llava",
        "tokenizer": {
            "module": "tokenizers_text",
            "file": "tokenizer.json",
            "dropped_ids": [],
            "bos_id": 1,
            "end_id": 2,
            "pad_id": tokenizer().token_to_id("<pad>"),
            "vocab_size": VOCAB_SIZE,
        },
        "prompt": {
            "module": "marked_prompt",
            "template": "USER: {text} ASSISTANT:",
            "image_prefix": "<image>\n",
            "image_mark": "<image>",
            "image_token_id": tokenizer().token_to_id("<image>") if image_token else None,
            "text_required": True,
            "banned_ids": [],
            "image_required": False,
            "stop_words": [],
        },
        "pixels": {
            "steps": CLIP_STEPS,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "mean": CLIP_MEAN,
            "std": CLIP_STD,
            "shape": [3, 336, 336],
            "dtype": "float16",
            "decode_edge": None,
            "least_entries": 0,
            "module": "numpy_numbers",
        },
        "layout": {"module": "fixed_rows"},
        "media": {"module": "images", "needed": "an image", "input": "image_encoded_input", "noun": "image"},
        "rows_per_image": ROWS,
        "constant_rows": 0,
        "release": {"min_tokens": "min_length", "seed": "random_seed", "extra_ids": True, "client_cache_ids": False},
        "limits": {
            "max_images": 4,
            "max_batch": 8,
            "max_input_len": 200,
            "max_seq_len": 300,
            "max_table_rows": 3 * ROWS,
            "default_max_tokens": 128,
            "max_image_bytes": 1 << 20,
            "max_image_pixels": 1 << 24,
            "max_output_len": None,
        },
        "image_hosts": [],
    }
    for name, value in changes.items():
        base[name] = {**base[name], **value} if isinstance(value, dict) else value
    return base


def load_step(step: str, folder: Path, step_settings: dict[str, Any], with_tokenizer: bool = True) -> Any:
    """The initialized TritonPythonModel of `step`, its files laid out in `folder`."""
    shutil.copy(ROOT / "templates" / step / "1" / "model.py", folder)
    (folder / "settings.json").write_text(json.dumps(step_settings))
    if with_tokenizer:
        (folder / "tokenizer.json").write_text(tokenizer_json())
    spec = importlib.util.spec_from_file_location(f"{step}_model", folder / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({})
    return model


def texts(*rows: str) -> NDArray[Any]:
    """One text per row, BYTES [B,1]."""
    return words(*([row] for row in rows))


def words(*rows: list[str] | list[bytes]) -> NDArray[Any]:
    """BYTES [B,k]."""
    array = np.empty((len(rows), len(rows[0])), dtype=np.object_)
    for index, row in enumerate(rows):
        array[index] = [entry.encode() if isinstance(entry, str) else entry for entry in row]
    return array


def make_request(**inputs: NDArray[Any]) -> pb_utils.InferenceRequest:
    tensors = [pb_utils.Tensor(name, array) for name, array in inputs.items()]
    return pb_utils.InferenceRequest("step", ["text_output"], tensors)


def outputs(response: pb_utils.InferenceResponse) -> dict[str, NDArray[Any]]:
    """The tensors of a response. Raises RequestFailed when it is an error."""
    error = response.error()
    if error is not None:
        raise RequestFailed(error)
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def run(model: Any, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The outputs of one request."""
    [response] = model.execute([make_request(**inputs)])
    return outputs(response)


def picture(seed: int = 0, width: int = 12, height: int = 10) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def file(seed: int = 0, kind: str = "PNG", **size: int) -> bytes:
    """The bytes of an image file of a random picture."""
    stream = BytesIO()
    picture(seed, **size).save(stream, kind)
    return stream.getvalue()


def data_uri(content: bytes, media_type: str = "image/png") -> bytes:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}".encode()


def refusal(step: Any, **inputs: Any) -> str:
    """The message of the error that a request gets, which the client can repair and that shows no inside."""
    with pytest.raises(RequestFailed) as failure:
        run(step, **{"text_input": texts("hello"), **inputs})
    assert failure.value.code == pb_utils.TritonError.INVALID_ARG, failure.value
    assert tempfile.gettempdir() not in str(failure.value) and "Traceback" not in str(failure.value)
    return str(failure.value)
