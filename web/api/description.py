"""What the OpenAPI document says about the routes: their bodies, answers and errors."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, StreamingResponse

from web import texts
from web.api import schema
from web.api.bodies import FORM, JSON
from web.errors import ErrorCode

Answers = dict[int | str, dict[str, Any]]  # HTTP status -> description
GONE = ErrorCode.NOT_FOUND, ErrorCode.EXPIRED
VIDEO_KINDS = ("video/mp4", "video/quicktime", "image/jpeg")


def errors(*codes: ErrorCode) -> Answers:
    """The answers of a route that are errors, for its description."""
    common = (ErrorCode.UNAUTHORIZED, ErrorCode.FORBIDDEN, ErrorCode.INVALID_REQUEST, ErrorCode.RATE_LIMITED)
    found: dict[int | str, list[str]] = {}
    for code in (*common, *codes):
        found.setdefault(code.status, []).append(code.value)
    return {
        status: {"model": schema.ErrorAnswer, "description": f"Code: {', '.join(names)}"}
        for status, names in found.items()
    }


def file_answers(kinds: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a route that answers with a file, or the part of it that the header Range asks for."""
    found: Answers = errors(*GONE, ErrorCode.WRONG_STATE, ErrorCode.RANGE_NOT_SATISFIABLE)
    found |= {
        200: {"description": "The whole file", "content": kinds},
        206: {"description": "A part", "content": kinds},
    }
    return {"response_class": FileResponse, "responses": found}


# arguments of routes
UNKNOWN, UNFIT = errors(*GONE), errors(*GONE, ErrorCode.WRONG_STATE)
REPEATED: Answers = {200: {"description": "The same request was sent before with this Idempotency-Key"}}
REFUSED = errors(
    ErrorCode.IDEMPOTENCY_CONFLICT,
    ErrorCode.LENGTH_REQUIRED,
    ErrorCode.TOO_LARGE,
    ErrorCode.QUOTA_EXCEEDED,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.TOO_MANY_JOBS,
    ErrorCode.STORAGE_FULL,
)
CREATED: dict[str, Any] = {"methods": ["POST"], "status_code": 201, "responses": {**REPEATED, **REFUSED}}
DELETED: dict[str, Any] = {"methods": ["DELETE"], "status_code": 204, "responses": UNFIT}
JOB_AS_TEXT = {
    "type": "string",
    "contentMediaType": JSON,
    "contentSchema": {"$ref": "#/components/schemas/Job"},
}
EVENT = {  # each event of the stream
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {"id": {"type": "string"}, "event": {"enum": ["progress", "end"]}, "data": JOB_AS_TEXT},
}
EVENTS: dict[str, Any] = {
    "response_class": StreamingResponse,
    "responses": {**UNKNOWN, 200: {"content": {"text/event-stream": {"schema": EVENT}}}},
}
RESULT = file_answers({name: {"schema": {"type": "string", "format": "binary"}} for name in VIDEO_KINDS})
REPORT = file_answers({JSON: {"schema": {"type": "object"}}})


def body_of(kind: str) -> dict[str, Any]:
    """The part of a route's description for its body, which the route reads itself."""
    refs = {FORM: f"{kind}Form", JSON: f"{kind}Request"}
    content = {name: {"schema": {"$ref": f"#/components/schemas/{ref}"}} for name, ref in refs.items()}
    return {"requestBody": {"required": True, "content": content}}


def described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the bodies of requests."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title,
            version=app.version,
            routes=app.routes,
            webhooks=app.webhooks.routes,
            description=texts.API_ABOUT,
        )
        found["components"]["schemas"] |= schema.request_schemas()
        app.openapi_schema = found
    return app.openapi_schema


async def job_ended(body: schema.WebhookCall) -> None:
    """Sent to a job's `webhook_url` when the job has ended.

    It is signed by the specification Standard Webhooks: the header `webhook-signature` is `v1,` and the base64 of the HMAC with
    SHA-256, keyed with the client's token, of the header `webhook-id`, a dot, the header `webhook-timestamp`, a dot, and the body.
    """
