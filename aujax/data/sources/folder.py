"""Any folder of faces: a CSV file of labels, or one sub-folder per expression.

Columns of the CSV file that are none of image, expression, group and split are attributes of the faces, under the
names of the columns: gender, age, camera, or whatever else accuracy may depend on.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from aujax.data.sources.listing import (
    FileBytes,
    Listing,
    Source,
    SourceImage,
    add_split_options,
    images_below,
    open_table,
)
from aujax.data.sources.names import expression_ids, parse_classes, parse_expressions
from aujax.errors import UserError

LABELS = "labels.csv"
# Folder and column words for the splits; the official "validation" of a data set is the user's to choose.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "": "",
}
COLUMNS = {
    "image": ("image", "path", "file", "filename", "filepath"),
    "expression": ("expression", "label", "emotion", "class"),
    "group": ("group", "identity", "person", "subject"),
    "split": ("split", "usage", "set"),
}


def list_folder(options: argparse.Namespace) -> Listing:
    """The faces of `options.source`: a CSV file, a folder holding labels.csv, or folders named by expression.

    Raises:
      UserError: nothing there, no known layout, unknown class names, a missing column.
    """
    source = Path(options.source)
    if not source.exists():
        raise UserError(f"--source={source}: no such file or folder; correct the path")
    if source.is_file():
        return _list_csv(source, options)
    if (source / LABELS).is_file():
        return _list_csv(source / LABELS, options)
    return _list_class_folders(source, options)


def _list_csv(path: Path, options: argparse.Namespace) -> Listing:
    rows, columns = _read_csv(path, options)
    expressions = parse_expressions(options.expressions)
    names = [row[columns["expression"]].strip() for row in rows]
    ids = expression_ids(names, expressions=expressions, classes=parse_classes(options.classes))
    extra = [name for name in rows[0] if name and name.strip() and name not in columns.values()]
    images = []
    for line, (row, name) in enumerate(zip(rows, names, strict=True), start=2):
        expression = ids[name]
        if expression is None:
            continue
        image = row[columns["image"]].strip()
        if not image:
            raise UserError(f"{path}, line {line}: expected the path of an image, found an empty field")
        images.append(
            SourceImage(
                id=image,
                expression=expression,
                read=FileBytes(path.parent / image),
                # A column without a name is what pandas writes for its index, and means none of these.
                split=_split(row[columns["split"]] if "split" in columns else "", path, line),
                group=row[columns["group"]].strip() if "group" in columns else "",
                attributes={column.strip(): row[column].strip() for column in extra if row[column].strip()},
            )
        )
    kept = ", ".join(name.strip() for name in extra)
    notes = [f"{path.name}: kept as attributes of the faces: {kept}"] if extra else []
    return Listing(images, expressions, f"CSV file {path.name} with columns {', '.join(columns.values())}", notes)


def _read_csv(path: Path, options: argparse.Namespace) -> tuple[list[dict[str, str]], dict[str, str]]:
    with open_table(path) as file:
        reader = csv.DictReader(file, restval="")
        header = list(reader.fieldnames or ())
        rows = list(reader)
    columns = {}
    for what, usual in COLUMNS.items():
        column = _find_column(getattr(options, f"{what}_column"), usual, header, path, what)
        if column:
            columns[what] = column
    for what in ("image", "expression"):
        if what not in columns:
            raise UserError(
                f"{path}: expected a column {what!r}, found {', '.join(header) or 'an empty file'}; "
                f"name it with --{what}-column=..."
            )
    if not rows:
        raise UserError(f"{path}: expected one line per image after the header, found none")
    return rows, columns


def _find_column(chosen: str, usual: Sequence[str], header: Sequence[str], path: Path, what: str) -> str:
    if chosen:
        if chosen not in header:
            raise UserError(f"--{what}-column={chosen}: {path} has the columns {', '.join(header)}")
        return chosen
    found = {column.strip().casefold(): column for column in header}
    return next((found[name] for name in usual if name in found), "")


def _split(text: str, path: Path, line: int) -> str:
    name = text.strip().casefold()
    if name not in SPLIT_NAMES:
        raise UserError(f"{path}, line {line}: expected a split of train, validation, test or nothing, got {text!r}")
    return SPLIT_NAMES[name]


def _list_class_folders(source: Path, options: argparse.Namespace) -> Listing:
    expressions = parse_expressions(options.expressions)
    split_folders: dict[str, Path] = {}
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        split = SPLIT_NAMES.get(folder.name.casefold())
        if split and (other := split_folders.setdefault(split, folder)) != folder:
            raise UserError(
                f"--source={source}: both {other.name} and {folder.name} mean the split {split!r}; "
                "put their class folders into one of them"
            )
    folders = split_folders or {"": source}
    files = {split: class_files(folder) for split, folder in folders.items()}
    if not any(files.values()):
        raise UserError(_no_layout(source))
    names = [name for found in files.values() for name, paths in found.items() for _ in paths]
    ids = expression_ids(names, expressions=expressions, classes=parse_classes(options.classes))
    images = [
        SourceImage(
            id=path.relative_to(source).as_posix(),
            expression=expression,
            read=FileBytes(path),
            split=split,
        )
        for split, found in files.items()
        for name, paths in found.items()
        if (expression := ids[name]) is not None
        for path in paths
    ]
    shape = "/".join(filter(None, ("|".join(filter(None, folders)), "<expression>", "*")))
    return Listing(images, expressions, f"folders {shape}")


def class_files(folder: Path) -> Mapping[str, list[Path]]:
    """For each sub-folder that holds images, its name and its image files."""
    found = {
        child.name: images_below(child)
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith((".", "__MACOSX"))
    }
    return {name: paths for name, paths in found.items() if paths}


def _no_layout(source: Path) -> str:
    inside = ", ".join(sorted(child.name for child in source.iterdir())[:8]) or "nothing"
    return (
        f"--source={source}: expected {LABELS} (columns image, expression and optionally group, split), or one "
        f"folder of images per expression, possibly below train/ and test/; found {inside}. "
        "Write such a file or arrange the images so, or give the path of a CSV file"
    )


def add_options(parser: argparse._ActionsContainer) -> None:
    """The options of this source."""
    parser.add_argument("--source", required=True, help="folder of faces, or a CSV file of labels")
    parser.add_argument(
        "--classes",
        default="",
        metavar="NAME=EXPRESSION,...",
        help="what class names mean; NAME=none leaves a class out (usual names are known, in any case)",
    )
    parser.add_argument(
        "--expressions",
        default="",
        metavar="NAME,NAME,...",
        help="the data set's own expressions in their order (default: the seven of the FACS codebook)",
    )
    for what, usual in COLUMNS.items():
        parser.add_argument(f"--{what}-column", default="", metavar="COLUMN", help=f"CSV column (default: {usual[0]})")
    add_split_options(parser)


SOURCE = Source(
    summary="any folder of faces with labels.csv, or with one sub-folder per expression",
    terms="Use of these images is between you and the people in them, and whoever gave them to you.",
    add_options=add_options,
    list_images=list_folder,
)
