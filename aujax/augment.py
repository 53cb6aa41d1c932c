"""Random augmentation of a face image together with its AU map, and CutMix.

Functions take a key, one image (height, width, 3), float32 in [0, 1] unless they say otherwise, and one AU map (height,
width); vmap makes the batch. The recipe is that of the released training code, with rotation, crop and flip done by one
warp, so that the image is interpolated only once, bilinearly, and the AU map at the nearest pixel. Augmentations that
mix the faces of a batch come after that, and take and return `Views`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, Shaped, UInt8

# Mean and standard deviation of red, green and blue in [0, 1], by the data set on which a network was pretrained.
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Only the means are removed, in [0, 255].
    "vggface2": ((131.0912 / 255, 103.8827 / 255, 91.4953 / 255), (1 / 255, 1 / 255, 1 / 255)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601

RandomKey = Key[Array, ""]
Image = Float[Array, "height width 3"]
AUMap = Float[Array, "height width"]


class Views(NamedTuple):
    """The augmented views of a batch, in [0, 1]; `target` is a probability distribution over the expressions."""

    image: Float[Array, "batch height width 3"]
    au_map: Float[Array, "batch height width"]
    has_map: Bool[Array, " batch"]
    target: Float[Array, "batch classes"]


# (key, views, *, valid, axis_name) -> views: how a method mixes the views of a batch, such as `cutmix`.
Mix = Callable[..., Views]


@dataclasses.dataclass(frozen=True)
class Policy:
    """Strength and rate (probability per image) of each augmentation; all zero leaves the stored image unchanged."""

    rotation: float = 6.0  # largest angle in degrees, in both directions
    rotation_rate: float = 0.5
    crop: float = 0.2  # largest fraction of the area that a random crop removes
    flip_rate: float = 0.5
    gray_rate: float = 0.2
    jitter_rate: float = 0.8
    brightness: float = 0.4  # factors are uniform in [1 - value, 1 + value]
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # largest rotation of the colour circle, in turns, in both directions
    erase_rate: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.33)  # least and largest fraction of the image


def normalize(
    image: Float[Array, "*batch height width 3"], statistics: str = "imagenet"
) -> Float[Array, "*batch height width 3"]:
    """Returns the [0, 1] image standardized per channel by a row of `NORMALIZATIONS`.

    >>> print(np.asarray(normalize(jnp.full((1, 1, 3), 0.5))).round(3))
    [[[0.066 0.196 0.418]]]
    """
    shape = (1,) * (image.ndim - 1) + (3,)
    mean, deviation = (np.array(row, np.float32).reshape(shape) for row in NORMALIZATIONS[statistics])
    return (image - mean) / deviation


def training_view(
    key: RandomKey,
    color_order: Int[Array, "4"],
    image: UInt8[Array, "height width 3"],
    au_map: AUMap,
    *,
    size: int,
    policy: Policy,
) -> tuple[Float[Array, "size size 3"], Float[Array, "size size"]]:
    """Returns a random square view of the stored image, in [0, 1] before normalization, and of its AU map.

    `color_order` is the order of the four colour jitters, a permutation of 0..3. Under `vmap` with an order for each
    image, all four changes are computed and one is selected, without a branch.
    """
    warp_key, gray_key, jitter_key, erase_key = jax.random.split(key, 4)
    image, au_map = warp(image, au_map, random_coordinates(warp_key, image.shape[:2], size=size, policy=policy))
    image = image / 255.0
    image = _sometimes(gray_key, policy.gray_rate, grayscale, image)
    image = random_colors(jitter_key, color_order, image, policy=policy)
    return random_erasing(erase_key, image, policy=policy), au_map


def random_coordinates(
    key: RandomKey, source: tuple[int, ...], *, size: int, policy: Policy
) -> Float[Array, "2 size size"]:
    """Returns the (y, x) source position of every pixel of a random crop of the image, flipped and rotated at random.

    Positions are in pixels of the source, an image of `source` (height, width); integers are pixel centres.
    """
    keys = jax.random.split(key, 6)
    height, width = source
    side = jnp.sqrt(1.0 - policy.crop * jax.random.uniform(keys[0]))  # of the crop, as a fraction of the source's

    # The crop is at a uniformly random place and is divided into `size` equal parts; pixels of the view are at their
    # centres.
    def positions(key: Array, n: int) -> Array:
        return jax.random.uniform(key) * (1 - side) * n + _pixel_centres(size) * (side * n / size) - 0.5

    y, x = positions(keys[1], height), positions(keys[2], width)
    x = _sometimes(keys[3], policy.flip_rate, jnp.flip, x)
    angle = jnp.deg2rad(policy.rotation) * jax.random.uniform(keys[4], minval=-1.0)
    angle = _sometimes(keys[5], policy.rotation_rate, lambda _: angle, jnp.zeros_like(angle))
    # Rotated about the middle of the source, as its pixels would be, and not about the middle of the crop.
    cy, cx = (height - 1) / 2, (width - 1) / 2
    dy, dx = (y - cy)[:, None], (x - cx)[None, :]
    return jnp.stack([cy + jnp.sin(angle) * dx + jnp.cos(angle) * dy, cx + jnp.cos(angle) * dx - jnp.sin(angle) * dy])


def warp(
    image: Shaped[Array, "height width 3"], au_map: AUMap, coordinates: Float[Array, "2 rows columns"]
) -> tuple[Float[Array, "rows columns 3"], Float[Array, "rows columns"]]:
    """Returns the image (bilinear) and the AU map (nearest) sampled at the (y, x) coordinates, zero outside.

    The image is of any type and range. Stored images, of bytes, are converted after sampling: fewer bytes are read.
    """
    y, x = coordinates
    # The four pixels around a position, weighted by how near it is to each.
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    upper = _sample(image, top, left) * (1 - right) + _sample(image, top, left + 1) * right
    lower = _sample(image, top + 1, left) * (1 - right) + _sample(image, top + 1, left + 1) * right
    return upper * (1 - down) + lower * down, _sample(au_map, jnp.floor(y + 0.5), jnp.floor(x + 0.5))


def _sample(image: Array, y: Array, x: Array) -> Array:
    """Returns the pixels at whole-numbered positions as float32, 0 outside the image."""
    inside = (y >= 0) & (y < image.shape[0]) & (x >= 0) & (x < image.shape[1])
    pixels = image.at[y.astype(jnp.int32), x.astype(jnp.int32)].get(mode="clip")
    return jnp.where(inside.reshape(inside.shape + (1,) * (image.ndim - 2)), pixels.astype(jnp.float32), 0.0)


def grayscale(image: Image) -> Image:
    """Returns the luma of the image in all three channels.

    >>> print(np.asarray(grayscale(jnp.array([[[1.0, 0.0, 0.0]]]))).round(3))
    [[[0.299 0.299 0.299]]]
    """
    return jnp.broadcast_to(_luma(image)[..., None], image.shape)


def _luma(image: Image) -> Float[Array, "height width"]:
    red, green, blue = (weight * image[..., channel] for channel, weight in enumerate(_LUMA.tolist()))
    return red + green + blue


def random_colors(key: RandomKey, order: Int[Array, "4"], image: Image, *, policy: Policy) -> Image:
    """Returns the image with random brightness, contrast, saturation and hue, applied in the given order."""
    apply_key, key = jax.random.split(key)
    # The first three are factors around 1, the hue is a rotation around 0.
    spread = jnp.array([policy.brightness, policy.contrast, policy.saturation, policy.hue])
    strength = jnp.array([1.0, 1.0, 1.0, 0.0]) + spread * jax.random.uniform(key, (4,), minval=-1.0)

    def change(jittered: Image, which: Array) -> tuple[Image, None]:
        return jax.lax.switch(which, _COLORS, jittered, strength[which]), None

    return _sometimes(apply_key, policy.jitter_rate, lambda image: jax.lax.scan(change, image, order)[0], image)


def _blend(image: Image, other: Array, weight: Array) -> Image:
    return jnp.clip(weight * image + (1 - weight) * other, 0.0, 1.0)


def _brightness(image: Image, factor: Array) -> Image:
    return _blend(image, jnp.zeros_like(image), factor)


def _contrast(image: Image, factor: Array) -> Image:
    mean_luma = _luma(image.mean(0, keepdims=True)).mean()  # rows first: a tenth of the time on a CPU
    return _blend(image, jnp.full_like(image, mean_luma), factor)


def _saturation(image: Image, factor: Array) -> Image:
    return _blend(image, grayscale(image), factor)


def _hue(image: Image, turn: Array) -> Image:
    """Returns the image with its HSV hue rotated by `turn` turns; value and saturation are unchanged."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, low = image.max(-1), image.min(-1)
    chroma = value - low
    scale = jnp.where(chroma > 0, chroma, 1.0)
    # RGB to HSV: the hue in sixths of the circle, 0 red, 2 green, 4 blue.
    sector = jnp.where(
        value == red,
        (green - blue) / scale,
        jnp.where(value == green, 2.0 + (blue - red) / scale, 4.0 + (red - green) / scale),
    )
    # HSV to RGB: each channel is `value` less a trapezoidal ramp over the circle of six sectors, times the chroma.
    position = jnp.array([5.0, 3.0, 1.0]).reshape(1, 1, 3) + (sector + 6.0 * turn)[..., None]
    position -= 6.0 * jnp.floor(position / 6.0)  # `jnp.mod` takes ten times as long on a CPU
    ramp = jnp.clip(jnp.minimum(position, 4.0 - position), 0.0, 1.0)
    return value[..., None] - chroma[..., None] * ramp


_COLORS = (_brightness, _contrast, _saturation, _hue)


def random_erasing(key: RandomKey, image: Image, *, policy: Policy) -> Image:
    """Returns the image; with probability `erase_rate`, a box of aspect ratio 0.3 to 3.3 holds Gaussian noise."""
    rate_key, area_key, aspect_key, y_key, x_key, noise_key = jax.random.split(key, 6)
    height, width = image.shape[:2]
    area = height * width * jax.random.uniform(area_key, minval=policy.erase_area[0], maxval=policy.erase_area[1])
    aspect = jnp.exp(jax.random.uniform(aspect_key, minval=np.log(0.3), maxval=np.log(3.3)))
    box_height, box_width = jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)
    top = jax.random.uniform(y_key) * jnp.maximum(height - box_height, 0.0)
    left = jax.random.uniform(x_key) * jnp.maximum(width - box_width, 0.0)
    rows, columns = _pixel_centres(height)[:, None], _pixel_centres(width)[None]
    inside = (rows > top) & (rows < top + box_height) & (columns > left) & (columns < left + box_width)

    def erase(image: Image) -> Image:
        # The same numbers as with the shape of the image, in a third of the time on a CPU.
        noise = jax.random.normal(noise_key, (height, 3 * width)).reshape(image.shape)
        return jnp.where(inside[..., None], noise, image)

    return _sometimes(rate_key, policy.erase_rate, erase, image)


def _pixel_centres(n: int) -> Array:
    return jnp.arange(n, dtype=jnp.float32) + 0.5


def _sometimes(key: RandomKey, rate: float, change: Callable[[Array], Array], x: Array) -> Array:
    # A rate of 0 is known when tracing. Under `vmap` both values are computed and one is selected.
    return jax.lax.cond(jax.random.bernoulli(key, rate), change, lambda x: x, x) if rate else x


def cutmix(key: RandomKey, views: Views, *, valid: Bool[ArrayLike, " batch"], axis_name: str | None = None) -> Views:
    """Returns views that each contain a box of another view, targets mixed by area (CutMix, Yun et al. 2019).

    The box is cut from image and AU map, and shared by the batch: its fraction of the area is uniform in [0, 1], its
    centre is uniform, and the part outside the image is cut off. Partners are a random permutation of the `valid`
    views; the other views, which are padding, mix among themselves. A mixed AU map is valid if every view of which it
    has pixels has an AU map. With `axis_name` the batch is that of all devices along the mesh axis, in order, and `key`
    must be the same on each.

    >>> views = Views(jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2)), jnp.array([True]), jnp.array([[0.0, 1.0]]))
    >>> print(cutmix(jax.random.key(0), views, valid=jnp.array([True])).target)
    [[0. 1.]]
    """
    kept_key, centre_key, order_key = jax.random.split(key, 3)
    size = views.au_map.shape[1:]
    centre = jax.random.randint(centre_key, (2,), 0, jnp.array(size))
    box = cut_box(jax.random.uniform(kept_key), centre, size)
    # Partners are this device's part of a random permutation of the whole batch, in which the n-th valid row gets the
    # n-th valid view of the shuffled batch, and the padding rows get the padding.
    own = jnp.arange(len(views.image))  # rows of this device in the whole batch
    all_views = views
    all_valid = jnp.asarray(valid)
    if axis_name is not None:
        # Each device needs the memory for the views of all devices while they are mixed.
        own += jax.lax.axis_index(axis_name) * len(own)
        all_views, all_valid = jax.lax.all_gather((views, all_valid), axis_name, tiled=True)
    shuffled = jax.random.permutation(order_key, len(all_valid))
    shuffled = shuffled[jnp.argsort(~all_valid[shuffled])]
    partner = shuffled[jnp.argsort(jnp.argsort(~all_valid))][own]
    partners = Views(*(part[partner] for part in all_views))

    kept = 1.0 - box.mean()
    return Views(
        image=jnp.where(box[None, :, :, None], partners.image, views.image),
        au_map=jnp.where(box[None], partners.au_map, views.au_map),
        has_map=(views.has_map | box.all()) & (partners.has_map | ~box.any()),
        target=kept * views.target + (1.0 - kept) * partners.target,
    )


def cut_box(
    kept: Float[ArrayLike, ""], centre: Int[ArrayLike, "2"], size: tuple[int, ...]
) -> Bool[Array, "height width"]:
    """Returns the mask of a box around `centre` (y, x) that leaves the fraction `kept` of an image of `size`.

    The box has the image's aspect ratio; each side is rounded down to an even number of pixels, as published.

    >>> print(cut_box(0.75, jnp.array([1, 3]), (4, 4)).astype(int))
    [[0 0 1 1]
     [0 0 1 1]
     [0 0 0 0]
     [0 0 0 0]]
    """
    side = jnp.sqrt(1.0 - jnp.asarray(kept))
    rows, columns = (
        jnp.abs(jnp.arange(n) - middle + 0.5) < jnp.floor(n * side) // 2
        for n, middle in zip(size, jnp.asarray(centre), strict=True)
    )
    return rows[:, None] & columns[None, :]
