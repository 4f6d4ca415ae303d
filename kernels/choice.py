"""The one place that holds what is decided for the whole process: which kernels to use.

kernels/ops.py changes it; the other files read it when a program is traced or lowered.
"""

import dataclasses


@dataclasses.dataclass
class Choice:
    kernels: str = "auto"  # or "xla" (ops.use)
    portable: bool = False  # inside ops.portable
    uncached: bool = False  # inside ops.every_kernel
    onednn: dict | None = None  # what kernels/probes.py found out, once it was asked

    @property
    def plain(self):
        """Whether programs that are traced now have XLA's own operations alone."""
        return self.portable or self.kernels == "xla"


choice = Choice()
