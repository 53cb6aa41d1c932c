"""Encoded images and pixels. Pixels are RGB uint8, (height, width, 3), upright."""

import cv2
import numpy as np
from jaxtyping import UInt8

# Any height and width: "_" does not tie the sizes of two images in one signature together.
Pixels = UInt8[np.ndarray, "_ _ 3"]

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers of a JPEG file; what follows tells the number of colour components.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode(data: bytes) -> Pixels:
    """Pixels of an encoded image: turned by its EXIF orientation, gray and CMYK made RGB, alpha dropped.

    Raises:
      ValueError: empty, cut off, or in no format that OpenCV reads; the text says which.
    """
    if not data:
        raise ValueError("empty file (0 bytes)")
    if _is_cut_off(data):
        raise ValueError("cut off: the end of the file is missing")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"not readable: {error.err}") from error
    if pixels is None:
        raise ValueError("no image, or in a format that cannot be read")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def encode(pixels: Pixels, *, lossless: bool = False) -> bytes:
    """The pixels as PNG where `lossless`, else as JPEG of quality 95."""
    suffix, options = (".png", []) if lossless else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])
    _, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def is_plain(data: bytes, pixels: Pixels) -> bool:
    """Whether any decoder gives `pixels` for `data`: an 8-bit JPEG or PNG, gray or RGB, with no turn to apply."""
    if not data.startswith((_JPEG, _PNG)):
        return False
    if data.startswith(_JPEG) and _jpeg_components(data) not in (1, 3):
        return False
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint8 or stored.ndim not in (2, 3):
        return False
    code = {2: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB}[stored.ndim]
    return (stored.ndim == 2 or stored.shape[2] == 3) and np.array_equal(cv2.cvtColor(stored, code), pixels)


def is_lossless(data: bytes) -> bool:
    """Whether the file is in a format without compression loss, as far as its first bytes tell."""
    return data.startswith((_PNG, b"BM", b"II*\0", b"MM\0*", b"P5", b"P6", b"GIF8"))


def _is_cut_off(data: bytes) -> bool:
    # Some OpenCV versions fill the missing part with gray instead of failing.
    if data.startswith(_JPEG):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(_PNG) and b"IEND" not in data[-64:]


def _jpeg_components(data: bytes) -> int:
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAMES:
            return data[at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0
