"""Layers that Flax lacks, and faster forms of those that it has.

Images and activations are (batch, height, width, channels). All but attention dropout is written for speed: it computes
what `nn.Conv`, `nn.Dense`, `nn.max_pool` and `nn.BatchNorm` compute. Measurements: docs/performance.md.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# The default of torch's layers: uniform within 1 / sqrt(fan in).
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# Share of BatchNorm's running statistics that a training step keeps; torch calls the rest, 0.1, the momentum.
MOMENTUM = 0.9
EPSILON = 1e-5

Images = Float[Array, "batch height width 3"]
Features = Float[Array, "batch h w channels"]


class AttentionDropout(nn.Module):
    """Attention-based dropout layer (Choe & Shim 2019): makes a network use more than its most attended regions.

    Attention is the mean over channels. With probability `rate`, positions whose attention reaches `threshold` times
    the image's maximum are set to zero; otherwise all positions are multiplied by the sigmoid of their attention. One
    sample from the random stream "dropout" decides for the whole batch. In evaluation the layer is the identity.
    """

    rate: float
    threshold: float

    @nn.compact
    def __call__(self, x: Features, *, train: bool) -> Features:
        """Returns the masked or reweighted activations."""
        if not train:
            return x
        attention = x.astype(jnp.float32).mean(axis=-1, keepdims=True)
        kept = attention < self.threshold * attention.max(axis=(1, 2), keepdims=True)
        drop = jax.random.bernoulli(self.make_rng("dropout"), self.rate)
        return x * jnp.where(drop, kept.astype(jnp.float32), nn.sigmoid(attention)).astype(x.dtype)


def check_divisible(image: Images, divisor: int) -> None:
    """Raises a ValueError unless the height and width of the images are multiples of `divisor`."""
    height, width = image.shape[1:3]
    if height % divisor or width % divisor:
        nearest = "x".join(str(max(round(length / divisor), 1) * divisor) for length in (height, width))
        raise ValueError(
            f"image height and width must be multiples of {divisor}, got {height}x{width}: resize to {nearest}"
        )


# ---- Convolution, max pooling and matrix product ---------------------------------------------------------------------
# On a CPU, XLA is fast at matrix products and sums, and slow at convolutions and at the gradient of max pooling. These
# have a second form for CPUs, here alone; other platforms' programs contain nothing of it.


def for_cpu(mesh: Any = None) -> bool:
    """Returns whether programs for the mesh are for CPUs; by default the mesh of the program that is being traced.

    Without a mesh, a program is for JAX's default devices.
    """
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh.abstract_mesh
    device = mesh.abstract_device
    return (device.device_kind if device else jax.default_backend()) == "cpu"


def convolution(x: Array, kernel: Array, strides: Any, padding: Any, *, precision: Any = None, **options: Any) -> Array:
    """Returns what `jax.lax.conv_general_dilated` returns, in place of which `nn.Conv` calls it."""
    size, strides = kernel.shape[:2], tuple(strides)
    if for_cpu() and size == (1, 1):
        return matrix_product(x[:, :: strides[0], :: strides[1]], kernel[0, 0], precision=precision)
    # Few channels or positions do not repay Winograd's transformations; in half precision these would lose digits.
    pays = min(kernel.shape[2:]) >= 64 and min(x.shape[1:3]) >= 10 and x.dtype == jnp.float32
    if for_cpu() and pays and (size, strides, tuple(padding)) == ((3, 3), (1, 1), ((1, 1), (1, 1))):
        return winograd(x, _device_varying(kernel, x))
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, precision=precision, **options)


def to_few_channels(x: Features, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """Returns the convolution with stride 1 of `nn.Conv`, for a kernel (h, w, channels, out) of few output channels.

    One product with the matrices of all h * w places of the kernel, and a sum of its shifted parts: a convolution to
    seven classes alone would leave most of a matrix unit idle.
    """
    del strides
    height, width, channels, out = kernel.shape
    places = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    precision = options["precision"]
    products = matrix_product(x, places, precision=precision).reshape(*x.shape[:3], height, width, out)
    products = jnp.pad(products, ((0, 0), *padding, (0, 0), (0, 0), (0, 0)))
    rows, columns = (length - side + 1 for length, side in zip(products.shape[1:3], (height, width), strict=True))
    shifted = [products[:, i : i + rows, j : j + columns, i, j] for i in range(height) for j in range(width)]
    return functools.reduce(jnp.add, shifted)


def matrix_product(x: Array, matrix: Array, dimension_numbers: Any = None, **options: Any) -> Array:
    """Returns the product over the last axis of `x`; `nn.Dense` calls it in place of `jax.lax.dot_general`.

    On a CPU the other axes of `x` are joined to one: with two of them, the gradient of the matrix begins with a
    transposition, which makes a transformer's training step 1.4 times as long.
    """
    del dimension_numbers
    rows = x.reshape(-1, x.shape[-1]) if for_cpu() else x
    product = jax.lax.dot_general(rows, matrix, (((rows.ndim - 1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], matrix.shape[-1])


def max_pool(x: Features) -> Float[Array, "batch h_out w_out channels"]:
    """Returns the maximum of every 3x3 window with stride 2 and padding 1."""
    if not for_cpu():
        padding: Any = ((1, 1), (1, 1))  # which Flax annotates as a string
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)

    # The first maximum, by rows, gets the gradient, as in XLA's own form.
    def largest(slices: list[Array]) -> Array:
        return functools.reduce(lambda first, other: jnp.where(first >= other, first, other), slices)

    height, width = ((length + 1) // 2 for length in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    columns = largest([x[:, :, start : start + 2 * width - 1 : 2] for start in range(3)])
    return largest([columns[:, start : start + 2 * height - 1 : 2] for start in range(3)])


# Winograd's algorithm F(2x2, 3x3) in the notation of Lavin & Gray 2016: the 2x2 outputs of a tile d of 4x4 pixels under
# the kernel g are A^T [(G g G^T) * (B^T d B)] A, with 16 multiplications in place of 36.
_AT = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))
_BT = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))
_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


@jax.custom_vjp
def winograd(x: Features, kernel: Float[Array, "3 3 channels out"]) -> Float[Array, "batch h w out"]:
    """Returns the convolution with a 3x3 kernel, stride 1 and padding 1, in 2.25 times fewer multiplications."""
    height, width = x.shape[1:3]
    kernels = _transform(_G, kernel)
    # For each of the 4 x 4 places in a tile a product of (tiles, channels) and (channels, out). Apart, they need no
    # copy of the tiles, as one batched product would, and XLA computes several at the same time.
    products = [list(map(matrix_product, *row)) for row in zip(_tiles(_BT, x, padding=1), kernels, strict=True)]
    outputs = jnp.stack([jnp.stack(row, 3) for row in _transform(_AT, products)], 2)
    _, rows, _, columns, _, _ = outputs.shape  # (batch, rows, 2, columns, 2, out)
    return outputs.reshape(len(x), 2 * rows, 2 * columns, -1)[:, :height, :width]


def _winograd_forward(x, kernel):
    return winograd(x, kernel), (x, kernel)


def _winograd_backward(saved, gradient):
    x, kernel = saved

    def d_factor(tile, of_product):
        return tile.reshape(-1, tile.shape[-1]).T @ of_product.reshape(-1, of_product.shape[-1])

    # The gradient of each multiplication's factors, in the transformed tiles.
    tiles, gradients = _tiles(_BT, x, padding=1), _tiles(tuple(zip(*_AT, strict=True)), gradient, padding=0)
    products = [list(map(d_factor, *row)) for row in zip(tiles, gradients, strict=True)]
    d_kernel = jnp.stack(list(map(jnp.stack, _transform(tuple(zip(*_G, strict=True)), products))))
    return winograd(gradient, kernel[::-1, ::-1].swapaxes(2, 3)), d_kernel


winograd.defvjp(_winograd_forward, _winograd_backward)


def _tiles(matrix: Any, x: Features, *, padding: int) -> list[list[Array]]:
    """Returns the product of matrix, tile and transposed matrix for all tiles of `x`, which begin every two pixels.

    The result has 4 x 4 arrays (batch, rows, columns, channels), for the places in a tile.
    """
    height, width = (length + length % 2 for length in x.shape[1:3])
    added = [(padding, padding + length % 2) for length in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *added, (0, 0)))
    side = range(len(matrix[0]))
    return _transform(matrix, [[x[:, i : i + height - 1 : 2, j : j + width - 1 : 2] for j in side] for i in side])


def _transform(matrix: Any, parts: Any) -> list[list[Array]]:
    """Returns the product of matrix, parts and transposed matrix; the parts are arrays in rows and columns."""

    def combine(vector):
        sums = []
        for row in matrix:
            weighted = [
                part if weight == 1.0 else weight * part for weight, part in zip(row, vector, strict=True) if weight
            ]
            sums.append(functools.reduce(jnp.add, weighted))
        return sums

    columns = [combine(column) for column in zip(*parts, strict=True)]
    return [combine(row) for row in zip(*columns, strict=True)]


# ---- The stem's convolution ------------------------------------------------------------------------------------------
# A 7x7 convolution with stride 2 over 3 channels leaves most of a GPU's matrix unit idle. Rearranging each 2x2 block of
# pixels into 12 channels (space to depth) and the kernel into 4x4 x 12 gives the same sums, 0.9 % faster for a training
# step of ResNet-50 on an H100.


class StemConv(nn.Module):
    """7x7 convolution with stride 2 and padding 3, computed as a 4x4 convolution over 2x2 blocks of pixels."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width colors"]) -> Features:
        """Returns the convolved images, at half the height and width, rounded up."""
        colors = x.shape[-1]
        kernel = self.param("kernel", kaiming_normal, (7, 7, colors, self.channels)).astype(self.dtype)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        height, width = x.shape[1] // 2, x.shape[2] // 2
        x = x.reshape(-1, height, 2, width, 2, colors).swapaxes(2, 3).reshape(-1, height, width, 4 * colors)
        # The window of output (i, j) starts 3 pixels before pixel (2i, 2j), in the middle of a block. A leading row and
        # column of zeros makes the kernel 8x8 and lets it start at a block's edge, 2 blocks before.
        kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(4, 2, 4, 2, colors, self.channels)
        kernel = kernel.swapaxes(1, 2).reshape(4, 4, 4 * colors, self.channels)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((2, 1), (2, 1)), dimension_numbers=layout)


# ---- BatchNorm -------------------------------------------------------------------------------------------------------
# The derivative is written by hand and includes a ReLU that follows: it passes over the activation and its gradient
# twice. By automatic differentiation XLA makes up to two more passes through GPU memory, which bounds these layers. The
# gain is 2.5 % for a training step of ResNet-50 on an H100.


class BatchNorm(nn.Module):
    """Batch normalisation as in the published networks: epsilon 1e-5, momentum 0.9 (0.1 in torch's terms).

    Training uses the statistics of the batch, averaged over the mesh axis `axis_name`, or those of each device's part
    if that is None. Evaluation uses the running statistics. Statistics and parameters are float32. `relu` applies a
    ReLU to the result.
    """

    train: bool
    dtype: Any = jnp.float32
    axis_name: str | None = None
    relu: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Returns the normalised activation in `dtype`."""
        channels = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        if not self.train:
            return _normalize(x, scale, bias, mean.value, var.value, self.relu).astype(self.dtype)
        # `init` runs outside the mesh, where the axis does not exist.
        axis_name = None if self.is_initializing() else self.axis_name
        outputs: Any = _batch_norm(
            x, _device_varying(scale, x), _device_varying(bias, x), axis_name, self.relu, jnp.dtype(self.dtype)
        )
        y, batch_mean, batch_var = outputs
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * batch_var
        return y


def _normalize(x: Array, scale: Array, bias: Array, mean: Array, var: Array, relu: bool) -> Array:
    factor = _expand(jax.lax.rsqrt(var + EPSILON) * scale, x)
    y = (x - _expand(mean, x)) * factor + _expand(bias, x)
    return nn.relu(y) if relu else y


def _expand(channels: Array, x: Array) -> Array:
    """Returns per-channel values with as many axes as `x`: implicit rank promotion is an error in the tests."""
    return channels.reshape((1,) * (x.ndim - 1) + channels.shape)


def _device_varying(parameter: Array, x: Array) -> Array:
    """Returns a replicated parameter marked as varying over the mesh axes of `x`.

    Inside `shard_map` the transpose of this cast sums the parameter's gradient over those axes, which JAX inserts by
    itself for its own operations but not around a `custom_vjp`.
    """
    axes = tuple(set(jax.typeof(x).manual_axis_type.varying) - set(jax.typeof(parameter).manual_axis_type.varying))
    return jax.lax.pcast(parameter, axes, to="varying") if axes else parameter


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _batch_norm(x: Array, scale: Array, bias: Array, axis_name: str | None, relu: bool, dtype: Any) -> Any:
    """Returns the normalised activation, and the mean and variance of the batch, which carry no gradient."""
    return _forward(x, scale, bias, axis_name, relu, dtype)[0]


def _forward(x, scale, bias, axis_name, relu, dtype):
    wide = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    # Mean and mean of squares in one pass over memory; cancellation can leave a slightly negative variance.
    mean, mean_of_squares = _mean_over_devices((wide.mean(axes), (wide * wide).mean(axes)), axis_name)
    var = jnp.maximum(mean_of_squares - mean * mean, 0.0)
    y = _normalize(wide, scale, bias, mean, var, relu).astype(dtype)
    return (y, mean, var), (x, scale, bias, mean, var)


def _backward(axis_name, relu, dtype, saved, cotangents):
    x, scale, bias, mean, var = saved
    gradient = cotangents[0]
    axes = tuple(range(x.ndim - 1))
    inverse = jax.lax.rsqrt(var + EPSILON)

    def recompute(x, gradient):
        """Returns the standardised activation and the gradient before the ReLU, from what the forward pass saved."""
        standard = (x - _expand(mean, x)) * _expand(inverse, x)
        gradient = gradient.astype(jnp.float32)
        positive = standard * _expand(scale, x) + _expand(bias, x) > 0
        return standard, jnp.where(positive, gradient, 0.0) if relu else gradient

    # First pass: the sums over the batch. That of `inner * standard` is taken from the sum of `inner * x`: in front of
    # a sum, XLA on a CPU would store the standardised activation, and the channels' numbers repeated to its size.
    _, inner = recompute(x, gradient)
    d_bias = inner.sum(axes)
    d_scale = ((inner * x.astype(jnp.float32)).sum(axes) - mean * d_bias) * inverse
    count = x.size // x.shape[-1]
    mean_d_scale, mean_d_bias = _mean_over_devices((d_scale / count, d_bias / count), axis_name)
    # Second pass: the gradient of the input. Without a ReLU, a barrier keeps the compiler from storing `standard` and
    # `inner` between the passes: recomputing them is cheaper than writing them to memory and reading them back.
    standard, inner = recompute(*((x, gradient) if relu else jax.lax.optimization_barrier((x, gradient))))
    centered = inner - _expand(mean_d_bias, x) - standard * _expand(mean_d_scale, x)
    return (centered * _expand(inverse * scale, x)).astype(x.dtype), d_scale, d_bias


def _mean_over_devices(values: Any, axis_name: str | None) -> Any:
    return values if axis_name is None else jax.lax.pmean(values, axis_name)


_batch_norm.defvjp(_forward, _backward)


# ---- LayerNorm -------------------------------------------------------------------------------------------------------
# The derivative is written by hand: it saves the input and two numbers per token, and passes once over the activation
# and its gradient.


class LayerNorm(nn.Module):
    """Layer normalisation of the published transformers, epsilon 1e-6; statistics and parameters are float32."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Returns the normalised activation in `dtype`."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return _layer_norm(x, _device_varying(scale, x), _device_varying(bias, x), jnp.dtype(self.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: Array, scale: Array, bias: Array, dtype: Any) -> Array:
    return _layer_norm_forward(x, scale, bias, dtype)[0]


def _layer_norm_forward(x, scale, bias, dtype):
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(wide - mean).mean(axis=-1, keepdims=True) + 1e-6)
    y = (wide - mean) * (inverse * _expand(scale, x)) + _expand(bias, x)
    return y.astype(dtype), (x, scale, mean, inverse)


def _layer_norm_backward(dtype, saved, gradient):
    x, scale, mean, inverse = saved
    axes = tuple(range(x.ndim - 1))
    standard = (x - mean) * inverse
    gradient = gradient.astype(jnp.float32)
    inner = gradient * _expand(scale, x)
    shared = inner.mean(axis=-1, keepdims=True) + standard * (inner * standard).mean(axis=-1, keepdims=True)
    return ((inner - shared) * inverse).astype(x.dtype), (gradient * standard).sum(axes), gradient.sum(axes)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
