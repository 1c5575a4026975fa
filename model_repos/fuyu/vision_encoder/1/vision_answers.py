"""How a vision step answers: all requests of a call together, and on a GPU while the next call is under way.

A step that waits for the GPU before it returns leaves the GPU idle while the server hands over tables and gathers the
next pixels, a fifth of the time and more. Triton lets a step send its responses later (from 24.06 on), so a call here
returns as soon as its work is queued and the call before it is computed: the GPU always has the next one to go on with.
A call of a few images is waited for all the same: the GPU would soon have to go on with as few, which it is slow at.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import triton_python_backend_utils as pb_utils
from tensors import failed
from vision_rows import ImagesByRow, VisionRows

CALLS = 2  # computed ones that wait to be sent; more would only take memory
FEW = 4  # images: for so many a GPU has nine tenths of its speed (CLIP ViT-L and SigLIP on an H200)
Outcome = Exception | tuple[torch.Tensor, list[int] | None]
"""What a request came to: an error, or its table and the rows of it that count."""


class Done(Protocol):
    """Of work that was queued: a torch.cuda.Event."""

    def synchronize(self) -> None: ...


def begin(
    requests: Sequence[pb_utils.InferenceRequest],
    layout: VisionRows,
    encode: Callable[[list[ImagesByRow]], list[torch.Tensor]],
) -> tuple[list[Outcome], int]:
    """What each request comes to, and how many images that took.

    One call of `encode` serves all requests whose images `layout` accepts. A bad request fails alone; an error of
    `encode` fails all that were to be encoded.
    """
    accepted: list[ImagesByRow] = []
    found: list[Exception | list[int] | None] = []
    for request in requests:
        try:
            images = layout.images(request)
            found.append(layout.lengths(request, len(images)))
            accepted.append(images)
        except Exception as error:
            found.append(error)
    images_in_all = sum(len(block) for images in accepted for block in images)
    try:
        tables = iter(encode(accepted))
    except Exception as error:
        return _all_failed(found, error), images_in_all
    return [own if isinstance(own, Exception) else (next(tables), own) for own in found], images_in_all


def respond(outcome: Outcome, layout: VisionRows) -> pb_utils.InferenceResponse:
    """The response to a request, whose table must be complete: it is read outside of any stream of this process."""
    try:
        return failed(outcome) if isinstance(outcome, Exception) else layout.response(*outcome)
    except Exception as error:  # whatever it is, for that request alone
        return failed(error)


def _all_failed(found: Sequence[object], error: Exception) -> list[Outcome]:
    """`error` for every request that has none of its own."""
    return [own if isinstance(own, Exception) else error for own in found]


class Behind:
    """Sends the responses of a call once the GPU is done with it, while the step takes the next call."""

    def __init__(self, layout: VisionRows, mark: Callable[[], Done]) -> None:
        """`mark` gives the end of all that was queued on the GPU so far."""
        self._layout, self._mark = layout, mark
        self._before: Done | None = None
        self._calls: queue.Queue[tuple[list[Any], list[Outcome], Done | None] | None] = queue.Queue(CALLS)
        self._thread = threading.Thread(target=self._send_all, name="responses", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, layout: VisionRows, stream: torch.cuda.Stream) -> Behind:
        """For calls that are queued on `stream`. Waiting for them leaves the processor to others."""
        return cls(layout, lambda: stream.record_event(torch.cuda.Event(blocking=True)))

    def take(self, requests: Sequence[pb_utils.InferenceRequest], outcomes: list[Outcome], images: int) -> None:
        """Answer `requests` of so many images.

        Returns when their tensors are not needed and the call before this one, or this one if it is small, is computed.
        """
        done = None
        try:
            done = self._mark()
        except Exception as error:  # the GPU is lost to this process
            outcomes = _all_failed(outcomes, error)
        self._calls.put(([request.get_response_sender() for request in requests], outcomes, done))
        # Pixels that lie on the GPU go back to the server when the step returns.
        awaited = done if images < FEW or any(_on_gpu(request) for request in requests) else self._before
        self._before = done
        if awaited is not None:
            with contextlib.suppress(Exception):  # the thread tells those whom it concerns
                awaited.synchronize()

    def close(self) -> None:
        """Returns when everything is sent."""
        self._calls.put(None)
        self._thread.join()

    def _send_all(self) -> None:
        if self._layout.device.type == "cuda":  # else what hands tables over works on the first GPU, too
            torch.cuda.set_device(self._layout.device)
        while (call := self._calls.get()) is not None:
            self._send(*call)
            del call  # its tables

    def _send(self, senders: list[Any], outcomes: list[Outcome], done: Done | None) -> None:
        try:
            if done is not None:
                done.synchronize()
        except Exception as error:
            outcomes = _all_failed(outcomes, error)
        for sender, outcome in zip(senders, outcomes, strict=True):
            try:
                sender.send(respond(outcome, self._layout), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            except Exception as error:  # nobody is left to be told
                pb_utils.Logger.log_error(f"a response of {self._layout.model}'s vision step was not sent: {error}")


def _on_gpu(request: pb_utils.InferenceRequest) -> bool:
    pixels = pb_utils.get_input_tensor_by_name(request, "pixel_values")
    return pixels is not None and not pixels.is_cpu()
