"""Trains one classifier, as the command `aujax train` does: python train.py --config=configs/faces.py --workdir=RUN."""

import sys

from aujax import cli

if __name__ == "__main__":
    cli.main(["train", *sys.argv[1:]])
