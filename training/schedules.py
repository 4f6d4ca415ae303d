"""Learning-rate schedules by name."""

import optax

from errors import ConfigError
from training.durations import in_steps


def make_schedule(
    *,
    name,
    rate,
    epoch_steps,
    total_steps,
    warmup_epochs,
    warmup_factor,
    boundaries,
    factors,
    end_factor,
    power,
    decay_rate,
    decay_epochs,
    staircase,
    patience,
    min_factor,
):
    """Makes step -> learning rate from the fields of `config.schedule`.

    `rate` is the learning rate that factors multiply; `epoch_steps` is the number of
    steps per epoch as a Fraction.

    Raises:
      ConfigError: `decay_epochs` rounds to no step.
    """
    del patience, min_factor  # the plateau's, whose state is the optimizer's
    warmup = in_steps(warmup_epochs, epoch_steps)
    after = max(total_steps - warmup, 1)
    if name == "step":
        # Epochs count from the start of the training, not from the end of the warm-up.
        starts = [in_steps(e, epoch_steps) - warmup for e in boundaries]
        pieces = [optax.constant_schedule(rate * f) for f in (1.0, *factors)]
        main = optax.join_schedules(pieces, starts)
    elif name == "polynomial":
        main = optax.polynomial_schedule(rate, rate * end_factor, power, after)
    elif name == "cosine":
        main = optax.cosine_decay_schedule(rate, after, end_factor)
    elif name == "exponential":
        steps = in_steps(decay_epochs, epoch_steps)
        if not steps:  # optax would keep the rate constant
            raise ConfigError(
                f"config.schedule.decay_epochs = {decay_epochs} is less than half a "
                f"step; one is {float(1 / epoch_steps):.2g} epochs"
            )
        if staircase:  # optax divides in float32, which delays some jumps by a step
            main = lambda step: rate * decay_rate ** (step // steps)  # noqa: E731
        else:
            main = optax.exponential_decay(rate, steps, decay_rate)
    else:
        main = optax.constant_schedule(rate)
    if not warmup:
        return main
    ramp = optax.linear_schedule(rate * warmup_factor, rate, warmup)
    return optax.join_schedules([ramp, main], [warmup])
