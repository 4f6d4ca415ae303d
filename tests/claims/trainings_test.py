"""The trainings of claims: seeds, rates, runs that diverged, and what curves say."""

import json
import math
import types

import pytest
import runs

from claims import auxiliary_heads, lrn
from claims.harness import (
    catalogue,
    conduct,
    intervals,
    probes,
    recipes,
    report,
    trainings,
)
from configs import default
from errors import UserError
from experiment import workdir
from sweep import vary


class Pool:
    """Stands for trainings.Pool; a run is what the arm and the seed change."""

    def run(self, config, values):
        return values

    def train(self, runs):
        return list(runs)


def test_an_arm_may_have_more_seeds_than_another():
    arms = {"a": {"x": 1}, "b": {"x": 2}}
    found = trainings.run(trainings.Experiment(None, arms, {"a": 1, "b": 2}), Pool())
    assert {label: found[label] for label in found} == {
        "a": [{"x": 1, "seed": 0}],
        "b": [{"x": 2, "seed": 0}, {"x": 2, "seed": 1}],
    }


def test_what_names_a_run(monkeypatch):
    config = recipes.four_layers(epochs=3)
    name = trainings.name(config)
    assert name.startswith("FourLayers-")

    def changed(field, value):
        return trainings.name(vary.apply(config, {field: value}))

    assert changed("optimizer.learning_rate", 0.01) == name  # as it was
    assert changed("optimizer.learning_rate", 0.02) != name
    assert changed("model.fields.groups", 2) != name
    assert changed("checkpoint.every_epochs", 9.0) == name
    assert changed("log.every_steps", 79) != name  # the curves are others

    # A definition of claims/networks.py is another.
    monkeypatch.setattr(trainings, "_networks", lambda: "class FourLayers: pass")
    assert trainings.name(config) != name
    monkeypatch.undo()
    config.model.name = "resnet20"
    name = trainings.name(config)

    # A later version's default.py has one more field.
    later = default.get_config()
    later.optimizer.lookahead = config.optimizer.lookahead = 0
    monkeypatch.setattr(default, "get_config", lambda: later)
    assert trainings.name(config) == name
    assert changed("optimizer.lookahead", 5) != name


@pytest.mark.parametrize(
    ("name", "arm", "other", "same"),
    [
        ("augmentation", "none", "weight_decay", "5e-4"),
        ("features", "dropout", "dropout", "dropout"),
        ("one_by_one", "with 1x1", "global_average_pooling", "average"),
        ("overlapping_pool", "3x3, stride 2", "lrn", "without"),
        ("towers_specialise", "two towers", "two_towers", "two towers"),
    ],
)
def test_claims_that_share_runs(name, arm, other, same):
    names = []
    for claim, label in ((name, arm), (other, same)):
        found = catalogue.load(claim).experiment("small")
        names.append(trainings.name(vary.apply(found.config, found.arms[label])))
    assert names[0] == names[1]


@pytest.fixture
def trained(tmp_path):
    """Makes a trainings.Trained of ten classes that has a test error or diverged."""

    def make(name, error=None):
        run = workdir.Workdir(tmp_path / name)
        run.create(runs.small_config())
        names = [str(digit) for digit in range(10)]
        record = {"image_shape": [28, 28, 1], "label_names": names}
        run.write_json("dataset.json", record)
        result = {"step": 9, "of": 9, "error": error}
        if error is None:
            result = {"step": 7, "diverged": True}
        else:
            line = '{"step": 9, "progress/epoch": 1.0, "train/error": 4.0}\n'
            run.write_text("metrics.jsonl", line)
        return trainings.Trained(run.config(), run, result)

    return make


def test_a_run_that_diverged_counts_as_chance(trained, monkeypatch):
    arms = {"a": [trained("0", 5.0), trained("1")], "b": [trained("2", 6.0)] * 2}
    results = trainings.Results(arms, {})
    assert results.errors() == {"a": [5.0, 90.0], "b": [6.0, 6.0]}
    assert results.training_errors() == {"a": [4.0, 90.0], "b": [4.0, 4.0]}
    assert results.gaps() == {"a": [1.0, 0.0], "b": [2.0, 2.0]}
    assert results.epochs_until("train/error", 5)["a"] == [1.0, None]
    assert results.lost() == "1 of 2 runs of a diverged and count as chance"
    # A claim that looks at them itself counts them as it says.
    assert trainings.Results(arms, {}).lost() == "1 of 2 runs of a diverged"
    assert trainings.Results({"b": arms["b"]}, {}).lost() == ""
    # Nothing of it is saved.
    assert arms["a"][1].parameters() == arms["a"][0].parameters() > 0
    with pytest.raises(UserError, match="a: .*/1 diverged at step 7.* smaller"):
        results.each(len)
    monkeypatch.setattr(probes, "gradients", lambda run, start: {"x": float(start)})
    monkeypatch.setattr(auxiliary_heads, "FIRST", "x")
    found = auxiliary_heads.measure(results)
    assert found["gradients"]["a"] == [1.0, 1.0]  # before the first step


def test_a_verdict_on_runs_that_diverged_says_so(trained, tmp_path, monkeypatch):
    arms = {
        "without": [trained("0", 20.0), trained("1", 20.2), trained("2")],
        "with LRN": [trained(str(n), 18.0) for n in (3, 4, 5)],
    }
    results = trainings.Results(arms, {})
    monkeypatch.setattr(trainings, "run", lambda experiment, pool: results)
    conductor = conduct.Conductor(tmp_path, tmp_path / "results", "small", None)
    found = conductor.run(catalogue.Claim("lrn", lrn))
    assert found.verdict.word == intervals.INVISIBLE
    said = "1 of 3 runs of without diverged and count as chance"
    assert found.verdict.reason.endswith(f"; {said}")
    page = report.write(tmp_path / "results").read_text()
    assert f"{said}." in page


def test_a_verdict_on_runs_that_learned_nothing_says_so(trained, tmp_path, monkeypatch):
    """A dead network keeps a finite loss, so nothing else tells it from a bad one."""
    arms = {
        "without": [trained("0", 20.0), trained("1", 20.2), trained("2", 90.1)],
        "with LRN": [trained("3", 18.0), trained("4", 18.0), trained("5")],
    }
    results = trainings.Results(arms, {})
    monkeypatch.setattr(trainings, "run", lambda experiment, pool: results)
    conductor = conduct.Conductor(tmp_path, tmp_path / "results", "small", None)
    found = conductor.run(catalogue.Claim("lrn", lrn))
    assert found.verdict.reason.endswith(
        "; 1 of 3 runs of with LRN diverged and count as chance; "
        "1 of 3 runs of without learned nothing"
    )


def test_the_last_value_of_a_curve_is_a_mean_over_steps(monkeypatch):
    """The last report is about the few steps that are left; old ones do not say it."""
    curve = [1.0, 2.0, 2.1], [10.0, 20.0, 40.0]
    monkeypatch.setattr(trainings.curves, "read", lambda run: {"train/error": curve})
    run = trainings.Trained(None, None, {})
    assert run.last("train/error") == pytest.approx((20 + 0.1 * 40) / 1.1)
    assert run.last("train/error", epochs=0.05) == pytest.approx(40)
    assert run.last("train/error", epochs=9) == pytest.approx((10 + 20 + 4) / 2.1)


REPORTS = {
    "train/error": ([1.0, 2.0, 2.9, 3.0, 4.0], [80.0, 60.0, 10.0, 50.0, 30.0]),
    "eval/error": ([1.0, 2.0, 4.0], [70.0, 50.0, 30.0]),
    "progress/images": ([1.0, 2.0, 2.9, 3.0, 4.0], [256, 256, 100, 128, 256]),
}


def test_a_report_after_a_resume_counts_as_its_images(monkeypatch):
    """At 2.9 a run was resumed, and chance put an error of 10 % there."""
    monkeypatch.setattr(trainings.curves, "read", lambda run: REPORTS)
    config = runs.small_config(batch_size=64, log__every_steps=4)
    run = trainings.Trained(config, None, {})
    assert run.epochs_until("train/error", 50) == 3.0  # of half as many images
    assert run.epochs_until("train/error", 40) == 3.5
    assert run.epochs_until("train/error", 5) is None
    assert run.epochs_until("eval/error", 60) == 1.5
    expected = (100 * 10 + 128 * 50 + 256 * 30) / 484
    assert run.last("train/error", epochs=1.5) == pytest.approx(expected)
    without = {name: REPORTS[name] for name in ("train/error", "eval/error")}
    monkeypatch.setattr(trainings.curves, "read", lambda run: without)
    assert run.epochs_until("train/error", 10) == 2.9


HELD_OUT = {
    "a": {0.1: 40.0, 0.2: 10.0, 0.4: 40.0},
    "b": {0.1: 10.0, 0.2: 30.0, 0.4: math.inf},
    "c": {0.1: 50.0, 0.2: 60.0, 0.4: 10.0},
}


class Chooser(Pool):
    """As Pool, with the errors of HELD_OUT for the runs that choose a rate."""

    def __init__(self, errors):
        self._errors = errors

    def train(self, runs):
        return [
            self._chooses(self._errors[run["x"]][run[trainings.RATE]])
            if run["seed"] == trainings.SEED_OF_CHOICE
            else run
            for run in runs
        ]

    def _chooses(self, error):
        return types.SimpleNamespace(
            error=error,
            diverged=math.isinf(error),
            chance=90.0,
            last=lambda curve: 100 - error,
            result={"size": 100},
        )


def chosen(errors, **how):
    arms = {label: {"x": label} for label in errors}
    experiment = trainings.Experiment(None, arms, 1, (0.1, 0.2, 0.4), **how)
    return trainings.run(experiment, Chooser(errors))


def test_arms_have_one_rate_unless_another_is_clearly_better():
    """Of 100 images 20 are wrong, whose root is 4.5: 9 fewer are chance, 10 are not."""
    found = {
        "a": {0.1: 30.0, 0.2: 20.0, 0.4: 25.0},
        "b": {0.1: 30.0, 0.2: 20.0, 0.4: 11.5},
        "c": {0.1: 10.5, 0.2: 20.0, 0.4: math.inf},
    }
    assert chosen(found).rates == {"a": 0.2, "b": 0.2, "c": 0.1}
    assert chosen(found, one_rate=True).rates == dict.fromkeys("abc", 0.2)
    # A rate at which an arm diverged is a bad one for all, and never its own.
    found["c"] = {0.1: math.inf, 0.2: 60.0, 0.4: math.inf}
    assert chosen(found).rates == dict.fromkeys("abc", 0.2)
    found["b"] = found["a"] = {0.1: 1.0, 0.2: 60.0, 0.4: 60.0}
    assert chosen(found).rates == {"a": 0.1, "b": 0.1, "c": 0.2}


def test_a_curve_may_choose_the_rate():
    found = {"a": {0.1: 30.0, 0.2: 20.0, 0.4: 80.0}}
    assert chosen(found, choose_by="train/error").rates == {"a": 0.4}
    assert chosen(found).rates == {"a": 0.2}


def test_the_errors_of_a_choice_are_kept_and_its_edges_said(tmp_path):
    found = chosen(HELD_OUT)
    assert found.rates == {"a": 0.2, "b": 0.1, "c": 0.4}
    assert found["c"] == [{"x": "c", "seed": 0, trainings.RATE: 0.4}]
    outcome = report.Outcome(
        name="lrn",
        scale="small",
        numbers={},
        verdict=intervals.Verdict(intervals.INVISIBLE, "x is 1"),
        runs=[{"arm": k, "learning_rate": rate} for k, rate in found.rates.items()],
        minutes=1.0,
        choices=report.choices_of(found),
    )
    outcome.write(tmp_path / "results")
    text = (tmp_path / "results" / "lrn-small.json").read_text()
    stored = json.loads(text, parse_constant=pytest.fail)["choices"]
    assert stored["a"] == {"0.1": 40.0, "0.2": 10.0, "0.4": 40.0}
    assert stored["b"]["0.4"] is None
    said = (
        "earning rates, chosen by short trainings: 0.2 for a; "
        "0.1 (the smallest tried) for b; 0.4 (the largest tried) for c"
    )
    assert said in str(outcome)
    assert f"\n\nL{said}.\n" in report.write(tmp_path / "results").read_text()


def test_results_of_earlier_versions_are_still_reported(tmp_path):
    for file in (runs.ROOT / "docs" / "claims").glob("*.json"):
        stored = json.loads(file.read_text())
        stored.pop("choices", None)
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / file.name).write_text(json.dumps(stored))
    assert "Learning rates" not in report.write(tmp_path / "results").read_text()


def test_an_arm_that_diverges_at_each_rate_is_an_error():
    lost = HELD_OUT | {"b": dict.fromkeys((0.1, 0.2, 0.4), math.inf)}
    with pytest.raises(UserError, match="b diverged at each .* 0.1, 0.2, 0.4; give"):
        chosen(lost)
    idle = HELD_OUT | {"b": {0.1: math.inf, 0.2: 89.5, 0.4: 90.0}}
    with pytest.raises(UserError, match="b learned at none .* least error is 89.50 %"):
        chosen(idle)
    # A try is too short to learn.
    assert set(chosen(idle, changes={"num_epochs": 0.5}).rates) == {"a", "b", "c"}
