"""Figures of sweeps: which files there are, and what they show."""

import itertools
import math
import re

import pytest
from PIL import Image

from errors import UserError
from experiment import workdir
from sweep import axes, by_epoch, by_field, figures, parallel
from sweep.table import Row

RATE, MOMENTUM = "optimizer.learning_rate", "optimizer.kwargs.momentum"


def rows_of(states=(), **fields):
    """A row per combination; the first ones have the `states`, the others are done."""
    names = {"rate": RATE, "momentum": MOMENTUM}
    fields = {names.get(name, name): values for name, values in fields.items()}
    rows = []
    for number, values in enumerate(itertools.product(*fields.values())):
        state = states[number] if number < len(states) else "done"
        result = {
            "step": 90,
            "split": "test",
            "score": "error",
            "error": 2 + number % 5,
        }
        result = {"done": result, "diverged": {"step": 3, "diverged": True}}.get(state)
        name = f"run{number}"
        rows.append(Row(name, dict(zip(fields, values, strict=True)), state, result))
    return rows


def curves_of(name):
    """Two epochs, whose error and loss depend on the run."""
    number = int(name.removeprefix("run"))
    return {
        "train/loss": ([0.5, 1.0, 2.0], [2.0, 1.0, 0.5 + number / 100]),
        "train/error": ([0.5, 1.0, 2.0], [60.0, 30.0, 9.0]),
        "eval/error": ([1.0, 2.0], [20.0 + number, 2.0 + number % 5]),
        "eval/loss": ([1.0, 2.0], [0.9, 0.5]),
    }


def texts(path):
    """The texts of an SVG, which matplotlib keeps as comments beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_three_figures_as_png_and_svg_always_the_same(tmp_path):
    rows = rows_of(
        ["diverged"], rate=[0.01, 0.1, 1.0], momentum=[0.8, 0.9], seed=[0, 1]
    )
    said = str(figures.plot("lenet5", rows, curves_of, tmp_path / "all.png"))
    names = ["all", "all-curves", "all-parallel"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    )
    assert said.splitlines() == [
        "lenet5, 12 runs: 11 done, 1 diverged",
        f"test error, per cent by learning_rate, momentum: {tmp_path}/all.png and "
        f"{tmp_path}/all.svg",
        f"curves by epoch (runs: 12): {tmp_path}/all-curves.png and "
        f"{tmp_path}/all-curves.svg",
        f"all fields at once: {tmp_path}/all-parallel.png and "
        f"{tmp_path}/all-parallel.svg",
    ]
    figures.plot("lenet5", rows, curves_of, str(tmp_path / "again"))
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 700 and image.height > 400
        again = name.replace("all", "again", 1)
        assert (tmp_path / f"{name}.svg").read_bytes() == (
            tmp_path / f"{again}.svg"
        ).read_bytes()
    title = "lenet5, 12 runs: 11 done, 1 diverged"
    shown = texts(tmp_path / "all.svg")
    assert {title, "learning_rate", "momentum", "test error, per cent"} <= {*shown}
    assert {"a run", "mean over seeds with its 95 % interval"} <= {*shown}
    assert "diverged, without a metric" in shown
    assert {"0.01", "0.1", "1", "0.8", "0.9"} <= {*shown}
    shown = texts(tmp_path / "all-curves.svg")
    assert {title, "epoch", "test error, per cent", "training loss"} <= {*shown}
    assert "learning_rate=0.1, momentum=0.9" in shown
    assert "from the lowest to the highest seed" in shown
    shown = texts(tmp_path / "all-parallel.svg")
    assert {title, "learning_rate", "momentum", "0.01", "0.8"} <= {*shown}


def test_one_field_has_no_lines_through_several(tmp_path):
    rows = rows_of(rate=[0.1, 0.2, 0.3], seed=[0, 1, 2])
    plot = figures.plot("one field", rows, curves_of, tmp_path / "x")
    assert len(plot.drawn) == 2 and not (tmp_path / "x-parallel.svg").exists()
    # Only the seed varies.
    plot = figures.plot("seeds", rows_of(seed=[0, 1, 2]), curves_of, tmp_path / "y")
    assert "3 seeds" in texts(tmp_path / "y.svg") and "by seed" in str(plot)


def test_one_run_has_curves(tmp_path):
    plot = figures.plot("one run", rows_of(rate=[0.1]), curves_of, tmp_path / "x")
    assert list(plot.drawn) == ["curves by epoch (runs: 1)"]
    assert "one run" in texts(tmp_path / "x-curves.svg")


def test_runs_without_results(tmp_path):
    states = "waiting queued running failed stopped diverged cut".split()
    asked = []

    def read(name):
        asked.append(name)
        if name in ("run1", "run3"):
            raise workdir.WorkdirError(f"{name} holds no report")
        return curves_of(name)

    rows = rows_of(states, rate=[0.1, 0.2, 0.3], network=["a", "b", "c"])
    plot = figures.plot("started", rows, read, tmp_path / "x")
    assert asked == [f"run{n}" for n in range(1, 9)]  # also one that is queued
    assert str(plot).endswith("runs that have begun but have no curves: 1")
    assert len(plot.drawn) == 3
    running = rows_of(["running"] * 2, rate=[0.1, 0.2])
    plot = figures.plot("running", running, curves_of, tmp_path / "y")
    assert list(plot.drawn) == ["curves by epoch (runs: 2)"]
    again = rows_of(["queued"] * 2, rate=[0.1, 0.2])  # which have begun before
    plot = figures.plot("again", again, curves_of, tmp_path / "w")
    assert list(plot.drawn) == ["curves by epoch (runs: 2)"]
    diverged = rows_of(["diverged"] * 4, rate=[0.1, 0.2], momentum=[0.8, 0.9])
    loss = {"train/loss": ([0.5, 1.0, 1.5], [2.0, 1e12, math.inf])}
    plot = figures.plot("bad", diverged, lambda name: loss, tmp_path / "z")
    assert len(plot.drawn) == 3
    assert "nothing yet" in texts(tmp_path / "z-curves.svg")  # no evaluation
    assert "diverged" in texts(tmp_path / "z-parallel.svg")


def test_errors_name_the_sweep_or_the_file(tmp_path):
    waiting = rows_of(["waiting"] * 2, rate=[0.1, 0.2])
    with pytest.raises(
        UserError, match="lenet5, 2 runs: 2 waiting: no run has a result"
    ):
        figures.plot("lenet5", waiting, curves_of, tmp_path / "x")
    rows = rows_of(rate=[0.1, 0.2])
    with pytest.raises(workdir.WorkdirError, match=r"x\.pdf: the suffix is .png or"):
        figures.plot("lenet5", rows, curves_of, tmp_path / "x.pdf")
    with pytest.raises(workdir.WorkdirError, match=r"none/x\.png: No such file"):
        figures.plot("lenet5", rows, curves_of, tmp_path / "none" / "x")
    assert not any(tmp_path.iterdir())


def test_curves_are_averaged_over_the_finished_seeds():
    rows = rows_of(["done", "done", "running"], seed=[0, 1, 2])
    (group,) = axes.Results("test", tuple(rows)).groups
    found = {
        "run0": {"eval/error": ([1.0, 2.0], [10.0, 5.0])},
        "run1": {"eval/error": ([1.0000000001, 2.0, 3.0], [20.0, 9.0, 4.0])},
        "run2": {"eval/error": ([1.0], [90.0])},
    }
    epochs, means, low, high = by_epoch.averaged(group, found, "eval/error")
    assert (epochs, means) == ([1.0, 2.0, 3.0], [15.0, 7.0, 4.0])
    assert (low, high) == ([10.0, 5.0, 4.0], [20.0, 9.0, 4.0])
    assert by_epoch.averaged(group, found, "train/loss") == ([], [], [], [])
    none = axes.Results("test", (rows[2],)).groups[0]
    assert by_epoch.averaged(none, found, "eval/error")[1] == [90.0]


@pytest.fixture
def drawn(monkeypatch):
    """A function from a view and rows to the figure, kept to be measured."""
    from matplotlib import pyplot

    close, kept = pyplot.close, []
    monkeypatch.setattr(pyplot, "close", lambda figure: None)

    def draw(view, rows):
        view(axes.Results("test", tuple(rows)), [])
        kept.append(pyplot.gcf())
        kept[-1].canvas.draw()
        return kept[-1]

    yield draw
    for figure in kept:
        close(figure)


def test_a_panel_shows_runs_means_and_intervals(drawn):
    values = {0.01: [3.0, 4.0, 5.0], 0.1: [1.0, 2.0, 3.0], 1.0: [2.5, None, None]}
    rows = [
        Row(f"{rate},{seed}", {RATE: rate, "seed": seed}, state, result)
        for rate, errors in values.items()
        for seed, error in enumerate(errors)
        for state in [("done" if error else "diverged")]
        for result in [{"error": error} if error else {"step": 3}]
    ]
    (axis,) = drawn(by_field.draw, rows).axes
    assert axis.get_xscale() == "log"
    runs, means, *_ = (line for line in axis.lines if len(line.get_xdata()) > 2)
    assert sorted(runs.get_ydata()) == [1.0, 2.0, 2.5, 3.0, 3.0, 4.0, 5.0]
    assert list(means.get_xdata()) == [0.01, 0.1, 1.0]
    assert list(means.get_ydata()) == [4.0, 2.0, 2.5]
    (bars,) = axis.collections
    low, high = bars.get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(2.484138, rel=1e-6)  # table_test.py
    (bad,) = (line for line in axis.lines if line.get_marker() == "x")
    assert (list(bad.get_xdata()), list(bad.get_ydata())) == ([1.0], [0.96])
    assert [text.get_text() for text in axis.texts] == ["2"]  # diverged there


def test_labels_do_not_lie_on_one_another(drawn):
    names = [f"a_network_with_a_long_name_of_version_{n}" for n in (1, 2, 3)]
    rows = rows_of(**{"model.name": names, "dataset.name": ["photographs" * 5, "b"]})
    figure = drawn(by_field.draw, rows)
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.get_xticklabels()]
        assert all(figure.bbox.x0 <= box.x0 for box in boxes)
        above = axis.get_legend().get_window_extent()
        assert axis.bbox.y1 <= above.y0 + 1 and above.x1 <= figure.bbox.x1
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= min(
        axis.xaxis.label.get_window_extent().y0 for axis in figure.axes
    )


def test_each_combination_is_a_line_through_all_fields(drawn):
    rows = rows_of(["diverged"], rate=[0.01, 0.1], momentum=[0.8, 0.9], seed=[0])
    (axis,) = drawn(parallel.draw, rows).axes
    lines = [line.get_ydata() for line in axis.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 4
    # The best is on top, drawn last; its metric is at the foot of the last axis.
    assert [line[-1] for line in lines] == [1.1, 1.0, 0.5, 0.0]
    rate, momentum, _ = lines[-1]  # of run 1: 0.01 and 0.9
    assert abs(rate - 0) < 0.03 and abs(momentum - 1) < 0.03  # apart from the others
