"""Classification heads: from the backbone's features to one float32 logit per expression, for any input dtype.

A head is called with the features and the labels (batch,), or None if those are unknown; only ACoL uses them. Maps from
which a CAM is computed are tapped: `class_maps` (batch, h, w, classes), and ACoL's `erased_maps`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aujax import cams
from aujax.models.layers import Features, to_few_channels, torch_uniform
from aujax.models.taps import tap

_EXACT = "highest"  # by default, accelerators round the factors of float32 products to fewer bits
_xavier_uniform = nn.initializers.xavier_uniform()

ClassMaps = Float[Array, "batch h w classes"]
Logits = Float[Array, "batch classes"]
Expression = Int[Array, " batch"] | None


class LinearHead(nn.Module):
    """Global average pooling and a linear layer, whose weights give the CAM (Zhou et al. 2016)."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits."""
        pooled = features.astype(jnp.float32).mean(axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=_xavier_uniform, precision=_EXACT, name="fc")(pooled)


class TokenHead(nn.Module):
    """3x3 convolution of the token grid to one map per class, and global average pooling: TS-CAM (Gao et al. 2021)."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits."""
        conv = nn.Conv(
            self.num_classes,
            (3, 3),
            padding=1,
            kernel_init=torch_uniform,
            precision=_EXACT,
            conv_general_dilated=to_few_channels,
            name="conv",
        )
        return tap(self, "class_maps", conv(features.astype(jnp.float32))).mean(axis=(1, 2))


class ClassTokenHead(nn.Module):
    """Linear layer on the class token: APViT (Xue et al. 2022)."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "batch channels"], expression: Expression = None) -> Logits:
        """Returns the logits."""
        linear = nn.Dense(self.num_classes, kernel_init=torch_uniform, precision=_EXACT, name="fc")
        return linear(features.astype(jnp.float32))


class PeakHead(nn.Module):
    """1x1 convolution to one map per class, and peak stimulation: PRM (Zhou et al. 2018)."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits."""
        return peak_pool(tap(self, "class_maps", _class_maps(features, self.num_classes, name="conv")))


class WildcatHead(nn.Module):
    """WILDCAT (Durand et al. 2017): the logit is `wildcat_pool` of a class's map, the mean of its `modalities` maps.

    Without `kmin` and `alpha` only the largest pixels count, as in the authors' released code.
    """

    num_classes: int
    modalities: int
    kmax: float
    kmin: float = 0.0
    alpha: float = 0.0

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits."""
        maps = _class_maps(features, self.num_classes * self.modalities, name="to_modalities")
        # As in the released weights, channel = class * modalities + modality.
        maps = maps.reshape(*maps.shape[:3], self.num_classes, self.modalities).mean(axis=-1)
        return wildcat_pool(tap(self, "class_maps", maps), kmax=self.kmax, kmin=self.kmin, alpha=self.alpha)


class AcolBranch(nn.Module):
    """One of ACoL's two classifiers: three convolutions to one map per class."""

    num_classes: int
    channels: int

    @nn.compact
    def __call__(self, features: Features) -> ClassMaps:
        """Returns the class maps, at the resolution of the features."""
        conv = functools.partial(nn.Conv, padding=1, dtype=features.dtype, kernel_init=_xavier_uniform)
        for name in ("conv1", "conv2"):
            features = nn.relu(conv(self.channels, (3, 3), name=name)(features))
        return _class_maps(features, self.num_classes, name="conv3")


class AcolHead(nn.Module):
    """Two classifiers, the second on features erased where the first attends: ACoL (Zhang et al. 2018).

    Features are erased where the first classifier's map of the label (of the predicted class if that is unknown)
    reaches the fraction `threshold` of its range. The logits are those of the first classifier; those of the second are
    the tap `erased_logits`. `channels` is the width of the two inner layers of each classifier.
    """

    num_classes: int
    threshold: float
    channels: int

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits of the first classifier."""
        branch = functools.partial(AcolBranch, self.num_classes, self.channels)
        maps = tap(self, "class_maps", branch(name="branch_a")(features))
        logits = maps.mean(axis=(1, 2))
        label = logits.argmax(axis=-1) if expression is None else expression
        # The mask is a constant for the second classifier: its loss does not train the first one.
        attended = jax.lax.stop_gradient(class_map(maps, label))
        kept = cams.normalize(attended) < self.threshold
        erased = branch(name="branch_b")(jnp.where(kept[..., None], features, 0))
        tap(self, "erased_logits", tap(self, "erased_maps", erased).mean(axis=(1, 2)))
        return logits


def _class_maps(features: Features, channels: int, *, name: str) -> Float[Array, "batch h w maps"]:
    conv = nn.Conv(channels, (1, 1), kernel_init=_xavier_uniform, precision=_EXACT, name=name)
    return conv(features.astype(jnp.float32))


def class_map(maps: ClassMaps, expression: Int[Array, " batch"]) -> Float[Array, "batch h w"]:
    """Returns the map of each image's expression; NaN for a number that is not a class."""
    return jnp.take_along_axis(maps, expression[:, None, None, None], axis=-1, mode="fill")[..., 0]


def wildcat_pool(maps: ClassMaps, *, kmax: float, kmin: float = 0.0, alpha: float = 0.0) -> Logits:
    """Returns (mean of the largest pixels + alpha * mean of the smallest pixels) / 2 of each map.

    `kmax` and `kmin` are the fractions of pixels that count as largest and smallest, at least one pixel each. If `kmin`
    or `alpha` is 0, returns the mean of the largest pixels, without the division.
    """
    pixels = jnp.sort(maps.reshape(maps.shape[0], -1, maps.shape[-1]), axis=1)
    count = pixels.shape[1]
    highest = pixels[:, -max(1, round(kmax * count)) :].mean(axis=1)
    if not kmin * alpha:
        return highest
    lowest = pixels[:, : max(1, round(kmin * count))].mean(axis=1)
    return (highest + alpha * lowest) / 2


def peak_pool(maps: ClassMaps) -> Logits:
    """Returns the mean, over all 3x3 windows of each map, of the window's maximum.

    As in the authors' released code every window counts; Zhou et al. 2018 average over local maxima only.
    """
    if min(maps.shape[1:3]) < 3:
        raise ValueError(
            f"peak pooling needs maps of at least 3x3, got {maps.shape[1]}x{maps.shape[2]}: "
            "use a larger image or a smaller output_stride"
        )
    return nn.max_pool(maps, (3, 3)).mean(axis=(1, 2))
