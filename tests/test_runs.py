"""Run folders: the check that all processes see them, and the data set of an evaluation."""

import time
import types

import pytest

from aujax import processes, runs
from aujax.config import Config
from aujax.data.store import open_faces
from aujax.errors import UserError


@pytest.fixture
def second_process(monkeypatch):
    """This process is not the first of two, and the other one is always there."""
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "wait_for_all", lambda event: None)


def test_a_folder_that_is_seen_a_little_later_is_accepted(second_process, tmp_path, tiny_data, monkeypatch):
    """A network file system repeats for a while that config.json does not exist."""
    slept = []
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds) or (tmp_path / "config.json").touch())
    runs.start(tmp_path, Config(), open_faces(tiny_data))
    assert len(slept) == 1


def test_a_folder_that_is_never_seen_is_refused_within_a_minute(second_process, tmp_path, tiny_data, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    with pytest.raises(UserError, match="is not on a disk that all processes see; choose a folder that is"):
        runs.start(tmp_path, Config(), open_faces(tiny_data))
    assert 59 < now[0] < 62


def test_data_of_other_classes_is_refused_by_the_option_that_gave_it(tmp_path, monkeypatch):
    manifest = {"expressions": ["Neutral", "Pain"], "data": {"name": "pain"}}
    run = runs.Run(Config(), None, {}, manifest, {})
    faces = types.SimpleNamespace(directory=tmp_path, expressions=("Neutral", "Happiness"))
    monkeypatch.setattr(runs, "open_faces", lambda directory: faces)
    with pytest.raises(UserError, match=r"--data-dir: expected .* trained on, Neutral, Pain; .* has Neutral, Hap"):
        runs.open_data(run, str(tmp_path))
