"""Training curves: reading them from runs, and drawing the files."""

import json

import pytest
import runs
from PIL import Image

from analysis import curves
from experiment import configuration, workdir


def make_run(path, lines, tail=""):
    path.mkdir(parents=True)
    (path / "config.json").write_text(configuration.to_json(runs.small_config()))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text + tail)
    return str(path)


LINES = [
    {"step": 5, "progress/epoch": 0.5, "train/loss": 2.0, "train/error": 60.0},
    {"step": 10, "progress/epoch": 1.0, "train/loss": 1.0, "train/error": 30.0},
    {"step": 10, "eval/loss": 0.9, "eval/error": 20.0, "eval/top5_error": 1.0},
    {"step": 30, "eval/loss": 0.5, "eval/error": 10.0, "eval/top5_error": 0.0},
]


def test_curves_by_epoch_without_the_line_that_was_cut(tmp_path):
    path = make_run(tmp_path / "a", LINES, tail='{"step": 35, "eval/lo')
    assert curves.read(workdir.Workdir(path)) == {
        "train/loss": ([0.5, 1.0], [2.0, 1.0]),
        "train/error": ([0.5, 1.0], [60.0, 30.0]),
        "eval/loss": ([1.0, 3.0], [0.9, 0.5]),
        "eval/error": ([1.0, 3.0], [20.0, 10.0]),
    }


def test_the_images_of_each_report(tmp_path):
    lines = [line | {"progress/images": 320} for line in LINES[:2]]
    path = make_run(tmp_path / "a", [*lines, *LINES[2:]])
    found = curves.read(workdir.Workdir(path))
    assert found["progress/images"] == ([0.5, 1.0], [320, 320])


def test_one_figure_of_several_runs_as_png_and_svg(tmp_path):
    paths = [make_run(tmp_path / str(n), LINES) for n in range(9)]
    said = str(curves.plot_runs(paths, str(tmp_path / "all.png")))
    assert f"{tmp_path}/all.png and {tmp_path}/all.svg" in said
    with Image.open(tmp_path / "all.png") as image:
        assert image.width > 1000
    first = (tmp_path / "all.svg").read_text()
    assert first.startswith("<?xml") and "</svg>" in first
    curves.plot_runs(paths, str(tmp_path / "again"))
    assert (tmp_path / "again.svg").read_text() == first
    curves.plot_runs(paths[:1])
    assert (tmp_path / "0" / "curves.png").exists()


@pytest.mark.parametrize("loss", ["inf", "nan"])
def test_an_error_of_zero_and_a_loss_that_is_not_finite_can_be_drawn(
    tmp_path, monkeypatch, loss
):
    lines = [*LINES, {"step": 40, "eval/loss": float(loss), "eval/error": 0.0}]
    logarithmic, found = curves.logarithmic, []

    def noted(axis, span):
        found.append((axis.get_ylabel(), span))
        logarithmic(axis, span)

    monkeypatch.setattr(curves, "logarithmic", noted)
    curves.plot_runs([make_run(tmp_path / "a", lines)])
    assert found == [("loss", 2.0 / 0.5)]  # such an axis has no zero
    assert (tmp_path / "a" / "curves.png").exists()


def test_detectors_have_their_map_drawn_and_others_their_error(tmp_path, monkeypatch):
    def lines(step, mean):
        return {"step": step, "eval/error": 100 - mean, "eval/mAP": mean}

    start = {"step": 10, "progress/epoch": 1.0, "train/loss": 2.0}
    detector = make_run(tmp_path / "a", [start, lines(10, 20.0), lines(20, 35.0)])
    classifier = make_run(tmp_path / "b", LINES)
    drawn = []
    monkeypatch.setattr(
        curves, "_save", lambda figure, files: drawn.append(figure.axes[1])
    )
    for paths in ([detector], [detector, classifier], [classifier]):
        curves.plot_runs(paths)
    alone, both, other = drawn
    assert alone.get_ylabel() == "mAP, per cent" and alone.get_yscale() == "linear"
    (line,) = alone.lines
    assert [*line.get_xdata(), *line.get_ydata()] == [1.0, 2.0, 20.0, 35.0]
    assert both.get_ylabel() == other.get_ylabel() == "error, per cent"
    assert [*both.lines[0].get_ydata()] == [80.0, 65.0]


def test_runs_of_one_name_are_told_apart_by_the_tails_of_their_paths():
    assert curves._names(["x/a", "y/b/"]) == ["a", "b"]
    assert curves._names(["/r/x/a", "/r/y/a", "/r/b"]) == ["x/a", "y/a", "b"]
    assert curves._names(["/r/x/z/a", "/s/x/z/a"]) == ["r/x/z/a", "s/x/z/a"]
    assert curves._names(["/r/a", "/r/b/../a"]) == ["a", "a"]  # one run
    assert curves._names(["/a", "/a/a"]) == ["/a", "a/a"]


def test_long_names_are_cut_where_they_do_not_differ():
    (name,) = curves._names(["x" * 30 + "y" * 30])
    assert name == "x" * 19 + "…" + "y" * 20
    for names in (
        [30 * "x" + "1" + 30 * "y", 30 * "x" + "2" + 30 * "y"],
        ["x" + "1" + 60 * "y", "x" + "2" + 60 * "y", "short"],
        [60 * "x" + "1" + "y", 60 * "x" + "2" + "y"],
    ):
        found = curves._names(names)
        assert len(set(found)) == len(names)
        assert all(len(name) <= 40 for name in found)
    # Neither the first 40 letters nor the last tell these apart.
    names = [60 * "x" + digit + 60 * "y" for digit in "12"]
    assert len(set(curves._names(names))) == 2


def test_the_legend_is_below_the_panels_which_keep_their_width(tmp_path, monkeypatch):
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "close", lambda figure: None)  # kept to be measured
    paths = [make_run(tmp_path / f"{n}-{'W' * 80}", LINES) for n in range(9)]
    paths.append(make_run(tmp_path / "_$x_$", LINES))
    curves.plot_runs(paths)
    figure = pyplot.gcf()
    monkeypatch.undo()
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == 12 and "_$x_$" in texts
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0
    panels = [axis.get_tightbbox() for axis in figure.axes]
    assert all(box.y1 <= panel.y0 for panel in panels)
    assert sum(panel.width for panel in panels) > 0.9 * figure.bbox.width
    assert all(axis.bbox.height > 0.5 * axis.bbox.width for axis in figure.axes)
    pyplot.close(figure)


def test_errors_name_the_directory(tmp_path):
    good = make_run(tmp_path / "good", LINES)
    for path, match in (
        (tmp_path / "none", "none holds no run"),
        (make_run(tmp_path / "empty", []), r"empty/metrics\.jsonl holds no report"),
        (make_run(tmp_path / "eval", LINES[2:]), "every_steps"),
    ):
        with pytest.raises(workdir.WorkdirError, match=match):
            curves.plot_runs([good, str(path)])
    with pytest.raises(workdir.WorkdirError, match=r"x\.pdf.*\.png or \.svg"):
        curves.plot_runs([good], str(tmp_path / "x.pdf"))
    with pytest.raises(workdir.WorkdirError, match=r"missing/x\.png: No such file"):
        curves.plot_runs([good], str(tmp_path / "missing" / "x"))


def test_the_command(tmp_path):
    paths = [make_run(tmp_path / n, LINES) for n in "ab"]
    command = ["--mode=plot", f"--workdir={','.join(paths)}"]
    result = runs.call_main([*command, f"--output={tmp_path}/curves"])
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "curves.svg").exists()
    result = runs.call_main(["--mode=plot", f"--workdir={tmp_path}"])
    assert result.returncode == 1
    assert f"error: --workdir={tmp_path} holds no run" in result.stderr
