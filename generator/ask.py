"""Ask a running server one question, and see how long each of its models took for it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator.plan import FRONT
from generator.server import CHANNEL, ServerError

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

TEXT = "text_output"
FINAL = "triton_final_response"


@dataclass(frozen=True)
class StepTime:
    """Milliseconds that `count` requests spent in one model: waiting, and from input to output."""

    model: str
    count: int
    queue_ms: float
    compute_ms: float

    def __sub__(self, earlier: StepTime) -> StepTime:
        return StepTime(
            self.model,
            self.count - earlier.count,
            self.queue_ms - earlier.queue_ms,
            self.compute_ms - earlier.compute_ms,
        )


def connect(url: str) -> InferenceServerClient:
    """A gRPC client of the server at 'host:port'. Raises ServerError when tritonclient is missing or nobody answers."""
    try:
        from tritonclient.grpc import InferenceServerClient
    except ImportError:
        raise ServerError(
            "the Python package tritonclient is not installed", "pip install 'tritonclient[grpc]'"
        ) from None
    client = InferenceServerClient(url, channel_args=CHANNEL)
    try:
        alive = client.is_server_live()
    except Exception as error:  # grpc has no common class for what can go wrong here
        alive, reason = False, str(error)
    else:
        reason = "it is not live"
    if not alive:
        raise ServerError(f"no Triton server answers at {url}: {reason}", "give the host:port of its gRPC service")
    return client


def ask(
    url: str,
    model: str,
    text: str | None,
    images: Sequence[bytes],
    *,
    videos: Sequence[bytes] = (),
    output: str = TEXT,
    max_tokens: int | None = None,
    stream: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> Generator[str, None, None]:
    """The answer to `text` about `images` or `videos` (encoded files), in pieces as they arrive when `stream`.

    `parameters` are further inputs of the model by name (temperature, top_k, ...), each a value or a list of values.
    `output` is the output that holds the answer: a model may have others than text_output, which do not stream.
    The pieces, joined, are the answer; beams are joined by line ends. Closing the generator cancels the request.
    Raises ServerError, with the server's own message, when the request fails.
    """
    if stream and output != TEXT:
        raise ServerError(f"only {TEXT} comes in pieces, not {output}", "leave out --stream")
    client = connect(url)
    from tritonclient.utils import InferenceServerException

    values: dict[str, Any] = {**({} if text is None else {"text_input": text}), **(parameters or {})}
    if images:
        values["image_encoded_input"] = list(images)
    if videos:
        values["video_encoded_input"] = list(videos)
    if max_tokens is not None:
        values["max_tokens"] = max_tokens
    if stream:
        values["stream"] = True
    with client:
        try:
            config = client.get_model_config(model).config
            if stream and not config.model_transaction_policy.decoupled:
                remedy = "leave out --stream, or generate the repository with --streaming"
                raise ServerError(f"{model} does not stream", remedy)
            inputs = inputs_of(config, values)
            if config.model_transaction_policy.decoupled:
                for response in responses(client, model, inputs, _only(output)):
                    yield _text(response, output)
            else:
                yield _text(client.infer(model, inputs, outputs=_only(output)), output)
        except InferenceServerException as error:
            raise ServerError(
                f"{model} answered: {error.message()}", "change the request as the message says"
            ) from error


def step_times(client: InferenceServerClient, names: Sequence[str] = ()) -> dict[str, StepTime]:
    """What each model (of `names`, or every one) has spent on requests since the server started."""
    times = times_of(client.get_inference_statistics())
    return {name: time for name, time in times.items() if not names or name in names}


def times_of(statistics: Any) -> dict[str, StepTime]:
    """What each model has spent, of Triton's ModelStatisticsResponse."""
    return {
        model.name: StepTime(
            model.name,
            model.inference_stats.success.count,
            model.inference_stats.queue.ns / 1e6,
            sum(
                getattr(model.inference_stats, part).ns / 1e6
                for part in ("compute_input", "compute_infer", "compute_output")
            ),
        )
        for model in statistics.model_stats
    }


def run(
    url: str,
    model: str | None,
    text: str | None,
    images: Sequence[Path],
    *,
    videos: Sequence[Path] = (),
    pdf: Path | None = None,
    output: str = TEXT,
    max_tokens: int | None = None,
    stream: bool = False,
    times: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Print the answer as it arrives, then with `times` what each model spent on it; returns 0.

    Without a `model` it is the ensemble; with `stream` the front of a repository that has one, as an ensemble cannot
    put the text of a stream together. The pages of a `pdf` are asked about one after another, and an empty line stands
    between their answers.

    The times of the models are the server's statistics, in which a decoupled Python model counts only until it has
    accepted a request; hence the times that the client saw as well.
    Raises ServerError, also for a file that cannot be read.
    """
    try:
        pictures, clips = ([path.read_bytes() for path in paths] for paths in (images, videos))
    except OSError as error:
        raise ServerError(
            f"cannot read {error.filename}: {error.strerror}", "give the path of an image or video file"
        ) from error
    for path, content in zip((*images, *videos), (*pictures, *clips), strict=True):
        if not content:
            raise ServerError(f"{path} is empty", "give an image or video file")
    client = connect(url)
    model = model or (FRONT if stream and client.is_model_ready(FRONT) else "ensemble")
    before = step_times(client) if times else {}
    begin = time.perf_counter()
    arrived = []
    one = partial(ask, url, model, text, output=output, max_tokens=max_tokens, stream=stream, parameters=parameters)
    pieces = one(pictures, videos=clips) if pdf is None else _page_by_page(pdf, one)
    for piece in pieces:
        arrived.append(1e3 * (time.perf_counter() - begin))
        print(piece, end="", flush=True)
    print()
    if times:
        print(f"\n{'model':<24}{'requests':>9}{'queue ms':>11}{'compute ms':>12}")
        for name, after in step_times(client).items():
            spent = after - before.get(name, StepTime(name, 0, 0.0, 0.0))
            if spent.count:
                print(f"{name:<24}{spent.count:>9}{spent.queue_ms:>11.2f}{spent.compute_ms:>12.2f}")
        if arrived:
            print(f"first text after {arrived[0]:.2f} ms, last of {len(arrived)} pieces after {arrived[-1]:.2f} ms")
    return 0


def inputs_of(config: Any, values: Mapping[str, Any]) -> list[InferInput]:
    """`values` as tensors [1, ...] of the types that the model's config declares."""
    import numpy as np
    from tritonclient.grpc import InferInput, model_config_pb2
    from tritonclient.utils import triton_to_np_dtype

    declared = {tensor.name: tensor for tensor in config.input}
    inputs = []
    for name, value in values.items():
        if name not in declared:
            raise ServerError(f"{config.name} has no input {name}", f"its inputs are: {', '.join(sorted(declared))}")
        kind = model_config_pb2.DataType.Name(declared[name].data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
        items = value if isinstance(value, list) else [value]
        if kind == "BYTES":
            items = [item if isinstance(item, bytes) else str(item).encode() for item in items]
        array = np.array([items], dtype=triton_to_np_dtype(kind))
        tensor = InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def _page_by_page(pdf: Path, one: Callable[[list[bytes]], Iterator[str]]) -> Iterator[str]:
    """The answers to the pages in order, an empty line between two; a bar shows how far it is."""
    from generator.pdf import clear_progress, pages, show_progress

    for done, (total, picture) in enumerate(pages(pdf)):
        show_progress(done, total)
        try:
            for number, piece in enumerate(one([picture])):
                clear_progress()
                yield "\n\n" + piece if done and not number else piece
        except ServerError as error:
            clear_progress()
            raise ServerError(f"page {done + 1} of {total}: {error.message}", error.remedy) from error


def _only(output: str) -> list[InferRequestedOutput]:
    from tritonclient.grpc import InferRequestedOutput

    return [InferRequestedOutput(output)]


def responses(
    client: InferenceServerClient,
    model: str,
    inputs: list[InferInput],
    outputs: list[InferRequestedOutput] | None = None,
) -> Iterator[Any]:
    """The responses that hold outputs, over a stream, as every model gives them, decoupled or not.

    Leaving early cancels the request. Raises InferenceServerException when it is refused.
    """
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(partial(_keep, answers))
    finished = False
    try:
        client.async_stream_infer(model, inputs, outputs=outputs, enable_empty_final_response=True)
        while not finished:
            result, error = answers.get()
            if error is not None:
                raise error
            response = result.get_response()
            finished = response.parameters[FINAL].bool_param
            if response.outputs:
                yield result
    finally:
        client.stop_stream(cancel_requests=not finished)


def _keep(answers: queue.Queue[tuple[Any, Any]], result: Any, error: Any) -> None:
    answers.put((result, error))


def _text(result: Any, output: str) -> str:
    return "\n".join(beam.decode(errors="replace") for beam in result.as_numpy(output).reshape(-1))
