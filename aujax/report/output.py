"""The folder into which a report is written."""

import os
import pathlib

from aujax.errors import UserError


def make_folder(folder: pathlib.Path, *names: str) -> None:
    """Makes a folder and its parents.

    Args:
      folder: to be made.
      names: of the files that will be written into it.

    Raises:
      UserError: the folder cannot be made, or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out: expected a folder to write into, but {folder} cannot be made ({error.strerror}); "
            "choose another folder"
        ) from error
    files = [folder / name for name in names]
    for path in files:
        if path.exists() and not path.is_file():
            raise UserError(f"--out: expected to write {path}, but there is a folder of that name; move it away")
    for path in (folder, *(path for path in files if path.exists())):
        if not os.access(path, os.W_OK):
            raise UserError(f"--out: expected to write into {path}, but it is not allowed; choose another folder")
