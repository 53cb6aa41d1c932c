"""Weights of PyTorch's names and layouts, against torch's networks written out in NumPy (channels first)."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from aujax import methods
from aujax.models import pretrained, resnet, vit
from aujax.models.heads import LinearHead

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


def resnet_shapes(width, convs, expansion):
    """torchvision's names and shapes of a network with one block a stage."""
    shapes = {"conv1.weight": (width, 3, 7, 7)} | batch_norm_shapes("bn1", width)
    came = width
    for stage in range(1, 5):
        block, inner = f"layer{stage}.0", width * 2 ** (stage - 1)
        last = inner * expansion
        for i, (kernel, _) in enumerate(convs, start=1):
            into, out = (came if i == 1 else inner), (last if i == len(convs) else inner)
            shapes[f"{block}.conv{i}.weight"] = (out, into, kernel, kernel)
            shapes |= batch_norm_shapes(f"{block}.bn{i}", out)
        if came != last:
            shapes[f"{block}.downsample.0.weight"] = (last, came, 1, 1)
            shapes |= batch_norm_shapes(f"{block}.downsample.1", last)
        came = last
    return shapes | {"fc.weight": (1000, came), "fc.bias": (1000,)}


def batch_norm_shapes(name, width):
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (width,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def vit_shapes(dim, depth, tokens, patch=16):
    shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, tokens, dim),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,),
    }
    for b in range(depth):
        for name, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes[f"blocks.{b}.{name}.weight"] = (out * dim, into * dim)
            shapes[f"blocks.{b}.{name}.bias"] = (out * dim,)
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{b}.{norm}.weight": (dim,), f"blocks.{b}.{norm}.bias": (dim,)}
    return shapes | {"norm.weight": (dim,), "norm.bias": (dim,), "head.weight": (1000, dim), "head.bias": (1000,)}


def random_state(shapes):
    rng = np.random.default_rng(0)

    def tensor(name, shape):
        if name.endswith("num_batches_tracked"):
            return np.zeros((), np.int64)
        x = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        return (1 + 0.1 * np.abs(x) if name.endswith("running_var") else x).astype(np.float32)

    return {name: tensor(name, shape) for name, shape in shapes.items()}


BASIC, BOTTLENECK = ((3, True), (3, False)), ((1, False), (3, True), (1, False))
IMAGE = np.random.default_rng(1).normal(size=(3, 64, 64)).astype(np.float32)


def loaded(state, model, size=64):
    image = jnp.zeros((1, size, size, 3))
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), jax.eval_shape(model.init, jax.random.key(0), image)
    )
    return pretrained.load_backbone(state, model, variables)


def read(model, variables):
    return jax.jit(functools.partial(methods.read, model))(variables, jnp.asarray(IMAGE.transpose(1, 2, 0))[None])


@pytest.mark.parametrize(
    ("block", "convs", "expansion", "output_stride", "strides"),
    [(resnet.BasicBlock, BASIC, 1, 32, (1, 2, 2, 2)), (resnet.Bottleneck, BOTTLENECK, 4, 8, (1, 2, 1, 1))],
)
def test_resnet_with_torchvision_weights_computes_what_torchs_network_does(
    block, convs, expansion, output_stride, strides
):
    state = random_state(resnet_shapes(8, convs, expansion))
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
    state = random_state(vit_shapes(48, 3, 17))
    model = methods.build_model("TS-CAM", backbone="vit_tiny")
    got = read(model, loaded(state, model))
    tokens, attention = numpy_vit(state, IMAGE.astype(float), depth=3, heads=3)
    np.testing.assert_allclose(got.activations["tokens"][0].reshape(16, 48), tokens[1:], atol=2e-5)
    np.testing.assert_allclose(got.activations["attention"].reshape(16), attention[1:], atol=1e-6)


@pytest.fixture
def tiny():
    return random_state(resnet_shapes(16, BASIC, 1)), methods.build_model("CAM", backbone="resnet_tiny")


def test_our_head_stays_and_the_thousand_classes_go(tiny):
    state, model = tiny
    head = loaded(state, model)["params"]["head"]["fc"]
    assert head["kernel"].shape == (128, 7)
    assert not head["kernel"].any()


@pytest.mark.parametrize("prefix", ["model.", "module.", "state_dict.module."])
def test_the_wrappers_of_training_scripts_are_taken_off(tiny, prefix):
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
    state = random_state(vit_shapes(48, 3, 17))
    model = methods.build_model("TS-CAM", backbone="vit_tiny")
    got = loaded(state, model, size=16 * side)["params"]["backbone"]["pos_embed"]
    axis = cubic_weights(4, side)
    grid = np.einsum("abc,ya,xb->yxc", state["pos_embed"][0, 1:].reshape(4, 4, 48), axis, axis)
    np.testing.assert_allclose(got[0, 1:], grid.reshape(-1, 48), atol=1e-6)
    np.testing.assert_array_equal(got[0, 0], state["pos_embed"][0, 0])


def test_a_distilled_transformer_is_refused_by_its_extra_token():
    state = random_state(vit_shapes(48, 3, 17)) | {"dist_token": np.zeros((1, 1, 48), np.float32)}
    with pytest.raises(ValueError, match=r"unexpected dist_token \(1, 1, 48\)"):
        loaded(state, methods.build_model("TS-CAM", backbone="vit_tiny"))


def test_a_network_without_known_names_is_refused():
    network = vit.vit_tiny()
    model = methods.Classifier(methods.METHODS["CAM"], network, LinearHead(7))
    with pytest.raises(ValueError, match="no PyTorch name is known for params/backbone/"):
        loaded({}, model)


def reference_shapes(row):
    """Names of the released models: 318 tensors of the encoder and two of the head, or 152."""
    if row == "TS-CAM":
        return vit_shapes(384, 12, 197) | {"head.weight": (7, 384, 3, 3), "head.bias": (7,)}
    shapes = {"conv1.weight": (64, 3, 7, 7)} | batch_norm_shapes("bn1", 64)
    came = 64
    for stage, size in enumerate((3, 4, 6, 3), start=1):
        inner = 32 * 2**stage
        for b in range(size):
            for i, (into, out, kernel) in enumerate(
                ((came, inner, 1), (inner, inner, 3), (inner, 4 * inner, 1)), start=1
            ):
                shapes[f"layer{stage}.{b}.conv{i}.weight"] = (out, into, kernel, kernel)
                shapes |= batch_norm_shapes(f"layer{stage}.{b}.bn{i}", out)
            if b == 0:
                shapes[f"layer{stage}.{b}.downsample.0.weight"] = (4 * inner, came, 1, 1)
                shapes |= batch_norm_shapes(f"layer{stage}.{b}.downsample.1", 4 * inner)
            came = 4 * inner
    head = {"classification_head.fc.weight": (7, 2048), "classification_head.fc.bias": (7,)}
    return {f"encoder.{name}": shape for name, shape in shapes.items()} | head


def constant_state(shapes):
    """One number per tensor and no memory: only names, shapes and places are looked at."""
    return {name: np.broadcast_to(np.float32(i), shape) for i, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(("row", "tensors", "used"), [("CAM", 320, 267), ("TS-CAM", 152, 152)])
def test_released_model_fills_the_variables_of_its_row(row, tensors, used):
    state = constant_state(reference_shapes(row))
    assert len(state) == tensors
    variables = pretrained.from_reference(state, row)
    model = methods.build_model(row)
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    leaves = jax.tree.leaves(variables)
    assert jax.tree.map(np.shape, variables) == {"batch_stats": {}, **jax.tree.map(np.shape, expected)}
    # Each tensor went to one place: the constants differ, and every one but the step counts is there once.
    assert len({leaf.flat[0] for leaf in leaves}) == len(leaves) == used


def test_released_model_may_come_as_a_nested_dict():
    state = constant_state(reference_shapes("CAM"))
    nested = {
        part: {n.removeprefix(f"{part}."): x for n, x in state.items() if n.startswith(part)}
        for part in ("encoder", "classification_head")
    }
    flat, deep = pretrained.from_reference(state, "CAM"), pretrained.from_reference(nested, "CAM")
    assert [leaf.flat[0] for leaf in jax.tree.leaves(flat)] == [leaf.flat[0] for leaf in jax.tree.leaves(deep)]


def test_another_number_of_classes_is_named():
    state = constant_state(reference_shapes("CAM"))
    wrong = r"method CAM with 8 classes: 2 of [^$]*fc.weight: expected \(8, 2048\), got \(7, 2048\)"
    with pytest.raises(ValueError, match=wrong):
        pretrained.from_reference(state, "CAM", num_classes=8)


def test_a_released_model_of_another_method_is_refused():
    with pytest.raises(ValueError, match=r"do not fit method CAM with 7 classes[^$]*unexpected cls_token"):
        pretrained.from_reference(constant_state(reference_shapes("TS-CAM")), "CAM")
