"""Says what may help against a loss that is not finite."""

import shlex
import sys


def advice(config, step, run):
    """What to change if the loss after `step` steps of `run` is not finite."""
    if step == 0:
        start = "the network's initial parameters"
        if config.init_from:
            start = f"the parameters of config.init_from = {config.init_from!r}"
        return (
            "No step was taken before it, so the learning rate is not the cause: "
            f"{start} do not suit images with this config.dataset.mean and std"
        )
    return (
        "The steps before were finite, so the training diverged: use another --workdir "
        "and a config.optimizer.learning_rate of less than "
        f"{config.optimizer.learning_rate:g}, a longer config.schedule.warmup_epochs, "
        f"or a config.optimizer.clip_norm. {_replay(run)}"
    )


def _replay(run):
    every, config = "--config.log.every_steps=1", "--config="
    modes = [argument for argument in sys.argv if argument.startswith("--mode")]
    trains = modes in ([], ["--mode=train"])
    if not trains or not any(argument.startswith(config) for argument in sys.argv):
        # A sweep, or a run that was resumed with its own config.
        return (
            f"To see every loss, train {run} again, with its --config and {every}: it "
            "meets the same batches"
        )
    return (
        "The same command meets the same batches; to replay them with every loss "
        f"shown:\n  {shlex.join(['python', *sys.argv])} {every}"
    )
