"""An epoch over device-resident and streamed faces: the same order and numbers; and which is chosen."""

import dataclasses
import types

import chex
import jax
import pytest

from aujax import runs
from aujax.data import device_cache
from aujax.data.batch import data_mesh, replicated
from aujax.data.store import open_faces
from aujax.errors import UserError
from aujax.training import loop, memory
from aujax.training import step as steps
from aujax.training.optimizer import optimizer_of


def opened(config, *, devices=1, **data):
    """The epochs of a run, and its first state."""
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=16, **data))
    faces = open_faces(config.data.dir)
    mesh = data_mesh(jax.devices()[:devices])
    model = runs.build_model(config, len(faces.expressions))
    tx, _ = optimizer_of(config, steps_per_epoch=2)
    state = jax.device_put(steps.create_state(runs.initial_variables(model, config), tx), replicated(mesh))
    training = loop.Training(model, tx, config, mesh)
    return loop.open_epochs(training, faces.source("train"), state), state


def trained(config, **options):
    """Means and state after epoch 1, the steps that were reported, and the description of the data."""
    (run, description, _), state = opened(config, **options)
    done = []
    state, means = run(state, 1, done.append)
    return {name: float(mean.compute()) for name, mean in means.items()}, jax.device_get(state), done, description


@pytest.fixture(scope="module")
def streamed(tiny_config):
    """24 faces in batches of 16, so that the second batch is padded."""
    return trained(tiny_config, cache="off")


@pytest.fixture(scope="module")
def looped(tiny_config):
    """The same on four devices, all steps in one program, as an accelerator has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "steps_per_call", lambda total, mesh: total)
        return trained(tiny_config, devices=4, cache="device")


def test_device_resident_and_streamed_faces_give_the_same_numbers(streamed, tiny_config):
    means, state, *_ = trained(tiny_config, cache="device")
    assert means == pytest.approx(streamed[0], rel=1e-6)
    chex.assert_trees_all_close(state, streamed[1], rtol=1e-4, atol=1e-6)


def test_many_steps_in_one_program_on_four_devices_give_the_same_numbers(streamed, looped):
    assert looped[0] == pytest.approx(streamed[0], rel=2e-4)
    chex.assert_trees_all_close(looped[1].params, streamed[1].params, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("mode", ["streamed", "looped"])
def test_every_step_is_reported(mode, request):
    assert sum(request.getfixturevalue(mode)[2]) == 2


def test_the_description_says_where_the_faces_are(streamed, looped):
    assert streamed[3] == "faces loaded from disk by 1 threads"
    assert looped[3] == "all faces in device memory, 26 KiB on each"


@pytest.mark.usefixtures("sizes")
def test_the_description_has_the_number_of_devices_that_share_a_copy(tiny_config, monkeypatch):
    monkeypatch.setattr(device_cache, "_DEVICES_PER_COPY", 2)
    about = opened(tiny_config, devices=4, cache="device")[0].description
    assert about == "all faces in device memory, 52.1 KiB on each, a copy on every 2 devices"


@pytest.fixture
def sizes(monkeypatch):
    """Steps are not compiled: a streamed step needs 1 MiB and a quarter of that for each face, a cached one 8 MiB."""

    def program(needed):
        def lowered(*arguments):
            return types.SimpleNamespace(compile=lambda: needed(*arguments))

        return lambda *_, **__: types.SimpleNamespace(lower=lowered)

    monkeypatch.setattr(steps, "make_train_step", program(lambda _, batch: (4 + len(batch.index)) * 2**18))
    monkeypatch.setattr(steps, "make_cached_steps", program(lambda *_: 8 * 2**20))
    monkeypatch.setattr(memory, "needed", lambda program: program)


@pytest.mark.usefixtures("sizes")
def test_faces_that_do_not_fit_beside_the_step_are_streamed(tiny_config, monkeypatch):
    monkeypatch.setattr(memory, "capacity", lambda mesh, state: 7 * 2**20)
    about = opened(tiny_config)[0].description
    assert about.endswith("; device-resident faces would take 8 MiB of each device, which has 7 MiB left")


@pytest.mark.usefixtures("sizes")
def test_faces_that_fit_are_device_resident(tiny_config, monkeypatch):
    monkeypatch.setattr(memory, "capacity", lambda mesh, state: 8 * 2**20)
    assert opened(tiny_config)[0].description.startswith("all faces in device memory")


@pytest.mark.usefixtures("sizes")
def test_required_device_memory_that_is_too_small_is_refused(tiny_config, monkeypatch):
    monkeypatch.setattr(memory, "capacity", lambda mesh, state: 2**10)
    with pytest.raises(UserError, match=r"cache=device: 24 faces and the step need 104 KiB of each .* set it to auto"):
        opened(tiny_config, cache="device")


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize(
    ("capacity", "advice"), [(3, "the largest that fits is about 8"), (1, "not even a smaller one fits")]
)
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(tiny_config, monkeypatch, capacity, advice):
    monkeypatch.setattr(memory, "capacity", lambda mesh, state: capacity * 2**20)
    with pytest.raises(UserError, match=rf"batch_size: a step of 16 faces needs 5 MiB of each device.*; {advice}.*; "):
        opened(tiny_config, cache="off")
