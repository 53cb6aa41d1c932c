"""Set-up of the tests: 8 virtual CPU devices, warnings are errors, shapes are checked, no rank promotion."""

import gc
import importlib.metadata
import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Programs of tests run for milliseconds: compile them fast rather than well.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones have no other emitters
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
# Programs are not annotated with lines of code, and several files and processes share them: `make test` names a folder.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Tracing makes many objects and little garbage: searching for it as often as usual takes a tenth of the time.
gc.set_threshold(200_000, 20, 100)

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
# The types of modules without shapes are checked by pyright alone: checking them here would take a fifth of the time.
_ROOT = pathlib.Path(__file__).parents[1]
_WITH_SHAPES = [path for path in (_ROOT / "aujax").rglob("*.py") if "from jaxtyping import" in path.read_text()]
install_import_hook(
    [".".join(path.relative_to(_ROOT).with_suffix("").parts) for path in _WITH_SHAPES], "typechecker.check"
)

import dataclasses
from collections.abc import Iterator

import browser
import pytest

from aujax.config import Config, DataConfig, OptimizerConfig


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run in CI that skipped a test: what it needs must be installed there."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")  # in worker processes there is none
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="module", autouse=True)
def release_compiled_programs() -> Iterator[None]:
    """Frees the compiled programs of each file of tests, which would take gigabytes together."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A prepared data set of drawn faces: 24 to train on, 8 to validate, 16 to test."""
    from aujax import cli

    out = tmp_path_factory.mktemp("data") / "faces"
    sizes = ["--train=24", "--validation=8", "--test=16", "--size=48"]
    cli.main(["prepare", "synthetic", f"--out={out}", "--jobs=1", *sizes])
    return out


@pytest.fixture(scope="session")
def tiny_config(tiny_data: pathlib.Path) -> Config:
    """A run of seconds: one thin residual network on 32-pixel faces for two epochs of three steps."""
    return Config(
        backbone="resnet_tiny",
        image_size=32,
        epochs=2,
        data=DataConfig(dir=str(tiny_data), resize_size=36, batch_size=8, eval_batch_size=8, read_threads=1),
        optimizer=OptimizerConfig(learning_rate=0.05),
    )


@pytest.fixture(scope="session")
def tiny_run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a finished run of `tiny_config`, evaluated on its test split."""
    from aujax.evaluation import evaluate
    from aujax.training.loop import train_and_evaluate

    workdir = tmp_path_factory.mktemp("run") / "run"
    train_and_evaluate(tiny_config, workdir)
    evaluate.evaluate_run(workdir, "test")
    return workdir


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory):
    """A headless browser, for the tests of pages."""
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium is installed; on Debian: apt-get install chromium")
    opened = browser.Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def with_options(tiny_config: Config):
    """Returns `tiny_config` with some options replaced."""

    def replace(**options: object) -> Config:
        return dataclasses.replace(tiny_config, **options)

    return replace


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list:
    """The matplotlib figures that were saved."""
    from aujax.report import plots

    saved, save = [], plots.save

    def keep(figure, path):
        saved.append(figure)
        return save(figure, path)

    monkeypatch.setattr(plots, "save", keep)
    return saved


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves figures as empty drawings, for tests of something else: drawing them takes seconds."""
    from aujax.report import plots

    def save(figure, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<svg/>")
        return path

    monkeypatch.setattr(plots, "save", save)


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Run folders without and with AU cues, evaluated on two splits with faithfulness; do not change them."""
    import evaluated_runs

    root = tmp_path_factory.mktemp("two runs")
    options = {"splits": ("test", "validation"), "faithfulness": True}
    weights = {"without": 0.0, "with": 4.0}
    return [evaluated_runs.make_run(root / name, au_weight=weight, **options) for name, weight in weights.items()]


@pytest.fixture(scope="session")
def seed_runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a sweep of the weight over 0, 0.5 and 4 of two seeds each, of RAF-DB; do not change it."""
    import evaluated_runs

    root = tmp_path_factory.mktemp("sweep")
    for weight in (0.0, 0.5, 4.0):
        for seed in (0, 1):
            evaluated_runs.make_run(
                root / f"au_weight={weight:g},seed={seed}", au_weight=weight, seed=seed, faithfulness=True,
                about={"name": "rafdb"}, backbone="",
            )  # fmt: skip
    return root
