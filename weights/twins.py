"""Creates the networks of torchvision and timm that have the same layers as ours.

For a detector there is none: `faster_rcnn` makes it of torchvision's parts.
"""

import contextlib
import functools
import importlib
import sys
from collections import OrderedDict

from models import resnet
from models.faster_rcnn import STRIDE
from weights import names
from weights.formats import WeightsError

# What a detector's twin has; `rpn_channels` are those of the map as well.
_C4 = {"features": 64, "objectness": "sigmoid", "pooling": "align"}
_C4 |= {"box_outputs": "background", "context": False, "refine": False, "voting": 0}


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


def faster_rcnn(
    model,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    short_side=800,
    long_side=1333,
):
    """Creates the twin of a models.faster_rcnn.FasterRCNN, initialised.

    Conv1 to conv4_x are its backbone, and conv5_x is its head of regions: a "C4", which
    Detectron2 has with the same layers.

    Args:
      mean, std: per channel, of images in 0..1.
      short_side, long_side: the sides that it resizes images to, as
        config.detection has them; the run's own are not in its state dict.

    Raises:
      ImportError: torch or torchvision is not installed.
      WeightsError: torchvision has no parts for a field of the model.
    """
    import torch

    models = torchvision_models()
    block, stage_sizes = resnet.TABLE_1[model.depth]
    net = models.resnet.ResNet(
        getattr(models.resnet, block.__name__), list(stage_sizes)
    )
    channels = net.layer4[0].conv1.in_channels
    wanted = {**_C4, "rpn_channels": channels}
    if block is resnet.Bottleneck:
        wanted["stride_on"] = "3x3"
    for field, value in wanted.items():
        if getattr(model, field) != value:
            raise WeightsError(
                f"torchvision's parts need {field} {value!r}, not "
                f"{getattr(model, field)!r}"
            )

    def parts(*names):
        return OrderedDict((name, getattr(net, name)) for name in names)

    nn, detection = torch.nn, models.detection.faster_rcnn
    stem = "conv1", "bn1", "relu", "maxpool"
    trunk = nn.Sequential(parts(*stem, "layer1", "layer2", "layer3"))
    trunk.out_channels = channels
    pool = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    ratios = tuple(map(float, model.anchor_ratios))
    generator = detection.AnchorGenerator((tuple(model.anchor_sizes),), (ratios,))
    generator.cell_anchors = [torch.from_numpy(model.anchor_boxes((1, 1)))]
    twin = detection.FasterRCNN(
        trunk,
        min_size=short_side,
        max_size=long_side,
        image_mean=mean,
        image_std=std,
        size_divisible=STRIDE,
        rpn_anchor_generator=generator,
        rpn_pre_nms_top_n_train=model.pre_nms[0],
        rpn_pre_nms_top_n_test=model.pre_nms[1],
        rpn_post_nms_top_n_train=model.post_nms[0],
        rpn_post_nms_top_n_test=model.post_nms[1],
        rpn_nms_thresh=model.proposal_nms,
        box_head=nn.Sequential(parts("layer4") | pool),
        box_predictor=detection.FastRCNNPredictor(
            net.fc.in_features, model.num_classes + 1
        ),
        box_score_thresh=model.min_score,
        box_nms_thresh=model.nms,
        box_detections_per_img=model.max_detections,
        bbox_reg_weights=model.box_weights,
    )
    twin.rpn.min_size = model.min_size
    twin.roi_heads.box_roi_pool = _region_align(model.pool_size)
    return twin


def _region_align(size):
    """The module that pools a map's regions as Detectron2 does."""
    import torch
    import torchvision

    class RegionAlign(torch.nn.Module):
        def forward(self, maps, rois, image_shapes):
            (x,) = maps.values()
            align = torchvision.ops.roi_align
            return align(x, rois, size, 1 / STRIDE, sampling_ratio=0, aligned=True)

    return RegionAlign()
