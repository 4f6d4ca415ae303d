"""The list of a sweep's runs, in sweep.json of its directory.

With it the directory alone says which runs belong to the sweep, so that a command
without --config, or one with another runner, goes on with it.
"""

import dataclasses
import json

from errors import ConfigError, UsageError
from experiment import configuration
from sweep import grid, vary

FILE = "sweep.json"


@dataclasses.dataclass
class Record:
    """What a sweep's directory says about it.

    `config` is what all runs have in common, `overrides` the values {field: value} of
    each run, `halving` the factor of successive halving or 0, and `cut` the names of
    the runs that it left.
    """

    config: object
    overrides: list
    halving: int = 0
    cut: tuple = ()

    def names(self):
        return grid.names(self.overrides)


def exists(parent):
    """True if the directory holds a sweep."""
    return parent.has(FILE)


def read(parent):
    """Reads the `Record` of a sweep's directory.

    Raises:
      UsageError: there is none, or it is damaged.
    """
    if not exists(parent):
        raise UsageError(
            f"--workdir={parent} holds no sweep ({FILE} is missing): begin one with "
            "--config and --vary=field=value,value"
        )
    stored = parent.read_json(FILE)
    try:
        config = configuration.from_json(json.dumps(stored["config"]))
        overrides = [configuration.tuples(run["values"]) for run in stored["runs"]]
        return Record(config, overrides, stored["halving"], tuple(stored["cut"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{parent.path / FILE} is damaged: {error!r}") from error


def write(parent, record):
    """Writes sweep.json, if it would change."""
    runs = [
        {"name": name, "values": values}
        for name, values in zip(record.names(), record.overrides, strict=True)
    ]
    stored = {
        "config": record.config.to_dict(),
        "halving": record.halving,
        "cut": list(record.cut),
        "runs": runs,
    }
    text = json.dumps(stored, indent=1) + "\n"
    if not (parent.has(FILE) and parent.path.joinpath(FILE).read_text() == text):
        parent.path.mkdir(parents=True, exist_ok=True)
        parent.write_text(FILE, text)


def unified(known, config, overrides):
    """Returns `overrides`, or the first ones with the same configs, without repeats.

    A sweep that grows by a field has the run with the config's own value already, as an
    override of fewer fields. `known` are the overrides of its runs.
    """
    every = [*known, *overrides]
    if len({frozenset(values) for values in every}) < 2:
        return overrides  # which differ in the fields that they all set

    def key(values):
        return repr(configuration.flatten(vary.apply(config, values)))

    first = {}
    for values in every:
        first.setdefault(key(values), values)
    return list({key(values): first[key(values)] for values in overrides}.values())


def merged(parent, config, overrides):
    """Returns the `Record` of the directory, with further runs of the same sweep.

    Raises:
      ConfigError: the directory's sweep has another config, in a field that not every
        run sets.
    """
    if not exists(parent):
        return Record(config, unified([], config, overrides))
    found = read(parent)
    everywhere = set.intersection(*map(set, [*found.overrides, *overrides]))
    names = configuration.not_resumable(found.config, config)
    # A single run may become longer, but the runs of a sweep are compared.
    names += [n for n in ("num_epochs", "num_steps") if config[n] != found.config[n]]
    differences = [name for name in names if name not in everywhere]
    if differences:
        name = differences[0]
        old, new = (configuration.flatten(c).get(name) for c in (found.config, config))
        raise ConfigError(
            f"{parent} holds a sweep with config.{name} = {old!r}, not {new!r}; choose "
            "another --workdir"
        )
    known = set(found.names())
    overrides = unified(found.overrides, config, overrides)
    new = [
        values
        for name, values in zip(grid.names(overrides), overrides, strict=True)
        if name not in known
    ]
    return dataclasses.replace(found, config=config, overrides=[*found.overrides, *new])
