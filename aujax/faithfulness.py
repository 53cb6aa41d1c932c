"""What a network does when parts of the face are hidden: which action units, and which highlights, it truly uses.

A score takes pictures, float32 RGB in [0, 1] before normalisation, (batch, height, width, 3), and returns logits
(batch, classes), the classes in the codebook's order. It is called in loops of `jax.lax.map`: jit the caller, with the
network's variables among its arguments. A drop is a probability of the whole picture minus that without the part.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aujax import au_maps, cams, codebook, map_scores, occlusion, resize
from aujax.codebook import Codebook

Score = Callable[[Float[Array, "batch height width 3"]], Float[Array, "batch classes"]]

CONTROLS = 4
FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
GRID = 28  # cells a side in which highlights are hidden, and in which a place for a control is looked for
_OUTSIDE = 4.0  # a control's part outside the picture counts as so many times that on action units
_FAR = 0.02  # and a way of the picture's side as this share of its region


class Effects(NamedTuple):
    """What hiding each action unit's region does to every class's probability, and what hiding as much elsewhere does.

    A drop is 0 where `drawn` or `control_drawn` is False.
    """

    probability: Float[Array, "batch classes"]
    drop: Float[Array, "batch aus classes"]
    drawn: Bool[Array, "batch aus"]
    control: Float[Array, "batch controls classes"]
    control_drawn: Bool[Array, "batch controls"]


def au_effects(
    score: Score,
    image: Float[Array, "batch height width 3"],
    landmarks: Float[Array | np.ndarray, "batch 68 2"],
    where: Bool[Array | np.ndarray, " batch"],
    *,
    codebook: Codebook,
    filling: str = "blur",
    aus: Sequence[int] | None = None,
    controls: int = CONTROLS,
) -> Effects:
    """Returns the drops of hiding each of `aus` (default: all of the codebook), for the faces in `where`.

    Hidden is what lies within the outline of the unit's ellipses, and less and less of a margin around it. A control
    hides the region of one of the predicted expression's own units, shape and size kept, moved within the
    face to where it covers the least of that expression's AU map: a drop counts for a unit as far as it exceeds the
    controls'. Up to
    `controls` units take part, spread over the expression's list. Units with the same region share one pass: for all
    twenty of `FACS` there are sixteen, four for the controls, and one for the whole picture.

    >>> blind, nobody = lambda image: jnp.zeros((len(image), 7)), (jnp.zeros((1, 68, 2)), jnp.array([False]))
    >>> effects = au_effects(blind, jnp.zeros((1, 56, 56, 3)), *nobody, codebook=codebook.FACS)
    >>> effects.drop.shape, effects.control.shape
    ((1, 20, 7), (1, 4, 7))
    """
    aus = codebook.all_aus if aus is None else tuple(aus)
    units = _one_by_one(aus, codebook)
    groups = codebook.same_region(aus)
    probability = jax.nn.softmax(score(image))
    predicted, size = probability.argmax(-1), image.shape[1:3]

    def draw(row: Int[Array, " batch"], shift: Float[Array, "batch 2"]) -> tuple[Array, Array]:
        return au_maps.batch_au_maps(landmarks + shift[:, None, :], row, where, size=size, codebook=units)

    own = jnp.array([aus.index(group[0]) for group in groups], jnp.int32)
    own = jnp.broadcast_to(own[:, None], (len(groups), len(image)))
    others = jnp.asarray(_controls(groups, aus, codebook, controls))[predicted].T
    nowhere = jnp.zeros((len(image), 2))
    taken, _ = au_maps.batch_au_maps(landmarks, predicted, where, size=size, codebook=codebook)
    face = jax.vmap(functools.partial(au_maps.face_outline, size=size))(landmarks)
    taken = jnp.maximum(taken, 1.0 - face)  # nor to hair or background, which no expression rests on
    moves = jax.lax.map(lambda row: _move(draw(row, nowhere)[0], taken), others)
    hidden = occlusion.hider(image, filling)

    def without(part: tuple[Array, Array]) -> tuple[Array, Array]:
        region, drawn = draw(*part)
        mask = jnp.minimum(region / map_scores.REGION, 1.0)
        return jnp.where(drawn[:, None], probability - jax.nn.softmax(score(hidden(mask))), 0.0), drawn

    shifts = jnp.concatenate([jnp.zeros((len(groups), *nowhere.shape)), moves])
    lost, drawn = (jnp.moveaxis(x, 0, 1) for x in jax.lax.map(without, (jnp.concatenate([own, others]), shifts)))
    group_of = np.array([next(i for i, group in enumerate(groups) if number in group) for number in aus])
    at = len(groups)
    return Effects(probability, lost[:, group_of], drawn[:, group_of], lost[:, at:], drawn[:, at:])


def _one_by_one(aus: Sequence[int], geometry: Codebook) -> Codebook:
    """Returns a codebook whose every "expression" is one action unit."""
    table = {f"AU{number}": [number] for number in aus}
    return codebook.custom(table, expressions=tuple(table), geometry=geometry, name="one by one")


@functools.lru_cache
def _controls(
    groups: tuple[tuple[int, ...], ...], aus: tuple[int, ...], book: Codebook, count: int
) -> Int[np.ndarray, "classes controls"]:
    """Returns which of `aus` lend their regions to the controls of each expression; -1 where there are fewer."""
    table = np.full((len(book.expressions), count), -1, np.int32)
    for expression, numbers in enumerate(book.aus.values()):
        members = [aus.index(group[0]) for group in groups if set(group) & set(numbers)]
        spread = np.linspace(0, len(members) - 1, min(count, len(members))).round().astype(int)
        table[expression, : len(spread)] = [members[i] for i in spread]
    return table


def _move(region: Float[Array, "batch height width"], taken: Float[Array, "batch height width"]) -> Array:
    """Returns the (x, y) shift in pixels that takes each region to where least is taken, the nearer the better.

    All shifts are compared at once, by correlation on a grid of `GRID` cells a side.
    """
    shape, obstacle = (map_scores.shrunk(x, (GRID, GRID)) for x in (region, taken))
    inside = jnp.ones_like(obstacle)
    # The room to shift in: without it what leaves on one side would come back on the other.
    spectrum = functools.partial(jnp.fft.rfft2, s=(2 * GRID, 2 * GRID))
    bad = spectrum(obstacle - _OUTSIDE * inside)
    cost = jnp.fft.irfft2(jnp.conj(spectrum(shape)) * bad, s=(2 * GRID, 2 * GRID))
    shift = np.fft.fftfreq(2 * GRID, 1 / (2 * GRID))
    way = np.hypot(shift[:, None], shift[None, :]) / GRID
    cost = cost / jnp.maximum(shape.sum((1, 2)), 1e-6)[:, None, None] + _FAR * way.astype(np.float32)[None]
    y, x = jnp.unravel_index(cost.reshape(len(cost), -1).argmin(-1), way.shape)
    cell = np.array(region.shape[:0:-1], np.float32) / GRID
    return jnp.stack([jnp.asarray(shift, jnp.float32)[x], jnp.asarray(shift, jnp.float32)[y]], axis=-1) * cell[None]


class Use(NamedTuple):
    """How much the predicted expression rests on the action units that the codebook lists for it, per face.

    `member` is 1 if the unit that lowers it most belongs to the list (a share where several lower it equally, 0 where
    none lowers it), `chance` how often one drawn at random would belong to it.
    Where `listed`, `unlisted` or `controlled` is False there is no unit in the list (Neutral, or none is drawn), none
    outside it, or no control: the mean is 0 and means nothing, and without `listed` neither do `member` and `chance`.
    """

    in_codebook: Float[Array, " batch"]
    outside: Float[Array, " batch"]
    control: Float[Array, " batch"]
    member: Float[Array, " batch"]
    chance: Float[Array, " batch"]
    listed: Bool[Array, " batch"]
    unlisted: Bool[Array, " batch"]
    controlled: Bool[Array, " batch"]


def use(effects: Effects, *, aus: Sequence[int], codebook: Codebook) -> Use:
    """Returns the mean drops of the predicted class by units in its list, outside it, and by the controls.

    Every region counts once, and for the list if it is that of one of its units.
    """
    predicted = effects.probability.argmax(-1)
    drop, control = (
        jnp.take_along_axis(x, predicted[:, None, None], axis=-1)[..., 0] for x in (effects.drop, effects.control)
    )
    groups = {number: group for group in codebook.same_region(aus) for number in group}
    lists = [[bool(set(groups[number]) & set(numbers)) for number in aus] for numbers in codebook.aus.values()]
    inside = jnp.asarray(np.array(lists, bool))[predicted]
    weight = effects.drawn * np.array([1 / len(groups[number]) for number in aus], np.float32)[None]
    parts = weight * inside, weight * ~inside, effects.control_drawn.astype(jnp.float32)
    listed, unlisted, controls = (part.sum(-1) for part in parts)
    most = jnp.where(effects.drawn, drop, -jnp.inf).max(-1, keepdims=True)
    best = weight * (drop == most) * (most > 0)
    return Use(
        in_codebook=(parts[0] * drop).sum(-1) / jnp.where(listed > 0, listed, 1.0),
        outside=(parts[1] * drop).sum(-1) / jnp.where(unlisted > 0, unlisted, 1.0),
        control=(parts[2] * control).sum(-1) / jnp.maximum(controls, 1.0),
        member=(best * inside).sum(-1) / jnp.where(best.sum(-1) > 0, best.sum(-1), 1.0),
        chance=listed / jnp.maximum(listed + unlisted, 1e-6),
        listed=listed > 0,
        unlisted=unlisted > 0,
        controlled=controls > 0,
    )


def curves(
    score: Score,
    image: Float[Array, "batch height width 3"],
    maps: Mapping[str, Array],
    expression: Int[Array, " batch"],
    *,
    kinds: Sequence[str] = ("deletion", "insertion"),
    filling: str = "blur",
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, dict[str, Float[Array, "batch fractions"]]]:
    """Returns, by kind and map (batch, h, w), the probability of `expression` at each fraction (Petsiuk et al. 2018).

    "deletion" hides that fraction of the picture, the cells that the map highlights most; "insertion" hides all but
    those. With the filling "road", "deletion" is ROAD's curve (Rong et al. 2022). Maps of any resolution are compared
    on `GRID` x `GRID` cells; equal values, and all of a map that is flat or not finite, come in a fixed random order.

    >>> image, first = jnp.ones((1, 28, 28, 3)).at[:, 14:].set(0.0), jnp.array([0])
    >>> score = lambda image: jnp.log(jnp.stack([image[:, :14].mean((1, 2, 3)), image[:, 14:].mean((1, 2, 3)) + 1], -1))
    >>> found = curves(score, image, {"top": image[..., 0]}, first, filling="mean", fractions=(0.0, 0.5, 1.0))
    >>> found["deletion"]["top"]
    Array([[0.5       , 0.33333334, 0.25      ]], dtype=float32)
    """
    ranks = jnp.stack([rank(value) for value in maps.values()])
    hidden, size = occlusion.hider(image, filling), image.shape[1:3]
    spans = {
        (kind, i, at): _span(kind, i, fraction)
        for kind in kinds
        for i in range(len(maps))
        for at, fraction in enumerate(fractions)
    }
    distinct = list(dict.fromkeys(spans.values()))  # the whole picture, and nothing of it, are the same for all

    def probability(span: tuple[Array, Array, Array]) -> Float[Array, " batch"]:
        which, low, high = span
        cells = (ranks[which] >= low) & (ranks[which] < high)
        mask = resize.nearest(cells.astype(jnp.float32), size)
        chances = jax.nn.softmax(score(hidden(mask)))
        return jnp.take_along_axis(chances, expression[:, None], axis=-1)[:, 0]

    which, low, high = (np.array(column) for column in zip(*distinct, strict=True))
    columns = (jnp.asarray(which, jnp.int32), *(jnp.asarray(x, jnp.float32) for x in (low, high)))
    found = jax.lax.map(probability, columns)
    place = {span: i for i, span in enumerate(distinct)}
    return {
        kind: {
            name: found[np.array([place[spans[kind, i, at]] for at in range(len(fractions))])].T
            for i, name in enumerate(maps)
        }
        for kind in kinds
    }


def _span(kind: str, index: int, fraction: float) -> tuple[int, float, float]:
    """Returns which ranks of which map are hidden; the map does not matter where all of them, or none, are."""
    if kind not in ("deletion", "insertion"):
        raise ValueError(f"kind must be deletion or insertion, got {kind!r}")
    low, high = (0.0, fraction) if kind == "deletion" else (fraction, 1.0)
    if low == high:
        return 0, 0.0, 0.0
    return (index if high - low < 1 else 0), low, high


def rank(maps: Float[Array, "batch h w"]) -> Float[Array, "batch GRID GRID"]:
    """Returns which share of `GRID` x `GRID` cells a map highlights more than this one.

    >>> (rank(-jnp.arange(784.0).reshape(1, 28, 28)) * 784).round()[0, 0, :3]
    Array([0., 1., 2.], dtype=float32)
    """
    maps = cams.normalize(maps)
    enlarged = resize.bilinear(maps, tuple(max(n, GRID) for n in maps.shape[1:]))
    cells = map_scores.shrunk(enlarged, (GRID, GRID)).reshape(len(maps), -1)
    chance = jnp.asarray(np.random.default_rng(0).permutation(GRID**2))
    order = jax.vmap(lambda values: jnp.lexsort((chance, -values)))(cells)
    return (jnp.argsort(order, axis=-1) / GRID**2).reshape(-1, GRID, GRID)


def random_maps(index: Int[Array, " batch"]) -> Float[Array, "batch GRID GRID"]:
    """Returns a map of noise for each face, the same one whenever it is asked for: the order that any map must beat."""
    draw = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(jax.random.key(0), i), (GRID, GRID)))
    return draw(index)
