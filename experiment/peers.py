"""Lets the processes of one run begin together, and end with the line of a failure.

A process that waits for the others in a collective cannot be told by an exception, so a
thread waits for the news, prints the line and ends the process. The news travel over
jax.distributed's store of keys and values. Its heartbeats find a process that died.
"""

import atexit
import contextlib
import ctypes
import functools
import itertools
import json
import os
import sys
import threading
import time
import traceback

from errors import FAILED, PREEMPTED, UsageError, UserError, foreign
from experiment import ownership

SILENCE = 25  # seconds without a heartbeat after which a process counts as dead
_DIED = (
    "another process of this run died or cannot be reached; the same command goes on "
    "from the last checkpoint"
)
_FAILURE, _HEARD = "convnets/failure", "convnets/heard"
_meetings = (f"convnets/meeting/{number}" for number in itertools.count())
MEETING = 300_000  # milliseconds until a process that has not come is an error
_client = None  # jax.distributed's, in a run of several processes
_process, _count = 0, 1
_handler = None  # of C++'s std::terminate
_ending = threading.Lock()  # only one thread ends this process


def is_first():
    """True in process 0."""
    bridge = _started()
    return (bridge.process_index() if bridge else _process) == 0


def count():
    """The number of processes."""
    bridge = _started()
    return bridge.process_count() if bridge else _count


def _started():
    """What knows jax's processes, or None before devices start: nothing here does that.

    A mode that computes nothing, and one whose children compute, need none.
    """
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge if bridge and bridge.backends_are_initialized() else None


def join(*arguments):
    """Calls jax.distributed.initialize, and heeds the other processes from then on."""
    global _client, _process, _count
    import jax
    from jax._src import distributed

    library, state = distributed._jax, distributed.global_state
    make = library.get_distributed_runtime_client
    if _catch_bad_cast():
        # jax.distributed has no argument for the callback. Nothing calls it: to hand
        # C++'s Status to Python is a bad cast, which `_catch_bad_cast` waits for.
        library.get_distributed_runtime_client = functools.partial(
            make, missed_heartbeat_callback=print
        )
    try:
        jax.distributed.initialize(*arguments, heartbeat_timeout_seconds=SILENCE)
    except ValueError as error:  # one that no cluster and no flag tells
        raise UsageError(
            "the processes need --coordinator=host:port, --num_processes and "
            f"--process_id: {error}"
        ) from error
    finally:
        library.get_distributed_runtime_client = make
    if state.num_processes > 1:
        _client, _process, _count = state.client, state.process_id, state.num_processes
        ended = threading.Event()
        listener = threading.Thread(target=_listen, args=[_client, ended], daemon=True)
        listener.start()
        # At the end, before jax's own clean-up takes the client away.
        atexit.register(lambda: (ended.set(), listener.join()))


def meet(run):
    """Waits for the other processes; raises unless all see the same run directory.

    Process 0 may wait for a lock for ownership.STALE seconds, and in a collective the
    others would wait for it for no more than 30, over gloo.
    """
    if _client is not None:
        _client.wait_at_barrier(next(_meetings), timeout_in_ms=MEETING)
    check_shared(run.path / "config.json")


def check_shared(path):
    """Raises UserError if some processes see `path` and others do not."""
    if count() == 1:
        return
    from jax.experimental import multihost_utils

    seen = multihost_utils.process_allgather(path.exists()).tolist()
    if any(seen) and not all(seen):
        raise UserError(
            f"process {seen.index(False)} does not see {path}, which process "
            f"{seen.index(True)} sees: --workdir must lie on a disk that all hosts "
            "share"
        )


@contextlib.contextmanager
def ending_together():
    """Ends all processes of this run by an error that is met within.

    It goes inside whatever is closed on an error, which might wait for the others.
    In a run of one process, and for a stop on which all agree, the error is passed on.
    """
    try:
        yield
    except Exception as error:
        known = foreign.as_user_error(error)
        if _client is not None and (known is None or known.exit_code != PREEMPTED):
            _end_all(error, known)
        raise


def _end_all(error, known):
    if known is None and any(name in str(error) for name in ("Gloo", "NCCL")):
        time.sleep(5)  # a collective failed: another process may say why
        _end(f"{_DIED} ({_in_words(error)})", FAILED)
    if known is None:
        traceback.print_exception(error)
    line = str(known or _in_words(error))
    code = known.exit_code if known else FAILED
    news = {"process": _process, "line": line, "code": code}
    with contextlib.suppress(Exception):  # another process was quicker
        _client.key_value_set(_FAILURE, json.dumps(news))
    _end(line, code)


def _listen(client, ended):
    """Ends this process when another one reports its failure."""
    while not ended.wait(1):
        try:
            news = json.loads(client.key_value_try_get(_FAILURE))
        except Exception:  # there are none
            continue
        if news["process"] != _process:
            _end(f"process {news['process']}: {news['line']}", news["code"])


def _catch_bad_cast():
    """Makes C++'s std::terminate end this process with `_DIED` after a bad cast.

    The coordination service would end it by SIGABRT, with its stack. Returns false
    where there is no such C++ library.
    """
    global _handler
    try:
        library = ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return False
    handler = ctypes.CFUNCTYPE(None)
    set_terminate = library._ZSt13set_terminatePFvvE
    set_terminate.restype, set_terminate.argtypes = handler, [handler]
    library.__cxa_current_exception_type.restype = ctypes.c_void_p

    def terminate():
        kind = library.__cxa_current_exception_type()
        # A std::type_info holds a pointer to its functions and one to its name.
        name = ctypes.c_char_p.from_address(kind + 8).value if kind else b""
        if name == b"St8bad_cast":
            _end(_DIED, FAILED)
        before()

    _handler = handler(terminate)  # C++ keeps no reference
    before = set_terminate(_handler)
    return True


def _end(line, code):
    """Prints the line and ends this process, without waiting for the main thread."""
    _ending.acquire()  # never released
    threading.Timer(5, os._exit, [code]).start()  # whatever follows may hang
    print(f"error: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    ownership.release_all()
    if not line.startswith(_DIED):  # the store may have died with it
        with contextlib.suppress(Exception):
            _client.key_value_set(f"{_HEARD}/{_process}", "")
            while _process == 0 and len(_client.key_value_dir_get(_HEARD)) < _count:
                time.sleep(0.1)  # the end of process 0 takes the store away
    os._exit(code)


def _in_words(error):
    return f"{type(error).__name__}: {error}".splitlines()[0]
