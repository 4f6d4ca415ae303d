"""What restructuring must not change: bits, files, tables, messages, exit codes.

    python golden/record.py write            computes golden/record.json
    python golden/record.py compare          computes again and prints what differs
        [--only=runs,errors]                 some of the sections

It uses the command line, the files of run directories and `models.create` alone, so it
runs unchanged before and after every move. Bits are those of one machine: the record
holds what they depend on, and `compare` says when it is another one.

Left out because they differ from one start to the next: speeds, waiting times, the
memory that is free, bytes of pictures and of StableHLO (it names source files).
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import commands

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORD = ROOT / "golden" / "record.json"
TMP = pathlib.Path(tempfile.gettempdir())  # replaced by main: everything is made here
WORKERS = 2
FORKS = get_context("forkserver")
FORKED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}  # or main.py would start anew
LIBRARIES = (
    *("jax", "jax.numpy", "flax.linen", "optax", "orbax.checkpoint", "numpy"),
    *("ml_collections.config_flags", "tensorflow_datasets", "PIL.Image", "commands"),
)
MASKS = (
    (r" +[\d,]+ images/s", " N images/s"),
    (r"data wait +\d+ %", "data wait N %"),
    (r"ETA \S+", "ETA T"),
    (r"[\d.,]+ \w+ of available memory", "N of available memory"),
    (r"[\d,]+ us\b", "N us"),
    (r"[\d.]+ times as fast", "N times as fast"),
    (r"stopped at step \d+", "stopped at step N"),
    (r"[\d.]+ GB are free", "N GB are free"),
    (r"0x[0-9a-f]{6,}", "0xN"),
    (r"\b([IWEF])\d{4} [\d:.]+ +\d+ [\w.]+:\d+\]", r"\1 ...]"),
)
TIMES = re.compile("images_per_second|data_wait|seconds|speedup|^time$")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("--only", default=",".join(SECTIONS))
    options = parser.parse_args()
    names = options.only.split(",")
    old = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    global TMP
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        TMP = pathlib.Path(folder).resolve()
        commands.make_files(TMP / "files")
        env = environment()
        os.environ.clear()
        os.environ.update(env | FORKED)
        FORKS.set_forkserver_preload(list(LIBRARIES))
        new = {"machine": machine()}
        for name in names:
            start = time.monotonic()
            new[name] = json.loads(json.dumps(SECTIONS[name]()))
            if options.action == "write":
                RECORD.write_text(
                    json.dumps(old | new, indent=1, sort_keys=True) + "\n"
                )
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    if options.action == "write":
        return
    found = [
        line for name in new for line in differences(old.get(name), new[name], name)
    ]
    print("\n".join(found) or f"equal: {', '.join(names)}")
    sys.exit(bool(found))


def differences(before, after, path):
    """Lines "section / key ...: before -> after", one for each leaf that differs."""
    if isinstance(before, list) and isinstance(after, list):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            left, right = (x.get(key, "(absent)") for x in (before, after))
            yield from differences(left, right, f"{path} / {key}")
    elif before != after:
        yield f"{path}:\n    before {before!r}\n    after  {after!r}"


# Commands.


def environment(devices=1):
    """Of a child: a CPU, XLA's own flags, nobody's data and a fresh cache."""
    hidden = "XLA_FLAGS", "TFDS_DATA_DIR", "JAX_COMPILATION_CACHE_DIR", *FORKED
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1", "HOME": str(TMP / "home")}
    env["COLUMNS"] = "80"
    if devices > 1:
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    return env


def python(*arguments, devices=1, **more):
    """`python ...` in the repository's root; a CompletedProcess with text."""
    env = environment(devices) | more
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True
    )


def program(*arguments, **more):
    """`python main.py ...`; "TMP" in the arguments stands for the temporary folder."""
    arguments = [a.replace("TMP", str(TMP)) for a in arguments]
    return python("main.py", f"--compilation_cache={TMP}/cache", *arguments, **more)


def quick(*arguments):
    """What `program` is, in a fork of a process that has imported the libraries.

    It saves two seconds of importing for each of the many commands that end at once.
    """
    arguments = [a.replace("TMP", str(TMP)) for a in arguments]
    arguments = ["main.py", f"--compilation_cache={TMP}/cache", *arguments]
    with tempfile.TemporaryDirectory(dir=TMP) as folder:
        paths = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
        child = FORKS.Process(target=run_main, args=(arguments, *map(str, paths)))
        child.start()
        child.join()
        texts = [path.read_text() for path in paths]
    return subprocess.CompletedProcess(arguments, child.exitcode, *texts)


def run_main(arguments, *paths):
    for number, path in enumerate(paths, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    sys.path[0], sys.argv = str(ROOT), arguments
    runpy.run_path("main.py", run_name="__main__")


def masked(text):
    flat = str(TMP).strip("/").replace("/", "_")  # in the name of a cache of images
    places = {str(TMP): "TMP", flat: "TMP", str(ROOT): "ROOT"}
    for pattern, by in (*((re.escape(k), v) for k, v in places.items()), *MASKS):
        text = re.sub(pattern, by, text)
    return text.splitlines()


def in_threads(function, items):
    """{item: function(item)}, a few children at a time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(items, pool.map(function, items), strict=True))


def sha(data):
    return hashlib.sha256(data).hexdigest()[:16]


def machine():
    """What the bits depend on beside this repository."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    flags = sorted({x for x in lines if x.startswith(("flags", "Features"))})
    packages = python("-m", "pip", "list", "--format=freeze").stdout
    kept = re.findall(r"(?m)^(?:jax|jaxlib|flax|optax|numpy|pillow)==.*$", packages)
    kernels = pathlib.Path(sys.prefix, "lib", "convnets").glob("*.so")
    return {
        "cpu": sha("\n".join(flags).encode()),
        "cores": len(os.sched_getaffinity(0)),
        "packages": kept,
        "kernels are built": any(kernels),
    }


# Files of runs.


def content(path):
    """What a file says, as far as it is the same at every start."""
    if path.name == "environment.json":
        return len(json.loads(path.read_text()))
    if path.name == "metrics.jsonl":
        return [timeless(json.loads(x)) for x in path.read_text().splitlines()]
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path) as file:
            return {
                k: f"{v.dtype} {v.shape} {sha(v.tobytes())}" for k, v in file.items()
            }
    if path.suffix in (".txt", ".csv", ".safetensors"):
        return sha(path.read_bytes())
    return "present"


def timeless(values):
    if isinstance(values, dict):
        kept = {k: timeless(v) for k, v in values.items() if not TIMES.search(k)}
        return json.loads("\n".join(masked(json.dumps(kept))))
    return values


def files(folder, since=None):
    """{name: content} of the files in a directory but for what Orbax writes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and "checkpoints/" not in name and ".tfevents" not in name:
            found[name] = content(path)
    found |= {str(p.relative_to(folder)): leaves(p) for p in folder.rglob("meta")}
    return {k: v for k, v in found.items() if since is None or since.get(k) != v}


def leaves(meta):
    """{leaf: "dtype shape CRC-32"} of a checkpoint; a digest unless it is the last."""
    record = json.loads((meta / "metadata").read_text())
    found = {name: " ".join(map(str, x)) for name, x in record["leaves"].items()}
    steps = [int(p.name) for p in meta.parent.parent.iterdir() if p.name.isdecimal()]
    if int(meta.parent.name) != max(steps):
        found = sha(json.dumps(found).encode())
    return {"leaves": found, "meta": record["meta"], "metrics": record["metrics"]}


# Sections.


STARTS = {}  # {run: what its starts printed, their exit codes}


def trained(names):
    """Trains those of commands.RUNS that are not yet there; STARTS."""
    needed = {*names, "modern"} - STARTS.keys()
    for later in (False, True):
        part = [x for x in commands.RUNS if x in needed]
        part = [x for x in part if (x in commands.LATER) == later]
        STARTS.update(in_threads(train, part))
    return STARTS


def train(name):
    printed = []
    devices = 2 if name == "two_devices" else 1
    for arguments in commands.RUNS[name]:
        done = program(f"--workdir=TMP/{name}", *arguments, devices=devices)
        if done.returncode:
            print(name, done.stderr[-2000:], file=sys.stderr)
        printed.append({"exit": done.returncode, "stdout": masked(done.stdout)})
    return printed


def runs():
    return {
        name: {"starts": starts, "files": files(TMP / name)}
        for name, starts in trained(commands.RUNS).items()
    }


def modes():
    trained(named(x for arguments in commands.MODES.values() for x in arguments))
    return in_threads(mode, commands.MODES)


def named(arguments):
    """The runs in "--workdir=RUN/a,RUN/b"."""
    return re.findall(r"RUN/(\w+)", " ".join(arguments))


def mode(label):
    """What a command prints and writes on copies of the runs it names, RUN/name."""
    folder = TMP / "modes" / label
    arguments = commands.MODES[label]
    for name in named(arguments):
        shutil.copytree(TMP / name, folder / name, dirs_exist_ok=True)
    before = files(folder)
    done = quick(*(a.replace("RUN", str(folder)) for a in arguments))
    if done.returncode:
        print(label, done.stderr[-2000:], file=sys.stderr)
    return {
        "exit": done.returncode,
        "stdout": masked(done.stdout),
        "files": files(folder, since=before),
    }


def sweep():
    found = {}
    for name, arguments in commands.SWEEPS.items():
        done = program(f"--workdir=TMP/{name}", *arguments)
        again = program(f"--workdir=TMP/{name}", *arguments)
        found[name] = {
            "exit": [done.returncode, again.returncode],
            "stdout": masked(done.stdout),
            "again": masked(again.stdout),
            "files": files(TMP / name),
        }
    return found


def errors():
    trained(commands.IN_ERRORS)
    modern = " ".join(commands.MODERN)
    labels = {" ".join(x).replace(modern, "SMALL"): x for x in commands.ERRORS}
    commands.spoil_runs(TMP)
    found = in_threads(lambda label: error(label, labels[label]), labels)
    python_m = ["nosuch"], ["--format=xml"], ["resnet18", "--plot=a.txt"]
    for arguments in python_m:
        done = python("-m", "models", *arguments)
        label = f"python -m models {' '.join(arguments)}"
        found[label] = [done.returncode, *masked(done.stderr)[-1:]]
    return found | {"no such platform": no_platform(), "SIGTERM": stopped()}


def error(label, arguments):
    """Exit code, whether a directory was made, the message, or a traceback's end."""
    number = sha(label.encode())
    new = TMP / "errors" / number  # NEW: a run that is not there
    arguments = [a.replace("NEW", str(new)) for a in arguments]
    return said(quick(*arguments), new)


def said(done, new):
    lines = masked(done.stderr.replace(str(new), "NEW"))
    starts = [i for i, line in enumerate(lines) if line.startswith("error:")]
    ends = [x for x in lines if re.match(r"[\w.]+Error: |W \.\.\.\]", x)]
    shown = lines[starts[0] :] if starts else ["(no error line)", *ends[-1:]]
    return {"exit": done.returncode, "made": new.exists(), "stderr": shown}


def no_platform():
    new = TMP / "errors" / "platform"
    arguments = [*commands.MODERN, f"--workdir={new}"]
    return said(program(*arguments, JAX_PLATFORMS="nosuch"), new)


def stopped():
    """A training that gets SIGTERM: its exit code and last line."""
    arguments = [f"--workdir={TMP}/stopped", *commands.MODERN, *commands.ENDLESS]
    command = [
        sys.executable,
        "main.py",
        f"--compilation_cache={TMP}/cache",
        *arguments,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes) as child:
        for line in child.stdout:
            if line.startswith("step"):
                child.send_signal(signal.SIGTERM)
                break
        last = child.stdout.read().splitlines()[-1]
    return {"exit": child.returncode, "stdout": masked(last)}


@functools.cache
def rows():
    """The table of all networks as `python -m models` prints it, {network: line}."""
    done = python("-m", "models", "--format=csv")
    lines = done.stdout.splitlines()
    return {line.split(",")[0]: line for line in lines}


def table():
    few = "lenet5", "googlenet", "resnet18", "resnet20"
    forms = {
        " ".join(x): python("-m", "models", *few, *x).stdout.splitlines()
        for x in (["--format=text"], ["--format=markdown"], ["--sort=multiply_adds"])
    }
    return {"csv": rows(), **forms}


def layers():
    def summarize(config):
        done = quick("--mode=summarize", f"--config=configs/{config}")
        return [done.returncode, *masked(done.stdout)]

    return in_threads(summarize, commands.SUMMARIZED)


# Networks, in processes of their own.


def networks():
    shapes = json.loads(RECORD.read_text()).get("table") if RECORD.exists() else None
    lines = shapes["csv"] if shapes else rows()
    size = {
        k: tuple(map(int, x.split(",")[4:7])) for k, x in lines.items() if k != "name"
    }
    os.environ |= environment() | {"XLA_FLAGS": "--xla_backend_optimization_level=1"}
    sys.path.insert(0, str(ROOT))
    import models

    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        computed = pool.map(values, *zip(*commands.COMPUTED, strict=True))
        counted = pool.map(structure, models.MODELS, [size[k] for k in models.MODELS])
        return {
            "values": dict(computed),
            "structure": dict(zip(models.MODELS, counted, strict=True)),
        }


def network(name, classes):
    sys.path.insert(0, str(ROOT))
    import models

    return models.create(name, num_classes=classes)


def structure(name, size):
    """Parameters and statistics of a network of (pixels, channels, classes)."""
    import jax
    import jax.numpy as jnp

    image, channels, classes = size
    init = functools.partial(network(name, classes).init, train=False)
    images = jnp.zeros((1, image, image, channels))
    tree = jax.eval_shape(init, jax.random.key(0), images)
    found = {
        "/".join(str(k.key) for k in path): f"{leaf.dtype} {leaf.shape}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    total = sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))
    return (
        f"{len(found)} arrays, {total:,} parameters, {sha(json.dumps(found).encode())}"
    )


def values(name, image, channels, classes):
    """Digests of a network's start from seed 0 and of what it gives for two images."""
    import jax
    import numpy as np

    model = network(name, classes)
    images = np.random.default_rng(0).normal(size=(2, image, image, channels))
    images = images.astype(np.float32)
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(0), images[:1])
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    training = functools.partial(
        model.apply,
        train=True,
        mutable=["batch_stats", "auxiliary"],
        rngs={"dropout": jax.random.key(1)},
    )
    trained = jax.jit(training)(variables, images)

    def digest(tree):
        return sha(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(tree)))

    parts = {"start": variables, "evaluation": logits, "training": trained}
    return name, {key: digest(tree) for key, tree in parts.items()}


SECTIONS = {
    "runs": runs,
    "errors": errors,
    "layers": layers,
    "modes": modes,
    "sweep": sweep,
    "table": table,
    "networks": networks,
}

if __name__ == "__main__":
    main()
