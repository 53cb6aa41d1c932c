"""Classification heads: the backbone's features to one logit per expression, in float32 whatever came in.

A head is called with the features and the faces' expressions (batch,), where those are known; only ACoL's looks at
them. Maps that a read-out wants are tapped: `class_maps` (batch, h, w, classes), and ACoL's `erased_maps`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aujax import cams
from aujax.models.taps import tap

_EXACT = jax.lax.Precision.HIGHEST  # accelerators would otherwise round float32 products to fewer bits
_xavier_uniform = nn.initializers.xavier_uniform()
# As torch's layers start, uniform within 1 / sqrt(fan in).
_torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

Features = Float[Array, "batch h w channels"]
ClassMaps = Float[Array, "batch h w classes"]
Logits = Float[Array, "batch classes"]
Expression = Int[Array, " batch"] | None


class LinearHead(nn.Module):
    """Average over the map, then one linear layer: the head whose weights make the CAM (Zhou et al. 2016)."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits."""
        pooled = features.astype(jnp.float32).mean(axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=_xavier_uniform, precision=_EXACT, name="fc")(pooled)


class TokenHead(nn.Module):
    """3x3 convolution over the grid of tokens to one map per class, then their average: TS-CAM (Gao et al. 2021)."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits."""
        conv = nn.Conv(self.num_classes, (3, 3), padding=1, kernel_init=_torch_uniform, precision=_EXACT, name="conv")
        return tap(self, "class_maps", conv(features.astype(jnp.float32))).mean(axis=(1, 2))


class ClassTokenHead(nn.Module):
    """One linear layer on the class token: APViT (Xue et al. 2022)."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "batch channels"], expression: Expression = None) -> Logits:
        """Returns the logits."""
        linear = nn.Dense(self.num_classes, kernel_init=_torch_uniform, precision=_EXACT, name="fc")
        return linear(features.astype(jnp.float32))


class PeakHead(nn.Module):
    """One map per class, scored by its peaks: PRM's peak stimulation (Zhou et al. 2018)."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits."""
        return peak_pool(tap(self, "class_maps", _class_maps(features, self.num_classes, name="conv")))


class WildcatReferenceHead(nn.Module):
    """Several maps a class, averaged, then scored by the largest share `kmax` of their pixels: the released WILDCAT."""

    num_classes: int
    modalities: int
    kmax: float

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits."""
        maps = _class_maps(features, self.num_classes * self.modalities, name="to_modalities")
        # Channel = modalities x class + modality, as in the released weights.
        maps = maps.reshape(*maps.shape[:3], self.num_classes, self.modalities).mean(axis=-1)
        return self.pool(tap(self, "class_maps", maps))

    def pool(self, maps: ClassMaps) -> Logits:
        """Returns the score of each map."""
        return wildcat_pool_reference(maps, kmax=self.kmax)


class WildcatHead(WildcatReferenceHead):
    """Several maps a class, averaged, scored by their largest and smallest pixels: WILDCAT (Durand et al. 2017)."""

    kmin: float
    alpha: float

    def pool(self, maps: ClassMaps) -> Logits:
        """Returns the score of each map."""
        return wildcat_pool(maps, kmax=self.kmax, kmin=self.kmin, alpha=self.alpha)


class AcolBranch(nn.Module):
    """Three convolutions to one map per class: one of ACoL's two classifiers."""

    num_classes: int
    channels: int

    @nn.compact
    def __call__(self, features: Features) -> ClassMaps:
        """Returns the class maps, as large as the features."""
        conv = functools.partial(nn.Conv, padding=1, dtype=features.dtype, kernel_init=_xavier_uniform)
        for name in ("conv1", "conv2"):
            features = nn.relu(conv(self.channels, (3, 3), name=name)(features))
        return _class_maps(features, self.num_classes, name="conv3")


class AcolHead(nn.Module):
    """Two classifiers, the second of which sees what the first did not look at: ACoL (Zhang et al. 2018).

    The map of the face's expression (of the predicted one where it is not known) in the first branch tells what is
    erased: the places where it reaches the share `threshold` of its range. The logits are the first branch's; the
    second's are the tap `erased_logits`. Each classifier has `channels` in its two inner layers.
    """

    num_classes: int
    threshold: float
    channels: int

    @nn.compact
    def __call__(self, features: Features, expression: Expression = None) -> Logits:
        """Returns the logits of the first branch."""
        branch = functools.partial(AcolBranch, self.num_classes, self.channels)
        maps = tap(self, "class_maps", branch(name="branch_a")(features))
        logits = maps.mean(axis=(1, 2))
        looked_for = logits.argmax(axis=-1) if expression is None else expression
        looked_at = jax.lax.stop_gradient(class_map(maps, looked_for))
        seen = unerased(looked_at, threshold=self.threshold)[..., None]
        erased = branch(name="branch_b")(jnp.where(seen, features, 0))
        tap(self, "erased_logits", tap(self, "erased_maps", erased).mean(axis=(1, 2)))
        return logits


def _class_maps(features: Features, channels: int, *, name: str) -> Float[Array, "batch h w maps"]:
    conv = nn.Conv(channels, (1, 1), kernel_init=_xavier_uniform, precision=_EXACT, name=name)
    return conv(features.astype(jnp.float32))


def class_map(maps: ClassMaps, expression: Int[Array, " batch"]) -> Float[Array, "batch h w"]:
    """Returns the map of each picture's expression; of one that does not exist, NaN."""
    return jnp.take_along_axis(maps, expression[:, None, None, None], axis=-1, mode="fill")[..., 0]


def wildcat_pool(maps: ClassMaps, *, kmax: float, kmin: float, alpha: float) -> Logits:
    """Returns half of (mean of each map's largest share `kmax` + alpha x mean of its smallest share `kmin`).

    With `kmin` or `alpha` of 0 there is no second term, and nothing is halved.
    """
    if not kmin * alpha:
        return wildcat_pool_reference(maps, kmax=kmax)
    lowest = _sorted_pixels(maps)[:, : _kept(maps, kmin)].mean(axis=1)
    return (wildcat_pool_reference(maps, kmax=kmax) + alpha * lowest) / 2


def wildcat_pool_reference(maps: ClassMaps, *, kmax: float) -> Logits:
    """Returns the mean of each map's largest share, as the released WILDCAT scores it: the minima are lost there."""
    return _sorted_pixels(maps)[:, -_kept(maps, kmax) :].mean(axis=1)


def _sorted_pixels(maps: ClassMaps) -> Float[Array, "batch pixels classes"]:
    return jnp.sort(maps.reshape(maps.shape[0], -1, maps.shape[-1]), axis=1)


def _kept(maps: ClassMaps, share: float) -> int:
    return max(1, round(share * maps.shape[1] * maps.shape[2]))


def peak_pool(maps: ClassMaps) -> Logits:
    """Returns the mean over 3x3 windows of their maximum, unpadded."""
    if min(maps.shape[1:3]) < 3:
        raise ValueError(
            f"peaks are looked for in windows of 3x3, got maps of {maps.shape[1]}x{maps.shape[2]}: "
            "use a larger picture or a smaller output_stride"
        )
    return nn.max_pool(maps, (3, 3), strides=(1, 1), padding="VALID").mean(axis=(1, 2))


def unerased(maps: Float[Array, "batch h w"], *, threshold: float) -> Bool[Array, "batch h w"]:
    """Returns what ACoL's second branch still sees: where a map stretched to [0, 1] is below the threshold."""
    return cams.normalize(maps) < threshold
