"""Options: types, checks, and messages for wrong values."""

import ast
import dataclasses
import importlib.util
import pathlib

import pytest

from aujax import config as configs
from aujax import runs
from aujax.config import Config, DataConfig, from_config_dict
from aujax.errors import UserError

pytestmark = pytest.mark.jax_versions

ROOT = pathlib.Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "configs").glob("*.py"))


def options(**changed):
    return dataclasses.asdict(Config()) | changed


def test_a_config_dict_and_back_is_the_same_configuration():
    assert from_config_dict(Config(au_weight=2.5, au_layers=("layer4",)).to_config_dict().to_dict()) == Config(
        au_weight=2.5, au_layers=("layer4",)
    )


def test_a_whole_number_is_accepted_for_a_float():
    assert from_config_dict(options(au_weight=4)).au_weight == 4.0


def test_a_config_dict_refuses_new_names():
    with pytest.raises(AttributeError, match="au_weight"):
        Config().to_config_dict().au_wieght = 1.0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(from_config_dict(module.get_config()), Config)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"au_weight": -1.0}, r"--config\.au_weight: expected 0 or more, got -1\.0"),
        ({"model_selection": "train"}, r"--config\.model_selection: expected one of 'validation', 'test', got 'train'"),
        ({"au_weight": "much"}, r"--config\.au_weight: expected float, got 'much'"),
        ({"epochs": True}, r"--config\.epochs: expected int, got True"),
        ({"method": "FOO"}, r"--config\.method: expected one of 'CAM', .*, got 'FOO'"),
        ({"dtype": "float16"}, r"--config\.dtype: expected one of 'float32', 'bfloat16', got 'float16'"),
        ({"output_stride": 7}, r"--config\.output_stride: expected 8, 16, 32, or 0 for the backbone's own, got 7"),
        (
            {"au_layers": ("layer9",)},
            r"--config\.au_layers: CAM has no layer 'layer9'; expected some of layer1, .*layer5",
        ),
        ({"au_layers": ("layer5", "layer5")}, r"--config\.au_layers: expected different layers, got layer5, layer5"),
        (
            {"image_size": 64, "data": {"resize_size": 63}},
            r"--config\.data\.resize_size: expected the network's input of 64 pixels or more, got 63",
        ),
        (
            {"codebook": "MINE"},
            r"--config\.codebook: expected FACS, REFERENCE or the path of a \.json file, got 'MINE'",
        ),
        ({"au_wieght": 1.0}, r"--config\.au_wieght: no such option\. Did you mean au_weight"),
        ({"data": {"batch_size": 0}}, r"--config\.data\.batch_size: expected 1 or more, got 0"),
        ({"optimizer": {"momentum": 1.0}}, r"--config\.optimizer\.momentum: expected from 0 up to, not including, 1"),
        (
            {"method": "WILDCAT", "method_options": "kmax"},
            r"--config\.method_options: expected NAME=NUMBER, separated by commas, got 'kmax'",
        ),
        (
            {"method": "WILDCAT", "method_options": "kmax=2"},
            r"--config\.method_options: option kmax must be a number above 0, up to 1, got 2",
        ),
        (
            {"method_options": "kmax=0.3"},
            r"--config\.method_options: CAM has no option kmax; its options: none",
        ),
        ({"augment": {"hue": 0.6}}, r"--config\.augment\.hue: expected from 0 to 0\.5, got 0\.6"),
        ({"augment": {"flip_rate": 2.0}}, r"--config\.augment\.flip_rate: expected from 0 to 1, got 2\.0"),
        (
            {"augment": {"erase_area": (0.5, 0.1)}},
            r"--config\.augment\.erase_area: expected \(smallest, largest\) share",
        ),
    ],
)
def test_wrong_values_are_refused_by_name(changed, message):
    with pytest.raises(UserError, match=message):
        from_config_dict(options(**changed))


def test_alignment_needs_a_codebook_with_action_units(tmp_path):
    path = tmp_path / "empty.json"
    path.write_text('{"aus": {"Neutral": [], "Happiness": []}}')
    with pytest.raises(UserError, match=r"lists no action unit, but --config\.au_weight is above 0"):
        from_config_dict(options(codebook=str(path)))


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("data.resident", r"--config\.data\.resident is now --config\.data\.cache \(on -> device\)$"),
        ("data.load_size", r"--config\.data\.load_size is now --config\.data\.resize_size$"),
        ("protocol", r"is now --config\.model_selection \(heldout -> validation, paper -> test\)$"),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(old, message):
    with pytest.raises(UserError, match=message):
        configs.check_name(old)


def test_an_unknown_option_is_reported_with_the_nearest_names():
    with pytest.raises(UserError, match=r"--config\.flip_rate: no such option\. Did you mean augment\.flip_rate"):
        configs.check_name("flip_rate")


def test_every_option_is_read_somewhere():
    """As an attribute of what holds its group's options: `config.epochs`, `config.data.dir`, `policy.crop`."""
    holders = {"": {"config", "self"}, "data": {"data"}, "optimizer": {"options", "optimizer"}, "augment": {"policy"}}
    read = set()
    for path in (ROOT / "aujax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                holder = getattr(node.value, "attr", getattr(node.value, "id", ""))
                read |= {f"{group}.{node.attr}".lstrip(".") for group, names in holders.items() if holder in names}
    groups = {group for group in holders if group}
    assert not configs.OPTIONS.keys() - groups - read


def test_method_options_are_read_by_name():
    config = from_config_dict(options(method="WILDCAT", method_options="kmax=0.3, modalities=2"))
    assert configs.method_options(config) == {"kmax": 0.3, "modalities": 2.0}
    assert runs.build_model(config, 7).head.kmax == 0.3


def test_the_input_size_is_that_of_the_method_unless_configured():
    assert [Config(method=name).input_size for name in ("CAM", "APViT")] == [224, 112]
    assert Config(method="APViT", image_size=64).input_size == 64


def test_weight_files_are_separated_by_commas():
    assert Config(weights="a.pth, b.pth").weight_files == ("a.pth", "b.pth")
    assert Config().weight_files == ()


def test_training_images_are_resized_a_little_larger_than_the_input():
    assert [Config(method=name).resize_size for name in ("CAM", "APViT")] == [256, 128]
    assert Config(data=DataConfig(resize_size=300)).resize_size == 300


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("au_layers", "('layer4','layer5')", ("layer4", "layer5")),
        ("au_layers", "layer4, layer5", ("layer4", "layer5")),
        ("au_layers", "layer4", ("layer4",)),
        ("au_layers", "()", ()),
        ("rematerialize", "true", True),
        ("rematerialize", "False", False),
        ("data.dir", "3", "3"),
        ("au_weight", "1e-3", 0.001),
        ("epochs", "many", "many"),
    ],
)
def test_options_of_a_command_line_are_python_literals_or_text(name, text, value):
    assert configs.from_text(name, text) == value


def test_every_option_has_a_description_and_its_default_passes_its_check():
    for name, option in configs.OPTIONS.items():
        assert option.about, name
        assert option.check is None or option.check.holds(option.default), name
