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
    with Checkpoints(tmp_path / "checkpoints", keep=1) as saved:
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
    assert sorted(path.name for path in after_a_worse_epoch.iterdir()) == ["30", "40"]


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


def files(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_changed_bit_is_noticed_in_any_file(after_a_worse_epoch):
    state = [path for path in files(after_a_worse_epoch / "40") if path.parent.name != "40"]
    assert len(state) >= 8
    for path in state:
        flip_a_bit(path)
        with pytest.raises(
            UserError, match=rf"checkpoint 40 of .* is damaged \(.*{path.name} has changed\); copy the run"
        ):
            restored(after_a_worse_epoch, "latest")
        flip_a_bit(path)
    assert restored(after_a_worse_epoch, "latest")[0] == 40


def named(checkpoint, name):
    return next(path for path in files(checkpoint) if name in (path.name, path.parent.name))


@pytest.mark.parametrize("name", ["d", "metrics", "checksums.json"])
def test_a_file_that_is_cut_off_is_noticed(after_a_worse_epoch, name):
    path = named(after_a_worse_epoch / "40", name)
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(UserError, match=r"checkpoint 40 of .* is damaged"):
        restored(after_a_worse_epoch, "latest")


@pytest.mark.parametrize("name", ["d", "metrics", "_CHECKPOINT_METADATA"])
def test_a_file_that_is_lost_is_noticed(after_a_worse_epoch, name):
    path = named(after_a_worse_epoch / "40", name)
    path.unlink()
    with pytest.raises(UserError, match=rf"is damaged \(.*{path.name} is missing\)"):
        restored(after_a_worse_epoch, "latest")


def test_training_continues_from_the_checkpoint_before_a_damaged_one(after_a_worse_epoch, caplog):
    flip_a_bit(after_a_worse_epoch / "40" / "metrics" / "metrics")
    step, state, _ = restored(after_a_worse_epoch, "intact")
    assert (step, state["weights"].tolist()) == (30, [3.0] * 3)
    (record,) = caplog.records
    assert "checkpoint 40 of" in record.message
    assert record.message.endswith("is damaged (metrics/metrics has changed); continuing from checkpoint 30")


def test_without_an_intact_checkpoint_nothing_is_restored(after_a_worse_epoch):
    for step in ("30", "40"):
        flip_a_bit(after_a_worse_epoch / step / "metrics" / "metrics")
    with pytest.raises(UserError, match=r"checkpoint 40 of .* is damaged"):
        restored(after_a_worse_epoch, "intact")


def test_no_other_checkpoint_takes_the_place_of_the_best(after_a_worse_epoch):
    metrics = after_a_worse_epoch / "30" / "metrics" / "metrics"
    metrics.write_text(metrics.read_text().replace("0.6", "0.3"))
    with pytest.raises(UserError, match=r"checkpoint 30 of .* is damaged"):
        restored(after_a_worse_epoch, "best")


def test_the_best_is_restored_beside_a_damaged_one(after_a_worse_epoch):
    (after_a_worse_epoch / "40" / "metrics" / "metrics").write_text('{"accur')
    assert restored(after_a_worse_epoch, "best")[0] == 30


def test_what_a_deletion_left_is_ignored_and_removed(after_a_worse_epoch):
    (after_a_worse_epoch / "50" / "state").mkdir(parents=True)
    (after_a_worse_epoch / "60.orbax-checkpoint-tmp").mkdir()
    assert restored(after_a_worse_epoch, "latest")[0] == 40
    assert restored(after_a_worse_epoch, "best")[0] == 30
    with Checkpoints(after_a_worse_epoch, last=40) as saved:
        saved.save(50, {"weights": jnp.full(3, 5.0)}, {"accuracy": 0.1, "epoch": 5})
    assert sorted(path.name for path in after_a_worse_epoch.iterdir()) == ["30", "40", "50"]
    assert restored(after_a_worse_epoch, "latest")[1]["weights"].tolist() == [5.0] * 3


def test_a_damaged_checkpoint_is_set_aside_and_written_again(after_a_worse_epoch):
    flip_a_bit(after_a_worse_epoch / "40" / "metrics" / "metrics")
    with Checkpoints(after_a_worse_epoch, last=30) as saved:
        saved.save(40, {"weights": jnp.full(3, 4.0)}, {"accuracy": 0.4, "epoch": 4})
    assert (after_a_worse_epoch.parent / checkpoints.SET_ASIDE / "40" / "metrics").is_dir()
    assert restored(after_a_worse_epoch, "latest")[0] == 40


def test_a_checkpoint_of_an_earlier_version_is_restored_with_a_warning(after_a_worse_epoch, caplog):
    (after_a_worse_epoch / "40" / checkpoints.CHECKSUMS).unlink()
    assert restored(after_a_worse_epoch, "latest")[0] == 40
    assert "has no checksums.json, like those of earlier versions" in caplog.text
