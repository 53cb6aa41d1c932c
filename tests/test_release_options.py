"""Options of the released models become a configuration; what it cannot express is reported."""

import pytest
from released_folders import options

from aujax import methods
from aujax.data.sources.folds import parse_yaml
from aujax.errors import UserError
from aujax.release.options import translate as translate_options


def translate(**changed):
    return translate_options(parse_yaml(options(**changed)))


@pytest.mark.parametrize(
    ("theirs", "ours"), [("imagenet", "imagenet"), ("None", "none"), ("null", "none"), ("VGGFace2", "vggface2")]
)
def test_pixels_are_normalised_for_what_the_encoder_was_first_trained_on(theirs, ours):
    translated = translate(model__encoder_weights=theirs)
    assert translated.config.normalization == ours
    assert not translated.unmapped.inference


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
    assert translate_options(parse_yaml(without)).config.method == row


def test_options_become_those_of_a_configuration():
    config = translate().config
    assert config.model_selection == "test"  # the best epoch on the test split
    assert (config.image_size, config.data.resize_size, config.data.batch_size, config.epochs) == (32, 36, 224, 20)
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


def test_the_backbone_is_the_published_or_the_given_one():
    text = options(model__encoder_name="resnet50")
    named = [translate_options(parse_yaml(text), backbone=name).config.backbone for name in ("", "resnet18")]
    assert named == ["", "resnet18"]


def test_a_backbone_that_is_given_overrides_the_encoder_of_the_options():
    theirs = parse_yaml(options(model__encoder_name="resnet18"))
    assert translate_options(theirs, backbone="resnet18").unmapped == translate().unmapped


@pytest.mark.parametrize("backbone", ["vgg16", "deit_small"])
def test_a_backbone_that_the_method_cannot_use_is_refused(backbone):
    with pytest.raises(UserError, match=rf"--backbone must be one of resnet18, .* for CAM, got '{backbone}'"):
        translate_options(parse_yaml(options()), backbone=backbone)


@pytest.mark.parametrize(
    ("changed", "field", "sentence"),
    [
        ({"model__encoder_weights": "moon"}, "inference", "model.encoder_weights = 'moon': here pixels are normalised"),
        ({"method": "PRM", "prm_ks": 5}, "inference", "prm_ks = 5: here peaks are searched in windows of 3 x 3"),
        ({"amp_eval": "true"}, "inference", "amp_eval = True: here evaluation runs in float32"),
        ({"mse": "true"}, "training", "mse = True: here there is no such loss"),
        ({"opt__lr_classifier_ratio": 10.0}, "training", "optimizer.opt__lr_classifier_ratio = 10.0: here all"),
        ({"align_atten_to_heatmap_loss": "kl"}, "training", "align_atten_to_heatmap_loss = 'kl': here alignment is"),
        ({"method": "CutMIX", "cutmix_prob": 0.5}, "training", "cutmix_prob = 0.5: here every batch is mixed"),
    ],
)
def test_an_option_with_another_meaning_is_reported(changed, field, sentence):
    sentences = [line for line in getattr(translate(**changed).unmapped, field) if line.startswith(sentence)]
    assert len(sentences) == 1


@pytest.mark.parametrize(
    "changed", [{"prm_ks": 5}, {"cutmix_prob": 0.5}, {"apvit_attn_method": "MAX"}, {"mse_lambda": 7}]
)
def test_an_option_of_another_method_or_of_a_loss_that_is_off_is_ignored(changed):
    assert translate(**changed).unmapped == translate().unmapped


def test_options_of_alignment_are_not_reported_without_au_cues():
    unmapped = translate(align_atten_to_heatmap="false", align_atten_to_heatmap_loss="kl").unmapped
    assert not any(line.startswith("align_") for line in unmapped.training)


def test_an_unknown_option_is_named():
    unmapped = translate_options(parse_yaml(f"{options()}temperature: 2\n")).unmapped
    assert unmapped.unknown == ("temperature",)


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
        ({"method": "WILDCAT", "wc_kmax": 2}, "option kmax .*must be a number"),
    ],
)
def test_options_of_no_released_model_are_refused_by_name(changed, message):
    with pytest.raises(UserError, match=message):
        translate(**changed)


def test_an_option_that_is_needed_is_named():
    without = parse_yaml(options().replace("large_maps", "small_maps"))
    with pytest.raises(UserError, match=r"expected the option model\.large_maps, found none"):
        translate_options(without)
