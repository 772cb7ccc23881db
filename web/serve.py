"""Gradio's server for the app: no resource from other hosts, nothing sent to them, and local access only by default."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr

from web import texts
from web.access import API_PREFIX, AsgiApp, Guard, HostNames, Message, route_path
from web.api.routes import JobApi
from web.app import WebApp
from web.errors import WebError
from web.hidden_paths import HiddenPaths
from web.models import Models
from web.page import Page
from web.settings import EXAMPLES, AppSettings
from web.storage import StoredUploads

ASSETS = Path(__file__).resolve().parent / "assets"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
# Colours of the theme whose text has a contrast below 4.5 : 1, darker or (in the dark) lighter.
READABLE: dict[str, Any] = {
    "body_text_color_subdued": "*neutral_600",
    "input_placeholder_color": "*neutral_600",
    "input_placeholder_color_dark": "*neutral_300",
    "block_label_text_color": "*primary_700",
    "block_title_text_color": "*primary_700",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_700",
    "button_secondary_background_fill_hover_dark": "*primary_600",
    "checkbox_label_background_fill_selected": "*primary_600",
    "checkbox_border_color": "*neutral_500",
}
# The browser refuses resources of other hosts. Gradio's page needs inline scripts and eval.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:;"
    " worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def with_security_headers(app: AsgiApp) -> AsgiApp:
    """An application that adds `HEADERS` to each response of `app`."""

    async def wrapped(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await app(scope, receive, send_with_headers if scope["type"] == "http" else send)

    return wrapped


def with_api(api: AsgiApp, page: AsgiApp) -> AsgiApp:
    """An application that gives the paths of the job API to `api`, and all others to `page`."""

    async def divided(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        is_api = scope["type"] == "http" and route_path(scope).startswith(API_PREFIX)
        await (api if is_api else page)(scope, receive, send)

    return divided


def check_access(settings: AppSettings) -> None:
    """WebError where others could reach an app without a password by a public link."""
    if settings.share and settings.login is None:
        raise WebError(texts.NEEDS_LOGIN.format(what="--share"))


def is_open_to_others(settings: AppSettings) -> bool:
    """Whether other machines can reach the app without a password."""
    return settings.host not in LOOPBACK and settings.login is None


class Server:
    """A running app; a context manager that stops it."""

    def __init__(self, models: Models, settings: AppSettings):
        check_access(settings)
        self.settings = settings
        self.app = WebApp(models, settings)
        os.environ["GRADIO_TEMP_DIR"] = str(self.app.store.folder)  # uploads go there; read when blocks are made
        os.environ["GRADIO_RUN_HISTORY"] = "False"
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # only a named proxy may state a client's address
        self.guard = Guard(HostNames((settings.host, *settings.allowed_hosts)))
        self.uploads = StoredUploads(self.app.store)
        self.uploads.remove_aborted()
        self.paths = HiddenPaths(self.app.store.folder)
        self.api = JobApi(self.app, self.uploads)
        self.blocks = Page(self.app).build()
        self.url = ""

    def __enter__(self) -> "Server":
        script = "".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in sorted(ASSETS.glob("*.js")))
        try:
            self._launch(script)
        except OSError as error:
            raise WebError(texts.PORT_TAKEN.format(port=self.settings.port)) from error
        if self.blocks.share_url:
            self.guard.names.names.add(urlsplit(self.blocks.share_url).hostname or "")
        self.app.start()
        self.api.start()
        return self

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        """Puts the guard around everything, also around Gradio's own middleware, before the first request."""
        page = self.paths.around(self.uploads.around(app.middleware_stack))
        app.middleware_stack = with_security_headers(self.guard.around(with_api(self.api.asgi, page)))
        yield

    def _launch(self, script: str) -> None:
        launch = partial(
            self.blocks.queue(max_size=200).launch,
            **self.settings.launch_arguments(),
            theme=gr.themes.Soft(font=FONTS[0], font_mono=FONTS[1]).set(**READABLE),
            css=(ASSETS / "page.css").read_text(encoding="utf-8"),
            head=script,
            allowed_paths=sorted({str(path.parent) for example in EXAMPLES for path in (example.video, example.audio)}),
            app_kwargs={"lifespan": self._lifespan, "docs_url": None, "redoc_url": None},
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        try:
            launch()
        except ValueError:  # the first page took longer than Gradio waits, as on a busy machine
            if not self.blocks.is_running:
                raise
        self.url = str(self.blocks.local_url)

    def __exit__(self, *_: object) -> None:
        self.api.stop()
        self.blocks.close(verbose=False)
        self.app.stop()
