"""AffectNet with seven expressions (283,901 faces to train on, 3,500 to test): ResNet-50, 20 epochs, batches of 224.

Data:      aujax prepare affectnet --source AffectNet --out data/affectnet
Train:     aujax train --config=affectnet --config.data.dir=data/affectnet --workdir=runs/affectnet \
             --config.weights=hf:timm/resnet50.tv_in1k   (with the extra "hub"; or a file)
Evaluate:  aujax eval --workdir=runs/affectnet --split=test

Published (CAM, the best epoch selected on the test set): accuracy 60.88 without and 62.37 with AU cues, CAM-COS 0.56
and 0.69, ATT-COS 0.64 and 0.82. Here the epoch is selected on a validation split drawn from train. All values below are
those of the published command. Not run by us: the data set is not ours to distribute.
"""

import ml_collections

from aujax.config import Config, DataConfig, OptimizerConfig


def get_config() -> ml_collections.ConfigDict:
    """Returns the options of the paper's AffectNet setting."""
    return Config(
        au_weight=9.0,
        epochs=20,
        data=DataConfig(batch_size=224),
        optimizer=OptimizerConfig(
            learning_rate=0.002, weight_decay=5e-4, schedule="step", step_epochs=4, step_factor=0.9
        ),
    ).to_config_dict()
