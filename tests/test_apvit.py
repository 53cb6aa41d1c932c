"""APViT: which tokens stay, block and extractor against NumPy, sizes, precision, training over several devices."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, PartitionSpec
from numpy.lib.stride_tricks import sliding_window_view

from aujax.models import apvit, taps
from aujax.models.layers import BatchNorm

erf = np.vectorize(math.erf)


# Two blocks: one that keeps all tokens and one that does not.
@functools.cache
def tiny(**options):
    return apvit.apvit_tiny(depth=2, **options)


@functools.cache
def apply(**options):
    return jax.jit(functools.partial(tiny(**options).apply, mutable=["intermediates"]))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(tiny().init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)), jnp.float32)


def read(variables, images, **options):
    output, updates = apply(**options)(variables, images)
    return output, taps.read(updates["intermediates"])


def token_counts(model, size):
    """Number of tokens that each block returns, including the class token."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    make = functools.partial(
        model.init_with_output,
        mutable=["params", "batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, apvit.PoolingBlock),
    )
    _, updates = jax.eval_shape(make, jax.random.key(0), image)
    blocks = updates["intermediates"]
    return [blocks[f"block{index}"]["__call__"][0].shape[1] for index in range(model.depth)]


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([0.1, 0.9, 0.3, 0.8, 0.5], 3, [1, 3, 4]),
        ([0.9, 0.1, 0.8, 0.2, 0.7], 3, [0, 2, 4]),
        ([-3.0, -1.0, -2.0, -5.0, -4.0], 3, [0, 1, 2]),
        ([1.0, 1.0, 2.0, 1.0, 1.0], 3, [0, 1, 2]),  # ties go to the smaller index
        ([0.5, 0.4, 0.3, 0.2, 0.1], 5, [0, 1, 2, 3, 4]),
    ],
)
def test_indices_of_the_largest_scores_are_ascending(scores, count, expected):
    np.testing.assert_array_equal(apvit.largest(jnp.array(scores), count), expected)


def test_each_example_keeps_its_own_tokens():
    tokens = jnp.arange(20.0).reshape(2, 5, 2)
    kept = apvit.take(tokens, apvit.largest(jnp.array([[5.0, 1, 4, 2, 3], [1.0, 2, 3, 4, 5]]), 3))
    np.testing.assert_array_equal(kept, [[[0, 1], [4, 5], [8, 9]], [[14, 15], [16, 17], [18, 19]]])


def numpy_block(x, params, heads, keep):
    """Attention, its residual, selection by the class token's summed scores, MLP; in double precision."""

    def norm(x, p):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    width = x.shape[-1] // heads
    q, k, v = np.split(norm(x, params["norm1"]) @ params["qkv"]["kernel"], 3, axis=-1)
    mixed, score = [], 0.0
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[:, part] @ k[:, part].T / np.sqrt(width)
        score = score + logits[0, 1:]
        weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        mixed.append(weights @ v[:, part])
    x = x + np.concatenate(mixed, axis=-1) @ params["proj"]["kernel"] + params["proj"]["bias"]
    best = np.sort(np.argsort(-score)[: max(int(len(score) * keep), 1)])
    x = np.concatenate([x[:1], x[1:][best]])
    y = norm(x, params["norm2"]) @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    y = y * 0.5 * (1 + erf(y / np.sqrt(2)))
    return x + y @ params["fc2"]["kernel"] + params["fc2"]["bias"], best


@pytest.mark.parametrize(("keep", "kept"), [(1.0, 9), (0.9, 8), (0.5, 4), (0.1, 1)])
def test_block_computes_what_numpy_does(keep, kept):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 10, 12))
    block = apvit.PoolingBlock(heads=3, mlp_ratio=2, keep=keep, dtype=jnp.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), jnp.zeros(x.shape))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0]), shapes["params"])
    computed = jax.jit(block.apply)({"params": jax.tree.map(jnp.float32, params)}, jnp.float32(x))
    expected, best = zip(*(numpy_block(example, params, 3, keep) for example in x), strict=True)
    assert computed.shape == (3, 1 + kept, 12)
    np.testing.assert_allclose(computed, np.stack(expected), rtol=1e-4, atol=1e-5)
    assert keep in (1.0, 0.1) or not np.array_equal(best[0], best[1])  # otherwise the case has no power


def test_published_network_keeps_the_published_numbers_of_tokens():
    assert token_counts(apvit.apvit(), 112) == [161, 161, 161, 161, 145, 130, 117, 105]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [53, 47, 42]),  # 64 positions: round(52.2), then int(46.8), int(41.4)
        ({"tokens": 196}, [65, 58, 52]),
        ({"tokens": 1}, [2, 2, 2]),
        ({"keep": 1.0}, [53, 53, 53]),
        ({"keep": 0.5}, [53, 27, 14]),
        ({"keep": 0.01}, [53, 2, 2]),
    ],
)
def test_options_set_the_number_of_tokens_of_another_grid(options, expected):
    assert token_counts(apvit.apvit_tiny(**options), 64) == expected


def test_an_image_that_has_no_whole_grid_is_refused():
    with pytest.raises(ValueError, match="multiples of 8, got 30x32: resize to 32x32"):
        jax.eval_shape(tiny().init, jax.random.key(0), jnp.zeros((1, 30, 32, 3)))


def test_attention_is_the_sum_of_magnitudes_of_the_projected_features(variables, images):
    bias = np.random.default_rng(2).normal(size=48).astype(np.float32)
    projection = variables["params"]["projection"] | {"bias": bias}
    params = variables["params"] | {"projection": projection}
    _, activations = read({**variables, "params": params}, images)
    projected = np.asarray(activations["stage3"]) @ np.asarray(projection["kernel"][0, 0]) + bias
    np.testing.assert_allclose(activations["attention"], np.abs(projected).sum(-1, keepdims=True), rtol=1e-4)


def test_activations_lie_on_their_grids(variables, images):
    output, activations = read(variables, images)
    shapes = {name: x.shape[1:] for name, x in activations.items()}
    assert shapes == {"stage1": (16, 16, 16), "stage2": (8, 8, 32), "stage3": (4, 4, 64), "attention": (4, 4, 1)}
    assert output.shape == (8, 48)


def test_only_the_positions_of_largest_attention_reach_the_class_token(variables, images):
    model = tiny(tokens=60, keep=1.0)  # 5 of 16 positions

    def score(position):
        params = variables["params"] | {"patch_pos_embed": position}
        output, updates = model.apply(variables | {"params": params}, images[:1], mutable=["intermediates"])
        return output[0, 0], taps.read(updates["intermediates"])["attention"]

    gradient, attention = jax.jit(jax.grad(score, has_aux=True))(variables["params"]["patch_pos_embed"])
    used = np.flatnonzero(np.abs(gradient[0]).sum(axis=-1))
    np.testing.assert_array_equal(used, np.sort(np.argsort(-attention.ravel())[:5]))


def test_class_token_has_no_gradient_through_the_attention(variables, images):
    zeros = taps.zeros(tiny(), variables, images)

    def score(attention):
        output, _ = apply()({**variables, "perturbations": {**zeros, "attention": attention}}, images)
        return output.sum()

    np.testing.assert_array_equal(jax.grad(score)(zeros["attention"]), np.zeros((8, 4, 4, 1)))


def loss_and_gradients(model, variables, images, weights, axis_name=None):
    def loss(params):
        output, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        value = (output.astype(jnp.float32) * weights).mean()
        return (value if axis_name is None else jax.lax.pmean(value, axis_name)), updates["batch_stats"]

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@pytest.fixture(scope="module")
def weights():
    return jnp.asarray(np.random.default_rng(1).normal(size=(8, 48)), jnp.float32)


@pytest.fixture(scope="module")
def on_one_device(variables, images, weights):
    return jax.jit(functools.partial(loss_and_gradients, tiny()))(variables, images, weights)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_training_over_four_devices_gives_the_gradients_of_one(
    variables, images, weights, on_one_device, rematerialize
):
    model = tiny(axis_name="data", rematerialize=rematerialize)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    replicated, data = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(
        functools.partial(loss_and_gradients, model, axis_name="data"),
        mesh=mesh,
        in_specs=(replicated, data, data),
        out_specs=replicated,
    )
    on_four = jax.jit(mapped)(variables, images, weights)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(on_one_device[1]))
    for several, one in zip(jax.tree.leaves(on_four), jax.tree.leaves(on_one_device), strict=True):
        np.testing.assert_allclose(several, one, rtol=1e-3, atol=1e-4 * largest)


def test_rematerialisation_selects_tokens_only_once(variables, images, weights):
    gradients = functools.partial(loss_and_gradients, tiny(rematerialize=True))
    # One selection of positions, and one in the block that drops tokens.
    assert str(jax.make_jaxpr(gradients)(variables, images, weights)).count("top_k[") == 2


def test_every_parameter_takes_part_in_training(on_one_device):
    _, gradients = on_one_device
    sizes = {jax.tree_util.keystr(path): jnp.abs(leaf).max() for path, leaf in jax.tree.leaves_with_path(gradients)}
    assert all(np.isfinite(size) for size in sizes.values())
    assert {name for name, size in sizes.items() if size == 0} == set()


def test_bfloat16_is_for_computing_and_not_for_storing(variables, images, weights):
    model = tiny(dtype=jnp.bfloat16)
    made = jax.eval_shape(functools.partial(model.init, train=True), jax.random.key(0), images)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(made)} == {"float32"}
    _, gradients = jax.jit(functools.partial(loss_and_gradients, model))(variables, images, weights)
    assert all(leaf.dtype == jnp.float32 and bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_bfloat16_class_token_is_near_the_float32_one_with_float32_attention(variables, images):
    # All tokens are kept: with almost equal scores, another precision could select another token.
    options = {"tokens": 196, "keep": 1.0}
    half, activations = read(variables, images, dtype=jnp.bfloat16, **options)
    full, expected = read(variables, images, **options)
    assert (half.dtype, activations["attention"].dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.15)
    np.testing.assert_allclose(activations["attention"], expected["attention"], rtol=0.05)


def test_networks_can_be_static_arguments():
    assert hash(apvit.apvit(tokens=120)) == hash(apvit.apvit(tokens=120))


# ---- Extractor -------------------------------------------------------------------------------------------------------


@functools.cache
def extractor(axis_name=None, dtype=jnp.float32):
    return apvit.IResNet(units=(1, 2, 1), width=8, dtype=dtype, axis_name=axis_name)


@pytest.fixture(scope="module")
def extractor_variables():
    return jax.jit(extractor().init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.fixture(scope="module")
def bright_images():
    # Each image of its own brightness, so that statistics of a part differ from those of the whole.
    pixels = np.random.default_rng(0).normal(size=(8, 16, 16, 3)) + np.arange(8).reshape(8, 1, 1, 1)
    return jnp.asarray(pixels, jnp.float32)


def conv(x, kernel, stride):
    x = np.pad(x, ((0, 0), *[(kernel.shape[0] // 2,) * 2] * 2, (0, 0)))
    windows = sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwiyx,yxio->bhwo", windows, kernel)


def batch_norm(x, params, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


def numpy_unit(x, params, stats, stride):
    y = conv(batch_norm(x, params["bn1"], stats["bn1"]), params["conv1"]["kernel"], 1)
    y = np.maximum(y, 0) + params["prelu"]["slope"] * np.minimum(y, 0)
    y = batch_norm(conv(y, params["conv2"]["kernel"], stride), params["bn2"], stats["bn2"])
    if "shortcut_conv" not in params:
        return y + x[:, ::stride, ::stride]
    return y + batch_norm(
        conv(x, params["shortcut_conv"]["kernel"], stride), params["shortcut_bn"], stats["shortcut_bn"]
    )


def random_variables(model, image):
    """Doubles of either sign, and variances down to a thousandth, so that another epsilon would show."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    filled = jax.tree.map(lambda leaf: np.exp(rng.uniform(-7, 0, leaf.shape)), shapes)
    filled["params"] = jax.tree.map(lambda leaf: leaf * rng.choice([-1, 1], leaf.shape), filled["params"])
    return filled


def assert_near(computed, expected):
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (4, 2), (6, 2)])
def test_unit_computes_what_numpy_does(channels, stride):
    x = np.random.default_rng(1).normal(size=(2, 6, 8, 4))
    conv_layer = functools.partial(nn.Conv, use_bias=False)
    unit = apvit.Unit(channels, stride, conv_layer, functools.partial(BatchNorm, train=False))
    filled = random_variables(unit, jnp.float32(x))
    computed = jax.jit(unit.apply)(jax.tree.map(jnp.float32, filled), jnp.float32(x))
    assert_near(computed, numpy_unit(x, filled["params"], filled["batch_stats"], stride))


def test_extractor_computes_what_numpy_does():
    image = np.random.default_rng(1).normal(size=(2, 8, 12, 3))
    model = apvit.IResNet(units=(1, 2), width=4)
    filled = random_variables(model, jnp.float32(image))
    params, stats = filled["params"], filled["batch_stats"]
    x = batch_norm(conv(image, params["input_conv"]["kernel"], 1), params["input_bn"], stats["input_bn"])
    x = np.maximum(x, 0) + params["input_prelu"]["slope"] * np.minimum(x, 0)
    for name, stride in (("stage1_unit0", 2), ("stage2_unit0", 2), ("stage2_unit1", 1)):
        x = numpy_unit(x, params[name], stats[name], stride)
    assert_near(jax.jit(model.apply)(jax.tree.map(jnp.float32, filled), jnp.float32(image)), x)


def test_each_channel_has_its_own_slope_below_zero():
    x = jnp.array([[2.0, 2.0], [-2.0, -2.0]])
    out = apvit.PReLU().apply({"params": {"slope": jnp.array([0.5, -1.0])}}, x)
    np.testing.assert_array_equal(out, [[2.0, 2.0], [-1.0, 2.0]])


def test_slopes_start_at_a_quarter(extractor_variables):
    np.testing.assert_array_equal(extractor_variables["params"]["stage2_unit0"]["prelu"]["slope"], np.full(16, 0.25))


def test_convolutions_start_xavier_uniform(extractor_variables):
    bound = np.sqrt(6 / (9 * (32 + 32)))
    largest = np.abs(extractor_variables["params"]["stage3_unit0"]["conv2"]["kernel"]).max()
    assert 0.99 * bound < largest <= bound


def test_only_units_that_change_the_channels_convolve_their_shortcut(extractor_variables):
    with_shortcut = {name for name, unit in extractor_variables["params"].items() if "shortcut_conv" in unit}
    assert with_shortcut == {"stage2_unit0", "stage3_unit0"}


def test_stages_of_ir50_halve_112_pixels_to_14():
    image = jax.ShapeDtypeStruct((1, 112, 112, 3), jnp.float32)
    make = functools.partial(apvit.IResNet().init_with_output, mutable=["params", "batch_stats", "intermediates"])
    output, updates = jax.eval_shape(make, jax.random.key(0), image)
    shapes = {name: leaf.shape[1:] for name, leaf in taps.read(updates["intermediates"]).items()}
    assert shapes == {"stage1": (56, 56, 64), "stage2": (28, 28, 128), "stage3": (14, 14, 256)}
    assert output.shape == (1, 14, 14, 256)


def test_an_image_that_does_not_halve_three_times_is_refused():
    with pytest.raises(ValueError, match="multiples of 8, got 100x64: resize to 96x64"):
        jax.eval_shape(extractor().init, jax.random.key(0), jnp.zeros((1, 100, 64, 3)))


def test_training_moves_running_statistics_by_a_tenth(extractor_variables, bright_images):
    train = jax.jit(functools.partial(extractor().apply, train=True, mutable=["batch_stats"]))
    _, updates = train(extractor_variables, bright_images)
    before = conv(
        np.asarray(bright_images, np.float64), np.asarray(extractor_variables["params"]["input_conv"]["kernel"]), 1
    )
    statistics = updates["batch_stats"]["input_bn"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * before.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * before.var(axis=(0, 1, 2)), rtol=1e-4)


def test_bfloat16_of_the_extractor_is_for_computing_and_not_for_storing():
    make = functools.partial(extractor(dtype=jnp.bfloat16).init_with_output, train=True)
    output, variables = jax.eval_shape(make, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    assert output.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
