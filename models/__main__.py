"""python -m models: the old name of `python -m comparison`."""

import runpy

# By name: models import nothing from the rooms above them.
runpy.run_module("comparison", run_name="__main__")
