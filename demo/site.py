"""Answers the browser's requests. No path and no address in a request is followed.

    GET  /, /NAME            the files of static/, read at the start
    GET  /figures/NAME       the pictures of docs/claims, by their listed names
    GET  /api/runs           what the runs are
    GET  /api/runs/N/filters, /api/runs/N/samples/INDEX
    POST /api/runs/N/ACTION  the body is an image; ?stage=NAME, ?drawn=1
    GET  /api/networks, /api/claims

An error is {"error": one line}. One computation runs at a time.
"""

import pathlib
import threading

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from demo import line, uploads
from errors import UserError

STATIC = pathlib.Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# The page may load from its own server alone. Pictures come as data: URLs, and what the
# browser drew or was given is shown from blob: URLs.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def make(shown, hosts):
    """Makes the ASGI application.

    Args:
      shown: the Classifier or Detector of each run.
      hosts: the names by which a browser may call this machine; None allows any.
    """
    api = Api(shown)
    files = {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES}
    pages = {"": _file(files["index.html"])}
    pages |= {name: _file(path) for name, path in files.items()}

    async def page(request):
        return _known(pages, request.path_params.get("name", ""))

    routes = [
        Route("/", page),
        Route("/figures/{name}", api.figure),
        Route("/api/runs", api.runs),
        Route("/api/runs/{run:int}/filters", api.filters),
        Route("/api/runs/{run:int}/samples/{index:int}", api.sample),
        Route("/api/runs/{run:int}/{action}", api.act, methods=["POST"]),
        Route("/api/networks", api.networks),
        Route("/api/claims", api.claims),
        Route("/{name}", page),
    ]
    handlers = {UserError: _refused, HTTPException: _failed, Exception: _broken}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), hosts)


class Api:
    """The requests for JSON."""

    def __init__(self, shown):
        self._shown, self._lock = shown, threading.Lock()

    async def runs(self, request):
        found = await self._compute(lambda: [run.describe() for run in self._shown])
        return JSONResponse({"runs": found, "most_bytes": uploads.MOST_BYTES})

    async def filters(self, request):
        return JSONResponse(await self._compute(self._run(request).filters))

    async def sample(self, request):
        index = request.path_params["index"]
        return JSONResponse(await self._compute(self._run(request).sample, index))

    async def act(self, request):
        run, action = self._run(request), request.path_params["action"]
        if action not in run.actions:
            raise HTTPException(404)
        data = await _body(request)
        drawn = "drawn" in request.query_params
        stage = request.query_params.get("stage", "")

        def compute():
            image = run.image(data, drawn)
            arguments = [stage] if action == "stage" else []
            return getattr(run, action)(image, *arguments)

        return JSONResponse(await self._compute(compute))

    async def networks(self, request):
        return JSONResponse(await self._compute(line.networks))

    async def claims(self, request):
        return JSONResponse(await self._compute(line.claims))

    async def figure(self, request):
        path = _known(line.figures(), request.path_params["name"])
        return FileResponse(path)

    def _run(self, request):
        return _known(dict(enumerate(self._shown)), request.path_params["run"])

    async def _compute(self, function, *arguments):
        """Calls a function in a thread, after those that were asked for before."""

        def alone():
            with self._lock:
                return function(*arguments)

        return await run_in_threadpool(alone)


class Guard:
    """Refuses requests that other sites send, and adds HEADERS to each response.

    A site whose name is made to mean this machine (DNS rebinding) calls it by another
    host; a form or a script of another site has another origin.
    """

    def __init__(self, app, hosts):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        sent = {
            name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]
        }

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                added = [(n.encode(), v.encode()) for n, v in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        app = self._app
        if problem := self._problem(sent):
            app = PlainTextResponse(problem, 403)
        await app(scope, receive, send_with_headers)

    def _problem(self, headers):
        host = headers.get("host", "")
        if self._hosts is not None and host.partition(":")[0] not in self._hosts:
            return "this page is not served under that name"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "another site may not use this page"
        return ""


def _file(path):
    return Response(path.read_bytes(), media_type=TYPES[path.suffix])


def _known(things, name):
    if name not in things:
        raise HTTPException(404)
    return things[name]


async def _body(request):
    """Reads an upload up to the limit.

    Raises:
      HTTPException: it is larger; the rest is not read.
    """
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > uploads.MOST_BYTES:
            raise HTTPException(
                413, f"the file is larger than {uploads.MOST_BYTES // 2**20} MiB"
            )
    return bytes(data)


def _line(text, status):
    return JSONResponse({"error": " ".join(text.split())}, status)


async def _refused(request, error):
    return _line(str(error), 400)


async def _failed(request, error):
    return _line(error.detail, error.status_code)


async def _broken(request, error):  # uvicorn prints the traceback
    return _line("the page failed at this; its terminal says more", 500)
