"""A run directory takes one run, says why it refuses another, is never half written.

main_test.py checks that a command exits with these messages.
"""

import errno
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import types

import jax
import pytest
import runs

from errors import ConfigError
from experiment import configuration, workdir
from experiment.workdir import Workdir, WorkdirError


def full_disk(_):
    """Stands for an fsync that fails because the disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_new_and_an_empty_directory_become_a_run(tmp_path):
    config = runs.small_config()
    for path in (tmp_path / "a" / "b", tmp_path / "empty"):
        run = Workdir(path)
        run.check(config)
        assert not path.exists()  # asking makes nothing
        if path.name == "empty":
            path.mkdir()
            run.check(config)
        run.create(config)
        assert os.listdir(path) == ["config.json"]
        assert run.config().to_dict() == config.to_dict()
        assert run.config().is_locked


def test_paths_are_absolute_and_know_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert str(Workdir("~/run")) == f"{tmp_path}/home/run"
    run = Workdir("runs/a")
    assert str(run) == f"{tmp_path}/runs/a"
    assert run.checkpoints == tmp_path / "runs" / "a" / "checkpoints"
    assert run.metrics == tmp_path / "runs" / "a" / "metrics.jsonl"


def test_files_of_others_are_refused_and_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "zoo").mkdir()
    for call in (Workdir(tmp_path).check, Workdir(tmp_path).create):
        with pytest.raises(WorkdirError) as error:
            call(runs.small_config())
        assert f"--workdir={tmp_path} holds no run but" in str(error.value)
        assert "such as thesis.tex; choose an empty or new" in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["thesis.tex", "zoo"]
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_same_run_goes_on_and_keeps_its_files(tmp_path):
    run = Workdir(tmp_path)
    run.create(runs.small_config())
    run.metrics.write_text("a line\n")
    run.check(runs.small_config())
    run.create(runs.small_config(log__every_steps=1))
    assert run.config().log.every_steps == 1  # may change, and what is stored follows
    assert run.metrics.read_text() == "a line\n"


def test_a_run_goes_on_with_what_it_held_out(tmp_path):
    run, given = Workdir(tmp_path), runs.small_config(dataset__name="folder:/photos")
    assert run.continued(given).dataset.holdout_by == "class"
    run.create(given)
    text = (tmp_path / "config.json").read_text()
    text = text.replace('"holdout_by": "class",', "")  # of an earlier version
    (tmp_path / "config.json").write_text(text)
    assert run.continued(given).dataset.holdout_by == "path"
    assert run.continued().dataset.holdout_by == "path"
    run.create(run.continued(given))
    assert run.config().dataset.holdout_by == "path"


def test_another_config_is_refused_by_its_field(tmp_path):
    run = Workdir(tmp_path)
    run.create(runs.small_config())
    before = (tmp_path / "config.json").read_bytes()
    for call in (run.check, run.create):
        with pytest.raises(ConfigError) as error:
            call(runs.small_config(optimizer__learning_rate=0.5, log__every_steps=1))
        first, *fields = str(error.value).splitlines()
        assert first.startswith(f"{tmp_path} holds a run of another config")
        assert fields == [
            "  config.optimizer.learning_rate: 0.05 in the run, 0.5 given"
        ]
    assert (tmp_path / "config.json").read_bytes() == before


def test_layers_to_load_are_no_other_config_without_weights_to_load(tmp_path):
    """configs/vgg.py once named such layers, also for trainings from new weights."""
    run = Workdir(tmp_path)
    run.create(runs.small_config(init_layers=("conv1_1",)))
    run.check(runs.small_config())
    given = runs.small_config(init_from="x")
    with pytest.raises(ConfigError, match="init_layers: .'conv1_1',. in the run"):
        run.check(given)


def test_a_path_that_cannot_be_a_directory(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "run"):
        for call in (Workdir(path).check, Workdir(path).create):
            with pytest.raises(WorkdirError) as error:
                call(runs.small_config())
            assert str(error.value) == f"--workdir={path}: Not a directory"


@pytest.mark.parametrize("name", ["lr[0.1]", "a\\b", "\udcff"])
def test_a_path_in_which_orbax_saves_nothing_is_refused(tmp_path, name):
    with pytest.raises(WorkdirError, match="Orbax cannot save checkpoints in a path"):
        Workdir(tmp_path / name / "run").create(runs.small_config())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a[b/c]d", "x[]", "x]1[", "50%,a=b"])
def test_other_paths_are_not_refused(tmp_path, name):
    Workdir(tmp_path / name / "run").create(runs.small_config())


def test_a_bucket_is_no_directory():
    with pytest.raises(WorkdirError, match="gs://a/b must be on a disk that is mou"):
        Workdir("gs://a/b")


def test_a_read_only_directory(tmp_path):
    with runs.read_only(tmp_path) as reason:
        for path, message in (
            (tmp_path, f"cannot write {tmp_path}/config.json: {reason}"),
            (tmp_path / "run", f"--workdir={tmp_path}/run: {reason}"),
        ):
            with pytest.raises(WorkdirError) as error:
                Workdir(path).create(runs.small_config())
            assert str(error.value) == message
    assert os.listdir(tmp_path) == []


def test_a_directory_without_a_run(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(WorkdirError) as error:
            Workdir(path).config()
        assert str(error.value).startswith(
            f"--workdir={path} holds no run (config.json is missing)"
        )
    with pytest.raises(WorkdirError, match=r"\(dataset.json is missing\)"):
        Workdir(tmp_path).read_json("dataset.json")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(WorkdirError) as error:
        Workdir(tmp_path).config()
    assert str(error.value) == f"{tmp_path}/config.json: Is a directory"


@pytest.mark.parametrize(
    "text",
    ["", "{", "\0" * 20, "[]", "null", '{"model": 3}', '{"batch_size": "many"}'],
)
def test_a_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    message = f"{tmp_path}/config.json is damaged: "
    with pytest.raises(WorkdirError, match=message):
        Workdir(tmp_path).config()
    with pytest.raises(WorkdirError, match=message):
        Workdir(tmp_path).create(runs.small_config())
    assert (tmp_path / "config.json").read_text() == text


def test_a_config_that_is_cut_or_no_text(tmp_path):
    text = configuration.to_json(runs.small_config())
    (tmp_path / "config.json").write_text(text[: len(text) // 2])
    with pytest.raises(WorkdirError, match="config.json is damaged: "):
        Workdir(tmp_path).config()
    (tmp_path / "config.json").write_bytes(b"\xff" + text.encode())
    with pytest.raises(WorkdirError, match="config.json is damaged: "):
        Workdir(tmp_path).config()


def test_json_files(tmp_path):
    run = Workdir(tmp_path)
    value = {"label_names": ["null", "één"], "image_shape": [28, 28, 1]}
    run.write_json("dataset.json", value)
    assert run.read_json("dataset.json") == value
    assert (tmp_path / "dataset.json").read_text().endswith("\n}\n")
    (tmp_path / "dataset.json").write_text('{"label_names": ["nu')
    with pytest.raises(WorkdirError, match=f"{tmp_path}/dataset.json is damaged: "):
        run.read_json("dataset.json")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    run = Workdir(tmp_path)
    (tmp_path / "dataset.json").write_text("old")
    with pytest.raises(WorkdirError) as error:
        run.write_text("dataset.json", "new")
    message = f"cannot write {tmp_path}/dataset.json: No space left on device"
    assert str(error.value) == message
    assert (tmp_path / "dataset.json").read_text() == "old"


def test_a_failed_start_may_be_repeated(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(WorkdirError, match="No space left on device"):
            Workdir(tmp_path).create(runs.small_config())
    assert "config.json" not in os.listdir(tmp_path)
    Workdir(tmp_path).create(runs.small_config())
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_name_appears_only_with_its_whole_text(tmp_path, monkeypatch):
    """The text is on the disk before the rename: a crash gives the old or the new."""
    (tmp_path / "dataset.json").write_text("old")
    seen = []

    def fsync(number):
        synced = os.readlink(f"/proc/self/fd/{number}")
        written = os.path.getsize(synced)
        seen.append((synced, written, (tmp_path / "dataset.json").read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    Workdir(tmp_path).write_text("dataset.json", "new text")
    new = f"{tmp_path}/dataset.json.{platform.node()}.{os.getpid()}.tmp"
    assert seen == [(new, 8, "old")]
    assert (tmp_path / "dataset.json").read_text() == "new text"
    assert os.listdir(tmp_path) == ["dataset.json"]


def test_environment_names_versions_and_devices(monkeypatch):
    monkeypatch.setattr(workdir, "PACKAGES", [*workdir.PACKAGES, "no-such-package"])
    monkeypatch.setattr("sys.argv", ["main.py", "--workdir=run"])
    devices = [types.SimpleNamespace(device_kind="NVIDIA H200")] * 2
    found = workdir.environment(devices, {"convolution": "xla"})
    assert found["packages"]["jax"] == jax.__version__
    assert found["packages"]["flax"] == importlib.metadata.version("flax")
    assert found["packages"].pop("no-such-package") is None
    assert None not in found["packages"].values()
    assert found["python"].startswith("3.")
    assert found["command"] == ["main.py", "--workdir=run"]
    assert found["devices"] == ["NVIDIA H200"] * 2
    assert found["kernels"] == {"convolution": "xla"}
    assert found["time"].endswith("+00:00")
    json.dumps(found)


def test_every_start_is_added(tmp_path, capsys):
    run = Workdir(tmp_path)
    for count in (1, 2):
        run.add_environment(jax.devices()[:count], {"convolution": "xla"})
    starts = run.read_json("environment.json")
    assert [start["devices"] for start in starts] == [["cpu"], ["cpu", "cpu"]]
    assert capsys.readouterr().out == ""
    (tmp_path / "environment.json").write_text("[{")
    run.add_environment([], {})
    assert len(run.read_json("environment.json")) == 1
    assert (tmp_path / "damaged-environment.json").read_text() == "[{"
    assert capsys.readouterr().out == (
        f"warning: {tmp_path}/environment.json is damaged and becomes "
        "damaged-environment.json\n"
    )


def test_git_revision(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("there is no git here")
    file = tmp_path / "experiment" / "workdir.py"
    monkeypatch.setattr(workdir, "__file__", str(file))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    # The user's own configuration may want commits to be signed.
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    assert workdir.revision() is None  # no repository

    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "gc.auto=0"]
        command = ["git", *identity, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init")
    assert workdir.revision() is None  # no commit
    (tmp_path / "workdir.py").write_text("1")
    git("add", "workdir.py")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert workdir.revision() == commit
    (tmp_path / "workdir.py").write_text("2")
    assert workdir.revision() == commit + "+"


def test_no_git_revision_without_git_or_in_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert workdir.revision() is None

    def never(command, *, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", never)
    assert workdir.revision() is None
