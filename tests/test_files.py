"""Files are written as a whole or not at all."""

import pathlib

import pytest

from aujax import files


def test_a_file_keeps_its_content_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    files.write_json(path, {"seed": 1})
    write_bytes = pathlib.Path.write_bytes

    def write_half(target, content):
        write_bytes(target, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"seed": 2})
    assert path.read_text() == '{\n "seed": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf_8_and_bytes_stay_as_they_are(tmp_path):
    files.write(tmp_path / "text", "ä\n")
    files.write(tmp_path / "bytes", b"\xff")
    assert [(tmp_path / name).read_bytes() for name in ("text", "bytes")] == [b"\xc3\xa4\n", b"\xff"]
