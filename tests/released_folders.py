"""Released folders of tiny networks, made after the description of the authors' files: model.pt, config_model.yaml."""

import functools
import pathlib
from typing import Any

import numpy as np
import torch_files
from torch_shapes import BASIC, affine, resnet, under, vit

from aujax.release import folders

TINY = "resnet_tiny"
SIZE = 32  # pixels that the tiny ResNet sees
OWN = ("encoder.", "classification_head.")  # what a ResNet's file nests by

# Some of the 300 options; the tags and the numbers in quotes are what PyYAML makes of the authors' objects.
OPTIONS = """\
MYSEED: '3'
acol_drop_threshold: 0.1
adl_drop_rate: 0.4
align_atten_to_heatmap: true
align_atten_to_heatmap_align_type: random_avg
align_atten_to_heatmap_end_ep: -1
align_atten_to_heatmap_folder: ''
align_atten_to_heatmap_lambda: 9.0
align_atten_to_heatmap_layers: '5'
align_atten_to_heatmap_loss: cosine
align_atten_to_heatmap_normalize: true
align_atten_to_heatmap_p: 1.0
align_atten_to_heatmap_scale_to: scale_to_attention
align_atten_to_heatmap_type_heatmap: heatmap_action_units_from_landmarks
align_atten_to_heatmap_use_self_atten: false
amp: true
amp_eval: false
batch_size: 224
ce: true
ce_label_smoothing: 0.0
ce_lambda: 1.0
crop_size: 32
cutmix_prob: 1.0
data_paths: !munch.Munch
  test: /somewhere/AffectNet
  train: /somewhere/AffectNet
dataset: AffectNet
dense_dims: None
eval_batch_size: 64
max_epochs: 20
method: CAM
model:
  apvit_attn_method: SUM_ABS_1
  apvit_k: 160
  arch: STDClassifier
  encoder_name: resnet50
  encoder_weights: imagenet
  large_maps: true
  scale_in: 1.0
mse: false
mse_lambda: 1.0
num_classes: 7
optimizer:
  opt__clipgrad: 0.0
  opt__dampening: 0.0
  opt__gamma: 0.9
  opt__lr: 0.002
  opt__lr_classifier_ratio: 1.0
  opt__lr_scheduler: true
  opt__min_lr: 1.0e-07
  opt__momentum: 0.9
  opt__name_lr_scheduler: mystep
  opt__name_optimizer: sgd
  opt__nesterov: true
  opt__step_size: 4
  opt__weight_decay: 0.0005
prm_ks: 3
resize_size: 36
running_time: !!python/object/apply:datetime.timedelta
- 0
- 42
- 0
spatial_pooling: WGAP
t0: 2024-01-26 15:18:49.175665
task: STD_CL
valid_freq_mb: 0.0437
wc_kmax: 0.5
"""


def options(**changed: Any) -> str:
    """OPTIONS with other values, written as in YAML; `model__large_maps` for an option that is nested."""
    lines = OPTIONS.splitlines()
    for name, value in changed.items():
        name = name.removeprefix("model__")
        row = next(row for row, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
        lines[row] = f"{lines[row].partition(':')[0]}: {value}"
    return "\n".join(lines) + "\n"


@functools.cache
def weights(method: str = "CAM", classes: int = 7) -> dict[str, np.ndarray]:
    """A state dict of a tiny network with the released names and shapes, by their description; numbers differ."""
    if method == "TS-CAM":
        shapes = vit(48, 3, 197) | affine("head", classes, 48, 3, 3)
    else:
        shapes = under("encoder", resnet(16, BASIC, 1)) | under("classification_head", affine("fc", classes, 128))
    rng = np.random.default_rng(0)
    return {
        name: rng.uniform(0.1, 0.2, shape).astype(np.float32) if shape else np.zeros((), np.int64)
        for name, shape in shapes.items()
    }


def released_folder(
    folder: pathlib.Path, text: str = OPTIONS, tensors: dict[str, np.ndarray] | None = None
) -> pathlib.Path:
    """Writes a released folder, of the tiny CAM unless given otherwise."""
    folder.mkdir(parents=True)
    tensors = weights() if tensors is None else tensors
    nested = {
        part.strip("."): {name.removeprefix(part): x for name, x in tensors.items() if name.startswith(part)}
        for part in OWN
    }
    torch_files.save(folder / "model.pt", nested if all(nested.values()) else tensors)
    (folder / "config_model.yaml").write_text(text)
    return folder


def imported_run(directory: pathlib.Path) -> pathlib.Path:
    """Makes directory/run of the released folder directory/CAM, written there first, and returns it."""
    folder = released_folder(directory / "CAM")
    return folders.import_folder(folder, directory / "run", backbone=TINY).run


def left_over(directory: pathlib.Path) -> list[str]:
    """Names of what lies in a folder, but for the released folders."""
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("released"))
