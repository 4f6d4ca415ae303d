"""The parts of a training step: the loss, the optimizer, the schedule, memory."""
