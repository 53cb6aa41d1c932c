"""Explanations of the faces in photographs: the model of a run, its forward pass, and what is measured in each region.

Faces are loaded one by one and given to the network in batches. While the devices compute one batch, the photographs
of the next are loaded.
"""

import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from aujax import au_maps, augment, cams, codebook, methods, metrics, occlusion, resize, run_files
from aujax.codebook import Codebook
from aujax.data import alignment, face_crops, store
from aujax.data.batch import Batch, data_mesh, one_ahead, replicated, to_mesh
from aujax.data.face_crops import FaceCrop, Finder, Problem, Source
from aujax.data.landmarks import DETECTORS, Landmarks, read_landmarks
from aujax.errors import UserError
from aujax.explain import narrative
from aujax.explain.explanation import Explanation, Region
from aujax.runs import Run, load_run, temperature

# The values of the option `align`; "run": as the run's data were prepared.
ALIGNMENTS = ("run", "five-point", "none")
# The resolution at which the AU map of the predicted expression is kept for the page.
AU_MAP_SIZE = (56, 56)
_FLOOR = 1e-8


class Model(NamedTuple):
    """A run with its folder, if it has one, and the temperature that divides its logits.

    `notes` are sentences about files of the folder that were ignored.
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
    on_problem: Callable[[Problem], None] = lambda problem: print(
        f"{problem.image}: {problem.reason}", file=sys.stderr
    ),
) -> list[Explanation]:
    """Returns the explanations of the faces in photographs, folders, videos and arrays, in their order.

    Args:
      run: a run folder, whose calibrated temperature is used if it has one, or a loaded run.
      sources: paths, or RGB arrays, uint8 of shape (height, width, 3).
      faces: "one", the most prominent face of each photograph, or "all".
      align: "five-point", "none", or "run": as the run's data were prepared.
      landmarks: "dlib" detects faces and landmarks, "none" uses whole photographs without landmarks; else the path of
        landmarks (see `aujax.data.landmarks`), or landmarks by name of the photograph, in its pixels.
      every: the interval of the frames of a video.
      batch_size: the largest number of faces in a batch.
      on_problem: called for each photograph that cannot be explained.

    Raises:
      UserError: an unknown option, or no photograph could be explained.
    """
    model = open_model(run)
    files, problems = face_crops.expand_folders(sources)
    if isinstance(landmarks, str):
        find = face_finder(landmarks, names=[str(file) for file in files if not isinstance(file, np.ndarray)])
    else:
        find = face_crops.landmark_finder(landmarks)
    explanations = []
    aligned = alignment_of(model, align, faces)
    for result in explain_faces(
        model, files, find=find, select=faces, align=aligned, every=every, batch_size=batch_size
    ):
        if isinstance(result, Problem):
            problems.append(result)
        else:
            explanations.append(result)
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
    loaded = load_run(workdir)
    if not (workdir / run_files.CALIBRATION).is_file():
        return Model(loaded, workdir, 1.0)
    calibrated = temperature(loaded, workdir, fingerprint=loaded.manifest["data"].get("fingerprint"))
    if calibrated.value is None:
        note = (
            f"Probabilities are not calibrated. {calibrated.problem} Evaluate the validation split again with eval.py."
        )
        return Model(loaded, workdir, 1.0, (note,))
    return Model(loaded, workdir, calibrated.value)


def attention_layer(run: Run) -> str:
    """Returns the layer whose attention is explained: the last one that the AU alignment acts on."""
    return run.model.method.aligned(run.config.au_layers)[-1]


def face_finder(landmarks: str, *, names: Sequence[str], model_file: str = "") -> Finder:
    """Returns how faces are found: by one of `DETECTORS`, as whole photographs ("none"), or from a file of landmarks.

    Args:
      landmarks: the name of a detector or a path.
      names: the photographs to look up in the file of landmarks.
      model_file: the weights of the detector; "" for the installed ones.
    """
    if landmarks not in DETECTORS:
        return face_crops.landmark_finder(read_landmarks(pathlib.Path(landmarks), names))
    detector = DETECTORS[landmarks].load(model_file)
    return face_crops.whole_image if detector is None else face_crops.detector_finder(detector)


def alignment_of(model: Model, align: str, faces: str) -> str:
    """Returns how faces are aligned: "five-point", "five-point unless cropped" or "none".

    "five-point unless cropped" is for a run on data of cropped faces that are stored as they came, each source with
    margins of its own. A photograph that its only face fills is such a crop, and is used whole. A face in a larger
    photograph has to be cropped first, and the five-point template is the crop that all sources are close to.

    Raises:
      UserError: an unknown option, or `faces="all"` without alignment, which takes the whole photograph as one face.
    """
    if align not in ALIGNMENTS:
        raise UserError(f"--align: expected one of {', '.join(ALIGNMENTS)}, got {align!r}")
    if faces not in face_crops.SELECTIONS:
        raise UserError(f"--faces: expected one of {', '.join(face_crops.SELECTIONS)}, got {faces!r}")
    if align == "run":
        prepared = preparation(model.run)
        if prepared.get("align", "none") != "none":
            align = "five-point"
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


def preparation(run: Run) -> dict[str, Any]:
    """Returns how the run's data were prepared; aligned by five points if the data cannot be found."""
    try:
        return store.open_faces(run.config.data.dir).about if run.config.data.dir else {"align": "five-point"}
    except UserError:
        return {"align": "five-point"}


def check_any(explanations: Sequence[Explanation], problems: Sequence[Problem]) -> None:
    """Raises a UserError if there is no explanation."""
    if not explanations:
        first = f"{problems[0].image}: {problems[0].reason}" if problems else "no photographs were given"
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(
            f"expected photographs with faces, but none could be explained ({first}{more}); give others, or "
            "--landmarks=none to use whole photographs"
        )


def explain_faces(
    model: Model, sources: Iterable[Source], *, find: Finder, select: str, align: str, every: int, batch_size: int
) -> Iterator[Explanation | Problem]:
    """Yields an explanation of each face or the problem with it; problems come before the faces of their batch.

    `align` is one of the results of `alignment_of`.
    """
    run = model.run
    mesh = data_mesh()
    book = codebook.load(run.config.codebook)
    variables = jax.device_put(run.variables, replicated(mesh))
    size = -(-batch_size // mesh.size) * mesh.size
    faces = face_crops.load_faces(
        sources,
        find=find,
        select=select,
        align=align != "none",
        size=run.config.input_size,
        every=every,
        keep_cropped=align == "five-point unless cropped",
    )

    def started() -> Iterator[tuple[list[FaceCrop], list[Problem], Measurements | None]]:
        """Yields the faces of each batch, the problems between them, and the measurements being computed."""
        for group, problems in _grouped(faces, size):
            measurements = None
            if group:
                rows = _padded_size(len(group), size, mesh.size)
                examples = [face.example for face in itertools.islice(itertools.cycle(group), rows)]
                batch = Batch(*(np.stack(arrays) for arrays in zip(*examples, strict=True)))
                batch = batch._replace(valid=np.arange(rows) < len(group))
                measurements = measure(
                    variables,
                    to_mesh(batch, mesh),
                    model.temperature,
                    model=run.model,
                    layer=attention_layer(run),
                    normalization=run.config.normalization,
                    book=book,
                )
            yield group, problems, measurements

    for group, problems, measurements in one_ahead(started()):
        yield from problems
        columns = jax.device_get(measurements)
        for i, face in enumerate(group):
            yield make_explanation(face, jax.tree.map(lambda column, i=i: column[i], columns), book=book)


def _grouped(faces: Iterable[FaceCrop | Problem], size: int) -> Iterator[tuple[list[FaceCrop], list[Problem]]]:
    """Yields up to `size` faces at a time, with the problems that came between them."""
    group: list[FaceCrop] = []
    problems: list[Problem] = []
    for face in faces:
        if isinstance(face, Problem):
            problems.append(face)
            continue
        group.append(face)
        if len(group) == size:
            yield group, problems
            group, problems = [], []
    if group or problems:
        yield group, problems


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
    drop = jnp.take_along_axis(effects.probability_drop, predicted[:, None, None], axis=-1)[..., 0]
    control = jnp.take_along_axis(effects.control_drop, predicted[:, None, None], axis=-1)[..., 0]
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
        drop=drop[:, first],
        control_drop=control.sum(-1) / jnp.maximum(controls, 1),
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
                place=narrative.PLACES[group[0]],
                target_aus=tuple(number for number in group if number in targets),
                area=float(measured.area[i]),
                attention=float(measured.share["attention"][i]),
                cam=float(measured.share["cam"][i]) if "cam" in measured.share else None,
                probability_drop=float(measured.drop[i]),
            )
            regions.append(region)
    degenerate = tuple(name for name, value in measured.degenerate.items() if value)
    control_drop = float(measured.control_drop) if measured.has_control else None
    outside = None
    eye_fraction = None
    if landmarks is not None:
        outside = (float(measured.outside[0]), float(measured.outside[1]))
        left, right = alignment.five_points(np.asarray(face.example.landmarks))[:2]
        eye_fraction = float(np.hypot(*(right - left))) / face.example.image.shape[1]
    return Explanation(
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
        degenerate=degenerate,
        regions=tuple(regions),
        control_drop=control_drop,
        attention_outside=None if outside is None else outside[0],
        text=narrative.sentence(
            expression,
            probabilities[expression],
            regions,
            degenerate=degenerate,
            control_drop=control_drop,
            has_targets=bool(targets),
        ),
        warnings=tuple(
            narrative.warnings(
                landmarks=landmarks,
                enlargement=face.enlargement,
                eye_fraction=eye_fraction,
                unselected=face.unselected,
                probabilities=probabilities,
                degenerate=degenerate,
                outside=outside,
                regions=regions,
            )
        ),
    )
