"""Feeding: the order is a function of seed and epoch, and no face is lost or counted twice."""

import cv2
import numpy as np
import pytest

from aujax.data import feed
from aujax.data.store import open_faces
from aujax.errors import UserError

pytestmark = pytest.mark.jax_versions

OPTIONS = {"size": 48, "threads": 2}


@pytest.fixture(scope="module")
def source(tiny_data):
    return open_faces(tiny_data).source("train")


def indices(source, order, **options):
    return [batch.index[batch.valid].tolist() for batch in feed.batches(source, order, **OPTIONS, **options)]


def test_order_depends_on_seed_and_epoch_alone():
    assert feed.epoch_order(3, 5, 100).tolist() == feed.epoch_order(3, 5, 100).tolist()


@pytest.mark.parametrize("other", [(4, 5), (3, 6)])
def test_another_seed_or_epoch_gives_another_order(other):
    assert feed.epoch_order(3, 5, 100).tolist() != feed.epoch_order(*other, 100).tolist()


def test_an_epoch_visits_every_face_once():
    assert sorted(feed.epoch_order(0, 0, 57)) == list(range(57))


def test_batches_follow_the_order(source):
    order = feed.epoch_order(0, 1, len(source))
    assert [row for batch in indices(source, order, batch_size=8) for row in batch] == order.tolist()


def test_the_last_batch_is_filled_up_and_masked(source):
    *_, last = feed.batches(source, np.arange(len(source)), batch_size=9, **OPTIONS)
    assert last.image.shape[0] == 9
    assert last.valid.tolist() == [True] * 6 + [False] * 3


def test_the_faces_that_fill_up_are_real_ones(source):
    *_, last = feed.batches(source, np.arange(len(source)), batch_size=9, **OPTIONS)
    assert last.index[6:].tolist() == [0, 1, 2]


def test_processes_share_each_batch(source, monkeypatch):
    order = feed.epoch_order(0, 0, len(source))
    whole = indices(source, order, batch_size=8)
    parts = []
    for process in range(2):
        monkeypatch.setattr(feed.jax, "process_count", lambda: 2)
        monkeypatch.setattr(feed.jax, "process_index", lambda process=process: process)
        parts.append(indices(source, order, batch_size=8))
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def record(pixels, **changed):
    _, encoded = cv2.imencode(".png", pixels)
    face = {"image": encoded.tobytes(), "landmarks": np.zeros((68, 2), np.float32), "has_landmarks": True}
    return face | {"expression": 2, "id": "a.png", "subject_id": "", "aus": np.array([], np.int32)} | changed


def test_images_are_decoded_as_rgb():
    blue_in_opencv = np.zeros((8, 8, 3), np.uint8)
    blue_in_opencv[..., 0] = 255
    assert feed.decoded(record(blue_in_opencv), 0, 8).image[0, 0].tolist() == [0, 0, 255]


def test_reduction_uses_an_antialiased_triangle_filter():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
    # By hand for half the size: weights 1 3 3 1 over 8, those that fall outside left out.
    weights = np.zeros((8, 16))
    for row in range(8):
        for tap, weight in zip(range(2 * row - 1, 2 * row + 3), (1, 3, 3, 1), strict=True):
            if 0 <= tap < 16:
                weights[row, tap] = weight
    weights /= weights.sum(axis=1, keepdims=True)
    expected = np.einsum("ry,cx,yxk->rck", weights, weights, pixels[..., ::-1])
    np.testing.assert_allclose(feed.decoded(record(pixels), 0, 8).image, expected, atol=1)


def test_landmarks_are_scaled_with_the_image():
    # A dot two pixels wide in the middle of a 20 x 10 picture; centres of pixels are at whole numbers.
    landmarks = np.full((68, 2), (9.5, 4.5), np.float32)
    face = feed.decoded(record(np.zeros((10, 20, 3), np.uint8), landmarks=landmarks), 0, 40)
    np.testing.assert_allclose(face.landmarks[0], [19.5, 19.5])


def test_faces_without_landmarks_have_zeros():
    face = feed.decoded(record(np.zeros((10, 20, 3), np.uint8), has_landmarks=False), 0, 40)
    assert not face.landmarks.any()
    assert not face.has_landmarks


def test_error_names_a_damaged_image():
    with pytest.raises(UserError, match=r"face 'a\.png' of the prepared data set cannot be decoded"):
        feed.decoded(record(np.zeros((8, 8, 3), np.uint8), image=b"\xff\xd8 no picture"), 0, 8)
