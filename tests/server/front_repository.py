"""A repository of the real front model and small real steps around it, which obey the contract of the real ones.

The stand-in LLM repeats its prompt one token at a time, `temperature` milliseconds each, checks what it gets, and
notes when it starts, stops and ends. `seed` makes one step fail: see FAIL.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEMPLATES = Path(__file__).parents[2] / "templates"
FRONT = "tensorrt_llm_bls"
THREADS = 20
FAIL = {"preprocessing": 1, "vision_encoder": 2, "tensorrt_llm": 3, "postprocessing": 4}

PREPROCESSING = """
import numpy as np, json, pathlib
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer
from tensors import RequestError, answer_each, column, strings, optional
class TritonPythonModel:
    def initialize(self, args):
        self.tokenizer = Tokenizer.from_file(str(pathlib.Path(__file__).with_name("tokenizer.json")))
    def execute(self, requests):
        return answer_each(requests, self.answer)
    def answer(self, request):
        texts = strings(optional(request, "text_input"), "text_input")
        batch = len(texts)
        seeds = column(request, "seed", batch, 0)
        if 1 in seeds:
            raise RequestError("the text is bad")
        rows = [self.tokenizer.encode(text).ids for text in texts]
        longest = max(map(len, rows))
        ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int32).reshape(batch, longest)
        lengths = np.array([[len(row)] for row in rows], np.int32)
        pixels = np.broadcast_to(lengths.reshape(-1, 1, 1, 1, 1), (batch, 1, 3, 2, 2)).astype(np.float16)
        outputs = {
            "pixel_values": pixels, "num_images": np.ones((batch, 1), np.int32),
            "num_rows": np.array(seeds, np.int32).reshape(-1, 1), "input_ids": ids, "input_lengths": lengths,
            "request_output_len": np.array(column(request, "max_tokens", batch, 10000), np.int32).reshape(-1, 1),
            "end_id": np.full((batch, 1), -1, np.int32),
            "seed": np.array(seeds, np.uint64).reshape(-1, 1),
            "prompt_table_extra_ids": np.zeros((batch, longest), np.uint64),
        }
        return [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in outputs.items()]
"""

VISION = """
import numpy as np, torch
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]
    def answer(self, request):
        if 2 in pb_utils.get_input_tensor_by_name(request, "num_rows").as_numpy():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("the engine is broken"))
        pixels = pb_utils.get_input_tensor_by_name(request, "pixel_values").as_numpy()
        table = torch.from_numpy(pixels[:, :, :, 0, 0].copy()).repeat(1, 1, 2).to(torch.TABLE)  # [B, 1, 6]
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("prompt_embedding_table", table)])
"""

LLM = """
import threading, time, json, pathlib
import numpy as np, torch
import triton_python_backend_utils as pb_utils
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
class TritonPythonModel:
    def initialize(self, args):
        self.running, self.notes, self.lock = {}, open(pathlib.Path(args["model_repository"]) / "notes", "a"), threading.Lock()
    def note(self, what, **more):
        with self.lock:
            self.notes.write(json.dumps({"what": what, "time": time.time(), **more}) + "\\n")
            self.notes.flush()
    def execute(self, requests):
        for request in requests:
            tensors = {tensor.name(): tensor for tensor in request.inputs()}
            sender = request.get_response_sender()
            key = request.request_id()
            if "stop" in tensors:
                self.note("stop", id=key)
                if stopped := self.running.get(key):  # it may end at any time
                    stopped.set()
                sender.send(flags=FINAL)
                continue
            self.running[key] = threading.Event()
            threading.Thread(target=self.serve, args=(key, tensors, sender)).start()
    def serve(self, key, tensors, sender):
        values = {name: t.as_numpy() for name, t in tensors.items() if name != "prompt_embedding_table"}
        ids = values["input_ids"]
        table = torch.from_dlpack(tensors["prompt_embedding_table"])
        self.note("start", id=key, ids=ids.size)
        try:
            assert ids.shape[0] == 1, f"input_ids has shape {ids.shape}"
            assert ids.size == values["input_lengths"].item() == values["prompt_table_extra_ids"].size, "padded"
            assert table.dtype == torch.TABLE and (table == ids.size).all(), f"table of another row: {table}, {ids.size}"
            self.generate(values, sender, self.running[key])
        except Exception as error:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{error}")), flags=FINAL)
        else:
            sender.send(flags=FINAL)
        del self.running[key]
        self.note("end", id=key)
    def generate(self, values, sender, stopped):
        ids = values["input_ids"][0][: values["request_output_len"].item()]
        pause = values.get("temperature", np.zeros(1)).item() / 1000
        streaming = bool(values["streaming"].item()) if "streaming" in values else False
        beams = int(values["beam_width"].item()) if "beam_width" in values else 1
        if not streaming:
            time.sleep(pause)
            assert values["seed"].item() != 3, "out of blocks"
            return self.send(sender, np.array([ids] * beams), values)
        for count, id in enumerate(ids):
            if stopped.wait(pause):
                return
            assert values["seed"].item() != 3 or count < 3, "out of blocks"
            self.send(sender, np.array([[id]]), values)
    def send(self, sender, ids, values):
        padded = np.concatenate([ids, np.full((len(ids), 2), -1)], axis=1).astype(np.int32)
        outputs = [pb_utils.Tensor("output_ids", padded[None]),
                   pb_utils.Tensor("sequence_length", np.full((1, len(ids)), ids.shape[1], np.int32))]
        if "return_log_probs" in values:
            outputs.append(pb_utils.Tensor("cum_log_probs", np.full((1, len(ids)), -0.5, np.float32)))
        if values["seed"].item() == 4:
            outputs[1] = pb_utils.Tensor("sequence_length", np.full((1, len(ids)), -7, np.int32))
        sender.send(pb_utils.InferenceResponse(outputs))
"""

POSTPROCESSING = """
import numpy as np, pathlib
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer
class TritonPythonModel:
    def initialize(self, args):
        self.tokenizer = Tokenizer.from_file(str(pathlib.Path(__file__).with_name("tokenizer.json")))
    def execute(self, requests):
        return [self.answer(request) for request in requests]
    def answer(self, request):
        ids, lengths = (pb_utils.get_input_tensor_by_name(request, n).as_numpy() for n in ("output_ids", "sequence_length"))
        if (lengths < 0).any():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("a length is negative"))
        texts = [self.tokenizer.decode(beam[:n].tolist()).encode() for beam, n in zip(ids[0], lengths[0])]
        return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", np.array([texts], dtype=object))])
"""

PUBLIC = {"text_input": "STRING", "max_tokens": "INT32", "seed": "UINT64"}
SAMPLING = {"temperature": "temperature", "beam_width": "beam_width", "stream": "streaming"}
SAMPLING |= {"return_log_probs": "return_log_probs"}
SAMPLING_TYPES = {"temperature": "FP32", "beam_width": "INT32", "stream": "BOOL", "return_log_probs": "BOOL"}
TO_VISION = {"pixel_values": "FP16 -1,3,2,2", "num_images": "INT32", "num_rows": "INT32"}
TO_LLM = {"input_ids": "INT32 -1", "input_lengths": "INT32", "request_output_len": "INT32", "end_id": "INT32"}
TO_LLM |= {"seed": "UINT64", "prompt_table_extra_ids": "UINT64 -1"}
FROM_LLM = {"output_ids": "INT32 -1,-1", "sequence_length": "INT32 -1"}
EXTRA = {"cum_log_probs": "FP32 -1"}


def llm_responses(
    folder: Path, inputs: dict[str, str], optional: set[str], returned: dict[str, str], prefix: str = ""
) -> None:
    """The ensemble that sends what the LLM answers to the front; `prefix` is that of both names."""

    def links(kind: str, names: dict[str, str]) -> str:
        return " ".join(f'{kind}_map {{key: "{name}" value: "{value}"}}' for name, value in names.items())

    to_llm = links("input", {name: name for name in inputs})
    from_llm = links("output", {name.removeprefix("_"): name for name in returned})
    to_front = links("input", {name: name for name in returned})
    steps = (
        f'{{model_name: "tensorrt_llm" model_version: -1 {to_llm} {from_llm}}},'
        f'{{model_name: "{prefix}{FRONT}" model_version: -1 {to_front} {links("output", {"text_output": "text_output"})}}}'
    )
    name = f"{prefix}llm_responses"
    head = f'name: "{name}" platform: "ensemble" max_batch_size: 8'
    text = "\n".join([head, tensors(inputs, {"text_output": "STRING -1"}, optional)])
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(f"{text}\nensemble_scheduling {{step [{steps}]}}")


def config(name: str, inputs: dict[str, str], outputs: dict[str, str], optional: set[str], *, decoupled: bool) -> str:
    """The config.pbtxt of a Python model."""
    head = f'name: "{name}" backend: "python" max_batch_size: 8 instance_group [{{kind: KIND_CPU count: 1}}]'
    policy = f"model_transaction_policy {{decoupled: {str(decoupled).lower()}}}"
    return "\n".join([head, tensors(inputs, outputs, optional), policy])


def tensors(inputs: dict[str, str], outputs: dict[str, str], optional: set[str]) -> str:
    """Inputs and outputs of a config; tensors are 'TYPE dims', [1] without dims."""
    lines = []
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor, what in tensors.items():
            data_type, dims = (what + " 1").split()[:2]
            extra = " optional: true" if kind == "input" and tensor in optional else ""
            lines.append(f'{kind} [{{name: "{tensor}" data_type: TYPE_{data_type} dims: [{dims}]{extra}}}]')
    return "\n".join(lines)


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["Two spaces and a line"], trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def build(folder: Path, table: str) -> Path:
    """A repository of the real front and the stand-in steps; `table` is the dtype of the prompt table."""
    table_type = {"float16": "FP16", "bfloat16": "BF16"}[table]
    public = PUBLIC | SAMPLING_TYPES
    all_optional = set(public) - {"text_input"}
    llm_sampling = {SAMPLING[name]: kind for name, kind in SAMPLING_TYPES.items()}
    llm_inputs = TO_LLM | {"prompt_embedding_table": f"{table_type} -1,-1", "stop": "BOOL"} | llm_sampling
    llm_optional = {
        "prompt_embedding_table",
        "stop",
        "end_id",
        "seed",
        "prompt_table_extra_ids",
        *llm_sampling,
    }
    text = {"text_output": "STRING -1"}
    returned = {f"_{name}": kind for name, kind in (FROM_LLM | EXTRA).items()}
    steps: dict[str, tuple[str, dict[str, str], dict[str, str], set[str], bool]] = {
        "preprocessing": (PREPROCESSING, PUBLIC, TO_VISION | TO_LLM, all_optional, False),
        "vision_encoder": (
            VISION,
            TO_VISION,
            {"prompt_embedding_table": f"{table_type} -1,-1"},
            set(),
            False,
        ),
        "tensorrt_llm": (LLM, llm_inputs, FROM_LLM | EXTRA, llm_optional, True),
        "postprocessing": (POSTPROCESSING, FROM_LLM, text, set(), False),
        FRONT: (
            "",
            public | returned,
            text | {"batch_index": "INT32", "input_tokens": "INT32"} | EXTRA,
            set(public | returned),
            True,
        ),
    }
    llm_responses(folder, {name: kind for name, kind in llm_inputs.items() if name != "stop"}, llm_optional, returned)
    for name, (code, inputs, outputs, optional, decoupled) in steps.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config(name, inputs, outputs, optional, decoupled=decoupled))
        byte_level_tokenizer().save(str(version / "tokenizer.json"))
        (version / "model.py").write_text(code.replace("torch.TABLE", f"torch.{table}"))
        for module in ("tensors.py", "detokenize.py", "stop_text.py", "text_tokenizer.py", "tokenizers_text.py"):
            shutil.copy(TEMPLATES / "shared" / module, version)
    front = folder / FRONT / "1"
    for source in (TEMPLATES / FRONT / "1").glob("*.py"):
        shutil.copy(source, front)
    shutil.copy(TEMPLATES / "shared/metrics.py", front)
    settings = {
        "model": "stand-in",
        "tokenizer": {"module": "tokenizers_text", "file": "tokenizer.json", "dropped_ids": []},
        "steps": {name: name for name in FAIL},
        "required_inputs": ["text_input"],
        "preprocessing_inputs": list(PUBLIC),
        "preprocessing_outputs": [*TO_VISION, *TO_LLM],
        "llm_inputs": SAMPLING,
        "llm_responses": "llm_responses",
        "returned": {f"_{name}": name for name in FROM_LLM | EXTRA},
        "vision_inputs": {name: name for name in TO_VISION},
        "vision_outputs": {"prompt_embedding_table": "prompt_embedding_table"},
        "texts": ["text_output"],
        "max_threads": THREADS,
        "poll_seconds": 0.01,
    }
    (front / "settings.json").write_text(json.dumps(settings))
    return folder
