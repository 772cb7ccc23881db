"""The whole data processing: check, run, report; and new thresholds applied to the scores of an earlier run."""

from dataclasses import dataclass
from pathlib import Path

from latentsync.data.storage import Folder
from latentsync.processing.config import ProcessingConfig, StageSettings, needs_new_run
from latentsync.processing.manifests.manifest import Manifests
from latentsync.processing.manifests.reapply import reapply
from latentsync.processing.manifests.settings_record import (
    check_output,
    clips_folder,
    recorded_settings,
    write_rejudged,
)
from latentsync.processing.plan import check_installed, make_rules, measures_of, plan_of, stage_names
from latentsync.processing.report.funnel import Funnel
from latentsync.processing.report.page import PAGE, write_report
from latentsync.processing.run.runner import OnProgress, run
from latentsync.processing.run_folder import make_run_folder
from latentsync.processing.stages.order import STAGES

KEPT_LIST = "kept.txt"


@dataclass(frozen=True)
class Processed:
    """The results of a run."""

    funnel: Funnel
    clips: str  # address of the folder with the training clips; empty after a dry run
    report: str  # address of the report
    without_source: int  # unfinished clips whose source is no longer in the input folder


def process(
    input_dir: str | Path,
    output_dir: str | Path | None,
    config: ProcessingConfig,
    dry_run: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> Processed:
    """Turn a folder of raw videos into training clips, or continue an earlier run of the same command.

    Args:
        input_dir: never changed; a path or an address that fsspec knows.
        output_dir: where `high_visual_quality` and `manifests` are created; None: beside the input folder.
        dry_run: measure and report, in `dry_run` in the output folder, and keep no clips.
        on_progress: called about twice a second with each stage's progress.

    Raises:
        ValueError: the input holds no video, the output was made with other settings or from another input, weights are
            missing, or another run is active there. Raised before any work.
        OSError: the disk is full.
    """
    config.check()
    run_folder = make_run_folder(input_dir, output_dir, config.run.keep_stages, dry_run)
    check_installed(config.stages)
    plan = plan_of(config.stages)
    check_output(run_folder, plan, config.stages)
    outcome = run(plan, run_folder, config.run, on_progress)
    manifests = Manifests(run_folder.manifests, stage_names(plan))
    about = _about(run_folder.input.address, run_folder.output.address, config.stages)
    funnel = write_report(
        run_folder.manifests, run_folder.output, manifests.tables(), measures_of(config.stages), about
    )
    clips = "" if dry_run else run_folder.output.under(manifests.stages[-1]).address
    return Processed(funnel, clips, f"{run_folder.manifests.address}/{PAGE}", outcome.without_source)


@dataclass(frozen=True)
class Rejudged:
    """The results of applying other thresholds to a run."""

    funnel: Funnel
    unmeasured: dict[str, int]  # by stage: clips that are kept now but that no later stage has measured
    report: str
    kept_list: str


def rejudge(manifest_dir: str | Path, out_dir: str | Path, settings: StageSettings) -> Rejudged:
    """Apply other thresholds to a run's manifests; write new manifests, a report and `kept.txt` into `out_dir`.

    Raises ValueError if `manifest_dir` holds no manifests, if `out_dir` is not empty, or if the settings name other networks
    than those of the run.
    """
    source, target = Folder(manifest_dir), Folder(out_dir)
    input_address, before = recorded_settings(source)
    for name in needs_new_run():
        if getattr(before, name) != getattr(settings, name):
            raise ValueError(f"{name} was {getattr(before, name)} in this run; to change it, process the videos again.")
    if target.files():
        raise ValueError(f"{target.address} is not empty: choose another folder for the new manifests.")
    settings.check()
    stages = stage_names(plan_of(settings))
    result = reapply(Manifests(source, stages).tables(), make_rules(before), make_rules(settings))
    manifests = Manifests(target, stages)
    for stage, table in result.tables.items():
        manifests.write(stage, table)
    output = clips_folder(source)
    write_rejudged(target, input_address, settings, output)
    final = result.tables[stages[-1]]
    kept = sorted(f"{output.address}/{file}" for file in final[final["verdict"] == "kept"]["file"] if file)
    target.write(KEPT_LIST, "".join(f"{path}\n" for path in kept).encode("utf-8"))
    about = _about(input_address, target.address, settings)
    funnel = write_report(target, output, result.tables, measures_of(settings), about)
    return Rejudged(funnel, result.unmeasured, f"{target.address}/{PAGE}", f"{target.address}/{KEPT_LIST}")


def _about(input_address: str, output_address: str, settings: StageSettings) -> dict[str, str]:
    networks = ", ".join(filter(None, (stage.networks(settings) for stage in STAGES)))
    return {"input": input_address, "output": output_address, "judged by": networks}
