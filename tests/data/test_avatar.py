"""Avatars: a clip is determined by its seed, its truth agrees with its pixels, and detectors for people detect it."""

import cv2
import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="avatars need the optional espeak-ng")

from latentsync.avatar.clip import HELD_OUT_FIRST_SEED, AvatarClip, random_clip
from latentsync.avatar.mouth import mouth_track, targets_of
from latentsync.avatar.sentences import is_held_out
from latentsync.avatar.speech import Phoneme
from latentsync.face.align import align_matrix, warp_face
from latentsync.metrics.lips.aperture import correlation, lip_aperture
from latentsync.timebase import samples_of_frames


def frames_of(clip: AvatarClip, count: int) -> list[np.ndarray]:
    return [frame for frame, _ in zip(clip.frames(), range(count), strict=False)]


def test_a_clip_is_determined_by_its_seed() -> None:
    first, second, other = random_clip(11), random_clip(11), random_clip(12)
    assert first.sentence == second.sentence and np.array_equal(first.waveform, second.waveform)
    assert all(np.array_equal(a, b) for a, b in zip(frames_of(first, 3), frames_of(second, 3), strict=True))
    assert first.truth() == second.truth()
    assert first.identity != other.identity


def test_held_out_sentences_never_occur_in_training() -> None:
    assert not any(is_held_out(random_clip(seed).sentence) for seed in range(5))
    assert all(is_held_out(random_clip(HELD_OUT_FIRST_SEED + seed).sentence) for seed in range(5))


def test_audio_and_video_have_the_same_duration() -> None:
    clip = random_clip(3)
    assert len(clip.waveform) == samples_of_frames(len(clip))
    assert abs(len(clip) / 25 - clip.speech.duration_sec) <= 0.02 + 1e-6


@pytest.mark.parametrize("symbol", ["p", "b", "m"])
def test_bilabials_close_the_lips_between_open_vowels(symbol: str) -> None:
    phonemes = [Phoneme("a", 0.0, 0.3), Phoneme(symbol, 0.3, 0.42), Phoneme("a", 0.42, 0.8)]
    track = mouth_track(phonemes, 20)
    assert track.aperture[8:10].min() < 0.05 < 0.5 < track.aperture[4] and track.aperture[14] > 0.5


def test_rounded_vowels_narrow_the_mouth_and_stress_marks_change_nothing() -> None:
    assert (
        mouth_track([Phoneme("u:", 0.0, 0.6)], 15).width[7]
        < -0.5
        < 0.5
        < mouth_track([Phoneme("i:", 0, 0.6)], 15).width[7]
    )
    assert targets_of("'aI") == targets_of("aI")


def test_mouth_openings_measured_in_pixels_agree_with_the_truth() -> None:
    scores = []
    for seed in range(200, 206):
        clip = random_clip(seed)
        truth = clip.truth()
        marks = truth["landmarks"]
        points = np.stack([np.array(marks[name]) for name in ("left_brow", "right_brow", "nose")], axis=1)
        faces = [warp_face(f, align_matrix(p, 128), 128) for f, p in zip(clip.frames(), points, strict=True)]
        scores.append(correlation(np.array([lip_aperture(f) for f in faces]), np.array(truth["aperture_px"])))
    assert np.mean(scores) >= 0.95 and min(scores) >= 0.88


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(cv2, "CascadeClassifier"), reason="OpenCV 5 has no cascades")
def test_cascades_for_people_detect_the_face_and_both_eyes() -> None:
    face = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    eye = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_eye.xml")
    found = []
    for seed in range(500, 520):
        frames = frames_of(random_clip(seed), 41)
        for frame in frames[::8]:
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            boxes = face.detectMultiScale(grey, 1.1, 3, minSize=(90, 90))
            if len(boxes):
                x, y, w, h = max(boxes, key=lambda box: box[2])
                found.append(len(eye.detectMultiScale(grey[y : y + int(0.6 * h), x : x + w], 1.05, 3)) >= 2)
            else:
                found.append(False)
    assert np.mean(found) >= 0.98
