"""The paper's 44 settings: RAF-DB and AffectNet, eleven methods, without and with AU cues; two ways of model selection.

Data:      aujax prepare folds --source RAF-DB --folds wsol-done-right-splits/RAF-DB --out data/rafdb
           (the authors' splits and landmarks; or the sources rafdb and affectnet)
Train:     aujax train --config=paper:method=WILDCAT,dataset=rafdb,au=true \
             --config.data.dir=data/rafdb --config.weights=WEIGHTS --workdir=runs/wildcat
Evaluate:  aujax eval --workdir=runs/wildcat --split=test

WEIGHTS: hf:timm/resnet50.tv_in1k (extra "hub", or a file); hf:timm/deit_small_patch16_224.fb_in1k for TS-CAM; for
APViT backbone_ir50_ms1m_epoch120.pth,vit_small_p16_224-15ec54c9.pth. WILDCAT, GradCAM++ and ADL are those of the
released code, as the published numbers are; --config.method=WILDCAT and so on follow the method's own paper.

Where the values come from. README of the release (CAM on AffectNet): learning rate, decay, steps, au_weight 9,
images of 256 px cropped to 224, maps of 28 x 28. The paper: epochs and batch sizes (4.1), au_weight 4 (CAM on RAF-DB,
Fig. 5). The released code: images of 112 px for APViT, layer 4 for CutMix (where it evaluates models without AU
cues). Our choice, as nothing is published: learning rate, decay and schedule of RAF-DB; APViT's training images of
128 px before the crop; validation at the end of epochs (the release: 23 times an epoch of AffectNet); and every other
method trains as CAM does. The release trained in half precision
(--config.dtype=bfloat16 is similar) and loaded ADL's ImageNet weights shifted by one block; here each block has its
own. The released models, with the options of each: docs/released_weights.md.

Model selection: model_selection=validation, the default, selects the best epoch on a validation split;
model_selection=test on the test set, as the authors did, whose accuracies are therefore higher than on new faces.

The published numbers are in aujax/report/paper.py; beside those of your runs, with intervals:
  aujax report table1 runs/* --out tables   (accuracy and CAM-COS; table2: ATT-COS)
Not run by us: the data sets are not ours to distribute.
"""

import dataclasses

import ml_collections

from aujax.config import Config, DataConfig, OptimizerConfig
from aujax.release.options import METHODS, row_of

DATASETS = {
    "rafdb": Config(
        au_weight=4.0,
        epochs=100,
        data=DataConfig(batch_size=32),
        optimizer=OptimizerConfig(learning_rate=0.002, schedule="cosine"),
    ),
    "affectnet": Config(
        au_weight=9.0,
        epochs=20,
        data=DataConfig(batch_size=224),
        optimizer=OptimizerConfig(learning_rate=0.002, schedule="step", step_epochs=4, step_factor=0.9),
    ),
}
AU = {"true": True, "false": False}
SPLITS = ("validation", "test")


def get_config(setting: str = "") -> ml_collections.ConfigDict:
    """Returns the options of a setting such as "method=WILDCAT,au=false,model_selection=test".

    The defaults are method=CAM,dataset=rafdb,au=true,model_selection=validation.
    """
    chosen = {"method": "CAM", "dataset": "rafdb", "au": "true", "model_selection": "validation"}
    allowed = {"method": METHODS.values(), "dataset": DATASETS, "au": AU, "model_selection": SPLITS}
    for part in filter(None, setting.split(",")):
        name, _, value = part.partition("=")
        if name not in chosen:
            expected = ",".join(f"{name}=..." for name in chosen)
            raise ValueError(f"--config=configs/paper.py: expected {expected}, got {part!r}")
        if value not in allowed[name]:
            known = ", ".join(allowed[name])
            raise ValueError(f"--config=configs/paper.py: {name} must be one of {known}, got {value!r}")
        chosen[name] = value
    row, config = row_of(chosen["method"]), DATASETS[chosen["dataset"]]
    return dataclasses.replace(
        config,
        method=row.name,
        au_weight=config.au_weight if AU[chosen["au"]] else 0.0,
        codebook="REFERENCE",
        model_selection=chosen["model_selection"],
    ).to_config_dict()
