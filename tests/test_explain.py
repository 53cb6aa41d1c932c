"""Explanations of faces: the measurements of each region, alignment as in the run, and the command."""

import csv
import functools
import html.parser
import importlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_folders import blocks, write_image

import aujax.explain
from aujax import cli, codebook, occlusion, run_files, runs
from aujax.data import face_crops
from aujax.data.batch import Batch
from aujax.data.prepare import SOURCES
from aujax.data.store import open_faces
from aujax.data.synthetic import draw_face
from aujax.errors import UserError
from aujax.explain import __main__ as command

# `aujax.explain.explain` is the function, which has the name of its module.
explain = importlib.import_module("aujax.explain.explain")
BOOK = codebook.FACS
GROUPS = BOOK.same_region(BOOK.all_aus)


HALF, LIP_CORNERS, CORNER, CONSTANT = range(4)


@pytest.fixture(scope="module")
def batch():
    """One drawn face, four times."""
    face = draw_face(0, 1, size=64)
    four = {"image": face.image, "landmarks": face.landmarks, "expression": np.int32(0), "index": np.int32(0)}
    return Batch(*(np.stack([part] * 4) for part in (*four.values(), np.True_, np.True_)))


@pytest.fixture(scope="module")
def measured(batch):
    """The measurements of four attention maps, a constant CAM, and occlusions of which one has an effect."""
    maps = np.zeros((4, 64, 64), np.float32)
    maps[HALF, :32], maps[CORNER, 0, 0], maps[CONSTANT] = 1.0, 1.0, 1.0
    x, y = batch.landmarks[0, [48, 54]].round().astype(int).T
    maps[LIP_CORNERS, y, x] = 1.0
    aus, classes = len(BOOK.all_aus), len(BOOK.expressions)
    lips = BOOK.all_aus.index(12), BOOK.all_aus.index(15)
    drop = jnp.zeros((4, aus, classes)).at[:, lips, 1].set(0.4).at[:, lips, 2].set(-0.9)
    effects = occlusion.Effects(
        probability=jnp.zeros((4, classes)).at[:, 1].set(1.0),
        probability_drop=drop,
        has_region=jnp.ones((4, aus), bool),
        control_drop=jnp.broadcast_to(jnp.array([0.1, 0.3, 0.0])[:, None], (4, 3, classes)),
        has_control=jnp.array([[True, True, False]] * 4),
        is_target=jnp.array([[number in BOOK.aus["Happiness"] for number in BOOK.all_aus]] * 4),
    )
    summarize = jax.jit(functools.partial(explain.summarize, book=BOOK))
    return jax.device_get(summarize({"attention": maps, "cam": jnp.ones((4, 8, 8))}, effects, batch))


def share(measured, row, *aus):
    return measured.share["attention"][row, GROUPS.index(aus)]


def test_constant_map_has_no_share_and_half_a_map_has_twice_the_mean(measured):
    assert (measured.share["cam"] == 0).all()
    assert (measured.share["attention"][CONSTANT] == 0).all()
    assert measured.degenerate["attention"].tolist() == [False, False, False, True]
    assert measured.degenerate["cam"].all()
    brows = measured.area[HALF, GROUPS.index((1,))]
    assert share(measured, HALF, 1) == pytest.approx(2 * brows, rel=1e-3)  # the other half has none
    assert share(measured, HALF, 23, 24, 26, 27) < 0.01  # below the middle


def test_attention_at_the_lip_corners_is_in_their_region(measured):
    assert share(measured, LIP_CORNERS, 12, 15) == pytest.approx(1.0)
    assert share(measured, LIP_CORNERS, 1) == 0


def test_attention_outside_the_face_is_measured(measured):
    shares, area = measured.outside
    assert shares[CORNER] == pytest.approx(1.0)
    assert shares[LIP_CORNERS] == pytest.approx(0.0)
    assert ((area > 0.2) & (area < 0.9)).all()


def test_drop_is_of_the_predicted_class_and_control_the_mean_of_those_drawn(measured):
    expected = np.zeros((4, len(GROUPS)), np.float32)
    expected[:, GROUPS.index((12, 15))] = 0.4
    np.testing.assert_array_equal(measured.drop, expected)
    np.testing.assert_allclose(measured.control_drop, 0.2, rtol=1e-6)
    assert measured.has_control.all()


@pytest.fixture(scope="module")
def stored(tiny_run, tmp_path_factory):
    """Ten faces of the run's test split as files, their landmarks, and their rows of the evaluation."""
    folder = tmp_path_factory.mktemp("photos")
    source = open_faces(json.loads((tiny_run / "config.json").read_text())["data"]["dir"]).source("test")
    table = {}
    for row in range(10):
        path = folder / f"{row:02d}<i>.png"
        path.write_bytes(source[row]["image"])
        table[str(path)] = source[row]["landmarks"]
    with (tiny_run / "eval" / "test" / "faces.csv").open() as file:
        return table, list(csv.DictReader(file))[:10]


@pytest.fixture(scope="module")
def explained(tiny_run, stored):
    return aujax.explain.explain(tiny_run, stored[0], landmarks=stored[0], batch_size=8)


def test_stored_faces_have_the_predictions_of_the_evaluation(explained, stored):
    assert [one.image for one in explained] == list(stored[0])  # ten faces in batches of eight
    assert [one.expression for one in explained] == [row["predicted"] for row in stored[1]]
    expected = [float(row["probability"]) for row in stored[1]]
    np.testing.assert_allclose([one.probability for one in explained], expected, atol=2e-3)


def test_explanation_holds_maps_and_every_region(explained):
    one = explained[0]
    assert one.attention.shape == one.cam.shape == (4, 4)
    assert {au for region in one.regions for au in region.aus} == set(BOOK.all_aus)
    assert sum(one.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert one.strongest.probability_drop == max(region.probability_drop for region in one.regions)
    targets = {au for region in one.regions for au in region.target_aus}
    assert targets == set(BOOK.aus[one.expression])


def test_images_are_kept_of_the_first_faces_alone(tiny_run, stored, explained):
    few = aujax.explain.explain(tiny_run, list(stored[0])[:3], landmarks=stored[0], batch_size=8, images=2)
    assert [one.text for one in few] == [one.text for one in explained[:3]]
    assert [bool(one.aligned.size and one.attention.size) for one in few] == [True, True, False]


def test_temperature_of_the_run_makes_predictions_less_certain(tiny_run, stored, explained):
    file = tiny_run / run_files.CALIBRATION
    try:
        step = explain.open_model(tiny_run).run.checkpoint["step"]
        file.write_text(json.dumps({"temperature": 4.0, "checkpoint": {"step": step}}))
        (warm,) = aujax.explain.explain(tiny_run, list(stored[0])[:1], landmarks=stored[0], batch_size=8)
        file.write_text(json.dumps({"temperature": 4.0, "checkpoint": {"step": step + 1}}))
        other = explain.open_model(tiny_run)
        assert other.temperature == 1.0
        assert f"those of step {step + 1} instead of step {step}" in other.notes[0]
        file.write_text(json.dumps({"temperature": 4.0, "checkpoint": {"step": step}, "data": {"fingerprint": "else"}}))
        other = explain.open_model(tiny_run)
        assert other.temperature == 1.0
        assert "was fitted to other data" in other.notes[0]
        for content in ("[]", "true", "{}", '{"temperature": 0}', '{"temperature": true}'):
            file.write_text(content)
            with pytest.raises(UserError, match=r"calibration\.json: expected an? (object|temperature above 0)"):
                explain.open_model(tiny_run)
    finally:
        file.unlink()
    cold = np.array(list(explained[0].probabilities.values()))
    expected = cold**0.25 / (cold**0.25).sum()
    np.testing.assert_allclose(list(warm.probabilities.values()), expected, atol=1e-4)


def test_method_without_cam_is_measured_without_one(with_options, batch):
    config = with_options(method="APViT", backbone="apvit_tiny")
    network = runs.build_model(config, 7)
    image = jnp.zeros((4, 32, 32, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    measure = functools.partial(explain.measure, model=network, layer="stage3", normalization="imagenet", book=BOOK)
    shapes = jax.eval_shape(measure, variables, batch._replace(image=np.zeros((4, 32, 32, 3), np.uint8)), 1.0)
    assert set(shapes.maps) == set(shapes.share) == {"attention"}


def test_explanation_of_a_method_without_cam_has_attention_alone(measured, batch):
    drawn = draw_face(0, 1, size=64)
    find = face_crops.landmark_finder({"image 1": drawn.landmarks})
    (face,) = face_crops.load_faces([drawn.image], find=find, select="one", align="five-point", size=64)
    row = jax.tree.map(lambda column: column[LIP_CORNERS], measured)
    for name in ("maps", "degenerate", "share"):
        row = row._replace(**{name: {"attention": getattr(row, name)["attention"]}})
    explanation = explain.make_explanation(face, row, book=BOOK)
    assert explanation.cam is None
    assert {region.cam for region in explanation.regions} == {None}
    assert explanation.text.endswith("hiding the lip corners (AU12) lowers the probability most, to 0.60.")


@pytest.mark.parametrize(("count", "rows"), [(1, 8), (8, 8), (9, 16), (17, 24), (24, 24)])
def test_few_faces_make_a_small_batch(count, rows):
    assert explain._padded_size(count, 24, 8) == rows


def test_faces_are_aligned_as_the_data_of_the_run_were(tiny_run):
    model = explain.open_model(tiny_run)
    assert explain.alignment_of(model, "run", "one") == "none"
    assert explain.alignment_of(model, "five-point", "all") == "five-point"
    with pytest.raises(UserError, match=r"--faces=all: the whole photograph .* use --align=five-point"):
        explain.alignment_of(model, "run", "all")
    released = model.run._replace(config=model.run.config.__class__(), manifest={"data": {"name": "RAF-DB"}})
    assert explain.alignment_of(model._replace(run=released), "run", "one") == "five-point"


def test_sources_of_cropped_faces_are_known():
    assert {name for name, source in SOURCES.items() if source.cropped} == {"rafdb", "folds", "affectnet"}


def test_faces_are_aligned_by_the_fit_of_the_run(tiny_run, monkeypatch):
    prepared = types.SimpleNamespace(about={"align": "five-point/reference"})
    monkeypatch.setattr(runs, "open_data", lambda run, data_dir: prepared)
    assert explain.alignment_of(explain.open_model(tiny_run), "run", "all") == "five-point/reference"


@pytest.mark.parametrize(("cropped", "expected"), [(True, "five-point unless cropped"), (False, "none")])
def test_faces_are_cropped_if_those_of_training_were(cropped, expected, tiny_run, monkeypatch):
    prepared = types.SimpleNamespace(about={"align": "none", "cropped": cropped})
    monkeypatch.setattr(runs, "open_data", lambda run, data_dir: prepared)
    model = explain.open_model(tiny_run)
    assert explain.alignment_of(model, "run", "one") == expected
    if expected != "none":
        assert explain.alignment_of(model, "run", "all") == expected
    assert explain.alignment_of(model, "none", "one") == "none"
    assert explain.alignment_of(model, "five-point", "one") == "five-point"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"faces": "two"}, "--faces: expected one of one, all, got 'two'"),
        ({"align": "two"}, "--align: expected one of"),
    ],
)
def test_unknown_choice_is_a_user_error(options, message, tiny_run):
    with pytest.raises(UserError, match=message):
        aujax.explain.explain(tiny_run, [blocks(1)], landmarks="none", **options)


class Page(html.parser.HTMLParser):
    """The elements of a page, its links, ids and text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.addresses, self.ids, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def no_cache(monkeypatch):
    """Keeps what tests compile out of the user's cache."""
    monkeypatch.setattr(command.cli, "keep_compiled_programs", lambda: None)


@pytest.mark.usefixtures("no_cache")
def test_command_writes_page_json_and_csv_and_reports_problems(tiny_run, tmp_path, capsys):
    folder, landmarks = tmp_path / "photos", tmp_path / "landmarks"
    source = open_faces(json.loads((tiny_run / "config.json").read_text())["data"]["dir"]).source("test")
    for row in range(10):
        folder.mkdir(exist_ok=True)
        landmarks.mkdir(exist_ok=True)
        (folder / f"{row}<i>.png").write_bytes(source[row]["image"])
        np.save(landmarks / f"{row}<i>.png.npy", source[row]["landmarks"])
    (tmp_path / "bad.jpg").write_text("hello")
    options = [f"--workdir={tiny_run}", f"--out={tmp_path / 'out'}", f"--landmarks={landmarks}", "--batch_size=8"]
    cli.main(["explain", str(folder), str(tmp_path / "bad.jpg"), "nowhere.jpg", *options])
    printed = capsys.readouterr()
    assert f"not explained: {tmp_path / 'bad.jpg'}: no image" in printed.err
    assert "10 faces explained, 2 not (see above)" in printed.out

    content = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert [problem["image"] for problem in content["problems"]] == [str(tmp_path / "bad.jpg"), "nowhere.jpg"]
    with (tmp_path / "out" / "explanations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert content["model"]["evaluation"]["model_selection"] == "validation"
    for row, one in zip(rows, content["explanations"], strict=True):
        assert row["model_selection"] == "validation"
        shares = f"{one['precision']['correct']} of {one['precision']['count']} were correct"
        assert f"predictions of {row['predicted']} on the test split, {shares}" in row["precision"]
        assert row["image"] == one["image"]
        lips = next(region for region in one["regions"] if 12 in region["aus"])
        assert float(row["probability_drop:AU12"]) == float(row["probability_drop:AU15"]) == lips["probability_drop"]

    shown = Page((tmp_path / "out" / "explanations.html").read_text())
    assert shown.elements.count("article") == 10
    assert "i" not in shown.elements  # of the names of the files
    assert all(one["text"].partition(": ")[2][1:] in shown.text for one in content["explanations"])
    assert all(address.startswith(("#", "data:")) for address in shown.addresses)
    assert {address[1:] for address in shown.addresses if address.startswith("#")} <= set(shown.ids)
    assert "Not a diagnosis" in shown.text


@pytest.mark.usefixtures("no_cache")
def test_folder_in_the_place_of_the_page_is_reported_before_the_work(tmp_path, capsys):
    (tmp_path / "explanations.html").mkdir()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["explain", "a.jpg", f"--workdir={tmp_path / 'no run'}", f"--out={tmp_path}"])
    assert f"expected to write {tmp_path / 'explanations.html'}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_cache")
def test_command_fails_where_nothing_can_be_explained(tiny_run, tmp_path, capsys):
    write_image(tmp_path / "photos" / "a.png", np.full((64, 64, 3), 128, np.uint8))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["explain", str(tmp_path / "photos"), f"--workdir={tiny_run}", f"--out={tmp_path / 'out'}"])
    error = capsys.readouterr().err
    assert "none could be explained (" in error
    assert "a.png: no face found); give others, or --landmarks=none" in error
