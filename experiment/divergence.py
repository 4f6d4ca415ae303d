"""Says what may help against a loss that is not finite."""

import shlex
import sys


def advice(config, step):
    """What to change if the loss after `step` steps is not finite."""
    if step == 0:
        start = "the network's initial parameters"
        if config.init_from:
            start = f"the parameters of config.init_from = {config.init_from!r}"
        return (
            "No step was taken before it, so the learning rate is not the cause: "
            f"{start} do not suit images with this config.dataset.mean and std"
        )
    command = shlex.join(["python", *sys.argv])
    return (
        "The steps before were finite, so the training diverged: use another --workdir "
        "and a config.optimizer.learning_rate of less than "
        f"{config.optimizer.learning_rate:g}, a longer config.schedule.warmup_epochs, "
        "or a config.optimizer.clip_norm. The same command meets the same batches; to "
        f"replay them with every loss shown:\n  {command} --config.log.every_steps=1"
    )
