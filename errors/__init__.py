"""The errors that end a program as one line, with its exit code."""

FAILED, USAGE, NOT_FINITE, PREEMPTED = 1, 2, 3, 75


def shortened(names, most=4):
    """Lists the first `most` of some names, and says how many more there are."""
    names = list(map(str, names))
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class UserError(Exception):
    """An error that the user can fix; the message says what is wrong and how to fix it.

    main.py prints it as one line and exits with `exit_code`: 1 failed, 2 a wrong flag
    or config, 3 the loss is not finite, 75 told to stop.
    """

    exit_code = FAILED


class UsageError(UserError):
    """A flag or a field of the config is wrong; the message names it."""

    exit_code = USAGE


class ConfigError(UsageError):
    """The config cannot be run; the message names the field."""
