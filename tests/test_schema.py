"""The tables of an evaluation on disk: what is written is read again, and damage is refused in one sentence."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from aujax.errors import UserError
from aujax.results import schema
from aujax.results.schema import ScoreKey, ScoreWriter


def write(path, parts):
    with ScoreWriter(path) as writer:
        for faces, scores in parts:
            writer.add(
                np.array(faces), {ScoreKey(*key): np.array(values, np.float32) for key, values in scores.items()}
            )
    return path


def test_scores_come_back_by_face_and_in_the_order_of_writing(tmp_path):
    first = {("auc", "cam", "label"): [0.5, np.nan], ("auc", "a", "label"): [0.25, 0.125]}
    second = {("auc", "cam", "label"): [1.0], ("auc", "a", "label"): [0.75], ("extra", "", "", "AU12"): [2.0]}
    path = write(tmp_path / "scores.parquet", [([3, 7], first), ([5], second)])
    scores = schema.read_scores(path, [3, 5, 7], remedy="")
    assert list(scores) == [
        ScoreKey("auc", "cam", "label"),
        ScoreKey("auc", "a", "label"),
        ScoreKey("extra", condition="AU12"),
    ]
    np.testing.assert_array_equal(scores[ScoreKey("auc", "cam", "label")], [0.5, 1.0, np.nan])
    np.testing.assert_array_equal(scores[ScoreKey("auc", "a", "label")], [0.25, 0.75, 0.125])
    np.testing.assert_array_equal(scores[ScoreKey("extra", condition="AU12")], [np.nan, 2.0, np.nan])


def test_scores_of_some_metrics_and_faces_are_read_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "_ROWS_PER_GROUP", 4)
    scores = {("iou", "cam"): [0.5, 1.0], ("auc", "cam"): [0.25, 0.75]}
    path = write(tmp_path / "scores.parquet", [([3, 7], scores), ([5, 8], scores)])
    assert pq.ParquetFile(path).num_row_groups == 2
    ((key, values),) = schema.read_scores(path, [8, 3], remedy="", metrics=["auc"]).items()
    assert key == ScoreKey("auc", "cam")
    np.testing.assert_array_equal(values, [0.75, 0.25])


def test_scores_are_dictionary_encoded_float32_in_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "_ROWS_PER_GROUP", 4)
    path = write(tmp_path / "scores.parquet", [([n, n + 1], {("auc", "cam"): [0.0, 1.0]}) for n in range(0, 12, 2)])
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 3
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types["value"] == "float"
    assert types["face"] == "int32"
    assert types["metric"].startswith("dictionary<values=string")
    assert list(types) == list(schema.SCORE_COLUMNS)


def test_damaged_scores_are_refused_with_the_remedy(tmp_path):
    path = write(tmp_path / "scores.parquet", [([0], {("auc",): [1.0]})])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"scores\.parquet: cannot be read .*; run this"):
        schema.read_scores(path, [0], remedy="run this")


RECORDS = [
    {"id": "a,b.jpg", "subject_id": "007", "attributes": {"gender": "female"}},
    {"id": 'quote".jpg', "subject_id": "", "attributes": {"age": "4-19"}},
]


def face_table():
    columns = {
        "face": np.array([4, 9]),
        "expression": np.array([0, 1]),
        "predicted": np.array([0, 0]),
        "probability": np.array([0.75, 1 / 3], np.float32),
        "has_map": np.array([False, True]),
        "has_predicted_map": np.array([False, False]),
        "att_cos": np.array([np.nan, 0.1], np.float32),
        "cam_cos": np.array([np.nan, np.nan], np.float32),
        "logits": np.array([[1e-8, -3.14159274], [2.0, 1.0]], np.float32),
        "degenerate": np.array(["cam", ""], object),
    }
    return schema.face_table(columns, ["Neutral", "None"], RECORDS)


def test_faces_come_back_to_the_last_bit(tmp_path):
    table = face_table()
    table.to_csv(tmp_path / "faces.csv", index=False)
    found = schema.read_faces(tmp_path / "faces.csv", ["Neutral", "None"], remedy="")
    for name in ("att_cos", "cam_cos", "probability", "logit_Neutral", "logit_None"):
        np.testing.assert_array_equal(found[name].to_numpy(np.float32), table[name].to_numpy(np.float32))
    for name in ("id", "subject_id", "degenerate", "attribute_gender", "attribute_age"):
        assert found[name].tolist() == table[name].tolist()
    assert found["expression"].tolist() == ["Neutral", "None"]


def test_columns_of_faces_are_in_the_documented_order():
    expected = [*schema.FACE_COLUMNS, "logit_Neutral", "logit_None", "attribute_gender", "attribute_age"]
    assert list(face_table().columns) == expected


def test_texts_of_faces_stay_as_written_where_they_look_like_numbers(tmp_path):
    path = tmp_path / "faces.csv"
    table = pd.concat([face_table()] * 50).assign(subject_id="007", attribute_gender="nan", attribute_age="")
    table.to_csv(path, index=False)
    found = schema.read_faces(path, ["Neutral", "None"], remedy="")
    assert set(found["subject_id"] + found["attribute_gender"] + found["attribute_age"]) == {"007nan"}
    assert (found.select_dtypes("number").dtypes == [int, float, int, int, int, float, float, float, float]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("expression", "exprssion"), "it lacks the columns expression"),
        (lambda text: text.splitlines()[0] + "\n", "it has no rows"),
        (lambda text: text.replace(",Neutral,", ",Happy,", 1), "expected an expression, got 'Happy'"),
        (lambda text: text.replace("1e-08", "many"), "CSV conversion error to double: invalid value 'many'"),
        (lambda text: text.replace("1e-08,", ""), "Expected 16 columns, got 15"),
        (lambda text: "", "it lacks the columns id"),
        (lambda text: text + "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18\n", "cannot be read"),
    ],
)
def test_damaged_faces_are_refused_with_the_remedy(tmp_path, change, message):
    path = tmp_path / "faces.csv"
    face_table().to_csv(path, index=False)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message) as error:
        schema.read_faces(path, ["Neutral", "None"], remedy="run this")
    assert str(error.value).endswith("run this")


def test_metadata_of_another_version_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "metrics.json"
    for version in ({}, {"schema_version": schema.VERSION + 1}):
        path.write_text(json.dumps({"cl": 0.5} | version))
        with pytest.raises(UserError, match=rf"of schema version {schema.VERSION}, got .*; run this"):
            schema.read_metadata(path, remedy="run this")


def test_a_summary_is_found_by_its_keys(tmp_path):
    columns = dict.fromkeys(schema.SUMMARY_COLUMNS, "")
    rows = [
        columns | {"metric": "accuracy", "value": 0.5, "low": 0.25, "high": 0.75, "faces": 4, "subjects": 2},
        columns | {"metric": "accuracy", "attribute": "expression", "group": "Fear", "value": np.nan, "low": np.nan}
        | {"high": np.nan, "faces": 0, "subjects": 0},
    ]  # fmt: skip
    tables = schema.Tables({}, pd.DataFrame(rows), tmp_path, "")
    assert tables.interval("accuracy") == (0.5, 0.25, 0.75)
    assert tables.count("accuracy") == (4, 2)
    assert tables.interval("accuracy", attribute="expression", group="Fear") == (None, None, None)
    assert tables.interval("no_such_metric") == (None, None, None)
