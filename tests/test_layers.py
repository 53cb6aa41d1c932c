"""Allowed imports between layers: arrays <- networks <- files and devices <- people, also inside functions."""

import ast
import fnmatch
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "aujax"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

ARRAYS = (
    *("codebook", "ellipses", "au_maps", "resize", "augment", "occlusion"),
    *("losses", "metrics", "cams"),
)
NETWORKS = ("methods", "models.*")
RUNS = (
    *(*ARRAYS, *NETWORKS, "checkpoints", "config", "data.*", "errors", "processes", "results.*"),
    *("files", "run_files", "runs", "weight_files"),
)
# The first matching row counts; "" is the package itself, which holds nothing but the version.
MAY_IMPORT = {
    "__init__.py": (),
    "errors.py": (),
    # arrays
    "codebook.py": (),
    "resize.py": (),
    "augment.py": ("resize",),
    "cams.py": ("resize",),
    "metrics.py": ("cams", "resize"),
    "losses.py": ("metrics", "resize"),
    "ellipses.py": ("codebook", "resize"),
    "au_maps.py": ("codebook", "ellipses", "resize"),
    "occlusion.py": ("au_maps", "cams", "codebook", "ellipses", "metrics", "resize"),
    # networks
    "models/taps.py": (),
    "models/pretrained.py": (*ARRAYS, "methods", "models.*"),  # fills the parameters of a row of METHODS
    "models/*": (*ARRAYS, "models.*"),
    "methods.py": ("augment", "cams", "models.*"),
    # files and devices
    "files.py": (),
    "run_files.py": ("errors",),
    "weight_files.py": ("errors", "files"),
    "processes.py": ("errors",),
    "checkpoints.py": ("errors", "processes"),
    "config.py": ("augment", "codebook", "errors", "methods", "models.resnet", "run_files"),
    "data/prepare.py": ("", "cli", "codebook", "data.*", "errors"),
    "data/*": ("", "codebook", "data.*", "errors", "files"),
    "results/__init__.py": ("results.*",),
    "results/*": ("errors", "files", "results.*", "run_files"),
    "runs.py": ("", *RUNS),
    "evaluation/*": (*RUNS, "evaluation.*"),
    "training/optimizer.py": ("config", "errors"),
    "training/memory.py": ("errors", "processes"),
    "training/step.py": (*ARRAYS, "config", "data.batch", "data.device_cache", "methods", "models.*"),
    "training/*": ("", *RUNS, "evaluation.*", "training.*"),
    "release/__main__.py": ("cli", "errors", "release.*"),
    "release/*": ("", *RUNS, "release.*", "training.*"),
    # people
    "report/__main__.py": ("cli", "errors", "report.*"),
    "report/*": ("", "codebook", "errors", "files", "report.*", "results.*", "run_files"),
    "explain/explanation.py": (),
    "explain/__main__.py": ("cli", "data.*", "errors", "explain.*", "report.*"),
    "explain/*": ("", *RUNS, "explain.*", "report.*"),
    "sweep.py": ("cli", *RUNS, "evaluation.*", "training.loop"),
    "cli.py": ("", *RUNS, "evaluation.*", "report.*", "training.*"),
}
# Packages that only some files may import.
ONLY_IN = {
    "cv2": ("data/*",),
    "PIL": ("data/*", "report/*"),
    "dlib": ("data/landmarks.py",),
    "tensorflow_datasets": ("data/*",),
    "grain": ("data/*",),
    "orbax": ("checkpoints.py",),
    "flax": ("models/*", "methods.py", "runs.py", "training/*", "evaluation/*", "release/*"),
    "pandas": ("results/*", "report/*"),
    "pyarrow": ("results/*",),
    "jinja2": ("report/html.py",),
    "tensorflow": (),
    "torch": (),
}
NEVER = {"jax": ("__init__.py", "codebook.py", "errors.py", "run_files.py", "results/*", "report/*")}


def _imports(file):
    """Returns the dotted names of all that a file imports, `from a import b` as a.b."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _of_ours(name):
    """Returns which module of the package a dotted name means: aujax.metrics.Mean is metrics, aujax is ""."""
    parts = name.split(".")[1:]
    while parts and not (PACKAGE.joinpath(*parts).with_suffix(".py").exists() or PACKAGE.joinpath(*parts).is_dir()):
        parts.pop()
    return ".".join(parts)


def _matches(name, patterns):
    return any(fnmatch.fnmatch(name, pattern) or name == pattern.removesuffix(".*") for pattern in patterns)


@pytest.mark.parametrize("file", FILES)
def test_file_imports_inward_only(file):
    rows = [allowed for pattern, allowed in MAY_IMPORT.items() if fnmatch.fnmatch(file, pattern)]
    assert rows, f"aujax/{file} has no row in MAY_IMPORT: decide what it may import"
    ours = {_of_ours(name) for name in _imports(file) if name.split(".")[0] == "aujax"}
    assert {name for name in ours if not _matches(name, rows[0])} == set()


@pytest.mark.parametrize("file", FILES)
def test_heavy_packages_stay_where_they_belong(file):
    packages = {name.split(".")[0] for name in _imports(file)}
    assert {name for name in packages if name in ONLY_IN and not _matches(file, ONLY_IN[name])} == set()
    assert {name for name in packages if _matches(file, NEVER.get(name, ()))} == set()


@pytest.mark.parametrize("name", ["aujax.losses.au_alignment", "aujax.data.sources.folder.parse", "aujax.__version__"])
def test_imported_thing_is_traced_to_its_module(name):
    expected = {"au_alignment": "losses", "parse": "data.sources.folder", "__version__": ""}
    assert _of_ours(name) == expected[name.split(".")[-1]]


def test_no_module_imports_itself_by_way_of_others():
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}
    graph = {
        name: {_of_ours(imported) for imported in _imports(file) if imported.split(".")[0] == "aujax"} & modules.keys()
        for name, file in modules.items()
    }
    done: set[str] = set()
    for start in graph:
        path, stack = [], [(start, False)]
        while stack:
            name, left = stack.pop()
            if left:
                path.pop()
                done.add(name)
            elif name not in done:
                assert name not in path, f"cycle: {' -> '.join([*path[path.index(name) :], name])}"
                path.append(name)
                stack.append((name, True))
                # Verb modules call cli.main at their end, and cli imports them when their verb is used.
                stack += [(other, False) for other in graph[name] - {name, "cli"}]
