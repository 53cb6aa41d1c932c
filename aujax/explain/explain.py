"""Explanations of the faces in photographs: the model of a run, its forward pass, and what is measured in each region.

Faces are loaded one by one and given to the network in batches. While the devices compute one batch, the photographs
of the next are loaded.
"""

import functools
import itertools
import operator
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from aujax import au_maps, augment, cams, codebook, methods, metrics, occlusion, resize, runs
from aujax.codebook import Codebook
from aujax.data import alignment, face_crops
from aujax.data.batch import Batch, data_mesh, one_ahead, replicated, to_mesh
from aujax.data.face_crops import FaceCrop, Problem, Source
from aujax.data.landmarks import Landmarks
from aujax.errors import UserError
from aujax.explain import explanation
from aujax.explain.explanation import Explanation, Region
from aujax.results import schema
from aujax.runs import Run

# The values of the option `align`; "run": as the run's data were prepared.
ALIGNMENTS = ("run", *alignment.FITS, "none")
# The resolution at which the AU map of the predicted expression is kept for the page.
AU_MAP_SIZE = (56, 56)
_FLOOR = 1e-8


class Model(NamedTuple):
    """A run with its folder, if it has one, and the temperature that divides its logits.

    `notes` are sentences, with the reason if probabilities are not calibrated.
    """

    run: Run
    workdir: pathlib.Path | None
    temperature: float
    notes: tuple[str, ...] = ()


class Measurements(NamedTuple):
    """What is computed about a batch of faces; dictionaries are by map, "attention" and (unless without) "cam".

    Action units with the same region share one entry of the axis `regions`, as in `Codebook.same_region`.

    Attributes:
      probability: of every class, at the temperature.
      maps: at the network's resolution.
      degenerate: whether a map is constant or not finite.
      share: the fraction of each map, counted from its minimum, inside each region; 0 for a degenerate map.
      area: the fraction of the image that each region covers.
      visible: whether the region is inside the image.
      drop: the drop of the predicted class's probability when the region is occluded.
      control_drop: the mean drop when equal areas elsewhere are occluded.
      has_control: whether there were such areas.
      outside: the fractions of the attention and of the image outside the face.
      au_map: of the predicted expression, `AU_MAP_SIZE`; 0 where there is none.
    """

    probability: Float[Array, "batch classes"]
    maps: dict[str, Array]
    degenerate: dict[str, Array]
    share: dict[str, Array]
    area: Float[Array, "batch regions"]
    visible: Bool[Array, "batch regions"]
    drop: Float[Array, "batch regions"]
    control_drop: Float[Array, " batch"]
    has_control: Bool[Array, " batch"]
    outside: tuple[Array, Array]
    au_map: Float[Array, "batch height width"]


def explain(
    run: Run | str | pathlib.Path,
    sources: Iterable[Source],
    *,
    faces: str = "one",
    align: str = "run",
    landmarks: str | Mapping[str, Landmarks | None] = "dlib",
    every: int = 1,
    batch_size: int = 32,
    images: int | None = 2000,
    on_problem: Callable[[Problem], None] = lambda problem: print(
        f"{problem.image}: {problem.reason}", file=sys.stderr
    ),
) -> list[Explanation]:
    """Returns the explanations of the faces in photographs, folders, videos and arrays, in their order.

    Args:
      run: a run folder, whose calibrated temperature is used if it has one, or a loaded run.
      sources: paths, or RGB arrays, uint8 of shape (height, width, 3).
      faces: "one", the most prominent face of each photograph, or "all".
      align: a row of `alignment.FITS`, "none", or "run": as the run's data were prepared.
      landmarks: "dlib" detects faces and landmarks, "none" uses whole photographs without landmarks; else the path of
        landmarks (see `aujax.data.landmarks`), or landmarks by name of the photograph, in its pixels.
      every: the interval of the frames of a video.
      batch_size: the largest number of faces in a batch.
      images: the number of faces, the first ones, whose explanations keep images and maps, about 0.4 MB each; None for
        all. Those of the others are empty.
      on_problem: called for each photograph that cannot be explained.

    Raises:
      UserError: an unknown option, or no photograph could be explained.
    """
    model = open_model(run)
    files, problems = face_crops.expand_folders(sources)
    explanations = []
    crops = face_crops.load_faces(
        files,
        find=face_crops.face_finder(landmarks, files),
        select=faces,
        align=alignment_of(model, align, faces),
        size=model.run.config.input_size,
        every=every,
    )
    for result in explain_faces(model, crops, batch_size=batch_size):
        if isinstance(result, Problem):
            problems.append(result)
        elif images is None or len(explanations) < images:
            explanations.append(result)
        else:
            explanations.append(result.without_images())
    for problem in problems:
        on_problem(problem)
    check_any(explanations, problems)
    return explanations


def open_model(run: Run | str | pathlib.Path) -> Model:
    """Returns the run, loaded from its folder if that is given, with the temperature in its calibration.json.

    A temperature that was fitted to another checkpoint or to other data is ignored, with a note.
    """
    if isinstance(run, Run):
        return Model(run, None, 1.0)
    workdir = pathlib.Path(run)
    loaded = runs.load_run(workdir)
    fingerprint = loaded.manifest["data"].get("fingerprint")
    temperature, problem = runs.temperature(loaded, workdir, fingerprint=fingerprint)
    if temperature is None:
        command = schema.eval_command(workdir, "validation")
        note = f"Probabilities are not calibrated. {problem} To calibrate them, run `{command}`."
        return Model(loaded, workdir, 1.0, (note,))
    return Model(loaded, workdir, temperature)


def alignment_of(model: Model, align: str, faces: str) -> str:
    """Returns how faces are aligned: a row of `alignment.FITS`, "five-point unless cropped" or "none".

    "five-point unless cropped" is for a run on data of cropped faces that are stored as they came, each source with
    margins of its own. A photograph that its only face fills is such a crop, and is used whole. A face in a larger
    photograph has to be cropped first, and the five-point template is the crop that all sources are close to.

    Raises:
      UserError: an unknown option, or `faces="all"` without alignment, which takes the whole photograph as one face.
    """
    for option, value, choices in (("align", align, ALIGNMENTS), ("faces", faces, face_crops.SELECTIONS)):
        if value not in choices:
            raise UserError(f"--{option}: expected one of {', '.join(choices)}, got {value!r}")
    if align == "run":
        try:
            prepared = runs.open_data(model.run, None).about
        except UserError:  # the data set was moved or deleted, or the run is a released model
            prepared = {"align": "five-point"}
        if prepared.get("align", "none") != "none":
            align = prepared["align"]
        elif prepared.get("cropped", False):
            align = "five-point unless cropped"
        else:
            align = "none"
    if align == "none" and faces != "one":
        raise UserError(
            f"--faces={faces}: the whole photograph is the input of this model, so it has one face; use "
            "--align=five-point to crop each face"
        )
    return align


def check_any(explanations: Sequence[Explanation], problems: Sequence[Problem]) -> None:
    """Raises a UserError if there is no explanation."""
    if not explanations:
        first = f"{problems[0].image}: {problems[0].reason}" if problems else "no photographs were given"
        raise UserError(
            f"expected photographs with faces, but none could be explained ({first}); give others, or "
            "--landmarks=none to use whole photographs"
        )


def explain_faces(
    model: Model, faces: Iterable[FaceCrop | Problem], *, batch_size: int
) -> Iterator[Explanation | Problem]:
    """Yields an explanation of each face, and the problems between them, in their order."""
    run = model.run
    mesh = data_mesh()
    book = codebook.load(run.config.codebook)
    variables = jax.device_put(run.variables, replicated(mesh))
    size = -(-batch_size // mesh.size) * mesh.size

    def started() -> Iterator[tuple[list[FaceCrop | Problem], Measurements | None]]:
        """Yields groups with the measurements of their faces, which the devices are still computing."""
        for group in _grouped(faces, size):
            examples = [face.example for face in group if isinstance(face, FaceCrop)]
            measurements = None
            if examples:
                rows = _padded_size(len(examples), size, mesh.size)
                padded = itertools.islice(itertools.cycle(examples), rows)  # the faces, again and again
                batch = Batch(*map(np.stack, zip(*padded, strict=True)))
                batch = batch._replace(valid=np.arange(rows) < len(examples))
                measurements = measure(
                    variables,
                    to_mesh(batch, mesh),
                    model.temperature,
                    model=run.model,
                    layer=run.attention_layer,
                    normalization=run.config.normalization,
                    book=book,
                )
            yield group, measurements

    for group, measurements in one_ahead(started()):
        columns = jax.device_get(measurements)
        row = 0
        for face in group:
            if isinstance(face, Problem):
                yield face
            else:
                yield make_explanation(face, jax.tree.map(operator.itemgetter(row), columns), book=book)
                row += 1


def _grouped(faces: Iterable[FaceCrop | Problem], size: int) -> Iterator[list[FaceCrop | Problem]]:
    """Yields groups of `size` faces (the last may have fewer) and the problems between them."""
    group = []
    count = 0
    for face in faces:
        group.append(face)
        count += isinstance(face, FaceCrop)
        if count == size:
            yield group
            group = []
            count = 0
    if group:
        yield group


def _padded_size(count: int, size: int, unit: int) -> int:
    """Returns the number of rows for a group of faces: `unit` times a power of two, at most `size`.

    A single photograph does not take as long as a full batch, and only a few batch sizes are compiled.

    >>> [_padded_size(count, 32, 1) for count in (1, 3, 31, 32)], _padded_size(5, 24, 8), _padded_size(17, 24, 8)
    ([1, 4, 32, 32], 8, 24)
    """
    return min(size, unit << (-(-count // unit) - 1).bit_length())


@functools.partial(jax.jit, static_argnames=("model", "layer", "normalization", "book"))
def measure(
    variables: methods.Variables,
    batch: Batch,
    temperature: Float[ArrayLike, ""],
    *,
    model: methods.Classifier,
    layer: str,
    normalization: str,
    book: Codebook,
) -> Measurements:
    """Returns the measurements of a batch, with the attention of `layer`; compiled once per model and batch shape."""

    def logits(image: Array) -> Any:
        output: Any = model.apply(variables, augment.normalize(image, normalization))
        return output / temperature

    image = jnp.asarray(batch.image, jnp.float32) / 255.0
    forward = methods.forward(model, variables, augment.normalize(image, normalization))
    maps = {"attention": forward.attention[layer]}
    if forward.cam is not None:
        maps["cam"] = forward.cam
    known = batch.has_landmarks & batch.valid
    effects = occlusion.occlude_aus(logits, image, batch.landmarks, known, codebook=book)
    return summarize(maps, effects, batch, book=book)


def summarize(
    maps: dict[str, Float[Array, "batch h w"]], effects: occlusion.Effects, batch: Batch, *, book: Codebook
) -> Measurements:
    """Returns the measurements from the maps and from the effects of occluding each action unit's region."""
    known = batch.has_landmarks & batch.valid
    size = batch.image.shape[1:3]
    groups = book.same_region(book.all_aus)
    first = np.array([book.all_aus.index(group[0]) for group in groups])
    predicted = effects.probability.argmax(-1)

    def of_predicted(drops: Float[Array, "batch occlusions classes"]) -> Float[Array, "batch occlusions"]:
        return jnp.take_along_axis(drops, predicted[:, None, None], axis=-1)[..., 0]

    controls = effects.has_control.sum(-1)
    au_map, _ = au_maps.batch_au_maps(batch.landmarks, predicted, known, size=size, codebook=book)
    face = jax.vmap(lambda points: au_maps.face_outline(points, size=size))(batch.landmarks)
    normalized = {name: cams.normalize(map_) for name, map_ in maps.items()}

    # A codebook in which each group of action units is an expression of its own draws the regions.
    single = codebook.single_aus([group[0] for group in groups], geometry=book)

    def region_shares(number: Array) -> tuple[dict[str, Array], Array]:
        rows = jnp.broadcast_to(number, known.shape)
        drawn, _ = au_maps.batch_au_maps(batch.landmarks, rows, known, size=size, codebook=single)
        region = (drawn >= metrics.REGION).astype(jnp.float32)
        return {name: share_inside(map_, region) for name, map_ in normalized.items()}, region.mean((1, 2))

    # One region after the other: the regions of all faces at full size at once would need much memory.
    share, area = jax.tree.map(lambda x: x.T, jax.lax.map(region_shares, jnp.arange(len(groups))))
    return Measurements(
        probability=effects.probability,
        maps=maps,
        degenerate={name: cams.degenerate(map_) for name, map_ in maps.items()},
        share=share,
        area=area,
        visible=effects.has_region[:, first],
        drop=of_predicted(effects.probability_drop)[:, first],
        control_drop=of_predicted(effects.control_drop).sum(-1) / jnp.maximum(controls, 1),
        has_control=controls > 0,
        outside=(1 - share_inside(normalized["attention"], face), 1 - face.mean((1, 2))),
        au_map=resize.area_resize(au_map, AU_MAP_SIZE),
    )


def share_inside(maps: Float[Array, "batch h w"], region: Float[Array, "batch height width"]) -> Float[Array, " batch"]:
    """Returns the fraction of each map, whose minimum is 0, inside the region; 0 for an empty map.

    >>> share_inside(jnp.ones((1, 2, 2)), jnp.zeros((1, 4, 4)).at[:, 0].set(1.0))
    Array([0.25], dtype=float32)
    """
    cells = resize.area_resize(region, maps.shape[1:])
    return (maps * cells).sum((1, 2)) / jnp.maximum(maps.sum((1, 2)), _FLOOR)


def make_explanation(face: FaceCrop, measured: Measurements, *, book: Codebook) -> Explanation:
    """Returns the explanation of a face from its row of the measurements, on the host."""
    probabilities = {name: float(p) for name, p in zip(book.expressions, measured.probability, strict=True)}
    expression = book.expressions[int(measured.probability.argmax())]
    targets = book.aus[expression]
    landmarks = face.location.landmarks
    regions = []
    for i, group in enumerate(book.same_region(book.all_aus)):
        if measured.visible[i]:
            region = Region(
                aus=group,
                place=explanation.PLACES[group[0]],
                target_aus=tuple(number for number in group if number in targets),
                area=float(measured.area[i]),
                attention=float(measured.share["attention"][i]),
                cam=float(measured.share["cam"][i]) if "cam" in measured.share else None,
                probability_drop=float(measured.drop[i]),
            )
            regions.append(region)
    area_outside = 0.0
    attention_outside = None
    eye_fraction = None
    if landmarks is not None:
        attention_outside, area_outside = map(float, measured.outside)
        left, right = alignment.five_points(np.asarray(face.example.landmarks))[:2]
        eye_fraction = float(np.hypot(*(right - left))) / face.example.image.shape[1]
    explained = Explanation(
        image=face.image.name,
        second=face.image.second,
        face=face.number,
        faces=face.count,
        box=face.location.box,
        landmarks=landmarks,
        thumbnail=face.thumbnail,
        aligned=face.aligned,
        expression=expression,
        probability=probabilities[expression],
        probabilities=probabilities,
        attention=np.asarray(measured.maps["attention"]),
        cam=np.asarray(measured.maps["cam"]) if "cam" in measured.maps else None,
        au_map=np.asarray(measured.au_map) if measured.au_map.max() > 0 else None,
        degenerate=tuple(name for name, value in measured.degenerate.items() if value),
        regions=tuple(regions),
        control_drop=float(measured.control_drop) if measured.has_control else None,
        attention_outside=attention_outside,
    )
    warnings = explanation.warnings(
        explained,
        enlargement=face.enlargement,
        eye_fraction=eye_fraction,
        unselected=face.unselected,
        area_outside=area_outside,
    )
    text = explanation.sentence(explained, has_targets=bool(targets))
    return explained._replace(text=text, warnings=tuple(warnings))
