"""The routes of the job API. They share queue, files, limits and errors with the page; a job's owner is the client of its token."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Query, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.security import HTTPBearer

from latentsync.inference.jobs.found_speakers import found_path
from web import texts
from web.api import schema
from web.api.answers import DOCUMENT, PREFIX, add_error_handlers
from web.api.bodies import FORM, Body, body_length, form_body, json_body, media_type
from web.api.clients import LOCAL, TOKEN_FILE
from web.api.description import (
    CREATED,
    DELETED,
    EVENTS,
    REPORT,
    RESULT,
    UNFIT,
    UNKNOWN,
    body_of,
    described,
    errors,
    job_ended,
)
from web.api.drafts import job_drafts, list_drafts
from web.api.gate import Gate
from web.api.webhooks import Webhooks
from web.app import Draft, WebApp
from web.errors import ErrorCode, WebError
from web.files import kept_secret
from web.jobs import API_OWNER, Submission, WebJob
from web.settings import ApiSettings
from web.storage import StoredUploads

MAX_STREAMS = 20  # of one client
POLL_SEC, KEEP_ALIVE_SEC = 0.5, 15.0  # of a stream of events
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


class JobApi:
    """The API of one app; `asgi` answers all paths that begin with `API_PREFIX`."""

    def __init__(self, app: WebApp, uploads: StoredUploads):
        self.app, self.uploads, self.settings = app, uploads, app.settings.api
        self.tokens = dict(self.settings.tokens) or {LOCAL: kept_secret(app.store.folder / TOKEN_FILE)}
        self.webhooks = Webhooks(app.store, self.settings, self.tokens, self._webhook_body)
        self.fastapi = self._fastapi()
        self.asgi = Gate(self.fastapi, DOCUMENT, self.tokens, app.settings.limits)
        self._streams: Counter[str] = Counter()  # client -> open streams of events
        self._is_closing = False

    def start(self) -> None:
        self.webhooks.start()

    def stop(self) -> None:
        """End the streams of events and the calls of webhooks."""
        self._is_closing = True
        self.webhooks.stop()

    # --- routes of jobs

    async def create_job(self, request: Request, response: Response, idempotency_key: Key = None) -> schema.Job:
        """Make a job from uploads, or from files that the server may read. It is checked, and waits for its turn."""
        jobs = await self._create(request, response, idempotency_key, "", job_drafts)
        response.headers["location"] = location_of(request, f"jobs/{jobs[0].id}")
        return schema.job_of(jobs[0], self.app)

    def list_jobs(
        self,
        request: Request,
        state: schema.State | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[str, Query(max_length=100)] = "",
    ) -> schema.JobPage:
        """The client's jobs, the newest first."""
        mine = self.app.store.of(owner_of(request))
        if after:
            mine = mine[mine.index(self.app.store.get(after, owner_of(request))) + 1 :]
        mine = [job for job in mine if state is None or job.state == state]
        shown = [schema.job_of(job, self.app) for job in mine[:limit]]
        return schema.JobPage(jobs=shown, next=shown[-1].id if len(mine) > limit else None)

    def get_job(self, request: Request, job_id: str) -> schema.Job:
        """State and progress of a job."""
        return schema.job_of(self._job(request, job_id), self.app)

    async def events(self, request: Request, job_id: str) -> StreamingResponse:
        """Server-sent events: `progress` with the job whenever something changes, and `end` with the job when it has ended."""
        job, client = self._job(request, job_id), request.state.client
        if self._streams[client] >= MAX_STREAMS:
            raise WebError(texts.TOO_MANY_STREAMS.format(count=MAX_STREAMS), ErrorCode.RATE_LIMITED)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._event_stream(job, client), media_type="text/event-stream", headers=headers)

    def cancel_job(self, request: Request, job_id: str) -> schema.Job:
        """Cancel a job: a waiting one ends at once, a running one after its window of frames; one that has ended stays as it is."""
        return schema.job_of(self._cancelled(self._job(request, job_id)), self.app)

    def resume_job(self, request: Request, job_id: str) -> schema.Job:
        """Let an interrupted job go on from where it was."""
        return schema.job_of(self.app.resume(job_id, owner_of(request)), self.app)

    def result(self, request: Request, job_id: str) -> FileResponse:
        """The video of a finished job, or the picture of a preflight; parts of it by the header Range."""
        path = self.app.results(self._job(request, job_id))[0]
        return FileResponse(path, filename=path.name)

    def report(self, request: Request, job_id: str) -> FileResponse:
        """The report of a finished job as JSON: settings, warnings, timings, and what was done to each frame."""
        path = self.app.results(self._job(request, job_id))[-1]
        return FileResponse(path, filename=path.name, media_type="application/json")

    def speakers(self, request: Request, job_id: str) -> FileResponse:
        """Who speaks when, as it was found for a finished job with `speakers` `auto`, or faces of that name."""
        path = found_path(self._job(request, job_id).output)
        if path not in self.app.results(self._job(request, job_id)):
            raise WebError(texts.NO_SPEAKERS, ErrorCode.NOT_FOUND)
        return FileResponse(path, filename=path.name, media_type="application/json")

    def delete_job(self, request: Request, job_id: str) -> Response:
        """Delete an ended job and all its files."""
        self._delete([self._job(request, job_id)])
        return Response(status_code=204)

    # --- routes of lists

    async def create_list(self, request: Request, response: Response, idempotency_key: Key = None) -> schema.JobList:
        """Make several jobs, or none if one of them is invalid."""
        jobs = await self._create(request, response, idempotency_key, secrets.token_urlsafe(24), list_drafts)
        list_id = jobs[0].submission.list_id
        response.headers["location"] = location_of(request, f"lists/{list_id}")
        return schema.list_of(list_id, jobs, self.app)

    def get_list(self, request: Request, list_id: str) -> schema.JobList:
        """The jobs of a list."""
        return schema.list_of(list_id, self.app.store.listed(list_id, owner_of(request)), self.app)

    def cancel_list(self, request: Request, list_id: str) -> schema.JobList:
        """Cancel the jobs of a list that have not ended."""
        jobs = self.app.store.listed(list_id, owner_of(request))
        for job in reversed(jobs):  # so that none of them begins meanwhile
            self._cancelled(job)
        return schema.list_of(list_id, jobs, self.app)

    def delete_list(self, request: Request, list_id: str) -> Response:
        """Delete all jobs of a list, which must have ended, and their files."""
        self._delete(self.app.store.listed(list_id, owner_of(request)))
        return Response(status_code=204)

    def limits(self, request: Request) -> schema.ClientLimits:
        """What the client may use, and what is left of it."""
        limits, store, owner = self.app.settings.limits, self.app.store, owner_of(request)
        return schema.ClientLimits(
            client=request.state.client,
            requests_per_minute=limits.requests_per_minute,
            unfinished_jobs=store.jobs_limit(owner),
            unfinished_jobs_left=max(0, store.jobs_limit(owner) - store.unfinished(owner)),
            stored_bytes=limits.stored_bytes_each,
            stored_bytes_left=max(0, limits.stored_bytes_each - self.uploads.used_bytes(owner)),
            file_bytes=limits.file_bytes,
            result_sec=limits.length_sec,
            keep_sec=limits.keep_sec,
        )

    # --- making jobs

    async def _create(
        self,
        request: Request,
        response: Response,
        key: str | None,
        list_id: str,
        drafts_of: Callable[[Body, ApiSettings], tuple[list[Draft], str]],
    ) -> list[WebJob]:
        """The jobs of a request; status 201, or 200 if it was sent before with the same key."""
        owner, body = owner_of(request), await self._body(request)

        def submit() -> tuple[list[WebJob], bool]:
            drafts, fingerprint = drafts_of(body, self.settings)
            return self.app.submit_all(Submission(owner, "", list_id, key or "", fingerprint), drafts)

        try:
            jobs, are_new = await run_in_threadpool(submit)
            left = await run_in_threadpool(self.limits, request)
        finally:
            await run_in_threadpool(body.remove_uploads)
        response.status_code = 201 if are_new else 200
        for name in ("unfinished_jobs", "stored_bytes"):
            response.headers[f"x-quota-{name.replace('_', '-')}-limit"] = str(getattr(left, name))
            response.headers[f"x-quota-{name.replace('_', '-')}-remaining"] = str(getattr(left, f"{name}_left"))
        return jobs

    async def _body(self, request: Request) -> Body:
        if media_type(request) != FORM:
            return await json_body(request)
        store = self.app.store
        with self.uploads.receiving(owner_of(request), body_length(request)):
            return await form_body(request, store.folder, store.limits.file_bytes)

    # --- other parts of the routes

    def _job(self, request: Request, job_id: str) -> WebJob:
        return self.app.store.get(job_id, owner_of(request))

    def _cancelled(self, job: WebJob) -> WebJob:
        if not job.is_over:
            self.app.engine.cancel(job)
        return job

    def _delete(self, jobs: list[WebJob]) -> None:
        for job in jobs:
            if not job.is_over:
                sentence = texts.UNFINISHED_DELETE.format(id=job.id, state=texts.STATES[job.state])
                raise WebError(sentence, ErrorCode.WRONG_STATE)
        for job in jobs:
            self.app.store.delete(job)

    async def _event_stream(self, job: WebJob, client: str) -> AsyncIterator[str]:
        self._streams[client] += 1
        try:
            before, quiet_sec, number = "", 0.0, 0
            while not self._is_closing:
                is_over = job.is_over  # before the job is read, so that the last event shows its end
                shown = schema.job_of(job, self.app).model_dump_json()
                if shown != before or is_over:
                    number, before, quiet_sec = number + 1, shown, 0.0
                    yield f"id: {number}\nevent: {'end' if is_over else 'progress'}\ndata: {shown}\n\n"
                elif quiet_sec >= KEEP_ALIVE_SEC:
                    quiet_sec = 0.0
                    yield ": still waiting\n\n"
                if is_over:
                    return
                await asyncio.sleep(POLL_SEC)
                quiet_sec += POLL_SEC
        finally:
            self._streams[client] -= 1

    def _webhook_body(self, job: WebJob) -> bytes:
        shown, ended = schema.job_of(job, self.app), schema.moment(job.ended or job.created)
        assert ended is not None
        return schema.WebhookCall(type="job.ended", timestamp=ended, data=shown).model_dump_json().encode()

    # --- the application and its description

    def _fastapi(self) -> FastAPI:
        app = FastAPI(title=texts.API_TITLE, version="1", openapi_url=DOCUMENT, docs_url=None, redoc_url=None)
        app.include_router(self._router())
        app.webhooks.add_api_route(
            "job-ended", job_ended, methods=["POST"], status_code=204, operation_id="jobEnded", tags=["webhooks"]
        )
        add_error_handlers(app)
        app.openapi = lambda: described(app)  # type: ignore[method-assign]
        return app

    def _router(self) -> APIRouter:
        router = APIRouter(
            prefix=PREFIX, dependencies=[Security(HTTPBearer(auto_error=False, description=texts.API_TOKEN))]
        )
        self._add_jobs(router.add_api_route)
        self._add_lists(router.add_api_route)
        router.add_api_route("/limits", self.limits, operation_id="getLimits", tags=["client"], responses=errors())
        return router

    def _add_jobs(self, add: Callable[..., None]) -> None:
        job, tags = "/jobs/{job_id}", ["jobs"]
        add("/jobs", self.create_job, operation_id="createJob", tags=tags, openapi_extra=body_of("Job"), **CREATED)
        add("/jobs", self.list_jobs, operation_id="listJobs", tags=tags, responses=UNKNOWN)
        add(job, self.get_job, operation_id="getJob", tags=tags, responses=UNKNOWN)
        add(f"{job}/events", self.events, operation_id="followJob", tags=tags, **EVENTS)
        add(f"{job}/cancel", self.cancel_job, operation_id="cancelJob", tags=tags, methods=["POST"], responses=UNKNOWN)
        add(f"{job}/resume", self.resume_job, operation_id="resumeJob", tags=tags, methods=["POST"], responses=UNFIT)
        add(f"{job}/result", self.result, operation_id="getResult", tags=tags, **RESULT)
        add(f"{job}/report", self.report, operation_id="getReport", tags=tags, **REPORT)
        add(f"{job}/speakers", self.speakers, operation_id="getSpeakers", tags=tags, **REPORT)
        for name, function in (("result", self.result), ("report", self.report)):
            add(f"{job}/{name}", function, methods=["HEAD"], include_in_schema=False)
        add(job, self.delete_job, operation_id="deleteJob", tags=tags, **DELETED)

    def _add_lists(self, add: Callable[..., None]) -> None:
        jobs, tags = "/lists/{list_id}", ["lists"]
        add("/lists", self.create_list, operation_id="createList", tags=tags, openapi_extra=body_of("List"), **CREATED)
        add(jobs, self.get_list, operation_id="getList", tags=tags, responses=UNKNOWN)
        add(
            f"{jobs}/cancel",
            self.cancel_list,
            operation_id="cancelList",
            tags=tags,
            methods=["POST"],
            responses=UNKNOWN,
        )
        add(jobs, self.delete_list, operation_id="deleteList", tags=tags, **DELETED)


def location_of(request: Request, path: str) -> str:
    """The path of a new resource, under the prefix of a proxy."""
    prefix = str(request.scope.get("root_path", "")).rstrip("/")
    return f"{prefix if prefix.startswith('/') else ''}{PREFIX}/{path}"


def owner_of(request: Request) -> str:
    """The owner of a client's jobs."""
    return API_OWNER + request.state.client
