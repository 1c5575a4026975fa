"""A torch `tensorrt_llm` step on a real Triton: its repository, its tiny checkpoint, and asking it."""

from __future__ import annotations

import contextlib
import json
import queue
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.server.harness import triton

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "0.16.0"
VOCAB, HIDDEN, MAX_SEQ = 96, 64, 512
UNARY, DECOUPLED = "unary", "decoupled"
INT32_1 = (
    "input_lengths",
    "request_output_len",
    "end_id",
    "pad_id",
    "beam_width",
    "runtime_top_k",
    "min_length",
)


def _declarations(kind: str) -> str:
    """Every tensor of the backend's contract in RELEASE, as config.pbtxt text."""
    contract = json.loads((ROOT / "generator" / "data" / "contract.json").read_text())
    order = contract["releases"].index
    texts = []
    for name, intervals in contract[kind].items():
        for entry in intervals:
            if order(entry["since"]) <= order(RELEASE) <= order(entry.get("until", contract["releases"][-1])):
                data_type = "FP16" if "$" in entry["type"] else entry["type"]
                text = f'name: "{name}" data_type: TYPE_{data_type} dims: {entry["dims"]}'
                text += f" reshape {{ shape: {entry['reshape']} }}" if "reshape" in entry else ""
                text += " optional: true" if entry.get("optional") else ""
                text += " allow_ragged_batch: true" if entry.get("ragged") else ""
                texts.append(text)
    return f"{kind[:-1]} [ " + ",\n".join(f"{{ {text} }}" for text in texts) + " ]\n"


def write_model(repository: Path, name: str, checkpoint: Path, *, decoupled: bool) -> None:
    """Add the step, as gen-repo lays it out, to a model repository."""
    version = repository / name / "1"
    shutil.copytree(ROOT / "templates" / "torch" / "tensorrt_llm" / "1", version)
    for module in ("llm_request.py", "llm_words.py", "tensors.py", "torch_device.py"):
        shutil.copy(ROOT / "templates" / "shared" / module, version)
    settings = {
        "model": "tiny",
        "checkpoint": str(checkpoint),
        "subfolder": "",
        "attribute": "",
        "module": "hf_llm",
        "prompt": {"module": "table_prompt"},
        "carries": "prompt_embedding_table",
        "decoder_start_id": None,
        "dtype": "float16",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "max_seq_len": MAX_SEQ,
        "decoupled": decoupled,
        "device": "cpu",
        "threads": 1,
    }
    (version / "settings.json").write_text(json.dumps(settings))
    (repository / name / "config.pbtxt").write_text(
        f'backend: "python" max_batch_size: 8 instance_group [ {{ kind: KIND_CPU }} ]\n'
        f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }} dynamic_batching {{ }}\n"
        + _declarations("inputs")
        + _declarations("outputs")
    )


def write_checkpoint(folder: Path) -> None:
    """A random Llama, weights scaled up so that answers differ from prompt to prompt."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_SEQ,
    )
    model = transformers.LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator) + (weight.ndim == 1))
    model.half().save_pretrained(folder)


@contextlib.contextmanager
def served(checkpoint: Path, repository: Path) -> Iterator[Any]:
    """A client, with its `address`, of a server that has the step over `checkpoint` with either policy."""
    write_model(repository, UNARY, checkpoint, decoupled=False)
    write_model(repository, DECOUPLED, checkpoint, decoupled=True)
    with triton(repository) as server, grpcclient.InferenceServerClient(server.grpc) as connection:
        connection.address = server.grpc
        yield connection


PROMPTS = [random.Random(seed).choices(range(3, VOCAB), k=5 + seed) for seed in range(20)]
DTYPES = {
    **dict.fromkeys(INT32_1, np.int32),
    **dict.fromkeys(("input_ids", "stop_words_list", "bad_words_list", "prompt_vocab_size"), np.int32),
    **dict.fromkeys(("streaming", "stop", "return_log_probs", "return_context_logits"), np.bool_),
    **dict.fromkeys(("return_generation_logits", "exclude_input_in_output", "early_stopping"), np.bool_),
    **dict.fromkeys(("random_seed", "lora_task_id", "prompt_table_extra_ids"), np.uint64),
    **dict.fromkeys(("num_return_sequences", "draft_input_ids"), np.int32),
    "prompt_embedding_table": np.float16,
}


def inputs(prompt: Any, tokens: int = 12, **more: Any) -> list[grpcclient.InferInput]:
    """Request tensors: a prompt (or several of one length) with scalars given once for all rows."""
    ids = np.atleast_2d(np.asarray(prompt, dtype=np.int32))
    values = {"input_ids": ids, "input_lengths": ids.shape[1], "request_output_len": tokens, **more}
    built = []
    for name, value in values.items():
        array = np.asarray(value, dtype=DTYPES.get(name, np.float32))
        if array.ndim == 0:
            array = np.full((len(ids), 1), array)
        tensor = grpcclient.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        built.append(tensor)
    return built


def ask(client: Any, prompt: Any, tokens: int = 12, **more: Any) -> grpcclient.InferResult:
    return client.infer(UNARY, inputs(prompt, tokens, **more))


def answer(client: Any, prompt: Any, tokens: int = 12, **more: Any) -> list[int]:
    result = ask(client, prompt, tokens, **more)
    length = result.as_numpy("sequence_length")[0, 0]
    ids: list[int] = result.as_numpy("output_ids")[0, 0, :length].tolist()
    return ids


def stream(client: Any, prompt: Any, tokens: int = 12, **more: Any) -> list[grpcclient.InferResult]:
    """All responses of the decoupled model but the final one, which must be empty and the only final one."""
    responses: queue.Queue[Any] = queue.Queue()
    with grpcclient.InferenceServerClient(client.address) as own:  # one stream for each connection
        own.start_stream(lambda result, error: responses.put(error or result))
        own.async_stream_infer(
            DECOUPLED, inputs(prompt, tokens, **more), enable_empty_final_response=True, request_id="stream"
        )
        received: list[Any] = []
        try:
            while not received or not _is_final(received[-1]):
                received.append(responses.get(timeout=20))
                if isinstance(received[-1], InferenceServerException):
                    raise received[-1]
            time.sleep(0.05)
            assert responses.empty() and not received.pop().get_response().outputs
        finally:
            own.stop_stream(cancel_requests=True)
    return received


def _is_final(result: grpcclient.InferResult) -> bool:
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


def concatenated(responses: list[grpcclient.InferResult]) -> list[int]:
    """The streamed tokens; each response holds only its own, as many as its sequence_length says."""
    tokens: list[int] = []
    for response in responses:
        ids = response.as_numpy("output_ids")
        if ids is not None:
            assert ids.shape[:2] == (1, 1) and ids.shape[2] == response.as_numpy("sequence_length")[0, 0]
            tokens += ids[0, 0].tolist()
    return tokens


def hf_greedy(hf: Any, prompt: list[int], tokens: int = 12, **more: Any) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        found = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, pad_token_id=0, **more)
    new: list[int] = found[0, len(prompt) :].tolist()
    return new


def words(*lists: list[int]) -> NDArray[np.int32]:
    """Word lists [1, 2, L] in the backend's layout."""
    flat = [token for own in lists for token in own]
    ends = np.cumsum([len(own) for own in lists]).tolist()
    return np.array([[flat, ends + [-1] * (len(flat) - len(ends))]], dtype=np.int32)


class Running:
    """One long streamed request on a connection of its own; collects what arrives."""

    def __init__(self, client: Any, request_id: str, prompt: Any = PROMPTS[0], **more: Any) -> None:
        self.received: queue.Queue[Any] = queue.Queue()
        self.ended = threading.Event()
        self.connection = grpcclient.InferenceServerClient(client.address)
        self.connection.start_stream(self._take)
        self.connection.async_stream_infer(
            DECOUPLED,
            inputs(prompt, 480, **more),
            request_id=request_id,
            enable_empty_final_response=True,
        )

    def _take(self, result: Any, error: Any) -> None:
        self.received.put(error or result)
        if error is None and _is_final(result):
            self.ended.set()
