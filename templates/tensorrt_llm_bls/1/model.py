"""Front model: streams exact text, cancels the LLM when a client goes away, splits batches into rows.

An ensemble cannot decode a stream exactly, nor does a client's cancel reach the LLM behind it. This model calls the
same steps itself: preprocessing and the vision encoder on the whole request, then the LLM once per row, so that rows
of unequal length are never padded. One thread serves one row.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import metrics
import numpy as np
import text_tokenizer
import triton_python_backend_utils as pb_utils
from bls_calls import Tensors, call, call_decoupled, renamed, row_of
from client_ticket import Ticket, Watch
from detokenize import Detokenizer, TextStream
from tensors import RequestError, failed

VISION_INPUTS = ("pixel_values", "num_images", "num_rows")
PER_TOKEN = ("input_ids", "prompt_table_extra_ids")  # [B, L], right padded in a batch
REQUIRED_WITH_STOP = ("input_ids", "input_lengths", "request_output_len")
STREAMED = "tokens_streamed_total"
COUNTERS = {STREAMED: "Tokens of streamed answers that the language model gave"}
TO_POSTPROCESSING = ("output_ids", "sequence_length")
NOT_FOR_CLIENTS = (*TO_POSTPROCESSING, "batch_index")


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        here = Path(__file__)
        settings = json.loads(here.with_name("settings.json").read_text())
        self.steps: dict[str, str] = settings["steps"]
        self.preprocessing_inputs: list[str] = settings["preprocessing_inputs"]
        self.preprocessing_outputs: list[str] = settings["preprocessing_outputs"]
        self.llm_inputs: dict[str, str] = settings["llm_inputs"]
        self.llm_outputs: list[str] = settings["llm_outputs"]
        self.vision_outputs: list[str] = settings["vision_outputs"]
        self.texts: list[str] = settings["texts"]
        tokenizer = text_tokenizer.load(here.parent, settings["tokenizer"], settings["model"])
        self.detokenizer = Detokenizer(tokenizer)
        self.max_threads: int = settings["max_threads"]
        self.free_threads = self.max_threads
        self.lock = threading.Lock()
        self.metrics = metrics.Metrics(args["model_name"], COUNTERS)
        self.metrics.add(STREAMED, 0)
        self.metrics.flush()
        self.watch = Watch(settings["poll_seconds"], settings["silence_seconds"], self.stop)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                inputs = {tensor.name(): tensor for tensor in request.inputs()}
                rows = int(next(iter(inputs.values())).shape()[0])
                self.admit(rows)
            except Exception as error:
                sender.send(failed(error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            ticket = Ticket(sender, rows, self.release)
            self.watch.add(ticket)
            start(self.serve, ticket, inputs, set(request.requested_output_names()))

    def finalize(self) -> None:
        self.watch.close()

    def admit(self, rows: int) -> None:
        """Take one thread per row, or raise RequestError: nothing ever waits here for another request's threads."""
        with self.lock:
            if rows > self.free_threads:
                raise RequestError(
                    f"{rows} row(s) wanted, {self.free_threads} of {self.max_threads} are free: send again later, or"
                    " send fewer rows at once"
                )
            self.free_threads -= rows

    def release(self, ticket: Ticket) -> None:
        """Give the threads back: before the final flag, after which the client may send its next request."""
        self.watch.remove(ticket)
        with self.lock:
            self.free_threads += ticket.rows

    def serve(self, ticket: Ticket, inputs: Tensors, wanted: set[str]) -> None:
        """Answer one request, in the thread of its first row."""
        try:
            llm_inputs = self.prepare(ticket, inputs)
        except Exception as error:
            ticket.fail(error)
            ticket.finish()
            return
        for row in range(1, ticket.rows):
            start(self.serve_row, ticket, llm_inputs, row, wanted)
        self.serve_row(ticket, llm_inputs, 0, wanted)

    def prepare(self, ticket: Ticket, inputs: Tensors) -> Tensors:
        """What the LLM gets for the whole request: [B, ...] each, the table where the vision encoder put it."""
        prepared = call(
            self.steps["preprocessing"],
            [inputs[name] for name in self.preprocessing_inputs if name in inputs],
            self.preprocessing_outputs,
        )
        pixels = [prepared.pop(name) for name in VISION_INPUTS]
        table = {} if ticket.given_up else call(self.steps["vision_encoder"], pixels, self.vision_outputs)
        sampling = {llm: renamed(inputs[name], llm) for name, llm in self.llm_inputs.items() if name in inputs}
        return prepared | table | sampling

    def serve_row(self, ticket: Ticket, batch: Tensors, row: int, wanted: set[str]) -> None:
        """Answer one row; whatever goes wrong with it ends the whole request."""
        try:
            inputs = one_row(batch, row) if ticket.rows > 1 else batch
            streaming = bool(value_of(inputs, "streaming", False))
            if streaming and value_of(inputs, "beam_width", 1) > 1:
                raise RequestError("several beams cannot be streamed: send beam_width 1, or do not stream")
            text = self.detokenizer.stream() if streaming else None
            self.generate(ticket, inputs, row, text, wanted)
        except Exception as error:
            ticket.fail(error)
        finally:
            ticket.row_done()

    def generate(self, ticket: Ticket, inputs: Tensors, row: int, text: TextStream | None, wanted: set[str]) -> None:
        """Run the LLM on one row [1, ...] and send what it gives, as pieces of `text` when there is such a stream."""
        outputs = [name for name in self.llm_outputs if name in wanted or name in TO_POSTPROCESSING]
        request_id = uuid.uuid4().hex
        if ticket.given_up:
            return
        ticket.started(request_id, [inputs[name] for name in REQUIRED_WITH_STOP])
        silent = True
        try:
            results = call_decoupled(self.steps["tensorrt_llm"], list(inputs.values()), outputs, request_id)
            for result in self.counted(results, inputs):
                ticket.heard(request_id)
                if ticket.given_up:
                    continue  # read to the end: only then has the LLM let go of the request
                try:
                    extra = [tensor for name, tensor in result.items() if name not in NOT_FOR_CLIENTS]
                    answer = self.whole_texts(result, wanted) if text is None else pieces_of(text, result, wanted)
                    if text is None or len(answer) > 1 or extra or answer[0].as_numpy().any():
                        ticket.send([*answer, *extra, *index_of(ticket, row)])
                        silent = False
                except Exception as error:
                    ticket.fail(error)
        finally:
            ticket.ended(request_id)
        rest = text.finish() if text is not None else ""
        if rest or silent:
            ticket.send([text_output(rest), *index_of(ticket, row)])

    def whole_texts(self, result: Tensors, wanted: set[str]) -> list[pb_utils.Tensor]:
        """The answer's texts as postprocessing makes them, those that the client asked for."""
        inputs = [result[name] for name in TO_POSTPROCESSING]
        names = [name for name in self.texts if name in wanted or name == "text_output"]
        return list(call(self.steps["postprocessing"], inputs, names).values())

    def counted(self, results: Iterator[Tensors], inputs: Tensors) -> Iterator[Tensors]:
        """The LLM's `results` for one row, the tokens of streamed ones counted."""
        streaming = value_of(inputs, "streaming", False)
        for result in results:
            if streaming:
                self.metrics.add(STREAMED, int(result["sequence_length"].as_numpy().reshape(-1)[0]))
            yield result
        self.metrics.flush()

    def stop(self, request_id: str, inputs: Sequence[pb_utils.Tensor]) -> None:
        """Tell the LLM to drop what runs under `request_id`."""
        flag = pb_utils.Tensor("stop", np.array([[True]]))
        for _ in call_decoupled(self.steps["tensorrt_llm"], [*inputs, flag], TO_POSTPROCESSING, request_id):
            pass


def start(work: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


def one_row(batch: Tensors, row: int) -> Tensors:
    """Row `row` of each tensor [B, ...] as [1, ...], the token tensors cut to its own length."""
    length = int(batch["input_lengths"].as_numpy().reshape(-1)[row])
    return {name: row_of(tensor, row, length if name in PER_TOKEN else None) for name, tensor in batch.items()}


def value_of(inputs: Tensors, name: str, default: Any) -> Any:
    """The value of a scalar input [1, 1], or `default`."""
    return inputs[name].as_numpy().reshape(-1)[0].item() if name in inputs else default


def pieces_of(text: TextStream, result: Tensors, wanted: set[str]) -> list[pb_utils.Tensor]:
    """What the tokens of one response [1, 1, n] add to the text, and how many they are."""
    count = int(result["sequence_length"].as_numpy().reshape(-1)[0])
    piece = text_output(text.push(result["output_ids"].as_numpy()[0, 0, :count].tolist()))
    number = pb_utils.Tensor("output_tokens", np.array([[count]], dtype=np.int32))
    return [piece, number] if "output_tokens" in wanted else [piece]


def text_output(text: str) -> pb_utils.Tensor:
    return pb_utils.Tensor("text_output", np.array([[text.encode()]], dtype=np.object_))


def index_of(ticket: Ticket, row: int) -> list[pb_utils.Tensor]:
    """Which row of a batch a response belongs to; a single row needs no number."""
    return [pb_utils.Tensor("batch_index", np.array([[row]], dtype=np.int32))] if ticket.rows > 1 else []
