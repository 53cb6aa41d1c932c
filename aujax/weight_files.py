"""Weight files as dicts of NumPy arrays: .safetensors, PyTorch's .pth and .pt without PyTorch, the Hugging Face Hub."""

import functools
import io
import logging
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import ArrayLike

from aujax.errors import UserError
from aujax.torch_pickles import DAMAGED, RESAVE, Machine, Storage, Tensor

log = logging.getLogger(__name__)

# The dtypes that NumPy or ml_dtypes has under the same name.
_SAFETENSORS = ("F32", "F64", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
# What the format before PyTorch 1.6 starts with.
_LEGACY_MARK = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LONGEST_NAME = 500
# Tied weights are views of one storage: so many views of each number are believed to be weights.
_VIEWS = 4


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
        with safetensors.safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if (dtype := file.get_slice(name).get_dtype()) not in _SAFETENSORS:
                    raise UserError(
                        f"{path}: tensors must be of {', '.join(_SAFETENSORS)}, got {name} of {dtype}: "
                        "in PyTorch, convert them with .float() and save the file again"
                    )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except UserError:
        raise
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} must be a safetensors file, but {error}: {DAMAGED}") from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            content, storages, load = (_open_zip if file.peek(2).startswith(b"PK") else _open_legacy)(file)
            tensors = _tensors(content)
            _check_sizes(tensors.values(), storages, path.stat().st_size)
            # In the order of the storages, so that one at a time is in memory.
            load = functools.lru_cache(maxsize=1)(load)
            by_storage = sorted(tensors.items(), key=lambda item: item[1].storage.key)
            arrays = {name: tensor.array(load(tensor.storage)) for name, tensor in by_storage}
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    # Whatever a damaged file makes Python raise: the list in pickle's documentation is open-ended.
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{path} must be a file of torch.save, but reading it failed ({reason}): {DAMAGED}") from error
    return {name: arrays[name] for name in tensors}


_READERS = {".safetensors": _read_safetensors, ".pth": _read_torch, ".pt": _read_torch}


def _tensors(content: Any) -> dict[str, Tensor]:
    """Returns the tensors of nested dicts by dotted name; step counts and other plain values are no weights.

    A dict that is there under two names counts under the first one.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if type(value) is Tensor:
            found[name] = value
        elif type(value) is dict and id(value) not in seen:
            seen.add(id(value))
            waiting += [(_joined(name, key), inner) for key, inner in reversed(value.items())]
    return found


def _joined(outer: str, inner: str) -> str:
    name = f"{outer}.{inner}" if outer else inner
    if len(name) > _LONGEST_NAME:
        raise UserError(f"names of tensors must have at most {_LONGEST_NAME} letters, got {name[:40]}...: {DAMAGED}")
    return name


def _check_sizes(tensors: Iterable[Tensor], storages: Iterable[Storage], size: int) -> None:
    if (total := sum(storage.size for storage in storages)) > size:
        raise UserError(f"a file of {size} bytes cannot hold tensors of {total}: {DAMAGED}")
    stored = sum(storage.count for storage in storages)
    if (used := sum(math.prod(tensor.shape) for tensor in tensors)) > _VIEWS * stored:
        raise UserError(
            f"tensors may share their numbers {_VIEWS} times, got {used} numbers in tensors and {stored} in the file: "
            "in PyTorch, save {name: tensor.clone() for name, tensor in weights.items()}"
        )


_Opened = tuple[Any, Iterable[Storage], Callable[[Storage], bytes]]


def _open_zip(file: io.BufferedReader) -> _Opened:
    archive = zipfile.ZipFile(file)
    records = {name.partition("/")[2]: name for name in archive.namelist()}
    # torch.save never compresses: a compressed record is a foreign file, or one that unfolds without end.
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()) or "data.pkl" not in records:
        raise UserError(f"a PyTorch file must hold an uncompressed record data.pkl, got another zip file: {RESAVE}")
    if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
        raise UserError(f"numbers must be little-endian, got a file of a big-endian machine: {RESAVE}")
    machine = Machine(io.BytesIO(archive.read(records["data.pkl"])))
    content = machine.run()
    return content, machine.storages.values(), lambda storage: archive.read(records[f"data/{storage.key}"])


def _open_legacy(file: io.BufferedReader) -> _Opened:
    """Opens what PyTorch wrote before 1.6: five pickles, then each storage as a count and its numbers."""
    file.seek(0)
    if (start := file.read(len(_LEGACY_MARK))) != _LEGACY_MARK:
        raise UserError(
            f"a file of torch.save must start with PyTorch's mark, got {start!r}: choose the file of the weights; "
            f"if this is it, {DAMAGED}"
        )
    _protocol, system = Machine(file).run(), Machine(file).run()
    if not system["little_endian"]:
        raise UserError(f"numbers must be little-endian, got a file of a big-endian machine: {RESAVE}")
    machine = Machine(file)
    content, keys = machine.run(), Machine(file).run()
    places = {}
    for key in keys:
        storage = machine.storages[key]
        if (count := int.from_bytes(file.read(8), "little")) != storage.count:
            raise UserError(f"a storage must hold {storage.count} numbers, got {count}: {DAMAGED}")
        places[key] = file.tell()
        file.seek(storage.size, io.SEEK_CUR)

    def load(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.size)

    return content, machine.storages.values(), load
