"""BatchNorm as the published networks have it, in torch's terms eps 1e-5 and momentum 0.1.

The backward pass is written out: it goes twice through what came in and its gradient, a ReLU that follows included.
Left to automatic differentiation, XLA goes up to two times more through the memory of a GPU (docs/performance.md).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MOMENTUM = 0.9  # of the running statistics that a step keeps
EPSILON = 1e-5
_Channels = Float[Array, " channels"]


class BatchNorm(nn.Module):
    """Each channel to mean 0 and variance 1, then scaled and shifted; statistics and parameters are float32.

    Training uses the batch's own statistics, averaged over the mesh axis `axis_name` or, where that is None, the
    device's own; evaluation uses the running ones. `relu` takes the rectified value.
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
            return _normalized(x, scale, bias, mean.value, var.value, self.relu).astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        outputs: Any = _train(x, _varying(scale, x), _varying(bias, x), axis_name, self.relu, jnp.dtype(self.dtype))
        y, *batch = outputs
        if not self.is_initializing():
            for running, now in zip((mean, var), batch, strict=True):
                running.value = MOMENTUM * running.value + (1 - MOMENTUM) * now
        return y


def _normalized(
    x: Float[Array, "*batch channels"], scale: _Channels, bias: _Channels, mean: _Channels, var: _Channels, relu: bool
) -> Float[Array, "*batch channels"]:
    mean, factor, bias = (_like(x, v) for v in (mean, jax.lax.rsqrt(var + EPSILON) * scale, bias))
    y = (x - mean) * factor + bias
    return nn.relu(y) if relu else y


def _varying(parameter: _Channels, x: Array) -> _Channels:
    """Returns the parameter as one of each device's own if x is, so that its gradient is summed over devices."""
    axes = tuple(set.difference(*(set(jax.typeof(a).manual_axis_type.varying) for a in (x, parameter))))
    return jax.lax.pcast(parameter, axes, to="varying") if axes else parameter


def _like(x: Array, channels: _Channels) -> Array:
    return channels.reshape((1,) * (x.ndim - 1) + channels.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _train(
    x: Float[Array, "*batch channels"], scale: _Channels, bias: _Channels, axis_name: str | None, relu: bool, dtype: Any
) -> tuple[Float[Array, "*batch channels"], _Channels, _Channels]:
    """Returns the normalised activation, and the batch's mean and variance, which nothing is differentiated by."""
    return _forward(x, scale, bias, axis_name, relu, dtype)[0]


def _forward(x: Array, scale: Array, bias: Array, axis_name: str | None, relu: bool, dtype: Any) -> tuple[Any, Any]:
    wide = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean, of_squares = _averaged((wide.mean(axes), (wide * wide).mean(axes)), axis_name)
    var = jnp.maximum(of_squares - mean * mean, 0.0)
    y = _normalized(wide, scale, bias, mean, var, relu).astype(dtype)
    return (y, mean, var), (x, scale, bias, mean, var)


def _backward(axis_name: str | None, relu: bool, dtype: Any, saved: Any, cotangents: Any) -> tuple[Array, Array, Array]:
    (x, scale, bias, mean, var), (gradient, *_) = saved, cotangents
    axes = tuple(range(x.ndim - 1))

    inverse = jax.lax.rsqrt(var + EPSILON)
    like = functools.partial(_like, x)

    def standardized(x: Array, gradient: Array) -> tuple[Array, Array]:
        """What came out before scale and bias, and the gradient there: from x, so that nothing else need be kept."""
        standard, gradient = (x - like(mean)) * like(inverse), gradient.astype(jnp.float32)
        positive = standard * like(scale) + like(bias) > 0
        return standard, jnp.where(positive, gradient, 0.0) if relu else gradient

    standard, inner = standardized(x, gradient)
    d_scale, d_bias = (inner * standard).sum(axes), inner.sum(axes)
    count = x.size // x.shape[-1]
    along_scale, along_bias = _averaged((d_scale / count, d_bias / count), axis_name)
    # Computed again and not kept from above: the compiler would write it to memory and read it back.
    standard, inner = standardized(*jax.lax.optimization_barrier((x, gradient)))
    d_x = (inner - like(along_bias) - standard * like(along_scale)) * like(inverse * scale)
    return d_x.astype(x.dtype), d_scale, d_bias


def _averaged(values: Any, axis_name: str | None) -> Any:
    return values if axis_name is None else jax.lax.pmean(values, axis_name)


_train.defvjp(_forward, _backward)
