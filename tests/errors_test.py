"""An error that a user can fix prints one line with its exit code, in every mode."""

import shutil

import jax
import pytest
import runs

import errors
import main
from errors import foreign

OUT_OF_MEMORY = jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory allocating 9,999 bytes."
)
NO_PLATFORM = RuntimeError("Unable to initialize backend 'rocm': no such thing")
FULL = ValueError('UNKNOWN: Error writing "x": No space left on device [OS error 28]')


@pytest.mark.parametrize("mode", sorted(main.MODES))
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OUT_OF_MEMORY, 1, "out of memory"),
        (NO_PLATFORM, 2, "JAX_PLATFORMS"),
        (FULL, 1, "the disk is full"),
        (ValueError(f"writing {300 * 'x'}: {FULL}"), 1, "the disk is full"),
        (OSError(28, "No space left on device", "runs/x"), 1, "the disk is full"),
        (PermissionError(13, "Permission denied", "runs/x"), 1, "runs/x: Permission"),
        (errors.ConfigError("config.x"), 2, "config.x"),
        (errors.UserError("this\nthat"), 1, "this"),
    ],
)
def test_one_line_in_every_mode(mode, error, code, words, tmp_path, monkeypatch):
    def fail(options, config, runs):
        raise error

    monkeypatch.setitem(main.MODES, mode, fail)
    arguments = [f"--mode={mode}", f"--workdir={tmp_path}"]
    if mode in ("train", "summarize", "sweep"):
        arguments += ["--config=configs/lenet5.py"]
    else:
        shutil.copy(runs.OLD_RUN / "config.json", tmp_path)
    arguments += ["--images=a.png"] if mode == "predict" else []
    arguments += ["--vary=seed=0,1"] if mode == "sweep" else []
    arguments += ["--config.num_devices=1"] if mode == "train" else []
    result = runs.call_main(arguments)
    assert result.returncode == code, result.stderr
    first, *more = result.stderr.splitlines()
    assert first.startswith(f"error: {words}"), first
    assert len(more) == str(error).count("\n")  # a message of ours may list things
    assert result.stdout == ""


def test_a_bug_of_ours_stays_a_traceback(monkeypatch):
    def fail(options, config, runs):
        raise TypeError("a bug")

    monkeypatch.setitem(main.MODES, "summarize", fail)
    with pytest.raises(TypeError, match="a bug"):
        runs.call_main(["--mode=summarize", "--config=configs/lenet5.py"])
    assert foreign.as_user_error(RuntimeError("INTERNAL: broken")) is None
    assert foreign.as_user_error(KeyError("x")) is None


def test_a_platform_that_jax_does_not_have(tmp_path):
    environment = runs.environment() | {"JAX_PLATFORMS": "rocm"}
    for arguments in (
        ["--config=configs/lenet5.py", f"--workdir={tmp_path}/run"],
        ["--mode=evaluate", f"--workdir={runs.OLD_RUN}"],
    ):
        result = runs.run_main(arguments, env=environment)
        assert result.returncode == 2, result.stderr
        (line,) = [x for x in result.stderr.splitlines() if x.startswith("error:")]
        assert "JAX_PLATFORMS=rocm" in line
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("seed", [2**63, 2**80, -1])
def test_a_seed_that_does_not_fit(seed, tmp_path):
    for more in ([], ["--mode=sweep", "--vary=optimizer.learning_rate=0.1,0.2"]):
        result = runs.call_main(
            [
                "--config=configs/lenet5.py:modern",
                f"--workdir={tmp_path}/run",
                f"--config.seed={seed}",
                *more,
            ]
        )
        assert result.returncode == 2
        assert "config.seed" in result.stderr
        assert not (tmp_path / "run").exists()
