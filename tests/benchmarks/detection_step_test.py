"""The benchmark of a detector's step and test runs whole, in miniature."""

import sys

import pytest

from benchmarks import detection_step, side_by_side

PARTS = ["trunk", "proposals", "pooling", "pooling and conv5"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inference", "whole"), [(False, "step"), (True, "detections")]
)
def test_the_parts_are_timed(inference, whole):
    fields = {"features": 8, "rpn_channels": 8, "pool_size": 4, "min_size": 1.0}
    fields |= {"post_nms": (40, 20)}
    row = detection_step.Row(18, (2, 32, 48, 3), 4, fields)
    found = detection_step.measure(row, rounds=1, inference=inference)
    assert list(found) == [*PARTS, whole]
    for here, theirs, scratch in found.values():
        assert here > 0 and (theirs is None or theirs > 0) and scratch > 0


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize("when", ["made", "called"])
def test_a_pytorch_without_memory_leaves_our_times(when, monkeypatch, capsys):
    def fail():
        raise OutOfMemoryError("CUDA out of memory")

    def make(*_):
        return {"trunk": fail} if when == "called" else fail()

    monkeypatch.setattr(detection_step, "make_torch_parts", make)
    row = detection_step.ROWS["photograph"]
    assert detection_step.torch_parts(row, "gpu", False) == {}
    assert "no PyTorch, which lacks memory: CUDA" in capsys.readouterr().err


def test_a_gpu_is_shared_with_pytorch(monkeypatch, capsys):
    environment = {}
    monkeypatch.setattr(side_by_side.os, "environ", environment)
    monkeypatch.setattr(sys, "argv", ["detection_step", "--device=gpu"])
    with pytest.raises(SystemExit):  # there is no GPU
        detection_step.main()
    assert environment == {"XLA_CLIENT_MEM_FRACTION": "0.45"}
    assert "--device=gpu: JAX finds none" in capsys.readouterr().err
