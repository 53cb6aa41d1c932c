"""What is read from the network about a batch of faces, in one jitted pass.

Shares are of a map taken from its least value to its largest, as in `metrics.scores`; a map without pattern has
shares of 0. Action units with the same region make one row, as in `Codebook.same_region`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from aujax import au_maps, augment, cams, methods, metrics, occlusion, resize
from aujax.codebook import Codebook, single_aus
from aujax.data.batch import Batch

_FLOOR = 1e-8
CELLS = 56  # a side, of the AU map to be shown


class Reading(NamedTuple):
    """Rows of a batch; dictionaries are by map, "attention" and, unless the method has none, "cam".

    Attributes:
      probability: of every class, at the temperature.
      maps: at the network's resolution.
      patterned: whether a map has a pattern.
      share: of a map in each region.
      area: of each region, as a share of the picture.
      drawn: whether the region lies in the picture.
      effect: the probability of the predicted class that is lost when the region is hidden.
      control: the mean of that for as much elsewhere.
      controlled: whether there was anything to compare with.
      outside: the share of the attention outside the face, and that of the picture.
      au_map: of the predicted expression, `CELLS` a side; 0 where there is none.
    """

    probability: Float[Array, "batch classes"]
    maps: dict[str, Array]
    patterned: dict[str, Array]
    share: dict[str, Array]
    area: Float[Array, "batch regions"]
    drawn: Bool[Array, "batch regions"]
    effect: Float[Array, "batch regions"]
    control: Float[Array, " batch"]
    controlled: Bool[Array, " batch"]
    outside: tuple[Array, Array]
    au_map: Float[Array, "batch height width"]


@functools.partial(jax.jit, static_argnames=("model", "layer", "normalization", "book"))
def read(
    variables: methods.Variables,
    batch: Batch,
    temperature: Float[ArrayLike, ""],
    *,
    model: methods.Classifier,
    layer: str,
    normalization: str,
    book: Codebook,
) -> Reading:
    """Returns the reading of a batch, with the attention of a layer; compiled once per model and shape."""

    def normalized(image: Array) -> Array:
        return augment.normalize(image, normalization)

    def score(image: Array) -> Any:
        logits: Any = model.apply(variables, normalized(image))
        return logits / temperature

    image = jnp.asarray(batch.image, jnp.float32) / 255.0
    forward = methods.forward(model, variables, normalized(image))
    maps = {"attention": forward.attention[layer]} | ({} if forward.cam is None else {"cam": forward.cam})
    where = batch.has_landmarks & batch.valid
    effects = occlusion.occlude_aus(score, image, batch.landmarks, where, codebook=book)
    return measured(maps, effects, batch, book=book)


def measured(
    maps: dict[str, Float[Array, "batch h w"]], effects: occlusion.Effects, batch: Batch, *, book: Codebook
) -> Reading:
    """Returns what is made of the maps and of what hiding the regions did."""
    where, size = batch.has_landmarks & batch.valid, batch.image.shape[1:3]
    first = np.array([book.all_aus.index(group[0]) for group in book.same_region(book.all_aus)])
    predicted = effects.probability.argmax(-1)[:, None, None]
    drop = jnp.take_along_axis(effects.probability_drop, predicted, axis=-1)[..., 0]
    control = jnp.take_along_axis(effects.control_drop, predicted, axis=-1)[..., 0]
    count = effects.has_control.sum(-1)
    expected, _ = au_maps.batch_au_maps(
        batch.landmarks, effects.probability.argmax(-1), where, size=size, codebook=book
    )
    stretched = {name: cams.normalize(value) for name, value in maps.items()}
    share, area = region_shares(stretched, batch.landmarks, where, size=size, book=book)
    face = jax.vmap(lambda points: au_maps.face_outline(points, size=size))(batch.landmarks)
    inside = share_inside(stretched["attention"], face)
    return Reading(
        probability=effects.probability,
        maps=maps,
        patterned={name: ~cams.degenerate(value) for name, value in maps.items()},
        share=share,
        area=area,
        drawn=effects.has_region[:, first],
        effect=drop[:, first],
        control=control.sum(-1) / jnp.maximum(count, 1),
        controlled=count > 0,
        outside=(1 - inside, 1 - face.mean((1, 2))),
        au_map=resize.area_resize(expected, (CELLS, CELLS)),
    )


def region_shares(
    maps: dict[str, Float[Array, "batch h w"]],
    landmarks: Float[Array | np.ndarray, "batch 68 2"],
    where: Bool[Array | np.ndarray, " batch"],
    *,
    size: resize.Size,
    book: Codebook,
) -> tuple[dict[str, Float[Array, "batch regions"]], Float[Array, "batch regions"]]:
    """Returns the share of each map, which starts at 0, in every region of the codebook, and the regions' areas."""
    groups = book.same_region(book.all_aus)
    single = single_aus([group[0] for group in groups], geometry=book)

    def one(row: Array) -> tuple[dict[str, Array], Array]:
        rows = jnp.broadcast_to(row, where.shape)
        drawn, _ = au_maps.batch_au_maps(landmarks, rows, where, size=size, codebook=single)
        region = (drawn >= metrics.REGION).astype(jnp.float32)
        return {name: share_inside(value, region) for name, value in maps.items()}, region.mean((1, 2))

    # One region after the other: all pictures of a batch at once would take much memory.
    return jax.tree.map(lambda x: x.T, jax.lax.map(one, jnp.arange(len(groups))))


def share_inside(maps: Float[Array, "batch h w"], region: Float[Array, "batch height width"]) -> Float[Array, " batch"]:
    """Returns which share of a map, which starts at 0, lies in the region; 0 of an empty map.

    >>> share_inside(jnp.ones((1, 2, 2)), jnp.zeros((1, 4, 4)).at[:, 0].set(1.0))
    Array([0.25], dtype=float32)
    """
    cells = resize.area_resize(region, maps.shape[1:])
    return (maps * cells).sum((1, 2)) / jnp.maximum(maps.sum((1, 2)), _FLOOR)
