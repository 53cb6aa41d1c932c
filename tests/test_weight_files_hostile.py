"""Weight files that PyTorch would not write are refused or harmless; unusual ones that it did write are read."""

import contextlib
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from torch_files import mapping, named, number, numbers, storage_of, tensor, text, write_legacy, write_zip

from aujax import weight_files
from aujax.errors import UserError

WEIGHT = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
STORED = {"0": WEIGHT.tobytes()}
FC = tensor("0", 12, (4, 3), (3, 1))


@pytest.fixture
def pth(tmp_path):
    return tmp_path / "weights.pth"


def put(place):
    return struct.pack("<cB", b"q", place)


def get(place):
    return struct.pack("<cB", b"h", place)


def doubled(opcodes, times, join):
    """Opcodes of a value of a few bytes whose text would have `2**times` parts."""
    for place in range(times):
        opcodes = join(opcodes + put(place), get(place))
    return opcodes


@contextlib.contextmanager
def little_memory():
    """Fails where the block allocates more than a megabyte at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_dtype_cannot_be_changed(pth):
    # The state of a dtype: with it, numbers of two bytes would be taken for one byte, and be written out of bounds.
    state = b"(" + number(3) + text("<") + b"NNN" + number(1) + number(1) + number(0) + b"t"
    attack = named("torch.BFloat16Storage") + state + b"b"
    write_zip(pth, mapping({"a": attack, "fc.weight": FC}), STORED)
    with pytest.raises(UserError, match=r"must be one of torch\.save, got an object with a state of its own"):
        weight_files.read(pth)
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2


@pytest.mark.parametrize("attribute", ["__defaults__", "_metadata"])
def test_a_function_cannot_be_changed(pth, attribute):
    attack = named("torch._utils._rebuild_tensor_v2") + mapping({attribute: numbers([1, 2])}) + b"b"
    write_zip(pth, mapping({"a": attack}), {})
    with pytest.raises(UserError, match="got an object with a state of its own"):
        weight_files.read(pth)
    np.testing.assert_array_equal(weight_files.read(write_zip(pth, mapping({"w": FC}), STORED))["w"], WEIGHT)


def test_a_state_dict_cannot_be_given_other_attributes(pth):
    write_zip(pth, mapping({"fc.weight": FC}) + mapping({"items": number(1)}) + b"b", STORED)
    with pytest.raises(UserError, match="got an object with a state of its own"):
        weight_files.read(pth)


@pytest.mark.parametrize(
    ("called", "arguments"),
    [
        ("torch.FloatStorage", b")"),
        ("collections.OrderedDict", numbers([1])),
        ("torch._utils._rebuild_tensor_v2", numbers([1, 2, 3, 4])),
        ("torch._utils._rebuild_parameter", b")"),
    ],
)
def test_a_known_name_is_called_as_pytorch_calls_it_only(pth, called, arguments):
    write_zip(pth, mapping({"a": named(called) + arguments + b"R"}), {})
    with pytest.raises(UserError, match=f"got a call of {called} that PyTorch would not make"):
        weight_files.read(pth)


@pytest.mark.parametrize("built", [FC, storage_of("0", 12), numbers([1]), b"]", text("name")])
@pytest.mark.parametrize("state", [mapping({"shape": number(1)}), b"N" + mapping({"shape": number(1)}) + b"\x86"])
def test_no_other_object_can_be_changed(pth, built, state):
    write_zip(pth, mapping({"w": FC, "a": built + state + b"b"}), STORED)
    with pytest.raises(UserError, match=r"must be a file of torch\.save, but reading it failed \(AttributeError"):
        weight_files.read(pth)


@pytest.mark.parametrize(
    ("instruction", "opcodes"),
    [
        ("NEWOBJ", named("collections.OrderedDict") + b")\x81"),
        ("NEWOBJ_EX", named("collections.OrderedDict") + b")}\x92"),
        ("OBJ", b"(" + named("collections.OrderedDict") + b"o"),
        ("INST", b"(ios\nsystem\n"),
        ("STACK_GLOBAL", text("os") + text("system") + b"\x93"),
        ("STACK_GLOBAL", text("collections") + text("OrderedDict.fromkeys") + b"\x93"),
        ("EXT1", b"\x82\x01"),
        ("EXT2", b"\x83\x01\x00"),
        ("EXT4", b"\x84\x01\x00\x00\x00"),
        ("PERSID", b"Pstorage\n"),
        ("DUP", b"}2"),
        ("POP", b"}0"),
        ("MEMOIZE", b"}\x94"),
        ("LONG4", b"\x8b\x01\x00\x00\x00\x01"),
        ("BYTEARRAY8", b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a"),
        ("NEXT_BUFFER", b"\x97"),
    ],
)
def test_an_instruction_that_pytorch_does_not_write_is_refused_by_name(pth, instruction, opcodes):
    write_zip(pth, mapping({"a": opcodes}), {})
    with pytest.raises(UserError, match=f"got a pickle with the instruction {instruction}: .*weights_only=True"):
        weight_files.read(pth)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch.storage", "_load_from_bytes"),
        ("aujax.weight_files", "_Name"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_name_that_state_dicts_do_not_need_is_refused(pth, module, name, legacy):
    opcodes = f"c{module}\n{name}\n".encode() + text("x") + b"\x85R"
    write_legacy(pth, opcodes, {}) if legacy else write_zip(pth, opcodes, {})
    with pytest.raises(UserError, match=f"tensors, dicts and numbers only, got {module}.{name}: do not trust this"):
        weight_files.read(pth)


@pytest.mark.parametrize(
    "identity",
    [
        b"N",
        text("storage"),
        b"(" + text("storage") + named("collections.OrderedDict") + text("0") + text("cpu") + number(12) + b"t",
        b"(" + text("storage") + text("torch.FloatStorage") + text("0") + text("cpu") + number(12) + b"t",
        b"(" + text("module") + named("torch.FloatStorage") + text("0") + text("cpu") + number(12) + b"t",
        b"(" + text("storage") + named("torch.FloatStorage") + number(0) + text("cpu") + number(12) + b"t",
        b"(" + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + number(-12) + b"t",
        b"(" + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + text("12") + b"t",
    ],
)
def test_a_storage_of_another_description_is_refused(pth, identity):
    write_zip(pth, mapping({"a": identity + b"Q"}), STORED)
    with pytest.raises(UserError, match=r"must be one of torch\.save, got a storage that"):
        weight_files.read(pth)


def test_a_high_memo_number_takes_no_memory(pth):
    write_zip(pth, mapping({"fc.weight": FC + b"r\xff\xff\xff\xff"}), STORED)
    with little_memory(), pytest.raises(UserError, match="got a pickle with the memo number 4294967295"):
        weight_files.read(pth)


@pytest.mark.parametrize("code", [b"X", b"T"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_text_that_is_longer_than_the_file_takes_no_memory(pth, code, legacy):
    opcodes = code + struct.pack("<i", 2**31 - 1) + b"short"
    write_legacy(pth, opcodes, {}) if legacy else write_zip(pth, opcodes, {})
    with little_memory(), pytest.raises(UserError, match="damaged or half-copied"):
        weight_files.read(pth)


@pytest.mark.parametrize("record", ["data.pkl", "data/0", "unused"])
def test_a_compressed_record_is_not_expanded(pth, record):
    write_zip(pth, mapping({"w": FC}), STORED)
    with zipfile.ZipFile(pth, "w") as archive:
        archive.writestr(f"archive/{record}", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    with little_memory(), pytest.raises(UserError, match=r"an uncompressed record data\.pkl, got another zip file"):
        weight_files.read(pth)


@pytest.mark.parametrize("nested", [b"(" * 200_000 + b"t" * 200_000, b"]" * 200_000 + b"a" * 199_999])
def test_deep_nesting_has_no_depth_limit(pth, nested):
    opcodes = mapping({"deep": nested, "w": FC})
    np.testing.assert_array_equal(weight_files.read(write_zip(pth, opcodes, STORED))["w"], WEIGHT)


def test_a_dict_under_many_names_counts_once(pth):
    opcodes = doubled(mapping({"w": FC}), 40, lambda inner, again: mapping({"a": inner, "b": again}))
    assert list(weight_files.read(write_zip(pth, opcodes, STORED))) == [40 * "a." + "w"]


def test_a_dict_inside_itself_has_an_end(pth):
    opcodes = b"}" + put(0) + text("itself") + get(0) + b"s" + text("w") + FC + b"s"
    assert list(weight_files.read(write_zip(pth, opcodes, STORED))) == ["w"]


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (lambda pairs: b"}" + pairs + b"Ns", "a dict with a tuple for a name"),
        (
            lambda pairs: (
                named("torch._utils._rebuild_tensor")
                + b"("
                + storage_of("0", 12)
                + number(0)
                # A shape of one "number" whose text would have 2**60 parts.
                + pairs
                + b"\x85"
                + numbers([1])
                + b"tR"
            ),
            "a tensor whose shape and strides are not as many numbers",
        ),
    ],
)
def test_a_tuple_of_tuples_is_neither_hashed_nor_written_out(pth, opcodes, message):
    pairs = doubled(b")", 60, lambda inner, again: inner + again + b"\x86")
    write_zip(pth, opcodes(pairs), STORED)
    with pytest.raises(UserError, match=message):
        weight_files.read(pth)


def test_a_tuple_of_tuples_is_not_looked_up_as_the_key_of_a_storage(pth):
    write_legacy(pth, mapping({"w": FC}), {})
    whole = pth.read_bytes().removesuffix(pickle.dumps([], protocol=2))
    pairs = doubled(b")", 60, lambda inner, again: inner + again + b"\x86")
    pth.write_bytes(whole + b"]" + pairs + b"a.")
    with pytest.raises(UserError, match="damaged or half-copied"):
        weight_files.read(pth)


def test_arguments_that_pytorch_does_not_give_are_refused(pth):
    arguments = FC.rpartition(b"tR")[0] + b"N" * 3 + b"tR"
    write_zip(pth, mapping({"w": arguments}), STORED)
    with pytest.raises(UserError, match=r"got a call of torch\._utils\._rebuild_tensor_v2 that PyTorch would not make"):
        weight_files.read(pth)


def test_tied_weights_are_read(pth):
    got = weight_files.read(write_zip(pth, mapping({"encoder": FC, "decoder": FC}), STORED))
    np.testing.assert_array_equal(got["decoder"], got["encoder"])


def test_tensors_far_larger_than_their_storages_are_refused(pth):
    write_zip(pth, mapping({f"w{i}": FC for i in range(5)}), STORED)
    with pytest.raises(
        UserError, match=r"share .* 4 times, got 60 numbers in tensors and 12 in the file: .*\.clone\(\)"
    ):
        weight_files.read(pth)


def test_storages_larger_than_the_file_are_refused(pth):
    write_zip(pth, mapping({"w": tensor("0", 10**9, (10**9,), (1,))}), STORED)
    with pytest.raises(UserError, match=r"a file of \d+ bytes cannot hold tensors of 4000000000: .*damaged"):
        weight_files.read(pth)


def test_a_storage_of_another_size_than_in_the_pickle_is_refused(pth):
    write_zip(pth, mapping({"w": FC}), {"0": WEIGHT[:2].tobytes()})
    with pytest.raises(UserError, match=r"a storage must have 48 bytes, got 24: .*damaged"):
        weight_files.read(pth)
    write_legacy(pth, mapping({"w": FC}), {"0": WEIGHT[:2]})
    with pytest.raises(UserError, match=r"a storage must hold 12 numbers, got 6: .*damaged"):
        weight_files.read(pth)


@pytest.mark.parametrize(
    "other", [tensor("0", 24, (4,), (1,), storage="HalfStorage"), tensor("0", 12, (4,), (1,), view=numbers([0]))]
)
def test_a_storage_has_one_description(pth, other):
    write_zip(pth, mapping({"w": FC, "other": other}), STORED)
    with pytest.raises(UserError, match="a storage that is a part of another one, or that is described twice"):
        weight_files.read(pth)


def test_a_very_long_name_is_refused(pth):
    write_zip(pth, mapping({"a" * 300: mapping({"b" * 300: FC})}), STORED)
    with pytest.raises(UserError, match=r"names of tensors must have at most 500 letters, got a{40}\.\.\.: "):
        weight_files.read(pth)


@pytest.mark.parametrize("name", ["torch.ComplexFloatStorage", "torch._utils._rebuild_tensor_v3"])
def test_an_unknown_kind_of_numbers_is_named(pth, name):
    write_zip(pth, mapping({"w": named(name)}), {})
    with pytest.raises(UserError, match=rf"of bfloat16, .*, got another kind \({name}\): .* with \.float\(\)"):
        weight_files.read(pth)


def test_a_number_may_be_a_name(pth):
    opcodes = b"}" + number(7) + FC + b"s"
    assert list(weight_files.read(write_zip(pth, opcodes, STORED))) == ["7"]


def test_a_parameter_is_its_tensor(pth):
    opcodes = named("torch._utils._rebuild_parameter") + b"(" + FC + b"\x88" + mapping({}) + b"tR"
    np.testing.assert_array_equal(weight_files.read(write_zip(pth, mapping({"p": opcodes}), STORED))["p"], WEIGHT)


def of_python_2(pairs):
    """A state dict as Python 2 pickled it: the pairs are an argument, the names are bytes."""
    return named("collections.OrderedDict") + pairs + b"\x85R"


PAIRS = b"]]" + b"(U\x01w" + FC + b"ea"


def test_a_state_dict_of_python_2_is_read(pth):
    got = weight_files.read(write_zip(pth, of_python_2(PAIRS), STORED))
    np.testing.assert_array_equal(got["w"], WEIGHT)


def test_a_list_of_pairs_makes_one_dict_only(pth):
    # Each copy would take a few bytes of the file and as much memory as the list.
    opcodes = mapping({"a": of_python_2(PAIRS + put(0)), "b": of_python_2(get(0))})
    assert list(weight_files.read(write_zip(pth, opcodes, STORED))) == ["a.w"]
