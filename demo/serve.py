"""Opens runs and serves the page that shows them (--mode=demo)."""

import contextlib
import importlib.util
import io
import ipaddress
import socket

from PIL import Image

import models
from demo.classifier import Classifier
from demo.detector import Detector
from errors import UsageError, UserError

NEEDS = ("starlette", "uvicorn")
MOST_RUNS = 2  # beside each other
MOST_REQUESTS = 64  # connections at once, of which the last is refused
LOCAL = ("127.0.0.1", "localhost")


def serve(runs, checkpoint, host, port, database):
    """Serves the page until it is told to stop; returns a line.

    Args:
      runs: one or two workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      host, port: the address; port 0 is any that is free.
      database: how many training images to search for the nearest.

    Raises:
      UsageError: there are more runs.
      UserError: a library is missing, or the address cannot be had.
    """
    if len(runs) > MOST_RUNS:
        raise UsageError(
            f"--mode=demo shows at most {MOST_RUNS} runs beside each other"
        )
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"--mode=demo needs {' and '.join(missing)}: "
            "pip install -r requirements-demo.txt"
        )
    from demo import site

    with listen(host, port) as listener:  # before what takes long
        shown = [open_run(run, checkpoint, database) for run in runs]
        app = site.make(shown, {host, *LOCAL} if is_local(host) else None)
        at = "{}:{}".format(*listener.getsockname())
        print(f"the page is at http://{at} (Ctrl-C ends it)", flush=True)
        if not is_local(host):
            print(
                f"note: --host={host} lets everybody who can reach this machine use "
                "the page; it asks for no password",
                flush=True,
            )
        with contextlib.suppress(KeyboardInterrupt):
            _server(app).run(sockets=[listener])
    return "the page is closed"


def open_run(run, checkpoint, database=1000):
    """Opens what the page shows of a run, and compiles what gives its first answer."""
    kind = Detector if models.is_detector(run.config().model.name) else Classifier
    shown = kind(run, checkpoint, database)
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "PNG")
    shown.answer(shown.image(file.getvalue()))
    return shown


def listen(host, port):
    """Opens a listening socket.

    Raises:
      UserError: the address is in use, or is none of this machine.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise UserError(f"--host={host} --port={port}: {error.strerror}") from error


def is_local(host):
    """Tells whether only programs of this machine reach a host's address."""
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _server(app):
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            http="h11",
            ws="none",
            lifespan="off",
            limit_concurrency=MOST_REQUESTS,
        )
    )
