"""Makes one process the owner of a run directory, by a lock that no dead owner keeps.

`<directory>/lock` says in JSON who writes there: host, process and since when. On the
owner's machine its process number and start tell whether it still runs. From other
machines its heartbeat tells: the time of the file's last change, by the clock of the
file server, so that the clocks of the machines do not matter.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import platform
import tempfile
import threading
import time

from errors import UserError

FILE = "lock"
BEAT, STALE = 10.0, 60.0  # seconds between heartbeats; without one for so long: dead
_HELD = set()  # the locks of this process


class Owned(UserError):
    """Another process writes in this directory; the message says which."""


class Lock:
    """The lock of one directory; a context manager that releases it, if it was taken.

    Reading the directory needs no lock.
    """

    def __init__(self, directory):
        self._directory = pathlib.Path(directory)
        self._path = self._directory / FILE
        self._own = None  # what the file says if this lock is taken
        self._lost = None  # the `Owned` that a heartbeat met
        self._ended = threading.Event()

    def take(self):
        """Becomes the owner of the directory, which is made if it is missing.

        An owner on another machine may be dead, as after a crash that restarted the
        job elsewhere. So this waits for its next heartbeat, or until it has none.

        Raises:
          Owned: another process is.
          UserError: the lock cannot be written.
        """
        if self._own is not None:
            return
        own = {
            "host": platform.node(),
            "process": os.getpid(),
            "process_start": _start(os.getpid()),
            "machine": _machine(),
            "directory": str(self._directory.resolve()),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            before = None
            while (seen := self._take(own, before)) is not None:
                if before is None:
                    holder, _ = seen
                    print(
                        f"waiting to see whether process {holder['process']} on "
                        f"{holder['host']} still writes in {self._directory}",
                        flush=True,
                    )
                before = seen
                time.sleep(1)
        except OSError as e:
            raise UserError(f"cannot write {self._path}: {e.strerror}") from e
        self._own, self._lost, self._ended = own, None, threading.Event()
        _HELD.add(self)
        threading.Thread(target=self._beat, args=[self._ended], daemon=True).start()

    def _take(self, own, before):
        """Writes `own` into the lock, or returns the owner and its last heartbeat.

        It returns them if the owner may be dead: it is elsewhere, and they are what
        this returned `before`, if it was called before.
        """
        with self._open("a+") as file:
            holder = _read(file)
            if not holder or not self._lives(holder, file):
                self._write(file, own)
                return None
            seen = holder, os.fstat(file.fileno()).st_mtime_ns
            if _is_here(holder) or before not in (None, seen):
                raise Owned(self._in_words(holder, file))
            return seen

    def owner(self):
        """Says which live process owns the directory; "" if none does."""
        try:
            with open(self._path) as file:
                holder = _read(file)
                if holder and self._lives(holder, file):
                    return f"process {holder['process']} on {holder['host']}"
        except OSError:
            pass  # there is no lock, or it was released just now
        return ""

    def check(self):
        """Raises Owned if the directory was taken over meanwhile.

        That happens if this process gave no sign of life for STALE seconds.
        """
        self._renew()
        if self._lost is not None:
            raise self._lost

    def release(self):
        """Ends the ownership, if any."""
        own, self._own = self._own, None
        self._ended.set()
        _HELD.discard(self)
        with contextlib.suppress(OSError):  # it is gone, or becomes stale by itself
            if own is not None:
                with self._open("r+") as file:
                    if _read(file) == own:
                        self._path.unlink()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def _beat(self, ended):
        while self._lost is None and not ended.wait(BEAT):
            self._renew()

    def _renew(self):
        """Gives a sign of life; notes in `_lost` if another process took over.

        It writes the lock again if somebody removed it.
        """
        own = self._own
        if own is None:
            return
        with contextlib.suppress(OSError), self._open("a+") as file:
            holder = _read(file)
            if holder == own:
                os.utime(self._path)
            elif self._own is None:  # it was released meanwhile
                if holder is None:
                    self._path.unlink()
            elif holder is None:
                self._write(file, own)
            else:
                self._lost = Owned(
                    f"{self._in_words(holder, file)} It took over from this process, "
                    f"which gave no sign of life for {STALE:.0f} s"
                )

    @contextlib.contextmanager
    def _open(self, mode):
        """The lock file, which no other process has open by `_open` meanwhile."""
        while True:
            with open(self._path, mode) as file:
                with contextlib.suppress(OSError):  # a file system that has no flock
                    fcntl.flock(file, fcntl.LOCK_EX)
                if _is_at(file, self._path):
                    yield file
                    return
            # It was released, and so removed, between the two calls.

    def _write(self, file, own):
        try:
            file.truncate(0)
            file.write(json.dumps(own) + "\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            self._path.unlink()
            raise

    def _lives(self, holder, file):
        if _is_here(holder):
            with contextlib.suppress(OSError):  # it is not mounted here
                owned = holder.get("directory", self._directory)
                if not os.path.samefile(owned, self._directory):
                    return False  # this is a copy of an owned directory
            start = _start(holder["process"])
            if start is not None or not _is_hidden(holder["process"]):
                return start == holder["process_start"]
        return abs(self._age(file)) < STALE

    def _age(self, file):
        """Seconds since the last heartbeat; by the clock here for who may only read."""
        now = time.time()
        with (
            contextlib.suppress(OSError),
            tempfile.TemporaryFile(dir=self._directory) as new,
        ):
            now = os.fstat(new.fileno()).st_mtime
        return now - os.fstat(file.fileno()).st_mtime

    def _in_words(self, holder, file):
        text = (
            f"process {holder['process']} on {holder['host']} has been writing in "
            f"{self._directory} since {holder['since']}: end it first, or choose "
            "another --workdir."
        )
        if not _is_here(holder):
            text += (
                f" If it is dead, the directory is free {STALE:.0f} s after its last "
                f"sign of life, which is {self._age(file):.0f} s old."
            )
        return text


def release_all():
    """Releases every lock of this process, which is about to end without clean-up."""
    for lock in list(_HELD):
        lock.release()


def _read(file):
    """What the lock file says; None if it says nothing, as after a failed write."""
    file.seek(0)
    with contextlib.suppress(ValueError, AttributeError):
        holder = json.loads(file.read())
        if {"host", "process", "process_start", "machine", "since"} <= holder.keys():
            return holder
    return None


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ESTALE):  # NFS says ESTALE
            return False
        raise


def _is_here(holder):
    """Whether the owner's process is, or was, on this machine since its last boot."""
    return holder["machine"] is not None and holder["machine"] == _machine()


def _is_hidden(process):
    """Whether somebody else's process runs, whose start /proc may not show."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _machine():
    """Names this boot of this machine and its processes' numbering; None if unknown."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start(process):
    """When a process began, in clock ticks since the boot; None if it is dead."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])
