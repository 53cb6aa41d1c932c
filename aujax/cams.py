"""Attention and class activation maps (CAMs), as pure functions of a network's activations and gradients.

Activations A are (..., h, w, channels), and so are the gradients g of one class's score with respect to them. Maps are
(..., h, w) float32, of any range unless the docstring says that they are normalized. Sums in the formulas run over
pixels. All functions work on any leading axes, but for `score_cam`, which takes one image. NaN among the activations
or gradients makes a map that is not finite, and so degenerate: see `degenerate`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from aujax import resize

# A sum counts as 0 below this fraction of the sum of magnitudes, where only rounding errors are left of it.
_ROUNDING = 1e-6
_EXACT = "highest"  # accelerators would otherwise round float32 products to fewer bits

Features = Float[ArrayLike, "*batch h w channels"]  # and gradients with respect to them
MapsLike = Float[ArrayLike, "*batch h w"]
Maps = Float[Array, "*batch h w"]


def _float32(values: ArrayLike) -> Array:
    return jnp.asarray(values, jnp.float32)


def layer_attention(features: Features) -> Maps:
    """Returns the attention of a layer: the mean of its channels, in float32 (Eq. 1 of the paper).

    >>> features = jnp.stack([jnp.zeros((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(layer_attention(features)[0])
    [0.5 0.  0.  0.  0. ]
    """
    return _float32(features).mean(axis=-1)


def cam(features: Features, weights: Float[ArrayLike, "*batch channels"]) -> Maps:
    """Returns the class activation map: the channels weighted by one class's weights (Zhou et al. 2016).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(cam(features, jnp.array([-1.0, 2.0]))[0])
    [ 1. -1. -1. -1. -1.]
    """
    features, weights = _float32(features), _float32(weights)
    return jnp.einsum("...hwc,...c->...hw", features, weights, precision=_EXACT)


def grad_cam(features: Features, gradients: Features) -> Maps:
    """Returns Grad-CAM: relu of the sum of channels weighted by their mean gradient (Selvaraju et al. 2017).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(grad_cam(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [0.5 0.  0.  0.  0. ]
    """
    return jax.nn.relu(cam(features, _float32(gradients).mean(axis=(-3, -2))))


def grad_cam_pp(features: Features, gradients: Features) -> Maps:
    """Returns Grad-CAM++: relu of the channels weighted by sum alpha relu(g) (Chattopadhay et al. 2018, Eq. 19).

    alpha = g^2 / (2 g^2 + g^3 sum A), and 0 where the divisor is 0. The paper assumes `features` after a ReLU.

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(grad_cam_pp(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0].round(3))
    [3.571 0.    0.    0.    0.   ]
    """
    features, positive = _float32(features), jax.nn.relu(_float32(gradients))
    # Only pixels with g > 0 count. There, g^2 is cancelled from alpha, since it may be too small for float32.
    slope = positive * features.sum(axis=(-3, -2), keepdims=True)
    divisor = 2.0 + slope
    vanishes = jnp.abs(divisor) <= _ROUNDING * (2.0 + jnp.abs(slope))
    alpha = jnp.where(vanishes, 0.0, 1.0 / jnp.where(vanishes, 1.0, divisor))
    return jax.nn.relu(cam(features, (alpha * positive).sum(axis=(-3, -2))))


def grad_cam_pp_reference(features: Features, gradients: Features) -> Maps:
    """Returns Grad-CAM++ as the released code computes it, without the divisor of alpha: weights are sum g^2 relu(g).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(grad_cam_pp_reference(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [25.  0.  0.  0.  0.]
    """
    positive = jax.nn.relu(_float32(gradients))
    return jax.nn.relu(cam(features, (positive**3).sum(axis=(-3, -2))))


def layer_cam(features: Features, gradients: Features) -> Maps:
    """Returns LayerCAM: relu of the sum over channels of relu(g) A at each pixel (Jiang et al. 2021).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(layer_cam(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [1. 0. 0. 0. 0.]
    """
    return jax.nn.relu(hires_cam(features, jax.nn.relu(_float32(gradients))))


def hires_cam(features: Features, gradients: Features) -> Maps:
    """Returns HiResCAM: the signed sum over channels of g A at each pixel (Draelos & Carin 2020).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(hires_cam(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [ 0.5 -0.5 -0.5 -0.5 -0.5]
    """
    return (_float32(features) * _float32(gradients)).sum(axis=-1)


def xgrad_cam(features: Features, gradients: Features) -> Maps:
    """Returns XGrad-CAM: the signed sum of channels weighted by sum g A / sum A, 0 if sum A is 0 (Fu et al. 2020).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(xgrad_cam(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [ 0.5 -0.5 -0.5 -0.5 -0.5]
    """
    features, gradients = _float32(features), _float32(gradients)
    total, magnitude = (x.sum(axis=(-3, -2)) for x in (features, jnp.abs(features)))
    weighted = (features * gradients).sum(axis=(-3, -2))
    vanishes = jnp.abs(total) <= _ROUNDING * magnitude
    return cam(features, jnp.where(vanishes, 0.0, weighted / jnp.where(vanishes, 1.0, total)))


def eigen_cam(features: Features) -> Maps:
    """Returns Eigen-CAM: the projection of each pixel on the first principal component (Muhammad & Yeasin 2020).

    The matrix A of pixels x channels, uncentred, is projected on its first right singular vector, with the sign that
    makes the sum of the map non-negative.

    >>> features = jnp.stack([jnp.zeros((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(eigen_cam(features)[0].round(3))
    [1. 0. 0. 0. 0.]
    """
    features = _float32(features)
    *batch, height, width, channels = features.shape
    matrix = features.reshape(*batch, height * width, channels)
    # Scaled to a maximum of 1, so that squares neither overflow nor vanish.
    largest = jax.lax.stop_gradient(jnp.abs(matrix).max(axis=(-2, -1), keepdims=True))
    scale = jnp.where(largest == 0.0, 1.0, largest)
    matrix = matrix / scale
    # The eigenvector of the smaller of A A^T and A^T A is enough: A^T maps a left singular vector to the right one.
    side = matrix if height * width <= channels else matrix.mT
    vector = _first_eigenvector(jnp.matmul(side, side.mT, precision=_EXACT))[..., None]
    if height * width <= channels:
        vector = jnp.matmul(matrix.mT, vector, precision=_EXACT)
        square = (vector**2).sum(axis=(-2, -1), keepdims=True)
        vector = vector / jnp.sqrt(jnp.where(square == 0.0, 1.0, square))
    projected = jnp.matmul(matrix, vector, precision=_EXACT) * scale
    projected = projected * jnp.where(projected.sum(axis=(-2, -1), keepdims=True) < 0.0, -1.0, 1.0)
    return projected.reshape(*batch, height, width)


def _first_eigenvector(matrix: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    """Returns the unit eigenvector of the largest eigenvalue of a symmetric matrix, with a finite derivative.

    The derivative is that of first-order perturbation theory. Where the largest eigenvalue is not unique, which leaves
    the eigenvector without a derivative, the part between equal eigenvalues is 0.
    """
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(matrix))
    first = vectors[..., -1]
    gaps = values[..., -1:] - values
    close = gaps <= 1e-6 * jnp.abs(values[..., -1:])
    inverse = jnp.where(close, 0.0, 1.0 / jnp.where(close, 1.0, gaps))
    change = jnp.einsum("...ij,...j->...i", matrix - jax.lax.stop_gradient(matrix), first, precision=_EXACT)
    # `change` is 0 in value and carries the derivative of the matrix alone.
    along = inverse * jnp.einsum("...ij,...i->...j", vectors, change, precision=_EXACT)
    return first + jnp.einsum("...ij,...j->...i", vectors, along, precision=_EXACT)


def score_cam(
    score: Callable[[Array], Array],
    image: Float[ArrayLike, "height width 3"],
    features: Float[ArrayLike, "h w channels"],
    expression: Int[ArrayLike, ""],
    *,
    batch_size: int = 32,
) -> Float[Array, "h w"]:
    """Returns Score-CAM of one image: relu of the channels weighted by their scores as masks (Wang et al. 2020).

    The image is multiplied by each channel, enlarged and normalized; the weights are the softmax over channels of the
    class's logits. `score` maps images (n, height, width, 3), preprocessed as `image` is, to logits (n, classes). It is
    called with n = min(`batch_size`, channels). The map of a class index out of range is NaN. Outside `jax.jit` each
    call compiles `score` anew: jit the caller, with the network's variables among its arguments.

    >>> features = jnp.stack([jnp.zeros((5, 5)), jnp.eye(5)], axis=-1)
    >>> brightness = lambda images: images.sum(axis=(1, 2))
    >>> print(score_cam(brightness, jnp.full((5, 5, 3), 9.0), features, 0)[0])
    [1. 0. 0. 0. 0.]
    """
    image, features = _float32(image), _float32(features)
    expression = jnp.asarray(expression)
    channels = jnp.moveaxis(features, -1, 0)
    count = len(channels)
    batch_size = min(batch_size, count)
    padded = jnp.pad(channels, ((0, -count % batch_size), (0, 0), (0, 0)))

    def logits(part: Float[Array, "n h w"]) -> Float[Array, " n"]:
        masks = normalize(resize.bilinear(part, image.shape[:2]))
        scores = score(image[None] * masks[..., None])
        # A negative index would count from the end: replaced by one out of range, which mode="fill" makes NaN.
        return jnp.take(scores, jnp.where(expression < 0, scores.shape[-1], expression), axis=-1, mode="fill")

    parts = padded.reshape(-1, batch_size, *channels.shape[1:])
    weights = jax.nn.softmax(jax.lax.map(logits, parts).reshape(-1)[:count].astype(jnp.float32))
    return jax.nn.relu(cam(features, weights))


def ts_cam(attention: MapsLike, class_maps: MapsLike) -> Maps:
    """Returns TS-CAM: the token map of a class times the attention of the class token, signed (Gao et al. 2021).

    >>> attention = jnp.full((5, 5), 2.0)
    >>> print(ts_cam(attention, -jnp.eye(5))[0])
    [-2. -0. -0. -0. -0.]
    """
    return _float32(attention) * _float32(class_maps)


def acol_cam(maps_a: MapsLike, maps_b: MapsLike) -> Maps:
    """Returns the pixel-wise maximum of ACoL's two normalized maps (Zhang et al. 2018), NaN if one is not finite.

    >>> print(acol_cam(jnp.eye(5), -4 * jnp.eye(5))[0])
    [1. 1. 1. 1. 1.]
    """
    finite = jnp.isfinite(maps_a) & jnp.isfinite(maps_b)
    larger = jnp.maximum(normalize(maps_a), normalize(maps_b))
    return jnp.where(finite.all(axis=(-2, -1), keepdims=True), larger, jnp.nan)


def degenerate(maps: MapsLike) -> Bool[Array, "*batch"]:
    """Returns which maps show nothing, because they are constant or have a pixel that is not finite.

    >>> constant = jnp.ones((5, 5))
    >>> print(degenerate(jnp.stack([constant, constant.at[2, 2].set(jnp.nan), jnp.eye(5)])))
    [ True  True False]
    """
    maps = _float32(maps)
    extent = maps.max(axis=(-2, -1)) - maps.min(axis=(-2, -1))
    return ~(jnp.isfinite(extent) & (extent > 0))


def normalize(maps: MapsLike) -> Maps:
    """Returns each map scaled to [0, 1] by its own minimum and maximum, or zeros if it is `degenerate`.

    >>> maps = jnp.arange(25.0).reshape(5, 5) - 12
    >>> print(normalize(maps)[2, 2], normalize(jnp.ones((5, 5))).max())
    0.5 0.0
    """
    maps = _float32(maps)
    usable = ~degenerate(maps)[..., None, None]
    # The values of both branches of `where` stay finite, so that the gradients do.
    maps = jnp.where(usable, maps, 0.0)
    low, high = maps.min(axis=(-2, -1), keepdims=True), maps.max(axis=(-2, -1), keepdims=True)
    return jnp.where(usable, (maps - low) / jnp.where(usable, high - low, 1.0), 0.0)


def upsample(maps: MapsLike, size: resize.Size) -> Float[Array, "*batch height width"]:
    """Returns normalized maps resampled to `size` by half-pixel bilinear interpolation, clipped to [0, 1].

    >>> maps = jnp.eye(5)
    >>> print(upsample(maps, (10, 10)).shape)
    (10, 10)
    """
    return jnp.clip(resize.bilinear(_float32(maps), size), 0.0, 1.0)
