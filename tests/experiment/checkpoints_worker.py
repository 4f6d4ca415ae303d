"""One process of checkpoints_test.test_two_processes_agree.

python checkpoints_worker.py PORT PROCESS DIRECTORY
"""

import os
import pathlib
import resource
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax  # noqa: E402  (the variables above must be set first)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

from experiment import checkpoints  # noqa: E402


def main(port, process, directory):
    jax.distributed.initialize(
        f"localhost:{port}", 2, int(process), initialization_timeout=30
    )
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    shardings = {"x": everywhere, "y": split}

    @jax.jit
    def make(value):
        state = {"x": jnp.arange(16.0) + value, "y": jnp.arange(16.0) - value}
        return jax.lax.with_sharding_constraint(state, shardings)

    def check(restored, step, value):
        state, found, _ = restored
        assert found == step, (found, step)
        for name, expected in make(value).items():
            assert state[name].sharding == shardings[name]
            for a, b in zip(
                state[name].addressable_shards,
                expected.addressable_shards,
                strict=True,
            ):
                np.testing.assert_array_equal(a.data, b.data)

    run = checkpoints.Checkpoints(directory)
    for step in (1, 2, 3):
        run.save(step, make(step), {"error": 1.0 / step})
        assert not run.reached_preemption(step)
    run.wait()
    check(run.restore(make(0)), 3, 3)

    # Process 0 damages a file for both.
    if jax.process_index() == 0:
        os.truncate(pathlib.Path(directory) / "3" / "meta" / "metadata", 10)
    multihost_utils.sync_global_devices("damaged")
    check(run.restore(make(0)), 2, 2)

    # Only process 1 cannot read step 2: both go on from 1.
    read = checkpoints._read_record

    def fail(path):
        if path.name == "2":
            raise OSError("the disk of this host")
        return read(path)

    if jax.process_index() == 1:
        checkpoints._read_record = fail
    check(run.restore(make(0)), 1, 1)
    run.save(2, make(20))
    run.close()
    checkpoints._read_record = read
    check(run.restore(make(0)), 2, 20)

    # Process 0 cannot write: both hear of it, neither waits for the other.
    if jax.process_index() == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    noise = np.random.default_rng(0).random(10_000)
    reason = ("File too large", "process 0 failed")[jax.process_index()]
    try:
        run.save(4, {"x": noise})
        run.close()
    except checkpoints.CheckpointError as error:
        assert f"cannot write checkpoint 4 to {directory}: {reason}" in str(error)
    else:
        raise AssertionError("no CheckpointError")
    check(run.restore(make(0)), 2, 20)
    print("all good")


main(*sys.argv[1:])
