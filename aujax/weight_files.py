"""Weight files as dicts of NumPy arrays: .safetensors, PyTorch's .pth and .pt, models on the Hugging Face Hub.

PyTorch is not needed. Its files describe their tensors in a pickle, which is a program: loaded without care, it can
call any function of Python. A weight file may come from anyone, so here

* the instructions are scanned before they run, and only those that `torch.save` writes are accepted;
* no name is imported: the few names that a state dict needs become inert objects of this module, others are refused;
* sizes are compared with that of the file before memory is allocated for tensors.
"""

import functools
import io
import logging
import math
import mmap
import pathlib
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import ArrayLike

from aujax import files
from aujax.errors import UserError

log = logging.getLogger(__name__)

_DAMAGED = "the file is damaged or half-copied, copy or download it again"
_RESAVE = "in PyTorch, torch.save(torch.load(FILE, weights_only=True), 'new.pth') writes a file that can be read"
# The dtypes of safetensors that NumPy or ml_dtypes has under the same name.
_SAFETENSORS = "F32, F64, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL"
_STORAGES = {
    "torch.FloatStorage": np.float32,
    "torch.DoubleStorage": np.float64,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}
_FUNCTIONS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}
# The instructions that torch.save writes, in the format of today and in those before.
_INSTRUCTIONS = frozenset(
    """
    PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE BINSTRING SHORT_BINSTRING
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT
    BINGET LONG_BINGET GLOBAL REDUCE BUILD BINPERSID
    """.split()  # noqa: SIM905 - names without quotes are easier to read
)
# The instructions that make a `_StateDict`, see `_unpickle`.
_NEW_STATE_DICT = b"ccollections\nOrderedDict\n)R"
# The first bytes of a file of PyTorch before 1.6.
_LEGACY_MARK = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LONGEST_NAME = 500
# Tied weights are views of one storage. Weights use each stored number at most this often on average.
_VIEWS = 4
_DIMENSIONS = 64  # NumPy's limit


def read(source: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a weight file, or of a model on the Hugging Face Hub, by name.

    `source` is a path to a .safetensors, .pth or .pt file, or an id such as `timm/resnet50.tv_in1k` (also with `hf:`
    before it). Names of nested dicts are joined with a dot; half, bfloat16 and double precision become float32.

    Raises:
      UserError: the file or the model does not exist, is damaged, or holds anything but tensors and plain values.
    """
    path = pathlib.Path(source)
    text = str(source)
    two_parts = not path.is_absolute() and len(path.parts) == 2 and path.parts[0] not in (".", "..", "~")
    if text.startswith("hf:") or (two_parts and path.suffix not in _READERS and not path.exists()):
        path = _download(text.removeprefix("hf:"))
    if not path.is_file():
        raise UserError(f"weights must be a file or a Hugging Face id (organisation/name), got {text!r}: no such file")
    if path.suffix not in _READERS:
        raise UserError(f"a weight file must end in {', '.join(_READERS)}, got {path.name!r}")
    tensors = _READERS[path.suffix](path)
    if not tensors:
        raise UserError(f"{path} must hold tensors, got none: is it the file of the weights?")
    converted = {x.dtype.name for x in tensors.values()} & {"float16", "bfloat16", "float64"}
    if converted:
        log.warning("%s holds %s: converted to float32", path, " and ".join(sorted(converted)))
    return {name: x.astype(np.float32) if x.dtype.name in converted else x for name, x in tensors.items()}


def write(path: str | pathlib.Path, tensors: Mapping[str, ArrayLike], metadata: Mapping[str, str]) -> None:
    """Writes a .safetensors file; an existing file is replaced only when the new one is complete.

    `metadata` describes the file, such as its method; readers of the tensors may ignore it.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"weights are written to a file that ends in .safetensors, got {path.name!r}")
    if not path.parent.is_dir():
        raise UserError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    # safetensors writes the memory in its order and ignores strides.
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        files.write(path, safetensors.numpy.save(arrays, dict(metadata)))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error


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


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if (dtype := file.get_slice(name).get_dtype()) not in _SAFETENSORS.split(", "):
                    raise UserError(
                        f"{path}: tensors must be of {_SAFETENSORS}, got {name} of {dtype}: "
                        "in PyTorch, convert them with .float() and save the file again"
                    )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except UserError:
        raise
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} must be a safetensors file, but {error}: {_DAMAGED}") from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            open_file = _open_zip if file.peek(2).startswith(b"PK") else _open_legacy
            content, storages, load = open_file(file)
            tensors = _tensors(content)
            # Both are checked before memory is allocated: a file of a few bytes can describe tensors of any size.
            size = path.stat().st_size
            if (total := sum(storage.size for storage in storages.values())) > size:
                raise UserError(f"a file of {size} bytes cannot hold tensors of {total}: {_DAMAGED}")
            stored = sum(storage.count for storage in storages.values())
            if (used := sum(math.prod(tensor.shape) for tensor in tensors.values())) > _VIEWS * stored:
                raise UserError(
                    f"tensors may share their numbers {_VIEWS} times, got {used} numbers in tensors and {stored} in "
                    "the file: in PyTorch, save {name: tensor.clone() for name, tensor in weights.items()}"
                )
            # Ordered by storage, so that each storage is read once and only one is in memory.
            load = functools.lru_cache(maxsize=1)(load)
            arrays: dict[str, np.ndarray] = dict.fromkeys(tensors, np.empty(0))
            for name, tensor in sorted(tensors.items(), key=lambda item: item[1].storage.key):
                storage, dtype = tensor.storage, tensor.storage.dtype
                data = load(storage)
                if len(data) != storage.size:
                    raise UserError(f"a storage must have {storage.size} bytes, got {len(data)}: {_DAMAGED}")
                if 0 in tensor.shape:
                    arrays[name] = np.zeros(tensor.shape, dtype)
                    continue
                steps = [stride * dtype.itemsize for stride in tensor.strides]
                view = np.ndarray(tensor.shape, dtype, data, tensor.offset * dtype.itemsize, steps)
                arrays[name] = view.copy()
            return arrays
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    # A damaged pickle or archive can raise nearly any exception; pickle's documentation leaves the list open.
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{path} must be a file of torch.save, but reading it failed ({reason}): {_DAMAGED}") from error


_READERS = {".safetensors": _read_safetensors, ".pth": _read_torch, ".pt": _read_torch}


class Storage(NamedTuple):
    """One-dimensional memory that the pickle refers to by key."""

    dtype: np.dtype
    key: str
    count: int

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.count * self.dtype.itemsize


class Tensor(NamedTuple):
    """A view of a storage whose data are not yet loaded."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# The content of a torch file, its storages by key, and a function that reads the bytes of a storage.
_Opened = tuple[Any, dict[str, Storage], Callable[[Storage], bytes]]


def _open_zip(file: io.BufferedReader) -> _Opened:
    """Opens a file of PyTorch since 1.6: an archive of data.pkl and a record for each storage."""
    archive = zipfile.ZipFile(file)
    records = {name.partition("/")[2]: name for name in archive.namelist()}
    # torch.save never compresses: a compressed record is from another program, or it expands without limit.
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()) or "data.pkl" not in records:
        raise UserError(f"a PyTorch file must hold an uncompressed record data.pkl, got another zip file: {_RESAVE}")
    if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
        raise UserError(f"numbers must be little-endian, got a file of a big-endian machine: {_RESAVE}")
    content, storages = _unpickle(io.BytesIO(archive.read(records["data.pkl"])))
    return content, storages, lambda storage: archive.read(records[f"data/{storage.key}"])


def _open_legacy(file: io.BufferedReader) -> _Opened:
    """Opens a file of PyTorch before 1.6: five pickles, then for each storage its count and its numbers."""
    if (start := file.read(len(_LEGACY_MARK))) != _LEGACY_MARK:
        raise UserError(
            f"a file of torch.save must start with PyTorch's mark, got {start!r}: choose the file of the weights; "
            f"if this is it, {_DAMAGED}"
        )
    # Unlike a file, a memory map allocates no buffer for a string whose stated length is beyond the end.
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    memory.seek(len(_LEGACY_MARK))
    _unpickle(memory)  # the version of the protocol
    system, _ = _unpickle(memory)
    if not system["little_endian"]:
        raise UserError(f"numbers must be little-endian, got a file of a big-endian machine: {_RESAVE}")
    content, storages = _unpickle(memory)
    keys, _ = _unpickle(memory)
    starts = {}
    for key in keys:
        # The hash of nested tuples takes time without bound.
        storage = storages[key if isinstance(key, str) else ""]
        if (count := int.from_bytes(memory.read(8), "little")) != storage.count:
            raise UserError(f"a storage must hold {storage.count} numbers, got {count}: {_DAMAGED}")
        starts[key] = memory.tell()
        memory.seek(storage.size, io.SEEK_CUR)
    return content, storages, lambda storage: memory[starts[storage.key] : starts[storage.key] + storage.size]


def _tensors(content: Any) -> dict[str, Tensor]:
    """Returns the tensors of nested dicts by dotted name, without plain values such as step counts.

    A dict that occurs under several names counts under the first.
    """
    tensors = {}
    seen = set()
    pending = [("", content)]
    while pending:
        name, value = pending.pop()
        if type(value) is Tensor:
            tensors[name] = value
        elif type(value) is _StateDict and id(value) not in seen:
            seen.add(id(value))
            for key, inner in reversed(value.items()):
                inner_name = f"{name}.{key}" if name else key
                if len(inner_name) > _LONGEST_NAME:
                    raise UserError(
                        f"names of tensors must have at most {_LONGEST_NAME} letters, got {inner_name[:40]}...: "
                        f"{_DAMAGED}"
                    )
                pending.append((inner_name, inner))
    return tensors


def _foreign(got: str) -> UserError:
    return UserError(f"a weight file must be one of torch.save, got {got}: {_RESAVE}")


def _unpickle(file: Any) -> tuple[Any, dict[str, Storage]]:
    """Returns the object of one pickle and its storages by key; the file is then at the end of that pickle."""
    program = bytearray()
    start = file.tell()
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if instruction.name not in _INSTRUCTIONS:
            raise _foreign(f"a pickle with the instruction {instruction.name}")
        # The unpickler allocates a table up to the highest memo number. Python counts them from 0 or 1.
        if instruction.name in ("BINPUT", "LONG_BINPUT") and argument is not None and argument > count:
            raise _foreign(f"a pickle with the memo number {argument} in instruction {count}")
        end = file.tell()
        file.seek(start)
        code = file.read(end - start)
        # A plain dict would hash any key, which can take time without bound: every dict becomes a _StateDict.
        program += _NEW_STATE_DICT if instruction.name == "EMPTY_DICT" else code
        start = end
    unpickler = _Unpickler(program)
    return unpickler.load(), unpickler.storages


class _Unpickler(pickle.Unpickler):
    """Makes plain values, lists, tuples, state dicts and tensors, and imports nothing."""

    def __init__(self, program: bytes | bytearray):
        # Python 2 wrote names as bytes.
        super().__init__(io.BytesIO(program), encoding="latin-1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module_name: str, global_name: str, /) -> "_Name":
        """Returns a stand-in for a known function or class."""
        name = f"{module_name}.{global_name}"
        if name in _STORAGES or name in _FUNCTIONS:
            return _Name(name)
        if name == "torch._utils._rebuild_tensor_v3" or (name.startswith("torch.") and name.endswith("Storage")):
            kinds = ", ".join(sorted(np.dtype(dtype).name for dtype in _STORAGES.values()))
            raise UserError(
                f"tensors must be of {kinds}, got another kind ({name[:80]}): "
                "in PyTorch, convert it with .float() and save the file again"
            )
        raise UserError(
            f"a weight file may hold tensors, dicts and numbers only, got {name[:80]}: "
            f"do not trust this file unless you know who made it; {_RESAVE}"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """Returns the storage that a persistent id describes."""
        match pid:
            # Before PyTorch 1.6 the last item names the storage that this one is a part of; None: it is no part.
            case ("storage", _Name(kind), str(key), _, int(count), *part) if kind in _STORAGES and part in ([], [None]):
                storage = Storage(np.dtype(_STORAGES[kind]), key, count)
                if count >= 0 and self.storages.setdefault(key, storage) == storage:
                    return storage
        raise _foreign("a storage that is a part of another one, or that is described twice")


class _StateDict(dict):
    """A dict with text keys, which numbers become: a file cannot choose keys whose hashes collide."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | int):
            raise _foreign(f"a dict with a {type(key).__name__} for a name")
        super().__setitem__(str(key), value)

    def __setstate__(self, state: Any) -> None:
        # PyTorch's versions of the modules of a state dict, which are not needed here.
        if type(state) is not _StateDict or state.keys() != {"_metadata"}:
            raise _foreign("an object with a state of its own")


class _Name(NamedTuple):
    """A function or class that a pickle names. Calling it makes calling it returns its safe substitute."""

    text: str

    def __setstate__(self, state: Any) -> None:
        raise _foreign("an object with a state of its own")

    def __call__(self, *arguments: Any) -> Any:
        match self.text, arguments:
            case "collections.OrderedDict", ():
                return _StateDict()
            case "collections.OrderedDict", (list(pairs),):
                # As Python 2 wrote it. The list is emptied, or a small file could copy a long one many times.
                content = _StateDict()
                for key, value in pairs:
                    content[key] = value
                pairs.clear()
                return content
            case "torch._utils._rebuild_parameter", (Tensor() as tensor, _, _):
                return tensor
            case (
                "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
                # Further: whether gradients are required, hooks, metadata.
                (Storage() as storage, int(offset), tuple(shape), tuple(strides), *further),
            ) if len(further) <= 3:
                numbers = (offset, *shape, *strides)
                if not all(isinstance(n, int) for n in numbers) or not len(shape) == len(strides) <= _DIMENSIONS:
                    raise _foreign("a tensor whose shape and strides are not as many numbers")
                last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
                # A tensor larger than its storage repeats numbers: no weights do, but a file made to exhaust the
                # memory does.
                if min(numbers) < 0 or (0 not in shape and max(last + 1, math.prod(shape)) > storage.count):
                    raise UserError(
                        f"a tensor of shape {str(shape)[:80]} reaches outside its storage of {storage.count}: "
                        f"{_DAMAGED}"
                    )
                return Tensor(storage, offset, shape, strides)
        raise _foreign(f"a call of {self.text} that PyTorch would not make")
