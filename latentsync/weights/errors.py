"""What goes wrong with checkpoints, as one kind of error for users."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, the reason and the way out."""


class UnreachableError(CheckpointError):
    """A server cannot be reached or the connection was lost; the same call goes on where it stopped."""
