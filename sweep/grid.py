"""The runs of a sweep: what each of them varies, where it lies, and how it stands."""

import dataclasses
import functools
import hashlib
import json
import re

from errors import PREEMPTED, ConfigError, UserError, foreign
from experiment import checks, configuration, outcomes, ownership, workdir
from sweep import table, vary

LONGEST = 120  # letters of a directory's name


@dataclasses.dataclass
class Run:
    """One run of a sweep, whose config is the sweep's with other `values` by field.

    `values` also has what the sweep's config says of the fields that other runs vary.
    `result` is None until the run ends, or holds what result.json holds
    (experiment/outcomes.py).
    """

    base: object
    values: dict
    workdir: workdir.Workdir
    result: dict | None = None

    def __str__(self):
        return self.workdir.path.name

    @functools.cached_property
    def config(self):
        return vary.apply(self.base, self.values)

    @property
    def ended(self):
        """True if there is nothing left to train."""
        return self.result is not None and outcomes.ended(self.result)

    def reached(self, fraction):
        """True if it ended, or was trained and evaluated for so much of its length."""
        if self.result is None or self.ended:
            return self.ended
        return self.result["step"] >= fraction * self.result["of"]

    def read(self):
        """Reads result.json, if there is one."""
        self.result = outcomes.read(self.workdir)

    def note_failure(self, error):
        """Says why it failed, also in its failure.json; the other runs go on.

        Raises:
          Exception: the error again, if it is a stop or nobody knows what it means.
        """
        known = foreign.as_user_error(error)
        if known is None or known.exit_code == PREEMPTED:
            raise error
        if isinstance(error, ownership.Owned):
            print(f"{self} is left out: {error}", flush=True)
            return
        print(f"{self} failed: {known}", flush=True)
        self.write_failure(known.exit_code, str(known))

    def write_failure(self, exit_code, error):
        """Writes failure.json, or says why it cannot; the other runs go on.

        The run may have failed before it had a directory, or a config there, without
        which the same command would take failure.json for something else.
        """
        try:
            self.workdir.create(self.config)
            outcomes.write_failure(self.workdir, exit_code, error)
        except UserError as unwritten:
            print(f"{self}: its failure is not kept: {unwritten}", flush=True)

    def row(self, queued=(), cut=()):
        """Returns the table.Row about this run."""
        state, note = self.state(queued, cut)
        return table.Row(str(self), self.values, state, self.result, note)

    def state(self, queued=(), cut=()):
        """Returns (state, note); the states are those that table.STATES lists."""
        if self.ended:
            return ("diverged" if "diverged" in self.result else "done"), ""
        if owner := self.workdir.lock.owner():
            return "running", owner
        if str(self) in queued:
            return "queued", ""
        if self.workdir.has(outcomes.FAILURE):
            failure = self.workdir.read_json(outcomes.FAILURE)
            return "failed", failure["error"]
        at = f"at step {self.result['step']}" if self.result else ""
        if str(self) in cut:
            return "cut", at
        return ("stopped" if self.workdir.checkpoints.exists() else "waiting"), at


def make_runs(config, parent, overrides):
    """Makes the runs of a list of overrides {field: value}; finished ones have results.

    Raises:
      ConfigError: a run's config cannot be trained, or its directory holds another.
    """
    there, runs = _directories(parent), []
    fields = dict.fromkeys(field for values in overrides for field in values)
    for values, name in zip(overrides, names(overrides), strict=True):
        # Earlier versions had the order of `--vary`; such a directory is kept.
        name = there.get(frozenset(name.split(",")), name)
        run = Run(config, values, workdir.Workdir(parent.path / name))
        if missing := [field for field in fields if field not in values]:
            own = configuration.flatten(run.config)
            run.values = values | {f: own[f] for f in missing if f in own}
        run.read()
        runs.append(run)
    return runs


def check(runs):
    """Raises ConfigError for a run that cannot be trained, or is another one's."""
    for run in runs:
        try:
            checks.check(run.config)
        except ConfigError as error:
            raise ConfigError(f"run {run}: {error}{_hint(run, error)}") from error
        before = run.workdir.check(run.config)
        if run.ended:
            for field in ("num_epochs", "num_steps"):
                if before[field] != run.config[field]:
                    raise ConfigError(
                        f"config.{field} = {run.config[field]}, but {run.workdir} is "
                        f"finished with {before[field]}; choose another --workdir"
                    )


def check_ended(runs):
    """Raises UserError, with the first one's reason, if runs have not ended."""
    left = [run for run in runs if not run.ended]
    if left:
        state, note = left[0].state()
        raise UserError(
            f"{len(left)} of {len(runs)} runs did not come to their end; "
            f"{left[0].workdir} is {state}{': ' if note else ''}{note}"
        )


def _hint(run, error):
    """Says how an optimizer and its arguments vary together, if that is the error."""
    if (
        "config.optimizer.kwargs" not in str(error)
        or "optimizer.name" not in run.values
    ):
        return ""
    return (
        "; give each optimizer its own: --vary=optimizer.name,optimizer.kwargs="
        "(sgd,{'momentum': 0.9}),(adamw,{})"
    )


def names(overrides):
    """Names the directories of runs by their values, in the order of the fields' names.

    A name that would be too long or hold what no path should ends with a hash of the
    values.
    """
    return [_name(values) for values in overrides]


def _name(values):
    parts = sorted(f"{field}={_text(value)}" for field, value in values.items())
    name = ",".join(parts) or "all"
    if len(name) <= LONGEST and all(re.fullmatch(r"[\w.+=-]+", p) for p in parts):
        return name
    content = json.dumps(values, sort_keys=True, default=str)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.+=,-]+', '-', name)[: LONGEST - 9]}~{digest}"


def _text(value):
    if hasattr(value, "items"):
        value = tuple(part for item in value.items() for part in item) or ("none",)
    return "-".join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _directories(parent):
    """Returns {values as in the name: name} of the runs below a sweep's directory.

    Of several with the same values a finished one counts, then one in today's order.
    """
    if not parent.path.is_dir():
        return {}
    names = sorted(path.name for path in parent.path.iterdir() if "=" in path.name)
    found = {}
    for name in names:
        parts = frozenset(name.split(","))
        if parts in found:
            rank = [_rank(parent, n) for n in (found[parts], name)]
            name = name if rank[1] >= rank[0] else found[parts]
        found[parts] = name
    return found


def _rank(parent, name):
    ordered = name == ",".join(sorted(name.split(",")))
    return (parent.path / name / outcomes.FILE).exists(), ordered
