"""Checkpoints: the latest and the best both stay."""

import jax
import jax.numpy as jnp
import pytest

from aujax import checkpoints
from aujax.checkpoints import Checkpoints
from aujax.data.batch import data_mesh, replicated
from aujax.errors import UserError

pytestmark = pytest.mark.jax_versions

SHARDING = replicated(data_mesh(jax.devices()[:1]))


@pytest.fixture
def after_a_worse_epoch(tmp_path):
    """Four epochs; the second is the best, equalled by the third."""
    with Checkpoints(tmp_path / "checkpoints") as saved:
        for epoch, accuracy in enumerate([0.3, 0.6, 0.6, 0.4], start=1):
            saved.save(10 * epoch, {"weights": jnp.full(3, float(epoch))}, {"accuracy": accuracy, "epoch": epoch})
    return tmp_path / "checkpoints"


LIKE = {"weights": jax.ShapeDtypeStruct((3,), jnp.float32)}


def restored(path, which):
    return checkpoints.restore(path, LIKE, SHARDING, which=which)


def test_the_latest_is_restored(after_a_worse_epoch):
    assert restored(after_a_worse_epoch, "latest")[1]["weights"].tolist() == [4.0] * 3


def test_the_best_is_restored_and_of_equals_the_later(after_a_worse_epoch):
    assert restored(after_a_worse_epoch, "best")[1]["weights"].tolist() == [3.0] * 3


def test_nothing_else_is_kept(after_a_worse_epoch):
    assert sorted(int(path.name) for path in after_a_worse_epoch.iterdir() if path.name.isdigit()) == [30, 40]


def test_more_can_be_kept(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as saved:
        for epoch, accuracy in enumerate([0.9, 0.2, 0.3, 0.4], start=1):
            saved.save(epoch, {"weights": jnp.zeros(3)}, {"accuracy": accuracy, "epoch": epoch})
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == [1, 3, 4]


def test_metrics_are_returned_with_the_step(after_a_worse_epoch):
    step, _, metrics = restored(after_a_worse_epoch, "latest")
    assert (step, metrics) == (40, {"accuracy": 0.4, "epoch": 4})


def test_a_part_of_the_state_is_restored(tmp_path):
    state = {"weights": jnp.ones(3), "momentum": {"weights": jnp.zeros(3)}}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state, {"accuracy": 0.5, "epoch": 1})
    _, part, _ = restored(tmp_path, "best")
    assert list(part) == ["weights"]
    assert part["weights"].tolist() == [1.0] * 3


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert restored(tmp_path / "checkpoints", "best") is None


@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_a_damaged_checkpoint_is_named(after_a_worse_epoch, damage):
    for path in [path for path in (after_a_worse_epoch / "40" / "state").rglob("*") if path.is_file()]:
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"checkpoint 40 of .* cannot be read \(\w+\); copy the run folder again"):
        restored(after_a_worse_epoch, "latest")
