"""The run directory: all that is needed to resume, evaluate and use a trained network.

config.json         the whole config, as resolved from file and command line
dataset.json        what the network must know about its data: classes, image shape;
                    and by which numbers its examples are known again
preprocessing.json  how a stored image becomes the network's input
statistics.npz      arrays that preprocessing needs, fitted on the training images
environment.json    package versions, git revision and devices of each start
remat.json          the stages that config.model.remat = "auto" stands for (budget.py)
metrics.jsonl       one line per report; TensorBoard's files lie beside it
checkpoints/        one directory per saved step
lock                who writes here, while somebody does (ownership.py)
"""

import contextlib
import datetime
import errno
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import zipfile

import numpy as np

from data_source import as_text
from errors import UserError
from experiment import configuration, ownership

PACKAGES = (
    "jax jaxlib flax optax orbax-checkpoint tensorflow-datasets array-record grain "
    "ml-collections clu numpy pillow simplejpeg cykooz-resizer scipy"
).split()


class WorkdirError(UserError):
    """The run directory cannot be used; the message says why and what to do."""


class ReadOnly(WorkdirError):
    """Nothing may be written to the run directory."""


class Workdir:
    """The paths and small files of one run."""

    def __init__(self, path):
        if re.match(r"\w+://", str(path)):
            raise WorkdirError(f"--workdir={path} must be on a disk that is mounted")
        self.path = pathlib.Path(path).expanduser().absolute()
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.lock = ownership.Lock(self.path)

    def __str__(self):
        return str(self.path)

    def check(self, config):
        """Raises if training `config` here would mix with something else.

        The directory may be empty or yet to be made, or hold a run that `config`
        continues; then this returns the run's own config.
        """
        if odd := re.search(r"\\|\[[^/\]]+\]|[\ud800-\udfff]", str(self.path)):
            raise WorkdirError(
                f"--workdir={as_text(str(self.path))}: Orbax cannot save checkpoints "
                f"in a path with {as_text(odd[0])!r}; choose another name"
            )
        try:
            names = {p.name for p in self.path.iterdir()}
        except FileNotFoundError:
            return None
        except OSError as e:
            raise WorkdirError(f"--workdir={self.path}: {e.strerror}") from e
        if "config.json" in names:
            stored = self.config()
            saved = self.checkpoints.exists()
            configuration.check_resumable(stored, config, self.path, saved)
            return stored
        if names := names - {"config.json.tmp", ownership.FILE}:  # of a killed start
            raise WorkdirError(
                f"--workdir={self.path} holds no run but other files, such as "
                f"{min(names)}; choose an empty or new directory"
            )
        return None

    def continued(self, config=None):
        """Returns the config with which a run here goes on; without `config`, its own.

        A run of an earlier version keeps its rule by which images are held out.
        """
        if config is None:
            return self.config()
        if not self.has("config.json") or self.config().dataset.holdout_by != "path":
            return config
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.dataset.holdout_by = self.config().dataset.holdout_by
        return config

    def create(self, config):
        """Makes the directory, or keeps it, and writes config.json if it changed."""
        stored = self.check(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise WorkdirError(f"--workdir={self.path}: {e.strerror}") from e
        text = configuration.to_json(config)
        if stored is not None and configuration.to_json(stored) == text:
            return
        self.write_text("config.json", text)

    def config(self):
        text = self._read("config.json")
        try:
            return configuration.from_json(text)
        except (ValueError, TypeError, AttributeError) as e:
            raise WorkdirError(f"{self.path / 'config.json'} is damaged: {e}") from e

    def write_text(self, name, text):
        self.write_bytes(name, text.encode())

    def has(self, name):
        return (self.path / name).exists()

    def write_bytes(self, name, content):
        self._write(name, lambda file: file.write(content))

    def write_arrays(self, name, arrays):
        """Writes {name: array} as an .npz file."""
        self._write(name, lambda file: np.savez(file, **arrays))

    def read_arrays(self, name):
        path = self.path / name
        try:
            with np.load(path) as file:
                return dict(file)
        except FileNotFoundError as e:
            raise WorkdirError(f"--workdir={self.path}: {name} is missing") from e
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
            raise WorkdirError(f"{path} is damaged: {e}") from e

    def _write(self, name, write):
        # The file is renamed into place, so that a kill leaves the old or the new one.
        # Two evaluations may write one name at once. `check` knows config.json's.
        mine = "" if name == "config.json" else f".{platform.node()}.{os.getpid()}"
        path, new = self.path / name, self.path / f"{name}{mine}.tmp"
        try:
            with open(new, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as e:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            forbidden = e.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            kind = ReadOnly if forbidden else WorkdirError
            raise kind(f"cannot write {path}: {e.strerror}") from e

    def write_json(self, name, value):
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def read_json(self, name):
        text = self._read(name)
        try:
            return json.loads(text)
        except ValueError as e:
            raise WorkdirError(f"{self.path / name} is damaged: {e}") from e

    def starts(self):
        """What each start of this run ran on: dicts from `environment`."""
        try:
            starts = json.loads((self.path / "environment.json").read_text())
        except (OSError, ValueError):
            return []
        return starts if isinstance(starts, list) else []

    def add_environment(self, devices, kernels):
        """Appends what this start runs on to environment.json.

        One that is damaged is renamed to damaged-environment.json.
        """
        path = self.path / "environment.json"
        if path.exists() and not self.starts():
            print(f"warning: {path} is damaged and becomes damaged-{path.name}")
            path.replace(path.with_name(f"damaged-{path.name}"))
        starts = [*self.starts(), environment(devices, kernels)]
        self.write_json("environment.json", starts)

    def _read(self, name):
        path = self.path / name
        try:
            return path.read_text()
        except UnicodeDecodeError as e:
            raise WorkdirError(f"{path} is damaged: {e}") from e
        except FileNotFoundError as e:
            raise WorkdirError(
                f"--workdir={self.path} holds no run ({name} is missing); train one "
                "with --mode=train or name its directory"
            ) from e
        except OSError as e:
            raise WorkdirError(f"{path}: {e.strerror}") from e


def environment(devices, kernels):
    """Collects versions, revision, devices and kernels for environment.json."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": versions,
        "git": revision(),
        "devices": [str(d.device_kind) for d in devices],
        "kernels": kernels,
    }


def revision():
    """The commit of this code, with "+" if files differ from it; None without git."""
    here = pathlib.Path(__file__).parents[1]
    try:
        output = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return output.stdout.strip()
