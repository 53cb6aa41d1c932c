"""Results of `aujax explain` as they come, and continuing an interrupted command."""

import json

import numpy as np
import pytest

from aujax import cli
from aujax.data.store import open_faces
from aujax.explain import __main__ as command
from aujax.explain.journal import Journal


def results(journal):
    return list(journal.results("explanation")), list(journal.results("problem"))


def face(image, second=None, number=1):
    return {"image": image, "second": second, "face": number}


def test_results_are_in_the_file_at_once_and_in_order(tmp_path):
    with Journal(tmp_path / "a.jsonl", {"model": 1}) as journal:
        journal.add("explanation", face("a"))
        journal.add("problem", face("b"))
        lines = [json.loads(line) for line in journal.partial.read_text().splitlines()]
        assert lines == [{"model": 1}, {"explanation": face("a")}, {"problem": face("b")}]
        assert results(journal) == ([face("a")], [face("b")])
        journal.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def interrupted(path, *, end=b""):
    """A journal of a frame with one face and of a frame with two, which ends with these bytes."""
    with Journal(path, {"model": 1}) as journal:
        for second, number in ((0.0, 1), (0.5, 1), (0.5, 2)):
            journal.add("explanation", face("clip.mp4", second, number))
    with journal.partial.open("ab") as file:
        file.write(end)


@pytest.mark.parametrize("end", [b"", b'{"explanation": {"image": "clip.mp4", "sec', b"\0\0\0"])
def test_the_last_image_is_explained_again(tmp_path, end):
    interrupted(tmp_path / "a.jsonl", end=end)
    with Journal(tmp_path / "a.jsonl", {"model": 1}) as journal:
        assert results(journal) == ([face("clip.mp4", 0.0)], [])
        assert journal.images() == {("clip.mp4", 0.0)}
        journal.add("problem", face("c"))
        assert results(journal) == ([face("clip.mp4", 0.0)], [face("c")])


def test_results_of_another_model_are_not_continued(tmp_path):
    interrupted(tmp_path / "a.jsonl")
    with Journal(tmp_path / "a.jsonl", {"model": 2}) as journal:
        assert results(journal) == ([], [])


@pytest.fixture
def photographs(tiny_run, tmp_path, monkeypatch):
    """Runs `aujax explain` on six photographs; returns the output folder."""
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: None)
    folder, landmarks = tmp_path / "photos", tmp_path / "landmarks"
    source = open_faces(json.loads((tiny_run / "config.json").read_text())["data"]["dir"]).source("test")
    folder.mkdir()
    landmarks.mkdir()
    for row in range(6):
        (folder / f"{row}.png").write_bytes(source[row]["image"])
        np.save(landmarks / f"{row}.png.npy", source[row]["landmarks"])

    def run(out):
        options = [f"--workdir={tiny_run}", f"--out={out}", f"--landmarks={landmarks}", "--batch-size=8", "--jobs=2"]
        cli.main(["explain", str(folder), *options])
        return out

    return run


def test_an_interrupted_command_continues_where_it_stopped(photographs, tmp_path, monkeypatch, capsys):
    whole = photographs(tmp_path / "whole")
    explain_faces = command.explain_faces
    explained = []

    def stopping(model, faces, *, batch_size):
        for number, result in enumerate(explain_faces(model, faces, batch_size=batch_size)):
            if number == 4:
                raise KeyboardInterrupt
            yield result

    def counting(model, faces, *, batch_size):
        for result in explain_faces(model, faces, batch_size=batch_size):
            explained.append(result.image.rpartition("/")[2])
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(command, "explain_faces", stopping)
        with pytest.raises(SystemExit):
            photographs(tmp_path / "out")
    assert "the same command continues from here" in capsys.readouterr().err
    assert len((tmp_path / "out" / "explanations.jsonl.partial").read_text().splitlines()) == 5

    monkeypatch.setattr(command, "explain_faces", counting)
    monkeypatch.setattr(command.page, "_MAX_FACES", 1)  # of three faces the page may show the first and the third
    out = photographs(tmp_path / "out")
    assert explained == ["0.png", "2.png", "3.png", "4.png", "5.png"]
    for name in ("explanations.json", "explanations.csv", "explanations.jsonl"):
        assert (out / name).read_text() == (whole / name).read_text()
    assert not list(out.glob("*.partial"))
    assert (whole / "explanations.html").read_text().count("<article") == 6
