"""The Makefile takes a Python that runs, and mends an environment without pip."""

import os
import shutil
import subprocess
import sys

import pytest
import runs

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


@pytest.fixture
def folder(tmp_path):
    """The Makefile and what it needs, and an empty bin, which is first on the PATH."""
    shutil.copy(runs.ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    for name in ("kernels", "bin", ".venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("native", "onednn", "onednn_check", "processor"):
        (tmp_path / "kernels" / f"{name}.py").touch()
    return tmp_path


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def make(folder, *arguments):
    environment = os.environ | {"PATH": f"{folder}/bin:/usr/bin:/bin"}
    for name in ("PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        environment.pop(name, None)
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"3": "exit 0", "3.11": "exit 0"}, "python3"),  # the one that is active
        ({"3": "exit 1", "3.11": "exit 127", "3.12": "exit 0"}, "python3.12"),
    ],
)
def test_a_python_is_one_that_runs(folder, pythons, chosen):
    """A shim of pyenv has the name of each Python, and fails where it is not on."""
    for version, text in pythons.items():
        script(folder / "bin" / f"python{version}", text)
    done = make(folder, "--eval=show: ; @echo $(PYTHON)", "show")
    assert done.stdout == f"{folder}/bin/{chosen}\n", done.stderr


@pytest.mark.parametrize(
    ("version", "ensurepip", "suits"),
    [
        ((3, 10, 9), "sys", False),
        ((3, 11, 0), "sys", True),
        ((3, 11, 0), "None", False),  # without python3-venv
        ((3, 14, 9), "sys", True),
        ((3, 15, 0), "sys", False),
    ],
)
def test_a_python_has_a_version_that_suits_and_ensurepip(
    folder, version, ensurepip, suits
):
    pretend = f"sys.version_info = {version}; sys.modules['ensurepip'] = {ensurepip}"
    call = f'exec {sys.executable} -c "import sys; {pretend}\n$2"'
    script(folder / "python", f'test "$1" = -m || {call}')
    done = make(folder, f"PYTHON={folder}/python", ".venv/installed")
    needed = "Python 3.11 to 3.14 with ensurepip (Debian: python3-venv) is needed"
    assert (f"{needed}, not {folder}/python" not in done.stderr) == suits


def test_no_python_is_said(folder):
    for version in ("3", "3.11", "3.12", "3.13", "3.14"):
        script(folder / "bin" / f"python{version}", "exit 127")
    done = make(folder, ".venv/installed")
    assert done.returncode and "is needed, not python3: make" in done.stderr


def test_an_environment_without_pip_is_made_anew(folder):
    """`python -m venv` that fails leaves bin/python behind."""
    script(folder / ".venv/bin/python", 'echo "old $@" >>log; exit 1')
    whole = 'printf "#!/bin/sh\\necho new >>log\\n" >.venv/bin/python'
    script(folder / "python", f'echo "$@" >>log; test "$1" = -c || {whole}')
    done = make(folder, f"PYTHON={folder}/python", ".venv/installed")
    assert not done.returncode, done.stderr
    lines = (folder / "log").read_text().splitlines()
    assert "-m venv --clear .venv" in lines and lines[-1] == "new"
    assert (folder / ".venv/installed").exists()
