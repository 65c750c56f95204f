"""Refusals and failures as OpenAI's error body: the message, its kind, the parameter at fault, and a code where OpenAI has one."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from evalkit.errors import EvalkitError, first_line

CLIENT_LEFT = 499  # as nginx has it; nobody reads it


class HttpError(EvalkitError):
    """A refused request: its HTTP status, the parameter at fault, and OpenAI's code for it if there is one."""

    def __init__(self, message: str, code: str | None = None, param: str | None = None, status: int = 400):
        super().__init__(message)
        self.code, self.param, self.status = code, param, status


class BodyError(HTTPException):
    """A body that is no JSON. An HTTPException, since FastAPI lets no other one through while it reads a body."""

    def __init__(self, message: str, param: str | None = None):
        super().__init__(400, message)
        self.param = param


def error_body(message: str, status: int, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's layout."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and body that tell an error: 400 where the request is to blame, 500 otherwise."""
    if isinstance(error, HttpError):
        return error.status, error_body(str(error), error.status, error.code, error.param)
    if isinstance(error, EvalkitError):
        return 400, error_body(str(error), 400)
    return 500, error_body(f"{type(error).__name__}: {first_line(error)}", 500)


def failed(error: Exception) -> EvalkitError:
    """What the client is told. A failure of the engine is logged, of which the client learns one line; its connection stays open."""
    if isinstance(error, EvalkitError):
        return error
    logging.getLogger("uvicorn.error").error("the engine failed", exc_info=error)
    return HttpError(f"{type(error).__name__}: {first_line(error)}", status=500)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception in OpenAI's layout."""

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        param = _parameter(first["loc"])
        message = str(first["msg"])
        if not param:
            message = f"the body is no JSON object ({message}); send one with the header 'Content-Type: application/json'"
        return JSONResponse(error_body(f"{param}: {message}" if param else message, 400, param=param or None), 400)

    async def told(request: Request, error: Exception) -> JSONResponse:
        status, content = body_of(error)
        return JSONResponse(content, status)

    async def unread(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, BodyError)
        return JSONResponse(error_body(error.detail, 400, param=error.param), 400)

    async def routing(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(error_body(message, error.status_code), error.status_code, headers=error.headers)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[JSONResponse]]] = {
        RequestValidationError: invalid,
        EvalkitError: told,
        BodyError: unread,
        HTTPException: routing,
        Exception: told,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _parameter(location: tuple[Any, ...]) -> str:
    """The parameter's name, without "body" in front and the branches of unions ("list[str]") behind."""
    return next((str(part) for part in location if part != "body" and not isinstance(part, int)), "")
