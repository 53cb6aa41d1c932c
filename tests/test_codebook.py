import json

import numpy as np
import pytest

from aujax import codebook

FIGURE_2 = {  # the paper's Fig. 2
    "Neutral": (),
    "Happiness": (6, 12, 25),
    "Surprise": (1, 2, 5, 26, 27),
    "Fear": (1, 2, 4, 5, 20, 25, 26, 27),
    "Anger": (4, 5, 7, 10, 17, 23, 24, 25, 26),
    "Disgust": (9, 10, 16, 17, 25, 26),
    "Sadness": (1, 4, 6, 15, 17),
}


def _file(directory, content):
    path = directory / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_facs_is_figure_2_of_the_paper_in_label_order():
    assert codebook.FACS.aus == FIGURE_2
    assert codebook.FACS.expressions == tuple(FIGURE_2) == codebook.EXPRESSIONS


def test_reference_differs_from_figure_2_in_disgust_only():
    assert codebook.REFERENCE.aus == {**FIGURE_2, "Disgust": (5, 9, 16, 17, 25, 26)}


@pytest.mark.parametrize("book", [codebook.FACS, codebook.REFERENCE])
def test_all_twenty_action_units_have_a_name_and_a_region(book):
    assert len(codebook.ACTION_UNITS) == 20
    assert book.all_aus == tuple(codebook.ACTION_UNITS)


def test_mirroring_landmarks_twice_changes_nothing():
    assert [codebook.MIRRORED[codebook.MIRRORED[i]] for i in range(68)] == list(range(68))


def test_mirror_partners_are_those_of_the_68_point_scheme():
    pairs = {
        0: 16,
        8: 8,
        20: 23,
        27: 27,
        31: 35,
        33: 33,
        36: 45,
        37: 44,
        41: 46,
        48: 54,
        51: 51,
        59: 55,
        60: 64,
        67: 65,
    }
    assert {i: codebook.MIRRORED[i] for i in pairs} == pairs


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_rescaled_landmarks_keep_the_corners_of_the_image_at_its_corners(scale):
    width, height = 20, 8
    corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    found = codebook.rescale_landmarks(corners, np.array([scale, scale]))
    np.testing.assert_allclose(found, [[-0.5, -0.5], [scale * width - 0.5, scale * height - 0.5]])


def test_single_aus_has_a_class_for_each_action_unit_in_order():
    book = codebook.single_aus((25, 4), geometry=codebook.REFERENCE)
    assert (book.expressions, dict(book.aus)) == (("AU25", "AU4"), {"AU25": (25,), "AU4": (4,)})
    assert book.ellipses is codebook.REFERENCE.ellipses


def test_reference_keeps_the_asymmetric_right_ellipse_of_au10():
    left, right = codebook.REFERENCE.ellipses[10]
    assert (left.x[0], left.y[0], right.x[0], right.y[0]) == (48, 50, 52, 54)


def test_codebooks_can_be_keys_of_a_dictionary():
    assert {codebook.FACS: 1, codebook.REFERENCE: 2}[codebook.FACS] == 1


def test_custom_codebook_has_its_action_units_and_the_seven_classes():
    book = codebook.custom({"Happiness": [12, 6, 12]})
    assert book.aus["Happiness"] == (6, 12)
    assert book.expressions == codebook.EXPRESSIONS
    assert book.aus["Fear"] == ()


def test_class_list_follows_from_the_custom_expressions():
    book = codebook.custom({"Pain": (4, 43)}, expressions=("Rest", "Pain"))
    assert book.expressions == ("Rest", "Pain")


def test_custom_codebook_takes_the_geometry_it_is_given():
    book = codebook.custom({}, geometry=codebook.REFERENCE)
    assert book.ellipses is codebook.REFERENCE.ellipses
    assert (book.rendering, book.canvas) == ("coarse", (224, 224))


def test_unknown_expression_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown expression 'Joy': expected one of Neutral, Happiness, .*Sadness"):
        codebook.custom({"Joy": [6]})


def test_unknown_action_unit_is_refused_with_the_valid_numbers():
    with pytest.raises(ValueError, match=r"Happiness: 3 is not the FACS number .* valid numbers: 1, 2, 4, 5, .*, 43"):
        codebook.custom({"Happiness": [6, 3]})


@pytest.mark.parametrize("expressions", [(), ("Pain", "Pain"), "Pain"])
def test_class_list_without_different_names_is_refused(expressions):
    with pytest.raises(ValueError, match="expressions must be a sequence of different names, at least one"):
        codebook.custom({}, expressions=expressions)


def test_load_knows_the_two_codebooks_by_name():
    assert codebook.load("FACS") is codebook.FACS
    assert codebook.load("REFERENCE") is codebook.REFERENCE


def test_load_reads_a_file_and_takes_its_keys_as_classes(tmp_path):
    book = codebook.load(_file(tmp_path, {"aus": {"Rest": [], "Pain": [4, 43]}}))
    assert (book.name, dict(book.aus)) == ("mine", {"Rest": (), "Pain": (4, 43)})


def test_load_reads_class_list_and_geometry(tmp_path):
    content = {"aus": {"Pain": [4]}, "expressions": ["Rest", "Pain"], "geometry": "REFERENCE"}
    book = codebook.load(_file(tmp_path, content))
    assert (book.expressions, book.rendering) == (("Rest", "Pain"), "coarse")


def test_load_refuses_an_unknown_name_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"expected FACS, REFERENCE or the path of a \.json file, got 'facs'"):
        codebook.load("facs")


@pytest.mark.parametrize(
    ("content", "came"),
    [
        ("{", "Expecting property name"),
        ("[]", r"\[\]"),
        ({}, r"\{\}"),
        ({"aus": ["Pain"]}, r"\{'aus': \['Pain'\]\}"),
        ({"aus": {"Pain": 4}}, "4 for Pain"),
        ({"aus": {"Pain": "12"}}, "'12' for Pain"),
        ({"aus": {}, "geometry": "flat"}, "'flat' for the geometry"),
        ({"aus": {}, "geometry": ["FACS"]}, r"\['FACS'\] for the geometry"),
        ({"aus": {}, "expressions": [1, 2]}, r"\[1, 2\] for the expressions"),
        ({"aus": {}, "expressions": [["Happiness"]]}, r"\[\['Happiness'\]\] for the expressions"),
        ({"aus": {}, "expressions": "Happiness"}, "'Happiness' for the expressions"),
        ('{"aus": {"Pain": [4], "Pain": [43]}}', "the key 'Pain' twice"),
    ],
)
def test_load_refuses_a_file_of_another_form(tmp_path, content, came):
    with pytest.raises(ValueError, match=rf'mine\.json: expected \{{"aus": .* one of FACS, REFERENCE, got {came}'):
        codebook.load(_file(tmp_path, content))


def test_load_refuses_an_unknown_key(tmp_path):
    with pytest.raises(ValueError, match=r"mine\.json: expected .*, got the unknown keys classes"):
        codebook.load(_file(tmp_path, {"aus": {"Pain": [4]}, "classes": ["Pain"]}))


@pytest.mark.parametrize("number", [3, True])
def test_load_names_the_file_with_a_wrong_action_unit(tmp_path, number):
    with pytest.raises(ValueError, match=rf"mine\.json: Pain: {number} is not the FACS number"):
        codebook.load(_file(tmp_path, {"aus": {"Pain": [number]}}))
