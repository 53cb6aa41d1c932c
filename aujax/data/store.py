"""Prepared faces on disk: a TFDS data set in the `array_record` format, written in order and read by row.

A prepared folder holds `dataset.json` (expressions, counts, fingerprint, options of the preparation, terms of use;
written last), `faces/2.0.0/` (for `tfds.builder_from_directory`), `report.txt` and, if landmarks were detected,
`landmarks.jsonl`. TensorFlow is never imported: images are stored as encoded bytes, and records are appended by TFDS's
`SequentialWriter`, because the shuffling writer of a TFDS builder needs TensorFlow above 1 GB and keeps everything
below that in memory. A record is one face:

  image          bytes, an upright JPEG or PNG of 3 channels (or gray, which decoders expand)
  landmarks      (68, 2) float32, (x, y) pixels of that image; zeros if has_landmarks is False
  has_landmarks  bool
  expression     int, index into the data set's own `expressions`
  id             str, unique: the path of the original image below its source
  subject_id     str, whose face it is; "" if unknown
  aus            (n,) int32, FACS numbers of the active action units if known, else empty
  attributes     dict of str to str, such as {"gender": "female"}, without what is not known; on disk JSON text
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.sequential_writer import SequentialWriter
from tensorflow_datasets.proto import tf_example_pb2

import aujax
from aujax import files
from aujax.errors import UserError

METADATA = "dataset.json"
LANDMARK_CACHE = "landmarks.jsonl"
_FORMAT = 2  # of dataset.json and the records; format 1 had `group` in place of `subject_id`
_VERSION = "2.0.0"
_RECORDS = f"faces/{_VERSION}"  # below the prepared folder
_FACES_PER_SHARD = 4096
# Bytes of each file that its checksum is of: opening a data set does not read all of it. Records have their own.
_HEAD = 2**16
_FACES_PER_FLUSH = 64  # with each flush, the writer writes the metadata of all splits again

Record = dict[str, Any]


class FaceSource(Sequence[Record]):
    """The faces of one split, by row; thread-safe and picklable."""

    def __init__(self, directory: Path, split: str):
        builder: Any = tfds.builder_from_directory(str(directory / _RECORDS))
        self._rows = builder.as_data_source(split).data_source  # serialized examples
        self._directory, self._split = directory, split

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Record:
        """Returns the face in `row`, as the module docstring describes a record; `image` stays encoded.

        Raises:
          UserError: the file is damaged there.
        """
        row = range(len(self))[row]
        try:
            serialized = self._rows[row]
        except (OSError, RuntimeError) as error:  # array_record raises the latter: its content has checksums
            raise UserError(
                f"{self._directory}: expected a face in row {row} of {self._split}, but the file is damaged there "
                f"({str(error).partition(' (')[0]}); copy the folder again, or prepare it again with --overwrite"
            ) from error
        # Parsed here, because TFDS's own decoding takes three times as long, and Python runs one thread at a time.
        face = tf_example_pb2.Example.FromString(serialized).features.feature
        return {
            "image": face["image"].bytes_list.value[0],
            "landmarks": np.array(face["landmarks"].float_list.value, np.float32).reshape(68, 2),
            "has_landmarks": bool(face["has_landmarks"].int64_list.value[0]),
            "expression": face["expression"].int64_list.value[0],
            "id": face["id"].bytes_list.value[0].decode(),
            "subject_id": face["subject_id"].bytes_list.value[0].decode(),
            "aus": np.array(face["aus"].int64_list.value, np.int32),
            "attributes": json.loads(face["attributes"].bytes_list.value[0]),
        }


@dataclass(frozen=True)
class Faces:
    """A prepared data set.

    Attributes:
      directory: the prepared folder.
      expressions: the names that a record's `expression` indexes.
      splits: the number of faces of each split.
      landmarks: the number of faces with landmarks of each split.
      fingerprint: a hash of all faces, in their order.
      about: the options of the preparation; and `terms` of the images, `detector_terms` of the landmarks, and whether
        the images were `cropped` beforehand.
    """

    directory: Path
    expressions: tuple[str, ...]
    splits: dict[str, int]
    landmarks: dict[str, int]
    fingerprint: str
    about: dict[str, Any]

    def source(self, split: str) -> FaceSource:
        """Returns the faces of `split` by row.

        Raises:
          UserError: the data set has no such split.
        """
        if split not in self.splits:
            raise UserError(
                f"{self.directory} has no split {split!r}: expected one of {', '.join(self.splits)}; "
                "choose one of these, or prepare the data set again with another --validation or --test"
            )
        return FaceSource(self.directory, split)


def open_faces(directory: str | os.PathLike[str]) -> Faces:
    """Returns the data set that `aujax prepare ... --out DIRECTORY` wrote.

    Raises:
      UserError: nothing there, not a prepared folder, an older format, or a folder that is incomplete.
    """
    directory = Path(directory)
    path = directory / METADATA
    command = f"`aujax prepare ... --out {directory}`"
    if not path.is_file():
        if (directory / "faces" / "incomplete").exists() or (directory / LANDMARK_CACHE).exists():
            raise UserError(
                f"{directory} holds a data set whose preparation did not finish ({METADATA} is missing); "
                f"run the same {command} again: detected landmarks are kept"
            )
        found = f"this folder has no {METADATA}" if directory.is_dir() else "there is no such folder"
        raise UserError(
            f"{directory}: expected a folder written by {command}, but {found}; run that command, or correct the path"
        )
    foreign = UserError(
        f"{path}: expected the description of a prepared data set (format {_FORMAT}), found something "
        "else; prepare the data set again with `aujax prepare ... --overwrite`"
    )
    try:
        metadata = json.loads(path.read_text())
        faces = Faces(
            directory=directory,
            expressions=tuple(metadata["expressions"]),
            splits=dict(metadata["splits"]),
            landmarks=dict(metadata["landmarks"]),
            fingerprint=metadata["fingerprint"],
            about=metadata["about"],
        )
        version, sizes, checksums = metadata["format"], metadata["files"], metadata.get("checksums", {})
    except (ValueError, KeyError, TypeError) as error:
        raise foreign from error
    if version == 1:
        source = f" --source={faces.about['source']}" if faces.about.get("source") else ""
        raise UserError(
            f"{directory}: expected a data set of format {_FORMAT}, got format 1 of an earlier version of aujax; "
            f"prepare it again, with the same options: `aujax prepare {faces.about.get('name', '...')}{source} "
            f"--out={directory} --overwrite`"
        )
    if version != _FORMAT:
        raise foreign
    for name, size in sizes.items():
        file = directory / _RECORDS / name
        if not file.is_file():
            found = "it is missing"
        elif file.stat().st_size != size:
            found = f"it has {file.stat().st_size}"
        elif name in checksums and _checksum(file) != checksums[name]:  # the first data sets had none
            found = "its content is another"
        else:
            continue
        raise UserError(
            f"{file}: expected the file of {size} bytes that was written, {found}; "
            "copy the folder again, or prepare it again with --overwrite"
        )
    return faces


def _checksum(file: Path) -> str:
    """Returns the SHA-256 of the first `_HEAD` bytes of a file."""
    with file.open("rb") as opened:
        return hashlib.sha256(opened.read(_HEAD)).hexdigest()


def write_faces(
    directory: Path,
    rows: Iterable[tuple[str, Record]],
    *,
    expressions: Sequence[str],
    splits: Sequence[str],
    about: Mapping[str, Any],
) -> Faces:
    """Writes (split, record) `rows` in their order below `directory`, and opens the result.

    An earlier data set stays until this one is complete; an incomplete one is removed.

    Raises:
      UserError: a split without faces.
      OSError, RuntimeError: the disk is full or not writable.
    """
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "landmarks": tfds.features.Tensor(shape=(68, 2), dtype=np.float32),
            "has_landmarks": np.bool_,
            "expression": tfds.features.ClassLabel(names=list(expressions)),
            "id": tfds.features.Text(),
            "subject_id": tfds.features.Text(),
            "aus": tfds.features.Sequence(np.int32),
            "attributes": tfds.features.Text(),
        }
    )
    counts = dict.fromkeys(splits, 0)
    landmarks = dict.fromkeys(splits, 0)
    pending = {split: [] for split in splits}
    digest = hashlib.sha256("\n".join(expressions).encode())
    incomplete = directory / "faces" / "incomplete"
    shutil.rmtree(incomplete, ignore_errors=True)
    incomplete.mkdir(parents=True)
    try:
        identity = DatasetIdentity(
            name="faces", version=tfds.core.Version(_VERSION), data_dir=str(incomplete), module_name=__name__
        )
        info = tfds.core.DatasetInfo(builder=identity, description="Faces prepared by aujax", features=features)
        writer = SequentialWriter(info, _FACES_PER_SHARD, file_format="array_record")
        writer.initialize_splits(list(splits))
        for split, record in rows:
            counts[split] += 1
            landmarks[split] += bool(record["has_landmarks"])
            # What is hashed must not change, or runs could not be compared any more.
            numbers = [record["has_landmarks"], record["expression"], *record["aus"]]
            texts = [split, record["id"], record["subject_id"], " ".join(str(int(n)) for n in numbers)]
            if record["attributes"]:  # the first data sets had none
                texts.append(json.dumps(record["attributes"], sort_keys=True))
            digest.update(json.dumps(texts).encode())
            digest.update(np.ascontiguousarray(record["landmarks"], "<f4").tobytes())
            digest.update(hashlib.sha256(record["image"]).digest())
            pending[split].append({**record, "attributes": json.dumps(record["attributes"])})
            if len(pending[split]) == _FACES_PER_FLUSH:
                writer.add_examples({split: pending[split]})
                pending[split] = []
        writer.add_examples(pending)
        writer.close_all()
        for split, count in counts.items():
            if not count:
                raise UserError(
                    f"the split {split!r} is empty: every split needs a readable face; "
                    "give more images, or choose other fractions with --validation and --test"
                )
        written = sorted(incomplete.iterdir())
        sizes = {path.name: path.stat().st_size for path in written}
        checksums = {path.name: _checksum(path) for path in written}
        (directory / METADATA).unlink(missing_ok=True)
        for earlier in incomplete.parent.iterdir():
            if earlier != incomplete:
                shutil.rmtree(earlier, ignore_errors=True)
        incomplete.rename(directory / _RECORDS)
    except BaseException:
        shutil.rmtree(incomplete, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: an earlier data set is in there
            incomplete.parent.rmdir()
        raise
    metadata = {
        "format": _FORMAT,
        "aujax": aujax.__version__,
        "expressions": list(expressions),
        "splits": counts,
        "landmarks": landmarks,
        "fingerprint": digest.hexdigest(),
        "about": dict(about),
        "files": sizes,
        "checksums": checksums,
    }
    files.write_json(directory / METADATA, metadata)
    return open_faces(directory)
