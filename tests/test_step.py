"""The step: the update rule, the schedules, and the same numbers on any number of devices."""

import collections
import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aujax import augment, losses, methods, runs
from aujax.config import Config, OptimizerConfig
from aujax.data import feed
from aujax.data.batch import abstract, data_mesh, replicated, to_mesh
from aujax.data.store import open_faces
from aujax.errors import UserError
from aujax.training import optimizer
from aujax.training import step as steps

pytestmark = pytest.mark.jax_versions


@functools.cache
def starting_variables(config):
    return jax.device_get(runs.initial_variables(runs.build_model(config, 7), config))


def variables_of(config):
    """The first variables of a run, which depend on few of its options: drawing them compiles for a second."""
    names = ("method", "method_options", "backbone", "image_size", "seed")
    return starting_variables(Config(**{name: getattr(config, name) for name in names}))


@functools.cache
def trained(config, devices, batches=2):
    """The means of every step and the last state, after training on the first batches of epoch 0."""
    faces = open_faces(config.data.dir)
    mesh = data_mesh(jax.devices()[:devices])
    model = runs.build_model(config, len(faces.expressions))
    tx, _ = optimizer.optimizer_of(config, steps_per_epoch=3)
    state = jax.device_put(steps.create_state(variables_of(config), tx), replicated(mesh))
    train_step = steps.make_train_step(steps.Training(model, tx, config, mesh))
    source = faces.source("train")
    order = feed.epoch_order(config.seed, 0, len(source))
    options = {"batch_size": config.data.batch_size, "size": config.resize_size, "threads": 1}
    history = []
    for _, batch in zip(range(batches), feed.batches(source, order, **options), strict=False):
        state, means = train_step(state, to_mesh(batch, mesh))
        history.append({name: float(mean.compute()) for name, mean in means.items()})
    return history, jax.device_get(state)


@pytest.fixture(scope="module")
def with_a_partial_batch(tiny_config):
    """24 faces in batches of 16: in the second one, half of the devices have padding alone."""
    return dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, batch_size=16))


@pytest.fixture(scope="module")
def on_one_device(with_a_partial_batch):
    return trained(with_a_partial_batch, 1)


@pytest.fixture(scope="module")
def on_four_devices(with_a_partial_batch):
    return trained(with_a_partial_batch, 4)


def assert_same(several, one):
    for means, expected in zip(several[0], one[0], strict=True):
        assert means == pytest.approx(expected, rel=2e-4)
    for tree in ("params", "batch_stats"):
        chex.assert_trees_all_close(getattr(several[1], tree), getattr(one[1], tree), rtol=2e-3, atol=2e-4)


def test_four_devices_give_the_losses_and_parameters_of_one(on_four_devices, on_one_device):
    assert_same(on_four_devices, on_one_device)


def test_eight_devices_give_the_losses_and_parameters_of_one(with_a_partial_batch, on_one_device):
    assert_same(trained(with_a_partial_batch, 8), on_one_device)


def test_a_mean_over_batches_counts_faces(with_a_partial_batch):
    *_, last = feed.batches(
        open_faces(with_a_partial_batch.data.dir).source("train"), np.arange(24), batch_size=16, size=36, threads=1
    )
    mesh = data_mesh(jax.devices()[:1])
    model = runs.build_model(with_a_partial_batch, 7)
    tx, _ = optimizer.optimizer_of(with_a_partial_batch, steps_per_epoch=2)
    state = jax.device_put(steps.create_state(variables_of(with_a_partial_batch), tx), replicated(mesh))
    _, means = steps.make_train_step(steps.Training(model, tx, with_a_partial_batch, mesh))(state, to_mesh(last, mesh))
    assert {name: float(mean.count) for name, mean in means.items() if name != "alignment"} == dict.fromkeys(
        ("loss", "cross_entropy", "accuracy"), 8.0
    )


def test_the_total_is_cross_entropy_plus_weighted_alignment(tiny_config, on_one_device):
    for means in on_one_device[0]:
        assert means["loss"] == pytest.approx(
            means["cross_entropy"] + tiny_config.au_weight * means["alignment"], rel=1e-5
        )


def test_without_au_weight_nothing_is_aligned(with_options):
    history, _ = trained(with_options(au_weight=0.0), 1, batches=1)
    assert set(history[0]) == {"loss", "cross_entropy", "accuracy"}


def test_several_layers_are_averaged_or_summed(with_options):
    layers = ("layer4", "layer5")
    (averaged,), _ = trained(with_options(au_layers=layers), 1, batches=1)
    (summed,), _ = trained(with_options(au_layers=layers, au_layer_reduction="sum"), 1, batches=1)
    assert summed["alignment"] == pytest.approx(2 * averaged["alignment"], rel=1e-5)


def test_statistics_per_device_differ_from_those_across_devices(with_a_partial_batch, on_four_devices):
    (across, _), _ = on_four_devices
    (apart,), _ = trained(dataclasses.replace(with_a_partial_batch, batch_norm="per_device"), 4, batches=1)
    assert across["loss"] != pytest.approx(apart["loss"], rel=2e-4)


def test_a_batch_in_two_parts_gives_the_update_of_the_whole(with_a_partial_batch):
    # Without BatchNorm, which is the only layer that sees how a batch is divided.
    # The channels of fresh tokens, just normalised, add up to nothing but rounding; attention does not.
    changed = {"method": "TS-CAM", "backbone": "vit_tiny", "au_layers": ("attention",)}
    config = dataclasses.replace(with_a_partial_batch, **changed, optimizer=OptimizerConfig(learning_rate=1e-4))
    assert_same(trained(dataclasses.replace(config, gradient_accumulation=2), 2), trained(config, 1))


def test_parts_have_the_same_faces_on_any_devices_and_in_a_loop(with_a_partial_batch, monkeypatch):
    config = dataclasses.replace(with_a_partial_batch, gradient_accumulation=2)
    unrolled = trained(config, 1)
    monkeypatch.setattr(steps, "loops_are_fast", lambda mesh: True)
    assert_same(trained.__wrapped__(config, 4), unrolled)


def exchanged(program):
    """How many numbers each kind of collective of a compiled program exchanges."""
    sizes = collections.Counter()
    for line in program.as_text().splitlines():
        if found := re.search(r" ((?:all|reduce-scatter|collective|ragged)-?[a-z-]*)\(", line):
            shapes = re.findall(r"\[([\d,]*)\]", line[: found.start()].partition(" = ")[2])
            sizes[found[1]] += sum(np.prod([int(n) for n in shape.split(",") if n], dtype=int) for shape in shapes)
    return sizes


@pytest.mark.parametrize(
    ("options", "statistics"),
    [({"batch_norm": "per_device"}, 1), ({"gradient_accumulation": 2}, 4)],
    ids=["statistics once", "statistics and their gradients in each part"],
)
def test_devices_exchange_gradients_once_statistics_and_a_few_sums(with_a_partial_batch, options, statistics):
    config = dataclasses.replace(with_a_partial_batch, **options)
    mesh = data_mesh(jax.devices()[:4])
    model = runs.build_model(config, 7)
    tx, _ = optimizer.optimizer_of(config, steps_per_epoch=3)
    state = jax.eval_shape(lambda variables: steps.create_state(variables, tx), runs.abstract_variables(model, config))
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), state)
    program = (
        steps.make_train_step(steps.Training(model, tx, config, mesh)).lower(placed, abstract(16, 36, mesh)).compile()
    )
    sizes = exchanged(program)
    assert set(sizes) == {"all-reduce"}
    params, stats = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (state.params, state.batch_stats))
    # Gradients that are equal to each other are exchanged once.
    assert 0.99 * params < sizes["all-reduce"] <= params + statistics * stats + 20


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
    (means,), state = trained(config, 1, batches=1)
    before = variables_of(config)["params"]
    assert set(means) == {"loss", "cross_entropy", "accuracy", "alignment"} | further
    classified = sum(value for term, value in means.items() if term.startswith("cross_entropy"))
    assert means["loss"] == pytest.approx(classified + config.au_weight * means["alignment"], rel=1e-5)
    chex.assert_tree_all_finite(state)
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), state.params, before)
    # Of attention weights at the very start, some gradients may be too small to move a float32.
    assert np.mean(jax.tree.leaves(moved)) > 0.9


@pytest.mark.parametrize("name", ["CutMix", "ADL"])
def test_what_a_method_draws_for_the_batch_is_the_same_on_four_devices(name, with_a_partial_batch):
    config = dataclasses.replace(with_a_partial_batch, method=name)
    assert_same(trained(config, 4), trained(config, 1))


def test_cutmix_keeps_the_terms_of_faces_and_mixes_what_they_show(with_options):
    (mixed,), _ = trained(with_options(method="CutMix"), 1, batches=1)
    (plain,), _ = trained(with_options(method="CAM", au_layers=("layer4",)), 1, batches=1)
    # The same views and the same starting network: only the mixing differs.
    assert mixed["cross_entropy"] != pytest.approx(plain["cross_entropy"], rel=1e-3)
    assert mixed["alignment"] != pytest.approx(plain["alignment"], rel=1e-3)


def views_of(config, batch, mix=None):
    """The views of the first step, on one device."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0), 4)

    def views(batch):
        drawn = steps.training_views(keys[0], keys[1], batch, config, 7)
        return mix(keys[2], drawn, valid=batch.valid, axis_name="data") if mix else drawn

    several = jax.jit(jax.vmap(views, axis_name="data"))(jax.tree.map(lambda x: x[None], batch))
    return jax.tree.map(lambda x: x[0], several)


def first_batch(config, size):
    source = open_faces(config.data.dir).source("train")
    order = feed.epoch_order(config.seed, 0, len(source))
    return next(feed.batches(source, order, batch_size=size, size=config.resize_size, threads=1))


def test_acol_erases_by_the_label_in_training(with_options):
    config = with_options(method="ACoL", method_options="channels=16")
    (means,), _ = trained(config, 1, batches=1)
    model = methods.build_model("ACoL", backbone="resnet_tiny", options={"channels": 16})
    variables, batch = variables_of(config), first_batch(config, 8)
    read = jax.jit(
        lambda *given: methods.apply_with_taps(model, *given[:2], train=True, expression=given[2]).activations
    )
    expected = []
    for expression in (batch.expression, None):
        logits = read(variables, views_of(config, batch).image, expression)["erased_logits"]
        expected.append(float(losses.cross_entropy(logits, batch.expression).mean()))
    assert means["cross_entropy_erased_logits"] == pytest.approx(expected[0], rel=1e-4)
    assert means["cross_entropy_erased_logits"] != pytest.approx(expected[1], rel=1e-4)


def test_mixing_receives_which_faces_are_padding(with_a_partial_batch):
    def flag(key, views, *, valid, axis_name):
        return views._replace(has_map=valid)

    *_, last = feed.batches(
        open_faces(with_a_partial_batch.data.dir).source("train"), np.arange(24), batch_size=16, size=36, threads=1
    )
    mesh = data_mesh(jax.devices()[:1])
    model = runs.build_model(with_a_partial_batch, 7)
    model = model.clone(method=dataclasses.replace(model.method, mix=flag))
    tx, _ = optimizer.optimizer_of(with_a_partial_batch, steps_per_epoch=2)
    state = steps.create_state(variables_of(with_a_partial_batch), tx)
    step = steps.make_train_step(steps.Training(model, tx, with_a_partial_batch, mesh))
    _, means = step(jax.device_put(state, replicated(mesh)), to_mesh(last, mesh))
    assert float(means["alignment"].count) == 8


def test_bfloat16_keeps_parameters_and_statistics_in_float32(with_options):
    _, state = trained(with_options(dtype="bfloat16"), 1, batches=1)
    chex.assert_type(jax.tree.leaves((state.params, state.batch_stats)), jnp.float32)


def test_label_smoothing_changes_the_cross_entropy(with_options):
    sharp, smooth = (trained(with_options(label_smoothing=share), 1, batches=1)[0][0] for share in (0.0, 0.5))
    assert smooth["cross_entropy"] != pytest.approx(sharp["cross_entropy"], rel=1e-3)


def test_the_normalization_of_the_pixels_is_chosen(with_options):
    (first,), _ = trained(with_options(), 1, batches=1)
    (other,), _ = trained(with_options(normalization="none"), 1, batches=1)
    assert first["loss"] != other["loss"]


def test_the_seed_changes_the_views(with_options):
    (first,), _ = trained(with_options(), 1, batches=1)
    (other,), _ = trained(with_options(seed=1), 1, batches=1)
    assert first["loss"] != other["loss"]


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
