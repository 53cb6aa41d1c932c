"""The documents quote messages and name options that exist."""

import ast
import pathlib
import re

import pytest

from aujax.config import OPTIONS

ROOT = pathlib.Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text(encoding="utf-8")


def _literals() -> list[str]:
    """Returns the string literals of the package; what an f-string inserts is written as a null character."""
    texts = []
    for path in (ROOT / "aujax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


LITERALS = _literals()


@pytest.mark.parametrize("message", re.findall(r"^\*\*`(.+?)`\*\*$", GUIDE, re.MULTILINE))
def test_quoted_message_is_one_of_the_package(message):
    pattern = re.escape(message).replace(re.escape("..."), ".*")
    assert any(re.search(pattern, text, re.DOTALL) for text in LITERALS), message


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guides").glob("*.md")],
    ids=lambda path: path.stem,
)
def test_named_options_exist(path):
    if path.stem == "CHANGELOG":
        return  # it also lists names that were replaced
    named = set(re.findall(r"--config\.([a-z_]+(?:\.[a-z_]+)*)", path.read_text(encoding="utf-8")))
    assert named - OPTIONS.keys() == set()
