"""What this jaxlib can do on this processor, found out by trying each thing.

oneDNN's custom calls are no public interface, and a call that XLA does not understand
ends the process. So a child process makes them (kernels/onednn_check.py), once for this
jaxlib, processor and source, and the answer is kept in a file beside the built library.
`python -m kernels.native` writes that file; otherwise the first program that could use
a call does. XLA's compiler options are tried in this process, on a program that takes
milliseconds to compile.

Whatever is missing is logged once, as a warning of one line.
"""

import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import jax
from absl import logging
from jax import lax

from kernels import processor
from kernels.choice import choice

CALLS = ("convolution", "matmul")  # their names follow "__onednn$"
LASTING = 3  # a child's exit code if its call fails, as it would at any time
_SOURCES = ("onednn.py", "onednn_check.py")
_PATIENCE = 300  # seconds for a child, on a machine that is busy
_FROM_OUTSIDE = (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)


def has_call(name):
    """Whether oneDNN's call of that name, one of CALLS, works here."""
    if choice.onednn is None:
        choice.onednn = _read() or probe()
        for call, reason in choice.onednn.items():
            if reason:
                logging.warning(
                    "oneDNN's %s is not used: %s (python -m kernels.native tries it "
                    "again)",
                    call,
                    reason,
                )
    return not choice.onednn[name]


def probe():
    """Tries oneDNN's calls and keeps the answer, {name: "" or why it is not used}."""
    answers, lasting = {}, True
    for name in CALLS:
        answers[name], final = _try(name)
        lasting = lasting and final
    if lasting:
        _write(answers)
    return answers


def child(name):
    """Returns the command that tries one of CALLS; it runs in the folder above."""
    return [sys.executable, "-m", "kernels.onednn_check", name]


def _try(name):
    """Returns ("" or why a call cannot be used, whether that holds another time)."""
    # The answer must depend on jaxlib alone and must not occupy an accelerator.
    mine = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "PYTHONSAFEPATH")
    environment = {k: v for k, v in os.environ.items() if k not in mine}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    try:
        done = subprocess.run(
            child(name),
            cwd=processor.FOLDER.parent,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"it could not be tried: {error}", False
    if done.returncode < 0:
        number = -done.returncode
        return f"it ended the process with signal {number}", number not in _FROM_OUTSIDE
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it failed"]
        return lines[-1][:200], done.returncode == LASTING
    return "", True


def _places():
    """Returns where the answer may be, the best place first."""
    return processor.places("onednn-{}.json", _SOURCES)


def _read():
    """Returns the answer that was kept, or None."""
    for place in _places():
        with contextlib.suppress(OSError, ValueError):
            answers = json.loads(place.read_text())
            if isinstance(answers, dict) and answers.keys() == set(CALLS):
                return answers
    return None


def _write(answers):
    """Keeps the answers in the first place that can be written."""
    for place in _places():
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as folder:
                whole = pathlib.Path(folder, place.name)
                whole.write_text(json.dumps(answers, indent=2) + "\n")
                whole.replace(place)  # The file appears whole, even if two write.
            return
    logging.warning(
        "oneDNN's calls are tried at every start, because %s cannot be written",
        " and ".join(str(place) for place in _places()),
    )


@functools.cache
def has_option(name, value):
    """Whether XLA's CPU backend takes a compiler option with that value.

    XLA accepts any name for a pass that it is to skip. The pass that we skip removes
    barriers, so a barrier in the compiled program shows that the option had an effect.
    """
    x = jax.ShapeDtypeStruct((), "float32")
    options = {name: value}
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            program = jax.jit(lax.optimization_barrier, compiler_options=options)
            text = program.lower(x).compile().as_text()
    except jax.errors.JaxRuntimeError as error:
        logging.warning("XLA's option %s=%s is not used: %s", name, value, error)
        return False
    if name == "xla_disable_hlo_passes" and "opt-barrier" not in text:
        logging.warning("XLA's option %s=%s is not used: it has no effect", name, value)
        return False
    return True
