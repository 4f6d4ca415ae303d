"""Files of weights: their types, the sets in them, shards and checksums."""

import argparse
import collections
import functools
import io
import json
import pathlib
import types
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch_files

from weights import formats
from weights.formats import WeightsError

A, B = (np.full((2, 3), value, np.float32) for value in (1, 2))


def save(path, arrays, metadata=None):
    formats.write_safetensors(path, arrays, metadata)
    return path


def only(contents):
    """The array of `Contents` with one."""
    (array,) = contents.arrays.values()
    return array


@pytest.mark.parametrize("name", ["a.th", "a", "a.pt", "a.safetensors", "a.h5"])
def test_the_content_tells_the_type(tmp_path, name):
    path = tmp_path / name
    for zipped in (True, False):
        torch_files.write(path, {"x.weight": A}, zipped)
        assert formats.read(path).kind == "torch"
        np.testing.assert_array_equal(only(formats.read(path)), A)
    save(path, {"x.weight": A})
    assert formats.read(path).kind == "torch"
    save(path, {"params/x/kernel": A}, {"format": formats.OURS, "network": "nin"})
    assert formats.read(path).kind == "ours"
    assert formats.recorded(path) == ("nin", None, None)
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"], group["0"] = "conv1", A
    assert formats.read(path).kind == "keras"


@pytest.mark.parametrize(
    "value",
    [
        {"state_dict": {"x.weight": A}},
        {"model": {"state_dict": {"x.weight": A}, "epoch": 1}},
        {"model_state": {"x.weight": A}, "optimizer": {"state": {0: {"m": B}}}},
        {"net": {"x.weight": A}, "acc": np.float64(0.5), "loss": np.float32(2)},
        {
            "model_state_dict": {"x.weight": A},
            "args": argparse.Namespace(rate=np.float64(1), path=pathlib.Path("/x")),
            "schedule": {"milestones": collections.Counter([3, 5])},
        },
        {"x.weight": A, "average": {"x.weight": B}},
    ],
)
def test_weights_are_found_where_training_scripts_save_them(tmp_path, value):
    contents = formats.read(torch_files.write(tmp_path / "a", value))
    np.testing.assert_array_equal(only(contents), A)
    assert not contents.notes


def test_beside_an_average_the_choice_is_said_and_can_be_made(tmp_path):
    value = {"state_dict_ema": {"x.weight": B}, "state_dict": {"x.weight": A}}
    path = torch_files.write(tmp_path / "a", value)
    for key, array, taken, other in (
        ("", A, "state_dict", "state_dict_ema"),
        ("state_dict_ema", B, "state_dict_ema", "state_dict"),
    ):
        contents = formats.read(path, key)
        np.testing.assert_array_equal(only(contents), array)
        assert contents.notes == (
            f"they are the file's {taken!r}; it also holds {other}, which "
            "config.init_key chooses",
        )
    with pytest.raises(
        WeightsError, match="init_key = 'emma'; it holds state_dict_ema"
    ):
        formats.read(path, "emma")
    path = torch_files.write(tmp_path / "b", {"model_ema": {"x.weight": B}})
    assert "they are the file's 'model_ema'" in formats.read(path).notes[0]
    several = {"student": {"x.weight": A}, "teacher": {"x.weight": B}}
    path = torch_files.write(tmp_path / "c", several)
    with pytest.raises(WeightsError, match="sets of weights, student, teacher: choose"):
        formats.read(path)
    np.testing.assert_array_equal(only(formats.read(path, "teacher")), B)


def test_a_key_may_be_a_prefix_of_names(tmp_path):
    path = save(tmp_path / "a", {"model.x.weight": A, "model_ema.x.weight": B})
    contents = formats.read(path, "model_ema")
    assert list(contents.arrays) == ["x.weight"]
    np.testing.assert_array_equal(only(contents), B)
    with pytest.raises(
        WeightsError, match="under .* 'ema'; its names begin with model"
    ):
        formats.read(path, "ema")


def test_a_prefix_reaches_into_a_file_of_several_parts(tmp_path):
    both = {"module.encoder_q.x.weight": A, "module.encoder_k.x.weight": B}
    for number, value in enumerate(
        ({"state_dict": both, "epoch": 1}, {"model": {"state_dict": both}})
    ):
        path = torch_files.write(tmp_path / str(number), value)
        for key, array in (("module.encoder_q", A), ("module.encoder_k", B)):
            contents = formats.read(path, key)
            assert list(contents.arrays) == ["x.weight"]
            np.testing.assert_array_equal(only(contents), array)
        with pytest.raises(WeightsError, match="'encoder_q'; it holds .* with module"):
            formats.read(path, "encoder_q")


def test_an_average_is_found_inside_what_its_class_saves(tmp_path):
    ema = {"module": {"x.weight": B}, "updates": 3}
    path = torch_files.write(tmp_path / "a", {"ema": ema})
    np.testing.assert_array_equal(only(formats.read(path)), B)
    path = torch_files.write(tmp_path / "b", {"ema": ema, "model": {"x.weight": A}})
    assert "it also holds ema" in formats.read(path).notes[0]
    np.testing.assert_array_equal(only(formats.read(path, "ema")), B)


class Log(list):
    """A list of its own class, as trainers keep for their losses."""


def test_what_lies_beside_the_weights_is_not_built(tmp_path):
    """One object for each way in which a pickle fills one."""
    executed = tmp_path / "executed"
    call, name = torch_files.Call, torch_files.Global
    beside = {
        "evil": call(exec, f"open({str(executed)!r}, 'w').close()"),
        "shell": call(name("os", "system"), f"touch {executed}"),
        "load": call(name("numpy", "load"), "x"),
        "method": call(call(getattr, "", "upper")),
        "schedule": functools.partial(print, end=""),
        "random": call(
            name("numpy.core.multiarray", "_reconstruct"),
            name("numpy", "ndarray"),
            (0,),
            b"b",
        ),
        "seen": {1, 2},
        "counts": collections.defaultdict(list, a=[1]),
        "log": Log([1, 2]),
        "last": collections.deque([1, 2]),
        "options": types.SimpleNamespace(a=1),
        "dtype": name("torch", "float16"),
        "phase": np.ones(2, np.complex64),
    }
    path = torch_files.write(tmp_path / "a", {"state_dict": {"x.weight": A}, **beside})
    contents = formats.read(path)
    np.testing.assert_array_equal(only(contents), A)
    assert "exec, os.system, " in contents.notes[0]
    assert not executed.exists()
    path = torch_files.write(tmp_path / "b", beside | {"phase": None}, zipped=False)
    with pytest.raises(WeightsError, match="exec, os.system.* not read here; a whole"):
        formats.read(path)
    assert not executed.exists()
    for zipped, message in ((True, "has x.weight in a type"), (False, "ComplexFloatS")):
        path = torch_files.write(tmp_path / "c", {"x.weight": beside["phase"]}, zipped)
        with pytest.raises(WeightsError, match=message):
            formats.read(path)


def test_a_pickle_does_not_change_what_reads_it(tmp_path):
    """BUILD may set attributes of a class, which the next file would be read by."""
    rebuild = torch_files.Global("torch._utils", "_rebuild_tensor_v2")
    for number, changed in enumerate((rebuild, torch_files.Global("x", "y"))):
        content = io.BytesIO()
        pickler = torch_files._Pickler(content)
        pickler.save(changed)
        pickler.save((None, {"array": 1, "add": 1}))
        pickler.write(b"b.")  # BUILD, STOP
        path = tmp_path / str(number)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", content.getvalue())
        with pytest.raises(WeightsError, match="holds no tensors by name"):
            formats.read(path)
    assert callable(formats._Tensor.array) and callable(formats._Ignored.add)


def test_another_zip_is_named_as_such(tmp_path):
    np.savez(tmp_path / "a.npz", x=A)
    with pytest.raises(WeightsError, match="a.npz is a zip of x.npy, neither torch's"):
        formats.read(tmp_path / "a.npz")


def test_float8_is_read_as_such(tmp_path):
    """So that the arrays can be named where they are refused."""
    array = np.ones(3, ml_dtypes.float8_e4m3fn)
    contents = formats.read(torch_files.write(tmp_path / "a", {"x.weight": array}))
    assert only(contents).dtype == array.dtype
    with pytest.raises(
        WeightsError, match="has x.weight as F8_E4M3: quantised weights"
    ):
        formats.read(save(tmp_path / "b", {"x.weight": array, "y.weight": A}))


@pytest.fixture
def sharded(tmp_path):
    """An index of two files."""
    save(tmp_path / "m-1.safetensors", {"x.weight": A})
    save(tmp_path / "m-2.safetensors", {"y.weight": B})
    where = {"x.weight": "m-1.safetensors", "y.weight": "m-2.safetensors"}
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": where}))
    return path


def test_shards_are_read_by_their_index(sharded):
    contents = formats.read(sharded)
    assert contents.kind == "torch"
    np.testing.assert_array_equal(contents.arrays["x.weight"], A)
    np.testing.assert_array_equal(contents.arrays["y.weight"], B)


def test_shards_must_be_those_of_the_index(sharded):
    shard = sharded.with_name("m-2.safetensors")
    save(shard, {"z.weight": B})
    with pytest.raises(WeightsError, match="m-2.* differ in .*[yz].weight"):
        formats.read(sharded)
    shard.unlink()
    with pytest.raises(WeightsError, match="cannot be read: .*m-2"):
        formats.read(sharded)
    sharded.write_text(json.dumps({"weight_map": {"x": "../m-1.safetensors"}}))
    with pytest.raises(WeightsError, match="'../m-1.safetensors' is no name of a file"):
        formats.read(sharded)
    sharded.write_text("{}")
    with pytest.raises(WeightsError, match="damaged or no index .*weight_map"):
        formats.read(sharded)


def test_a_changed_bit_in_our_file_is_noticed(tmp_path):
    path = save(tmp_path / "a", {"x": A, "n": np.array(3)})
    assert formats.read(path).arrays["n"].shape == ()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged .*not those that were written"):
        formats.read(path)


def test_without_a_checksum_none_is_computed(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(safetensors.numpy.save({"x.weight": A}))
    monkeypatch.delattr(formats, "_checksum")
    np.testing.assert_array_equal(only(formats.read(path)), A)
