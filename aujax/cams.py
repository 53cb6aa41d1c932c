"""Maps of where a network looks, from its activations: pure functions that know no network.

Activations A are (..., h, w, channels), gradients g of one class's score with respect to them the same, maps
(..., h, w) float32, not normalised unless the name says so; sums without a subject run over pixels. All work on any
leading axes. NaN among the activations or gradients makes a map that is not finite: see `informative`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from aujax import resize

# A sum is nothing if it is less than this share of what was added up.
_ROUNDING = 1e-6


def layer_attention(features: Float[ArrayLike, "*batch h w channels"]) -> Float[Array, "*batch h w"]:
    """Returns the mean over channels, in float32 (Eq. 1 of the paper).

    >>> features = jnp.stack([jnp.zeros((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(layer_attention(features)[0])
    [0.5 0.  0.  0.  0. ]
    """
    return jnp.asarray(features, jnp.float32).mean(axis=-1)


def cam(
    features: Float[ArrayLike, "*batch h w channels"], weights: Float[ArrayLike, "*batch channels"]
) -> Float[Array, "*batch h w"]:
    """Returns the class activation map: the channels weighted by one class's weights (Zhou et al. 2016).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(cam(features, jnp.array([-1.0, 2.0]))[0])
    [ 1. -1. -1. -1. -1.]
    """
    features, weights = jnp.asarray(features, jnp.float32), jnp.asarray(weights, jnp.float32)
    # Accelerators would otherwise round float32 products to fewer bits.
    return jnp.einsum("...hwc,...c->...hw", features, weights, precision=jax.lax.Precision.HIGHEST)


def grad_cam(
    features: Float[ArrayLike, "*batch h w channels"], gradients: Float[ArrayLike, "*batch h w channels"]
) -> Float[Array, "*batch h w"]:
    """Returns Grad-CAM: relu(the channels weighted by the mean of their gradient) (Selvaraju et al. 2017).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(grad_cam(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [0.5 0.  0.  0.  0. ]
    """
    return jax.nn.relu(cam(features, jnp.asarray(gradients, jnp.float32).mean(axis=(-3, -2))))


def grad_cam_pp(
    features: Float[ArrayLike, "*batch h w channels"], gradients: Float[ArrayLike, "*batch h w channels"]
) -> Float[Array, "*batch h w"]:
    """Returns Grad-CAM++: relu(the channels weighted by sum alpha relu(g)) (Chattopadhay et al. 2018, Eq. 19).

    alpha = g^2 / (2 g^2 + g^3 sum A), and 0 where the divisor is. `features` are meant to be a ReLU's, as in the paper.

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(grad_cam_pp(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0].round(3))
    [3.571 0.    0.    0.    0.   ]
    """
    features, positive = jnp.asarray(features, jnp.float32), jax.nn.relu(jnp.asarray(gradients, jnp.float32))
    # Where g > 0, and only those pixels count, alpha is this without the g^2, which may be too small for float32.
    slope = positive * features.sum(axis=(-3, -2), keepdims=True)
    divisor = 2.0 + slope
    nothing = jnp.abs(divisor) <= _ROUNDING * (2.0 + jnp.abs(slope))
    alpha = jnp.where(nothing, 0.0, 1.0 / jnp.where(nothing, 1.0, divisor))
    return jax.nn.relu(cam(features, (alpha * positive).sum(axis=(-3, -2))))


def grad_cam_pp_reference(
    features: Float[ArrayLike, "*batch h w channels"], gradients: Float[ArrayLike, "*batch h w channels"]
) -> Float[Array, "*batch h w"]:
    """Returns Grad-CAM++ as the released code computes it, without alpha's division: weights are sum g^2 relu(g).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(grad_cam_pp_reference(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [25.  0.  0.  0.  0.]
    """
    positive = jax.nn.relu(jnp.asarray(gradients, jnp.float32))
    return jax.nn.relu(cam(features, (positive**3).sum(axis=(-3, -2))))


def layer_cam(
    features: Float[ArrayLike, "*batch h w channels"], gradients: Float[ArrayLike, "*batch h w channels"]
) -> Float[Array, "*batch h w"]:
    """Returns LayerCAM: relu(the sum over channels of relu(g) A at each pixel) (Jiang et al. 2021).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(layer_cam(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [1. 0. 0. 0. 0.]
    """
    return jax.nn.relu(hires_cam(features, jax.nn.relu(jnp.asarray(gradients, jnp.float32))))


def hires_cam(
    features: Float[ArrayLike, "*batch h w channels"], gradients: Float[ArrayLike, "*batch h w channels"]
) -> Float[Array, "*batch h w"]:
    """Returns HiResCAM: the sum over channels of g A at each pixel, sign kept (Draelos & Carin 2020).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(hires_cam(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [ 0.5 -0.5 -0.5 -0.5 -0.5]
    """
    return (jnp.asarray(features, jnp.float32) * jnp.asarray(gradients, jnp.float32)).sum(axis=-1)


def xgrad_cam(
    features: Float[ArrayLike, "*batch h w channels"], gradients: Float[ArrayLike, "*batch h w channels"]
) -> Float[Array, "*batch h w"]:
    """Returns XGrad-CAM: the channels weighted by sum g A / sum A, 0 where sum A is, sign kept (Fu et al. 2020).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(xgrad_cam(features, jnp.ones((5, 5, 2)).at[..., 0].set(-0.5))[0])
    [ 0.5 -0.5 -0.5 -0.5 -0.5]
    """
    features, gradients = jnp.asarray(features, jnp.float32), jnp.asarray(gradients, jnp.float32)
    total, magnitude = (x.sum(axis=(-3, -2)) for x in (features, jnp.abs(features)))
    weighted = (features * gradients).sum(axis=(-3, -2))
    nothing = jnp.abs(total) <= _ROUNDING * magnitude
    return cam(features, jnp.where(nothing, 0.0, weighted / jnp.where(nothing, 1.0, total)))


def eigen_cam(features: Float[ArrayLike, "*batch h w channels"]) -> Float[Array, "*batch h w"]:
    """Returns Eigen-CAM: each pixel's share in the first singular vector of the channels (Muhammad & Yeasin 2020).

    The pixels x channels matrix, uncentred, is projected on its first right singular vector, whose sign is the one
    that makes the map's sum not negative.

    >>> features = jnp.stack([jnp.zeros((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(eigen_cam(features)[0].round(3))
    [1. 0. 0. 0. 0.]
    """
    features = jnp.asarray(features, jnp.float32)
    *batch, height, width, channels = features.shape
    matrix = features.reshape(*batch, height * width, channels)
    # Squares of what is brought to 1 neither overflow nor vanish.
    largest = jax.lax.stop_gradient(jnp.abs(matrix).max(axis=(-2, -1), keepdims=True))
    scale = jnp.where(largest == 0.0, 1.0, largest)
    matrix = matrix / scale
    # The vectors of the smaller of A A^T and A^T A tell both.
    side = matrix if height * width <= channels else matrix.mT
    exact = jax.lax.Precision.HIGHEST
    vector = _first_eigenvector(jnp.matmul(side, side.mT, precision=exact))[..., None]
    if height * width <= channels:
        vector = jnp.matmul(matrix.mT, vector, precision=exact)
        square = (vector**2).sum(axis=(-2, -1), keepdims=True)
        vector = vector / jnp.sqrt(jnp.where(square == 0.0, 1.0, square))
    projected = jnp.matmul(matrix, vector, precision=exact) * scale
    projected = projected * jnp.where(projected.sum(axis=(-2, -1), keepdims=True) < 0.0, -1.0, 1.0)
    return projected.reshape(*batch, height, width)


def _first_eigenvector(matrix: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    """Returns the unit eigenvector of the largest eigenvalue of a symmetric matrix, with a finite derivative.

    The derivative is first-order perturbation theory; between equal eigenvalues, where it has none, it is 0.
    """
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(matrix))
    first = vectors[..., -1]
    gaps = values[..., -1:] - values
    close = gaps <= 1e-6 * jnp.abs(values[..., -1:])
    inverse = jnp.where(close, 0.0, 1.0 / jnp.where(close, 1.0, gaps))
    exact = jax.lax.Precision.HIGHEST
    change = jnp.einsum("...ij,...j->...i", matrix - jax.lax.stop_gradient(matrix), first, precision=exact)
    along = inverse * jnp.einsum("...ij,...i->...j", vectors, change, precision=exact)
    return first + jnp.einsum("...ij,...j->...i", vectors, along, precision=exact)


def score_cam(
    score: Callable[[Array], Array],
    image: Float[ArrayLike, "height width 3"],
    features: Float[ArrayLike, "h w channels"],
    expression: Int[ArrayLike, ""],
    *,
    batch_size: int = 32,
) -> Float[Array, "h w"]:
    """Returns Score-CAM of one image: relu(the channels weighted by what each of them alone scores) (Wang et al. 2020).

    The image, as `score` takes it, is multiplied by each enlarged and normalised channel; the weights are the softmax
    over channels of the class's logit. `score` maps (n, height, width, 3) to logits (n, classes) and is called with n
    `batch_size`, or the number of channels if that is less. A class that does not exist has a map of NaN. Outside
    `jax.jit` each call compiles `score` anew: jit the caller, with the network's variables among its arguments.

    >>> features = jnp.stack([jnp.zeros((5, 5)), jnp.eye(5)], axis=-1)
    >>> brightness = lambda images: images.sum(axis=(1, 2))
    >>> print(score_cam(brightness, jnp.full((5, 5, 3), 9.0), features, 0)[0])
    [1. 0. 0. 0. 0.]
    """
    image, features = jnp.asarray(image, jnp.float32), jnp.asarray(features, jnp.float32)
    expression = jnp.asarray(expression)
    channels = jnp.moveaxis(features, -1, 0)
    count, (height, width) = len(channels), image.shape[:2]
    batch_size = min(batch_size, count)
    filled = jnp.pad(channels, ((0, -count % batch_size), (0, 0), (0, 0)))

    def logits(part: Float[Array, "n h w"]) -> Float[Array, " n"]:
        masks = normalize(resize.bilinear(part, (height, width)))
        scores = score(image[None] * masks[..., None])
        # A negative index would count from the end.
        return jnp.take(scores, jnp.where(expression < 0, scores.shape[-1], expression), axis=-1, mode="fill")

    parts = filled.reshape(-1, batch_size, *channels.shape[1:])
    weights = jax.nn.softmax(jax.lax.map(logits, parts).reshape(-1)[:count].astype(jnp.float32))
    return jax.nn.relu(cam(features, weights))


def ts_cam(
    attention: Float[ArrayLike, "*batch h w"], class_maps: Float[ArrayLike, "*batch h w"]
) -> Float[Array, "*batch h w"]:
    """Returns the class's token map times the attention of the class token (Gao et al. 2021), sign kept.

    >>> attention = jnp.full((5, 5), 2.0)
    >>> print(ts_cam(attention, -jnp.eye(5))[0])
    [-2. -0. -0. -0. -0.]
    """
    return jnp.asarray(attention, jnp.float32) * jnp.asarray(class_maps, jnp.float32)


def acol_cam(
    maps_a: Float[ArrayLike, "*batch h w"], maps_b: Float[ArrayLike, "*batch h w"]
) -> Float[Array, "*batch h w"]:
    """Returns the larger of two branches' normalised maps at each pixel (Zhang et al. 2018), NaN if one is not finite.

    >>> print(acol_cam(jnp.eye(5), -4 * jnp.eye(5))[0])
    [1. 1. 1. 1. 1.]
    """
    finite = jnp.isfinite(jnp.asarray(maps_a)) & jnp.isfinite(jnp.asarray(maps_b))
    larger = jnp.maximum(normalize(maps_a), normalize(maps_b))
    return jnp.where(finite.all(axis=(-2, -1), keepdims=True), larger, jnp.nan)


def informative(maps: Float[ArrayLike, "*batch h w"]) -> Bool[Array, "*batch"]:
    """Returns which maps are finite and not flat, and so mean something when drawn.

    >>> flat = jnp.ones((5, 5))
    >>> print(informative(jnp.stack([flat, flat.at[2, 2].set(jnp.nan), jnp.eye(5)])))
    [False False  True]
    """
    maps = jnp.asarray(maps, jnp.float32)
    extent = maps.max(axis=(-2, -1)) - maps.min(axis=(-2, -1))
    return jnp.isfinite(extent) & (extent > 0)


def normalize(maps: Float[ArrayLike, "*batch h w"]) -> Float[Array, "*batch h w"]:
    """Returns each map stretched to [0, 1] by its own minimum and maximum; zeros where it is not informative.

    >>> maps = jnp.arange(25.0).reshape(5, 5) - 12
    >>> print(normalize(maps)[2, 2], normalize(jnp.ones((5, 5))).max())
    0.5 0.0
    """
    maps = jnp.asarray(maps, jnp.float32)
    good = informative(maps)[..., None, None]
    # Both branches stay finite, so that gradients do too.
    maps = jnp.where(good, maps, 0.0)
    low, high = maps.min(axis=(-2, -1), keepdims=True), maps.max(axis=(-2, -1), keepdims=True)
    return jnp.where(good, (maps - low) / jnp.where(good, high - low, 1.0), 0.0)


def upsample(maps: Float[ArrayLike, "*batch h w"], size: resize.Size) -> Float[Array, "*batch height width"]:
    """Returns normalised maps enlarged to `size` (height, width): half-pixel bilinear, kept within [0, 1].

    >>> maps = jnp.eye(5)
    >>> print(upsample(maps, (10, 10)).shape)
    (10, 10)
    """
    return jnp.clip(resize.bilinear(jnp.asarray(maps, jnp.float32), size), 0.0, 1.0)
