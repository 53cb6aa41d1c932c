"""The folder that a report is written into."""

import pathlib

from aujax.errors import UserError


def make_folder(folder: pathlib.Path) -> None:
    """Make the folder with those above it; one that cannot be made is a UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out: expected a folder to write into, but {folder} cannot be made ({error.strerror}); "
            "choose another folder"
        ) from error
