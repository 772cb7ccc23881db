"""The package that `pip install latentsync` installs (one command, demo inside, nothing written into it), and the set-up script."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from latentsync import __main__, __version__
from latentsync.media.probe import probe
from latentsync.places import DEMO_AUDIO, DEMO_VIDEO, home_folder, user_folder
from scripts.command import EXTRA_OF, run_command
from tests.test_house import ROOT, kept_files

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell and its signals")


def test_the_user_has_a_folder_on_every_system(tmp_path: Path) -> None:
    assert user_folder({"XDG_DATA_HOME": str(tmp_path)}, "linux") == tmp_path / "latentsync"
    assert user_folder({"LOCALAPPDATA": str(tmp_path)}, "win32") == tmp_path / "LatentSync"
    assert user_folder({}, "darwin") == Path.home() / "Library/Application Support/LatentSync"
    assert user_folder({}, "linux") == Path.home() / ".local/share/latentsync"
    assert home_folder({}, "linux", is_installed=False) == ROOT
    assert home_folder({"LATENTSYNC_HOME": "~/lips"}, "linux", is_installed=False) == Path.home() / "lips"


def test_verbs_are_listed_and_a_wrong_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([]) == 0
    listed = capsys.readouterr().out
    assert all(
        f"\n  {word} " in listed
        for word in ("run", "check", "batch", "download", "provenance", "doctor", "serve", "demo")
    )
    assert __main__.main(["--version"]) == 0 and capsys.readouterr().out == f"{__version__}\n"
    assert __main__.main(["rnu"]) == 2
    assert capsys.readouterr().err.startswith("latentsync: there is no verb 'rnu': choose demo, run,")


@pytest.mark.parametrize("word", __main__.VERBS)
def test_a_verb_shows_the_options_of_its_command(
    word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit):
        __main__.main([word, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: latentsync {word} [-h]")


def test_a_missing_extra_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise ModuleNotFoundError("No module named 'gradio.themes'", name="gradio.themes")

    assert run_command("serve", work) == 2
    assert capsys.readouterr().err == "serve: the package gradio is not installed: run `./setup_env.sh web`.\n"
    with pytest.raises(ModuleNotFoundError):
        run_command("serve", lambda: __import__("no_such_package"))


def test_extras_install_what_messages_say() -> None:
    tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {
        "espeakng_loader": "espeakng-loader",
        "python_multipart": "python-multipart",
        "whisper": "openai-whisper",
        "c2pa": "c2pa-python",
    }  # of imports that are called otherwise
    for package, extra in EXTRA_OF.items():
        assert names.get(package, package) in {re.split(r"[\[><=;]", line)[0] for line in extras[extra]}, package


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the package, and an empty folder to work in."""

    folder: Path
    work: Path
    variables: Mapping[str, str]

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("[Ll]ib*/python*/site-packages"), self.folder / "Lib/site-packages")

    @property
    def command(self) -> str:
        return str(self.folder / ("Scripts/latentsync.exe" if sys.platform == "win32" else "bin/latentsync"))

    def files(self) -> set[Path]:
        return {path for path in self.packages.rglob("*") if path.suffix != ".pyc"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.command, *arguments]
        return subprocess.run(command, cwd=self.work, env=self.variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Builds the wheel from a copy of the repository, and installs it beside the packages that this test runs with."""
    pytest.importorskip("setuptools", minversion="77", reason="it builds the wheel")
    folder = tmp_path_factory.mktemp("package")
    source, environment, work = folder / "source", folder / "environment", folder / "work"
    work.mkdir()
    faces = [path.relative_to(ROOT).as_posix() for path in (ROOT / "checkpoints/face").glob("*")]
    for name in (*kept_files(), *faces):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--no-build-isolation", "-w", str(folder), "."], cwd=source, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    home = {"XDG_DATA_HOME": str(folder / "user"), "LOCALAPPDATA": str(folder / "user"), "HF_HUB_OFFLINE": "1"}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LATENTSYNC_HOME")}
    made = Installed(environment, work, {**kept, **home, "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"})
    (made.packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = next(environment.glob("[bS]*/python*"))
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "--python", str(python), "install", *alone, str(wheel)], check=True)
    return made


@pytest.mark.slow
def test_the_package_installs_no_name_but_its_own(installed: Installed) -> None:
    names = {path.name for path in installed.packages.iterdir()} - {"others.pth", "__pycache__"}
    assert names == {"latentsync", f"latentsync-{__version__}.dist-info"}


@pytest.mark.slow
def test_the_package_runs_its_demo_and_writes_only_where_it_works(installed: Installed) -> None:
    before = installed.files()
    done = installed.run("demo", "--limit_sec", "0.2", "--inference_steps", "1")
    assert done.returncode == 0, done.stderr
    assert "Weights for real people: `latentsync download inference`" in done.stdout
    assert probe(installed.work / "video_out.mp4").frame_count == 5
    checked = installed.run("doctor")
    assert checked.returncode == 0 and "5 of 5 frames synced" in checked.stdout
    assert installed.files() == before
    assert {path.name for path in installed.work.iterdir()} == {"video_out.mp4", "video_out.report.json"}


@pytest.mark.slow
def test_the_package_looks_for_checkpoints_in_the_folder_of_the_user(installed: Installed) -> None:
    state = installed.run("download", "--check")
    assert state.returncode == 1 and str(Path("user")) in state.stdout and "latentsync_unet.pt" in state.stdout
    assert installed.run("download", "faces", "--check").returncode == 0, "the face mesh ships with the package"
    refused = installed.run("run", "--video_path", str(DEMO_VIDEO), "--audio_path", str(DEMO_AUDIO))
    assert refused.returncode == 2 and "`latentsync download inference`" in refused.stderr, refused.stderr


@POSIX
@pytest.mark.slow
def test_the_package_serves_the_app(installed: Installed) -> None:
    command = [installed.command, "serve", "--demo", "--port", "7947"]
    with subprocess.Popen(
        command, cwd=installed.work, env=installed.variables, stdout=subprocess.PIPE, text=True
    ) as app:
        assert app.stdout
        url = next(found[0] for line in app.stdout if (found := re.search(r"http://\S+", line)))
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
        app.send_signal(signal.SIGINT)
        assert app.wait(60) == 130


SHIM = '#!/usr/bin/env bash\nprintf "%s\\n" "$*" >>"$LOG"\n'


@POSIX
@pytest.mark.parametrize(
    ("driver", "arguments", "is_small"),
    [
        ("GPU 0: Tesla", [], False),
        ("No devices were found", [], True),
        ("No devices were found", ["--torch", "cuda"], False),
        ("GPU 0: Tesla", ["--torch", "cpu"], True),
    ],
)
def test_the_set_up_asks_the_driver_which_pytorch_it_needs(
    tmp_path: Path, driver: str, arguments: list[str], is_small: bool
) -> None:
    for name in ("setup_env.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    programs, log = tmp_path / "programs", tmp_path / "log"
    python = SHIM + 'case "$*" in *\'version("torch")\'*) exit 1 ;; esac\n'  # PyTorch is not installed yet
    driver_program = f"#!/usr/bin/env bash\necho '{driver}'\n"
    system = "#!/usr/bin/env bash\necho Linux\n"
    programs_by_path = {
        tmp_path / ".venv/bin/python": python,
        programs / "nvidia-smi": driver_program,
        programs / "uname": system,
    }
    for path, text in programs_by_path.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    variables = {"PATH": f"{programs}:/usr/bin:/bin", "LOG": str(log), "CI": "true"}
    command = ["bash", "setup_env.sh", "web", "data", *arguments]
    subprocess.run(command, cwd=tmp_path, env=variables, check=True, capture_output=True)
    assert "--editable .[web,data]" in log.read_text()
    assert ("whl/cpu torch torchvision" in log.read_text()) == is_small
    log.unlink()
    (tmp_path / ".venv/bin/python").write_text(SHIM)
    subprocess.run(command[:3], cwd=tmp_path, env=variables, check=True, capture_output=True)
    assert "install" not in log.read_text(), "a second run finds everything installed"
