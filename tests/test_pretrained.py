"""Weights with PyTorch's names and layouts, compared with its networks written in NumPy (channels first)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_shapes
from flax.traverse_util import flatten_dict
from numpy.lib.stride_tricks import sliding_window_view
from torch_shapes import BASIC, BOTTLENECK, random_state

from aujax import methods, runs, weight_files
from aujax.data.batch import data_mesh
from aujax.errors import UserError
from aujax.models import apvit, heads, pretrained, resnet, vit
from aujax.models.heads import LinearHead
from aujax.training import loop
from aujax.training.optimizer import optimizer_of
from aujax.training.step import Training

erf = np.vectorize(math.erf)


def conv(x, weight, stride, padding, bias=0.0):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("ihwyx,oiyx->ohw", windows, weight) + np.reshape(bias, (-1, 1, 1))


def batch_norm(x, state, name):
    scale, bias, mean, var = (
        state[f"{name}.{part}"].reshape(-1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def numpy_resnet(state, image, *, convs, strides):
    """Stem, max-pooling and four stages of one block; `convs` are (kernel, whether it strides) of a block."""
    x = np.maximum(batch_norm(conv(image, state["conv1.weight"], 2, 3), state, "bn1"), 0)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(-2, -1))
    for stage, stride in enumerate(strides, start=1):
        block, y = f"layer{stage}.0", x
        for i, (kernel, strided) in enumerate(convs, start=1):
            y = conv(y, state[f"{block}.conv{i}.weight"], stride if strided else 1, kernel // 2)
            y = batch_norm(y, state, f"{block}.bn{i}")
            y = np.maximum(y, 0) if i < len(convs) else y
        if f"{block}.downsample.0.weight" in state:
            x = batch_norm(conv(x, state[f"{block}.downsample.0.weight"], stride, 0), state, f"{block}.downsample.1")
        x = np.maximum(x + y, 0)
    return x


def imagenet_resnet(width, convs, expansion, **blocks):
    head = torch_shapes.affine("fc", 1000, 8 * width * expansion)
    return torch_shapes.resnet(width, convs, expansion, **blocks) | head


def imagenet_vit():
    return torch_shapes.vit(48, 3, 17) | torch_shapes.affine("head", 1000, 48)


IMAGE = np.random.default_rng(1).normal(size=(3, 64, 64)).astype(np.float32)


def zeros(model, size):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)


def loaded(state, model, size=64):
    return pretrained.load_backbone(state, model, zeros(model, size))


def read(model, variables):
    return jax.jit(functools.partial(methods.apply_with_taps, model))(
        variables, jnp.asarray(IMAGE.transpose(1, 2, 0))[None]
    )


@pytest.mark.parametrize(
    ("block", "convs", "expansion", "output_stride", "strides"),
    [(resnet.BasicBlock, BASIC, 1, 32, (1, 2, 2, 2)), (resnet.Bottleneck, BOTTLENECK, 4, 8, (1, 2, 1, 1))],
)
def test_resnet_with_torchvision_weights_computes_what_torchs_network_does(
    block, convs, expansion, output_stride, strides
):
    state = random_state(imagenet_resnet(8, convs, expansion))
    network = resnet.ResNet((1, 1, 1, 1), block, width=8, output_stride=output_stride)
    model = methods.Classifier(methods.METHODS["CAM"], network, LinearHead(7))
    got = read(model, loaded(state, model))
    want = numpy_resnet(state, IMAGE.astype(float), convs=convs, strides=strides)
    np.testing.assert_allclose(got.activations["layer5"][0].transpose(2, 0, 1), want, atol=1e-5 * want.max())


def layer_norm(x, state, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return centred / spread * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def numpy_vit(state, image, *, depth, heads):
    """Tokens (17, dim) after the last LayerNorm, and the class token's attention summed over blocks."""
    patches = conv(image, state["patch_embed.proj.weight"], 16, 0, state["patch_embed.proj.bias"])
    x = np.concatenate([state["cls_token"][0], patches.reshape(len(patches), -1).T]) + state["pos_embed"][0]
    attention = 0.0
    for b in range(depth):
        qkv = linear(layer_norm(x, state, f"blocks.{b}.norm1"), state, f"blocks.{b}.attn.qkv")
        q, k, v = (part.reshape(len(x), heads, -1).swapaxes(0, 1) for part in np.split(qkv, 3, axis=-1))
        scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]))
        weights = scores / scores.sum(axis=-1, keepdims=True)
        attention = attention + weights[:, 0].mean(axis=0)
        x = x + linear((weights @ v).swapaxes(0, 1).reshape(x.shape), state, f"blocks.{b}.attn.proj")
        y = linear(layer_norm(x, state, f"blocks.{b}.norm2"), state, f"blocks.{b}.mlp.fc1")
        x = x + linear(y * (1 + erf(y / math.sqrt(2))) / 2, state, f"blocks.{b}.mlp.fc2")
    return layer_norm(x, state, "norm"), attention


def test_vit_with_timm_weights_computes_what_timms_network_does():
    state = random_state(imagenet_vit())
    model = methods.build_model("TS-CAM", backbone="vit_tiny")
    got = read(model, loaded(state, model))
    tokens, attention = numpy_vit(state, IMAGE.astype(float), depth=3, heads=3)
    np.testing.assert_allclose(got.activations["tokens"][0].reshape(16, 48), tokens[1:], atol=2e-5)
    np.testing.assert_allclose(got.activations["attention"].reshape(16), attention[1:], atol=1e-6)


@pytest.fixture
def tiny():
    return random_state(imagenet_resnet(16, BASIC, 1)), methods.build_model("CAM", backbone="resnet_tiny")


def test_our_head_is_unchanged_and_the_imagenet_head_ignored(tiny):
    state, model = tiny
    head = loaded(state, model)["params"]["head"]["fc"]
    assert head["kernel"].shape == (128, 7)
    assert not head["kernel"].any()


@pytest.mark.parametrize("prefix", ["model.", "module.", "state_dict.module."])
def test_the_wrappers_of_training_scripts_are_removed(tiny, prefix):
    state, model = tiny
    wrapped = loaded({prefix + name: x for name, x in state.items()}, model)
    jax.tree.map(np.testing.assert_array_equal, wrapped, loaded(state, model))


def test_every_mismatch_is_named_in_one_error(tiny):
    state, model = tiny
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["layer5.0.conv1.weight"] = state.pop("layer4.0.conv1.weight")
    del state["bn1.running_mean"]
    with pytest.raises(ValueError, match="do not fit the backbone of method CAM: 4 of ") as caught:
        loaded(state, model)
    assert str(caught.value).splitlines()[1:] == [
        "  missing bn1.running_mean (16,)",
        "  missing layer4.0.conv1.weight (128, 64, 3, 3)",
        "  unexpected layer5.0.conv1.weight (128, 64, 3, 3)",
        "  misshaped conv1.weight: expected (16, 3, 7, 7), got (16, 1, 7, 7)",
    ]


def cubic_weights(n_in, n_out):
    """Bicubic weights with antialiasing as PyTorch computes them (Keys' kernel with a = -1/2)."""
    scale = max(n_in / n_out, 1.0)
    centre = (np.arange(n_out)[:, None] + 0.5) * n_in / n_out
    t = np.abs(np.arange(n_in) + 0.5 - centre) / scale
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("side", [2, 4, 6])
def test_position_embedding_of_another_grid_is_resampled_as_timm_does_it(side):
    state = random_state(imagenet_vit())
    model = methods.build_model("TS-CAM", backbone="vit_tiny")
    got = loaded(state, model, size=16 * side)["params"]["backbone"]["pos_embed"]
    axis = cubic_weights(4, side)
    grid = np.einsum("abc,ya,xb->yxc", state["pos_embed"][0, 1:].reshape(4, 4, 48), axis, axis)
    np.testing.assert_allclose(got[0, 1:], grid.reshape(-1, 48), atol=1e-6)
    np.testing.assert_array_equal(got[0, 0], state["pos_embed"][0, 0])


def test_a_distilled_transformer_is_refused_by_its_extra_token():
    state = random_state(imagenet_vit()) | {"dist_token": np.zeros((1, 1, 48), np.float32)}
    with pytest.raises(ValueError, match=r"unexpected dist_token \(1, 1, 48\)"):
        loaded(state, methods.build_model("TS-CAM", backbone="vit_tiny"))


def test_a_network_without_known_names_is_refused(tiny):
    model = methods.Classifier(methods.METHODS["CAM"], vit.vit_tiny(), LinearHead(7))
    with pytest.raises(ValueError, match="no PyTorch name is known for params/backbone/"):
        loaded(tiny[0], model)


def test_the_network_of_adl_takes_imagenets_blocks_one_by_one():
    state = random_state(imagenet_resnet(64, BASIC, 1, blocks=4 * ((0, 1),)))
    backbone = loaded(state, methods.build_model("ADL", backbone="resnet18"))["params"]["backbone"]
    for stage in range(1, 5):
        for block in range(2):
            kernel = backbone[f"stage{stage}_block{block}"]["conv1"]["kernel"]
            np.testing.assert_array_equal(kernel, state[f"layer{stage}.{block}.conv1.weight"].transpose(2, 3, 1, 0))


UNITS = (2, 1, 3)
# What the whole files hold beyond the parts that are used here.
IR_50_REST = torch_shapes.batch_norm("body.21.res_layer.0", 256) | torch_shapes.affine("output_layer.3", 512, 25088)
VIT_SMALL_REST = torch_shapes.affine("head", 1000, 48)


@pytest.fixture(scope="module")
def parts():
    """A small APViT, and the two files that start it: the extractor's and the transformer's."""
    network = apvit.APViT(UNITS, width=8, channels=48, depth=3, heads=3, mlp_ratio=3, pooled_from=1)
    extractor = torch_shapes.iresnet(8, UNITS, flat=True) | IR_50_REST
    transformer = torch_shapes.vit(48, 3, 197, ratio=3, qkv_bias=False) | VIT_SMALL_REST
    model = methods.Classifier(methods.METHODS["APViT"], network, heads.ClassTokenHead(7))
    return model, random_state(extractor), random_state(transformer)


def test_the_extractor_of_apvit_takes_units_that_are_counted_through(parts):
    model, extractor, _ = parts
    got = loaded(extractor, model, size=112)
    units = [f"stage{stage}_unit{unit}" for stage, size in enumerate(UNITS, start=1) for unit in range(size)]
    for number, unit in enumerate(units):
        ours = got["params"]["backbone"]["extractor"][unit]
        kernel = extractor[f"body.{number}.res_layer.3.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(ours["conv2"]["kernel"], kernel)
        np.testing.assert_array_equal(ours["prelu"]["slope"], extractor[f"body.{number}.res_layer.2.weight"])


def test_the_transformer_of_apvit_takes_the_position_embedding_in_two_parts(parts):
    model, _, transformer = parts
    got = loaded(transformer, model, size=112)["params"]["backbone"]
    np.testing.assert_array_equal(got["cls_pos_embed"], transformer["pos_embed"][:, :1])
    np.testing.assert_array_equal(got["patch_pos_embed"], transformer["pos_embed"][:, 1:])
    np.testing.assert_array_equal(got["block2"]["qkv"]["kernel"], transformer["blocks.2.attn.qkv.weight"].T)


def test_each_of_two_files_fills_its_part_in_any_order(parts):
    model, extractor, transformer = parts
    drawn = jax.tree.map(lambda leaf: leaf + np.float32(np.nan), zeros(model, 64))
    one = pretrained.load_backbone(transformer, model, pretrained.load_backbone(extractor, model, drawn))
    other = pretrained.load_backbone(extractor, model, pretrained.load_backbone(transformer, model, drawn))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    left = {path for path, leaf in flatten_dict(one, sep="/").items() if np.isnan(leaf).any()}
    ours = ("backbone/projection", "head/fc")
    assert left == {f"params/{layer}/{leaf}" for layer in ours for leaf in ("kernel", "bias")}


@pytest.fixture
def started(with_options, tmp_path, monkeypatch):
    """Returns the backbone of a run that starts from files of these state dicts, and from zeros elsewhere."""

    def start(states):
        for name, state in states.items():
            weight_files.write(tmp_path / f"{name}.safetensors", state, {})
        names = ", ".join(str(tmp_path / f"{name}.safetensors") for name in states)
        config = with_options(method="APViT", backbone="apvit_tiny", image_size=64, weights=names)
        monkeypatch.setattr(runs, "initial_variables", lambda model, _: zeros(model, 64))
        tx, _ = optimizer_of(config, 1)
        return loop._starting_state(Training(runs.build_model(config, 7), tx, config, data_mesh()), tmp_path / "run")

    return start


def test_several_weight_files_are_given_with_commas(parts, started):
    extractor, transformer = random_state(torch_shapes.iresnet(16, (1, 1, 1), flat=True)), parts[2]
    got = started({"extractor": extractor, "transformer": transformer}).params["backbone"]
    np.testing.assert_array_equal(got["cls_token"], transformer["cls_token"])
    kernel = extractor["input_layer.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(got["extractor"]["input_conv"]["kernel"], kernel)


def test_parts_that_no_weight_file_fills_are_named(parts, started, caplog):
    started({"transformer": parts[2]})
    assert "--config.weights has no values for extractor, projection: initialized at random" in caplog.text


def test_the_weight_file_that_does_not_fit_is_named(parts, started):
    states = {"transformer": parts[2], "resnet": random_state(imagenet_resnet(16, BASIC, 1))}
    with pytest.raises(UserError, match=r"--config\.weights: .*/resnet\.safetensors: these weights do not fit"):
        started(states)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            imagenet_resnet(16, BASIC, 1),
            r"method APViT: expected face.evoLVe's IR-50 \(MS1M\) or .*, got an ImageNet ResNet",
        ),
        ({"a": (), "b": ()}, "got 2 tensors such as a, b$"),
        ({}, "got 0 tensors such as none"),
    ],
)
def test_another_kind_of_file_is_named(parts, shapes, message):
    with pytest.raises(ValueError, match=message):
        loaded(random_state(shapes), parts[0])
