"""Starts the distributed runtime and the compilation cache before any computation."""

import os

import jax

from experiment import peers


def start(compilation_cache, distributed, coordinator, num_processes, process_id):
    """Starts what the flags of main.py ask for.

    Args:
      compilation_cache: the directory for compiled programs; empty means none.
      distributed: "auto" (if a cluster is detected), "on" or "off".
      coordinator, num_processes, process_id: None if a cluster tells them.
    """
    if compilation_cache:
        cache = os.path.expanduser(compilation_cache)
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if coordinator or distributed == "on":
        peers.join(coordinator, num_processes, process_id)
    elif distributed == "auto" and _cluster_detected():
        peers.join()


def _cluster_detected():
    """True in one of several tasks started by srun or Open MPI's mpirun."""
    tasks = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return any(os.environ.get(name, "1") not in ("", "1") for name in tasks)
