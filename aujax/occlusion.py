"""Occlusion of parts of a face, and the change of a classifier's probabilities that it causes.

Images are float32 RGB in [0, 1], before normalization, (batch, height, width, 3); landmarks are (x, y) pixels of them.
Masks are (batch, height, width) in [0, 1], 1 where a pixel is fully occluded. Probability drops are in [-1, 1]: the
probability for the whole image minus that for the occluded image.

`occlude` replaces the masked part of an image by an imputation, a row of `IMPUTATIONS`. `occlude_aus` occludes the
region of every action unit (AU), and `perturbation_curves` occlude the image in the order of a map. Both take a
classifier, which maps images to logits (batch, classes), the classes in the codebook's order. They call it in a loop of
`jax.lax.map`: jit the caller, with the network's variables among its arguments.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aujax import au_maps, cams, metrics, resize
from aujax.codebook import Codebook, single_aus

BLUR = 1 / 12  # standard deviation as a fraction of the image's side: removes lips and eyes, keeps skin and light
NOISE = 0.01  # standard deviation, as in the code of ROAD's authors
NUM_CONTROLS = 4
FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)  # of the image, along the perturbation curves
GRID = 28  # cells per side on which maps are ranked, and on which the place of a control is searched
_START_BLURS = (1 / 4, 1 / 16, 1 / 64)  # as `BLUR`: the starting values of ROAD's imputation, coarse to fine
_MIN_STEPS = 60  # of conjugate gradients, for images with shorter sides
_MIN_KNOWN = 1e-3  # a blur with a smaller weight of known pixels is hardly used
_OFF_IMAGE_COST = 4.0  # of the part of a control outside the image, as a multiple of that of a part on target AUs
_DISTANCE_COST = 0.02  # of a shift by the image's side, as a fraction of the cost of the whole region on target AUs

Image = Float[Array, "batch height width 3"]
Mask = Float[Array, "batch height width"]
PerFace = Float[Array, " batch"]
PerFaceMask = Bool[Array, " batch"]
Classifier = Callable[[Image], Float[Array, "batch classes"]]
Fill = Callable[[Mask], Image]  # masks -> the values that replace masked pixels, or the images with these
Imputation = Callable[[Image], Fill]  # what does not depend on the mask is computed once


def occlude(image: Image, mask: Mask, *, imputation: str) -> Image:
    """Returns the images with the masked part replaced, in proportion to the mask.

    An image's result depends on that image and its mask alone, not on the rest of the batch.

    >>> image = jnp.zeros((1, 4, 4, 3)).at[:, :2].set(1.0)
    >>> occlude(image, jnp.zeros((1, 4, 4)).at[:, 0].set(1.0), imputation="mean")[0, :, 0, 0]
    Array([0.5, 1. , 0. , 0. ], dtype=float32)
    """
    return make_occluder(image, imputation)(mask)


def make_occluder(image: Image, imputation: str) -> Fill:
    """Returns the function mask -> occluded images: `occlude` for many masks of the same images."""
    if imputation not in IMPUTATIONS:
        raise ValueError(f"imputation must be one of {', '.join(IMPUTATIONS)}, got {imputation!r}")
    fill = IMPUTATIONS[imputation](image)

    def occluded(mask):
        weight = mask[..., None]
        return image * (1 - weight) + fill(mask) * weight

    return occluded


def blur_imputation(image: Image) -> Fill:
    """Returns the imputation by a strong Gaussian blur of the image itself: light and skin without features."""
    blurred = _blur(image, BLUR)
    return lambda mask: blurred


def mean_imputation(image: Image) -> Fill:
    """Returns the imputation by the mean colour of the whole image."""
    mean = jnp.broadcast_to(image.mean((1, 2), keepdims=True), image.shape)
    return lambda mask: mean


def road_imputation(image: Image) -> Fill:
    """Returns ROAD's noisy linear imputation (Rong et al. 2022), which hides the shape of the mask.

    Every masked pixel becomes the weighted mean of its eight neighbours, direct neighbours weighing twice as much as
    diagonal ones, plus noise. The masked pixels so solve a linear system; unmasked pixels, and only these, determine
    the solution. Conjugate gradients solve it, starting from blurs of the unmasked pixels, in at most as many steps as
    the image has pixels on its longer side: with 90% of a face masked, the result is within 0.002 of the solution. A
    pixel counts as masked where the mask is not 0. The noise is the same for all images. An image without any unmasked
    pixel becomes its mean colour.
    """
    noise = NOISE * jax.random.normal(jax.random.key(0), image.shape[1:])

    def fill(mask):
        unknown = (mask > 0).astype(jnp.float32)[..., None]
        known = image * (1 - unknown)
        count = (1 - unknown).sum((1, 2), keepdims=True)
        known_mean = known.sum((1, 2), keepdims=True) / jnp.maximum(count, 1)
        mean = jnp.where(count > 0, known_mean, image.mean((1, 2), keepdims=True))
        # The iteration starts from the narrowest blur that reaches known pixels.
        guess = jnp.broadcast_to(mean, image.shape)
        for deviation in _START_BLURS:
            # The blur of the known pixels divided by the blur of their mask is their weighted mean around each pixel.
            # Where nearly none is in reach, the guess from the coarser blur outweighs it.
            blurred = _blur(jnp.concatenate([known, 1 - unknown], axis=-1), deviation)
            colour, weight = blurred[..., :3], jnp.maximum(blurred[..., 3:], 0.0)
            guess = (colour + _MIN_KNOWN * guess) / (weight + _MIN_KNOWN)
        return jax.vmap(_solve_road)(image, unknown, known + unknown * guess) + unknown * noise[None]

    return fill


IMPUTATIONS: dict[str, Imputation] = {"blur": blur_imputation, "mean": mean_imputation, "road": road_imputation}


@functools.lru_cache
def _gaussian(n: int, deviation: float) -> resize.Matrix:
    """Returns the (n, n) weights of a Gaussian blur, `deviation` as a fraction of n, renormalized at the border."""
    x = np.arange(n)
    weights = np.exp(-(((x[:, None] - x[None, :]) / (deviation * n)) ** 2) / 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _blur(image: Array, deviation: float) -> Array:
    height, width = image.shape[1:3]
    planes = resize.separable(jnp.moveaxis(image, -1, 1), _gaussian(height, deviation), _gaussian(width, deviation))
    return jnp.moveaxis(planes, 1, -1)


def _solve_road(image: Array, unknown: Array, start: Array) -> Array:
    """Returns one image, (height, width, 3), whose unknown pixels are the weighted mean of their neighbours."""
    known = image * (1 - unknown)
    degree = _neighbour_sum(jnp.ones_like(unknown))  # less than 1 at the border, where some neighbours are missing

    # The system's matrix: symmetric and positive definite, as conjugate gradients need; the identity on known pixels.
    def system(x):
        return unknown * (degree * x - _neighbour_sum(unknown * x)) + (1 - unknown) * x

    # The tolerance stops only an iteration that has converged, where the next step would divide by zero.
    solution, _ = jax.scipy.sparse.linalg.cg(
        system,
        unknown * _neighbour_sum(known),
        x0=unknown * start,
        tol=0.0,
        atol=1e-4,
        maxiter=max(_MIN_STEPS, *image.shape),
    )
    return known + unknown * solution


def _neighbour_sum(x: Array) -> Array:
    """Returns the weighted sum of each pixel's neighbours: 1/6 for each of the direct, 1/12 for the diagonal ones."""

    def sides(x, axis):
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(3)])
        n = x.shape[axis]
        return jax.lax.slice_in_dim(padded, 0, n, axis=axis) + jax.lax.slice_in_dim(padded, 2, n + 2, axis=axis)

    # Above and below are summed for x + beside / 2, which adds the diagonal neighbours with half the weight.
    beside = sides(x, 1)
    return (beside + sides(x + beside / 2, 0)) / 6


class Effects(NamedTuple):
    """Probability drops of every class by occlusion of each AU's region, and by occlusion of control regions.

    A drop is 0 where `has_region` or `has_control` is False. `of_targets` differ in the fields about targets alone.
    """

    probability: Float[Array, "batch classes"]  # for the whole image
    probability_drop: Float[Array, "batch aus classes"]
    has_region: Bool[Array, "batch aus"]
    control_drop: Float[Array, "batch controls classes"]
    has_control: Bool[Array, "batch controls"]
    is_target: Bool[Array, "batch aus"]  # whether the AU, or one with the same region, is a target AU of the face
    of_targets: tuple["Effects", ...] = ()  # the same for each of the further `targets` of `occlude_aus`


def occlude_aus(
    classifier: Classifier,
    image: Image,
    landmarks: Float[Array | np.ndarray, "batch 68 2"],
    where: Bool[Array | np.ndarray, " batch"],
    *,
    codebook: Codebook,
    imputation: str = "blur",
    aus: Sequence[int] | None = None,
    targets: Sequence[Bool[Array | np.ndarray, "batch aus"]] = (),
    num_controls: int = NUM_CONTROLS,
) -> Effects:
    """Returns the probability drops by occlusion of each of `aus` (default: all of the codebook), per face in `where`.

    Pixels within the outline of the AU's ellipses are fully occluded, with a soft margin around. Controls measure the
    effect of occluding as large a part elsewhere on the face: an AU matters as far as its drop exceeds those of the
    controls. A control is the region of a target AU, moved within the face to where it covers the least of the regions
    of target AUs. Up to `num_controls` target AUs, spread over the list of AUs, have a control. Target AUs are those
    that the codebook lists for the predicted expression. `targets` are further sets of target AUs, such as those that a
    coder found active: which of `aus` each face has. Each set has controls of its own, in `Effects.of_targets`. AUs
    with the same region share one forward pass: the twenty AUs of `FACS` have sixteen regions, which makes 21 passes
    with four controls and the whole image, and four more for each further set.

    >>> from aujax.codebook import FACS
    >>> classifier = lambda image: jnp.zeros((len(image), 7))
    >>> image, landmarks = jnp.zeros((1, 56, 56, 3)), jnp.zeros((1, 68, 2))
    >>> compiled = jax.jit(functools.partial(occlude_aus, classifier, codebook=FACS))  # much faster than eagerly
    >>> effects = compiled(image, landmarks, jnp.array([False]))
    >>> effects.probability_drop.shape, effects.control_drop.shape
    ((1, 20, 7), (1, 4, 7))
    """
    aus = codebook.all_aus if aus is None else tuple(aus)
    au_codebook = single_aus(aus, geometry=codebook)
    groups = codebook.same_region(aus)
    in_group = np.array([[number in group for group in groups] for number in aus])
    probability = jax.nn.softmax(classifier(image))
    predicted = probability.argmax(-1)
    listed = jnp.array([[number in listed for number in aus] for listed in codebook.aus.values()])
    # Of every set, which regions are those of target AUs.
    target_sets = [(jnp.asarray(shown)[:, :, None] & in_group[None]).any(1) for shown in (listed[predicted], *targets)]

    size = image.shape[1:3]
    no_shift = jnp.zeros((len(image), 2))
    face = jax.vmap(functools.partial(au_maps.face_outline, size=size))(landmarks)
    # One AU of every distinct region, as an index into `aus`.
    first_aus = jnp.array([aus.index(group[0]) for group in groups], jnp.int32)
    region_aus = jnp.broadcast_to(first_aus[:, None], (len(groups), len(image)))

    def draw(au_index, shift):
        shifted = landmarks + shift[:, None, :]
        return au_maps.batch_au_maps(shifted, au_index, where, size=size, codebook=au_codebook)

    def add_region(so_far, group):
        au_index, is_target = group
        return jnp.maximum(so_far, draw(au_index, no_shift)[0] * is_target[:, None, None]), None

    def controls(is_target, target_map):
        control_aus = _control_aus(is_target, first_aus, num_controls).T
        # Controls keep off the target AUs, and off hair and background, which no expression depends on.
        avoid = jnp.maximum(target_map, 1.0 - face)
        return control_aus, jax.lax.map(lambda au: _control_shift(draw(au, no_shift)[0], avoid), control_aus)

    # The AU that each forward pass occludes, and how far its region is moved: first every region, then the controls.
    passes = [(region_aus, jnp.zeros((*region_aus.shape, 2)))]
    target_map, _ = au_maps.batch_au_maps(landmarks, predicted, where, size=size, codebook=codebook)
    passes.append(controls(target_sets[0], target_map))
    for is_target in target_sets[1:]:
        target_map, _ = jax.lax.scan(add_region, jnp.zeros_like(face), (region_aus, is_target.T))
        passes.append(controls(is_target, target_map))
    occluder = make_occluder(image, imputation)

    def drop(occlusion):
        region, has_region = draw(*occlusion)
        mask = jnp.minimum(region / metrics.REGION, 1.0)
        lost = probability - jax.nn.softmax(classifier(occluder(mask)))
        return jnp.where(has_region[:, None], lost, 0.0), has_region

    drops, drawn = jax.lax.map(drop, jax.tree.map(lambda *parts: jnp.concatenate(parts), *passes))
    starts = len(groups) + num_controls * np.arange(len(target_sets))
    region_drops, *control_drops = jnp.split(jnp.moveaxis(drops, 0, 1), starts, axis=1)
    has_region, *drawn_controls = jnp.split(drawn.T, starts, axis=1)
    group_of = in_group.argmax(1)
    first, *others = [
        Effects(
            probability,
            region_drops[:, group_of],
            has_region[:, group_of],
            control_drop,
            has_control,
            is_target[:, group_of],
        )
        for control_drop, has_control, is_target in zip(control_drops, drawn_controls, target_sets, strict=True)
    ]
    return first._replace(of_targets=tuple(others))


def _control_aus(
    group_is_target: Bool[Array, "batch groups"], region_aus: Int[Array, " groups"], num_controls: int
) -> Int[Array, "batch controls"]:
    """Returns which AUs' regions are moved as controls, spread over the regions of target AUs; -1 for none."""
    count = group_is_target.sum(-1, keepdims=True)
    chosen = jnp.minimum(count, num_controls)
    place = jnp.arange(num_controls)[None]
    # The first and the last region of a target AU, and others evenly in between.
    rank = jnp.round(place * (count - 1) / jnp.maximum(chosen - 1, 1)).astype(jnp.int32)
    group = (group_is_target.cumsum(-1)[:, None, :] == rank[..., None] + 1).argmax(-1)
    return jnp.where(place < chosen, region_aus[group], -1)


def _control_shift(region: Mask, avoid: Mask) -> Float[Array, "batch 2"]:
    """Returns the (x, y) shift in pixels of each region to where there is least to avoid, preferring short shifts.

    All shifts by whole cells of a `GRID` x `GRID` grid are compared at once, by a correlation in the Fourier domain.
    """
    shape, obstacle = resize.area_resize(region, (GRID, GRID)), resize.area_resize(avoid, (GRID, GRID))
    # Padded to twice the size, so that what leaves the image on one side does not come back on the other. The padding
    # costs 0, so it is the inside of the image that costs less by `_OFF_IMAGE_COST`.
    side = 2 * GRID
    spectrum = functools.partial(jnp.fft.rfft2, s=(side, side))
    cost_spectrum = spectrum(obstacle - _OFF_IMAGE_COST)
    cost = jnp.fft.irfft2(jnp.conj(spectrum(shape)) * cost_spectrum, s=(side, side))
    shift = np.fft.fftfreq(side, 1 / side)  # in cells: 0, 1, ..., -2, -1
    distance = np.hypot(shift[:, None], shift[None, :]) / GRID
    cost = cost / jnp.maximum(shape.sum((1, 2)), 1e-6)[:, None, None]
    cost = cost + _DISTANCE_COST * distance.astype(np.float32)[None]
    y, x = jnp.unravel_index(cost.reshape(len(cost), -1).argmin(-1), distance.shape)
    cell = np.array(region.shape[:0:-1], np.float32) / GRID  # (width, height) in pixels
    shift = jnp.asarray(shift, jnp.float32)
    return jnp.stack([shift[x], shift[y]], axis=-1) * cell[None]


class TargetAUSummary(NamedTuple):
    """How much the predicted expression depends on its target AUs, those that the codebook lists for it, per face.

    `target_drop`, `non_target_drop` and `control_drop` are mean probability drops of the predicted class.
    `top_is_target` is 1 if the AU of the largest drop is a target AU (a fraction if several AUs share that drop, 0 if
    no drop is positive), and `target_share` is the expected value of that for an AU drawn at random.
    A mean is 0 and without meaning if its mask is False: `has_target` (also of `top_is_target` and `target_share`) for
    an expression without target AUs, such as Neutral, or with none that has a region; `has_non_target` and
    `has_control` likewise.
    """

    target_drop: PerFace
    non_target_drop: PerFace
    control_drop: PerFace
    top_is_target: PerFace
    target_share: PerFace
    has_target: PerFaceMask
    has_non_target: PerFaceMask
    has_control: PerFaceMask


def target_au_summary(effects: Effects, *, aus: Sequence[int], codebook: Codebook) -> TargetAUSummary:
    """Returns the mean drops of the predicted class over its target AUs, over all other AUs, and over the controls.

    `aus` and `codebook` are those of `effects`. AUs with the same region count as one.
    """
    predicted = effects.probability.argmax(-1)
    drop, control = (
        jnp.take_along_axis(drops, predicted[:, None, None], axis=-1)[..., 0]
        for drops in (effects.probability_drop, effects.control_drop)
    )

    groups = {number: group for group in codebook.same_region(aus) for number in group}
    target = effects.is_target
    weight = effects.has_region * np.array([1 / len(groups[number]) for number in aus], np.float32)[None]
    target_weight, non_target_weight = weight * target, weight * ~target
    targets, non_targets = target_weight.sum(-1), non_target_weight.sum(-1)
    largest = jnp.where(effects.has_region, drop, -jnp.inf).max(-1, keepdims=True)
    top = weight * (drop == largest) * (largest > 0)

    def mean(values, weight):
        total = weight.sum(-1)
        return (weight * values).sum(-1) / jnp.where(total > 0, total, 1.0)

    return TargetAUSummary(
        target_drop=mean(drop, target_weight),
        non_target_drop=mean(drop, non_target_weight),
        control_drop=mean(control, effects.has_control.astype(jnp.float32)),
        top_is_target=mean(target, top),
        target_share=targets / jnp.maximum(targets + non_targets, 1e-6),
        has_target=targets > 0,
        has_non_target=non_targets > 0,
        has_control=effects.has_control.any(-1),
    )


def perturbation_curves(
    classifier: Classifier,
    image: Image,
    maps: Mapping[str, Array],
    expression: Int[Array, " batch"],
    *,
    kinds: Sequence[str] = ("deletion", "insertion"),
    imputation: str = "blur",
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, dict[str, Float[Array, "batch fractions"]]]:
    """Returns the probability of `expression` along perturbation curves (Petsiuk et al. 2018), by kind and map.

    "deletion" occludes the given fraction of the image, the cells where the map (batch, h, w) is highest; "insertion"
    occludes all but those. With the imputation "road", "deletion" is ROAD's curve, most relevant first (Rong et al.
    2022). Maps of any resolution are compared on `GRID` x `GRID` cells, ordered by `rank_cells`.

    >>> image = jnp.ones((1, 28, 28, 3)).at[:, 14:].set(0.0)
    >>> def classifier(image):
    ...     top, bottom = image[:, :14].mean((1, 2, 3)), image[:, 14:].mean((1, 2, 3))
    ...     return jnp.log(jnp.stack([top, bottom + 1], axis=-1))
    >>> maps, expression = {"top half": image[..., 0]}, jnp.array([0])
    >>> curves = perturbation_curves(
    ...     classifier, image, maps, expression, imputation="mean", fractions=(0.0, 0.5, 1.0)
    ... )
    >>> curves["deletion"]["top half"]
    Array([[0.5       , 0.33333334, 0.25      ]], dtype=float32)
    """
    ranks = jnp.stack([rank_cells(value) for value in maps.values()])
    occluder, size = make_occluder(image, imputation), image.shape[1:3]

    # A point of a curve occludes the cells of one map whose rank is in [low, high). The whole image and the fully
    # occluded image are the same for all maps, so that each takes one forward pass.
    points = []
    for kind in kinds:
        if kind not in ("deletion", "insertion"):
            raise ValueError(f"kind must be deletion or insertion, got {kind!r}")
        for map_index in range(len(maps)):
            for fraction in fractions:
                low, high = (0.0, fraction) if kind == "deletion" else (fraction, 1.0)
                if low == high:
                    points.append((0, 0.0, 0.0))
                else:
                    points.append((map_index if high - low < 1 else 0, low, high))
    distinct, row_of_point = np.unique(np.array(points), axis=0, return_inverse=True)

    def probability(point: Float[Array, "3"]):
        map_index, low, high = point
        order = ranks[map_index.astype(jnp.int32)]
        mask = resize.nearest(((order >= low) & (order < high)).astype(jnp.float32), size)
        probabilities = jax.nn.softmax(classifier(occluder(mask)))
        return jnp.take_along_axis(probabilities, expression[:, None], axis=-1)[:, 0]

    values = jax.lax.map(probability, jnp.asarray(distinct, jnp.float32))
    values = values[row_of_point.reshape(len(kinds), len(maps), len(fractions))]
    return {kind: {name: values[i, j].T for j, name in enumerate(maps)} for i, kind in enumerate(kinds)}


def rank_cells(maps: Float[Array, "batch h w"]) -> Float[Array, "batch GRID GRID"]:
    """Returns for each cell of a `GRID` x `GRID` grid the fraction of cells where the map is higher, in [0, 1).

    Equal values, and all of a degenerate map, are in a fixed random order.

    >>> (rank_cells(-jnp.arange(784.0).reshape(1, 28, 28)) * 784).round()[0, 0, :3]
    Array([0., 1., 2.], dtype=float32)
    """
    maps = cams.normalize(maps)
    enlarged = resize.bilinear(maps, tuple(max(n, GRID) for n in maps.shape[1:]))
    cells = resize.area_resize(enlarged, (GRID, GRID)).reshape(len(maps), -1)
    tie_break = jnp.asarray(np.random.default_rng(0).permutation(GRID**2))
    order = jax.vmap(lambda values: jnp.lexsort((tie_break, -values)))(cells)
    return (jnp.argsort(order, axis=-1) / GRID**2).reshape(-1, GRID, GRID)


def random_maps(index: Int[Array, " batch"]) -> Float[Array, "batch GRID GRID"]:
    """Returns a map of uniform noise for each face: the baseline for the order of occlusion.

    The map depends on the face's `index` in the split alone, and so is the same in every batch and run.
    """
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(jax.random.key(0), i), (GRID, GRID)))(index)
