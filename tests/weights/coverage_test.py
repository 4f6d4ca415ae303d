"""The command that tries every export on every network."""

import sys

import pytest

from weights import coverage


def test_a_pattern_that_matches_nothing_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(coverage, "_try", lambda row, form: form)
    for patterns, wrong in ((["resnet18", "resent*"], "resent*"), (["vgg"], "vgg")):
        monkeypatch.setattr(sys, "argv", ["coverage", *patterns])
        with pytest.raises(SystemExit) as end:
            coverage.main()
        said = capsys.readouterr()
        assert end.value.code == 2 and not said.out
        assert f"no network matches '{wrong}'" in said.err
