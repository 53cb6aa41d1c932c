"""PyTorch's weight files byte for byte, with the standard library alone: no PyTorch in sight."""

import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
}


def number(n):
    return struct.pack("<ci", b"J", n)


def text(s):
    return struct.pack("<cI", b"X", len(s.encode())) + s.encode()


def named(name):
    """The instruction for a function or a class, by its dotted name."""
    return "c{}\n{}\n".format(*name.rsplit(".", 1)).encode()


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage_of(key, count, storage="FloatStorage", view=b""):
    """Pickle opcodes of a storage, by its persistent id; `view` is what the format before PyTorch 1.6 says last."""
    return b"(" + text("storage") + named(f"torch.{storage}") + text(key) + text("cpu") + number(count) + view + b"tQ"


def tensor(key, count, shape, strides, *, offset=0, storage="FloatStorage", view=b""):
    """Pickle opcodes of a tensor: a call of PyTorch's rebuilding function on a storage."""
    arguments = storage_of(key, count, storage, view) + number(offset) + numbers(shape) + numbers(strides)
    hooks = named("collections.OrderedDict") + b")R"
    return named("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"\x89" + hooks + b"tR"


def mapping(items):
    pairs = b"".join(text(name) + value for name, value in items.items())
    return named("collections.OrderedDict") + b")R(" + pairs + b"u"


def write_zip(path, opcodes, storages, **options):
    """The format since PyTorch 1.6; `storages` are bytes."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", opcodes + b".")
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def write_legacy(path, opcodes, storages):
    """The format before PyTorch 1.6; `storages` are arrays."""
    with path.open("wb") as file:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        for value in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(value, file, protocol=2)
        file.write(opcodes + b".")
        pickle.dump(list(storages), file, protocol=2)
        for data in storages.values():
            file.write(np.int64(data.size).tobytes() + data.tobytes())
    return path


def save(path, state_dict):
    """Writes a state dict of arrays, nested or not, as torch.save does."""
    storages: dict[str, bytes] = {}

    def opcodes(content):
        if isinstance(content, Mapping):
            return mapping({name: opcodes(value) for name, value in content.items()})
        key, array = str(len(storages)), np.asarray(content, order="C")
        storages[key] = array.tobytes()
        strides = [step // array.itemsize for step in array.strides]
        return tensor(key, array.size, array.shape, strides, storage=STORAGES[array.dtype.name])

    return write_zip(path, opcodes(state_dict), storages)
