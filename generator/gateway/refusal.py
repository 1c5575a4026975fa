"""Why a request is not answered, with all that OpenAI's form of an error tells."""

from __future__ import annotations


class Refusal(Exception):
    """`status` is the HTTP status, `parameter` the part of the request that is wrong, `code` OpenAI's word for it,
    `retry_seconds` when to ask again if that may help."""

    def __init__(
        self,
        message: str,
        status: int,
        parameter: str | None = None,
        code: str | None = None,
        *,
        retry_seconds: int = 1,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_seconds = retry_seconds
        self.parameter = parameter
        self.code = code


class BadRequest(Refusal):
    """A request that the client can repair."""

    def __init__(
        self, message: str, parameter: str | None = None, *, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message, status, parameter, code)


class TritonError(Refusal):
    """Triton refused or failed."""


def no_model(name: object, served: str) -> BadRequest:
    """For a model that this gateway does not have."""
    message = f"the model {name!r} does not exist: this server has {served!r}"
    return BadRequest(message, "model", status=404, code="model_not_found")
