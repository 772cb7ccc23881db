"""Answers of the job API that are errors: a status, a code for programs, and one sentence for people."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from web import texts
from web.access import API_PREFIX, error_body
from web.api.schema import field_sentence
from web.errors import ErrorCode, WebError, code_of
from web.files import disk_problem
from web.sentences import without_folders

PREFIX = f"{API_PREFIX}v1"
DOCUMENT = f"{PREFIX}/openapi.json"
log = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Let an application answer every exception of its routes in one form."""
    app.add_exception_handler(WebError, web_error)
    app.add_exception_handler(ValueError, value_error)
    app.add_exception_handler(OSError, os_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=400))
    app.add_exception_handler(Exception, internal_error)


def error_answer(code: ErrorCode, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(error_body(code, sentence), code.status, headers=headers, media_type="application/json")


def web_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WebError)
    return error_answer(error.code, without_folders(str(error)))


def value_error(request: Request, error: Exception) -> Response:
    """An error of the library that the client can fix, as on the command line."""
    return error_answer(ErrorCode.INVALID_REQUEST, without_folders(str(error)))


def os_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    log.error("The job API could not use a file", exc_info=error)
    return error_answer(ErrorCode.STORAGE_FULL, without_folders(disk_problem(error)))


def validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_answer(ErrorCode.INVALID_REQUEST, field_sentence(error.errors()[0]))


def http_error(request: Request, error: Exception) -> Response:
    """An unknown address, or one that does not answer the method."""
    assert isinstance(error, HTTPException)
    code = code_of(error.status_code)
    sentence = texts.WRONG_METHOD if code == ErrorCode.METHOD_NOT_ALLOWED else texts.NO_SUCH_ROUTE
    return error_answer(code, sentence.format(method=request.method, url=DOCUMENT), error.headers)


def internal_error(request: Request, error: Exception) -> Response:
    return error_answer(ErrorCode.INTERNAL_ERROR, texts.API_BUG.format(kind=type(error).__name__))
