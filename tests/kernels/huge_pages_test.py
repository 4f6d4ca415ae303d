"""The program restarts once, with the arguments it was given."""

import os
import pathlib
import subprocess
import sys

import pytest

from kernels import huge_pages

FOLDER = pathlib.Path(huge_pages.__file__).parents[1]
SCRIPT = """
import os, pathlib, sys
from kernels import huge_pages
print("start")
huge_pages._KERNEL = pathlib.Path(sys.argv[1])
huge_pages._known = lambda: True  # whatever the C library here
huge_pages.start_anew()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux's")
@pytest.mark.parametrize(
    "kernel, given, starts, tunables",
    [
        ("always [madvise] never", None, 2, "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "a.b=2", 2, "a.b=2:glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", 1, None),
        ("[always] madvise never", None, 1, None),
        ("always madvise [never]", None, 1, None),
        (None, None, 1, None),
    ],
)
def test_starts(tmp_path, kernel, given, starts, tunables):
    file = tmp_path / "enabled"
    if kernel:
        file.write_text(kernel)
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    environment.pop("GLIBC_TUNABLES", None)
    if given:
        environment["GLIBC_TUNABLES"] = given
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, file, "--a=b", "c d"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *begun, end = done.stdout.splitlines()
    assert begun == ["start"] * starts
    assert end == f"{tunables or given} ['--a=b', 'c d']"


@pytest.mark.parametrize(
    "name, version, known",
    [("glibc", "2.35", True), ("glibc", "2.34", False), ("", "", False)],
)
def test_only_a_c_library_that_knows_the_variable_is_started_anew(
    monkeypatch, name, version, known
):
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: (name, version))
    assert huge_pages._known() == known
