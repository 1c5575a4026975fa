"""A repository of generated fronts and postprocessing steps, one pair per tokenizer family, around shared doubles.

The front and postprocessing of each family are what gen-repo writes for a tiny checkpoint of a model with that
tokenizer. Before them stand small real steps: `text_input` is a JSON list of token ids, which the LLM gives back in
chunks, `temperature` milliseconds each, and notes how many it gave.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from generator.generate import generate
from generator.options import Options
from tests.checkpoints import cached
from tests.server.front_repository import config, llm_responses

TEMPLATES = Path(__file__).parents[2] / "templates"
ROWS = 8  # of one request


@dataclass(frozen=True)
class Family:
    """A tokenizer family: a model, the tiny checkpoint that has such a tokenizer, and its tokenizer's place there."""

    model: str
    checkpoint: str
    tokenizer: str = ""
    route: str | None = None

    @property
    def folder(self) -> Path:
        return cached(self.checkpoint)


FAMILIES = {
    "llama2": Family("vila", "vila", "llm"),
    "llama3": Family("vila1.5-8b", "vila-llama_3", "llm"),
    "opt": Family("blip2-opt", "blip2-opt"),
    "t5": Family("deplot", "deplot", route="encoder_features"),
    "persimmon": Family("fuyu", "fuyu"),
    "sentencepiece": Family("neva", "neva", "neva.nemo"),
    "xlm_roberta": Family("kosmos-2", "kosmos-2"),
    "nougat": Family("nougat", "nougat", route="encoder_features"),
}

PREPROCESSING = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils
from tensors import answer_each, column, optional, strings
class TritonPythonModel:
    def execute(self, requests):
        return answer_each(requests, self.answer)
    def answer(self, request):
        rows = [json.loads(text) for text in strings(optional(request, "text_input"), "text_input")]
        longest = max(map(len, rows))
        lengths = np.array([[len(row)] for row in rows], np.int32)
        outputs = {
            "pixel_values": np.zeros((len(rows), 1), np.float16), "num_images": lengths, "num_rows": lengths,
            "input_ids": np.array([row + [0] * (longest - len(row)) for row in rows], np.int32).reshape(len(rows), longest),
            "input_lengths": lengths,
            "request_output_len": np.array(column(request, "max_tokens", len(rows), 10000), np.int32).reshape(-1, 1),
        }
        return [pb_utils.Tensor(name, array) for name, array in outputs.items()]
"""

VISION = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]
    def answer(self, request):
        rows = len(pb_utils.get_input_tensor_by_name(request, "num_rows").as_numpy())
        return pb_utils.InferenceResponse([pb_utils.Tensor("prompt_embedding_table", np.zeros((rows, 1), np.float16))])
"""

LLM = """
import json, pathlib, random, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import triton_python_backend_utils as pb_utils
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
class TritonPythonModel:
    def initialize(self, args):
        self.pool, self.running, self.lock = ThreadPoolExecutor(512), {}, threading.Lock()
        self.notes = open(pathlib.Path(args["model_repository"]) / "notes", "a")
    def execute(self, requests):
        for request in requests:
            values = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            key, sender = request.request_id(), request.get_response_sender()
            if "stop" in values:
                if stopped := self.running.get(key):
                    stopped.set()
                sender.send(flags=FINAL)
                continue
            self.running[key] = threading.Event()
            self.pool.submit(self.serve, key, values, sender)
    def serve(self, key, values, sender):
        ids = values["input_ids"][0][: values["request_output_len"].item()].tolist()
        pause = values["temperature"].item() / 1000 if "temperature" in values else 0
        streaming = "streaming" in values and values["streaming"].item()
        sizes, at = random.Random(sum(ids)), 0
        while at < len(ids) and not self.running[key].is_set():
            size = sizes.randint(1, MOST) if streaming else len(ids)
            self.send(sender, ids[at : at + size])
            at += size
            if pause:
                self.running[key].wait(pause)
        if ids == []:
            self.send(sender, ids)
        with self.lock:
            self.notes.write(json.dumps({"of": len(ids), "given": min(at, len(ids)), "time": time.time()}) + "\\n")
            self.notes.flush()
        del self.running[key]
        sender.send(flags=FINAL)
    def send(self, sender, ids):
        tensors = [pb_utils.Tensor("output_ids", np.array([[[*ids, -1]]], np.int32)),
                   pb_utils.Tensor("sequence_length", np.array([[len(ids)]], np.int32))]
        sender.send(pb_utils.InferenceResponse(tensors))
"""

PUBLIC = {"text_input": "STRING", "max_tokens": "INT32", "stop_words": "STRING -1"}
TO_VISION = {"pixel_values": "FP16", "num_images": "INT32", "num_rows": "INT32"}
TO_LLM = {"input_ids": "INT32 -1", "input_lengths": "INT32", "request_output_len": "INT32"}
SAMPLING = {"streaming": "BOOL", "temperature": "FP32", "stop": "BOOL"}
TABLE = {"prompt_embedding_table": "FP16"}
FROM_LLM = {"output_ids": "INT32 -1,-1", "sequence_length": "INT32 -1"}
DOUBLES: dict[str, tuple[str, dict[str, str], dict[str, str], set[str]]] = {
    "preprocessing": (PREPROCESSING, PUBLIC, TO_VISION | TO_LLM, {"max_tokens", "stop_words"}),
    "vision_encoder": (VISION, TO_VISION, TABLE, set()),
    "tensorrt_llm": (LLM, TO_LLM | TABLE | SAMPLING, FROM_LLM, {*TABLE, *SAMPLING}),
}


def front(family: str) -> str:
    """Name of a family's front model."""
    return f"{family}_tensorrt_llm_bls"


def build(folder: Path, families: Collection[str], most: int = 6) -> Path:
    """The repository, in `folder`; the LLM streams chunks of one to `most` ids, and its notes go to the file
    tensorrt_llm/notes."""
    for name, (code, inputs, outputs, optional) in DOUBLES.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        text = config(name, inputs, outputs, optional, decoupled=name == "tensorrt_llm")
        (folder / name / "config.pbtxt").write_text(text.replace("max_batch_size: 8", f"max_batch_size: {ROWS}"))
        (version / "model.py").write_text(code.replace("MOST", str(most)))
        shutil.copy(TEMPLATES / "shared" / "tensors.py", version)
    for family in families:
        _add(folder, family)
    return folder


def _add(folder: Path, name: str) -> None:
    """Front and postprocessing of one family, as generated, between the doubles."""
    family = FAMILIES[name]
    options = Options(
        model=family.model,
        hf_model_dir=family.folder,
        runtime="torch",
        release="1.2.1",
        route=family.route,
        output=folder.parent / name,
        streaming=True,
        max_batch_size=ROWS,
        name=name,
    )
    outcome = generate(options)
    assert not outcome.failed, outcome.findings
    for model in (front(name), f"{name}_postprocessing"):
        shutil.move(outcome.output / model, folder / model)
    fed = {tensor: kind for tensor, kind in (TO_LLM | TABLE | SAMPLING).items() if tensor != "stop"}
    returned = {f"_{output}": kind for output, kind in FROM_LLM.items()}
    llm_responses(folder, fed, {*TABLE, *SAMPLING}, returned, f"{name}_")
    file = folder / front(name) / "1" / "settings.json"
    settings = json.loads(file.read_text())
    settings["steps"] |= {step: step for step in DOUBLES}
    settings["preprocessing_outputs"] = [*TO_VISION, *TO_LLM]
    settings["vision_inputs"] = {name: name for name in TO_VISION}
    settings["vision_outputs"] = {name: name for name in TABLE}
    settings["returned"] = {f"_{output}": output for output in FROM_LLM}
    file.write_text(json.dumps(settings))
