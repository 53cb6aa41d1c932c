"""The documents quote messages and name options that exist."""

import ast
import functools
import importlib
import pathlib
import re

import pytest

from aujax import cli
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


DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guides").glob("*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_named_options_exist(path):
    if path.stem == "CHANGELOG":
        return  # it also lists names that were replaced
    named = set(re.findall(r"--config\.([a-z_]+(?:\.[a-z_]+)*)", path.read_text(encoding="utf-8")))
    assert named - OPTIONS.keys() == set()


@functools.cache
def _options(verb: str) -> set[str]:
    """Returns the options of `aujax VERB`, with hyphens for underscores."""
    module = importlib.import_module(cli.VERBS[verb].module)
    parser = cli.Parser()
    getattr(module, cli.VERBS[verb].add_arguments)(parser)
    return {option.replace("_", "-") for option in parser.option_names()}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_have_the_options_that_they_are_given(path):
    if path.stem == "CHANGELOG":
        return  # it also lists names that were replaced
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for verb, given in re.findall(rf"\baujax ({'|'.join(cli.VERBS)})\b([^#|;&`'\n]*)", text):
        for option in re.findall(r"(?<!\S)--[a-z][\w.-]*", given):
            assert option.replace("_", "-") in _options(verb), (verb, option)
