"""The frames of a video file, with the time at which each is shown."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2

from aujax.data.images import Pixels

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})


# The length in the head of a file need not be exact.
_MISSING = 0.1


class Frame(NamedTuple):
    """One picture of a video, and the seconds from its start."""

    second: float
    pixels: Pixels


def frames(path: Path, *, every: int = 1) -> Iterator[Frame]:
    """Yields the first frame of the video and every `every`-th after it.

    Raises:
      ValueError: no video, in a format that OpenCV does not read, or one without frames; after the last frame, fewer
        than the file says that it has.
    """
    capture = cv2.VideoCapture(str(path))
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) if capture.isOpened() else 0.0
        number, second = -1, 0.0
        for number in itertools.count():
            if not capture.grab():
                break
            second = _second(capture, number, rate)
            if number % every == 0:
                yield Frame(round(second, 3), _pixels(capture, number))
        if number <= 0:
            raise ValueError("no video, cut off, or in a format that cannot be read")
        _check_complete(number, second, round(capture.get(cv2.CAP_PROP_FRAME_COUNT)), rate)
    finally:
        capture.release()


def _second(capture: cv2.VideoCapture, number: int, rate: float) -> float:
    """Returns when the frame that was grabbed last is shown; without a time stamp it follows from the frame rate."""
    second = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    return number / rate if number and second <= 0 < rate else max(second, 0.0)


def _pixels(capture: cv2.VideoCapture, number: int) -> Pixels:
    good, pixels = capture.retrieve()
    if not good:
        raise ValueError(f"its frame {number} cannot be read: the file is damaged there")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _check_complete(count: int, last: float, promised: int, rate: float) -> None:
    """Raises a ValueError if the frames end before the file says that they do.

    Some files hold no count of their frames, but a length, of which OpenCV makes one with the frame rate; with frames
    of different lengths that is too many, but the last one is shown until the end.
    """
    length = last * count / max(count - 1, 1)
    if count < (1 - _MISSING) * promised and length < (1 - _MISSING) * promised / max(rate, 1e-6):
        raise ValueError(f"seems cut off: the first {count} of {promised} frames could be read")
