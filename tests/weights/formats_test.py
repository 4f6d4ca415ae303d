"""Files of weights: their types, the sets in them, shards and checksums."""

import argparse
import collections
import json
import pathlib

import h5py
import ml_dtypes
import numpy as np
import pytest
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
    assert (formats.read(path).kind, formats.recorded_network(path)) == ("ours", "nin")
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


@pytest.mark.parametrize("module, name", [("os", "system"), ("numpy", "load")])
def test_what_is_no_part_of_a_state_dict_is_refused(tmp_path, module, name):
    """Even where only a scalar is expected."""
    call = torch_files.Call(torch_files.Global(module, name), "x")
    path = torch_files.write(tmp_path / "a", {"state_dict": {"x": A}, "acc": call})
    with pytest.raises(WeightsError, match=rf"{module}\.{name}, which is no part of a"):
        formats.read(path)


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
