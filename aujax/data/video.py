"""The frames of a video file, with their times."""

from collections.abc import Collection, Iterator
from pathlib import Path

import cv2

from aujax.data.images import Pixels

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})
# The fraction of the frames in a file's header that may be missing: some headers are not exact.
_TOLERANCE = 0.1


def count(path: Path, *, every: int = 1) -> int:
    """Returns how many frames `frames` yields according to the file's header; 1 if that is not known."""
    capture = cv2.VideoCapture(str(path))
    try:
        return max(1, -(-round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // every))
    finally:
        capture.release()


def frames(path: Path, *, every: int = 1, skip: Collection[float | None] = ()) -> Iterator[tuple[float, Pixels]]:
    """Yields time and pixels of the first frame of a video and of every `every`-th after it, but for the times `skip`.

    Times are in seconds from the start.

    Raises:
      ValueError: the file is not a video, has a format that OpenCV does not read, or is damaged; after the last frame,
        there were fewer frames than the file's header promises.
    """
    capture = cv2.VideoCapture(str(path))
    try:
        rate = capture.get(cv2.CAP_PROP_FPS)  # 0 if the file cannot be opened
        number, second = 0, 0.0
        while capture.grab():
            second = max(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 0.0)
            if number and second == 0 and rate > 0:
                second = number / rate  # a format without time stamps
            if number % every == 0 and round(second, 3) not in skip:
                good, pixels = capture.retrieve()
                if not good:
                    raise ValueError(f"its frame {number} cannot be read: the file is damaged there")
                yield round(second, 3), cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            number += 1
        if not number:
            raise ValueError("no video, cut off, or in a format that cannot be read")
        check_complete(number, second, round(capture.get(cv2.CAP_PROP_FRAME_COUNT)), rate)
    finally:
        capture.release()


def check_complete(count: int, last: float, promised: int, rate: float) -> None:
    """Raises a ValueError if a video ends before its header says.

    Some headers hold the length instead of the number of frames, and OpenCV computes the number from the frame rate.
    With frames of different durations that number is too large, but the time of the last frame fits the length. So the
    video is complete if either the number or the length is.

    Args:
      count: the number of frames that could be read.
      last: the time of the last of them in seconds.
      promised: the number of frames in the header.
      rate: frames per second.
    """
    length = last * count / max(count - 1, 1)
    if count < (1 - _TOLERANCE) * promised and length < (1 - _TOLERANCE) * promised / max(rate, 1e-6):
        raise ValueError(f"seems cut off: the first {count} of {promised} frames could be read")
