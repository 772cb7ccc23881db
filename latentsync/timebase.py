"""Every rate of the project and every conversion between them.

Video has the model's 25 frames a second, audio 16 kHz. Whisper's spectrogram has 100 frames a second and its encoder
returns 50 feature rows a second; the SyncNet's mel spectrogram has 80 frames a second (hop 200 at 16 kHz).
"""

from fractions import Fraction

MODEL_FPS = 25
SAMPLE_RATE_HZ = 16_000

WHISPER_HOP = 160
WHISPER_MEL_HZ = SAMPLE_RATE_HZ // WHISPER_HOP  # 100 mel frames a second
WHISPER_ROW_HZ = WHISPER_MEL_HZ // 2  # 50 feature rows a second: the encoder's second convolution has stride 2

SYNC_MEL_HOP = 200
SYNC_MEL_HZ = SAMPLE_RATE_HZ // SYNC_MEL_HOP  # 80 mel frames a second


def frames_in(duration_sec: float | Fraction, fps: float | Fraction = MODEL_FPS) -> int:
    """Number of video frames in `duration_sec` at `fps`, rounded to the nearest frame (half up), never negative."""
    return max(0, int(Fraction(duration_sec) * Fraction(fps) + Fraction(1, 2)))


def samples_of_frames(frames: int, sample_rate_hz: int = SAMPLE_RATE_HZ, fps: float | Fraction = MODEL_FPS) -> int:
    """Number of audio samples in the duration of `frames` video frames, rounded to the nearest sample."""
    return int(Fraction(frames) * sample_rate_hz / Fraction(fps) + Fraction(1, 2))


def whisper_centre_row(frame: int, fps: float = MODEL_FPS) -> int:
    """Index of the Whisper feature row at the start of video frame `frame` (rounded down, as the checkpoints were trained)."""
    return int(frame * WHISPER_ROW_HZ / fps)


def sync_mel_start(frame: int, fps: float = MODEL_FPS) -> int:
    """Index of the SyncNet mel frame at the start of video frame `frame` (rounded down)."""
    return int(SYNC_MEL_HZ * (frame / float(fps)))


def sync_mel_length(frames: int, fps: int = MODEL_FPS) -> int:
    """Number of SyncNet mel frames in a window of `frames` video frames, rounded up: 52 for 16, 80 for 25 at 25 fps."""
    return -(-frames * SYNC_MEL_HZ // fps)


def stride_of(fps: float) -> int:
    """Distance between the frames of a window, in frames of a video of `fps`: 25 frames of a window last about one second."""
    return max(1, round(fps / MODEL_FPS))
