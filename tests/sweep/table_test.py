"""The results of sweeps as text and CSV, and statistics over seeds."""

import csv
import json
import math

import pytest

from experiment import workdir
from sweep import table
from sweep.table import Row


def done(name, error, values, **more):
    result = {"step": 938, "split": "test", "size": 10000, "score": "error"}
    result |= {"error": error, "errors": 150, "count": 10000}
    return Row(name, values, "done", result | {"loss": error / 30} | more)


def rows_of(errors, field="optimizer.learning_rate"):
    """Rows of {value: errors of its seeds}."""
    return [
        done(f"{field}={value},seed={seed}", error, {field: value, "seed": seed})
        for value, of_seeds in errors.items()
        for seed, error in enumerate(of_seeds)
    ]


def test_the_spread_of_seeds():
    spread = table.Spread.of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.deviation) == (2.0, 1.0)
    # The 97.5 % quantile of Student's t with 2 degrees of freedom is
    # 0.95 * sqrt(2 / (1 - 0.95^2)) = 4.302653.
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))
    assert spread.half == pytest.approx(quantile / math.sqrt(3), rel=1e-9)
    assert spread.interval == pytest.approx((2 - 2.484138, 2 + 2.484138), rel=1e-6)
    # With 1 degree it is tan(0.475 pi) = 12.7062, of the Cauchy distribution.
    two = table.Spread.of([1.0, 2.0])
    assert two.deviation == pytest.approx(math.sqrt(0.5))
    assert two.half == pytest.approx(math.tan(0.475 * math.pi) / 2, rel=1e-9)
    one = table.Spread.of([1.5])
    assert (one.mean, one.deviation, one.interval) == (1.5, None, None)


def test_a_line_per_run_the_best_first_and_those_without_a_result_last():
    waiting = Row("w", {"optimizer.learning_rate": 3.0}, "waiting")
    failed = Row("f", {"optimizer.learning_rate": 2.0}, "failed", None, "killed")
    bad = Row("d", {"optimizer.learning_rate": 1e30}, "diverged", {"step": 17})
    running = Row("r", {"optimizer.learning_rate": 5.0}, "running", None, "at step 300")
    middle = done("m", 2.0, {"optimizer.learning_rate": 0.03})
    best = done("b", 1.5, {"optimizer.learning_rate": 0.1})
    nan = done("n", math.nan, {"optimizer.learning_rate": 7.0})
    text = table.text([waiting, middle, failed, best, nan, bad, running])
    assert text.splitlines() == [
        "learning_rate  result",
        "0.1            test error 1.50 % (150 errors, 10000/10000 images counted) "
        "after step 938",
        "0.03           test error 2.00 % (150 errors, 10000/10000 images counted) "
        "after step 938",
        "3              waiting",
        "2              failed: killed",
        "7              test error nan % (150 errors, 10000/10000 images counted) "
        "after step 938",
        "1e+30          diverged at step 17",
        "5              running at step 300",
    ]
    assert table.ranked([bad, middle, best]) == [best, middle, bad]


def test_another_metric_may_count():
    results = [
        {"split": "val", "step": 7, "size": 5, "score": "distance", "distance": value}
        for value in (12.345678, 0.5)
    ]
    rows = [Row(str(n), {"a": n}, "done", r) for n, r in enumerate(results)]
    assert table.text(rows).splitlines()[1:] == [
        "1  val distance 0.5 after step 7",
        "0  val distance 12.35 after step 7",
    ]
    old = {"text": "test error 3.00 %", "error": 3.0}
    row = Row("x", {}, "done", old)
    assert (row.score, row.value, row.outcome()) == ("error", 3.0, old["text"])
    assert table.text([row]).splitlines() == ["run  result", "x    test error 3.00 %"]


def test_a_table_of_the_means_over_seeds():
    rows = rows_of({0.3: [4.0, 4.2, 4.1], 0.1: [1.0, 2.0, 3.0], 0.03: [2.5]})
    values = {"optimizer.learning_rate": 0.1, "seed": 3}
    rows.append(Row("d", values, "diverged", {"step": 3, "diverged": True}))
    rows.append(Row("w", values | {"seed": 4}, "waiting"))
    means = table.text(rows).split("\n\n")[1].splitlines()
    assert [line.split("  ") for line in _spaces(means)] == [
        "learning_rate  error, mean +- deviation  95 % interval  seeds  diverged  "
        "missing".split("  "),
        ["0.1", "2.00 +- 1.00 %", "-0.48 to 4.48 %", "3", "1", "1"],
        ["0.03", "2.50 %", "1", "0", "0"],  # one seed has an empty interval
        ["0.3", "4.10 +- 0.10 %", "3.85 to 4.35 %", "3", "0", "0"],
        ["One of the two best has a single seed, which tells nothing of chance."],
    ]
    assert means[2][: len(means[0])].count(" " * 20) == 1


def _spaces(lines):
    """Lines whose columns are two spaces apart, without empty cells."""
    return ["  ".join(filter(None, map(str.strip, x.split("  ")))) for x in lines]


def test_seeds_that_do_not_tell_the_two_best_apart():
    def said(errors):
        line = table.text(rows_of(errors)).splitlines()[-1]
        return line if "two best" in line else ""

    # Differences 2, 0.5 and 0.5 have the mean 1 and the deviation 0.866025; 4.302653
    # (see above) times that, by the root of 3, is 2.151326.
    assert said({0.1: [1.0, 2.0, 3.0], 0.3: [3.0, 2.5, 3.5]}) == (
        "These seeds do not tell the two best apart: seed by seed, the 95 % interval "
        "of their difference is -1.15 to 3.15 %."
    )
    # The intervals overlap, but what they have in common is the seeds'.
    assert said({0.1: [1.0, 2.0, 3.0], 0.3: [1.4, 2.5, 3.6]}) == ""
    same = {0.1: [1.0, 2.0], 0.3: [1.0, 2.0]}
    assert said(same).endswith("difference is 0.00 to 0.00 %.")
    others = {0.1: [1.0, 2.0, 3.0], 0.3: [3.0, 4.0]}
    assert said(others) == "The intervals of the two best overlap."
    assert said({0.1: [1.0, 1.1, 0.9], 0.3: [3.0, 3.1]}) == ""
    apart = {0.1: [1.0, 1.1, 0.9], 0.3: [3.0, 3.1, 2.9], 1.0: [3.0, 3.2, 2.9]}
    assert said(apart) == ""  # the second and third overlap
    for one in ({0.1: [1.0], 0.3: [3.0, 3.1]}, {0.1: [1.0, 1.1], 0.3: [3.0]}):
        assert said(one).startswith("One of the two best has a single seed")
    # Without several seeds there is no second table.
    assert "mean" not in table.text(rows_of({0.1: [1.0], 0.3: [3.0]}))


def test_ambiguous_names_are_given_in_full():
    names = ["optimizer.name", "model.name", "optimizer.learning_rate", "seed"]
    assert list(table.short_names(names).values()) == [
        "optimizer.name",
        "model.name",
        "learning_rate",
        "seed",
    ]
    rows = [
        done("a", 1.0, {"optimizer.name": "sgd", "model.name": "lenet5"}),
        done("b", 2.0, {"optimizer.name": "adam", "model.name": "nin"}),
    ]
    head, *lines = table.text(rows).splitlines()
    assert head.split() == ["optimizer.name", "model.name", "result"]
    assert [line.split()[:2] for line in lines] == [["sgd", "lenet5"], ["adam", "nin"]]


def test_an_absent_field_is_an_empty_cell_and_a_constant_one_has_no_column():
    rows = [
        done("a", 1.0, {"optimizer.name": "sgd", "momentum": 0.9, "batch_size": 64}),
        done("b", 2.0, {"optimizer.name": "adam", "batch_size": 64}),
    ]
    head, sgd, adam, same = table.text(rows).splitlines()
    assert head.split() == ["name", "momentum", "result"]
    assert sgd.startswith("sgd   0.9       test error")
    assert adam.startswith("adam            test error")
    assert same == "all runs: batch_size=64"
    assert table.varied(rows) == ["optimizer.name", "momentum"]


def test_values_that_differ_look_different():
    assert table.texts([0.1, 1e-05, 10.0, 3]) == ["0.1", "1e-05", "10", "3"]
    assert table.texts([0.1234567, 0.12345678]) == ["0.1234567", "0.12345678"]
    assert table.texts([True, None, "", "None", [30, 60], {"a": 1}]) == [
        "true",
        "null",
        '""',
        "None",
        "[30, 60]",
        '{"a": 1}',
    ]
    assert table.texts([(30, 60), 12345678]) == ["[30, 60]", "12345678"]


def test_counts():
    states = ["waiting", "failed", "done", "done", "running"]
    rows = [Row(str(n), {}, state) for n, state in enumerate(states)]
    assert table.counts(rows) == "5 runs: 2 done, 1 running, 1 failed, 1 waiting"
    assert table.counts(rows[2:3]) == "1 run: 1 done"
    assert table.counts([]) == "0 runs"


def test_of_a_thousand_runs_the_best_are_shown_and_the_others_counted():
    rows = [
        done(str(n), 1 + n * 7 % 990 / 100, {"x": n, "seed": 0}) for n in range(990)
    ]
    rows += [Row(str(n), {"x": n, "seed": 0}, "waiting") for n in range(990, 1000)]
    lines = table.text(rows).splitlines()
    assert len(lines) == 1 + 20 + 3
    assert lines[1].startswith("0  ") and "error 1.00 %" in lines[1]
    errors = [float(line.split(" error ")[1].split()[0]) for line in lines[1:21]]
    assert errors == sorted(errors) == [round(1 + n / 100, 2) for n in range(20)]
    assert lines[21:] == [
        "all runs: seed=0",
        "and 980 more runs: 970 done, 10 waiting",
        "results.csv has all",
    ]
    seeds = [
        done(f"{row.name}-1", (row.value or 90) / 2 + 0.7, row.values | {"seed": 1})
        for row in rows
    ]
    means = table.text(rows + seeds).split("\n\n")[1].splitlines()
    assert len(means) == 1 + 20 + 2
    assert means[21] == "and 980 more combinations"
    assert "do not tell the two best apart" in means[22]
    assert len(table.text(rows, every=True).splitlines()) == 1 + 1000 + 1


def test_the_csv_file_reads_back(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("older")
    values = {"optimizer.learning_rate": 0.1, "stages": (30, 60), "augment.flip": True}
    rows = [
        done("b", 2.5, values | {"seed": 2**40}, top5_error=0.5),
        done("a,1", 1.0, {"optimizer.name": 'a "name"', "seed": 1}),
        Row("c", {"seed": 2, "stages": None}, "failed", None, "no memory, “é” \udcff"),
        Row("d", {"seed": 3}, "diverged", {"step": 17, "diverged": True}),
    ]
    table.write_csv(path, rows)
    with open(path, newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert (
        list(found[0])
        == (
            "run state optimizer.learning_rate stages augment.flip seed optimizer.name "
            "step split size error errors count loss top5_error note"
        ).split()
    )
    assert [row["run"] for row in found] == ["b", "a,1", "c", "d"]
    first, second, failed, bad = found
    assert float(first["optimizer.learning_rate"]) == 0.1
    assert json.loads(first["stages"]) == [30, 60]
    assert (first["augment.flip"], first["seed"]) == ("true", str(2**40))
    assert float(first["loss"]) == 2.5 / 30  # to the last bit
    assert (first["step"], first["split"], first["size"]) == ("938", "test", "10000")
    assert (first["note"], second["top5_error"], second["stages"]) == ("", "", "")
    assert second["optimizer.name"] == 'a "name"'
    assert (failed["stages"], failed["step"]) == ("null", "")
    assert failed["note"] == "no memory, “é” \\udcff"  # a byte that is no UTF-8
    assert (bad["state"], bad["step"], bad["error"]) == ("diverged", "17", "")
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]  # nothing is left


def test_a_csv_file_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(workdir.WorkdirError, match="missing/results.csv: No such file"):
        table.write_csv(tmp_path / "missing" / "results.csv", rows_of({0.1: [1.0]}))
