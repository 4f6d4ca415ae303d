"""Many runs of one config, whose fields vary.

    python main.py --mode=sweep --config=configs/lenet5.py:modern \\
        --workdir=runs/sweep --vary=seed=0..2 --vary=optimizer.learning_rate=0.03,0.1

vary.py reads the values, and grid.py makes the runs. Each has a directory like one of
`--mode=train`, and these directories are the state of the sweep: the same command keeps
the runs that are finished, resumes those that were saved and starts the others. It may
train them in this process (in_process.py, together.py), in several (local.py) or by
SLURM (slurm.py), whatever began them. A run whose loss is not finite, or that fails, is
reported; the others continue. table.py and figures.py show the results.
"""

from errors import UsageError


def run(options, config, parent):
    """Does what the flags of `--mode=sweep` ask for; returns what is to be printed.

    Args:
      options: main.py's flags (experiment/options.py).
      config: a checked config; None for the sweep that `parent` holds.
      parent: the workdir.Workdir of the sweep.
    """
    from experiment import options as flags
    from experiment import stopping
    from sweep import command

    declared = flags.own_sweep(options)
    if config is not None and not options.vary and not declared:
        raise UsageError(
            "--mode=sweep needs --vary=field=value,value or a config with a sweep()"
        )
    runs = command.Runs(config, parent, options.vary, declared, options.halving)
    if options.slurm is not None:
        from sweep import slurm

        slurm.parse(options.slurm)  # a wrong one is an error beside --dry_run, too
    if options.status or options.dry_run:
        return command.listed(runs) if options.dry_run else command.status(runs)
    if options.slurm is not None:
        return command.submit(runs, options.slurm, _own_flags(options))
    stop = stopping.StopSignal()
    if options.jobs:
        from sweep import local

        return command.sweep(runs, local.Local(stop, options.jobs, _own_flags(options)))
    from sweep import in_process

    return command.sweep(runs, in_process.InProcess(stop, options.together))


def plot(runs, output):
    """Draws the results of a sweep, or the curves of some runs: `--mode=plot`.

    Args:
      runs: workdir.Workdirs.
      output: the file, or None for the usual one (figures.py, analysis/curves.py).
    """
    if not any(run.has("sweep.json") for run in runs):
        from analysis import curves

        return curves.plot_runs([run.path for run in runs], output)
    if len(runs) > 1:
        raise UsageError("--mode=plot draws one sweep at a time, or several runs")
    from sweep import command

    return command.plot(runs[0], output)


def _own_flags(options):
    """The flags that a process of its own needs for each run."""
    names = "kernels", "compilation_cache"
    return [f"--{name}={options[name].value}" for name in names]
