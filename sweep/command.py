"""Trains, lists or describes the runs of a sweep: what `--mode=sweep` does."""

import dataclasses

from errors import UsageError, shortened
from experiment import workdir
from sweep import grid, halving, record, table, vary


@dataclasses.dataclass(frozen=True)
class Sweep:
    """How the runs of a sweep stand.

    `file` is results.csv, or None if there is no directory yet. `failed` has a line if
    the sweep has come to its end and not all of the runs have.
    """

    rows: list
    file: object = None
    failed: tuple = ()

    def __str__(self):
        every = self.file is None  # no file has the others
        lines = [table.text(self.rows, every=every), table.counts(self.rows)]
        if self.file:
            lines[-1] += f"; {self.file} has all numbers"
        return "\n".join(lines)


class Runs:
    """The runs that a command is about, and the record of their directory."""

    def __init__(self, config, parent, texts=(), declared=(), factor=None):
        """Finds the runs of a config and its `--vary` flags, or those of a directory.

        Args:
          config: a checked config, or None for the sweep that `parent` holds.
          parent: a workdir.Workdir that is not itself a run.
          texts: strings "field=values" (vary.py).
          declared: the overrides of the config's own `sweep()`.
          factor: of successive halving; 0 for none, None for what the directory says.

        Raises:
          ConfigError: a field or value does not fit, or the directory has other runs.
        """
        if parent.has("config.json"):
            raise UsageError(
                f"--workdir={parent} holds a run; a sweep needs a directory of its own"
            )
        self.parent, self._config, self._factor = parent, config, factor
        if config is not None:
            self._overrides = vary.parse(config, texts, declared)
        self._read_record()
        overrides = self.record.overrides if config is None else self._unified()
        self.all = grid.make_runs(self.record.config, parent, overrides)

    def _unified(self):
        """The overrides of this command without those of configs that others have."""
        found = record.unified(self.record.overrides, self._config, self._overrides)
        if same := {*grid.names(self._overrides)} - {*grid.names(found)}:
            print(
                f"note: {shortened(sorted(same))}: the sweep has the same config by "
                "another name, and trains it once",
                flush=True,
            )
        return found

    def _read_record(self):
        if self._config is None:
            self.record = record.read(self.parent)
        else:
            self.record = record.merged(self.parent, self._config, self._overrides)
        if self._factor is not None:
            self.record.halving = self._factor
        if not self.record.halving:
            self.record.cut = ()

    def take(self):
        """Becomes the owner of the directory, and reads how all stands from now on.

        Another command may have added runs to the record meanwhile, or cut some.

        Raises:
          Owned: another process sweeps there.
        """
        self.parent.lock.take()
        self._read_record()
        self.read()
        self.write()

    def write(self):
        record.write(self.parent, self.record)

    def read(self):
        """Reads how far those are that have not ended, whoever trains them."""
        for run in self.all:
            if not run.ended:
                run.read()

    def rows(self):
        """Returns a table.Row for each run, as `read` found it."""
        queued = _queued(self.parent)
        return [run.row(queued, self.record.cut) for run in self.all]

    def standing(self):
        """Returns the `Sweep` as its directory has it now, and writes results.csv.

        The file has all runs of the directory, also those that this command leaves out.
        """
        rows = self.rows()
        if not self.parent.path.is_dir():
            return Sweep(rows)
        file, every = self.parent.path / "results.csv", rows
        if len(self.all) < len(self.record.overrides) and record.exists(self.parent):
            every = Runs(None, self.parent).rows()
        table.write_csv(file, every)
        return Sweep(rows, file)


def plot(parent, output=None):
    """Draws the results of the sweep in a directory; returns the figures.Plot.

    Args:
      parent: its workdir.Workdir.
      output: the file, of which a .png and a .svg are written; `results` by default.
    """
    from analysis import curves
    from sweep import figures

    runs = Runs(None, parent)
    directories = {str(run): run.workdir for run in runs.all}
    return figures.plot(
        parent.path.name,
        runs.rows(),
        lambda name: curves.read(directories[name]),
        output or parent.path / "results",
    )


def listed(runs):
    """Checks all runs and returns the `Sweep`; trains and writes nothing."""
    grid.check(runs.all)
    return Sweep(runs.rows())


def status(runs):
    """As `Runs.standing`, but also for who may read the directory alone."""
    try:
        return runs.standing()
    except workdir.WorkdirError as error:
        print(f"note: {error}", flush=True)
        return Sweep(runs.rows())


def sweep(runs, runner):
    """Trains what is missing of the runs; returns the `Sweep`.

    Args:
      runs: the `Runs`.
      runner: has `train(runs, until)`, which trains those that have not got so far
        (in_process.py, local.py).

    Raises:
      ConfigError: a run cannot be trained.
      Owned: another process sweeps in this directory.
      Preempted: a stop was asked for; the runs under way are saved.
    """
    grid.check(runs.all)
    if not all(run.ended for run in runs.all):
        with runs.parent.lock:
            runs.take()
            if runs.record.halving:
                halving.train(runs, runner)
            else:
                runner.train(runs.all, 1)
            runs.read()  # another process may have trained some meanwhile
    found = runs.standing()
    left = [row for row in found.rows if row.state not in ("done", "diverged", "cut")]
    if left:
        line = (
            f"not all of the runs came to their end: {table.counts(left)}; the same "
            "command goes on with them"
        )
        found = dataclasses.replace(found, failed=(line,))
    return found


def submit(runs, options, flags=()):
    """Submits to SLURM what is missing of the runs, and returns at once.

    Args:
      runs: the `Runs`.
      options: a text such as "partition=main,minutes=60,array=8" (slurm.py).
      flags: further flags of main.py for each run.

    Raises:
      UsageError: the sweep is in the middle of successive halving.
    """
    from sweep import slurm

    runner = slurm.Slurm(runs.parent.path, slurm.parse(options), flags)
    grid.check(runs.all)
    with runs.parent.lock:
        runs.take()
        if runs.record.halving and not halving.decided(runs):
            raise UsageError(
                f"{runs.parent} remembers --halving={runs.record.halving}, which waits "
                "for its runs and has not cut all it will: go on without --slurm, or "
                "train all runs to their end with --halving=0"
            )
        return runner.submit(halving.left(runs))


def _queued(parent):
    if not (parent.path / "slurm").exists():
        return set()
    from sweep import slurm

    return slurm.queued(parent.path)
