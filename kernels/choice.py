"""Which kernels this process uses.

kernels/ops.py changes it, and kernels/probes.py adds what it found out about oneDNN.
The other files read it when they trace or lower a program.
"""

import dataclasses


@dataclasses.dataclass
class Choice:
    kernels: str = "auto"  # or "xla" (ops.use)
    portable: bool = False  # inside ops.portable
    uncached: bool = False  # inside ops.every_kernel
    onednn: dict | None = None  # the answers of kernels/probes.py, once it was asked

    @property
    def plain(self):
        """Whether programs traced now contain only XLA's own operations."""
        return self.portable or self.kernels == "xla"


choice = Choice()
