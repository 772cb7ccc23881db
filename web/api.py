"""The HTTP job API on Gradio's routes: submit, status, cancel, resume, fetch (docs/api.md)."""

from pathlib import Path
from typing import Any

import gradio as gr

from latentsync.inference.settings import DEFAULT_SEED
from web.access import network_of
from web.app import WebApp
from web.errors import WebError
from web.jobs import WebJob
from web.orders import Wish
from web.sentences import without_folders


def owner_of(request: gr.Request, token: str = "") -> str:
    """The owner whose jobs a request may access: the user if there is a login, else the browser or the client session."""
    if request.username:
        return f"user {request.username}"
    return f"page {token}" if token else f"session {request.session_hash}"


def address_of(request: gr.Request) -> str:
    """The network of a client; empty for a user who logged in, whom the password identifies."""
    return "" if request.username or request.client is None else network_of(request.client.host)


def client_error(error: Exception) -> gr.Error:
    """An error as Gradio sends it to a client."""
    return gr.Error(without_folders(str(error)), print_exception=False)


class JobApi:
    """The functions of the routes."""

    def __init__(self, app: WebApp):
        self.app = app

    def submit(
        self,
        video: gr.FileData,
        audio: gr.FileData,
        request: gr.Request,
        kind: str = "run",
        preset: str = "balanced",
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = DEFAULT_SEED,
        face: str = "largest",
        length: str = "bounce",
        rest: str = "cut",
        on_missing_face: str = "passthrough",
        model: str = "",
    ) -> str:
        """Put a job into the queue and return its id. kind: run, preview (3 seconds) or preflight (find faces only)."""
        wish = Wish(kind, preset, steps, guidance_scale, seed, face, length, rest, on_missing_face, model)
        try:
            names, address = (name_of(video), name_of(audio)), address_of(request)
            return self.app.submit(owner_of(request), wish, path_of(video), path_of(audio), names, address).id
        except (ValueError, OSError) as error:
            raise client_error(error) from error

    def status(self, job_id: str, request: gr.Request) -> dict:
        """Progress of a job: state (waiting, running, done, failed, cancelled, interrupted), stage, frames, seconds left, error."""
        return self.app.status(self._job(job_id, request))

    def cancel(self, job_id: str, request: gr.Request) -> dict:
        """Cancel a job and return its status."""
        job = self._job(job_id, request)
        self.app.engine.cancel(job)
        return self.app.status(job)

    def resume(self, job_id: str, request: gr.Request) -> dict:
        """Let a job go on that was interrupted by a stop of the app, and return its status."""
        try:
            return self.app.status(self.app.resume(job_id, owner_of(request)))
        except WebError as error:
            raise client_error(error) from error

    def fetch(self, job_id: str, request: gr.Request) -> list[gr.FileData]:
        """The files of a finished job: the video (or the contact sheet of a preflight) and the report."""
        job = self._job(job_id, request)
        try:
            return [file_data(path) for path in self.app.results(job)]
        except WebError as error:
            raise client_error(error) from error

    def add_routes(self) -> None:
        """Register the routes; call it inside a `gr.Blocks` context."""
        for function in (self.submit, self.status, self.cancel, self.resume, self.fetch):
            gr.api(function, api_name=function.__name__, concurrency_limit=8)

    def _job(self, job_id: str, request: gr.Request) -> WebJob:
        try:
            return self.app.store.get(job_id, owner_of(request))
        except WebError as error:
            raise client_error(error) from error


def path_of(value: Any) -> str | None:
    """The path in a client's file argument, unchecked; the app verifies that the file was uploaded."""
    path = value.get("path") if isinstance(value, dict) else getattr(value, "path", None)
    return path if isinstance(path, str) else None


def name_of(value: Any) -> str:
    """The client's own name of a file, without folders."""
    name = value.get("orig_name") if isinstance(value, dict) else getattr(value, "orig_name", None)
    return Path(str(name or path_of(value) or "file").replace("\\", "/")).name[:200] or "file"


def file_data(path: Path) -> gr.FileData:
    return gr.FileData(path=str(path), orig_name=path.name)
