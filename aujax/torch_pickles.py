"""What a weight file of PyTorch says about its tensors, read without PyTorch.

It says so in a pickle: a program, which Python would run with all of Python at hand. Here it runs on a machine that
knows the instructions that torch.save writes and works on plain values. What the program names stays a name: nothing
is imported, called or changed, and memory and time are in proportion to the length of the program.
"""

import io
import math
import pickletools
from collections.abc import Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from aujax.errors import UserError

DAMAGED = "the file is damaged or half-copied, copy or download it again"
RESAVE = "in PyTorch, torch.save(torch.load(FILE, weights_only=True), 'new.pth') writes one that can be read"
_DTYPES = {
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
# How many values an instruction takes from the stack, where it does not take all above the last mark.
_TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}
_MADE = {
    **{"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict},
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
}
_DIMENSIONS = 64  # NumPy's limit


class _Name(NamedTuple):
    """A function or a class that the pickle names; it is never looked up."""

    text: str


class Storage(NamedTuple):
    """One-dimensional memory, named in the pickle and stored beside it."""

    kind: str
    key: str
    count: int

    @property
    def dtype(self) -> np.dtype:
        """The type of its numbers, looked up here and not while the pickle runs."""
        return np.dtype(_DTYPES[self.kind])

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.count * self.dtype.itemsize


class Tensor(NamedTuple):
    """A view of a storage, before the storage itself is read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: bytes) -> np.ndarray:
        """Returns the numbers, copied, in C order."""
        dtype = self.storage.dtype
        if len(data) != self.storage.size:
            raise UserError(f"a storage must have {self.storage.size} bytes, got {len(data)}: {DAMAGED}")
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        steps = tuple(step * dtype.itemsize for step in self.strides)
        flat = np.frombuffer(data, dtype)[self.offset :]
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps).copy()


def _foreign(what: str) -> UserError:
    return UserError(f"a weight file must be one of torch.save, got {what}: {RESAVE}")


class Machine:
    """Runs one pickle, and keeps the storages it met in `storages`."""

    def __init__(self, file: io.BufferedReader | io.BytesIO):
        self.storages: dict[str, Storage] = {}
        self._file = file
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Returns what the pickle holds, and leaves the file right behind it."""
        for instruction, argument, _ in pickletools.genops(self._file):
            self._step(instruction.name, argument)
        return self._stack.pop()

    def _step(self, instruction: str, argument: Any) -> None:
        stack = self._stack
        match instruction:
            case "PROTO" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append(_MADE[instruction]())
            case "MARK":
                self._marks.append(len(stack))
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._take(instruction)))
            case "APPEND" | "APPENDS":
                values = self._take(instruction)
                self._top(list).extend(values)
            case "SETITEM" | "SETITEMS":
                values = self._take(instruction)
                _set(self._top(dict), zip(values[::2], values[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(_known(argument.replace(" ", ".")))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_called(stack.pop(), arguments))
            case "BUILD":
                # PyTorch's notes on the modules of a state dict, which nothing here needs.
                notes = stack.pop()
                if type(stack[-1]) is not dict or type(notes) is not dict or notes.keys() != {"_metadata"}:
                    raise _foreign("an object with a state of its own")
            case _:
                raise _foreign(f"a pickle with the instruction {instruction}")

    def _take(self, instruction: str) -> list[Any]:
        count = _TAKEN.get(instruction)
        start = self._marks.pop() if count is None else len(self._stack) - count
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise _foreign(f"a {type(self._stack[-1]).__name__} used as a {kind.__name__}")
        return self._stack[-1]

    def _storage(self, identity: Any) -> Storage:
        match identity:
            # The format before 1.6 says last of which other storage this one is a part: None, of no other.
            case ("storage", _Name(kind), str(key), _, int(count), *part) if kind in _DTYPES and part in ([], [None]):
                storage = Storage(kind, key, count)
                if count >= 0 and self.storages.setdefault(key, storage) == storage:
                    return storage
        raise _foreign("a storage that is a part of another one, or that is described twice")


def _known(name: str) -> _Name:
    if name in _DTYPES or name in _FUNCTIONS:
        return _Name(name)
    if name == "torch._utils._rebuild_tensor_v3" or (name.startswith("torch.") and name.endswith("Storage")):
        kinds = ", ".join(sorted(np.dtype(dtype).name for dtype in _DTYPES.values()))
        raise UserError(
            f"tensors must be of {kinds}, got another kind ({name[:80]}): "
            "in PyTorch, convert it with .float() and save the file again"
        )
    raise UserError(
        f"a weight file may hold tensors, dicts and numbers only, got {name[:80]}: "
        f"do not trust this file unless you know who made it; {RESAVE}"
    )


def _set(content: dict[str, Any], items: Iterable[Any]) -> None:
    for key, value in items:
        if not isinstance(key, str | int):
            raise _foreign(f"a dict with a {type(key).__name__} for a name")
        # Numbers too as text, whose hashes no file can foresee: chosen ones would make the dict slow.
        content[str(key)] = value


def _called(function: Any, arguments: Any) -> Any:
    """Returns what a call of one of `_FUNCTIONS` is for us."""
    match function, arguments:
        case _Name("collections.OrderedDict"), ():
            return {}
        case _Name("collections.OrderedDict"), (list(pairs),):
            # As Python 2 wrote them. The list is used up, or a small file could copy a long one many times.
            content = {}
            _set(content, pairs)
            pairs.clear()
            return content
        case _Name("torch._utils._rebuild_parameter"), (Tensor() as tensor, *_):
            return tensor
        case (
            _Name("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2"),
            (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_),
        ):
            return _view(storage, offset, shape, strides)
    raise _foreign(f"a call of {getattr(function, 'text', 'a value')} that PyTorch would not make")


def _view(storage: Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not all(isinstance(n, int) for n in numbers) or not len(shape) == len(strides) <= _DIMENSIONS:
        raise _foreign("a tensor whose shape and strides are not as many numbers")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    # A tensor larger than its storage repeats numbers: no weights do, but a file made to fill the memory does.
    if min(numbers) < 0 or (0 not in shape and max(last + 1, math.prod(shape)) > storage.count):
        raise UserError(
            f"a tensor of shape {str(shape)[:80]} reaches outside its storage of {storage.count}: {DAMAGED}"
        )
    return Tensor(storage, offset, shape, strides)
