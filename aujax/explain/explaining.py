"""From photographs to explanations: faces are read one by one, and given to the network in batches of one size."""

import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from aujax import codebook
from aujax.data import alignment, photos
from aujax.data.batch import Batch, data_mesh, replicated, to_mesh
from aujax.data.photos import Face, Finder, Landmarks, Problem, Source
from aujax.errors import UserError
from aujax.explain import reading, words
from aujax.explain.explanation import Explanation, Region
from aujax.explain.model import Model, finder, is_warped, keeps_cut_out, open_model
from aujax.explain.reading import Reading
from aujax.runs import Run


def explain(
    run: Run | str | pathlib.Path,
    sources: Iterable[Source],
    *,
    faces: str = "one",
    align: str = "run",
    landmarks: str | Mapping[str, Landmarks | None] = "dlib",
    every: int = 1,
    batch_size: int = 32,
    tell: Callable[[Problem], None] = lambda problem: print(f"{problem.photo}: {problem.reason}", file=sys.stderr),
) -> list[Explanation]:
    """Returns the explanations of the faces in photographs, folders, videos and arrays, in their order.

    Args:
      run: a run folder, whose temperature is taken if it has one, or a loaded run.
      sources: paths, or RGB arrays, uint8 of shape (height, width, 3).
      faces: "one", the most prominent of each photograph, or "all".
      align: "five-point", "none", or as the data of the "run" were prepared.
      landmarks: "dlib" finds faces and landmarks, "none" takes the whole picture without any; else a file of landmarks,
        see `aujax.data.landmarks`, or a table of them by name of the photograph, in its pixels.
      every: of a video's frames, every so many.
      batch_size: faces that the network gets at once; the last batch may be smaller.
      tell: is called for each photograph that cannot be explained.

    Raises:
      UserError: an option that is none of these, or nothing could be explained.
    """
    model = open_model(run)
    files, problems = photos.expand(sources)
    names = [str(file) for file in files if not isinstance(file, np.ndarray)]
    find = finder(landmarks, names=names) if isinstance(landmarks, str) else photos.as_given(landmarks)
    outcomes = list(outcomes_of(model, files, find=find, choose=faces, align=align, every=every, batch_size=batch_size))
    found = [outcome for outcome in outcomes if isinstance(outcome, Explanation)]
    problems += [outcome for outcome in outcomes if isinstance(outcome, Problem)]
    for problem in problems:
        tell(problem)
    check_any(found, problems)
    return found


def check_any(found: Sequence[Explanation], problems: Sequence[Problem]) -> None:
    """Raises a UserError if there is not one explanation."""
    if not found:
        first = f"{problems[0].photo}: {problems[0].reason}" if problems else "no photographs were given"
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(
            f"expected photographs with faces, but none could be explained ({first}{more}); give others, or "
            "--landmarks=none to take pictures whole"
        )


def outcomes_of(
    model: Model, sources: Iterable[Source], *, find: Finder, choose: str, align: str, every: int, batch_size: int
) -> Iterator[Explanation | Problem]:
    """Yields an explanation for each face, or why there is none; problems come before the faces of their batch.

    While the devices work on a batch, the photographs of the next one are read.
    """
    run, mesh = model.run, data_mesh()
    warped = is_warped(model, align, choose)
    variables = jax.device_put(run.variables, replicated(mesh))
    size = -(-batch_size // mesh.size) * mesh.size
    cut_out = {"keep_cut_out": keeps_cut_out(model, align)}
    faces = photos.read_faces(
        sources, find=find, choose=choose, align=warped, size=run.config.input_size, every=every, **cut_out
    )
    book, layer = codebook.load(run.config.codebook), run.model.method.aligned(run.config.au_layers)[-1]
    read = functools.partial(
        reading.read, model=run.model, layer=layer, normalization=run.config.normalization, book=book
    )
    waiting: tuple[list[Face], Reading] | None = None
    for group, problems in _grouped(faces, size):
        filled = _batch(group, _filled(len(group), size, mesh.size)) if group else None
        begun = read(variables, to_mesh(filled, mesh), model.temperature) if filled else None
        if waiting:
            yield from _explained(*waiting, book=book)
        yield from problems
        waiting = (group, begun) if begun is not None else None
    if waiting:
        yield from _explained(*waiting, book=book)


def _grouped(faces: Iterable[Face | Problem], size: int) -> Iterator[tuple[list[Face], list[Problem]]]:
    """Yields up to `size` faces at a time with the problems that came between them."""
    group: list[Face] = []
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


def _filled(count: int, size: int, unit: int) -> int:
    """Returns how many rows a group of faces gets: `unit` times a power of two, no more than `size`.

    A single photograph need not take as long as a full batch, and few lengths have to be compiled.

    >>> [_filled(count, 32, 1) for count in (1, 3, 31, 32)], _filled(5, 24, 8), _filled(17, 24, 8)
    ([1, 4, 32, 32], 8, 24)
    """
    return min(size, unit << (-(-count // unit) - 1).bit_length())


def _batch(faces: Sequence[Face], size: int) -> Batch:
    """Returns the faces as one batch, filled up with the first ones, which are not valid."""
    rows = [face.example for face in itertools.islice(itertools.cycle(faces), size)]
    stacked = Batch(*(np.stack(parts) for parts in zip(*rows, strict=True)))
    return stacked._replace(valid=np.arange(size) < len(faces))


def _explained(faces: Sequence[Face], batch: Reading, *, book: codebook.Codebook) -> Iterator[Explanation]:
    columns = jax.device_get(batch)
    for row, face in enumerate(faces):
        one = jax.tree.map(lambda column, row=row: column[row], columns)
        yield explanation(face, one, book=book)


def explanation(face: Face, reading: Reading, *, book: codebook.Codebook) -> Explanation:
    """Returns the explanation of a face from what was read of it, a row of a `Reading` on the host."""
    probabilities = {name: float(p) for name, p in zip(book.expressions, reading.probability, strict=True)}
    expression = book.expressions[int(reading.probability.argmax())]
    regions, landmarks = _regions(reading, expression, book), face.found.landmarks
    flat = tuple(name for name, patterned in reading.patterned.items() if not patterned)
    control = float(reading.control) if reading.controlled else None
    outside = None if landmarks is None else (float(reading.outside[0]), float(reading.outside[1]))
    probability, lists = probabilities[expression], bool(book.aus[expression])
    return Explanation(
        photo=face.photo.name,
        second=face.photo.second,
        face=face.number,
        faces=face.count,
        box=face.found.box,
        landmarks=landmarks,
        crop=face.crop,
        picture=face.picture,
        expression=expression,
        probability=probability,
        probabilities=probabilities,
        attention=np.asarray(reading.maps["attention"]),
        cam=np.asarray(reading.maps["cam"]) if "cam" in reading.maps else None,
        au_map=np.asarray(reading.au_map) if reading.au_map.max() > 0 else None,
        flat=flat,
        regions=regions,
        control=control,
        outside=None if outside is None else outside[0],
        text=words.sentence(expression, probability, regions, flat=flat, control=control, lists=lists),
        warnings=tuple(
            words.warnings(
                landmarks=landmarks,
                enlargement=face.enlargement,
                filled=_eyes_apart(face),
                left_out=face.left_out,
                probabilities=probabilities,
                flat=flat,
                outside=outside,
                regions=regions,
            )
        ),
    )


def _eyes_apart(face: Face) -> float | None:
    """Returns the distance between the eyes in sides of the network's picture; None without landmarks."""
    if not face.example.has_landmarks:
        return None
    left, right = alignment.five_points(np.asarray(face.example.landmarks))[:2]
    return float(np.hypot(*(right - left))) / face.example.image.shape[1]


def _regions(reading: Reading, expression: str, book: codebook.Codebook) -> tuple[Region, ...]:
    groups = book.same_region(book.all_aus)
    cam = reading.share.get("cam")
    return tuple(
        Region(
            aus=group,
            place=words.PLACES[group[0]],
            listed=tuple(number for number in group if number in book.aus[expression]),
            area=float(reading.area[i]),
            attention=float(reading.share["attention"][i]),
            cam=None if cam is None else float(cam[i]),
            effect=float(reading.effect[i]),
        )
        for i, group in enumerate(groups)
        if reading.drawn[i]
    )
