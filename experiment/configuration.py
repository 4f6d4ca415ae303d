"""Lists a config's fields, and writes and reads it in a run directory."""

import ast
import difflib
import json

from ml_collections import ConfigDict

import data_source
from configs import default
from errors import ConfigError

# Sub-configs whose fields the network or the optimizer declares, not default.py.
OPEN = ("model.fields.", "optimizer.kwargs.")

# What helps a run whose image files are elsewhere now.
MOVED = (
    "image files that have moved need a link in their old place; --mode=evaluate "
    "--change=dataset.name=NAME tests them in the new one"
)

# Fields that may change when a run is resumed. They do not affect the parameters,
# except for the rounding of another number of devices or another program
# (steps_per_dispatch 1, model.remat, model.memory).
FREE_ON_RESUME = (
    "dataset.data_dir dataset.download dataset.num_threads dataset.prefetch "
    "dataset.cache_dir eval.batch_size eval.protocol eval.scales eval.average "
    "eval.classes eval.damaged checkpoint log num_devices "
    "steps_per_dispatch model.remat model.memory"
).split()


def flatten(config, prefix=""):
    """Returns {"optimizer.learning_rate": 0.1, ...} in the order of the fields."""
    flat = {}
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def changed(before, after):
    """Returns {field: value} of the fields that `after` has otherwise than `before`.

    The value of a field that only `before` has is None.
    """
    old, new = flatten(before), flatten(after)
    alike = [name for name in new if name in old and old[name] == new[name]]
    return {name: new.get(name) for name in new | old if name not in alike}


def nearest(name, names):
    """Returns ", did you mean ...?" if one of `names` looks like `name`, else ""."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def to_json(config):
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text):
    """Reads what `to_json` wrote; a later default.py fills in the fields it added."""

    config, stored = default.get_config(), tuples(json.loads(text))
    # A run of an earlier version keeps the rule by which its images were held out.
    stored.setdefault("dataset", {}).setdefault("holdout_by", "path")
    config.update(stored)
    return config.lock()


def literal(text):
    """Returns the value that a flag's text is: true, false, or a literal of Python.

    Raises:
      ValueError: it is none, as a word without quotes.
    """
    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"{text!r} is no value") from error


def tuples(value):
    """Makes the lists of what JSON, or a flag, says the tuples that a config has."""
    if isinstance(value, dict):
        return {key: tuples(v) for key, v in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


def check_resumable(stored, given, path, saved=True):
    """Raises ConfigError if `given` would not continue the run that `stored` began.

    `saved` says that it has checkpoints, so that it is worth keeping.
    """
    old, new = flatten(stored), flatten(given)
    names = not_resumable(stored, given)
    differences = [
        f"  config.{name}: {old.get(name)!r} in the run, {new.get(name)!r} given"
        for name in names
    ]
    if differences:
        advice = "resume it with its own or choose another --workdir"
        if "dataset.name" in names and data_source.is_files(stored.dataset.name):
            advice += f"; {MOVED}"
        if not saved:
            advice += ", or remove it: it has no checkpoint yet"
        raise ConfigError(
            f"{path} holds a run of another config; {advice}:\n"
            + "\n".join(differences)
        )


def is_free(name, more=()):
    """True for a field that may change when a run is resumed."""
    free = *FREE_ON_RESUME, *more
    return any(name == field or name.startswith(f"{field}.") for field in free)


def not_resumable(stored, given):
    """Returns the fields, sorted, for which `given` would not continue `stored`.

    A longer or shorter training is the same run as long as its schedule does not
    depend on the length.
    """
    free = []
    if given.schedule.name not in ("cosine", "polynomial"):
        free += ["num_epochs", "num_steps"]
    if not (stored.init_from or given.init_from):
        free += ["init_layers"]
    old, new = flatten(stored), flatten(given)
    if old["dataset.name"].rstrip("/") == new["dataset.name"].rstrip("/"):
        free += ["dataset.name"]  # which a shell ends with a slash
    if not data_source.is_files(given.dataset.name):
        free += ["dataset.holdout_by"]  # which no set of TFDS needs
        if {old["dataset.fit"], new["dataset.fit"]} == {"auto", "pad"}:
            free += ["dataset.fit"]  # the same, as pad refuses images of unlike sizes
    return [
        name
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not is_free(name, free)
    ]
