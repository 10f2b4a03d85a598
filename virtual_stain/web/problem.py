"""What goes wrong, as one shape of answer: `{"message": …, "hint": …}` with a status."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from virtual_stain.errors import ConfigError, InputError, ModelError, OutputError, VirtualStainError

_log = logging.getLogger("vstain.web")


class Problem(BaseModel):
    """Every answer with a status of 400 and more."""

    message: str = Field(description="What was expected and what was received.")
    hint: str | None = Field(default=None, description="The way out.")


class ApiError(Exception):
    """A refusal with its status."""

    def __init__(self, status: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "Refused: the message says why."},
    507: {"model": Problem, "description": "The disk is nearly full."},
    503: {"model": Problem, "description": "The disk, the database or the model cannot be used now."},
}


def problem_response(status: int, message: str, hint: str | None = None) -> JSONResponse:
    return JSONResponse({"message": message, "hint": hint}, status)


def add_handlers(app: FastAPI, hidden: Sequence[Path] = ()) -> None:
    """All errors become a Problem; only a bug is a 500.

    `hidden`: folders of this machine that no answer names; what was meant stands in the log.
    """

    @app.exception_handler(ApiError)
    def _api(_: Request, error: ApiError) -> JSONResponse:
        return problem_response(error.status, error.message, error.hint)

    @app.exception_handler(VirtualStainError)
    def _ours(_: Request, error: VirtualStainError) -> JSONResponse:
        _log.warning("%s", error)
        return problem_response(_status_of(error), public(error.message, hidden), public(error.hint, hidden))

    @app.exception_handler(RequestValidationError)
    def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        places = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()[:20]]
        return problem_response(422, "; ".join(places))

    @app.exception_handler(HTTPException)
    def _http(_: Request, error: HTTPException) -> JSONResponse:
        response = problem_response(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response


@overload
def public(text: str, hidden: Sequence[Path]) -> str: ...
@overload
def public(text: None, hidden: Sequence[Path]) -> None: ...
def public(text: str | None, hidden: Sequence[Path]) -> str | None:
    """The text without these folders: what lies below one is named from there on."""
    for folder in hidden if text is not None else ():
        for spelled in {str(folder), str(folder.absolute()), str(folder.resolve())} - {".", "/"}:
            text = text.replace(f"{spelled}/", "").replace(spelled, folder.name) if text else text
    return text


def _status_of(error: VirtualStainError) -> int:
    if isinstance(error, (OutputError, ModelError)):
        return 503
    return 409 if isinstance(error, InputError) else 400 if isinstance(error, ConfigError) else 500
