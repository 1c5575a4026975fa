"""Front model: streams exact text, cancels the LLM when a client goes away, splits batches into rows.

An ensemble cannot decode a stream exactly, nor does a client's cancel reach the LLM behind it. This model calls the
same steps itself: preprocessing and the vision encoder on the whole request, then the LLM once per row, so that rows
of unequal length are never padded. One thread serves one row.

The LLM's responses come back as requests: the ensemble `llm_responses` sends each of them from the LLM to this model,
under the row's request id. So no thread waits for a response but the last (bls_calls.run_to_end says why), and an
error that follows tokens arrives.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import metrics
import numpy as np
import text_tokenizer
import triton_python_backend_utils as pb_utils
from bls_calls import Tensors, call, callable_at_once, copied, renamed, retitled, row_of, run_to_end
from client_ticket import Ticket, Watch
from detokenize import Detokenizer
from row_answer import IDS, LENGTH, Arrays, RowAnswer
from tensors import RequestError, failed, strings

PER_TOKEN = ("input_ids", "prompt_table_extra_ids")  # [B, L], right padded in a batch
REQUIRED_WITH_STOP = ("input_ids", "input_lengths", "request_output_len")
STOP_WORDS = "stop_words"  # texts are cut there; the LLM gets their token ids, as preprocessing spells them
STREAMED = "tokens_streamed_total"
COUNTERS = {STREAMED: "Tokens of streamed answers that the language model gave"}


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        here = Path(__file__)
        settings = json.loads(here.with_name("settings.json").read_text())
        self.steps: dict[str, str] = settings["steps"]
        self.required_inputs: list[str] = settings["required_inputs"]
        self.preprocessing_inputs: list[str] = settings["preprocessing_inputs"]
        self.preprocessing_outputs: list[str] = settings["preprocessing_outputs"]
        self.llm_inputs: dict[str, str] = settings["llm_inputs"]
        self.llm_responses: str = settings["llm_responses"]
        self.returned: dict[str, str] = settings["returned"]  # an input of this model -> the LLM's output that it is
        # the vision step's name of a tensor -> the others'
        self.vision_inputs: dict[str, str] = settings["vision_inputs"]
        self.vision_outputs: dict[str, str] = settings["vision_outputs"]
        self.texts: list[str] = settings["texts"]
        tokenizer = text_tokenizer.load(here.parent, settings["tokenizer"], settings["model"])
        self.detokenizer = Detokenizer(tokenizer)
        self.max_threads: int = min(settings["max_threads"], callable_at_once())
        self.free_threads = self.max_threads
        self.lock = threading.Lock()
        self.metrics = metrics.Metrics(args["model_name"], COUNTERS)
        self.metrics.add(STREAMED, 0)
        self.metrics.flush()
        self.answers: dict[str, RowAnswer] = {}
        self.watch = Watch(settings["poll_seconds"], self.stop, self.ready)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            inputs = {tensor.name(): tensor for tensor in request.inputs()}
            if any(name in inputs for name in self.returned):
                self.take(request.request_id(), inputs)
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            try:
                for name in self.required_inputs:
                    if name not in inputs:
                        raise RequestError(f"the input {name} is missing")
                rows = int(next(iter(inputs.values())).shape()[0])
                self.admit(rows)
            except Exception as error:
                sender.send(failed(error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            wanted = set(request.requested_output_names())
            ticket = Ticket(sender, rows, wanted, self.release)
            self.watch.add(ticket)
            start(self.serve, ticket, inputs, wanted)

    def take(self, request_id: str, inputs: Tensors) -> None:
        """One response of the LLM; nobody waits for those that come after an error, or from a stranger."""
        if answer := self.answers.get(request_id):
            names = self.returned.items()
            answer.take({output: inputs[name].as_numpy().copy() for name, output in names if name in inputs})
            if answer.complete:
                answer.ticket.complete(request_id)

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
        """What the LLM gets for the whole request: [B, ...] each, the table where the vision encoder put it. Besides,
        the client's stop words."""
        prepared = call(
            self.steps["preprocessing"],
            [inputs[name] for name in self.preprocessing_inputs if name in inputs],
            self.preprocessing_outputs,
        )
        pixels = [retitled(prepared.pop(name), own) for own, name in self.vision_inputs.items()]
        table = {}
        if not ticket.given_up:
            made = call(self.steps["vision_encoder"], pixels, list(self.vision_outputs))
            table = {name: retitled(made[own], name) for own, name in self.vision_outputs.items()}
        sampling = {llm: renamed(inputs[name], llm) for name, llm in self.llm_inputs.items() if name in inputs}
        words = {STOP_WORDS: copied(inputs[STOP_WORDS])} if STOP_WORDS in inputs else {}
        return prepared | table | sampling | words

    def serve_row(self, ticket: Ticket, batch: Tensors, row: int, wanted: set[str]) -> None:
        """Answer one row; whatever goes wrong with it ends the whole request."""
        try:
            inputs = one_row(batch, row) if ticket.rows > 1 else batch
            streaming = bool(value_of(inputs, "streaming", False))
            if streaming and value_of(inputs, "beam_width", 1) > 1:
                raise RequestError("several beams cannot be streamed: send beam_width 1, or do not stream")
            given = inputs.pop(STOP_WORDS, None)
            words = [] if given is None else strings(given.as_numpy(), STOP_WORDS)
            text = self.detokenizer.stream(words) if streaming else None
            whole = partial(self.whole_texts, [] if given is None else [given], wanted)
            length = value_of(inputs, "input_lengths", 0)
            self.generate(RowAnswer(ticket, row, wanted, text, whole, length), inputs)
        except Exception as error:
            ticket.fail(error)
        finally:
            ticket.row_done()

    def generate(self, answer: RowAnswer, inputs: Tensors) -> None:
        """Run the LLM on one row [1, ...]; what it gives goes to the client."""
        ticket = answer.ticket
        request_id = uuid.uuid4().hex  # nobody else can guess it
        if ticket.given_up:
            return
        self.answers[request_id] = answer
        ticket.started(request_id, [copied(inputs[name]) for name in REQUIRED_WITH_STOP])
        llm = self.steps["tensorrt_llm"]
        try:
            run_to_end(self.llm_responses, list(inputs.values()), ["text_output"], request_id, blame=llm)
        finally:
            ticket.ended(request_id)
            del self.answers[request_id]
            self.metrics.add(STREAMED, answer.streamed)
            self.metrics.flush()
        answer.finish()

    def whole_texts(
        self, stop_words: list[pb_utils.Tensor], wanted: set[str], outputs: Arrays
    ) -> list[pb_utils.Tensor]:
        """The answer's texts as postprocessing makes them, those that the client asked for."""
        inputs = [*(pb_utils.Tensor(name, outputs[name]) for name in (IDS, LENGTH)), *stop_words]
        names = [name for name in self.texts if name in wanted or name == "text_output"]
        return list(call(self.steps["postprocessing"], inputs, names).values())

    def ready(self) -> bool:
        """Whether the LLM takes requests."""
        try:
            return bool(pb_utils.is_model_ready(self.steps["tensorrt_llm"]))
        except pb_utils.TritonModelException:  # nor does the server
            return False

    def stop(self, request_id: str, inputs: Sequence[pb_utils.Tensor]) -> None:
        """Tell the LLM to drop what runs under `request_id`."""
        llm = self.steps["tensorrt_llm"]
        flag = pb_utils.Tensor("stop", np.array([[True]]))
        run_to_end(llm, [*inputs, flag], [IDS, LENGTH], request_id, blame=llm)


def start(work: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


def one_row(batch: Tensors, row: int) -> Tensors:
    """Row `row` of each tensor [B, ...] as [1, ...], the token tensors cut to its own length."""
    length = int(batch["input_lengths"].as_numpy().reshape(-1)[row])
    return {name: row_of(tensor, row, length if name in PER_TOKEN else None) for name, tensor in batch.items()}


def value_of(inputs: Tensors, name: str, default: Any) -> Any:
    """The value of a scalar input [1, 1], or `default`."""
    return inputs[name].as_numpy().reshape(-1)[0].item() if name in inputs else default
