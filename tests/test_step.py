"""The step: the update rule, the schedules, and the same numbers on any number of devices."""

import collections
import dataclasses
import functools
import json
import math
import re
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from golden_face import LANDMARKS

from aujax import augment, losses, methods, runs
from aujax.config import Config, OptimizerConfig
from aujax.data import feed
from aujax.data.batch import Batch, abstract, data_mesh, replicated, to_mesh
from aujax.data.store import open_faces
from aujax.errors import UserError
from aujax.models import layers, vit
from aujax.training import optimizer
from aujax.training import step as steps

pytestmark = pytest.mark.jax_versions


@functools.cache
def starting_variables(config):
    return jax.device_get(runs.initial_variables(runs.build_model(config, 7), config))


def variables_of(config):
    """Variables to start from, those of seed 0: they depend on few options, and drawing them compiles for a second."""
    names = ("method", "method_options", "backbone", "image_size")
    return starting_variables(Config(**{name: getattr(config, name) for name in names}))


class Trained(NamedTuple):
    """Two steps of a training on the first batches of epoch 0."""

    history: list  # of both steps, the terms by name
    counts: list  # of both steps, the faces behind each term
    state: steps.TrainState
    program: jax.stages.Compiled


@functools.cache
def trained(config, devices):
    faces = open_faces(config.data.dir)
    mesh = data_mesh(jax.devices()[:devices])
    model = runs.build_model(config, len(faces.expressions))
    tx, _ = optimizer.optimizer_of(config, steps_per_epoch=3)
    state = jax.device_put(steps.create_state(variables_of(config), tx), replicated(mesh))
    source = faces.source("train")
    order = feed.epoch_order(0, 0, len(source))
    options = {"batch_size": config.data.batch_size, "size": config.resize_size, "threads": 1}
    both = [to_mesh(batch, mesh) for batch in feed.batches(source, order, **options)]
    program = steps.make_train_step(steps.Training(model, tx, config, mesh)).lower(state, both[0]).compile()
    history, counts = [], []
    for batch in both:
        state, means = program(state, batch)
        history.append({name: float(mean.compute()) for name, mean in means.items()})
        counts.append({name: float(mean.count) for name, mean in means.items()})
    return Trained(history, counts, jax.device_get(state), program)


@pytest.fixture(scope="module")
def config(tiny_config):
    """24 faces in batches of 16: in the second one, half of the devices have padding alone."""
    return dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, batch_size=16))


@pytest.fixture
def with_options(config):
    """Returns `config` with some options replaced."""
    return functools.partial(dataclasses.replace, config)


@pytest.fixture(scope="module")
def on_one_device(config):
    return trained(config, 1)


@pytest.fixture(scope="module")
def on_eight_devices(config):
    return trained(config, 8)


def assert_same(several, one):
    for means, expected in zip(several.history, one.history, strict=True):
        assert means == pytest.approx(expected, rel=2e-4)
    for tree in ("params", "batch_stats"):
        chex.assert_trees_all_close(getattr(several.state, tree), getattr(one.state, tree), rtol=2e-3, atol=2e-4)


def test_eight_devices_give_the_losses_and_parameters_of_one(on_eight_devices, on_one_device):
    assert_same(on_eight_devices, on_one_device)


def test_a_mean_over_batches_counts_faces(on_one_device):
    of_faces = ("loss", "cross_entropy", "accuracy")
    assert [[counts[name] for name in of_faces] for counts in on_one_device.counts] == [[16.0] * 3, [8.0] * 3]


def test_the_total_is_cross_entropy_plus_weighted_alignment(config, on_one_device):
    for means in on_one_device.history:
        assert means["loss"] == pytest.approx(means["cross_entropy"] + config.au_weight * means["alignment"], rel=1e-5)


def test_several_layers_are_summed(with_options, on_one_device):
    both = with_options(au_layers=("layer4", "layer5"), au_layer_reduction="sum")
    of_layer4 = trained(with_options(au_layers=("layer4",)), 1).history[0]["alignment"]
    expected = of_layer4 + on_one_device.history[0]["alignment"]
    assert trained(both, 1).history[0]["alignment"] == pytest.approx(expected, rel=1e-5)


def logits_of(config, image):
    """The logits of a training's forward pass with the variables to start from, for each group of images alone."""
    model = runs.build_model(dataclasses.replace(config, batch_norm="per_device"), 7)

    @jax.jit
    def forward(variables, image):
        of_group = lambda group: methods.apply_with_taps(model, variables, group, train=True).logits  # noqa: E731
        return jax.vmap(of_group)(image)

    return np.asarray(forward(variables_of(config), image), np.float64).reshape(-1, 7)


def cross_entropy(logits, target):
    """The mean over faces, by its formula."""
    return np.mean(scipy.special.logsumexp(logits, axis=-1) - (np.asarray(target) * logits).sum(-1))


def test_statistics_per_device_normalise_the_faces_of_each_device_alone(with_options):
    views = views_of(with_options(), first_batch(with_options(), 16))
    pairs = logits_of(with_options(), views.image.reshape(8, 2, *views.image.shape[1:]))
    means = trained(with_options(batch_norm="per_device"), 8).history[0]
    assert means["cross_entropy"] == pytest.approx(cross_entropy(pairs, views.target), rel=1e-3)


def test_a_batch_in_two_parts_gives_the_update_of_the_whole(with_options):
    # Without BatchNorm, which is the only layer that sees how a batch is divided.
    # The channels of fresh tokens, just normalised, add up to nothing but rounding; attention does not.
    changed = {"method": "TS-CAM", "backbone": "vit_tiny", "au_layers": ("attention",)}
    config = with_options(**changed, optimizer=OptimizerConfig(learning_rate=1e-4))
    assert_same(trained(dataclasses.replace(config, gradient_accumulation=2), 2), trained(config, 1))


def test_parts_have_the_same_faces_on_any_devices_and_in_a_loop(with_options, monkeypatch):
    config = with_options(gradient_accumulation=2)
    unrolled = trained(config, 1)
    monkeypatch.setattr(steps, "for_cpu", lambda *_: False)
    assert_same(trained.__wrapped__(config, 4), unrolled)


@pytest.mark.parametrize(
    "options", [{}, {"method": "TS-CAM", "backbone": "vit_tiny", "au_layers": ("attention",)}], ids=["CAM", "TS-CAM"]
)
def test_the_step_for_other_devices_computes_the_same_numbers(options, with_options, monkeypatch):
    """Convolutions, max pooling, padding of tokens and views of all faces at once, for a GPU; computed on a CPU."""
    config = with_options(**options)
    expected = trained(config, 1)
    for module in (layers, steps, vit):
        monkeypatch.setattr(module, "for_cpu", lambda *_: False)
    assert_same(trained.__wrapped__(config, 1), expected)


def exchanged(program):
    """How many bytes each kind of collective of a compiled program exchanges."""
    sizes = collections.Counter()
    for line in program.as_text().splitlines():
        if found := re.search(r" ((?:all|reduce-scatter|collective|ragged)-?[a-z-]*)\(", line):
            arrays = re.findall(r"[a-z](\d+)\[([\d,]*)\]", line[: found.start()].partition(" = ")[2])
            sizes[found[1]] += sum(
                int(bits) // 8 * math.prod(map(int, filter(None, n.split(",")))) for bits, n in arrays
            )
    return sizes


@pytest.mark.parametrize(
    ("options", "devices", "statistics"),
    [({"batch_norm": "per_device"}, 8, 1), ({"gradient_accumulation": 2}, 4, 4)],
    ids=["statistics once", "statistics and their gradients in each part"],
)
def test_devices_exchange_gradients_once_statistics_and_a_few_sums(with_options, options, devices, statistics):
    _, _, state, program = trained(with_options(**options), devices)
    sizes = exchanged(program)
    assert set(sizes) == {"all-reduce"}
    params, stats = (sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (state.params, state.batch_stats))
    # Gradients that are equal to each other are exchanged once.
    assert 0.99 * params < sizes["all-reduce"] <= params + statistics * stats + 20 * 4


@functools.cache
def gpu_program(config):
    """The step for two GPUs as JAX gives it to the compiler, in lines of StableHLO; needs no GPU."""
    fields = [field.name for field in dataclasses.fields(jax.sharding.AbstractDevice)]  # more in newer versions
    device = jax.sharding.AbstractDevice(**dict.fromkeys(fields, None) | {"device_kind": "NVIDIA H100"})
    mesh = jax.sharding.AbstractMesh((2,), ("data",), (jax.sharding.AxisType.Auto,), abstract_device=device)
    model = runs.build_model(config, 7)
    tx, _ = optimizer.optimizer_of(config, steps_per_epoch=3)
    state = jax.eval_shape(lambda variables: steps.create_state(variables, tx), runs.abstract_variables(model, config))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), state)
    step = steps.make_train_step(steps.Training(model, tx, config, mesh))
    traced = step.trace(state, abstract(16, config.resize_size, mesh))
    return traced.lower(lowering_platforms=("cuda",)).as_text().splitlines()


def operations(program, name):
    return [line for line in program if re.search(rf"stablehlo\.{name}\b", line)]


@pytest.mark.parametrize("name", ["CAM", "TS-CAM", "CutMix", "ADL"])
def test_in_a_step_a_gpu_never_waits_for_the_host(name, with_options):
    """No branch, and no loop but that over the four colour changes, whose length is in the program."""
    program = gpu_program(with_options(method=name, **METHODS[name][0]))
    assert not operations(program, "case") + operations(program, "if")
    ((start, _),) = ((number, line) for number, line in enumerate(program) if "stablehlo.while" in line)
    length, comparison = (line.strip() for line in program[start + 2 : start + 4])
    (count,) = re.findall(r"(%\S+) = stablehlo.constant dense<4> : tensor<i32>", length)
    assert re.search(rf"stablehlo.compare +LT, %iterArg\S*, {count},", comparison)


def test_views_for_a_gpu_gather_bytes(with_options):
    config = with_options()
    pixels = f"tensor<8x{config.resize_size}x{config.resize_size}x3x"
    gathers = [line for line in operations(gpu_program(config), "gather") if pixels in line]
    assert [re.search(rf"{pixels}(\w+)>", line)[1] for line in gathers] == ["ui8"] * 4


def test_tokens_are_padded_once_for_a_gpu(with_options):
    """16 patches and the class token to 24; in the blocks only the class token's query and scores are set to zeros."""
    program = gpu_program(with_options(method="TS-CAM", backbone="vit_tiny", image_size=64, au_layers=("tokens",)))
    shapes = collections.Counter(re.search(r"-> tensor<(8x[^>]*)>", line)[1] for line in operations(program, "pad"))
    assert shapes.pop("8x24x48xf32") == 2  # the embedding, and the gradient of the tokens' last slice
    assert shapes.pop("8x17x48xf32") == 1  # a negative one: the gradient of the embedding
    # The nine places of the head's kernel, together and one by one, in the forward and backward pass.
    assert {shape.split("x", 3)[3] for shape in shapes} == {"3x3x7xf32"}


# Row -> options on a small scale, and the terms beside loss, cross_entropy, accuracy and alignment.
METHODS = {
    **dict.fromkeys(("CAM", "WILDCAT", "WILDCAT/reference", "PRM", "CutMix"), ({}, set())),
    "ACoL": ({"method_options": "channels=16"}, {"cross_entropy_erased_logits"}),
    # By the published threshold nothing would be left of these 16 places.
    "ADL": ({"method_options": "threshold=0.9"}, set()),
    "TS-CAM": ({"backbone": "vit_tiny"}, set()),
    "APViT": ({"backbone": "apvit_tiny"}, set()),
}


def test_every_training_is_tried():
    assert {methods.METHODS[name].training for name in METHODS} == {row.training for row in methods.METHODS.values()}


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_takes_a_step_with_action_units(name, with_options):
    options, further = METHODS[name]
    config = with_options(method=name, **options)
    (means, _), _, state, _ = trained(config, 1)
    before = variables_of(config)["params"]
    assert set(means) == {"loss", "cross_entropy", "accuracy", "alignment"} | further
    classified = sum(value for term, value in means.items() if term.startswith("cross_entropy"))
    assert means["loss"] == pytest.approx(classified + config.au_weight * means["alignment"], rel=1e-5)
    chex.assert_tree_all_finite(state)
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), state.params, before)
    # Of attention weights at the very start, some gradients may be too small to move a float32.
    assert np.mean(jax.tree.leaves(moved)) > 0.9


def traced_step(config):
    """Shapes and types of the state after a step, of its means, and of the state before it."""
    model = runs.build_model(config, 7)
    tx, _ = optimizer.optimizer_of(config, steps_per_epoch=3)
    mesh = data_mesh(jax.devices()[:1])
    before = jax.eval_shape(lambda: steps.create_state(variables_of(config), tx))
    step = steps.make_train_step(steps.Training(model, tx, config, mesh))
    return *jax.eval_shape(step, before, abstract(16, config.resize_size, mesh)), before


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_takes_a_step_without_action_units(name, with_options):
    options, further = METHODS[name]
    after, means, before = traced_step(with_options(method=name, au_weight=0.0, **options))
    assert set(means) == {"loss", "cross_entropy", "accuracy"} | further
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)


@pytest.mark.parametrize("name", ["CutMix", "ADL"])
def test_what_a_method_draws_for_the_batch_is_the_same_on_four_devices(name, with_options):
    config = with_options(method=name, **METHODS[name][0])
    assert_same(trained(config, 4), trained(config, 1))


def step_keys(config):
    return jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0), 4)


@functools.cache
def views_program(config, classes):
    def views(order_key, key, batch):
        return steps.training_views(order_key, key, batch, config, classes)

    return jax.jit(jax.vmap(views, in_axes=(None, None, 0), axis_name="data"))


def views_of(config, batch, keys=None, classes=7):
    """The views of a batch on one device, by default those of the first step."""
    keys = step_keys(config) if keys is None else keys
    several = views_program(config, classes)(keys[0], keys[1], jax.tree.map(lambda x: jnp.asarray(x)[None], batch))
    return jax.tree.map(lambda x: x[0], several)


def test_cutmix_classifies_the_mixed_images_by_their_mixed_labels(with_options):
    config = with_options(method="CutMix")
    batch = first_batch(config, 16)
    views = views_of(config, batch)
    mixed = augment.cutmix(step_keys(config)[2], views, valid=batch.valid)
    assert (mixed.target != views.target).any()
    expected = cross_entropy(logits_of(config, mixed.image[None]), mixed.target)
    assert trained(config, 1).history[0]["cross_entropy"] == pytest.approx(expected, rel=1e-3)


def first_batch(config, size):
    source = open_faces(config.data.dir).source("train")
    order = feed.epoch_order(0, 0, len(source))
    return next(feed.batches(source, order, batch_size=size, size=config.resize_size, threads=1))


def test_acol_erases_by_the_label_in_training(with_options):
    config = with_options(method="ACoL", method_options="channels=16")
    means = trained(config, 1).history[0]
    model = methods.build_model("ACoL", backbone="resnet_tiny", options={"channels": 16})
    variables, batch = variables_of(config), first_batch(config, 16)
    read = jax.jit(
        lambda *given: methods.apply_with_taps(model, *given[:2], train=True, expression=given[2]).activations
    )
    image = views_of(config, batch).image
    expected = []
    for expression in (batch.expression, None):
        logits = read(variables, image, expression)["erased_logits"]
        expected.append(float(losses.cross_entropy(logits, batch.expression).mean()))
    assert means["cross_entropy_erased_logits"] == pytest.approx(expected[0], rel=1e-4)
    assert means["cross_entropy_erased_logits"] != pytest.approx(expected[1], rel=1e-4)


def test_mixing_receives_which_faces_are_padding(config, monkeypatch):
    def flag(key, views, *, valid, axis_name):
        return views._replace(has_map=valid)

    row = dataclasses.replace(methods.METHODS["CAM"], mix=flag)
    monkeypatch.setitem(methods.METHODS, "CAM", row)
    assert [counts["alignment"] for counts in trained.__wrapped__(config, 1).counts] == [16, 8]


def test_bfloat16_keeps_parameters_and_statistics_in_float32(with_options):
    state, _, _ = traced_step(with_options(dtype="bfloat16"))
    chex.assert_type(jax.tree.leaves((state.params, state.batch_stats)), jnp.float32)


def test_label_smoothing_spreads_its_share_of_the_label_over_all_classes(with_options):
    config = with_options(label_smoothing=0.5)
    views = views_of(config, first_batch(config, 16))
    target = 0.5 * np.asarray(views.target) + 0.5 / 7
    expected = cross_entropy(logits_of(config, views.image[None]), target)
    assert trained(config, 1).history[0]["cross_entropy"] == pytest.approx(expected, rel=1e-3)


def test_the_normalization_of_the_pixels_is_chosen(with_options):
    batch = first_batch(with_options(), 4)
    normalised, plain = (views_of(with_options(normalization=name), batch).image for name in ("imagenet", "none"))
    mean, deviation = (np.array(v, np.float32) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    np.testing.assert_allclose(normalised * deviation[None, None, None] + mean[None, None, None], plain, atol=1e-5)


def test_the_seed_changes_the_views(with_options, on_one_device):
    """The network to start from and the batches are the same."""
    assert trained(with_options(seed=1), 1).history[0]["loss"] != on_one_device.history[0]["loss"]


def test_each_step_has_views_of_its_own(with_options):
    """At a learning rate that changes nothing, two steps on one batch differ only by their views."""
    config = with_options(data=dataclasses.replace(with_options().data, batch_size=24))
    batch = first_batch(config, 16)
    mesh = data_mesh(jax.devices()[:1])
    model = runs.build_model(config, 7)
    step = steps.make_train_step(steps.Training(model, optax.set_to_zero(), config, mesh))
    state = jax.device_put(steps.create_state(variables_of(config), optax.set_to_zero()), replicated(mesh))
    losses_of_steps = []
    for _ in range(2):
        state, means = step(state, to_mesh(batch, mesh))
        losses_of_steps.append(float(means["loss"].compute()))
    assert losses_of_steps[0] != losses_of_steps[1]


def test_the_order_of_color_changes_is_drawn_for_each_batch(with_options):
    rates = ("rotation_rate", "crop", "flip_rate", "gray_rate", "erase_rate")
    colors = augment.Policy(**dict.fromkeys(rates, 0.0), jitter_rate=1.0)
    config = with_options(augment=colors)
    batch, keys = first_batch(config, 4), jax.random.split(jax.random.key(3), 7)
    # The strengths of all changes are the same: they depend on the second key.
    images = [np.asarray(views_of(config, batch, (order, keys[6])).image) for order in keys[:6]]
    assert len({image.round(3).tobytes() for image in images}) >= 3


def test_faces_without_landmarks_and_padding_have_no_map(with_options):
    batch = first_batch(with_options(), 8)._replace(
        expression=np.arange(8, dtype=np.int32) % 2,
        has_landmarks=np.array([True, True, True, True, False, False, True, True]),
        valid=np.array([True] * 6 + [False] * 2),
    )
    views = views_of(with_options(), batch)
    np.testing.assert_array_equal(views.has_map, [False, True, False, True, False, False, False, False])
    assert not views.au_map[4:].any()


SIDE = 96
AUGMENTATIONS = {
    "none": {},
    "rotation": {"rotation": 20.0, "rotation_rate": 1.0},
    "crop": {"crop": 0.3},
    "flip": {"flip_rate": 1.0},
    "gray": {"gray_rate": 1.0},
    "colors": {"jitter_rate": 1.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "erasing": {"erase_rate": 1.0},
    "all": {"rotation": 20.0, "rotation_rate": 0.7, "crop": 0.3, "flip_rate": 0.5, "gray_rate": 0.3, "jitter_rate": 0.5,
            "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "erase_rate": 0.3},
}  # fmt: skip


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_a_marker_at_a_landmark_ends_under_the_region_of_its_action_unit(name, with_options, tmp_path):
    """From landmarks to views: image, AU map and landmarks move together through every augmentation.

    A face left of the middle, so that no mirrored map would cover it, has a white disc at the image-left lip corner
    (landmark 48, AU12) and a black image otherwise.
    """
    book = tmp_path / "smile.json"
    book.write_text(json.dumps({"aus": {"Neutral": [], "Happiness": [12]}}))
    zeros = {field.name: 0.0 for field in dataclasses.fields(augment.Policy) if field.name != "erase_area"}
    policy = augment.Policy(**zeros | AUGMENTATIONS[name])
    config = with_options(augment=policy, image_size=SIDE, normalization="none", codebook=str(book))
    count = 12
    landmarks = LANDMARKS * (0.55 * SIDE / 224) + np.float32([4, 0.25 * SIDE])
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = np.hypot(columns - landmarks[48, 0], rows - landmarks[48, 1]) < 3
    image = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    image[:, disc] = 255
    ones = np.ones(count, bool)
    faces = np.broadcast_to(landmarks, (count, 68, 2)).astype(np.float32)
    batch = Batch(image, faces, np.ones(count, np.int32), np.arange(count, dtype=np.int32), ones, ones)
    views = views_of(config, batch, jax.random.split(jax.random.key(1)), classes=2)
    assert views.has_map.all()
    places = []
    for view, au_map in zip(np.asarray(views.image), np.asarray(views.au_map), strict=True):
        # Noise of erased boxes is hardly ever white in all three channels.
        white = (np.abs(view - view[..., :1]).max(-1) < 0.02) & (view[..., 0] > 0.3) & (view[..., 0] <= 1)
        if white.sum() > 15:  # else the marker was erased
            y, x = (int(np.median(axis)) for axis in np.nonzero(white))
            places.append((x, y))
            assert au_map[y, x] > 0.9
            assert (au_map > 0.5).mean() < 0.05  # two small discs, not a map that covers everything
    assert len(places) >= count / 2
    moved = np.hypot(*(np.array(places) - landmarks[48]).T)
    assert (moved.max() > 3) == (name in ("rotation", "crop", "flip", "all"))


def test_update_follows_torch_nesterov():
    # torch.optim.SGD: g += wd * p; b = m * b + g (b = g at first); p -= lr * (g + m * b).
    rate, momentum, decay = 0.1, 0.9, 0.01
    options = OptimizerConfig(learning_rate=rate, momentum=momentum, weight_decay=decay, schedule="constant")
    tx = optimizer.make_optimizer(options, optimizer.learning_rate(options, epochs=1, steps_per_epoch=1))
    p, b, params = 1.0, 0.0, jnp.array(1.0)
    state = tx.init(params)
    for gradient in (0.5, -0.2, 0.3):
        g = gradient + decay * p
        b = momentum * b + g
        p -= rate * (g + momentum * b)
        updates, state = tx.update(jnp.array(gradient), state, params)
        params = optax.apply_updates(params, updates)
    assert float(params) == pytest.approx(p, rel=1e-6)


def test_clipping_bounds_the_gradient():
    options = OptimizerConfig(learning_rate=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", clip_norm=1.0)
    tx = optimizer.make_optimizer(options, optimizer.learning_rate(options, epochs=1, steps_per_epoch=1))
    gradient = jnp.array([3.0, 4.0])
    updates, _ = tx.update(gradient, tx.init(gradient), gradient)
    np.testing.assert_allclose(updates, [-0.6, -0.8], rtol=1e-6)


def test_step_schedule_is_that_of_the_published_command():
    options = OptimizerConfig(learning_rate=0.002, schedule="step", step_epochs=4, step_factor=0.9)
    rate = optimizer.learning_rate(options, epochs=20, steps_per_epoch=10)
    by_epoch = [float(rate(10 * epoch + 9)) for epoch in range(20)]
    expected = [0.002] * 4 + [0.0018] * 4 + [0.00162] * 4 + [0.001458] * 4 + [0.0013122] * 4
    np.testing.assert_allclose(by_epoch, expected, rtol=1e-5)


def test_step_schedule_stops_at_its_floor():
    options = OptimizerConfig(learning_rate=0.002, schedule="step", step_epochs=1, step_factor=0.1)
    assert float(optimizer.learning_rate(options, epochs=20, steps_per_epoch=1)(19)) == pytest.approx(1e-7)


def test_cosine_schedule_ends_at_zero():
    options = OptimizerConfig(learning_rate=0.4, schedule="cosine")
    rate = optimizer.learning_rate(options, epochs=2, steps_per_epoch=5)
    np.testing.assert_allclose([rate(0), rate(5), rate(10)], [0.4, 0.2, 0.0], atol=1e-7)


def test_warmup_is_linear_from_zero():
    options = OptimizerConfig(learning_rate=0.4, schedule="constant", warmup_epochs=2.0)
    rate = optimizer.learning_rate(options, epochs=4, steps_per_epoch=2)
    np.testing.assert_allclose([rate(i) for i in (0, 1, 2, 4, 7)], [0.0, 0.1, 0.2, 0.4, 0.4], atol=1e-7)


def test_views_are_normalised_and_know_their_maps_and_labels(with_options):
    unchanged = augment.Policy(
        **dict.fromkeys(("rotation", "crop", "flip_rate", "gray_rate", "jitter_rate", "erase_rate"), 0.0)
    )
    config = with_options(augment=unchanged, image_size=36)
    source = open_faces(config.data.dir).source("train")
    batch = next(feed.batches(source, np.arange(8), batch_size=8, size=36, threads=1))

    def views(batch):
        return steps.training_views(jax.random.key(0), jax.random.key(1), batch, config, 7)

    several = jax.jit(jax.vmap(views, axis_name="data"))
    image, _, has_map, target = several(jax.tree.map(lambda a: jnp.asarray(a)[None], batch))
    mean, deviation = (np.array(v).reshape(1, 1, 1, 3) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    np.testing.assert_allclose(image[0], (batch.image / 255.0 - mean) / deviation, atol=1e-4)
    np.testing.assert_array_equal(has_map[0], batch.expression != 0)
    np.testing.assert_array_equal(target[0], np.eye(7)[batch.expression])


def test_an_optimizer_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(UserError, match=r"--config\.optimizer\.name: expected one of sgd, got 'adam'"):
        optimizer.make_optimizer(OptimizerConfig(name="adam"), optax.constant_schedule(0.1))


def test_another_row_of_optimizers_is_chosen_by_its_name(monkeypatch):
    monkeypatch.setitem(optimizer.OPTIMIZERS, "plain", lambda options, schedule: optax.sgd(schedule))
    chosen = optimizer.make_optimizer(OptimizerConfig(name="plain"), optax.constant_schedule(0.5))
    updates, _ = chosen.update(jnp.ones(2), chosen.init(jnp.zeros(2)), jnp.ones(2))
    np.testing.assert_array_equal(updates, [-0.5, -0.5])  # no decay, no momentum
