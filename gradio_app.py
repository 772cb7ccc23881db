"""The web app: start it, then open the address that it prints. It listens on this computer only by default."""

import argparse
import getpass
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from latentsync.face.detection.detector import BACKENDS
from scripts.command import run_command, yaml_file
from scripts.status import configure_logging
from web import texts
from web.api.clients import TOKEN_FILE, parse_tokens, read_tokens
from web.errors import WebError
from web.lean_start import skip_stubs, without_garbage_collection
from web.settings import DEFAULT_FOLDER, ApiSettings, AppSettings, Limits

if TYPE_CHECKING:
    from web.serve import Server  # imports Gradio, which --help and errors do without

PASSWORD, TOKENS_VARIABLE = "LATENTSYNC_PASSWORD", "LATENTSYNC_API_TOKENS"  # environment variables
PORT_VARIABLE, HOST_VARIABLE = (
    "GRADIO_SERVER_PORT",
    "GRADIO_SERVER_NAME",
)  # Gradio's own; it reads GRADIO_ROOT_PATH itself
PORT = 7860
USUAL = Limits()


def parse(argv: list[str] | None, prog: str = "gradio_app.py") -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    models = parser.add_argument_group("models").add_argument
    models("--demo", action="store_true", help="start with the demo models, even if the official weights are installed")
    models("--inference_ckpt_path", type=Path, metavar="FILE", help="add a U-Net of your own")
    models(
        "--unet_config_path",
        type=yaml_file,
        metavar="FILE.yaml",
        help="configuration of a U-Net without metadata, see configs/unet",
    )
    models("--detector", choices=BACKENDS, help="default: face_alignment, or cascade for the demo models")
    models("--unload_after", type=float, metavar="MINUTES", help="free the models after this idle time")
    access = parser.add_argument_group("access").add_argument
    access(
        "--port", type=int, help=f"0: any that is free; default: {PORT}, or the environment variable {PORT_VARIABLE}"
    )
    access("--host", help=f"0.0.0.0 accepts other machines (default: this one only, or the variable {HOST_VARIABLE})")
    access(
        "--allow_host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer under this host name, as a proxy's; may be repeated",
    )
    access("--share", action="store_true", help="a public URL through Gradio's relay; needs --user")
    access("--user", help="require this name and a password")
    access("--password", help=f"better: the environment variable {PASSWORD}, or the prompt")
    api = parser.add_argument_group("job API, docs/api.md").add_argument
    api(
        "--api_tokens",
        type=Path,
        metavar="FILE",
        help=f"lines NAME:TOKEN, one for each client (default: the variable {TOKENS_VARIABLE}, or one token in the app's folder)",
    )
    api(
        "--input_folder",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="jobs may use the files below this folder of the server; may be repeated",
    )
    api(
        "--webhook_host",
        action="append",
        default=[],
        metavar="NAME[:PORT]",
        help="webhooks may call this host; may be repeated",
    )
    api("--webhook_private", action="store_true", help="webhooks may call private addresses, and without encryption")
    api(
        "--max_requests",
        type=int,
        default=USUAL.requests_per_minute,
        metavar="N",
        help="requests of a client per minute (default: %(default)s)",
    )
    limits = parser.add_argument_group("limits").add_argument
    limits("--folder", type=Path, default=DEFAULT_FOLDER, help="folder of uploads and results (default: %(default)s)")
    limits(
        "--keep_hours",
        type=float,
        default=USUAL.keep_sec / 3600,
        help="hours until they are deleted (default: %(default)g)",
    )
    limits("--max_gb", type=float, default=USUAL.file_bytes / 1e9, help="largest file (default: %(default)g)")
    limits(
        "--max_stored_gb",
        type=float,
        default=USUAL.stored_bytes / 1e9,
        help="uploads and results of all users (default: %(default)g); one address or client may upload a fifth",
    )
    limits("--max_minutes", type=float, default=USUAL.length_sec / 60, help="longest result (default: %(default)g)")
    limits("--max_jobs", type=int, default=USUAL.unfinished_jobs, help="unfinished jobs at once (default: %(default)s)")
    return parser.parse_args(argv)


def settings_of(args: argparse.Namespace) -> AppSettings:
    positive = {
        name: getattr(args, name)
        for name in ("keep_hours", "max_gb", "max_stored_gb", "max_minutes", "max_jobs", "max_requests", "unload_after")
    }
    for name, value in positive.items():
        if value is not None and value <= 0:
            raise WebError(f"--{name} is {value:g}: give a number above 0.")
    limits = replace(
        USUAL,
        file_bytes=round(args.max_gb * 1e9),
        stored_bytes=round(args.max_stored_gb * 1e9),
        stored_bytes_each=round(args.max_stored_gb * 1e9 / 5),
        length_sec=args.max_minutes * 60,
        video_sec=max(USUAL.video_sec, args.max_minutes * 60),
        keep_sec=args.keep_hours * 3600,
        unfinished_jobs=args.max_jobs,
        unfinished_jobs_address=max(1, args.max_jobs // 2),
        requests_per_minute=args.max_requests,
    )
    unload_sec = None if args.unload_after is None else args.unload_after * 60
    host = args.host or os.environ.get(HOST_VARIABLE) or "127.0.0.1"
    access = host, port_of(args), args.share, login_of(args), tuple(args.allow_host)
    return AppSettings(args.folder, limits, unload_sec, *access, api_of(args))


def port_of(args: argparse.Namespace) -> int | None:
    """The port that was asked for, or that of Gradio's variable; None for any that is free."""
    stated = os.environ.get(PORT_VARIABLE) or str(PORT)
    if args.port is None and not stated.isdecimal():
        raise WebError(f"{PORT_VARIABLE} is {stated!r}: give the number of a port, or --port.")
    port = int(stated) if args.port is None else args.port
    if not port:
        os.environ.pop(PORT_VARIABLE, None)  # Gradio reads it too, and takes 0 for a number
    return port or None


def api_of(args: argparse.Namespace) -> ApiSettings:
    """Settings of the job API: clients from the file of tokens, or from the environment."""
    stated = parse_tokens(os.environ.get(TOKENS_VARIABLE, ""), TOKENS_VARIABLE)
    tokens = stated if args.api_tokens is None else read_tokens(args.api_tokens)
    for folder in args.input_folder:
        if not folder.is_dir():
            raise WebError(texts.NO_FOLDER.format(path=folder))
    return ApiSettings(tokens, tuple(args.input_folder), tuple(args.webhook_host), args.webhook_private)


def login_of(args: argparse.Namespace) -> tuple[str, str] | None:
    """Name and password, with a prompt for a missing password; None without a name."""
    if args.user is None:
        return None
    password = args.password or os.environ.get(PASSWORD) or getpass.getpass(f"Password for {args.user}: ")
    if not password:
        raise WebError(f"--user needs a password: give --password or set {PASSWORD}.")
    return args.user, password


def serve(args: argparse.Namespace) -> None:
    settings = settings_of(args)  # before the import of Gradio, which takes seconds
    with ExitStack() as stack:
        with without_garbage_collection():
            server = stack.enter_context(server_of(args, settings))
        announce(server)
        from latentsync.device import unused_gpu  # imports PyTorch, which takes seconds, so the page is there before

        if reason := unused_gpu():
            print(reason, flush=True)
        while True:
            time.sleep(3600)


def server_of(args: argparse.Namespace, settings: AppSettings) -> "Server":
    """The server, not started; ValueError where its models are not there or do not fit."""
    skip_stubs()
    from web.models import Models
    from web.serve import Server

    models = Models.standard(args.inference_ckpt_path, args.unet_config_path, args.detector)
    if args.demo:
        models.choices = {"demo": models.choices.pop("demo"), **models.choices}
    if args.unet_config_path:
        from latentsync.config import UNetRun, load

        load(args.unet_config_path, UNetRun)
    models.check_at_start()
    return Server(models, settings)


def announce(server: "Server") -> None:
    """Print where the app and its API are, and who can reach them."""
    from web.api.answers import PREFIX
    from web.serve import is_open_to_others

    settings = server.settings
    print(f"Open {server.url} in a browser; Ctrl+C stops the app.", flush=True)
    token = "the clients' tokens" if settings.api.tokens else f"the token in {settings.folder / TOKEN_FILE}"
    print(f"Job API: {server.url}{PREFIX[1:]} with {token}.", flush=True)
    if server.blocks.share_url:
        print(f"Public: {server.blocks.share_url}", flush=True)
    if is_open_to_others(settings):
        print("Everybody who can reach this machine can use the app: add --user to require a password.", flush=True)


def main(argv: list[str] | None = None, prog: str = "gradio_app.py") -> int:
    args = parse(argv, prog)
    configure_logging(name="latentsync.config")
    return run_command(prog.removesuffix(".py"), lambda: serve(args))


if __name__ == "__main__":
    sys.exit(main())
