"""How the page starts, and what it says when it cannot."""

import importlib.util
import socket

import demo_runs
import pytest
import runs

from demo import serve
from errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return demo_runs.make(tmp_path_factory.mktemp("run") / "lenet5")


@pytest.fixture
def served(monkeypatch):
    """The applications that would be served, and the sockets."""
    pytest.importorskip("starlette", reason="requirements-demo.txt is not installed")
    found = []

    class Server:
        def __init__(self, app):
            self._app = app

        def run(self, sockets):
            found.append((self._app, sockets[0].getsockname()[0]))
            raise KeyboardInterrupt

    monkeypatch.setattr(serve, "_server", Server)
    return found


def test_it_serves_this_machine_alone_unless_told_otherwise(run, served):
    result = runs.call_main(["--mode=demo", f"--workdir={run}", "--port=0"])
    assert result.returncode == 0 and not result.stderr
    first, last = result.stdout.splitlines()
    assert first.startswith("the page is at http://127.0.0.1:")
    assert last == "the page is closed"
    ((app, host),) = served
    assert host == "127.0.0.1" and app._hosts == {"127.0.0.1", "localhost"}


def test_an_open_host_is_said(run, served):
    arguments = ["--mode=demo", f"--workdir={run},{run}", "--port=0", "--host=0.0.0.0"]
    result = runs.call_main(arguments)
    assert "note: --host=0.0.0.0 lets everybody" in result.stdout
    assert served[0][0]._hosts is None


def test_what_cannot_be_served_is_one_line(run, monkeypatch, tmp_path):
    def line(*arguments):
        result = runs.call_main(["--mode=demo", *arguments])
        (text,) = result.stderr.splitlines()
        return result.returncode, text

    workdir = f"--workdir={run}"
    code, text = line(f"--workdir={run},{run},{run}")
    assert code == 2 and "at most 2 runs" in text
    assert line(f"--workdir={tmp_path}/none")[0] == 1
    code, text = line(workdir, "--config=configs/lenet5.py")
    assert code == 2 and "the run's own config" in text
    assert line(workdir, "--port=70000")[0] == 2
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        code, text = line(workdir)
    assert code == 1 and text.endswith("pip install -r requirements-demo.txt")


def test_an_address_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port}: Address already in use"):
            serve.listen("127.0.0.1", port)
    with pytest.raises(UserError, match="--host=192.0.2.1"):  # nobody's, RFC 5737
        serve.listen("192.0.2.1", 0)


def test_flags_of_the_page_are_for_the_page(run):
    result = runs.call_main(["--mode=inspect", f"--workdir={run}", "--port=80"])
    assert result.returncode == 2 and "--port is for demo" in result.stderr


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True)]
    + [("0.0.0.0", False), ("192.168.1.2", False), ("lab.example", False)],
)
def test_local_hosts(host, local):
    assert serve.is_local(host) is local
