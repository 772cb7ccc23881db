"""Why a video has no score: counted beside the scores, never left out."""

from latentsync.media.container import MediaError

NO_FACE, NO_AUDIO, TOO_SHORT = "no face", "no audio", "too short"
DIFFERENT_LENGTHS, DIFFERENT_SIZES = "different lengths", "different sizes"
NO_TRUTH, UNREADABLE, NO_OUTPUT, OTHER = "no truth", "unreadable", "no output", "other"


class UnscorableError(ValueError):
    """A video cannot be scored: `reason` is a few words that are counted, the message says more about this video."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def reason_of(error: ValueError | OSError) -> str:
    """The words under which an error is counted."""
    if isinstance(error, UnscorableError):
        return error.reason
    if isinstance(error, MediaError):
        return NO_AUDIO if "no audio" in str(error) else UNREADABLE
    return UNREADABLE if isinstance(error, OSError) else OTHER
