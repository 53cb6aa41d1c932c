"""Who may import whom: arrays <- networks <- files and devices <- people. Imports inside functions count too."""

import ast
import fnmatch
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "aujax"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

DRAWING = ("codebook", "ellipses", "au_maps", "resize", "augment", "occlusion")
MEASURING = ("losses", "metrics", "cams", "bootstrap", "statistics", "calibration")
ARRAYS = (*DRAWING, *MEASURING)
NETWORKS = ("methods", "models.*")
FILES_OF_A_RUN = ("config", "data.*", "run_files", "runs", "weight_files")
RUNS = (*ARRAYS, *NETWORKS, *FILES_OF_A_RUN, "errors", "processes")
# The first matching row counts; "" is the package itself, which holds nothing but the version.
MAY_IMPORT = {
    "__init__.py": (),
    "errors.py": (),
    "processes.py": ("errors",),
    "checkpoints.py": ("errors",),
    "training/optimizer.py": ("config", "errors"),
    "training/process_watch.py": ("errors",),
    "training/log.py": ("processes", "run_files"),
    "training/memory.py": ("errors", "processes"),
    "plain_yaml.py": ("errors",),
    "run_files.py": ("errors",),
    "codebook.py": (),
    "resize.py": (),
    "bootstrap.py": (),
    "statistics.py": ("bootstrap",),
    "calibration.py": ("bootstrap", "errors"),
    "metrics.py": ("cams", "resize"),
    "losses.py": ("resize", "metrics"),
    "ellipses.py": ("codebook", "resize"),
    "au_maps.py": ("codebook", "ellipses", "resize"),
    "augment.py": ("resize",),
    "cams.py": ("resize",),
    "occlusion.py": ("au_maps", "cams", "codebook", "metrics", "resize"),
    "models/taps.py": (),
    "models/pretrained.py": (*ARRAYS, "models.*", "methods"),  # it builds the models whose names it converts
    "models/*": (*ARRAYS, "models.*"),
    "methods.py": ("augment", "cams", "models.*"),
    "sanity.py": (*ARRAYS, "methods", "models.*"),
    "config.py": ("augment", "codebook", "errors", "methods", "models.resnet", "run_files"),
    "config_files.py": ("config", "errors", "run_files"),
    "commandline.py": ("errors",),
    "cli.py": (
        *("", "commandline", "config_files", "errors", "evaluation.*", "occlusion", "report.*", "results.*", "runs"),
        *("training.loop", "training.process_watch"),
    ),
    "sweep.py": (
        *("cli", "commandline", "config", "config_files", "data.store", "data.feed", "errors", "evaluation.*"),
        *("run_files", "training.loop"),
    ),
    "data/*": ("", "codebook", "commandline", "data.*", "errors", "plain_yaml"),
    "weight_files.py": ("errors",),
    "training/step.py": (*ARRAYS, "config", "data.batch", "data.device_cache", "methods"),
    "training/loop.py": (*RUNS, "checkpoints", "evaluation.*", "training.*"),
    "training/__init__.py": (),
    "runs.py": (*ARRAYS, *NETWORKS, "checkpoints", "config", "data.*", "errors", "processes", "run_files"),
    "evaluation_summary.py": ARRAYS,
    "evaluation.py": ("", *RUNS, "evaluation_summary"),
    "evaluation_maps.py": ("data.batch", "evaluation"),
    "evaluation_files.py": ("", *RUNS, "evaluation*"),
    "faithfulness_files.py": (*RUNS, "evaluation", "sanity"),
    "release/__init__.py": (),
    "release/options.py": ("config", "errors", "methods", "models.backbones"),
    "release/__main__.py": ("commandline", "errors", "release.*"),
    "release/*": ("", *RUNS, "plain_yaml", "release.*"),
    "explain/__init__.py": ("explain.*",),
    "explain/explanation.py": (),
    "explain/narrative.py": ("explain.explanation",),
    "explain/explain.py": (*ARRAYS, "data.*", "errors", "explain.*", "methods", "run_files", "runs"),
    "explain/tables.py": ("", "codebook", "data.face_crops", "explain.*", "statistics"),
    "explain/page.py": ("codebook", "data.face_crops", "explain.*", "report.*"),
    "explain/__main__.py": ("commandline", "data.*", "errors", "explain.*", "report.*"),
    "report/__main__.py": ("cli", "report.*"),
    "report/*": ("", "codebook", "errors", "report.*", "results.*", "run_files"),
}
# Packages that only some files may import.
ONLY_IN = {
    "cv2": ("data/*",),
    "PIL": ("data/*", "report/html.py", "report/faces.py"),
    "dlib": ("data/detectors.py",),
    "tensorflow_datasets": ("data/*",),
    "grain": ("data/*",),
    "orbax": ("checkpoints.py",),
    "flax": ("models/*", "methods.py", "sanity.py", "runs.py", "training/*", "evaluation*.py", "release/*"),
    "tensorflow": (),
    "torch": (),
}
NEVER = {
    "jax": (
        *("__init__.py", "bootstrap.py", "calibration.py", "codebook.py", "errors.py", "run_files.py", "report/*"),
        "statistics.py",
    )
}


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


def test_the_report_imports_by_the_rows_of_its_table():
    """Every file of the report is in one row of the package's docstring, and imports from no row below."""
    table = ast.get_docstring(ast.parse((PACKAGE / "report" / "__init__.py").read_text(encoding="utf-8")))
    rows = [re.findall(r"`(\w+)`", line) for line in table.splitlines() if line.startswith("|")]
    place = {name: number for number, row in enumerate(rows) for name in row}
    files = {path.stem for path in (PACKAGE / "report").glob("*.py")} - {"__init__"}
    assert sorted(name for row in rows for name in row) == sorted(files)
    for name in files:
        used = {_of_ours(what).removeprefix("report.") for what in _imports(f"report/{name}.py")} & files
        assert [other for other in used if place[other] > place[name]] == [], name
