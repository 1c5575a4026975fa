"""One row's answer: pieces of text as its tokens come, or the whole of it at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils
from client_ticket import Ticket
from detokenize import TextStream

Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"
Whole: TypeAlias = "Callable[[Arrays], list[pb_utils.Tensor]]"

IDS, LENGTH = "output_ids", "sequence_length"
NOT_FOR_CLIENTS = (IDS, LENGTH, "batch_index")


class RowAnswer:
    """Turns the LLM's responses about row `row` of a request into the client's.

    `text` is the stream of pieces, None for one whole answer, which `whole` makes of the LLM's outputs. `take` and
    `finish` are called one after the other, from different threads.
    """

    def __init__(
        self, ticket: Ticket, row: int, wanted: set[str], text: TextStream | None, whole: Whole, input_tokens: int
    ) -> None:
        """`input_tokens` of the row's prompt are told with its first response."""
        self.ticket = ticket
        self._wanted = wanted
        self._text = text
        self._whole = whole
        self._kept: list[Arrays] = []
        self._silent = True
        self.streamed = 0  # tokens
        # Which row of a batch a response belongs to; a single row needs no number.
        self._index = [number("batch_index", row)] if ticket.rows > 1 else []
        self._once = [number("input_tokens", input_tokens)] if "input_tokens" in wanted else []

    @property
    def complete(self) -> bool:
        """Whether a stop string has ended the text, whatever the LLM still sends."""
        return self._text is not None and self._text.ended

    def take(self, outputs: Arrays) -> None:
        """One response of the LLM, output_ids [1, beams, n] and the others by name."""
        if self.ticket.given_up or self.complete:
            return
        if self._text is None:
            self._kept.append(outputs)
            return
        try:
            count = int(outputs[LENGTH].reshape(-1)[0])
            if count < 0:
                raise ValueError(f"the LLM sent a length of {count}")
            self.streamed += count
            before = self._text.tokens
            piece = self._text.push(outputs[IDS][0, 0, :count].tolist())
            taken = self._text.tokens - before
            more = self._extra(outputs)
            if "output_tokens" in self._wanted:
                more.append(number("output_tokens", taken))
            if piece or more:
                self._send([text_output(piece), *more])
        except Exception as error:
            self.ticket.fail(error)

    def finish(self) -> None:
        """The LLM has ended this row: send what is left of the text, or all of it."""
        for outputs in self._kept:
            self._send([*self._whole(outputs), *self._extra(outputs)])
        rest = self._text.finish() if self._text else ""
        if rest or self._silent:
            self._send([text_output(rest)])

    def _extra(self, outputs: Arrays) -> list[pb_utils.Tensor]:
        names = (name for name in outputs if name in self._wanted and name not in NOT_FOR_CLIENTS)
        return [pb_utils.Tensor(name, outputs[name]) for name in names]

    def _send(self, tensors: list[pb_utils.Tensor]) -> None:
        self.ticket.send([*tensors, *self._once, *self._index])
        self._once, self._silent = [], False


def number(name: str, value: int) -> pb_utils.Tensor:
    return pb_utils.Tensor(name, np.array([[value]], dtype=np.int32))


def text_output(text: str) -> pb_utils.Tensor:
    return pb_utils.Tensor("text_output", np.array([[text.encode()]], dtype=np.object_))
