"""CutMix on batches whose images are their own row number, so that every pixel shows its source."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from aujax import augment
from aujax.augment import Views
from aujax.data.batch import DATA_AXIS, data_mesh

pytestmark = pytest.mark.jax_versions

HEIGHT, WIDTH, CLASSES = 8, 12, 7
LAST = np.arange(16) < 13  # the way a batch is filled up


def _views(count, has_map=None):
    """Returns views whose image is their place in the batch, and the map ten times that."""
    numbers = np.arange(count, dtype=np.float32)
    image = np.broadcast_to(numbers[:, None, None, None], (count, HEIGHT, WIDTH, 3))
    has_map = np.ones(count, bool) if has_map is None else np.array(has_map)
    return Views(
        jnp.array(image),
        jnp.array(10 * image[..., 0]),
        jnp.array(has_map),
        jnp.eye(CLASSES)[np.arange(count) % CLASSES],
    )


@functools.partial(jax.jit, static_argnames="count")
def _mixed(keys, valid, count):
    return jax.vmap(lambda key: augment.cutmix(key, _views(count), valid=valid))(keys)


def _keys(count):
    return jax.random.split(jax.random.key(0), count)


def _read(mixed):
    """Returns the box and each view's partner, from the pixels of a mixed batch; NaN where nothing was pasted."""
    own = np.arange(len(mixed.image))
    pasted = np.asarray(mixed.image[..., 0]) != own[:, None, None]
    box = pasted.any(0)
    partner = np.array([image[box][0] if box.any() else np.nan for image in np.asarray(mixed.image[..., 0])])
    return box, partner


def _each(mixed):
    return (Views(*(part[draw] for part in mixed)) for draw in range(len(mixed.image)))


def _published_box(kept, centre, size):
    """The published code's box, pixel ranges rather than distances."""
    ranges = []
    for n, at in zip(size, centre, strict=True):
        cut = int(n * np.sqrt(1.0 - kept))
        ranges.append(slice(np.clip(at - cut // 2, 0, n), np.clip(at + cut // 2, 0, n)))
    box = np.zeros(size, bool)
    box[tuple(ranges)] = True
    return box


@pytest.mark.parametrize("size", [(8, 12), (7, 5), (1, 1)])
def test_box_is_the_published_one(size):
    rng = np.random.default_rng(0)
    kept = np.concatenate([[0.0, 0.999], rng.random(60)]).astype(np.float32)
    centres = rng.integers(0, size, (len(kept), 2))
    boxes = jax.jit(jax.vmap(functools.partial(augment.cut_box, size=size)))(kept, centres)
    for got, share, centre in zip(boxes, kept, centres, strict=True):
        np.testing.assert_array_equal(got, _published_box(share, centre, size), err_msg=f"{share} at {centre}")


def test_box_can_be_the_whole_image_and_empty():
    assert augment.cut_box(0.0, np.array([4, 6]), (HEIGHT, WIDTH)).all()
    assert not augment.cut_box(0.999, np.array([4, 6]), (HEIGHT, WIDTH)).any()


def test_image_map_and_target_come_from_the_same_partner_and_box():
    own = np.arange(16)
    for mixed in _each(_mixed(_keys(20), np.ones(16, bool), 16)):
        box, partner = _read(mixed)
        if box.any():
            assert sorted(partner) == own.tolist()
            expected = np.where(box, partner[:, None, None], own[:, None, None])
            np.testing.assert_array_equal(mixed.image, np.stack([expected] * 3, axis=-1))
            np.testing.assert_array_equal(mixed.au_map, 10 * expected)
            labels, share = np.eye(CLASSES), box.mean()
            target = (1 - share) * labels[own % CLASSES] + share * labels[partner.astype(int) % CLASSES]
            np.testing.assert_allclose(mixed.target, target, atol=1e-6)


def test_box_is_random_per_batch_in_size_and_position():
    boxes = np.stack([_read(mixed)[0] for mixed in _each(_mixed(_keys(300), np.ones(8, bool), 8))])
    assert boxes.any(0).all()
    shares = boxes.mean((1, 2))
    assert shares.min() == 0
    assert shares.max() > 0.6
    # Both by simulation of the published box with a million draws of share and centre.
    assert shares.mean() == pytest.approx(0.245, abs=0.03)
    assert shares.std() == pytest.approx(0.162, abs=0.03)


def test_all_permutations_of_the_valid_views_are_equally_likely():
    valid = np.array([False, True, False, True, True, False])
    found = [tuple(_read(mixed)[1][valid]) for mixed in _each(_mixed(_keys(600), valid, 6))]
    orders, counts = np.unique([each for each in found if not np.isnan(each).any()], axis=0, return_counts=True)
    # The identity pastes a view into itself, which pixels do not tell from nothing.
    assert {tuple(order) for order in orders} == set(itertools.permutations([1.0, 3.0, 4.0]))
    assert counts.min() / counts.sum() == pytest.approx(1 / 6, abs=0.06)
    assert counts.max() / counts.sum() == pytest.approx(1 / 6, abs=0.06)


def test_padding_never_enters_a_valid_view():
    patterns = np.array(list(itertools.product([False, True], repeat=6)))

    @jax.jit
    def mixed(keys, patterns):
        def one(key, valid):
            views = _views(6)
            poison = lambda part: jnp.where(valid.reshape(-1, *[1] * (part.ndim - 1)), part, jnp.nan)  # noqa: E731
            poisoned = Views(poison(views.image), poison(views.au_map), valid, poison(views.target))
            return augment.cutmix(key, poisoned, valid=valid)

        return jax.vmap(one)(keys, patterns)

    for key in _keys(3):
        views = mixed(jax.random.split(key, len(patterns)), patterns)
        for part in (views.image, views.au_map, views.target):
            assert np.isfinite(np.asarray(part)[patterns]).all()
        np.testing.assert_array_equal(views.has_map, patterns)


@pytest.mark.parametrize(
    ("columns", "needs"), [(0, lambda own, other: own), (5, np.logical_and), (WIDTH, lambda own, other: other)]
)
def test_mixed_map_counts_if_every_view_in_it_has_one(columns, needs, monkeypatch):
    box = jnp.broadcast_to(jnp.arange(WIDTH) < columns, (HEIGHT, WIDTH))
    monkeypatch.setattr(augment, "cut_box", lambda *_: box)
    has_map = np.random.default_rng(0).random(16) < 0.5
    for key in _keys(5):
        mixed = augment.cutmix(key, _views(16, has_map), valid=np.ones(16, bool))
        # Partners do not depend on which views have a map, so those of a box in the corner are the same.
        monkeypatch.setattr(augment, "cut_box", lambda *_: jnp.zeros((HEIGHT, WIDTH), bool).at[0, 0].set(True))
        partner = _read(augment.cutmix(key, _views(16), valid=np.ones(16, bool)))[1].astype(int)
        monkeypatch.setattr(augment, "cut_box", lambda *_: box)
        np.testing.assert_array_equal(mixed.has_map, needs(has_map, has_map[partner]))


@pytest.mark.parametrize("devices", [1, 4, 8])
@pytest.mark.parametrize("valid", [np.ones(16, bool), LAST], ids=["full", "filled up"])
def test_batch_sharded_over_devices_is_mixed_as_a_whole(devices, valid):
    views = _views(16, np.arange(16) % 3 > 0)
    divided, everywhere = PartitionSpec(DATA_AXIS), PartitionSpec()
    mix = jax.jit(
        jax.shard_map(
            lambda key, views, valid: augment.cutmix(key, views, valid=valid, axis_name=DATA_AXIS),
            mesh=data_mesh(jax.devices()[:devices]),
            in_specs=(everywhere, divided, divided),
            out_specs=divided,
        )
    )
    for key in _keys(3):
        whole = jax.jit(augment.cutmix)(key, views, valid=valid)
        for got, expected in zip(mix(key, views, valid), whole, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_same_key_gives_the_same_mix_and_another_key_another():
    first, again = (_mixed(_keys(2), np.ones(16, bool), 16) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image[0] != first.image[1]).any()
