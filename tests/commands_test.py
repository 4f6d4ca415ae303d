"""main.py takes the commands that are documented and those that benchmarks run."""

import ast
import re
import shlex

import pytest
import runs

from benchmarks import (
    first_answer,
    many_runs,
    photographs,
    same_bits,
    start_up,
    time_to_accuracy,
)
from experiment import checks, options

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOMS = ("benchmarks", "configs", "experiment", "sweep")
# What stands for a value, and an example of it.
PLACEHOLDERS = {
    "=<recipe>": "=configs/lenet5.py",
    "=<that>": "=configs/lenet5.py",
    "=RECIPE": "=configs/lenet5.py",
    ":NETWORK": ":resnet20",
    "model.name=NAME": "model.name=resnet20",
    "seed=S": "seed=3",
}
CALL = r"python main\.py\s+"


def texts():
    """Yields (file, text) of the pages and of the modules' docstrings."""
    for pattern in ("README.md", "benchmarks/RESULTS.md", "docs/*.md"):
        for path in runs.ROOT.glob(pattern):
            yield path, path.read_text()
    for pattern in ("main.py", *(f"{room}/*.py" for room in ROOMS)):
        for path in runs.ROOT.glob(pattern):
            yield path, ast.get_docstring(ast.parse(path.read_text())) or ""


def documented():
    """Yields (file, main.py's flags) of the commands in which nothing is "..."."""
    block = re.compile(rf"^ {{4,}}[^`\n]*?{CALL}((?:.*\\\n)*.*)", re.MULTILINE)
    for path, text in texts():
        found = block.findall(text)
        found += re.findall(f"`[^`]*?{CALL}([^`]+)`", block.sub("", text))
        for command in found:
            for word, example in PLACEHOLDERS.items():
                command = command.replace(word, example)
            if "..." not in command:
                flags = shlex.split(command.replace("\\\n", " "), comments=True)
                yield path.relative_to(runs.ROOT), flags


def benchmarked():
    """Yields (benchmark, main.py's flags)."""
    run = "--workdir=x"
    for row in photographs.ROWS:
        yield "photographs", photographs.training_flags(*row, (), "x")
    for flags in start_up.RUNS.values():
        yield "start_up", [*flags, *start_up.ONE_STEP, run]
        yield "first_answer", [*flags, *first_answer.SMALL, *first_answer.STEP, run]
    for name in time_to_accuracy.ROWS:
        for *_, command in time_to_accuracy.commands(name, ["ours"], "x", 1):
            yield "time_to_accuracy", command[2:]
    for lines in many_runs.commands(2, 1).values():
        for flags in lines:
            yield "many_runs", [*flags, run]
    yield "same_bits", [*same_bits.RECIPE, run]


@pytest.mark.parametrize(("commands", "least"), [(documented, 90), (benchmarked, 15)])
def test_every_command_has_flags_that_there_are(commands, least, monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    found = [(source, tuple(flags)) for source, flags in commands()]
    assert len(found) >= least
    wrong = []
    for source, flags in dict.fromkeys(found):
        try:
            config = options.parse(["main.py", *flags]).config
            if config is not None:
                checks.check(config)
        except Exception as error:
            wrong.append(f"{source}: {shlex.join(flags)}: {error}")
    assert not wrong, "\n".join(wrong)
