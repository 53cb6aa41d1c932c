"""RAF-DB basic (12,271 faces to train on, 3,068 to test), the paper's setting: ResNet-50, 100 epochs, batches of 32.

Data:      aujax prepare rafdb --source basic --out data/rafdb
Train:     aujax train --config=rafdb --config.data.dir=data/rafdb --workdir=runs/rafdb \
             --config.weights=hf:timm/resnet50.tv_in1k   (with the extra "hub"; or a file)
Evaluate:  aujax eval --workdir=runs/rafdb --split=test

Published (CAM, the best epoch selected on the test set): accuracy 88.20 without and 88.95 with AU cues, CAM-COS 0.55
and 0.70, ATT-COS 0.57 and 0.85. Here the epoch is selected on a validation split drawn from train. Epochs, batch size
and au_weight are the paper's (section 4.1, Fig. 5); learning rate, decay and schedule are our choice, as the paper
does not give them. Not run by us: the data set is not ours to distribute.
"""

import ml_collections

from aujax.config import Config, DataConfig, OptimizerConfig


def get_config() -> ml_collections.ConfigDict:
    """Returns the options of the paper's RAF-DB setting."""
    return Config(
        au_weight=4.0,
        epochs=100,
        data=DataConfig(batch_size=32),
        optimizer=OptimizerConfig(learning_rate=0.002, weight_decay=5e-4, schedule="cosine"),
    ).to_config_dict()
