import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from small_folders import blocks

from aujax.data import images


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def with_orientation(data: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF block that holds nothing but the orientation (tag 0x112)."""
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, orientation, 0)
    block = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def with_alpha_png(pixels: np.ndarray, alpha: int) -> bytes:
    """An RGBA PNG written by hand, chunk by chunk."""
    height, width = pixels.shape[:2]
    rgba = np.dstack([pixels, np.full((height, width), alpha, np.uint8)])
    rows = b"".join(b"\0" + row.tobytes() for row in rgba)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_lossless_image_decodes_to_its_rgb_pixels():
    np.testing.assert_array_equal(images.decode(images.encode(blocks(1), lossless=True)), blocks(1))


def test_photograph_turned_by_exif_decodes_upright():
    pixels = blocks(1)
    turned = images.decode(with_orientation(jpeg(pixels), 6))  # 6: the camera was turned, show it 90 degrees clockwise
    np.testing.assert_array_equal(turned, np.rot90(images.decode(jpeg(pixels)), -1))


def test_photograph_turned_by_exif_is_not_plain():
    data = with_orientation(jpeg(blocks(1)), 3)
    assert not images.is_plain(data, images.decode(data))


def test_gray_image_decodes_to_three_equal_channels():
    gray = blocks(1)[..., 0]
    decoded = images.decode(png(gray))
    np.testing.assert_array_equal(decoded, np.dstack([gray] * 3))
    assert images.is_plain(png(gray), decoded)


def test_alpha_is_dropped_and_the_image_is_not_plain():
    data = with_alpha_png(blocks(1), alpha=0)
    decoded = images.decode(data)
    np.testing.assert_array_equal(decoded, blocks(1))
    assert not images.is_plain(data, decoded)


def test_sixteen_bit_image_becomes_eight_bit_and_is_not_plain():
    data = png(blocks(1)[..., ::-1].astype(np.uint16) * 257)
    decoded = images.decode(data)
    np.testing.assert_allclose(decoded.astype(int), blocks(1), atol=1)
    assert decoded.dtype == np.uint8
    assert not images.is_plain(data, decoded)


def test_cmyk_photograph_has_its_colors_and_is_not_plain():
    file = io.BytesIO()
    Image.new("CMYK", (32, 24), (0, 255, 255, 0)).save(file, "JPEG", quality=95)  # no cyan: red
    pixels = images.decode(file.getvalue())
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to([255, 0, 0], (24, 32, 3)), atol=3)
    assert not images.is_plain(file.getvalue(), pixels)


@pytest.mark.parametrize("encoded", [jpeg(blocks(1)), png(blocks(1)[..., ::-1])])
def test_plain_files_are_recognised(encoded):
    assert images.is_plain(encoded, images.decode(encoded))


def test_webp_is_readable_but_not_plain():
    data = cv2.imencode(".webp", blocks(1)[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert not images.is_plain(data, images.decode(data))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (jpeg(blocks(1))[:-40], "cut off"),
        (png(blocks(1))[:-40], "cut off"),
        (b"this is no image at all", "no image"),
    ],
)
def test_unreadable_file_says_why(data, why):
    with pytest.raises(ValueError, match=why):
        images.decode(data)


def test_bytes_after_the_end_of_a_png_are_ignored():
    data = png(blocks(1)[..., ::-1])
    np.testing.assert_array_equal(images.decode(data + bytes(5000)), blocks(1))


def test_a_png_that_ends_within_a_chunk_is_cut_off_even_if_the_name_of_the_last_one_is_in_it():
    data = png(blocks(1))
    with pytest.raises(ValueError, match="cut off"):
        images.decode(data[:60] + b"IEND")
