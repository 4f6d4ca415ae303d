"""Lists, runs and reports the claims: `python -m claims` (claims/__init__.py)."""

import argparse
import logging
import pathlib
import sys
import traceback

from claims import harness
from claims.harness import catalogue, report
from errors import PREEMPTED, UsageError, UserError, foreign
from kernels import huge_pages

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "claims"


def parser():
    """The flags."""
    flags = argparse.ArgumentParser(
        prog="python -m claims",
        description=sys.modules["claims"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("names", nargs="*", metavar="NAME", help="claims to run")
    flags.add_argument(
        "--all", action="store_true", help="run all claims without a verdict"
    )
    flags.add_argument("--list", action="store_true", help="list them; the default")
    flags.add_argument(
        "--report",
        action="store_true",
        help="write docs/claims.md and draw the figures, from the results",
    )
    flags.add_argument(
        "--scale",
        choices=harness.SCALES,
        default="small",
        help="small: for two CPU cores; paper: the paper's network, data and length",
    )
    flags.add_argument(
        "--workdir", default="runs/claims", help="the directory of the runs"
    )
    flags.add_argument(
        "--jobs", type=int, default=0, help="train in this many processes at once"
    )
    flags.add_argument(
        "--slurm",
        metavar="OPTIONS",
        help="submit the runs to SLURM, as a sweep does: partition=main,minutes=60",
    )
    flags.add_argument(
        "--change",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of all runs' configs, for a try; the result stays in --workdir",
    )
    return flags


def main(argv=None):
    """Does what the flags ask for; returns the exit code."""
    options = parser().parse_args(argv)
    try:
        _check(options)
        if options.report:
            report.draw_all(RESULTS)
            print(report.write(RESULTS))
        elif options.names or options.all:
            _run(options)
        else:
            print(report.listed(RESULTS, options.scale))
        return 0
    except Exception as error:
        known = foreign.as_user_error(error)
        if known is None:
            raise
        out = sys.stdout if known.exit_code == PREEMPTED else sys.stderr
        print(f"error: {known}" if out is sys.stderr else known, file=out, flush=True)
        return known.exit_code


def _check(options):
    """Raises UsageError for flags of which some would be ignored."""
    given = {
        "--list": options.list,
        "--report": options.report,
        "--all": options.all,
        " ".join(options.names): options.names,
    }
    given = [text for text, value in given.items() if value]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} are two requests: give one")
    runs = {
        "--jobs": options.jobs,
        "--slurm": options.slurm is not None,
        "--change": options.change,
    }
    for flag, value in runs.items():
        if value and not (options.names or options.all):
            raise UsageError(f"{flag} is for runs: name claims, or give --all")


def _run(options):
    from claims.harness import conduct
    from experiment import devices
    from experiment import options as flags
    from kernels import ops

    chosen = catalogue.find(options.names, options.scale)
    ops.use("auto")
    devices.start(flags.CACHE, "off", None, None, None)
    folder = pathlib.Path(options.workdir).expanduser()
    results = folder / "tries" if options.change else RESULTS
    runner = _runner(options, folder / conduct.RUNS)
    conductor = conduct.Conductor(folder, results, options.scale, runner)
    if options.all and not options.change:
        chosen = [claim for claim in chosen if not _has_verdict(claim, options.scale)]
    elif options.all:  # a change is of the configs that are trained
        chosen = [claim for claim in chosen if claim.trains()]
    failed = []
    for claim in chosen:
        try:
            print(conductor.run(claim, options.change), flush=True)
        except Exception as error:
            known = foreign.as_user_error(error)
            if len(chosen) == 1 or _ends_all(known, options):
                raise
            failed.append(claim.name)
            if known is None:
                traceback.print_exc()
            said = known or repr(error)
            print(f"{claim.name}: {said}", file=sys.stderr, flush=True)
    if failed:
        raise UserError(f"these claims have no verdict: {', '.join(failed)}")


def _has_verdict(claim, scale):
    """Whether a claim has a result, which a line then says."""
    found = report.read(RESULTS, claim.name, scale)
    if found:
        print(f"{claim.name} has its verdict of {found[1]}; name it to try it again")
    return bool(found)


def _ends_all(error, options):
    """True for a UserError that would meet the next claim, too: a stop, a full disk."""
    if error is None:
        return False
    stopped = error.exit_code == PREEMPTED and options.slurm is None
    return stopped or foreign.is_full_disk(str(error))


def _runner(options, folder):
    """What trains: SLURM, processes, or this process."""
    from experiment import stopping
    from sweep import in_process, local

    if options.jobs and options.slurm is not None:
        raise UsageError("--jobs and --slurm are two ways to train: choose one")
    if options.slurm is not None:
        from sweep import slurm

        return slurm.Slurm(folder, slurm.parse(options.slurm))
    stop = stopping.StopSignal()
    return (
        local.Local(stop, options.jobs) if options.jobs else in_process.InProcess(stop)
    )


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    logging.basicConfig(format="warning: %(message)s")
    sys.exit(main())
