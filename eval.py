"""Evaluates a run, as the command `aujax eval` does: python eval.py --workdir=RUN --split=validation,test."""

import sys

from aujax import cli

if __name__ == "__main__":
    cli.main(["eval", *sys.argv[1:]])
