import pytest
from small_folders import blocks, labelled_folder, labels, listing, splits, write_csv, write_image

from aujax.codebook import EXPRESSIONS
from aujax.data.prepare import SOURCES
from aujax.data.sources.folder import expression_ids, parse_classes, parse_expressions
from aujax.errors import UserError


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("happy", "Happiness"),
        ("JOY", "Happiness"),
        ("Surprised", "Surprise"),
        ("angry", "Anger"),
        ("sad", "Sadness"),
        ("fearful", "Fear"),
        ("disgusted", "Disgust"),
        (" neutral ", "Neutral"),
        ("Sadness", "Sadness"),
    ],
)
def test_usual_class_names_are_known_in_any_case(name, expression):
    assert expression_ids([name]) == {name: EXPRESSIONS.index(expression)}


def test_unknown_class_names_are_all_listed_with_their_counts():
    with pytest.raises(
        UserError, match=r"'contempt' \(2\), 'lol' \(1\); expected names of Neutral, .*--classes=contempt="
    ):
        expression_ids(["happy", "lol", "contempt", "contempt"])


def test_explicit_map_comes_before_synonyms_and_can_leave_a_class_out():
    classes = parse_classes("joy=Surprise, contempt=none")
    assert expression_ids(["joy", "contempt"], classes=classes) == {"joy": 2, "contempt": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("happy", "expected name=Expression"),
        ("a=Fear,a=Anger", "given twice"),
        ("x=Fear", "'x' is no class of this source"),
        ("lol=Hapiness", "lol=Hapiness: expected one of Neutral"),
    ],
)
def test_wrong_map_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        expression_ids(["lol"], classes=parse_classes(text))


def test_own_expressions_replace_the_seven():
    expressions = parse_expressions("Pain, No pain")
    assert expression_ids(["no_pain", "PAIN"], expressions=expressions) == {"no_pain": 1, "PAIN": 0}
    with pytest.raises(UserError, match="different names"):
        parse_expressions("Pain,pain")
    with pytest.raises(UserError, match="two names or more"):
        parse_expressions("Pain")


def test_labels_csv_is_found_and_read_without_options(tmp_path):
    found = listing("folder", "--source", labelled_folder(tmp_path, ["happy", "sad"], subjects=["ann", "bob"]))
    assert labels(found) == {"a/000.png": "Happiness", "a/001.png": "Sadness"}
    assert [image.subject_id for image in found.images] == ["ann", "bob"]
    assert found.images[0].read() == (tmp_path / "a/000.png").read_bytes()


def test_csv_file_with_other_columns_and_splits(tmp_path):
    rows = [
        {"photo": "1.png", "feeling": "joy", "part": "Training"},
        {"photo": "2.png", "feeling": "fear", "part": "val"},
        {"photo": "3.png", "feeling": "anger", "part": ""},
    ]
    path = write_csv(tmp_path / "list.csv", rows)
    columns = ["--image-column=photo", "--expression-column=feeling", "--split-column=part"]
    assert splits(listing("folder", "--source", path, *columns)) == {
        "1.png": "train",
        "2.png": "validation",
        "3.png": "",
    }


def test_other_columns_of_a_csv_file_are_attributes(tmp_path):
    rows = [
        {"image": "1.png", "label": "joy", "person": "ann", " Gender ": "female "},
        {"image": "2.png", "label": "fear", "person": "bob", " Gender ": ""},
    ]
    found = listing("folder", "--source", write_csv(tmp_path / "list.csv", rows))
    assert [image.attributes for image in found.images] == [{"Gender": "female"}, {}]
    assert found.notes == ["list.csv: kept as attributes of the faces: Gender"]


@pytest.mark.parametrize("column", ["subject_id", "group", "identity", "Person"])
def test_usual_names_of_the_column_of_subjects_are_known(tmp_path, column):
    path = write_csv(tmp_path / "list.csv", [{"image": "1.png", "label": "joy", column: "ann"}])
    assert [image.subject_id for image in listing("folder", "--source", path).images] == ["ann"]


@pytest.mark.parametrize("option", ["--subject-id-column", "--group-column"])
def test_column_of_subjects_can_be_chosen_by_either_option(tmp_path, option):
    path = write_csv(tmp_path / "list.csv", [{"image": "1.png", "label": "joy", "group": "b", "who": "ann"}])
    assert [image.subject_id for image in listing("folder", f"--source={path}", f"{option}=who").images] == ["ann"]


def test_every_source_states_its_terms_in_sentences():
    assert all(source.terms.endswith(".") for source in SOURCES.values())


def test_index_column_of_pandas_is_neither_split_nor_subject(tmp_path):
    rows = [{"": "0", "image": "1.png", "label": "joy"}]
    found = listing("folder", "--source", write_csv(tmp_path / "list.csv", rows))
    assert [(image.split, image.subject_id, image.attributes) for image in found.images] == [("", "", {})]


def test_columns_with_a_meaning_of_their_own_are_no_attributes(tmp_path):
    source = labelled_folder(tmp_path, ["happy"], subjects=["ann"])
    found = listing("folder", "--source", source)
    assert (found.images[0].attributes, found.notes) == ({}, [])


def test_line_longer_than_the_header_gains_no_attribute(tmp_path):
    (tmp_path / "labels.csv").write_text("image,expression,age\n1.png,joy,30,left over\n2.png,joy\n")
    found = listing("folder", "--source", tmp_path)
    assert [image.attributes for image in found.images] == [{"age": "30"}, {}]


def test_class_folders_below_split_folders(tmp_path):
    write_image(tmp_path / "train" / "Happy" / "1.png", blocks(1))
    write_image(tmp_path / "Test" / "SAD" / "2.png", blocks(2))
    (tmp_path / "train" / "Happy" / "notes.txt").touch()
    (tmp_path / "train" / "Happy" / "._1.png").touch()
    found = listing("folder", "--source", tmp_path)
    assert labels(found) == {"train/Happy/1.png": "Happiness", "Test/SAD/2.png": "Sadness"}
    assert splits(found) == {"train/Happy/1.png": "train", "Test/SAD/2.png": "test"}


def test_two_folders_of_one_split_are_refused(tmp_path):
    for split in ("train", "val", "dev"):
        write_image(tmp_path / split / "happy" / "a.png", blocks(0))
    with pytest.raises(
        UserError, match=r"both dev and val mean the split 'validation'; put their class folders into one"
    ):
        listing("folder", f"--source={tmp_path}")


def test_class_folders_alone_leave_the_split_open(tmp_path):
    write_image(tmp_path / "0" / "1.png", blocks(1))
    write_image(tmp_path / "9" / "2.png", blocks(2))
    found = listing("folder", "--source", tmp_path, "--classes=0=Fear,9=none")
    assert [(image.id, image.split) for image in found.images] == [("0/1.png", "")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "1.png", "mood": "joy"}], "expected a column 'expression', found image, mood"),
        ([{"image": "", "expression": "joy"}], "line 2: expected the path of an image"),
        ([{"image": "1.png", "expression": "joy", "split": "later"}], "got 'later'"),
    ],
)
def test_broken_labels_are_refused(tmp_path, rows, message):
    write_csv(tmp_path / "labels.csv", rows)
    with pytest.raises(UserError, match=message):
        listing("folder", "--source", tmp_path)


def test_labels_with_a_header_only_are_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("image,expression\n")
    with pytest.raises(UserError, match="one line per image after the header"):
        listing("folder", "--source", tmp_path)


def test_chosen_column_must_exist(tmp_path):
    source = labelled_folder(tmp_path, ["happy"])
    with pytest.raises(UserError, match=r"--subject-id-column=who: .* has the columns image, expression"):
        listing("folder", "--source", source, "--subject-id-column=who")


def test_folder_without_a_layout_lists_its_content(tmp_path):
    (tmp_path / "readme.md").touch()
    with pytest.raises(UserError, match=r"expected labels\.csv .* found readme\.md"):
        listing("folder", "--source", tmp_path)


@pytest.mark.parametrize("name", ["folder", "rafdb", "affectnet"])
def test_missing_source_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="no such"):
        listing(name, "--source", tmp_path / "nowhere")


def test_drawn_splits_share_no_person_and_only_train_has_the_shortcut(monkeypatch):
    calls = []

    def draw(seed, index, *, size, shortcut):
        calls.append((index, shortcut))
        return real(seed, index, size=size, shortcut=shortcut)

    from aujax.data import synthetic

    real = synthetic.draw_face
    monkeypatch.setattr(synthetic, "draw_face", draw)
    found = listing("synthetic", "--train=10", "--validation=3", "--test=4", "--size=48", "--shortcut=0.5")
    people = {
        split: {i.subject_id for i in found.images if i.split == split} for split in ("train", "validation", "test")
    }
    assert [len(people[split]) for split in people] == [2, 1, 1]
    assert len(set.union(*people.values())) == 4
    assert [shortcut for _, shortcut in calls] == [0.5] * 10 + [0.0] * 7


def test_faces_to_test_on_do_not_change_with_the_number_to_train_on():
    few, many = (
        [
            image.id
            for image in listing("synthetic", f"--train={train}", "--test=2", "--validation=0", "--size=48").images
        ]
        for train in (1, 9)
    )
    assert few[-2:] == many[-2:]


@pytest.mark.parametrize("option", ["--train=7000001", "--size=8", "--shortcut=2"])
def test_impossible_drawing_options_are_refused(option):
    with pytest.raises(UserError, match=option):
        listing("synthetic", option)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_labels_may_be_separated_by_commas_semicolons_and_tabs(tmp_path, delimiter):
    lines = [["image", "expression", "age"], ["1,2.png" if delimiter != "," else "1.png", "joy", "30"]]
    text = "\n".join(delimiter.join(line) for line in lines)
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8-sig")  # as spreadsheets do
    found = listing("folder", "--source", tmp_path)
    assert labels(found) == {lines[1][0]: "Happiness"}
    assert found.images[0].attributes == {"age": "30"}


def test_paths_written_on_windows_are_found(tmp_path):
    write_image(tmp_path / "a" / "1.png", blocks(1))
    write_image(tmp_path / "a" / "2\\3.png", blocks(2))  # a backslash is allowed in a name here
    rows = [{"image": name, "expression": "joy"} for name in ("a\\1.png", "a/2\\3.png")]
    write_csv(tmp_path / "labels.csv", rows)
    found = listing("folder", "--source", tmp_path)
    assert [image.id for image in found.images] == ["a/1.png", "a/2\\3.png"]
    assert all(image.read() for image in found.images)


def test_an_empty_label_is_refused_with_its_line(tmp_path):
    (tmp_path / "labels.csv").write_text("image,expression\n1.png,joy\n2.png,\n3.png, \n")
    with pytest.raises(UserError, match=r"line 3: expected an expression, .* \(2 of 3 lines are like this\)"):
        listing("folder", "--source", tmp_path)


def test_photographs_with_the_ending_jfif_are_images(tmp_path):
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "1.jfif").write_bytes(b"")
    assert list(labels(listing("folder", "--source", tmp_path))) == ["happy/1.jfif"]
