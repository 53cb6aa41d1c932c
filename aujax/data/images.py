"""Encoded images, their pixels and their files. Pixels are RGB uint8, (height, width, 3), upright."""

import io
import warnings
from collections.abc import Set
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Any height and width: "_" does not tie the sizes of two images in one signature together.
Pixels = UInt8[np.ndarray, "_ _ 3"]

# The endings of image files.
SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".gif"})
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers of a JPEG file; the number of colour components follows them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def decode(data: bytes) -> Pixels:
    """Returns the pixels of an encoded image: rotated by its EXIF orientation, gray and CMYK as RGB, alpha dropped.

    Raises:
      ValueError: the data are empty, truncated, or in no format that OpenCV reads; the message says which.
    """
    if not data:
        raise ValueError("empty file (0 bytes)")
    # Some OpenCV versions fill the missing part of a truncated image with gray instead of failing.
    if data.startswith(_JPEG):
        # Most end with the marker of the end; the search is for those with more bytes after it.
        end = b"\xff\xd9"
        truncated = not data.endswith(end) and data.rfind(end) < data.rfind(b"\xff\xda")
    else:
        truncated = data.startswith(_PNG) and not _png_is_complete(data)
    if truncated:
        raise ValueError("cut off: the end of the file is missing")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise ValueError(f"not readable: {error.err}") from error
    if pixels is None:
        raise ValueError("no image, or in a format that cannot be read")
    return pixels


def decode_untrusted(data: bytes) -> Pixels:
    """Returns the pixels of an image from elsewhere, as `decode` does, unless decoding it may exhaust the memory.

    Raises:
      ValueError: also for an image of more than 179 megapixels, by its header (Pillow's limit for what it decodes).
    """
    with warnings.catch_warnings():
        # Pillow warns from half of the number of pixels that it refuses.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            Image.open(io.BytesIO(data)).close()  # reads the header only
        except Image.DecompressionBombError as error:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            raise ValueError(f"more than {limit:.0f} megapixels; make it smaller") from error
        except Exception:  # whatever Pillow makes of a damaged file: the decoder reports what is wrong with it
            pass
    return decode(data)


def encode(pixels: Pixels, *, lossless: bool = False) -> bytes:
    """Returns the pixels as a PNG if `lossless`, else as a JPEG of quality 95."""
    suffix, options = (".png", []) if lossless else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])
    _, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def is_plain(data: bytes, pixels: Pixels) -> bool:
    """Returns whether every decoder gives `pixels` for `data`: an 8-bit JPEG or PNG, gray or RGB, without rotation."""
    if not data.startswith((_JPEG, _PNG)):
        return False
    if data.startswith(_JPEG) and _jpeg_components(data) not in (1, 3):
        return False
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint8:
        return False
    if stored.ndim == 2:
        stored = cv2.cvtColor(stored, cv2.COLOR_GRAY2BGR)
    return stored.shape[2] == 3 and np.array_equal(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), pixels)


def is_lossless(data: bytes) -> bool:
    """Returns whether the first bytes are those of a format without lossy compression."""
    return data.startswith((_PNG, b"BM", b"II*\0", b"MM\0*", b"P5", b"P6", b"GIF8"))


def files_below(folder: Path, suffixes: Set[str] = SUFFIXES) -> list[Path]:
    """Returns the files with these endings anywhere below the folder, sorted, without hidden files."""
    files = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and not hidden:
            files.append(path)
    return files


def read_problem(error: OSError | ValueError) -> str:
    """Returns why an image cannot be read, from the error, without an error number."""
    return getattr(error, "strerror", None) or str(error)


def _png_is_complete(data: bytes) -> bool:
    """Returns whether the chunks of a PNG reach its last one, IEND; bytes that follow it are ignored by decoders."""
    at = len(_PNG)
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")  # length, kind, content, checksum
        if kind == b"IEND":
            return at <= len(data)
    return False


def _jpeg_components(data: bytes) -> int:
    """Returns the number of colour components in the header of a JPEG: 1 for gray, 3 for colour, 4 for CMYK."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAMES:
            return data[at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0
