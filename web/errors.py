"""Errors that are shown to users, and how HTTP answers state them."""

from enum import Enum


class ErrorCode(str, Enum):
    """Kinds of errors, for programs that use the job API (`web/api`)."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    EXPIRED = "expired"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    WRONG_STATE = "wrong_state"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    LENGTH_REQUIRED = "length_required"
    TOO_LARGE = "too_large"
    QUOTA_EXCEEDED = "quota_exceeded"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    TOO_MANY_JOBS = "too_many_jobs"
    RATE_LIMITED = "rate_limited"
    INTERNAL_ERROR = "internal_error"
    STORAGE_FULL = "storage_full"

    @property
    def status(self) -> int:
        """The HTTP status of answers with this code."""
        return STATUS[self]


STATUS = {
    ErrorCode.INVALID_REQUEST: 422,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.EXPIRED: 410,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.WRONG_STATE: 409,
    ErrorCode.IDEMPOTENCY_CONFLICT: 409,
    ErrorCode.LENGTH_REQUIRED: 411,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.QUOTA_EXCEEDED: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.RANGE_NOT_SATISFIABLE: 416,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.TOO_MANY_JOBS: 429,
    ErrorCode.INTERNAL_ERROR: 500,
    ErrorCode.STORAGE_FULL: 507,
}


def code_of(status: int) -> ErrorCode:
    """The first code of an HTTP status; that of an invalid request for another status below 500."""
    same = [code for code, known in STATUS.items() if known == status]
    return same[0] if same else ErrorCode.INVALID_REQUEST if status < 500 else ErrorCode.INTERNAL_ERROR


class WebError(ValueError):
    """An error that the user can fix; its message is one sentence with the remedy."""

    def __init__(self, sentence: str, code: ErrorCode = ErrorCode.INVALID_REQUEST):
        super().__init__(sentence)
        self.code = code


class CancelledError(Exception):
    """Raised inside a job that its owner cancelled."""
