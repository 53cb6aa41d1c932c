"""Weight files written by hand, byte for byte as PyTorch lays them out; no PyTorch in sight."""

import json
import logging
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from torch_files import mapping, named, number, tensor, text, write_legacy, write_zip

from aujax import weight_files
from aujax.errors import UserError

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(4, 3)).astype(np.float32)


@pytest.fixture
def pth(tmp_path):
    return tmp_path / "weights.pth"


def test_tensors_of_a_pth_file_come_by_name(pth):
    opcodes = mapping(
        {"fc.weight": tensor("0", 12, (4, 3), (3, 1)), "steps": tensor("1", 1, (), (), storage="LongStorage")}
    )
    write_zip(pth, opcodes, {"0": WEIGHT.tobytes(), "1": np.int64(7).tobytes()})
    got = weight_files.read(pth)
    assert list(got) == ["fc.weight", "steps"]
    np.testing.assert_array_equal(got["fc.weight"], WEIGHT)
    np.testing.assert_array_equal(got["steps"], np.int64(7), strict=True)


def test_views_of_one_storage_are_cut_out_of_it(pth):
    views = {"transposed": tensor("0", 12, (3, 4), (1, 3)), "row": tensor("0", 12, (3,), (1,), offset=6)}
    got = weight_files.read(write_zip(pth, mapping(views), {"0": WEIGHT.tobytes()}))
    np.testing.assert_array_equal(got["transposed"], WEIGHT.T)
    np.testing.assert_array_equal(got["row"], WEIGHT[2])


def test_names_of_nested_dicts_are_joined_and_plain_values_left_out(pth):
    inner = mapping({"weight": tensor("0", 12, (4, 3), (3, 1))})
    got = weight_files.read(write_zip(pth, mapping({"model": inner, "epoch": number(3)}), {"0": WEIGHT.tobytes()}))
    assert list(got) == ["model.weight"]


def test_a_released_model_is_read(pth):
    # Two state dicts with PyTorch's notes on their modules, and BatchNorm's counters.
    notes = b"}" + text("_metadata") + mapping({}) + b"sb"
    encoder = {
        "conv1.weight": tensor("0", 12, (4, 3), (3, 1)),
        "bn1.num_batches_tracked": tensor("1", 1, (), (), storage="LongStorage"),
    }
    head = {"fc.weight": tensor("2", 12, (4, 3), (3, 1))}
    parts = {"encoder": mapping(encoder) + notes, "classification_head": mapping(head) + notes}
    storages = {"0": WEIGHT.tobytes(), "1": np.int64(7).tobytes(), "2": (2 * WEIGHT).tobytes()}
    got = weight_files.read(write_zip(pth, mapping(parts), storages))
    np.testing.assert_array_equal(got["encoder.conv1.weight"], WEIGHT)
    np.testing.assert_array_equal(got["encoder.bn1.num_batches_tracked"], np.int64(7), strict=True)
    np.testing.assert_array_equal(got["classification_head.fc.weight"], 2 * WEIGHT)


def test_the_format_before_pytorch_1_6_is_read(pth):
    opcodes = mapping(
        {
            "a": tensor("k1", 12, (4, 3), (3, 1), view=b"N"),
            "b": tensor("k0", 2, (2,), (1,), storage="LongStorage", view=b"N"),
        }
    )
    got = weight_files.read(write_legacy(pth, opcodes, {"k0": np.array([5, 6]), "k1": WEIGHT}))
    assert list(got) == ["a", "b"]
    np.testing.assert_array_equal(got["a"], WEIGHT)
    np.testing.assert_array_equal(got["b"], [5, 6])


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [("HalfStorage", np.float16), ("BFloat16Storage", ml_dtypes.bfloat16), ("DoubleStorage", np.float64)],
)
def test_other_precisions_become_float32_with_a_notice(pth, caplog, storage, dtype):
    half = WEIGHT.astype(dtype)
    write_zip(pth, mapping({"weight": tensor("0", 12, (4, 3), (3, 1), storage=storage)}), {"0": half.tobytes()})
    with caplog.at_level(logging.WARNING):
        got = weight_files.read(pth)
    np.testing.assert_array_equal(got["weight"], half.astype(np.float32), strict=True)
    assert f"holds {np.dtype(dtype).name}: converted to float32" in caplog.text


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_a_program_is_refused_and_runs_nothing(pth, tmp_path, legacy):
    opcodes = pickle.dumps({"weight": Attack(tmp_path / "owned")}, protocol=2)[:-1]
    write_legacy(pth, opcodes, {}) if legacy else write_zip(pth, opcodes, {})
    with pytest.raises(UserError, match=r"may hold tensors, dicts and numbers only, got posix\.system: do not trust"):
        weight_files.read(pth)
    assert not (tmp_path / "owned").exists()


def test_a_whole_pickled_network_is_refused_by_the_name_of_its_class(pth):
    write_zip(pth, named("torch.nn.modules.linear.Linear") + b")R", {})
    with pytest.raises(UserError, match=r"got torch\.nn\.modules\.linear\.Linear: .*weights_only=True"):
        weight_files.read(pth)


@pytest.mark.parametrize("kept", [0, 40, 300, -30])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_cut_file_is_called_damaged(pth, kept, legacy):
    opcodes = mapping({"weight": tensor("0", 12, (4, 3), (3, 1), view=b"N" if legacy else b"")})
    write_legacy(pth, opcodes, {"0": WEIGHT}) if legacy else write_zip(pth, opcodes, {"0": WEIGHT.tobytes()})
    pth.write_bytes(pth.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"weights.pth.*damaged or half-copied, copy or download it again"):
        weight_files.read(pth)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((4, 3), (3, 1), 1),
        ((5, 3), (3, 1), 0),
        ((2,), (-1,), 3),
        ((2,), (1,), -1),
        ((10**6, 10**6), (0, 0), 0),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(pth, shape, strides, offset):
    write_zip(pth, mapping({"weight": tensor("0", 12, shape, strides, offset=offset)}), {"0": WEIGHT.tobytes()})
    with pytest.raises(UserError, match="reaches outside its storage of 12"):
        weight_files.read(pth)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: write_zip(path, mapping({}), {}, compression=zipfile.ZIP_DEFLATED),
            "an uncompressed record data.pkl, got another zip file",
        ),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), r"must start with PyTorch's mark, got b'\\x80.*choose"),
        (lambda path: write_zip(path, mapping({"epoch": number(3)}), {}), "must hold tensors, got none"),
        (lambda path: path.write_bytes(b"<html>"), "must start with PyTorch's mark, got b'<html>': .*damaged"),
    ],
)
def test_a_file_of_something_else_is_refused(pth, write, message):
    write(pth)
    with pytest.raises(UserError, match=message):
        weight_files.read(pth)


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"fc.weight": WEIGHT}, path)
    np.testing.assert_array_equal(weight_files.read(str(path))["fc.weight"], WEIGHT)


def test_written_tensors_are_read_back_with_their_layout_and_type(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {"transposed": WEIGHT.T, "every_other": WEIGHT[:, ::2], "steps": np.array(7)}
    weight_files.write(path, tensors, {"method": "CAM"})
    got = weight_files.read(path)
    assert got.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(got[name], array, strict=True)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"method": "CAM"}


def test_a_file_stays_as_it_was_when_writing_fails(tmp_path):
    path = tmp_path / "model.safetensors"
    weight_files.write(path, {"weight": WEIGHT}, {})
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"model.safetensors cannot be written: .*object"):
        weight_files.write(path, {"weight": WEIGHT, "words": np.array([None])}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pt", r"to a file that ends in \.safetensors, got 'model\.pt'"),
        ("nowhere/model.safetensors", r"there is no folder .*nowhere; make it first"),
    ],
)
def test_a_place_that_weights_cannot_be_written_to_is_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        weight_files.write(tmp_path / name, {"weight": WEIGHT}, {})
    assert list(tmp_path.iterdir()) == []


def test_damaged_safetensors_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"must be a safetensors file, but .*damaged"):
        weight_files.read(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere.pth", "got 'nowhere.pth': no such file"), ("weights.npz", r"must end in .safetensors, .pth, .pt, got")],
)
def test_a_path_that_cannot_be_weights_is_refused(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        weight_files.read(source)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F4", "C64"])
def test_safetensors_of_an_unusual_type_are_named(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    size = {"F8_E4M3": 2, "F4": 1, "C64": 16}[dtype]
    header = json.dumps({"fc.weight": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    with pytest.raises(UserError, match=rf"tensors must be of F32, .*, got fc\.weight of {dtype}: .* with \.float\(\)"):
        weight_files.read(path)


def test_safetensors_of_half_precision_become_float32(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"half": WEIGHT.astype(np.float16), "b": WEIGHT.astype(ml_dtypes.bfloat16)}, path)
    got = weight_files.read(path)
    np.testing.assert_array_equal(got["half"], WEIGHT.astype(np.float16).astype(np.float32), strict=True)
    np.testing.assert_array_equal(got["b"], WEIGHT.astype(ml_dtypes.bfloat16).astype(np.float32), strict=True)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stands in for huggingface_hub, which is optional; returns what was asked for."""
    asked = []

    def download(repo_id, filename):
        asked.append((repo_id, filename))
        if repo_id == "no/network":
            raise ConnectionError("offline\nand more lines")
        path = tmp_path / filename
        safetensors.numpy.save_file({"weight": WEIGHT}, path)
        return str(path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    return asked


@pytest.mark.parametrize("source", ["timm/resnet50.tv_in1k", "hf:timm/resnet50.tv_in1k"])
def test_a_hub_id_is_downloaded(hub, source):
    np.testing.assert_array_equal(weight_files.read(source)["weight"], WEIGHT)
    assert hub == [("timm/resnet50.tv_in1k", "model.safetensors")]


def test_without_network_the_error_says_what_to_do(hub):
    with pytest.raises(UserError, match="got ConnectionError: offline; without network, download it elsewhere"):
        weight_files.read("no/network")


def test_without_the_hub_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "aujax\[hub\]"'):
        weight_files.read("timm/resnet50.tv_in1k")


def test_a_file_in_a_folder_is_not_taken_for_a_hub_id(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    safetensors.numpy.save_file({"weight": WEIGHT}, "weights/mine.safetensors")
    weight_files.read("weights/mine.safetensors")
    with pytest.raises(UserError, match="no such file"):
        weight_files.read("weights/yours.safetensors")
    assert hub == []


def test_the_hub_package_finds_a_file_in_its_cache(tmp_path):
    """Without network, in a process of its own: the package reads its cache folder when it is imported."""
    snapshot = tmp_path / "hub" / "models--timm--tiny" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    reference = snapshot.parents[1] / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text("c0ffee")
    safetensors.numpy.save_file({"a": np.arange(3.0)}, snapshot / "model.safetensors")
    program = "from aujax import weight_files; print(sorted(weight_files.read('hf:timm/tiny')))"
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "['a']\n", ended.stderr
