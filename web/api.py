"""The HTTP job API, on Gradio's own routes: submit, status, cancel, fetch (docs/api.md)."""

from pathlib import Path
from typing import Any

import gradio as gr

from latentsync.inference.settings import DEFAULT_SEED
from web.app import WebApp
from web.errors import WebError
from web.jobs import WebJob
from web.orders import Wish


def owner_of(request: gr.Request, token: str = "") -> str:
    """Whose jobs a request may see: the user's where there is a login, else the page's or the client's session."""
    if request.username:
        return f"user {request.username}"
    return f"page {token}" if token else f"session {request.session_hash}"


def told(error: Exception) -> gr.Error:
    """An error as Gradio hands it to a client."""
    return gr.Error(str(error), print_exception=False)


class JobApi:
    """The functions behind the routes."""

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
        """Put a job into the queue and get its id. kind: run, preview (3 seconds) or preflight (look only)."""
        wish = Wish(kind, preset, steps, guidance_scale, seed, face, length, rest, on_missing_face, model)
        try:
            paths, names = [path_of(video), path_of(audio)], (name_of(video), name_of(audio))
            return self.app.submit(owner_of(request), wish, paths[0], paths[1], names).id
        except (ValueError, OSError) as error:
            raise told(error) from error

    def status(self, job_id: str, request: gr.Request) -> dict:
        """How far a job is: state (waiting, running, done, failed, cancelled), stage, frames, seconds left, error."""
        return self.app.status(self._job(job_id, request))

    def cancel(self, job_id: str, request: gr.Request) -> dict:
        """Cancel a job; the answer is its status."""
        job = self._job(job_id, request)
        self.app.engine.cancel(job)
        return self.app.status(job)

    def fetch(self, job_id: str, request: gr.Request) -> list[gr.FileData]:
        """The files of a job that is done: the video (or the contact sheet of a preflight) and the report."""
        job = self._job(job_id, request)
        try:
            return [file_data(path) for path in self.app.results(job)]
        except WebError as error:
            raise told(error) from error

    def add_routes(self) -> None:
        """Register the routes; called inside of `gr.Blocks`."""
        for function in (self.submit, self.status, self.cancel, self.fetch):
            gr.api(function, api_name=function.__name__, concurrency_limit=8)

    def _job(self, job_id: str, request: gr.Request) -> WebJob:
        try:
            return self.app.store.get(job_id, owner_of(request))
        except WebError as error:
            raise told(error) from error


def path_of(value: Any) -> str | None:
    """The path of an uploaded file; whether it was uploaded is checked by the app."""
    path = value.get("path") if isinstance(value, dict) else getattr(value, "path", None)
    return path if isinstance(path, str) else None


def name_of(value: Any) -> str:
    """The name that a client gives its file, without folders."""
    name = value.get("orig_name") if isinstance(value, dict) else getattr(value, "orig_name", None)
    return Path(str(name or path_of(value) or "file").replace("\\", "/")).name[:200] or "file"


def file_data(path: Path) -> gr.FileData:
    return gr.FileData(path=str(path), orig_name=path.name)
