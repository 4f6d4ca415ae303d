"""What a request can and cannot do; docs/demo.md refers to these tests."""

import contextlib
import http.client
import json
import pathlib
import re
import sys
import threading
import time

import numpy as np
import pytest
import tiny_datasets

from demo import serve, uploads
from demo.uploads import Refused

pytest.importorskip("starlette", reason="requirements-demo.txt is not installed")
pytest.importorskip("uvicorn", reason="requirements-demo.txt is not installed")


class Stub:
    """Stands for a Classifier: says what it was given."""

    actions = ("answer", "stage")
    busy = 0
    most_busy = 0

    def describe(self):
        return {"kind": "stub"}

    def filters(self):
        raise TypeError("a bug\nof ours")

    def sample(self, index):
        return {"index": index}

    def image(self, data, drawn=False):
        return uploads.read(data, 1), drawn

    def answer(self, image):
        Stub.busy += 1
        Stub.most_busy = max(Stub.busy, Stub.most_busy)
        time.sleep(0.02)
        Stub.busy -= 1
        return {"shape": image[0].shape, "drawn": image[1]}

    def stage(self, image, name):
        if name != "C1":
            raise Refused(f"no stage {name}\nhere")
        return {"stage": name}

    def secret(self, image):
        raise AssertionError("it is no action")


@contextlib.contextmanager
def serving(hosts):
    from demo import site

    with serve.listen("127.0.0.1", 0) as listener:
        server = serve._server(site.make([Stub()], hosts))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port():
    with serving(serve.LOCAL) as port:
        yield port


def ask(port, path, body=None, method=None, **headers):
    """Returns (status, headers, body) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(
        method or ("GET" if body is None else "POST"), path, body, headers
    )
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return found


def error(port, path, body=None, **options):
    """Returns (status, the line of the error)."""
    status, _, text = ask(port, path, body, **options)
    line = json.loads(text)["error"]
    assert "\n" not in line and "Traceback" not in line
    return status, line


PNG = tiny_datasets.png(np.full((6, 5, 1), 9, np.uint8))


def test_an_image_is_answered(port):
    status, _, body = ask(port, "/api/runs/0/answer?drawn=1", PNG)
    assert (status, json.loads(body)) == (200, {"shape": [6, 5, 1], "drawn": True})
    _, _, body = ask(port, "/api/runs/0/stage?stage=C1", PNG)
    assert json.loads(body) == {"stage": "C1"}
    _, _, body = ask(port, "/api/runs/0/samples/12")
    assert json.loads(body) == {"index": 12}


def test_an_upload_is_not_written(port):
    """No file is opened for writing while an image of 2 MiB is answered."""
    written = []

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[1], str):
            written.extend(arguments[:1] if set(arguments[1]) & set("wax+") else ())

    noise = np.random.default_rng(0).integers(0, 256, (1500, 1400, 1), np.uint8)
    image = tiny_datasets.png(noise)
    sys.addaudithook(watch)  # stays until the end of the process
    assert len(image) > 2**21 - 2**18
    assert ask(port, "/api/runs/0/answer", image)[0] == 200
    assert ask(port, "/api/runs/0/answer", image[:-1000])[0] == 400
    assert not written


def test_damaged_and_enormous_uploads_get_one_line(port):
    assert error(port, "/api/runs/0/answer", PNG[:40])[0] == 400
    status, line = error(port, "/api/runs/0/answer", b"")
    assert status == 400 and line.startswith("this file is no readable PNG")
    assert error(port, "/api/runs/0/stage?stage=x", PNG) == (400, "no stage x here")
    # The server stops to read at the limit, in the middle of the upload.
    large = bytes(uploads.MOST_BYTES + 2**16)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        status, line = error(port, "/api/runs/0/answer", large)
        assert (status, line) == (413, "the file is larger than 16 MiB")
    assert ask(port, "/api/runs/0/answer", PNG)[0] == 200  # it goes on


@pytest.mark.parametrize(
    "path",
    [
        "/../main.py",
        "/..%2fmain.py",
        "/%2e%2e/main.py",
        "//etc/passwd",
        "/static/page.js",
        "/figures/../../README.md",
        "/figures/..%2f..%2fREADME.md",
        "/figures/bottleneck-small.json",
        "/api/runs/1/filters",
        "/api/runs/-1/filters",
        "/api/runs/0/samples/-1",
        "/openapi.json",
    ],
)
def test_only_listed_files_are_served(port, path):
    assert error(port, path)[0] == 404


def test_only_actions_are_called(port):
    for name in ("secret", "__init__", "describe"):
        assert error(port, f"/api/runs/0/{name}", PNG)[0] == 404
    assert error(port, "/api/runs/0/answer")[0] == 405
    assert error(port, "/", PNG)[0] == 405


def test_a_bug_of_ours_shows_no_code(port):
    status, line = error(port, "/api/runs/0/filters")
    assert status == 500 and "bug" not in line


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "", "[::1]:7860"]
)
def test_another_name_of_this_machine_is_refused(port, host):
    """DNS rebinding: a site's own name is made to mean 127.0.0.1."""
    status, _, body = ask(port, "/api/runs", Host=host)
    assert status == 403 and b"name" in body


def test_other_sites_cannot_use_the_page(port):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert ask(port, "/api/runs/0/answer", PNG, Origin=origin)[0] == 403
    own = f"http://127.0.0.1:{port}"
    status, headers, _ = ask(port, "/api/runs/0/answer", PNG, Origin=own)
    assert status == 200
    assert not any(name.lower().startswith("access-control") for name in headers)


def test_an_open_host_takes_any_name():
    with serving(None) as port:
        assert ask(port, "/api/runs", Host="lab.example")[0] == 200
        page = ask(port, "/", Host="lab.example")[2]  # for other machines, too
        assert b"this machine" not in page and b"are not stored" in page
        own, other = "http://lab.example", "http://evil.example"
        asked = {"path": "/api/runs/0/answer", "body": PNG, "Host": "lab.example"}
        assert ask(port, **asked, Origin=own)[0] == 200
        assert ask(port, **asked, Origin=other)[0] == 403


def test_the_page_loads_from_its_own_server_alone(port):
    for path in ("/", "/page.js", "/page.css", "/api/runs", "/nothing"):
        _, headers, _ = ask(port, path)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in {name.lower() for name in headers}
    static = pathlib.Path(serve.__file__).parent / "static"
    for path in static.iterdir():
        addresses = set(re.findall(r"https?://[^\"'\s]*", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path  # a name, not a link
        assert "innerHTML" not in path.read_text()
        assert ask(port, f"/{path.name}")[0] == 200


def test_one_computation_runs_at_a_time(port):
    Stub.most_busy = 0
    threads = [
        threading.Thread(target=ask, args=(port, "/api/runs/0/answer", PNG))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Stub.most_busy == 1


def test_a_request_beside_too_many_connections_is_refused(monkeypatch):
    """The limit counts its own connection; those before it stay open."""
    monkeypatch.setattr(serve, "MOST_REQUESTS", 3)
    found = []
    with serving(serve.LOCAL) as port, contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            stack.callback(connection.close)
            connection.request("GET", "/api/runs")
            found.append(connection.getresponse().status)
    assert found == [200, 200, 503]
