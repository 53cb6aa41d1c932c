"""Pickles that PyTorch would not write: refused or harmless; and old ones that it did write."""

import struct
import tracemalloc

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
    """Opcodes of a value of a few bytes that is `2**times` long when written out."""
    for place in range(times):
        opcodes = join(opcodes + put(place), get(place))
    return opcodes


def test_a_type_of_numbers_cannot_be_changed(pth):
    # What np.dtype.__setstate__ takes: with it, numbers of two bytes would have one, and writing them go astray.
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


@pytest.mark.parametrize(
    ("instruction", "opcodes"),
    [
        ("NEWOBJ", named("collections.OrderedDict") + b")\x81"),
        ("OBJ", b"(" + named("collections.OrderedDict") + b"o"),
        ("INST", b"(ios\nsystem\n"),
        ("STACK_GLOBAL", text("os") + text("system") + b"\x93"),
        ("EXT1", b"\x82\x01"),
        ("DUP", b"}2"),
    ],
)
def test_an_instruction_that_pytorch_does_not_write_is_refused_by_name(pth, instruction, opcodes):
    write_zip(pth, mapping({"a": opcodes}), {})
    with pytest.raises(UserError, match=f"got a pickle with the instruction {instruction}: .*weights_only=True"):
        weight_files.read(pth)


def test_a_high_memo_number_takes_no_memory(pth):
    write_zip(pth, mapping({"fc.weight": FC + b"r\xff\xff\xff\xff"}), STORED)
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(weight_files.read(pth)["fc.weight"], WEIGHT)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


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
                # A shape of one "number" that would take 2**60 words to write down.
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


def test_a_storage_of_another_size_than_the_pickle_says_is_refused(pth):
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
def test_numbers_of_a_kind_that_is_not_known_are_named(pth, name):
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
