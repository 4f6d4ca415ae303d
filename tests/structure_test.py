"""The structure of the code: who may import whom, and how large its parts may be."""

import ast
import re
import subprocess
import sys

import pytest
import runs

# From the roof down. A room imports rooms further down, and itself.
FLOORS = (
    {"main", "prepare", "scoring"},
    {"demo"},
    {"claims"},
    {"sweep"},
    {"train"},
    {"weights", "evaluate", "analysis"},
    {"comparison"},
    {"experiment"},
    {"detection"},
    {"training", "evaluation"},
    {"input_pipeline", "models"},
    {"data_source"},
    {"kernels", "transforms", "configs", "errors"},
)
ROOMS = set().union(*FLOORS)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
CODE = [
    path
    for path in sorted(runs.ROOT.rglob("*.py"))
    if path.relative_to(runs.ROOT).parts[0].removesuffix(".py") in ROOMS
]


def module(path):
    parts = path.relative_to(runs.ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Our modules that a file imports, anywhere in it."""
    modules = {module(p) for p in CODE}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n in modules else n.rpartition(".")[0] for n in names]
        else:
            continue
        found |= {name for name in names if name.partition(".")[0] in ROOMS}
    return found


@pytest.mark.parametrize("path", CODE, ids=module)
def test_imports_go_down(path):
    own = module(path).partition(".")[0]
    for name in imported(path):
        room = name.partition(".")[0]
        assert room == own or FLOOR[room] > FLOOR[own], f"{path} imports {name}"
        if own == "models" and room == "kernels":
            assert name == "kernels.ops", f"{path} imports {name}"


def test_no_module_imports_itself_in_a_circle():
    graph = {module(path): imported(path) for path in CODE}
    done = set()

    def visit(name, above):
        assert name not in above, f"a circle: {' -> '.join([*above, name])}"
        if name not in done:
            for other in graph.get(name, ()):
                if other != name:
                    visit(other, [*above, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_the_root_has_few_files():
    """Files of the user's that git does not track are not counted."""
    try:
        names = subprocess.run(
            ["git", "ls-files", ":(glob)*.py"],
            cwd=runs.ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no git, or no repository")
    assert len(names) <= 6, f"more than 6 modules in the root: {', '.join(names)}"


def lines_of(kind):
    """{path:name: lines} of all definitions of a kind."""
    return {
        f"{path.relative_to(runs.ROOT)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, kind)
    }


def test_nothing_is_larger_than_a_reader_can_hold():
    assert max(lines_of(ast.ClassDef).values()) <= 250
    assert len((runs.ROOT / "train.py").read_text().splitlines()) <= 350
    assert len((runs.ROOT / "main.py").read_text().splitlines()) <= 180
    assert len((runs.ROOT / "README.md").read_text().splitlines()) <= 200


def test_a_config_loads_without_jax():
    for path in CODE:
        if module(path).startswith("configs"):
            imports = {
                name.partition(".")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in (
                    [node.module]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                )
            }
            cheap = {"ml_collections", "configs", "fnmatch", "itertools", "math"}
            assert imports <= cheap, path


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("prepare.py --help", "imagenet2012"),
        ("scoring.py --help", "predictions-*.npz"),
        ("-m comparison lenet5", "lenet5"),
    ],
)
def test_commands_start(command, words):
    result = subprocess.run(
        [sys.executable, *command.split()],
        cwd=runs.ROOT,
        env=runs.environment(),
        capture_output=True,
        text=True,
    )
    assert words in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("page", "least"), [("trust", 230), ("demo", 12)])
def test_the_tests_that_docs_name_exist(page, least):
    """These pages give each case or answer the test that keeps it."""
    text = (runs.ROOT / f"docs/{page}.md").read_text()
    named = re.findall(r"(?:(tests/[\w/]+\.py))?::(\w+)", text)
    assert len(named) >= least
    file = ""
    rows = [line for line in text.splitlines() if page == "trust" and "|" in line]
    for row in rows:
        head = row.startswith(("| case |", "|---|"))
        assert head or "::test_" in row.rpartition("| tests/")[2], row
    for path, name in named:
        file = path or file  # "::name" alone is in the file before it
        assert f"def {name}(" in (runs.ROOT / file).read_text(), f"{file}::{name}"
