"""What all claims share: trainings, intervals and verdicts, and the report."""

SCALES = ("small", "paper")
