"""The frames of a video file, with the time at which each is shown."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2

from aujax.data.images import Pixels

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})


# Some files hold no count of their frames, only what follows from their length and speed: it is not exact.
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
        number = -1
        for number in itertools.count():
            if not capture.grab():
                break
            if number % every == 0:
                yield _frame(capture, number, rate)
        if number <= 0:
            raise ValueError("no video, cut off, or in a format that cannot be read")
        promised = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if number < (1 - _MISSING) * promised:
            raise ValueError(f"seems cut off: the first {number} of {promised} frames could be read")
    finally:
        capture.release()


def _frame(capture: cv2.VideoCapture, number: int, rate: float) -> Frame:
    """Returns the frame that was grabbed last; where the file has no time stamps they follow from its frame rate."""
    second = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    if number and second <= 0 < rate:
        second = number / rate
    good, pixels = capture.retrieve()
    if not good:
        raise ValueError(f"its frame {number} cannot be read: the file is damaged there")
    return Frame(round(max(second, 0.0), 3), cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
