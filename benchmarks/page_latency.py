"""Times the answers of a page that runs (--mode=demo), from upload to JSON.

    python main.py --mode=demo --workdir=runs/lenet5
    python -m benchmarks.page_latency http://127.0.0.1:7860 [--images=20]

Each run is sent test images of the first run, one after another on one connection. The
line of a run gives the median and the longest time in milliseconds.
"""

import argparse
import base64
import http.client
import json
import statistics
import time
import urllib.parse


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address")
    parser.add_argument("--images", type=int, default=20)
    options = parser.parse_args()
    server = urllib.parse.urlsplit(options.address)
    connection = http.client.HTTPConnection(server.hostname, server.port)
    for number, run in enumerate(_ask(connection, "/api/runs")["runs"]):
        times = []
        for index in range(options.images):
            url = _ask(connection, f"/api/runs/0/samples/{index}")["picture"]
            image = base64.b64decode(url.partition(",")[2])
            start = time.perf_counter()
            _ask(connection, f"/api/runs/{number}/answer", image)
            times.append(1e3 * (time.perf_counter() - start))
        median, longest = statistics.median(times), max(times)
        print(
            f"{run['run']} ({run['network']}): {median:.0f} ms, at most {longest:.0f}"
        )


def _ask(connection, path, body=None):
    connection.request("POST" if body else "GET", path, body)
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise SystemExit(f"{path}: {response.status} {text.decode()}")
    return json.loads(text)


if __name__ == "__main__":
    main()
