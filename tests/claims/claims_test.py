"""The claims: their rules on made-up numbers, their networks, and one end to end."""

import functools
import json
import re
import shutil
import types

import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
import runs
import traced
from made_up import arms

import claims.__main__
import models
import train
from claims import networks
from claims.harness import catalogue, conduct, intervals, report, trainings
from comparison import counting
from configs import default
from errors import PREEMPTED, UsageError, UserError
from experiment import checks
from experiment.workdir import WorkdirError
from sweep import in_process, slurm

NAMES = catalogue.names()
RESULTS = runs.ROOT / "docs" / "claims"


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_says_what_it_is_and_its_configs_are_checked(name):
    claim = catalogue.load(name)
    assert claim.CLAIM and claim.SOURCE and claim.STATED and claim.MINUTES
    assert len(claim.text().splitlines()) > 4
    for scale in claim.MINUTES if claim.trains() else ():
        experiment = claim.experiment(scale)
        assert min(map(experiment.seeds_of, experiment.arms)) >= 3
        for values in experiment.arms.values():
            config = trainings.vary.apply(experiment.config, {**values, "seed": 1})
            checks.check(config)


@pytest.mark.parametrize(
    ("name", "arm", "most"),
    [
        ("augmentation", "none", 1.25),
        ("auxiliary_heads", "without", 1.25),
        ("global_average_pooling", "average", 1.25),
        ("lrn", "without", 1.25),
        ("multi_view", "residual network", 1.25),
        ("one_by_one", "without", 1.25),
        ("overlapping_pool", "3x3, stride 2", 1.25),
        ("population_statistics", "0.99", 0.85),
        ("shortcuts", "A", 1.25),
        ("small_kernels", "5x5", 1.25),
        ("two_towers", "two towers", 1.25),
        ("vgg_depth", "A", 1.25),
        ("weight_decay", "0", 1.25),
    ],
)
def test_a_small_effect_has_seeds_enough(name, arm, most):
    """Half an interval is 2.48 standard deviations with three seeds, 1.24 with five."""
    seeds = catalogue.load(name).experiment("small").seeds_of(arm)
    noise = np.random.default_rng(0).normal(size=seeds)
    found = intervals.mean(noise / noise.std(ddof=1))
    assert found.high - found.mean < most


# What a claim measures, made up, and the verdict that its rule gives.
def pair(a, b, labels=("without", "with LRN")):
    return {labels[0]: a, labels[1]: b}


def epochs(relu, tanh, diverged=0):
    numbers = {"ReLU": relu, "tanh": tanh}
    return {"epochs": numbers, "diverged": {"ReLU": 0, "tanh": diverged}}


def dropped(gaps, epochs, error=30):
    """Gaps and epochs of `dropout`, against 31 points and 5 epochs without."""
    labels = "without", "dropout"
    return {
        "gaps": pair([30, 31, 32], gaps, labels),
        "epochs": pair([5, 5, 5], epochs, labels),
        "errors": pair([30, 30, 30], [30, 30, error], labels),
    }


def augmented(gaps, errors):
    """Of augmentation: none has a gap of 30 and an error of 30."""
    labels = "none", "crops and flips", "and colours"
    return {
        "gaps": arms(labels, 30, gaps, gaps),
        "errors": arms(labels, 30, errors, errors),
    }


MADE_UP = [
    ("relu_vs_tanh", epochs([5, 5.1, 4.9], [30, 31, 29]), 0),
    ("relu_vs_tanh", epochs([5, 5.1, 4.9], [9, 9.1, 9.2]), 1),
    ("relu_vs_tanh", epochs([5, 6, 7], [7, 6, 5]), 2),
    ("relu_vs_tanh", epochs([9, 9.1, 9], [5, 5, 5.1]), 3),
    ("relu_vs_tanh", epochs([None] * 3, [5, 5, 5.1]), 3),
    ("relu_vs_tanh", epochs([9, 9, 9.1], [None] * 3), 0),
    ("relu_vs_tanh", epochs([20, 20, 21], [None] * 3), 1),
    ("relu_vs_tanh", epochs([9, 9, 9], [5, None, 5.1]), 2),
    ("relu_vs_tanh", epochs([9, 9, 9.1], [None] * 3, diverged=1), 2),
    ("lrn", {"errors": pair([20, 20.1, 20.2], [18, 18.1, 18.2])}, 0),
    ("lrn", {"errors": pair([20, 20.1, 20.2], [19.5, 19.6, 19.7])}, 1),
    ("lrn", {"errors": pair([20, 20.1, 20.2], [20.1, 20.1, 20.1])}, 2),
    ("lrn", {"errors": pair([18, 18.1, 18.2], [20, 20.1, 20.2])}, 3),
    (
        "overlapping_pool",
        {"errors": {"3x3, stride 2": [20, 20.1], "2x2, stride 2": [21, 21.1]}},
        0,
    ),
    (
        "overlapping_pool",
        {"errors": {"3x3, stride 2": [21, 21.1], "2x2, stride 2": [20, 20.1]}},
        3,
    ),
    ("weight_decay", {"training": {"0": [9, 9.1], "5e-4": [8, 8.1]}}, 0),
    ("weight_decay", {"training": {"0": [8, 8.1], "5e-4": [9, 9.1]}}, 3),
    ("weight_decay", {"training": {"0": [8, 9], "5e-4": [9, 8]}}, 2),
    ("dropout", dropped([10, 10, 10], [10, 10, 10]), 0),
    ("dropout", dropped([10, -1, 10], [10, None, 10]), 2),
    ("dropout", dropped([10, 10, 10], [10, None, 10]), 1),  # 30 % is not reached
    ("dropout", dropped([10, 10, 10], [30, 30, 30]), 1),  # the gap, but not the time
    ("dropout", dropped([10, 10, 10], [5, 10, 20]), 1),  # its time is too uncertain
    ("dropout", dropped([0, 0, 0], [None] * 3, error=90), 2),  # it has not learned
    ("augmentation", augmented(20, 28), 0),
    ("augmentation", augmented(20, 29.5), 1),
    ("augmentation", augmented(30, 28), 2),
    ("augmentation", augmented(31, 28), 3),
    (
        "batch_norm",
        {
            "errors": pair([3, 3.1], [2, 2.1], ("without", "batch normalisation")),
            "epochs": pair([9, 9.1], [2, 2], ("without", "batch normalisation")),
        },
        0,
    ),
    (
        "batch_norm",
        {
            "errors": pair([2, 2.1], [3, 3.1], ("without", "batch normalisation")),
            "epochs": pair([9, 9.1], [2, 2], ("without", "batch normalisation")),
        },
        3,
    ),
]


@pytest.mark.parametrize(("name", "numbers", "place"), MADE_UP)
def test_the_rule_of_a_verdict(name, numbers, place):
    found = catalogue.load(name).verdict(numbers)
    assert found.word == intervals.WORDS[place], found.reason


def test_a_verdict_says_what_counts_as_something_else():
    """Epochs that were never reached, and an arm that has not learned."""
    found = catalogue.load("relu_vs_tanh").verdict(epochs([9, 9, 9.1], [None] * 3))
    assert found.here.endswith("; 3 of 3 runs of tanh never")
    said = "3 of 3 runs of tanh never get there and count as 40 epochs"
    assert found.reason.endswith(f"; {said}")
    dead = dropped([0, 0, 0], [None] * 3, error=90)
    reason = catalogue.load("dropout").verdict(dead).reason
    assert reason.endswith("; with dropout a run has not learned (90.0 % test error)")
    apart = catalogue.load("augmentation").verdict(augmented(20, 28)).here
    said = "0.00 (0.00 to 0.00) (not visible at this scale)"
    assert apart.endswith(f"; apart, by colours: {said}")


SPELT = {3: "three times sooner", 1: "a point and more", 1.1: "a tenth", 0.5: "halves"}
JUDGED = {
    "dropout": dropped([10, 10, 10], [10, 10, 10]),
    "lrn": {"errors": arms(("without", "with LRN"), 20, 18)},
    "relu_vs_tanh": epochs([5, 5.1, 4.9], [30, 31, 29]),
    "augmentation": augmented(20, 20),
}
JUDGED["auxiliary_heads"] = {
    "errors": arms(("without", "with side heads"), 30, 20),
    "gradients": arms(("without", "with side heads"), 1, 2),
}
JUDGED["two_towers"] = {"errors": arms(("two towers", "one of half the maps"), 20, 30)}


@pytest.mark.parametrize("name", JUDGED)
def test_a_claim_states_the_bound_of_its_rule(name, monkeypatch):
    bounds, judge = [], intervals.judge

    def noting(interval, bound, *arguments):
        bounds.append(bound)
        return judge(interval, bound, *arguments)

    monkeypatch.setattr(intervals, "judge", noting)
    claim = catalogue.load(name)
    claim.verdict(JUDGED[name])
    assert bounds
    assert all(SPELT[bound] in claim.CLAIM for bound in bounds)


def test_the_page_is_written_from_the_results(tmp_path):
    """After a change of a result, a claim's text or the report: claims --report."""
    docs = runs.ROOT / "docs"
    shutil.copytree(docs / "claims", tmp_path / "claims")
    page = report.write(tmp_path / "claims").read_text()
    assert page == (docs / "claims.md").read_text()


def test_figures_are_drawn_anew_from_the_results(tmp_path):
    (stored,) = (runs.ROOT / "docs/claims").glob("towers_specialise-small.json")
    shutil.copy(stored, tmp_path)
    report.draw_all(tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == [f"{stored.stem}.png"]


def test_the_page_shows_what_was_measured_of_each_arm():
    numbers = {
        "errors": {"a": [1.0, 2.0, 3.0], "b": [4.0, None]},
        "epochs": {"a": [None, None], "b": [5]},
        "parameters": {"a": 1234567, "b": 0.123456},
        "answers": {"c": 7},
        "rates": {"a": 0.1, "b": 0.2},
        "curves": {"a": {"epochs": [1], "runs": [[2]]}},
        "of": 9,
    }
    made_up = report.Outcome("lrn", "small", numbers, None, [], 1.0)
    first, second = report._table(made_up.columns())
    assert first.splitlines() == [
        "| | errors | epochs | parameters |",
        "|---|---:|---:|---:|",
        "| a | 2 ± 1 | (2 of 2 never) | 1,234,567 |",
        "| b | 4 (1 of 2 never) | 5 | 0.1235 |",
    ]
    assert second.splitlines()[-1] == "| c | 7 |"


def test_the_claim_in_the_docs():
    text = (runs.ROOT / "docs" / "adding_a_claim.md").read_text()
    module = types.ModuleType("example")
    exec(text.split("```python\n")[1].split("```")[0], vars(module))
    claim = catalogue.Claim("example", module)
    experiment = claim.experiment("small")
    for values in experiment.arms.values():
        checks.check(trainings.vary.apply(experiment.config, values))
    errors = dict(zip(experiment.arms, ([3, 3.1], [2, 2.1]), strict=True))
    assert claim.verdict({"errors": errors}).word == intervals.REPRODUCED
    claim.figure(matplotlib.figure.Figure(), {"errors": errors})


def test_the_arithmetic_of_the_bottleneck():
    claim = catalogue.load("bottleneck")
    numbers = claim.measure()
    assert numbers["weights"]["bottleneck"] == 69_632
    assert numbers["ratio"] == pytest.approx(16.94, abs=0.005)
    assert claim.verdict(numbers).word == intervals.ARITHMETIC


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        # 5x5: 3 to 32, 32 to 32, 32 to 64 with biases; 4x4x64 to 10.
        ({}, 75 * 32 + 32 + 800 * 32 + 32 + 800 * 64 + 64 + 1024 * 10 + 10),
        # Scales and shifts in place of biases.
        ({"norm": "batch"}, 75 * 32 + 800 * 96 + 2 * 128 + 1024 * 10 + 10),
        ({"hidden": 512, "dropout": 0.5}, 79_328 + 1024 * 512 + 512 + 5120 + 10),
        ({"groups": 2}, 75 * 32 + 400 * 96 + 128 + 10_250),
        (
            {"width": 0.5},  # but not of the last
            75 * 16 + 16 + 400 * 16 + 16 + 400 * 64 + 64 + 10_250,
        ),
        ({"without": 2}, 75 * 32 + 32 + 800 * 64 + 64 + 10_250),
        ({"pool": 2, "norm": "lrn", "lrn": (9, 4.0, 1.0)}, 79_328 + 10_250),
    ],
)
def test_four_layers(values, parameters):
    model = models.create("claims.networks:FourLayers", num_classes=10, **values)
    assert counting.count(model, (32, 32, 3)).parameters == parameters
    assert traced.stages(model, 32)["pool3"] == (4, 4, 64)
    apply = functools.partial(model.apply, train=False)
    images = jnp.zeros((2, 32, 32, 3))
    logits = traced.eval_shape(apply, traced.variables(model, 32), images)
    assert logits.shape == (2, 10)


def test_sigmoids():
    model = networks.Sigmoids(10)
    found = counting.count(model, (28, 28, 1))
    assert found.parameters == 784 * 100 + 100 + 2 * (100 * 100 + 100) + 1010
    normal = counting.count(networks.Sigmoids(10, batch_norm=True), (28, 28, 1))
    assert normal.parameters == 784 * 100 + 2 * 100 * 100 + 3 * 200 + 1010


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("claims.networks:Missing", "has no attribute 'Missing'"),
        ("claims.nothing:FourLayers", "No module named 'claims.nothing'"),
        ("claims.networks:MAPS", "is no models.layers.Classifier"),
        ("fourlayers", "unknown model 'fourlayers'.*are: alexnet"),
    ],
)
def test_a_network_elsewhere_that_cannot_be_had(name, message):
    config = default.get_config()
    config.model.name = name
    with pytest.raises(UsageError, match=message):
        checks.check(config)


def toy(log):
    """A claim about a tiny network, for which a rate of 0.01 is better than none."""

    def experiment(scale):
        assert scale == "small"
        config = runs.small_config(num_epochs=1.0)
        arms = {n: {"optimizer.weight_decay": d} for n, d in (("a", 0.1), ("b", 0.5))}
        choice = {"dataset.train_split": "train[:64]"}
        return trainings.Experiment(config, arms, 3, (1e-9, 0.01), choice)

    def measure(results):
        log.append({label: len(results[label]) for label in results})
        return {"errors": results.errors()}

    def verdict(numbers):
        errors = numbers["errors"]
        gain = intervals.difference(errors["a"], errors["b"])
        return intervals.sign(gain, True, "the gain")

    module = types.ModuleType("toy", "A toy.")
    vars(module).update(
        CLAIM="Toys learn",
        SOURCE="nobody",
        STATED="1",
        MINUTES={"small": 0.1},
        experiment=experiment,
        measure=measure,
        verdict=verdict,
    )
    return catalogue.Claim("toy", module)


class Once:
    """A stop that is asked for once some runs have ended."""

    def __init__(self, folder, count):
        self._folder, self._count = folder, count

    @property
    def requested(self):
        return len(list(self._folder.glob("*/result.json"))) >= self._count


def conductor(path, stop=runs.NoStop):
    runner = in_process.InProcess(stop)
    return conduct.Conductor(path / "runs", path / "results", "small", runner)


def test_a_claim_from_its_runs_to_its_result(tmp_path, monkeypatch):
    """Its runs are those of a sweep, and none of them is trained twice."""
    log = []
    first = conductor(tmp_path).run(toy(log))
    assert log == [{"a": 3, "b": 3}]
    folder = tmp_path / "runs" / conduct.RUNS
    made = sorted(path.name for path in folder.iterdir())
    assert len(made) == 2 * 2 + 2 * 3
    assert {run["learning_rate"] for run in first.runs} == {0.01}
    assert [run["seed"] for run in first.runs] == [0, 1, 2] * 2

    monkeypatch.setattr("sweep.together.groups", None)  # it would train
    monkeypatch.setattr("train.train", None)
    again = conductor(tmp_path).run(toy(log))
    assert again.verdict == first.verdict
    assert again.numbers == first.numbers
    found, _ = report.read(tmp_path / "results", "toy", "small")
    assert found.numbers == json.loads(json.dumps(first.numbers))
    assert found.verdict == first.verdict
    assert found.choices == again.choices and len(found.choices["a"]) == 2


def timed(clock, minutes, trained):
    """The claim `toy`, trained or not, whose measure takes some minutes of a clock."""
    claim = toy([])

    def measured(*results):
        clock.now += 60 * minutes
        return {"errors": {"a": [1.0, 2.0], "b": [0.0, 0.5]}}

    claim.module.measure = measured
    if not trained:
        del claim.module.experiment
    return claim


def test_minutes_are_of_training_and_measuring_without_tries(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=1000.0)
    time = types.SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr(conduct, "time", time)

    def trains(minutes):
        def run(experiment, pool):
            clock.now += 60 * minutes
            return trainings.Results({}, {})

        monkeypatch.setattr(trainings, "run", run)

    claim = timed(clock, 1, True)
    trains(4)
    assert conductor(tmp_path).run(claim).minutes == 5
    trains(2)
    assert conductor(tmp_path).run(claim).minutes == 4 + 2 + 1
    trains(9)
    tried = conductor(tmp_path).run(claim, ["num_epochs=0.5"])
    assert tried.minutes == 9 + 1
    trains(0)
    assert conductor(tmp_path).run(claim).minutes == 4 + 2 + 1
    assert conductor(tmp_path).run(timed(clock, 3, False)).minutes == 3


def test_a_claim_that_trains_nothing_has_nothing_to_change(tmp_path):
    claim = timed(types.SimpleNamespace(now=0.0), 0, False)
    with pytest.raises(UsageError, match="^--change=seed=1: toy trains nothing that"):
        conductor(tmp_path).run(claim, ["seed=1"])
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["num_epochs=1,2"], "--change=num_epochs=1,2: give one value each"),
        (["num_epoch=1"], "--change=num_epoch=1: config has no field 'num_epoch'"),
        (["seed=5"], "--change=seed=5: the claim itself sets seed"),
        (["optimizer.learning_rate=0.05"], "claim itself sets optimizer.learning_rate"),
        (["config.optimizer.weight_decay=0"], "itself sets optimizer.weight_decay"),
        (["batch_size,seed=(8,1)"], "the claim itself sets seed"),
        (["dataset.eval_split=test"], "the claim itself sets dataset.eval_split"),
    ],
)
def test_a_change_that_would_be_ignored_or_make_arms_alike(changes, message):
    experiment = toy([]).experiment("small")
    with pytest.raises(UsageError, match=re.escape(message)):
        conduct.parse(experiment, changes)
    found = conduct.parse(experiment, ["num_epochs=1", "batch_size=8"])
    assert found == {"num_epochs": 1.0, "batch_size": 8}
    assert conduct.parse(experiment, []) == {}


@pytest.mark.slow
def test_a_claim_that_was_stopped_gives_the_same_numbers(tmp_path):
    log = []
    first = conductor(tmp_path / "whole").run(toy(log))
    stopped = tmp_path / "stopped"
    for count in (3, 6):
        stop = Once(stopped / "runs" / conduct.RUNS, count)
        with pytest.raises(train.Preempted):
            conductor(stopped, stop).run(toy(log))
    resumed = conductor(stopped).run(toy(log))
    assert resumed.numbers == first.numbers
    assert resumed.verdict == first.verdict
    assert len(log) == 2


def test_the_runs_of_a_claim_wait_in_slurms_queue(tmp_path, monkeypatch):
    """It submits the runs that choose the rates, and no others before these."""
    submitted = []

    def submit(parent, names, options, flags):
        submitted.append((parent, names, options, flags))
        return f"{len(names)} runs"

    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm, "queued", lambda parent: set())
    folder = tmp_path / conduct.RUNS
    runner = slurm.Slurm(folder, {"minutes": 5})
    waiting = conduct.Conductor(tmp_path, tmp_path / "results", "small", runner)
    with pytest.raises(slurm.Waiting, match="4 runs; the same command goes on") as end:
        waiting.run(toy([]))
    assert end.value.exit_code == PREEMPTED
    ((parent, names, options, _),) = submitted
    assert (parent, options) == (folder, {"minutes": 5})
    assert sorted(names) == sorted(path.name for path in folder.iterdir())


@pytest.fixture
def conducted(monkeypatch):
    """Replaces what runs claims; `conducted` maps a claim's name to its error."""
    errors, order = {}, []

    class Conductor:
        def __init__(self, *arguments):
            pass

        def run(self, claim, changes):
            order.append(claim.name)
            if claim.name in errors:
                raise errors[claim.name]
            return f"{claim.name} has a verdict"

    monkeypatch.setattr(conduct, "Conductor", Conductor)
    monkeypatch.setattr(claims.__main__, "_runner", lambda options, folder: None)
    return types.SimpleNamespace(errors=errors, order=order)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("it diverged"), "bottleneck: it diverged"),
        (MemoryError(), "bottleneck: out of memory"),
        (OSError(13, "Permission denied", "x"), "bottleneck: x: Permission denied"),
        (ValueError("a bug"), "bottleneck: ValueError('a bug')"),
    ],
)
def test_one_claim_that_fails_does_not_end_all(conducted, error, said):
    conducted.errors["bottleneck"] = error
    names = ["bottleneck", "features", "lrn"]  # in the order of their costs
    ended = runs.call_claims(names)
    assert conducted.order == names
    assert ended.stdout == "features has a verdict\nlrn has a verdict\n"
    assert f"\n{said}" in f"\n{ended.stderr}"
    assert ("Traceback" in ended.stderr) == isinstance(error, ValueError)
    assert "these claims have no verdict: bottleneck" in ended.stderr
    assert ended.returncode == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (train.Preempted("stopped"), PREEMPTED),
        (OSError(28, "No space left on device"), 1),
        (WorkdirError("cannot write runs/lock: No space left on device"), 1),
        (UserError("run x is failed: the disk is full: free some of it"), 1),
    ],
)
def test_what_would_meet_the_next_claim_ends_all(conducted, error, code):
    conducted.errors["bottleneck"] = error
    assert runs.call_claims(["bottleneck", "lrn"]).returncode == code
    assert conducted.order == ["bottleneck"]


def test_all_goes_on_with_the_claims_that_have_no_verdict(conducted):
    ended = runs.call_claims(["--all"])
    done = [path.stem[: -len("-small")] for path in RESULTS.glob("*-small.json")]
    assert "batch_norm" in done
    assert sorted(conducted.order + done) == NAMES
    for name in done:
        assert f"{name} has its verdict of 20" in ended.stdout
    conducted.order.clear()
    runs.call_claims(["--all", "--change=num_epochs=1.0"])  # for a try
    assert sorted(conducted.order) == [n for n in NAMES if catalogue.load(n).trains()]


def test_the_list_and_what_is_refused():
    listed = runs.call_claims([])
    for name in NAMES:
        assert f"\n{name} " in listed.stdout
    refused = runs.call_claims(["relu_vs_tang"])
    assert refused.returncode == 2
    assert "did you mean 'relu_vs_tanh'" in refused.stderr
    refused = runs.call_claims(["bottleneck", "--jobs=2", "--slurm="])
    assert refused.returncode == 2
    assert "--jobs and --slurm are two ways to train" in refused.stderr
    for arguments, said in (
        (["--list", "lrn"], "--list and lrn are two requests"),
        (["--report", "lrn"], "--report and lrn are two"),
        (["lrn", "--all"], "--all and lrn are two"),
        (["--report", "--all"], "--report and --all are two"),
        (["--change=num_epochs=1"], "--change is for runs"),
        (["--report", "--jobs=2"], "--jobs is for runs"),
        (["--list", "--slurm="], "--slurm is for runs"),
    ):
        refused = runs.call_claims(arguments)
        assert refused.returncode == 2
        assert said in refused.stderr
    refused = runs.call_claims(["bottleneck", "--scale=paper"])
    assert refused.returncode == 2
    assert "bottleneck has no runs at --scale=paper" in refused.stderr
