"""Explanations of faces: what is measured in each region, and what becomes of photographs."""

import csv
import functools
import html.parser
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_folders import blocks, write_image

import aujax.explain
from aujax import codebook, faithfulness, run_files, runs
from aujax.data import photos
from aujax.data.batch import Batch
from aujax.data.store import open_faces
from aujax.data.synthetic import draw_face
from aujax.errors import UserError
from aujax.explain import __main__ as command
from aujax.explain import explaining, model, page, reading
from aujax.explain.background import background
from aujax.explain.timeline import timeline

BOOK = codebook.FACS
GROUPS = BOOK.same_region(BOOK.all_aus)


HALF, LIP_CORNERS, CORNER, FLAT = range(4)


@pytest.fixture(scope="module")
def batch():
    """One drawn face, four times."""
    face = draw_face(0, 1, size=64)
    four = {"image": face.image, "landmarks": face.landmarks, "expression": np.int32(0), "index": np.int32(0)}
    return Batch(*(np.stack([part] * 4) for part in (*four.values(), np.True_, np.True_)))


@pytest.fixture(scope="module")
def found(batch):
    """What is measured of four attention maps, a flat CAM, and hidden regions of which one matters."""
    maps = np.zeros((4, 64, 64), np.float32)
    maps[HALF, :32], maps[CORNER, 0, 0], maps[FLAT] = 1.0, 1.0, 1.0
    x, y = batch.landmarks[0, [48, 54]].round().astype(int).T
    maps[LIP_CORNERS, y, x] = 1.0
    aus, classes = len(BOOK.all_aus), len(BOOK.expressions)
    lips = BOOK.all_aus.index(12), BOOK.all_aus.index(15)
    drop = jnp.zeros((4, aus, classes)).at[:, lips, 1].set(0.4).at[:, lips, 2].set(-0.9)
    effects = faithfulness.Effects(
        probability=jnp.zeros((4, classes)).at[:, 1].set(1.0),
        drop=drop,
        drawn=jnp.ones((4, aus), bool),
        control=jnp.broadcast_to(jnp.array([0.1, 0.3, 0.0])[:, None], (4, 3, classes)),
        control_drawn=jnp.array([[True, True, False]] * 4),
    )
    measured = jax.jit(functools.partial(reading.measured, book=BOOK))
    return jax.device_get(measured({"attention": maps, "cam": jnp.ones((4, 8, 8))}, effects, batch))


def share(found, row, *aus):
    return found.share["attention"][row, GROUPS.index(aus)]


def test_flat_maps_have_no_share_and_half_a_map_has_all_of_what_lies_in_it(found):
    assert (found.share["cam"] == 0).all()
    assert (found.share["attention"][FLAT] == 0).all()
    assert found.patterned["attention"].tolist() == [True, True, True, False]
    assert not found.patterned["cam"].any()
    brows = found.area[HALF, GROUPS.index((1,))]
    assert share(found, HALF, 1) == pytest.approx(2 * brows, rel=1e-3)  # twice the average, for the rest has nothing
    assert share(found, HALF, 23, 24, 26, 27) < 0.01  # below the middle


def test_attention_at_the_lip_corners_is_found_there(found):
    assert share(found, LIP_CORNERS, 12, 15) == pytest.approx(1.0)
    assert share(found, LIP_CORNERS, 1) == 0


def test_attention_outside_the_face_is_measured(found):
    shares, of_picture = found.outside
    assert shares[CORNER] == pytest.approx(1.0)
    assert shares[LIP_CORNERS] == pytest.approx(0.0)
    assert ((of_picture > 0.2) & (of_picture < 0.9)).all()


def test_effect_is_that_of_the_predicted_class_and_control_the_mean_of_those_drawn(found):
    expected = np.zeros((4, len(GROUPS)), np.float32)
    expected[:, GROUPS.index((12, 15))] = 0.4
    np.testing.assert_array_equal(found.effect, expected)
    np.testing.assert_allclose(found.control, 0.2, rtol=1e-6)
    assert found.controlled.all()


@pytest.fixture(scope="module")
def stored(tiny_run, tmp_path_factory):
    """Ten faces of the run's test split as files, their landmarks, and what evaluation says about them."""
    folder = tmp_path_factory.mktemp("photos")
    source = open_faces(json.loads((tiny_run / "config.json").read_text())["data"]["dir"]).source("test")
    table = {}
    for row in range(10):
        path = folder / f"{row:02d}<i>.png"
        path.write_bytes(source[row]["image"])
        table[str(path)] = source[row]["landmarks"]
    with (tiny_run / "eval" / "test" / "examples.csv").open() as file:
        return table, list(csv.DictReader(file))[:10]


@pytest.fixture(scope="module")
def explained(tiny_run, stored):
    return aujax.explain.explain(tiny_run, stored[0], landmarks=stored[0], batch_size=8)


def test_stored_faces_are_seen_as_in_their_evaluation(explained, stored):
    assert [one.photo for one in explained] == list(stored[0])  # ten faces in batches of eight
    assert [one.expression for one in explained] == [row["predicted"] for row in stored[1]]
    expected = [float(row["probability"]) for row in stored[1]]
    np.testing.assert_allclose([one.probability for one in explained], expected, atol=2e-3)


def test_explanation_holds_maps_and_every_region(explained):
    one = explained[0]
    assert one.attention.shape == one.cam.shape == (4, 4)
    assert {au for found in one.regions for au in found.aus} == set(BOOK.all_aus)
    assert sum(one.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert one.strongest.effect == max(found.effect for found in one.regions)
    listed = {au for found in one.regions for au in found.listed}
    assert listed == set(BOOK.aus[one.expression])


def test_long_video_keeps_the_pictures_of_a_few_hundred_of_its_faces(explained):
    video = page.Thinned()
    for second in range(1000):
        video.add(explained[0]._replace(second=float(second)))
    assert [one.second for one in video.all] == list(range(1000))
    kept = [place for place, one in enumerate(video.all) if one.picture.size]
    assert kept == [*range(0, 999, 8), 999]


def test_temperature_of_the_run_makes_its_answers_less_sure(tiny_run, stored, explained):
    file = tiny_run / run_files.CALIBRATION
    try:
        step = model.open_model(tiny_run).run.checkpoint["step"]
        file.write_text(json.dumps({"temperature": 4.0, "checkpoint": {"step": step}}))
        (warm,) = aujax.explain.explain(tiny_run, list(stored[0])[:1], landmarks=stored[0], batch_size=8)
        file.write_text(json.dumps({"temperature": 4.0, "checkpoint": {"step": step + 1}}))
        other = model.open_model(tiny_run)
        assert other.temperature == 1.0
        assert f"those of step {step + 1} instead of step {step}" in background(other, warped=True).lines[-2]
        file.write_text(json.dumps({"temperature": 4.0, "checkpoint": {"step": step}, "data": {"fingerprint": "else"}}))
        other = model.open_model(tiny_run)
        assert other.temperature == 1.0
        assert "was fitted to other data" in background(other, warped=True).lines[-2]
        for content in ("[]", "true", "{}", '{"temperature": 0}', '{"temperature": true}'):
            file.write_text(content)
            with pytest.raises(UserError, match=r"calibration\.json: expected an? (object|temperature above 0)"):
                model.open_model(tiny_run)
    finally:
        file.unlink()
    cold = np.array(list(explained[0].probabilities.values()))
    expected = cold**0.25 / (cold**0.25).sum()
    np.testing.assert_allclose(list(warm.probabilities.values()), expected, atol=1e-4)


def test_method_without_cam_is_read_without_one(with_options, batch):
    config = with_options(method="APViT", backbone="apvit_tiny")
    network = runs.build_model(config, 7)
    picture = jnp.zeros((4, 32, 32, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), picture)
    read = functools.partial(reading.read, model=network, layer="stage3", normalization="imagenet", book=BOOK)
    shapes = jax.eval_shape(read, variables, batch._replace(image=np.zeros((4, 32, 32, 3), np.uint8)), 1.0)
    assert set(shapes.maps) == set(shapes.share) == {"attention"}


def test_explanation_without_cam_is_told_by_its_attention(tiny_run, found, batch, tmp_path):
    drawn = draw_face(0, 1, size=64)
    given = photos.as_given({"photo 1": drawn.landmarks})
    (face,) = photos.read_faces([drawn.image], find=given, choose="one", align=True, size=64)
    row = jax.tree.map(lambda column: column[LIP_CORNERS], found)
    row = row._replace(
        **{name: {"attention": getattr(row, name)["attention"]} for name in ("maps", "patterned", "share")}
    )
    one = explaining.explanation(face, row, book=BOOK)
    assert one.cam is None
    assert {region.cam for region in one.regions} == {None}
    assert one.text.endswith("hiding the lip corners (AU12) lowers it most, to 0.60.")
    page.write(tmp_path / "page.html", [one], [], background(model.open_model(tiny_run), warped=True))
    assert "CAM there" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(("count", "rows"), [(1, 8), (8, 8), (9, 16), (17, 24), (24, 24)])
def test_few_faces_make_a_small_batch(count, rows):
    assert explaining._filled(count, 24, 8) == rows


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


def test_video_has_a_chart_with_a_line_for_each_expression_that_is_seen(explained):
    others = dict.fromkeys(BOOK.expressions, 0.0)
    answers = [{"Happiness": 1.0}, {"Sadness": 0.5, "Happiness": 0.25}]
    frames = [
        explained[0]._replace(second=second, expression=max(answer, key=answer.get), probabilities=others | answer)
        for second, answer in zip((2.0, 4.0), answers, strict=True)
    ]
    drawn = timeline(frames, "a&b.mp4")
    assert drawn.count("in a&amp;b.mp4") == 3  # once escaped, in each place
    assert drawn.count("<polyline") == 2
    # From the left edge at 2 s to the right one at 4 s; 1 is at the top, 8 units down, and 0 at 208.
    assert 'points="34.0,8.0 754.0,158.0"' in drawn
    assert 'points="34.0,208.0 754.0,108.0"' in drawn


class Page(html.parser.HTMLParser):
    """What a page holds: its elements, the addresses it names, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.addresses, self.ids, self.words = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def no_cache(monkeypatch):
    """Keeps what tests compile out of the user's cache."""
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)


@pytest.mark.usefixtures("no_cache")
def test_command_writes_page_json_and_csv_and_tells_what_it_cannot_do(tiny_run, tmp_path, capsys):
    folder, landmarks = tmp_path / "photos", tmp_path / "landmarks"
    source = open_faces(json.loads((tiny_run / "config.json").read_text())["data"]["dir"]).source("test")
    for row in range(10):
        folder.mkdir(exist_ok=True)
        landmarks.mkdir(exist_ok=True)
        (folder / f"{row}<i>.png").write_bytes(source[row]["image"])
        np.save(landmarks / f"{row}<i>.png.npy", source[row]["landmarks"])
    (tmp_path / "bad.jpg").write_text("hello")
    options = [f"--workdir={tiny_run}", f"--out={tmp_path / 'out'}", f"--landmarks={landmarks}", "--batch_size=8"]
    command.main([str(folder), str(tmp_path / "bad.jpg"), "nowhere.jpg", *options])
    printed = capsys.readouterr()
    assert f"not explained: {tmp_path / 'bad.jpg'}: no image" in printed.err
    assert "10 faces explained, 2 not (see above)" in printed.out

    content = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert [one["photo"] for one in content["problems"]] == [str(tmp_path / "bad.jpg"), "nowhere.jpg"]
    with (tmp_path / "out" / "explanations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert content["model"]["evaluation"]["protocol"] == "heldout"
    for row, one in zip(rows, content["explanations"], strict=True):
        assert row["protocol"] == "heldout"
        assert f"called {row['predicted']}, {100 * one['record']['share']:.0f} % [" in row["record"]
        assert row["photo"] == one["photo"]
        lips = next(found for found in one["regions"] if 12 in found["aus"])
        assert float(row["effect:AU12"]) == float(row["effect:AU15"]) == lips["effect"]

    shown = Page((tmp_path / "out" / "explanations.html").read_text())
    assert shown.elements.count("article") == 10
    assert "i" not in shown.elements  # of the names of the files
    assert all(one["text"].partition(": ")[2] in shown.words for one in content["explanations"])
    assert all(address.startswith(("#", "data:")) for address in shown.addresses)
    assert {address[1:] for address in shown.addresses if address.startswith("#")} <= set(shown.ids)
    assert "not a diagnosis" in shown.words


@pytest.mark.usefixtures("no_cache")
def test_folder_in_the_place_of_the_page_is_told_before_the_work(tmp_path, capsys):
    (tmp_path / "explanations.html").mkdir()
    with pytest.raises(SystemExit, match="2"):
        command.main(["a.jpg", f"--workdir={tmp_path / 'no run'}", f"--out={tmp_path}"])
    assert f"expected to write {tmp_path / 'explanations.html'}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_cache")
def test_command_fails_where_nothing_can_be_explained(tiny_run, tmp_path, capsys):
    write_image(tmp_path / "photos" / "a.png", np.full((64, 64, 3), 128, np.uint8))
    with pytest.raises(SystemExit, match="2"):
        command.main([str(tmp_path / "photos"), f"--workdir={tiny_run}", f"--out={tmp_path / 'out'}"])
    error = capsys.readouterr().err
    assert "none could be explained (" in error
    assert "a.png: no face found); give others, or --landmarks=none" in error
