"""The grammar of `--vary`, and the configs that its values make.

seed=0,1,2                              a list
seed=0..9                               whole numbers, both ends included
optimizer.learning_rate=0.01..1:log:5   five numbers at equal ratios (or :lin:)
model.name=resnet20,wrn_16_4            words
model.fields={'depth': 20},{}           a whole set of fields at once
optimizer.name,optimizer.learning_rate=(sgd,0.1),(adamw,0.001)   fields that go together
"""

import re

import numpy as np

from configs import default, sweeps
from errors import ConfigError
from experiment import configuration

_NUMBER = r"[-+]?[\d.]*\d(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::(log|lin))?(?::(\d+))?")
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    tuple: "a tuple",
    dict: "a dict",
}
_PAIRS = {")": "(", "]": "[", "}": "{"}


def parse(config, texts, declared=()):
    """Parses flags "field=values" into overrides: one dict {field: value} per run.

    They are combined with the overrides that the config's own `sweep()` declares.

    Raises:
      ConfigError: a field or value does not fit the config, or both set a field.
    """
    declared = [_typed(config, override) for override in declared]
    for number, override in enumerate(declared):
        for name, value in override.items():
            _check(config, name, value, f"sweep() of the config, run {number}")
    factors = [declared] if declared else []
    return _product([*factors, *(_parse(config, text) for text in texts)])


def apply(config, values):
    """Returns a copy of `config` with other values, which may be traced numbers.

    A length in epochs replaces the recipe's length in steps.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        if "num_epochs" in values and values.get("num_steps") is None:
            config.num_steps = None
        config.update_from_flattened_dict(values)
    return config


def _product(factors):
    try:
        runs = sweeps.product(*factors)
    except ValueError as error:
        raise ConfigError(f"--vary: {error}") from error
    seen = set()
    for values in runs:
        key = repr(sorted(values.items()))
        if key in seen:
            raise ConfigError(f"--vary: a run is repeated: {values}")
        seen.add(key)
    for names in {frozenset(values) for values in runs}:
        for name in names:
            if parts := sorted(n for n in names if n.startswith(f"{name}.")):
                raise ConfigError(
                    f"--vary: a run sets {name} and {parts[0]}, which is a part of it: "
                    f"write the values of {name} with it, or vary parts alone"
                )
    return runs


def _parse(config, text):
    """Parses one flag into its overrides."""
    names, equals, values = text.partition("=")
    names = [name.strip().removeprefix("config.") for name in names.split(",")]
    flag = f"--vary={text}"
    if not equals or not values:
        raise ConfigError(f"{flag}: write field=value,value")
    for name in names:
        _check_name(config, name, flag)
    if len(names) == 1:
        found = [(value,) for value in _values(config, names[0], values, flag)]
    else:
        found = [_group(config, names, part, flag) for part in _split(values, flag)]
    if len({repr(values) for values in found}) < len(found):
        raise ConfigError(f"{flag}: repeats a value")
    return [dict(zip(names, values, strict=True)) for values in found]


def _group(config, names, text, flag):
    """Parses "(sgd,0.1)", the values of several fields in one run."""
    inner = text.strip()
    parts = _split(inner[1:-1], flag) if inner[:1] + inner[-1:] == "()" else []
    if len(parts) != len(names):
        raise ConfigError(
            f"{flag}: {text!r} is not {len(names)} values in brackets, as in "
            "optimizer.name,optimizer.learning_rate=(sgd,0.1),(adamw,0.001)"
        )
    return tuple(
        _value(config, name, part, flag)
        for name, part in zip(names, parts, strict=True)
    )


def _values(config, name, text, flag):
    """Parses "0,1,2", "0..2" or "0.01..1:log:5"."""
    now = _now(config, name)
    found = None if isinstance(now, str | bool) else _RANGE.fullmatch(text.strip())
    if found is None:
        return [_value(config, name, part, flag) for part in _split(text, flag)]
    numbers = [_like(now, number) for number in _range(now, *found.groups(), flag)]
    _check(config, name, numbers[0], flag)  # all are of one kind
    return numbers


def _range(now, first, last, spacing, count, flag):
    """Returns the numbers of a range; they are whole where the config's value is."""
    whole = not re.search(r"[.eE]", first + last) and not isinstance(now, float)
    first, last = float(first), float(last)
    if count is None and whole and spacing is None and first <= last:
        return list(range(int(first), int(last) + 1))
    if count is None or int(count) < 2:
        raise ConfigError(
            f"{flag}: say how many numbers, as in {first:g}..{last:g}:lin:5"
        )
    if spacing == "log" and min(first, last) <= 0:
        raise ConfigError(f"{flag}: :log: needs ends above zero")
    space = np.geomspace if spacing == "log" else np.linspace
    numbers = space(first, last, int(count))
    near = np.round(numbers)
    if isinstance(now, int) and first.is_integer() and last.is_integer():
        return [int(number) for number in near]
    if whole and np.allclose(near, numbers, rtol=0, atol=1e-6):
        return [int(number) for number in near]
    return [float(f"{number:.6g}") for number in numbers]


def _value(config, name, text, flag):
    """Parses one value for a field, by the kind of the value that the config has."""
    now, text = _now(config, name), text.strip()
    if isinstance(now, str) and text[:1] not in "'\"":
        value = text
    else:
        try:
            value = configuration.literal(text)
        except ValueError:
            value = text  # a word without quotes
    value = _like(now, value)
    _check(config, name, value, flag)
    return value


def _now(config, name):
    """The config's value of a field, or of the steps, if they are None, a number."""
    now = configuration.flatten(config).get(name)
    return 1 if name == "num_steps" and now is None else now


def _like(now, value):
    """Makes a whole number a float, or a value a tuple, where the config has those.

    A list becomes a tuple anywhere, as when the config is read again.
    """
    if isinstance(now, float) and type(value) is int:
        return float(value)
    value = configuration.tuples(value)
    if isinstance(now, tuple) and not isinstance(value, tuple | None):
        return (value,)
    return value


def _typed(config, override):
    named = {name.removeprefix("config."): value for name, value in override.items()}
    return {name: _like(_now(config, name), value) for name, value in named.items()}


def _check_name(config, name, flag):
    fields = configuration.flatten(config)
    if name not in fields and not f"{name}.".startswith(configuration.OPEN):
        raise ConfigError(
            f"{flag}: config has no field {name!r}{configuration.nearest(name, fields)}"
        )


def _check(config, name, value, flag):
    """Raises ConfigError for a value of another type than the config's."""
    _check_name(config, name, flag)
    now = _now(config, name)
    if f"{name}." in configuration.OPEN:
        fits, now = isinstance(value, dict), {}
    elif value is None:
        fits = configuration.flatten(default.get_config()).get(name) is None
    elif now is None:
        fits = True
    elif isinstance(now, bool) or isinstance(value, bool):
        fits = isinstance(now, bool) and isinstance(value, bool)
    else:
        fits = isinstance(value, type(now))
    if not fits:
        kind = KINDS.get(type(now), type(now).__name__)
        raise ConfigError(f"{flag}: config.{name} takes {kind}, not {value!r}")


def _split(text, flag):
    """Splits at the commas that stand outside brackets and quotes."""
    parts, depth, quote, start = [], [], "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth.append(letter)
        elif letter in ")]}":
            if not depth or depth.pop() != _PAIRS[letter]:
                raise ConfigError(f"{flag}: a bracket is closed but not open")
        elif letter == "," and not depth:
            parts.append(text[start:place])
            start = place + 1
    if depth or quote:
        raise ConfigError(f"{flag}: a bracket or quote is not closed")
    return [*parts, text[start:]]
