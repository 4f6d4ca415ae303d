"""Every test runs on eight virtual CPU devices, whatever the machine has."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["TFDS_DATA_DIR"] = ""

import jax  # noqa: E402  (the variables above must be set first)

jax.config.update("jax_numpy_rank_promotion", "raise")
