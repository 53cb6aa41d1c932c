"""The demo: a tiny residual network on drawn faces, on a laptop's CPU.

Data:    aujax prepare synthetic --out data/synthetic
Train:   aujax train --config=synthetic --workdir=runs/with_au
Without: the same with --config.au_weight=0 and another --workdir
"""

import ml_collections

from aujax.augment import Policy
from aujax.config import Config, DataConfig, OptimizerConfig


def get_config() -> ml_collections.ConfigDict:
    """Returns the options of the demo."""
    return Config(
        backbone="resnet_tiny",
        image_size=64,
        epochs=12,
        data=DataConfig(dir="data/synthetic", resize_size=72, batch_size=32),
        optimizer=OptimizerConfig(learning_rate=0.05, warmup_epochs=0.5, clip_norm=5.0),
        augment=Policy(jitter_rate=0.4, erase_rate=0.0, gray_rate=0.1),
    ).to_config_dict()
