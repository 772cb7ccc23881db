"""What the job API takes and gives, as types from which its OpenAPI document is made.

The settings of a job are the fields of `InferenceSettings` and `JobOptions`, as in a list of jobs of the command line.
"""

from collections.abc import Mapping
from datetime import datetime, timezone
from fractions import Fraction
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, create_model

from latentsync.diffusion.solvers import SOLVERS
from latentsync.inference.batch import OPTIONS, SETTINGS
from latentsync.inference.settings import InferenceSettings, JobOptions
from web import texts
from web.api.bodies import MAX_FILES, object_of
from web.app import WebApp
from web.errors import ErrorCode, WebError
from web.jobs import Delivery, Kind, State, WebJob
from web.orders import Wish

MAX_LIST = 100  # jobs
REF = "#/components/schemas/{model}"
FILE = {"type": "string", "format": "binary"}
SHOWN_LENGTH = 60  # characters of a wrong value
Text = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]
FRACTION = r"^[0-9]{1,6}(\.[0-9]{1,6}|/[1-9][0-9]{0,5})?$"
Rate = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value),
    Field(pattern=FRACTION),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 1, "maximum": 240}, {"type": "string", "pattern": FRACTION}]}
    ),
]
TYPES: dict[str, Any] = {  # where the schema states more than the type of a field
    "solver": Literal[tuple(solver.name for solver in SOLVERS)],
    "fps": Rate,
    "face": Text,
    "speakers": Literal["", "auto"] | dict[str, Any],
    "adapter": Text,
    "seed": Annotated[int, Field(ge=-1, lt=2**63)],
}
REMARKS = {
    "kind": "`run`: the whole video; `preview`: 3 seconds, or `limit_sec`, from `start_sec` on, or of `ranges` the beginning of the"
    " first one; `preflight`: only find the faces, and return a picture of them",
    "video": "Multipart: the file. JSON: a path in a folder that the app may read (`--input_folder`)",
    "audio": "As `video`",
    "model": "Default: the first one that is installed",
    "webhook_url": "Called when the job has ended, if its host is allowed (`--webhook_host`)",
    "preset": "Default: what the model recommends",
    "fps": "Frames per second, as a number or a fraction such as 30000/1001",
    "adapter": "`FILE:FACTOR`, several separated by semicolons: paths in a folder that the app may read",
    "speakers": "`auto`: everybody gets the part of the audio in which they speak in the video. Or, in place of `audio`, an object"
    " as docs/speakers.schema.json describes; its sounds are names of the form's files, or paths as `video`",
    "face": "`largest`, `center`, a person's number, or `x,y@seconds`",
}


def optional_field(name: str, kind: Any) -> tuple[Any, Any]:
    return kind | None, Field(default=None, description=REMARKS.get(name))


def engine_fields() -> dict[str, Any]:
    """The fields of both dataclasses of settings, each optional, as arguments of `create_model`."""
    hints = get_type_hints(InferenceSettings) | get_type_hints(JobOptions)
    return {name: optional_field(name, TYPES.get(name, hints[name])) for name in (*SETTINGS, *OPTIONS)}


class Strict(BaseModel):
    """A part of a request: unknown fields and infinite numbers are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class JobFiles(Strict):
    """What a job needs besides its settings."""

    video: Text = Field(min_length=1, description=REMARKS["video"])
    audio: Text = Field(default="", description=REMARKS["audio"])
    kind: Kind = Field(default="run", description=REMARKS["kind"])
    model: Text = Field(default="", description=REMARKS["model"])
    webhook_url: Text | None = Field(default=None, description=REMARKS["webhook_url"])


JobRequest = create_model("JobRequest", __base__=JobFiles, __doc__="A job to be made.", **engine_fields())


class ListRequest(Strict):
    """Several jobs, which are all made or none."""

    jobs: list[JobRequest] = Field(min_length=1, max_length=MAX_LIST)  # type: ignore[valid-type]


class JobWebhook(BaseModel):
    """The call of a job's webhook."""

    url: str
    state: Delivery
    attempts: int
    error: str = Field(description="Of the last attempt; empty if there was none")


class Job(BaseModel):
    """A job and its progress."""

    id: str
    list_id: str | None = Field(description="The list that the job belongs to")
    kind: Kind
    video: str = Field(description="Name of the file, without folders")
    audio: str
    model: str
    state: State = Field(
        description="`waiting` and `running` jobs go on by themselves; `interrupted`: the app was stopped, the job can be resumed"
    )
    place: int = Field(description="Jobs before this one, while it waits")
    stage: str = Field(description="What is being done, while it runs")
    frames_done: int = Field(description="Of the stage")
    frames: int
    left_sec: float | None = Field(description="Estimated seconds left of the stage; null if unknown")
    error: str = Field(description="One sentence, if the job failed or was interrupted")
    summary: str = Field(description="One sentence, when the job is done")
    warnings: list[str]
    created_at: datetime
    ended_at: datetime | None
    expires_at: datetime | None = Field(description="When the job and its files are deleted; null before it has ended")
    webhook: JobWebhook | None


class JobPage(BaseModel):
    """Jobs, the newest first."""

    jobs: list[Job]
    next: str | None = Field(description="Give it as `after` to get older jobs; null: there are none")


class JobList(BaseModel):
    """The jobs of a list in its order."""

    id: str
    states: dict[State, int] = Field(description="How many jobs are in each state")
    is_over: bool = Field(description="Whether all of them have ended")
    jobs: list[Job]


class ClientLimits(BaseModel):
    """What a client may use, and what is left of it."""

    client: str
    requests_per_minute: int
    unfinished_jobs: int = Field(description="How many jobs may wait or run at once")
    unfinished_jobs_left: int
    stored_bytes: int = Field(description="How much may be uploaded, until jobs expire or are deleted")
    stored_bytes_left: int
    file_bytes: int = Field(description="Of a file")
    result_sec: float = Field(description="Longest result")
    keep_sec: float = Field(description="How long jobs are kept after they have ended")


class ErrorFacts(BaseModel):
    """An error: `code` is for programs, `message` is one sentence for people."""

    code: ErrorCode
    message: str


class ErrorAnswer(BaseModel):
    """The body of each answer with a status of 400 or more."""

    error: ErrorFacts


class WebhookCall(BaseModel):
    """The body of a webhook's request."""

    type: Literal["job.ended"]
    timestamp: datetime
    data: Job


def checked_request(kind: type[BaseModel], values: Any) -> Any:
    """A request of this kind; WebError with one sentence for the first wrong value."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise WebError(field_sentence(error.errors(include_url=False)[0])) from error


def field_sentence(error: Mapping[str, Any]) -> str:
    """The sentence for an error of pydantic."""
    place = (
        ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))[:SHOWN_LENGTH]
        or "The request"
    )
    if error["type"] == "missing":
        return texts.WRONG_FIELD.format(name=place, value="missing", reason="give it")
    if error["type"] == "extra_forbidden":
        return texts.WRONG_FIELD.format(
            name=place, value="unknown", reason=f"known are {', '.join(JobRequest.model_fields)}"
        )
    value = repr(error["input"])
    reason = error["msg"][:1].lower() + error["msg"][1:]
    return texts.WRONG_FIELD.format(name=place, value=value[:SHOWN_LENGTH], reason=reason)


def wish_of(request: Any) -> Wish:
    """The settings of a `JobRequest`."""
    values = request.model_dump(exclude_none=True)
    options = {name: values[name] for name in OPTIONS if name in values}
    if isinstance(options.get("speakers"), dict):  # takes the place of the audio, and is no option
        del options["speakers"]
    if "fps" in options:
        options["fps"] = Fraction(options["fps"])
    return Wish(request.kind, request.model, {name: values[name] for name in SETTINGS if name in values}, options)


def form_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a form, with those parsed that are no single value; pydantic converts the others from text."""
    parsed = dict(values)
    is_json = str(parsed.get("speakers", "")).lstrip().startswith("{")
    for name in ("guidance_interval", *(["speakers"] if is_json else [])):
        if name in parsed:
            parsed[name] = object_of(f'{{"value": {parsed[name]}}}')["value"]
    return parsed


def request_schemas() -> dict[str, Any]:
    """The schemas of bodies that make jobs: JSON ones, and forms, in which files are uploaded and nothing is null."""
    found = {
        "JobRequest": JobRequest.model_json_schema(ref_template=REF),
        "ListRequest": ListRequest.model_json_schema(ref_template=REF),
    }
    found["ListRequest"].pop("$defs")
    values = {name: without_null(field) for name, field in found["JobRequest"]["properties"].items()}
    for name in ("video", "audio"):
        values[name] = FILE | {"description": f"The file, or as text a path in a folder that the app may read: {name}"}
    values["speakers"] = {"type": "string", "description": f"JSON, or auto. {REMARKS['speakers']}"}
    values["guidance_interval"] = {"type": "string", "description": "JSON, such as [0, 0.5]"}
    required = {"type": "object", "additionalProperties": False, "required": ["video"]}
    jobs = {
        "type": "string",
        "description": "JSON: a list of `JobRequest`, whose video and audio are names of uploaded files, or paths",
    }
    files = {"type": "array", "items": FILE, "maxItems": MAX_FILES, "description": "Files with different names"}
    found["JobForm"] = {**required, "properties": values}
    found["ListForm"] = {**required, "required": ["jobs"], "properties": {"jobs": jobs, "files": files}}
    return found


def without_null(field: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an optional field without null, which is its default."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    kept = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    return {**kept, **kinds[0]} if len(kinds) == 1 else dict(field)


def moment(unix_sec: float | None) -> datetime | None:
    return None if unix_sec is None else datetime.fromtimestamp(unix_sec, timezone.utc)


def job_of(job: WebJob, app: WebApp) -> Job:
    """A job as the API shows it."""
    with job.lock:
        left_sec, hook = job.left_sec, job.webhook
        expires = None if job.ended is None else job.ended + app.settings.limits.keep_sec
        return Job(
            id=job.id,
            list_id=job.submission.list_id or None,
            kind=job.order.kind,
            video=job.names[0],
            audio=job.names[1],
            model=job.order.model,
            state=job.state,
            place=app.engine.place(job) if job.state == "waiting" else 0,
            stage=job.stage,
            frames_done=job.done,
            frames=job.total,
            left_sec=None if left_sec is None else round(left_sec, 1),
            error=job.error,
            summary=job.report.get("summary", ""),
            warnings=list(job.report.get("warnings", ())),
            created_at=datetime.fromtimestamp(job.created, timezone.utc),
            ended_at=moment(job.ended),
            expires_at=moment(expires),
            webhook=None if hook is None else JobWebhook(**vars(hook)),
        )


def list_of(list_id: str, jobs: list[WebJob], app: WebApp) -> JobList:
    """A list of jobs as the API shows it."""
    shown = [job_of(job, app) for job in jobs]
    states: dict[State, int] = {}
    for job in shown:
        states[job.state] = states.get(job.state, 0) + 1
    return JobList(id=list_id, states=states, is_over=all(job.is_over for job in jobs), jobs=shown)
