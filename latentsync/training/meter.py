"""Means of what a run's steps say, between two rows of its log."""

import time

from torch import Tensor

from latentsync.training.processes import Processes


class Meter:
    """Means of the losses since the last row, over steps and processes, and the seconds a step took."""

    def __init__(self, processes: Processes, step: int):
        self.processes = processes
        self.reset(step)

    def reset(self, step: int) -> None:
        self.sums: dict[str, Tensor] = {}
        self.since, self.started = step, time.monotonic()

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss.detach().float()

    def means(self, step: int) -> dict[str, float]:
        """Means by name, and `seconds_per_step`; then it starts anew. All processes call it."""
        done = max(1, step - self.since)
        means = {name: float(value) / done for name, value in self.processes.mean(self.sums).items()}
        rate = (time.monotonic() - self.started) / done
        self.reset(step)
        return {**means, "seconds_per_step": rate}
