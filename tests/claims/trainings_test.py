"""The trainings of claims: seeds, rates, runs that diverged, and what curves say."""

from claims.harness import trainings


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
