"""Any folder of faces: ResNet-50 with 28x28 maps at 224 px, or a small network for a CPU.

Data:   aujax prepare folder --source FOLDER --out DIR --align five-point
Train:  aujax train --config=faces --config.data.dir=DIR --workdir=RUN
On CPU: aujax train --config=faces:small --config.data.dir=DIR --workdir=RUN
Without AU cues: the same with --config.au_weight=0 and another --workdir
"""

import ml_collections

from aujax.config import Config, DataConfig, OptimizerConfig

LARGE = Config()
SMALL = Config(
    backbone="resnet_tiny",
    image_size=112,
    epochs=30,
    validate_every=5,
    data=DataConfig(resize_size=128),
    optimizer=OptimizerConfig(learning_rate=0.05, warmup_epochs=1.0, clip_norm=5.0),
)


def get_config(size: str = "large") -> ml_collections.ConfigDict:
    """Returns the options for a GPU ("large") or a CPU ("small")."""
    sizes = {"large": LARGE, "small": SMALL}
    if size not in sizes:
        raise ValueError(f"--config=configs/faces.py:SIZE: expected one of {', '.join(sizes)}, got {size!r}")
    return sizes[size].to_config_dict()
