"""Creates the networks of torchvision and timm that have the same layers as ours."""

import contextlib
import functools
import importlib
import sys

from weights import names


def create(network, **fields):
    """Creates the twin of a network in names.TWINS, initialised, in training mode.

    Raises:
      ImportError: torch or the twin's package is not installed.
    """
    package, name, options = names.TWINS[network]
    module = torchvision_models()
    if package == "timm":
        return importlib.import_module("timm").create_model(name, **options, **fields)
    return getattr(module, name)(**options, **fields)


@functools.cache
def torchvision_models():
    """Imports torchvision.models even if its compiled operators do not fit torch's.

    It then registers their names so that the import finds them; no network calls one.
    """
    import torch

    with contextlib.suppress(RuntimeError):
        import torchvision

        return torchvision.models
    for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in (
        "nms qnms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d "
        "_roi_align_backward _roi_pool_backward _ps_roi_align_backward "
        "_ps_roi_pool_backward _deform_conv2d_backward"
    ).split():
        library.define(f"{name}() -> ()")
    import torchvision

    torchvision._keep = library
    return torchvision.models
