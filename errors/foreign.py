"""Turns library errors that the user can fix into one line of ours.

No library is imported to name them: most are a RuntimeError or ValueError, recognised
by its message.
"""

import os

from errors import UsageError, UserError

FULL_DISK = "the disk is full"
_FULL = (FULL_DISK, "No space left on device", "Disk quota exceeded")
ADVICE = (
    "a smaller config.batch_size or config.eval.batch_size, "
    "config.optimizer.accumulate = N or config.model.remat = all take less"
)


def as_user_error(error):
    """Returns the `UserError` that says what `error` means; None for a bug of ours."""
    if isinstance(error, UserError):
        return error
    said, text = str(error), _one_line(error)
    if isinstance(error, MemoryError) or is_out_of_memory(said):
        return UserError(f"out of memory; {ADVICE} ({text})")
    if is_full_disk(said):
        return UserError(
            f"{FULL_DISK}: free some of it, then the same command goes on ({text})"
        )
    if _has(said, "Unable to initialize backend", "Unknown backend"):
        given = os.environ.get("JAX_PLATFORMS", "")
        return UsageError(f"JAX_PLATFORMS={given}: {text}")
    if _has(said, "jax.distributed", "coordination service", "DEADLINE_EXCEEDED"):
        return UserError(f"the processes did not find each other: {text}")
    if isinstance(error, OSError) and error.strerror is not None:
        where = f"{error.filename}: " if error.filename else ""
        return UserError(f"{where}{error.strerror}")
    return None


def is_out_of_memory(text):
    """Tells whether a message is about a device's memory: XLA has no error for it.

    A CPU that could not allocate says INTERNAL: ... Out of memory allocating ...
    """
    return _has(text, "Out of memory", "RESOURCE_EXHAUSTED")


def is_full_disk(text):
    """Tells whether a message, of a library or of ours, is about a full disk."""
    return _has(text, *_FULL)


def _has(text, *words):
    return any(word in text for word in words)


def _one_line(error):
    """Returns an exception's message in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."
