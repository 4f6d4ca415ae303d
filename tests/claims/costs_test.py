"""Seconds in turn, and the planned memory of a step."""

import jax.numpy as jnp
import tiny_networks

from claims.harness import costs


def test_functions_are_timed_in_turn(monkeypatch):
    clock = iter([0, 1, 10, 12, 20, 25, 30, 31, 40, 43, 50, 57])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(clock))
    order = []
    calls = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    # Rounds take 1, 5 and 3 seconds for a; 2, 1 and 7 for b.
    assert costs.seconds(calls, rounds=3) == {"a": 3, "b": 2}
    assert order == ["a", "b"] * 4


def test_steps_train_and_plan_their_memory():
    network = tiny_networks.Pooled(10)
    step = costs.Step(network, (8, 8, 3), 4)
    first = step()
    for _ in range(20):
        last = step()
    assert last["loss"] < first["loss"]
    # The weights and their momentum, twice 5*5*3*8 + 8 + 8*10 + 10 numbers, and the
    # images alone have so many bytes.
    assert step.memory > 4 * (2 * 698 + 4 * 8 * 8 * 3)
    assert costs.Step(network, (8, 8, 3), 64).memory > step.memory + 4 * 60 * 192

    seconds, memory = costs.steps(
        {"small": network, "large": network},
        {"small": (8, 8, 3), "large": (16, 16, 3)},
        batch_size=2,
        rounds=1,
    )
    assert list(seconds) == list(memory) == ["small", "large"]
    assert all(jnp.isfinite(value) for value in seconds.values())
    assert memory["large"] > memory["small"]
