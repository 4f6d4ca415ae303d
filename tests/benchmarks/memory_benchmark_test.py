"""The search of benchmarks.memory for the largest batch within a budget."""

import pytest

from benchmarks import memory


@pytest.mark.parametrize("most", [0, 1, 5, 8, 31, 32, 33, 100])
def test_the_largest_batch_that_fits(most):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= most

    assert memory.largest(fits, 8) == most
    # At most 8 to 128 by doubling, and 64 to 128 by halving.
    assert len(set(tried)) == len(tried) <= 5 + 6


def test_the_rows_of_a_budget(monkeypatch, capsys):
    """PyTorch's steps are measured one by one; ours come from one child each."""

    def child(network, contestant, batch, size, *flags):
        if contestant == "torch":
            return {"peak": batch * 2**20}
        assert flags == ("--fits=20MiB",)
        row = {"batch": 30, "bytes": 19 * 2**20, "stages": [], "slowdown": 0}
        chosen = {"stages": ["conv2", "conv3"], "slowdown": 0.217}
        return row | (chosen if contestant == "auto" else {})

    monkeypatch.setattr(memory, "child", child)
    memory.main(["--networks=resnet20", "--size=32", "--batch=4", "--fits=20MiB"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [
        "resnet20 torch 20 20 MiB".split(),
        "resnet20 ours 30 19 MiB".split(),
        "resnet20 auto 30 19 MiB conv2, conv3, 22 % more".split(),
    ]
