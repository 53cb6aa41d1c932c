"""The authors' models as variables and back, with names and shapes from their description."""

import functools

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch_shapes
from torch_shapes import constant_state

from aujax import methods
from aujax.models import pretrained

# Tensors of the released file, step counters included, and parameters of the model.
PUBLISHED = {
    "CAM": (320, 23_522_375),
    "WILDCAT": (320, 23_579_747),
    "WILDCAT/reference": (320, 23_579_747),
    "GradCAM": (320, 23_522_375),
    "GradCAM++": (320, 23_522_375),
    "GradCAM++/reference": (320, 23_522_375),
    "ACoL": (330, 80_149_582),
    "PRM": (320, 23_522_375),
    "ADL": (320, 23_522_375),
    "ADL/reference": (320, 23_522_375),
    "CutMix": (320, 23_522_375),
    "LayerCAM": (320, 23_522_375),
    "TS-CAM": (152, 21_689_863),
    "APViT": (389, 65_209_543),
}
TINY = {"resnet50": "resnet_tiny", "deit_small": "vit_tiny", "apvit": "apvit_tiny"}


def test_every_method_has_its_numbers_here():
    assert set(PUBLISHED) == set(methods.METHODS)


@pytest.mark.parametrize("method", PUBLISHED)
def test_released_model_fills_the_variables_of_its_method(method):
    tensors, parameters = PUBLISHED[method]
    state = constant_state(torch_shapes.released(method))
    assert len(state) == tensors
    variables = pretrained.from_reference(state, method)
    leaves = jax.tree.leaves(variables)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    # Each tensor went to one place: the constants differ, and every one but the step counters is there once.
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert len({leaf.flat[0] for leaf in leaves}) == len(leaves) == tensors - counters


def variables_of(method, backbone):
    """Variables of a small network, each number another one."""
    model = methods.build_model(method, backbone=backbone)
    size = model.method.image_size
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    rng = np.random.default_rng(0)
    return {"batch_stats": {}, **jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)}


@pytest.mark.parametrize("method", PUBLISHED)
def test_conversion_to_the_released_names_and_back_changes_no_number(method):
    backbone = TINY[methods.METHODS[method].backbone]
    variables = variables_of(method, backbone)
    state = pretrained.to_reference(variables, method, backbone=backbone)
    again = pretrained.from_reference(state, method, backbone=backbone)
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), again, variables)


@pytest.mark.parametrize("method", ["CAM", "ADL", "TS-CAM", "APViT"])
def test_a_released_model_is_converted_back_unchanged(method):
    state = constant_state(torch_shapes.released(method))
    again = pretrained.to_reference(pretrained.from_reference(state, method), method)
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(again[name], tensor, strict=True)


def test_kernels_have_torchs_layout():
    variables = variables_of("CAM", "resnet_tiny")
    state = pretrained.to_reference(variables, "CAM", backbone="resnet_tiny")
    kernel = variables["params"]["backbone"]["stem_conv"]["kernel"]
    stem = state["encoder.conv1.weight"]
    assert stem.flags.c_contiguous
    for row, column, channel, out in ((0, 0, 0, 0), (1, 5, 2, 9), (6, 2, 1, 15)):
        assert stem[out, channel, row, column] == kernel[row, column, channel, out]
    linear = state["classification_head.fc.weight"]
    np.testing.assert_array_equal(linear, variables["params"]["head"]["fc"]["kernel"].T)


def test_dropouts_of_adl_have_numbers_among_the_blocks():
    state = constant_state(torch_shapes.released("ADL"))
    backbone = pretrained.from_reference(state, "ADL")["params"]["backbone"]
    for stage, numbers in enumerate(torch_shapes.AROUND_DROPOUTS, start=1):
        for block, number in enumerate(numbers):
            ours = backbone[f"stage{stage}_block{block}"]["conv2"]["kernel"]
            assert ours.flat[0] == state[f"encoder.layer{stage}.{number}.conv2.weight"].flat[0]


def test_rectifiers_of_acol_have_numbers_among_the_convolutions():
    state = constant_state(torch_shapes.released("ACoL"))
    head = pretrained.from_reference(state, "ACoL")["params"]["head"]
    theirs = state["classification_head.acol_pooler.classifier_B.2.weight"]
    assert head["branch_b"]["conv2"]["kernel"].flat[0] == theirs.flat[0]


def test_a_released_model_may_be_a_nested_dict():
    state = constant_state(torch_shapes.released("CAM"))
    nested = {
        part: {n.removeprefix(f"{part}."): x for n, x in state.items() if n.startswith(part)}
        for part in ("encoder", "classification_head")
    }
    flat, deep = pretrained.from_reference(state, "CAM"), pretrained.from_reference(nested, "CAM")
    assert [leaf.flat[0] for leaf in jax.tree.leaves(flat)] == [leaf.flat[0] for leaf in jax.tree.leaves(deep)]


def test_options_of_the_method_may_be_others():
    shapes = torch_shapes.released("WILDCAT") | torch_shapes.affine("classification_head.to_modalities", 21, 2048, 1, 1)
    variables = pretrained.from_reference(constant_state(shapes), "WILDCAT", options={"modalities": 3})
    assert variables["params"]["head"]["to_modalities"]["bias"].shape == (21,)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("CAM", r"expected 8 classes, the file has 7:\n  misshaped .*expected \(8,"),
        ("WILDCAT", r"expected 8 classes, the file has 7:\n  misshaped .*expected \(40,"),
        ("ACoL", r"expected 8 classes, the file has 7:\n  misshaped .*expected \(8,"),
        ("TS-CAM", r"expected 8 classes, the file has 7:\n  misshaped .*expected \(8,"),
        ("APViT", r"expected 8 classes, the file has 7:\n  misshaped .*expected \(8,"),
    ],
)
def test_another_number_of_classes_is_named(method, message):
    state = constant_state(torch_shapes.released(method))
    with pytest.raises(ValueError, match=f"do not fit method {method} with 8 classes: .* tensors differ; {message}"):
        pretrained.from_reference(state, method, num_classes=8)


@pytest.mark.parametrize(
    ("file", "method", "message"),
    [
        ("TS-CAM", "PRM", "look like the released weights of TS-CAM:"),
        ("PRM", "CAM", "look like the released weights of PRM:"),
        ("ADL", "CAM", "look like the released weights of ADL, ADL/reference:"),
    ],
)
def test_a_released_model_of_another_method_is_refused_by_its_name(file, method, message):
    state = constant_state(torch_shapes.released(file))
    with pytest.raises(
        ValueError, match=f"do not fit method {method} with 7 classes: .* tensors differ; they {message}"
    ):
        pretrained.from_reference(state, method)


def test_a_long_list_of_mismatches_is_cut_and_counted():
    state = constant_state(torch_shapes.released("CAM"))
    # The twelve tensors of a block (0 has the shortcut's five too) under another name.
    moved = {name.replace("layer3.5.", "layer5.5."): x for name, x in state.items()}
    with pytest.raises(ValueError, match="30 of 282 tensors differ; choose the model they belong to") as caught:
        pretrained.from_reference(moved, "CAM")
    lines = str(caught.value).splitlines()[1:]
    assert [line.split()[0] for line in lines] == 3 * ["missing"] + 3 * ["unexpected"] + 2 * ["and"]
    assert lines[-2:] == ["  and 12 more missing", "  and 12 more unexpected"]


def test_variables_of_another_method_are_refused():
    variables = variables_of("CAM", "resnet_tiny")
    with pytest.raises(ValueError, match=r"do not fit method PRM.*\n  missing params/head/conv/bias") as caught:
        pretrained.to_reference(variables, "PRM", backbone="resnet_tiny")
    assert "  unexpected params/head/fc/kernel" in str(caught.value).splitlines()


def test_a_transformer_for_images_of_another_size_is_converted_back():
    model = methods.build_model("TS-CAM", backbone="vit_tiny")
    variables = methods.init(model, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    state = pretrained.to_reference(variables, "TS-CAM", backbone="vit_tiny")
    again = pretrained.from_reference(state, "TS-CAM", backbone="vit_tiny", image_size=64)
    chex.assert_trees_all_equal(again, jax.device_get(variables))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: x.astype(np.int8), "int8"),
        (lambda x: x.astype(np.complex64), "complex64"),
        (lambda x: np.full_like(x, np.nan), "7 of 7 that are not"),
        (lambda x: np.where(np.arange(7) == 2, np.inf, x), "1 of 7 that are not"),
        (lambda x: np.full(x.shape, 1e300), "7 of 7 that are not"),
    ],
)
def test_numbers_that_cannot_be_weights_are_named(change, found):
    name = "classification_head.fc.bias"
    state = constant_state(torch_shapes.released("CAM"))
    state[name] = change(state[name])
    with pytest.raises(ValueError, match="1 of 267 tensors differ; choose the file as it was trained") as caught:
        pretrained.from_reference(state, "CAM")
    assert str(caught.value).splitlines()[1:] == [
        f"  unusable {name}: expected finite floating-point numbers, got {found}"
    ]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_any_floating_point_precision_can_be_weights(dtype):
    state = {name: np.zeros(x.shape, dtype) for name, x in constant_state(torch_shapes.released("CAM")).items()}
    variables = pretrained.from_reference(state, "CAM")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
