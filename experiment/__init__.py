"""A config becomes objects and a run directory."""
