"""The API reference: its list of modules, and how signatures and docstrings appear in it.

The list is found by walking the package, so that a new or renamed module needs no edit here; `GROUPS` only sorts it.

Signatures are printed as the source writes them (`Float[Array, "*batch h w"]`), because the evaluated annotations of
jaxtyping are long. Docstrings are plain text with Markdown's backticks, doctests and Google-style sections; what
reStructuredText would read as markup in them is escaped.
"""

import ast
import fnmatch
import inspect
import pathlib
import pkgutil
import re
import textwrap
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx

SECTIONS = ("Args:", "Attributes:", "Example:", "Examples:", "Raises:", "Returns:", "Yields:", "Note:", "References:")

# Title, what the modules have in common, and their names or patterns; a module belongs to the first group it matches.
GROUPS = (
    (
        "Arrays",
        "Pure functions of arrays, for JAX, without a network library: action units, AU maps, losses, metrics, class "
        "activation maps.",
        "codebook au_maps ellipses resize augment occlusion losses metrics cams",
    ),
    ("Networks", "The networks in Flax, their named activations, and the methods.", "methods models models.*"),
    ("Data", "From files to batches on the devices.", "data data.*"),
    ("Training", "The step, the loop, checkpoints and logs.", "training training.* checkpoints"),
    ("Evaluation", "A run on a split of its data set.", "evaluation evaluation.*"),
    ("Results", "The tables of numbers between evaluation and reports; no JAX.", "results results.*"),
    ("Reports", "Pages, tables and figures from the files of evaluated runs.", "report report.*"),
    ("Explanations", "Predictions, maps and action units of single images.", "explain explain.*"),
    ("Released models", "Import of released weights and export of runs.", "release release.*"),
    ("Runs and the command line", "Options, run folders, several processes, commands.", "*"),
)

INTRODUCTION = """# API reference

Generated from the docstrings. Shapes are written as [jaxtyping](https://docs.kidger.site/jaxtyping/) does:
`Float[Array, "*batch h w"]` is an array of floating-point numbers whose last two axes are height and width, after any
number of batch axes.
"""


def write_pages(package: ModuleType, folder: pathlib.Path) -> None:
    """Writes the pages of the reference in Markdown: one for each group of modules, and index.md with links to them."""
    names = [
        module.name.partition(".")[2] for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    rest = [name for name in names if not name.endswith("__main__")]
    index = INTRODUCTION
    entries = "\n```{toctree}\n:hidden:\n\n"
    folder.mkdir(parents=True, exist_ok=True)
    for title, summary, patterns in GROUPS:
        modules = [name for name in rest if any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split())]
        rest = [name for name in rest if name not in modules]
        if not modules:
            continue
        page = title.lower().replace(" ", "-")
        listed = "".join(f"   {package.__name__}.{name}\n" for name in modules)
        table = f"```{{eval-rst}}\n.. autosummary::\n   :toctree: .\n\n{listed}```\n"
        (folder / f"{page}.md").write_text(f"# {title}\n\n{summary}\n\n{table}", encoding="utf-8")
        links = ", ".join(f"{{py:mod}}`{name} <{package.__name__}.{name}>`" for name in modules)
        index += f"\n**[{title}]({page}.md).** {summary} {links}.\n"
        entries += f"{page}\n"
    (folder / "index.md").write_text(f"{index}{entries}```\n", encoding="utf-8")


def signature(obj: Any) -> str | None:
    """Returns the signature of a function, dataclass or NamedTuple as its source writes it, or None for the default."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))
        node = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    if isinstance(node, ast.ClassDef):
        return _fields(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = _without_self(node.args)
        result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"({ast.unparse(arguments)}){result}"
    return None


def _without_self(arguments: ast.arguments) -> ast.arguments:
    positional = arguments.posonlyargs or arguments.args
    if positional and positional[0].arg in ("self", "cls"):
        del positional[0]
    return arguments


def _fields(node: ast.ClassDef) -> str:
    """Returns the arguments of a class: those of __init__ if the class defines it, otherwise its annotated fields."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return f"({ast.unparse(_without_self(statement.args))})"
    fields = []
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            default = f" = {_default(statement.value)}" if statement.value else ""
            fields.append(f"{statement.target.id}: {ast.unparse(statement.annotation)}{default}")
    return f"({', '.join(fields)})"


def _default(value: ast.expr) -> str:
    """Returns the default of a field; of a call such as `option(32, AT_LEAST_ONE)` its first argument."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("option", "dataclasses.field", "field"):
        return ast.unparse(value.args[0]) if value.args else "..."
    return ast.unparse(value)


def plain_docstring(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring as reStructuredText.

    Doctests and sections such as "Raises:" stay as they are. Other indented lines become a literal block, so that
    tables and examples of command lines keep their layout. In prose, * | and _ are escaped outside backticks.
    """
    result: list[str] = []
    block = ""  # what the current paragraph is: "", "prose", "doctest", "section", "literal" or "item"
    for line in lines:
        text, indented = line.strip(), line.startswith((" ", "\t"))
        if not text:
            # A section and a literal block go on after an empty line if the next line is indented.
            block = block if block in ("section", "literal") else ""
            result.append("")
            continue
        if text.startswith(">>>") or block == "doctest":
            block = "doctest"
        elif not indented and text in SECTIONS:
            block = "section"
        elif not indented and re.match(r"([*-]|\d+\.) ", text):
            if block != "item":
                result.append("")
            block = "item"
        elif text.startswith("|") and (block == "literal" or not indented):
            if block != "literal":
                result += ["::", ""]
            block, line = "literal", line if indented else f"  {line}"
        elif indented and block in ("", "prose", "literal"):
            if block != "literal":
                result += ["", "::", ""]
            block = "literal"
        elif not indented:
            if block == "literal":
                result.append("")
            block = "prose"
        result.append(line if block in ("doctest", "literal") else _escape(line))
    return [*result, ""]


def _escape(line: str) -> str:
    """Escapes markup outside backticks, where a list's own star stays, and marks names such as `resize.bilinear`.

    A leading dot makes Sphinx look for the object of that name in all modules.
    """
    item = re.match(r"\s*[*-] ", line)
    start = item.end() if item else 0
    parts = line[start:].split("`")
    parts[::2] = [re.sub(r"([*|\\]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f".{part}" if re.fullmatch(r"\w+(\.\w+)+", part) else part for part in parts[1::2]]
    # A letter that follows a backtick directly, as in `UserError`s, needs an escaped blank.
    text = "`".join(parts)
    return line[:start] + re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", text)


def _process_signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str, result: str) -> Any:
    if what in ("class", "function", "method"):
        text = signature(obj)
        if text is not None:
            arguments, arrow, returns = text.rpartition(") -> ")
            return (f"{arguments})", returns) if arrow else (text, None)
    return None


def _process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain_docstring(lines)


def _skip_member(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    # The fields of a NamedTuple have a docstring each, "Alias for field number 0"; the signature lists them.
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> None:
    """Connects the functions above to autodoc."""
    app.connect("autodoc-process-signature", _process_signature)
    app.connect("autodoc-process-docstring", _process_docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _skip_member)
