"""Train the demo's speech encoder: `python -m scripts.train_whisper --config_path configs/demo/whisper.yaml --out FILE.pt`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.command import add_fresh, run_command, yaml_file
from scripts.status import configure_logging, write_description

if TYPE_CHECKING:
    from whisper.model import AudioEncoder

    from latentsync.config import WhisperModelConfig

TEXT = {
    "n_vocab": 8,
    "n_text_ctx": 8,
    "n_text_state": 16,
    "n_text_head": 1,
    "n_text_layer": 1,
}  # the unused text decoder


def official_format(encoder: "AudioEncoder", model: "WhisperModelConfig") -> dict[str, object]:
    """The content of a file for `whisper.load_model`: dimensions and the state dict with an untrained decoder."""
    from whisper.model import ModelDimensions, Whisper

    dims = {**vars(model), **TEXT}
    whole = Whisper(ModelDimensions(**dims))
    whole.encoder.load_state_dict(encoder.state_dict())
    return {"dims": dims, "model_state_dict": whole.state_dict()}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config_path", type=yaml_file, required=True, help="see configs/demo/whisper.yaml")
    parser.add_argument("--out", type=Path, required=True, help="file for the trained encoder (.pt)")
    add_fresh(parser)
    parser.add_argument("overrides", nargs="*", help="override configuration entries, such as train.max_steps=10")
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> None:
    import torch
    from whisper.model import AudioEncoder

    from latentsync.config import WhisperRun, load
    from latentsync.training.demo.whisper import SpeechEncoderWithHeads, SpeechItems, WhisperObjective
    from latentsync.training.engine.loop import Trainer
    from latentsync.training.engine.run_folder import RunFolder
    from latentsync.weights import save_state

    run = load(args.config_path, WhisperRun, args.overrides)
    torch.manual_seed(run.train.seed)
    dims = run.model
    encoder = AudioEncoder(dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer)
    model = SpeechEncoderWithHeads(encoder)
    objective, data = WhisperObjective(model), run.data
    items = SpeechItems(dims.n_audio_ctx, run.train.seed)
    folder = RunFolder(data.train_output_dir, run, fresh=args.fresh)
    trainer = Trainer(objective, items, data.batch_size, run.train, folder, num_workers=data.num_workers)
    trainer.train()
    objective.load_state_dict(trainer.averaged_state())
    save_state(args.out, official_format(encoder.cpu(), dims))
    losses = json.loads((Path(data.train_output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    metadata = {
        "kind": "whisper",
        "model": vars(dims),
        "step": trainer.step,
        "seed": run.train.seed,
        "last_losses": losses,
    }
    write_description(args.out, metadata)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    configure_logging()
    return run_command(
        "train_whisper", lambda: train(args), if_stopped="the same command resumes from the last checkpoint"
    )


if __name__ == "__main__":
    sys.exit(main())
