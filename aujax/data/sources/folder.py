"""Any folder of faces: a CSV file of labels, or one subfolder per expression.

Columns of the CSV file other than image, expression, subject_id and split are attributes of the faces, under the
names of the columns: gender, age, camera, or whatever else accuracy may depend on.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aujax.codebook import EXPRESSIONS
from aujax.data.images import files_below
from aujax.data.sources import Listing, Source, SourceImage, add_source_options, folder_contents, open_table, words
from aujax.errors import UserError

LABELS = "labels.csv"
# Names of split folders and of values in the split column. "validation" is taken as it is, although some data sets
# publish results on a split of that name.
_SPLIT_NAMES = """
    train training
    validation valid val dev
    test testing
"""
SPLIT_NAMES = {"": ""}
for _split, _aliases in words(_SPLIT_NAMES).items():
    SPLIT_NAMES |= dict.fromkeys([_split, *_aliases], _split)
# The usual names of each column, the first found is taken.
COLUMNS = words("""
    image image path file filename filepath
    expression expression label emotion class
    subject_id subject_id group identity person subject
    split split usage set
""")
# An expression and further names that mean it, compared as `_key` writes them.
SYNONYMS = words("""
    Neutral neutrality neu noexpression
    Happiness happy joy joyful smile smiling hap
    Surprise surprised surprising sur
    Fear fearful afraid scared fea
    Anger angry mad ang
    Disgust disgusted dis
    Sadness sad unhappy
""")
LEFT_OUT = "none"


def parse_classes(text: str) -> dict[str, str]:
    """Returns the mapping written as `name=Expression,name=Expression`; the expression `none` leaves a class out.

    Raises:
      UserError: an item without "=", or a name given twice.
    """
    classes = {}
    for item in text.split(","):
        if not item.strip():
            continue
        name, equals, expression = (part.strip() for part in item.partition("="))
        if not (name and equals and expression):
            raise UserError(f"--classes: expected name=Expression,name=Expression,..., got {item.strip()!r}")
        if classes.setdefault(name, expression) != expression:
            raise UserError(f"--classes: {name!r} is given twice; keep one of them")
    return classes


def parse_expressions(text: str) -> tuple[str, ...]:
    """Returns a data set's own expressions, written as `Name,Name,...`; the usual seven for an empty text."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(set(map(_key, names))) != len(names):
        raise UserError(f"--expressions: expected different names, got {text!r}")
    if len(names) == 1:
        raise UserError(f"--expressions: expected two names or more, got {text!r}")
    return names or EXPRESSIONS


def expression_ids(
    names: Iterable[str],
    *,
    expressions: Sequence[str] = EXPRESSIONS,
    classes: Mapping[str, str] = {},
) -> dict[str, int | None]:
    """Returns for each class name its index in `expressions`, or None for a class that `classes` leaves out.

    Names are compared without regard to case, spaces, "_" and "-", with the usual synonyms.

    Raises:
      UserError: names that no expression and no entry of `classes` explains, with their counts.
    """
    counts = Counter(names)
    unused = [name for name in classes if name not in counts]
    if unused:
        raise UserError(f"--classes: {unused[0]!r} is no class of this source; it has {', '.join(sorted(counts))}")
    known = {_key(expression): index for index, expression in enumerate(expressions)}
    for expression, synonyms in SYNONYMS.items():
        for name in synonyms if expression in expressions else ():
            known.setdefault(name, expressions.index(expression))
    ids = {}
    unknown = []
    for name in sorted(counts):
        target = _key(classes.get(name, name))
        if target == LEFT_OUT and name in classes:
            ids[name] = None
        elif target in known:
            ids[name] = known[target]
        elif name in classes:
            raise UserError(
                f"--classes: {name}={classes[name]}: expected one of {', '.join(expressions)} or {LEFT_OUT}"
            )
        else:
            unknown.append(name)
    if unknown:
        listed = ", ".join(f"{name!r} ({counts[name]})" for name in unknown)
        example = ",".join(f"{name}={expressions[i % len(expressions)]}" for i, name in enumerate(unknown))
        raise UserError(
            f"unknown class names: {listed}; expected names of {', '.join(expressions)} or their usual synonyms. "
            f"Map them to expressions, for example --classes={example}, or leave a class out with "
            f"{unknown[0]}={LEFT_OUT}. Numbers mean different expressions in different data sets."
        )
    return ids


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-")


def list_folder(options: argparse.Namespace) -> Listing:
    """Returns the faces of `options.source`: a CSV file, a folder with labels.csv, or folders named by expression.

    Raises:
      UserError: nothing there, no known layout, unknown class names, a missing column.
    """
    source = Path(options.source)
    if not source.exists():
        raise UserError(f"--source={source}: no such file or folder; correct the path")
    table = source if source.is_file() else source / LABELS
    return _list_csv(table, options) if table.is_file() else _list_class_folders(source, options)


def _list_csv(path: Path, options: argparse.Namespace) -> Listing:
    with open_table(path) as file:
        header_line = file.readline()
        delimiter = max(",;\t", key=header_line.count)  # spreadsheets of some languages write semicolons
        file.seek(0)
        reader = csv.DictReader(file, restval="", delimiter=delimiter)
        header = list(reader.fieldnames or ())
        rows = list(reader)
    columns = {}  # the file's name for each of `COLUMNS` that it has: the one that was chosen, or a usual one
    usual_names = {column.strip().casefold(): column for column in header}
    for what, usual in COLUMNS.items():
        option = f"--{what.replace('_', '-')}-column"
        chosen = getattr(options, f"{what}_column")
        if chosen and chosen not in header:
            raise UserError(f"{option}={chosen}: {path} has the columns {', '.join(header)}")
        matches = [usual_names[name] for name in usual if name in usual_names]
        if chosen or matches:
            columns[what] = chosen or matches[0]
        elif what in ("image", "expression"):
            raise UserError(
                f"{path}: expected a column {what!r}, found {', '.join(header) or 'an empty file'}; "
                f"name it with {option}=..."
            )
    if not rows:
        raise UserError(f"{path}: expected one line per image after the header, found none")

    expressions = parse_expressions(options.expressions)
    names = [row[columns["expression"]].strip() for row in rows]
    if "" in names:
        raise UserError(
            f"{path}, line {names.index('') + 2}: expected an expression, found an empty field; fill it in, or delete "
            f"the line ({names.count('')} of {len(names)} lines are like this)"
        )
    ids = expression_ids(names, expressions=expressions, classes=parse_classes(options.classes))
    # A column without a name is what pandas writes for its index.
    extra = [name for name in rows[0] if name and name.strip() and name not in columns.values()]
    images = []
    for line, row in enumerate(rows, start=2):
        values = {what: row[column].strip() for what, column in columns.items()}
        expression = ids[values["expression"]]
        if expression is None:
            continue
        image = values["image"]
        if not image:
            raise UserError(f"{path}, line {line}: expected the path of an image, found an empty field")
        if "\\" in image and not (path.parent / image).exists():
            image = image.replace("\\", "/")  # a path written on Windows
        split = values.get("split", "")
        if split.casefold() not in SPLIT_NAMES:
            raise UserError(
                f"{path}, line {line}: expected a split of train, validation, test or nothing, got {split!r}"
            )
        images.append(
            SourceImage(
                id=image,
                expression=expression,
                read=(path.parent / image).read_bytes,
                split=SPLIT_NAMES[split.casefold()],
                subject_id=values.get("subject_id", ""),
                attributes={column.strip(): row[column].strip() for column in extra if row[column].strip()},
            )
        )
    notes = []
    if extra:
        notes.append(f"{path.name}: kept as attributes of the faces: {', '.join(name.strip() for name in extra)}")
    return Listing(images, expressions, f"CSV file {path.name} with columns {', '.join(columns.values())}", notes)


def _list_class_folders(source: Path, options: argparse.Namespace) -> Listing:
    expressions = parse_expressions(options.expressions)
    split_folders = {}
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        split = SPLIT_NAMES.get(folder.name.casefold())
        if split and split_folders.setdefault(split, folder) != folder:
            raise UserError(
                f"--source={source}: both {split_folders[split].name} and {folder.name} mean the split {split!r}; "
                "put their class folders into one of them"
            )
    files = []  # (split, class name, image)
    for split, folder in (split_folders or {"": source}).items():
        for name, paths in class_files(folder).items():
            files += [(split, name, path) for path in paths]
    if not files:
        raise UserError(
            f"--source={source}: expected {LABELS} (columns image, expression and optionally subject_id, split), or "
            "one folder of images per expression, possibly below train/ and test/; found "
            f"{folder_contents(source)}. Write such a file or arrange the images so, or give the path of a CSV file"
        )
    names = [name for _, name, _ in files]
    ids = expression_ids(names, expressions=expressions, classes=parse_classes(options.classes))
    images = []
    for split, name, path in files:
        expression = ids[name]
        if expression is not None:
            images.append(SourceImage(path.relative_to(source).as_posix(), expression, path.read_bytes, split))
    layout = "<expression>/*"
    if split_folders:
        layout = f"{'|'.join(split_folders)}/{layout}"
    return Listing(images, expressions, f"folders {layout}")


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Returns the image files of each subfolder that has any, by the subfolder's name."""
    files = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith((".", "__MACOSX")):
            paths = files_below(child)
            if paths:
                files[child.name] = paths
    return files


def add_options(parser: argparse._ActionsContainer) -> None:
    """Adds the options of this source."""
    add_source_options(parser, "folder of faces, or a CSV file of labels")
    parser.add_argument(
        "--classes",
        default="",
        metavar="NAME=EXPRESSION,...",
        help="the expressions of class names; NAME=none leaves a class out (usual names are known, in any case)",
    )
    parser.add_argument(
        "--expressions",
        default="",
        metavar="NAME,NAME,...",
        help="the data set's own expressions in their order (default: the seven of the FACS codebook)",
    )
    for what, usual in COLUMNS.items():
        names = [f"--{what.replace('_', '-')}-column"]
        if what == "subject_id":
            names.append("--group-column")  # its former name
        parser.add_argument(*names, default="", metavar="COLUMN", help=f"CSV column (default: {' or '.join(usual)})")


SOURCE = Source(
    summary="any folder of faces with labels.csv, or with one subfolder per expression",
    terms="The licence of these images, and the consent of the people in them, are for their owner to state.",
    cropped=False,
    add_options=add_options,
    list_images=list_folder,
)
