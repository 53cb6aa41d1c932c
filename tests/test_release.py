"""The released folders come in and our runs go out; the folders are tiny ones, written after their description."""

import json
import os
import pickle

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch_files
from released_folders import SIZE, options, released_folder, weights

from aujax import evaluation_files, methods, runs
from aujax.errors import UserError
from aujax.release import __main__ as release
from aujax.release import exporting, folders, importing
from aujax.release import options as released_options
from aujax.report import comparison
from aujax.training.loop import train_and_evaluate

TINY = "resnet_tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A released folder of the tiny CAM with AU cues."""
    return released_folder(tmp_path_factory.mktemp("released") / "CAM")


@pytest.fixture(scope="module")
def imported(folder, tmp_path_factory):
    """The run folder made from it."""
    return importing.import_folder(folder, tmp_path_factory.mktemp("runs") / "cam", backbone=TINY).run


@pytest.fixture
def tiny(monkeypatch):
    """The command line, for the tiny networks of these tests."""
    real = released_options.translate
    monkeypatch.setattr(released_options, "translate", lambda given, backbone: real(given, backbone=backbone or TINY))


def translate(**changed):
    return released_options.translate(folders.parse(options(**changed)))


def left_over(directory):
    """Names of what lies in a folder, but for the released folders."""
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("released"))


@pytest.mark.parametrize(
    ("theirs", "ours"), [("imagenet", "imagenet"), ("None", "none"), ("null", "none"), ("VGGFace2", "vggface2")]
)
def test_pixels_are_normalised_for_what_the_encoder_was_first_trained_on(theirs, ours):
    translated = translate(model__encoder_weights=theirs)
    assert translated.config.normalization == ours
    assert not translated.told.reading


# What the run holds


def test_the_run_holds_the_tensors_of_the_file(imported):
    params = runs.load_run(imported).variables["params"]
    np.testing.assert_array_equal(params["head"]["fc"]["kernel"], weights()["classification_head.fc.weight"].T)
    theirs = weights()["encoder.layer2.0.conv1.weight"]  # (out, in, height, width)
    np.testing.assert_array_equal(params["backbone"]["stage2_block0"]["conv1"]["kernel"], theirs.transpose(2, 3, 1, 0))


def test_the_run_computes_what_a_network_of_these_tensors_computes(imported):
    run = runs.load_run(imported)
    image = jax.random.normal(jax.random.key(0), (2, SIZE, SIZE, 3))
    logits = methods.forward(run.model, run.variables, image).logits
    features = methods.read(run.model, run.variables, image).activations["layer5"].mean((1, 2))
    fc = (weights()[f"classification_head.fc.{part}"] for part in ("weight", "bias"))
    weight, bias = fc
    np.testing.assert_allclose(logits, features @ weight.T + bias[None], rtol=1e-5)


@pytest.fixture(scope="module")
def evaluated(imported, tiny_data):
    """Its evaluation on a data set that is named."""
    return evaluation_files.evaluate_run(imported, "test", data_dir=str(tiny_data))


def test_an_imported_run_is_evaluated_on_a_data_set_that_is_named(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert (metrics["num_examples"], metrics["method"], metrics["codebook"]) == (16, "CAM", "REFERENCE")
    assert (metrics["au_weight"], metrics["attention_layer"]) == (9.0, "layer5")


def test_without_a_data_set_the_evaluation_says_what_to_give(imported):
    with pytest.raises(UserError, match=r"--data_dir: expected a prepared data set, got nothing, .*AffectNet; give"):
        evaluation_files.evaluate_run(imported, "test")


def test_an_imported_run_is_reported_like_others(imported, evaluated, tmp_path):
    report = comparison.write([str(imported)], split="test", out=tmp_path)
    assert "| folder |" in report.path.read_text()


def test_training_in_an_imported_run_is_refused(imported, tiny_config):
    with pytest.raises(UserError, match=r"holds a released model, imported from .*CAM, which is evaluated and not"):
        train_and_evaluate(tiny_config, imported)


def test_the_manifest_says_where_the_weights_come_from(imported, folder):
    about = json.loads((imported / "manifest.json").read_text())
    assert about["imported"]["from"] == str(folder)
    assert about["data"]["fingerprint"] == "AffectNet"
    assert "amp = True: here training runs in float32, or as --config.dtype says" in about["imported"]["training"]
    assert "data_paths.train" in about["imported"]["unused"]


# Options


@pytest.mark.parametrize(
    ("theirs", "encoder", "row"),
    [
        ("CAM", "resnet50", "CAM"),
        ("WILDCAT", "resnet50", "WILDCAT/reference"),
        ("GradCam", "resnet50", "GradCAM"),
        ("GradCAMpp", "resnet50", "GradCAM++/reference"),
        ("ACoL", "resnet50", "ACoL"),
        ("PRM", "resnet50", "PRM"),
        ("ADL", "resnet50", "ADL/reference"),
        ("CutMIX", "resnet50", "CutMix"),
        ("LayerCAM", "resnet50", "LayerCAM"),
        ("TSCAM", "deit_tscam_small_patch16_224", "TS-CAM"),
        ("APVIT", "apvit", "APViT"),
    ],
)
def test_methods_become_the_rows_that_compute_the_published_numbers(theirs, encoder, row):
    without = options(method=theirs, model__encoder_name=encoder, align_atten_to_heatmap="false")
    assert released_options.translate(folders.parse(without)).config.method == row


def test_options_become_those_of_a_configuration():
    config = translate().config
    assert (config.image_size, config.data.load_size, config.data.batch_size, config.epochs) == (32, 36, 224, 20)
    assert (config.seed, config.codebook, config.output_stride, config.au_layers) == (3, "REFERENCE", 8, ())
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (0.002, 0.9, 0.0005)
    assert (optimizer.schedule, optimizer.step_epochs, optimizer.step_factor) == ("step", 4, 0.9)


@pytest.mark.parametrize(
    ("changed", "name", "value"),
    [
        ({"align_atten_to_heatmap": "false"}, "au_weight", 0.0),
        ({"align_atten_to_heatmap_lambda": 4}, "au_weight", 4.0),
        ({"align_atten_to_heatmap_layers": "'4'"}, "au_layers", ("layer4",)),
        ({"align_atten_to_heatmap_layers": "5-4"}, "au_layers", ("layer5", "layer4")),
        ({"method": "CutMIX", "align_atten_to_heatmap_layers": "'4'"}, "au_layers", ()),
        ({"method": "CutMIX"}, "au_layers", ("layer5",)),
        ({"model__large_maps": "false"}, "output_stride", 32),
        ({"method": "WILDCAT"}, "method_options", ""),
        ({"method": "WILDCAT", "wc_kmax": 0.3}, "method_options", "kmax=0.3"),
        ({"method": "CAM", "wc_kmax": 0.3}, "method_options", ""),
        ({"ce_label_smoothing": 0.1}, "label_smoothing", 0.1),
    ],
)
def test_an_option_is_mapped(changed, name, value):
    assert getattr(translate(**changed).config, name) == value


@pytest.mark.parametrize(
    ("changed", "name", "value"),
    [
        ({"opt__lr_scheduler": "false"}, "schedule", "constant"),
        ({"opt__name_lr_scheduler": "cosine"}, "schedule", "cosine"),
        ({"opt__clipgrad": 10.0}, "clip_norm", 10.0),
    ],
)
def test_an_option_of_the_optimiser_is_mapped(changed, name, value):
    assert getattr(translate(**changed).config.optimizer, name) == value


def test_layers_of_the_transformers_have_names_here():
    common = {"align_atten_to_heatmap_layers": "'1'"}
    ts_cam = translate(method="TSCAM", model__encoder_name="deit_tscam_small_patch16_224", **common)
    apvit = translate(method="APVIT", model__encoder_name="apvit", **common)
    assert ts_cam.config.au_layers == apvit.config.au_layers == ()
    assert methods.method("TS-CAM").aligned() == ("tokens",)
    assert methods.method("APViT").aligned() == ("stage3",)


@pytest.mark.parametrize(
    ("changed", "field", "sentence"),
    [
        ({"model__encoder_weights": "moon"}, "reading", "model.encoder_weights = 'moon': here pixels are normalised"),
        ({"method": "PRM", "prm_ks": 5}, "reading", "prm_ks = 5: here peaks are sought in windows of 3 x 3"),
        ({"amp_eval": "true"}, "reading", "amp_eval = True: here evaluation runs in float32"),
        ({"mse": "true"}, "training", "mse = True: here there is no such loss"),
        ({"opt__lr_classifier_ratio": 10.0}, "training", "optimizer.opt__lr_classifier_ratio = 10.0: here all"),
        ({"align_atten_to_heatmap_loss": "kl"}, "training", "align_atten_to_heatmap_loss = 'kl': here alignment is"),
        ({"method": "CutMIX", "cutmix_prob": 0.5}, "training", "cutmix_prob = 0.5: here every batch is mixed"),
    ],
)
def test_an_option_with_another_meaning_is_told(changed, field, sentence):
    told = [line for line in getattr(translate(**changed).told, field) if line.startswith(sentence)]
    assert len(told) == 1


@pytest.mark.parametrize(
    "changed", [{"prm_ks": 5}, {"cutmix_prob": 0.5}, {"apvit_attn_method": "MAX"}, {"mse_lambda": 7}]
)
def test_an_option_of_another_method_or_of_what_is_off_says_nothing(changed):
    assert translate(**changed).told == translate().told


def test_alignment_that_did_not_happen_is_not_told():
    told = translate(align_atten_to_heatmap="false", align_atten_to_heatmap_loss="kl").told
    assert not any(line.startswith("align_") for line in told.training)


def test_an_option_that_nobody_knows_is_named():
    told = released_options.translate(folders.parse(f"{options()}temperature: 2\n")).told
    assert told.unknown == ("temperature",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "ScoreCAM"}, "method must be one of CAM, WILDCAT, .*, APVIT, got 'ScoreCAM'"),
        ({"method": "[a, b]"}, r"method must be one of CAM, .*got .*'a', 'b'"),
        ({"model__encoder_name": "vgg16"}, r"model\.encoder_name must be resnet50, got 'vgg16'"),
        ({"num_classes": 200}, "num_classes must be 7, as in the released models, got 200"),
        ({"crop_size": "big"}, "crop_size must be a number, got 'big'"),
        ({"crop_size": 32.5}, "crop_size must be a whole number, got 32.5"),
        ({"crop_size": ".inf"}, "crop_size must be a number, got inf"),
        ({"crop_size": "true"}, "crop_size must be a number, got True"),
        ({"model__large_maps": 1}, r"model\.large_maps must be true or false, got 1"),
        ({"align_atten_to_heatmap_layers": "'6'"}, "align_atten_to_heatmap_layers must be some of 1, .*got '6'"),
        ({"opt__lr": -1}, r"learning_rate: expected a number above 0, got -1"),
        ({"method": "WILDCAT", "wc_kmax": 2}, "option kmax of WILDCAT/reference must be a number from"),
    ],
)
def test_options_of_no_released_model_are_refused_by_name(changed, message):
    with pytest.raises(UserError, match=message):
        translate(**changed)


def test_an_option_that_is_needed_is_named():
    without = folders.parse(options().replace("large_maps", "small_maps"))
    with pytest.raises(UserError, match=r"expected the option model\.large_maps, found none"):
        released_options.translate(without)


# The YAML file


def test_foreign_tags_become_plain_things_and_run_nothing(tmp_path):
    owned = tmp_path / "owned"
    text = f"a: !!python/object/apply:os.system ['touch {owned}']\nb: !munch.Munch {{c: 1}}\nd: !x.Y z\n"
    parsed = folders.parse(text)
    assert (parsed["b.c"], parsed["d"]) == (1, "z")
    assert not owned.exists()


def test_references_that_multiply_do_not():
    # Nine levels of ten references: written out, ten to the ninth.
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    merged = [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    parsed = folders.parse("\n".join(["a0: &a0 [x]", *levels, "b0: &b0 {x: 1}", *merged]))
    assert max(len(str(value)) for value in parsed.values()) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [", "expected YAML, found something else"),
        ("a: *b", "expected YAML, found something else"),
        ("a: &a {b: *a}", "expected YAML, found something else"),
        ("a: !!int x", "expected YAML, found something else"),
        ("a: !!bool x", "expected YAML, found something else"),
        ("[" * 5000, "expected YAML, found something else"),
        ("\0", "expected YAML, found something else"),
        ("- 1", "expected options by name, found something else"),
        ("", "expected options by name, found something else"),
    ],
)
def test_a_text_that_is_no_list_of_options_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        folders.parse(text)


# What does not fit


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def attack(path):
    torch_files.write_zip(path, pickle.dumps(Attack(path.parent / "owned"), protocol=2)[:-1], {})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.pt").unlink(), "found no model.pt; copy the folder again"),
        (lambda f: (f / "config_model.yaml").unlink(), "found no config_model.yaml; copy the folder again"),
        (lambda f: (f / "config_model.yaml").write_text("a: ["), r"config_model\.yaml: expected YAML"),
        (lambda f: (f / "config_model.yaml").write_bytes(b"a: \xff"), r"config_model\.yaml: .*can't decode"),
        (lambda f: (f / "config_model.yaml").write_text(options(method="X")), r"config_model\.yaml: method must be"),
        (lambda f: cut(f / "model.pt"), r"model\.pt.*damaged or half-copied"),
        (lambda f: attack(f / "model.pt"), r"model\.pt.* got posix\.system: do not trust this file"),
        (
            lambda f: (f / "config_model.yaml").write_text(options(method="WILDCAT")),
            r"(?s)model\.pt: these weights do not fit method WILDCAT/reference .*classification_head\.to_modalities",
        ),
        (
            lambda f: torch_files.save(f / "model.pt", weights(classes=8)),
            r"model\.pt: these weights do not fit method CAM with 7 classes: .*the file has 8",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path, damage, message):
    folder = released_folder(tmp_path / "released")
    damage(folder)
    with pytest.raises(UserError, match=message):
        importing.import_folder(folder, tmp_path / "run", backbone=TINY)
    assert left_over(tmp_path) == []
    assert not (folder / "owned").exists()


def test_a_picture_size_that_the_tensors_do_not_have_is_refused(tmp_path):
    changed = {"method": "TSCAM", "model__encoder_name": "deit_tscam_small_patch16_224", "crop_size": 64}
    tensors = weights("TS-CAM", "vit_tiny")
    folder = released_folder(tmp_path / "released", options(**changed, align_atten_to_heatmap="false"), tensors)
    with pytest.raises(
        UserError, match=r"yaml: crop_size 64 needs params/backbone/pos_embed of \(1, 17, .*, model\.pt has \(1, 197"
    ):
        importing.import_folder(folder, tmp_path / "run", backbone="vit_tiny")
    assert left_over(tmp_path) == []


def test_half_precision_is_converted_with_a_notice(tmp_path, caplog):
    half = {name: x.astype(np.float16) if x.dtype == np.float32 else x for name, x in weights().items()}
    folder = released_folder(tmp_path / "released", tensors=half)
    run = runs.load_run(importing.import_folder(folder, tmp_path / "run", backbone=TINY).run)
    bias = run.variables["params"]["head"]["fc"]["bias"]
    np.testing.assert_array_equal(bias, half["classification_head.fc.bias"].astype(np.float32))
    assert "holds float16: converted to float32" in caplog.text


def test_a_run_that_cannot_be_written_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "_write", full)
    with pytest.raises(UserError, match=r"cannot be written .*No space left on device.*; choose another folder"):
        importing.import_folder(folder, tmp_path / "run", backbone=TINY)
    assert left_over(tmp_path) == []


# The command line


def test_the_command_makes_a_run_and_says_what_differs(folder, tmp_path, capsys, tiny):
    assert release.main(["import", str(folder), "--out", str(tmp_path / "run"), "--verbose"]) == 0
    said = capsys.readouterr().out
    assert "These options matter only where the network is trained again:\n" in said
    assert "  valid_freq_mb = 0.0437: here validation is at the end of epochs\n" in said
    assert "13 other options say nothing about network or training" in said
    assert "data_paths.train" in said
    assert f"python eval.py --workdir={tmp_path / 'run'} --data_dir=DIR --split=test" in said
    assert runs.load_run(tmp_path / "run").config.method == "CAM"


def test_folders_below_are_imported_each_and_bad_ones_listed(tmp_path, capsys, tiny):
    parent = tmp_path / "released"
    released_folder(parent / "a" / "with")
    released_folder(parent / "a" / "without", options(align_atten_to_heatmap="false", model__encoder_weights="moon"))
    released_folder(parent / "b" / "grad", options(method="GradCAMpp", dataset="RAF-DB"))
    released_folder(parent / "b" / "again", options(method="GradCAMpp", dataset="RAF-DB"))
    released_folder(parent / "c", options(method="PRM"))
    with pytest.raises(SystemExit) as stop:
        release.main(["import", str(parent), "--out", str(tmp_path / "runs")])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert left_over(tmp_path / "runs") == ["CAM-AffectNet-au", "CAM-AffectNet-no_au", "GradCAM++-RAF-DB-au"]
    assert "  model.encoder_weights = 'moon': here pixels are normalised by" in said.out
    assert "(CAM-AffectNet-no_au)" in said.out
    assert "2 of 5 released folders were not imported" in said.err
    assert "GradCAM++-RAF-DB-au is not; choose another name" in said.err
    assert "these weights do not fit method PRM" in said.err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "expected model.pt and config_model.yaml in it or below, found nothing"),
        (lambda path: path.write_text(""), "expected a released folder, or one of several, found none"),
        (lambda path: None, "expected a released folder, or one of several, found none"),
    ],
)
def test_something_else_than_released_folders_is_refused(tmp_path, capsys, make, message):
    make(tmp_path / "what")
    with pytest.raises(SystemExit):
        release.main(["import", str(tmp_path / "what"), "--out", str(tmp_path / "run")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_empty_is_not_written_to(folder, tmp_path, capsys, tiny):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        release.main(["import", str(folder), "--out", str(tmp_path)])
    assert "expected a new or empty folder; choose another name" in capsys.readouterr().err
    assert left_over(tmp_path) == ["mine.txt"]


def test_an_empty_folder_is_as_good_as_a_new_one(folder, tmp_path, tiny):
    (tmp_path / "run").mkdir()
    assert release.main(["import", str(folder), "--out", str(tmp_path / "run")]) == 0


# The way out


def test_export_under_our_paths_holds_the_variables(imported, tmp_path):
    out = tmp_path / "cam.safetensors"
    assert release.main(["export", str(imported), "--out", str(out)]) == 0
    tensors = safetensors.numpy.load_file(out)
    variables = runs.load_run(imported).variables
    assert len(tensors) == len(jax.tree.leaves(variables))
    np.testing.assert_array_equal(
        tensors["params/backbone/stem_conv/kernel"], variables["params"]["backbone"]["stem_conv"]["kernel"]
    )
    np.testing.assert_array_equal(
        tensors["batch_stats/backbone/stem_bn/mean"], variables["batch_stats"]["backbone"]["stem_bn"]["mean"]
    )


def test_export_under_the_released_names_gives_the_released_tensors_back(imported, tmp_path):
    out = tmp_path / "cam.safetensors"
    assert release.main(["export", str(imported), "--out", str(out), "--names=reference"]) == 0
    tensors = safetensors.numpy.load_file(out)
    assert tensors.keys() == weights().keys()
    for name, expected in weights().items():
        np.testing.assert_array_equal(tensors[name], expected, err_msg=name, strict=True)


def test_export_says_what_the_weights_are(imported, tmp_path):
    exporting.export(imported, tmp_path / "cam.safetensors")
    with safetensors.safe_open(tmp_path / "cam.safetensors", "np") as file:
        about = file.metadata()
    assert (about["method"], about["backbone"], about["names"]) == ("CAM", TINY, "aujax")
    assert about["expressions"].startswith("Neutral,Happiness")
    assert json.loads(about["config"])["au_weight"] == 9.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("there.safetensors", "expected a new file, this one exists; choose another name or delete it"),
        ("weights.npz", r"must end|ends in \.safetensors"),
        ("nowhere/weights.safetensors", "there is no folder"),
    ],
)
def test_export_to_a_place_that_will_not_do_is_refused(imported, tmp_path, name, message):
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(UserError, match=message):
        exporting.export(imported, tmp_path / name)
    assert (tmp_path / "there.safetensors").read_text() == "mine"
