"""What a training step is made of: the loss, the optimizer, the schedule, memory."""
