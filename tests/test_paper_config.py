"""configs/paper.py: the 44 settings of the paper's tables."""

import importlib.util
import pathlib

import pytest

from aujax import methods
from aujax.config import from_config_dict
from aujax.report import paper as tables_of_the_paper

PATH = pathlib.Path(__file__).parents[1] / "configs" / "paper.py"
PAPER = tables_of_the_paper.METHODS
SETTINGS = [(method, data, au) for method in PAPER for data in ("rafdb", "affectnet") for au in ("true", "false")]


@pytest.fixture(scope="module")
def paper():
    spec = importlib.util.spec_from_file_location("paper", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(paper, setting):
    return from_config_dict(paper.get_config(setting))


@pytest.mark.parametrize(("method", "data", "au"), SETTINGS)
def test_every_setting_is_a_valid_configuration_of_its_own(paper, method, data, au):
    config = config_of(paper, f"method={method},dataset={data},au={au}")
    assert config.method.partition("/")[0] == method
    assert (config.epochs, config.data.batch_size) == {"rafdb": (100, 32), "affectnet": (20, 224)}[data]
    assert (config.au_weight > 0) == (au == "true")
    assert config.codebook == "REFERENCE"


def test_there_are_44_settings(paper):
    assert len({str(config_of(paper, "method={},dataset={},au={}".format(*setting))) for setting in SETTINGS}) == 44


def test_every_row_of_methods_is_a_setting_or_the_exact_variant_of_one(paper):
    selected = {config_of(paper, f"method={method}").method for method in PAPER}
    assert set(methods.METHODS) - selected == {"WILDCAT", "GradCAM++", "ADL"}


def test_with_and_without_au_cues_differ_in_nothing_else(paper):
    with_au, without = (paper.get_config(f"au={au}").to_dict() for au in ("true", "false"))
    assert {name for name in with_au if with_au[name] != without[name]} == {"au_weight"}


def test_the_published_command_is_met(paper):
    # README of the release: CAM with AU cues on AffectNet.
    config = config_of(paper, "dataset=affectnet")
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.momentum) == (0.002, 0.0005, 0.9)
    assert (optimizer.schedule, optimizer.step_epochs, optimizer.step_factor) == ("step", 4, 0.9)
    assert (config.au_weight, config.input_size, config.resize_size, config.data.batch_size) == (
        9.0,
        224,
        256,
        224,
    )


def test_apvit_has_a_small_input(paper):
    assert config_of(paper, "method=APViT").input_size == 112


def test_the_default_is_cam_on_rafdb_with_au_cues(paper):
    assert paper.get_config().to_dict() == paper.get_config("method=CAM,dataset=rafdb,au=true").to_dict()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method=FOO", r"configs/paper\.py: method must be one of CAM, WILDCAT, .*, APViT, got 'FOO'"),
        ("method=ADL/reference", "method must be one of CAM, .*got 'ADL/reference'"),
        ("dataset=RAF", "dataset must be one of rafdb, affectnet, got 'RAF'"),
        ("au=yes", "au must be one of true, false, got 'yes'"),
        ("model_selection=train", "model_selection must be one of validation, test, got 'train'"),
        ("CAM", r"expected method=\.\.\.,dataset=\.\.\.,au=\.\.\.,model_selection=\.\.\., got 'CAM'"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused_with_those_that_do(paper, setting, message):
    with pytest.raises(ValueError, match=message):
        paper.get_config(setting)


def test_the_best_epoch_is_selected_on_validation_unless_the_papers_protocol_is_requested(paper):
    settings = ("", "model_selection=test")
    assert [config_of(paper, setting).model_selection for setting in settings] == ["validation", "test"]
