"""The parts that all trainings share: loop, batches, state, checkpoints, log, distributed processes."""
