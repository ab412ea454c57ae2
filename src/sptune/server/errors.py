"""What a client is told when something is wrong: OpenAI's error body, made in one place for every kind of error."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sptune.config.mistakes import short
from sptune.engine.serving import OverloadedError, UnavailableError
from sptune.errors import DataError, ModelError, RecipeError, SptError, StorageError, UsageError

_log = logging.getLogger(__name__)

CLIENT_GONE = 499  # nobody reads that answer; it is what the log and the metrics say
RETRY_SECONDS = 1.0
TOLD_BY_THE_LOG = {500, 507}  # answers that say no more than that
_SHOWN_FAULTS = 5
_NO_FIELDS = {"body", "query", "path", "str", "int"}  # what pydantic puts into a field's place beside the field

# option of an engine -> field of the request, code of the error
_OPTIONS = {"max_new_tokens": ("max_tokens", "context_length_exceeded"), "prompt": ("prompt", "prompt_not_found")}


class ApiError(SptError):
    """An answer that is an error.

    Args:
        status: HTTP status.
        code: short name of the error, for programs.
        message: what is wrong and how to put it right, for people.
        param: the field of the request that is wrong.
        retry_after: seconds after which it is worth another try.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error body."""
        error = {"message": str(self), "type": _type(self.status), "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def bad_request(message: str, *, param: str | None, code: str = "invalid_value") -> ApiError:
    """A request that cannot be answered as it is."""
    return ApiError(400, code, message, param=param)


def no_such_model(model: str) -> ApiError:
    """A model that is not there."""
    there_is = f"model: this server has no model {model!r:.140}; GET /v1/models lists those it has"
    return ApiError(404, "model_not_found", there_is, param="model")


def internal_error() -> ApiError:
    """What a client learns of an error that is not its own: nothing but the request's id, which is in a header."""
    return ApiError(500, "internal_error", "the server failed; its log has more under the id of x-request-id")


def as_api_error(error: Exception) -> ApiError:
    """The answer that an exception becomes.

    What a request's own values caused is explained; what is the server's own affair (paths, for instance) is not.
    """
    if isinstance(error, ApiError):
        return error
    return next((answer(error) for kind, answer in _ANSWERS.items() if isinstance(error, kind)), internal_error())


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception that is expected with OpenAI's error body."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        answered = as_api_error(error)
        note = request.state.note
        note.error = answered.code
        if answered.status in TOLD_BY_THE_LOG:
            _log.error("request.failed", exc_info=error, extra={"note": {"request_id": note.request_id}})
        response = answered.response()
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    for kind in (SptError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def _of_usage(error: UsageError) -> ApiError:
    """The message of a usage error begins with the option it is about."""
    option = str(error).partition(":")[0]
    param, code = _OPTIONS.get(option, (option, "invalid_value"))
    return bad_request(str(error), param=param if param.isidentifier() else None, code=code)


def _type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


def _of_overload(error: OverloadedError) -> ApiError:
    return ApiError(429, "queue_full", str(error), retry_after=error.retry_after)


def _of_outage(error: UnavailableError) -> ApiError:
    return ApiError(503, "unavailable", str(error), retry_after=RETRY_SECONDS)


def _of_data(error: DataError) -> ApiError:
    return bad_request(str(error), param="messages", code="context_length_exceeded")


def _of_template(error: ModelError | RecipeError) -> ApiError:
    """While a request is answered, models and recipes are wrong only where a template cannot render its conversation."""
    if error.__cause__ is None:
        return internal_error()
    reason = f"messages: the template of this model refuses this conversation ({error.__cause__!s:.300})"
    return bad_request(f"{reason}; change its persona or its turns", param="messages", code="conversation_refused")


def _of_storage(_: StorageError) -> ApiError:
    return ApiError(507, "storage_full", "the server cannot write its records; its log has more")


def _of_starlette(error: HTTPException) -> ApiError:
    """Routes that are not there, and bodies that cannot be read."""
    match error.status_code:
        case 404:
            return ApiError(404, "not_found", "there is no such route; GET /docs lists them")
        case 405:
            return ApiError(405, "method_not_allowed", "this route does not take that method; GET /docs lists them")
        case status:
            return ApiError(status, "bad_request" if status < 500 else "internal_error", str(error.detail))


def _of_validation(error: RequestValidationError) -> ApiError:
    """All faults of a body together."""
    faults: Sequence[dict[str, Any]] = error.errors()
    if faults[0]["type"] in {"json_invalid", "model_attributes_type"}:
        return ApiError(
            400, "invalid_json", "the body is not a JSON object; send one, as content-type application/json"
        )
    told = [_told(fault) for fault in faults[:_SHOWN_FAULTS]]
    if len(faults) > _SHOWN_FAULTS:
        told.append(f"and {len(faults) - _SHOWN_FAULTS} more")
    known = faults[0]["type"] != "extra_forbidden"
    return bad_request("; ".join(told), param=_place(faults[0]), code="invalid_value" if known else "unknown_field")


def _told(fault: dict[str, Any]) -> str:
    place = _place(fault)
    if fault["type"] == "extra_forbidden":
        return f"{place}: this server knows no such field; leave it out (GET /docs lists the fields)"
    if fault["type"] == "missing":
        return f"{place}: missing"
    reason = str(fault["msg"]).removeprefix("Value error, ")
    return (
        f"{place}: {reason}" if fault["type"] == "value_error" else f"{place}: {reason} (got {short(fault['input'])})"
    )


def _place(fault: dict[str, Any]) -> str:
    """The field, with dots; pydantic's names for the branches of a union are left out."""
    parts = [str(part) for part in fault["loc"] if part not in _NO_FIELDS]
    return ".".join(part for part in parts if part.isidentifier() or part.isdigit()) or "body"


_ANSWERS: dict[type[Exception], Callable[[Any], ApiError]] = {
    OverloadedError: _of_overload,
    UnavailableError: _of_outage,
    UsageError: _of_usage,
    DataError: _of_data,
    ModelError: _of_template,
    RecipeError: _of_template,
    StorageError: _of_storage,
    HTTPException: _of_starlette,
    RequestValidationError: _of_validation,
}
