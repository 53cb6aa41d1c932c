"""Weight files as dicts of NumPy arrays: .safetensors, PyTorch's .pth and .pt without PyTorch, the Hugging Face Hub.

A PyTorch file is a pickle, and a pickle can run programs. This reader knows tensors, dicts and numbers; a file that
asks for anything else is refused, by the name of what it asked for, before anything is called.
"""

import collections
import io
import logging
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import ArrayLike

from aujax.errors import UserError

log = logging.getLogger(__name__)

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# What the format before PyTorch 1.6 writes first, as a pickled number.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGED = "the file is damaged or half-copied, copy or download it again"
_RESAVE = "in PyTorch, torch.save(torch.load(FILE, weights_only=True), 'new.pth') writes one that can be read"


def read(source: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a weight file, or of a model on the Hugging Face Hub, by their names.

    `source` is a path to a .safetensors, .pth or .pt file, or an id such as `timm/resnet50.tv_in1k` (also with `hf:`
    before it). Names of nested dicts are joined with a dot; half, bfloat16 and double precision become float32.
    """
    path = pathlib.Path(source)
    text = str(source)
    if text.startswith("hf:") or _looks_like_an_id(path):
        path = _download(text.removeprefix("hf:"))
    if not path.is_file():
        raise UserError(f"weights must be a file or a Hugging Face id (organisation/name), got {text!r}: no such file")
    if path.suffix not in _READERS:
        raise UserError(f"a weight file must end in {', '.join(_READERS)}, got {path.name!r}")
    tensors = _READERS[path.suffix](path)
    if not tensors:
        raise UserError(f"{path} must hold tensors, got none: is it the file of the weights?")
    return _as_float32(path, tensors)


def write(path: str | pathlib.Path, tensors: Mapping[str, ArrayLike], metadata: Mapping[str, str]) -> None:
    """Writes a .safetensors file; what was there before stays until the new file is complete.

    `metadata` are words about the file, such as the method, that readers of the tensors need not know.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"weights are written to a file that ends in .safetensors, got {path.name!r}")
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    partial = path.with_name(path.name + ".partial")
    # The format's writer takes the memory as it lies, whatever the strides say.
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        partial.write_bytes(safetensors.numpy.save(arrays, dict(metadata)))
        partial.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _looks_like_an_id(path: pathlib.Path) -> bool:
    inside = not path.is_absolute() and len(path.parts) == 2 and path.parts[0] not in (".", "..", "~")
    return inside and path.suffix not in _READERS and not path.exists()


def _download(name: str) -> pathlib.Path:
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f'reading {name} from the Hugging Face Hub needs huggingface_hub: pip install "aujax[hub]", '
            "or give the path of a weight file"
        ) from error
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(name, "model.safetensors"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"model.safetensors of {name} must be on the Hugging Face Hub and reachable, got {type(error).__name__}: "
            f"{reason}; without network, download it elsewhere and give its path"
        ) from error


def _as_float32(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    other = {x.dtype.name for x in tensors.values()} & {"float16", "bfloat16", "float64"}
    if other:
        log.warning("%s holds %s: converted to float32", path, " and ".join(sorted(other)))
    return {name: x.astype(np.float32) if x.dtype.name in other else x for name, x in tensors.items()}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} must be a safetensors file, but {error}: {_DAMAGED}") from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            content, storages = (_read_zip if file.peek(2).startswith(b"PK") else _read_legacy)(file)
            return {name: tensor.array(storages) for name, tensor in _tensors(content)}
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    # Whatever a damaged pickle makes Python raise: the list in pickle's documentation is open-ended.
    except Exception as error:
        raise UserError(
            f"{path} must be a file of torch.save, but reading it failed ({type(error).__name__}: {error}): {_DAMAGED}"
        ) from error


_READERS = {".safetensors": _read_safetensors, ".pth": _read_torch, ".pt": _read_torch}


class _Storage(NamedTuple):
    """One-dimensional memory, named in the pickle and stored beside it."""

    dtype: np.dtype
    key: str
    count: int


class _Tensor(NamedTuple):
    """A view of a storage, made by the pickle before the storage itself is read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storages: Callable[[_Storage], bytes]) -> np.ndarray:
        """Returns the numbers, copied, in C order."""
        count, dtype, data = self.storage.count, self.storage.dtype, storages(self.storage)
        numbers = (self.offset, *self.shape, *self.strides)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        # A tensor larger than its storage repeats numbers: no weights do, but a file made to fill the memory does.
        outside = 0 not in self.shape and max(last + 1, math.prod(self.shape)) > count
        if min(numbers) < 0 or outside or len(data) != count * dtype.itemsize:
            raise UserError(f"a tensor of shape {self.shape} reaches outside its storage of {count}: {_DAMAGED}")
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        steps = tuple(step * dtype.itemsize for step in self.strides)
        flat = np.frombuffer(data, dtype)[self.offset :]
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps).copy()


def _rebuild(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: object) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _unwrap_parameter(tensor: _Tensor, *_: object) -> _Tensor:
    return tensor


_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _unwrap_parameter,
    **{("torch", name): np.dtype(dtype) for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Unpickles what `_KNOWN` lists, and keeps the storages it met in `storages`."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise UserError(
                f"a weight file may hold tensors, dicts and numbers only, got {module}.{name}: "
                f"do not trust this file unless you know who made it; {_RESAVE}"
            )
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(x is not None for x in view):
            raise UserError(f"a stored tensor must be plain, got {pid!r}: {_RESAVE}")
        return self.storages.setdefault(key, _Storage(dtype, key, count))


def _read_zip(file: io.BufferedIOBase) -> tuple[Any, Callable[[_Storage], bytes]]:
    archive = zipfile.ZipFile(file)
    records = {name.partition("/")[2]: name for name in archive.namelist()}
    # torch.save never compresses: a compressed record is a foreign file, or one that unfolds without end.
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()) or "data.pkl" not in records:
        raise UserError(f"a PyTorch file must hold an uncompressed record data.pkl, got another zip file: {_RESAVE}")
    if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
        raise UserError(f"numbers must be little-endian, got a file of a big-endian machine: {_RESAVE}")
    content = _Unpickler(io.BytesIO(archive.read(records["data.pkl"]))).load()
    return content, lambda storage: archive.read(records[f"data/{storage.key}"])


def _read_legacy(file: io.BufferedIOBase) -> tuple[Any, Callable[[_Storage], bytes]]:
    """Reads what PyTorch wrote before 1.6: five pickles, then each storage as a count and its numbers."""
    file.seek(0)
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise UserError(f"a PyTorch file must start with PyTorch's mark, got another pickle: {_RESAVE}")
    _protocol, system = _Unpickler(file).load(), _Unpickler(file).load()
    if not system["little_endian"]:
        raise UserError(f"numbers must be little-endian, got a file of a big-endian machine: {_RESAVE}")
    unpickler = _Unpickler(file)
    content, keys = unpickler.load(), _Unpickler(file).load()
    data = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        data[key] = file.read(count * unpickler.storages[key].dtype.itemsize)
    return content, lambda storage: data[storage.key]


def _tensors(content: Any, prefix: str = "") -> list[tuple[str, _Tensor]]:
    """Lists the tensors of nested dicts by dotted name; step counts and other plain values are no weights."""
    if isinstance(content, _Tensor):
        return [(prefix, content)]
    if not isinstance(content, Mapping):
        return []
    dot = f"{prefix}." if prefix else ""
    return [found for key, value in content.items() for found in _tensors(value, f"{dot}{key}")]
