"""Sources of faces: each lists its images, and `SOURCES` is the table of them."""

from aujax.data.sources import affectnet, folder, folds, rafdb, synthetic
from aujax.data.sources.listing import Source

SOURCES: dict[str, Source] = {
    "synthetic": synthetic.SOURCE,
    "folder": folder.SOURCE,
    "rafdb": rafdb.SOURCE,
    "affectnet": affectnet.SOURCE,
    "folds": folds.SOURCE,
}
