"""Faster R-CNN on a ResNet (Ren et al., 2015; He et al., 2015, Appendix A and B).

    python main.py --config=configs/faster_rcnn.py:digits --workdir=runs/digits
    python main.py --config=configs/faster_rcnn.py --workdir=runs/voc \
        --config.init_from=WEIGHTS

:paper, or nothing  ResNet-101 on PASCAL VOC 07+12, tested on VOC 2007: 76.4 % mAP.
:coco               ResNet-101 on the 80k training images of COCO 2014, tested on the
                    40k of its validation set: 48.4 % AP50 and 27.2 % AP.
:detectron2         ResNet-50 on COCO 2017 in the later form with RoIAlign, which
                    Detectron2 reports at 35.7 % AP.
:digits             MNIST's digits on canvases of 128x128, from scratch, in minutes.
:bccd               one's own photographs with boxes in VOC's XML, from scratch:
                    --config.dataset.name=voc:PATH. Its sides and anchors are for the
                    blood cells of BCCD, 640x480 pixels.

:digits_step1 to :digits_step4, and :paper_step1 to :paper_step4, are the four steps of
the alternating training (Ren et al., Section 3.2). docs/detection.md has the commands.

docs/detection.md has what :digits and :bccd reach; the others have not been run.
The first three need the weights of a ResNet classifier in config.init_from, whose batch
normalisation stays as it is. The paper's ResNet has its strides on the 1x1
convolutions, torchvision's on the 3x3: config.model.fields.stride_on says which.

:paper and :coco differ from the papers in two ways. Both stages train at once
(detection/objective.py), where the paper alternates in four steps. The paper gives no
schedule for VOC 07+12; these are 80,000 and 30,000 steps of two images, as common
repetitions have it, and in the four steps those of Ren et al. for VOC 2007. :coco has
the paper's 240,000 and 80,000 steps, all of eight images, as the paper's RPN has them;
its second stage, which trains apart, has 16 images a step.
"""

from configs import datasets, default

VOC_07_12 = 5_011 + 11_540  # training and validation images
COCO_2014, COCO_2017 = 82_783, 118_287  # training images


def get_config(variant="paper"):
    config = default.get_config()
    recipes = {
        "paper": _paper,
        "coco": _coco,
        "detectron2": _detectron2,
        "digits": _digits,
        "bccd": _bccd,
    }
    steps = {f"{name}_step{n}": (name, n) for name in ALTERNATED for n in STEPS}
    name, step = steps.get(variant, (variant, 0))
    if name not in recipes:
        raise ValueError(
            f"configs/faster_rcnn.py has no {variant!r}; it has {[*recipes, *steps]}"
        )
    config.model.name = "faster_rcnn"
    config.augment.flip = True
    config.eval.batch_size = 8
    recipes[name](config)
    if step:
        STEPS[step](config)
    if step and name == "paper":
        _voc_2007_schedule(config)
    return config


def _fine_tuned(config):
    """Freezes batch normalisation, conv1 and conv2_x, as all released code does."""
    config.dataset.mean = datasets.STATISTICS["imagenet2012"][0]
    config.dataset.std = datasets.STATISTICS["imagenet2012"][1]
    config.init_layers = ("backbone",)
    config.model.frozen_statistics = True
    config.model.fields.frozen_until = "conv2_x"
    config.optimizer.name = "sgd"
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "step"
    config.optimizer.rate_factors = (
        ("backbone/(conv1|bn1|conv2_)", 0.0),
        ("/bn[0-9]/|/shortcut_bn/", 0.0),
        ("/bias$", 2.0),  # py-faster-rcnn
    )


def _paper(config):
    _fine_tuned(config)
    config.dataset.name = "voc/2007,voc/2012"
    config.dataset.train_split = "train+validation,train+validation"
    config.dataset.eval_split = "test,"
    config.batch_size = 2
    config.num_steps = 110_000
    config.model.fields.depth = 101
    config.optimizer.accumulate = 2
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 5e-4
    config.schedule.boundaries = (2 * 80_000 / VOC_07_12,)
    config.schedule.factors = (0.1,)
    config.eval.every_epochs = 2.0


def _coco(config):
    _fine_tuned(config)
    config.dataset.name = "coco/2014"
    config.batch_size = 8
    config.num_steps = 320_000
    config.model.fields.depth = 101
    config.model.fields.anchor_sizes = (64, 128, 256, 512)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 5e-4
    config.schedule.boundaries = (8 * 240_000 / COCO_2014,)
    config.schedule.factors = (0.1,)
    config.detection.metric = "coco"


def _detectron2(config):
    _coco(config)
    config.dataset.name = "coco/2017"
    config.batch_size = 16
    config.num_steps = 90_000
    config.model.fields.depth = 50
    config.model.fields.rpn_channels = 1024
    config.model.fields.objectness = "sigmoid"
    config.model.fields.pooling = "align"
    config.model.fields.box_outputs = "classes"
    config.model.fields.anchor_style = "centred"
    config.model.fields.anchor_sizes = (32, 64, 128, 256, 512)
    config.model.fields.min_size = 1e-3
    config.model.fields.post_nms = (2_000, 1_000)
    config.model.fields.nms = 0.5
    config.optimizer.learning_rate = 0.02
    config.optimizer.weight_decay = 1e-4
    config.optimizer.rate_factors = config.optimizer.rate_factors[:2]
    config.schedule.warmup_epochs = 16 * 1_000 / COCO_2017
    config.schedule.warmup_factor = 1e-3
    config.schedule.boundaries = (16 * 60_000 / COCO_2017, 16 * 80_000 / COCO_2017)
    config.schedule.factors = (0.1, 0.01)
    config.detection.short_side = 800
    config.detection.long_side = 1333
    config.detection.train_short_sides = (640, 672, 704, 736, 768, 800)
    config.detection.only_inside = False
    config.detection.rpn_beta = 0.0
    config.detection.roi_batch = 512
    config.detection.box_beta = 0.0


def _from_scratch(config):
    """A ResNet-18 of half the width, whose batch normalisation learns too."""
    config.batch_size = 8
    config.model.fields.depth = 18
    config.model.fields.features = 32
    config.model.fields.rpn_channels = 128
    config.model.fields.pool_size = 7
    config.model.fields.pre_nms = (1_000, 500)
    config.model.fields.post_nms = (200, 100)
    config.model.fields.min_size = 4.0
    config.detection.roi_batch = 32
    config.optimizer.name = "sgd"
    config.optimizer.kwargs.momentum = 0.9
    config.optimizer.learning_rate = 0.02
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 10.0
    config.schedule.name = "cosine"
    config.detection.metric = "coco"
    config.eval.batch_size = 50


def _digits(config):
    _from_scratch(config)
    config.dataset.name = "digits"
    config.num_epochs = 6.0
    config.augment.flip = False
    config.model.fields.anchor_sizes = (24, 40, 60)
    config.schedule.warmup_epochs = 0.2
    config.detection.short_side = 128
    config.detection.long_side = 128


def _bccd(config):
    _from_scratch(config)
    config.dataset.name = "voc:PATH"
    config.dataset.train_split = "trainval"
    config.dataset.eval_split = "test"
    config.batch_size = 4
    config.num_epochs = 30.0
    config.model.fields.anchor_sizes = (24, 48, 96, 192)
    config.model.fields.post_nms = (300, 100)
    config.optimizer.learning_rate = 0.01
    config.schedule.warmup_epochs = 1.0
    config.detection.short_side = 480
    config.detection.long_side = 640
    config.detection.flip_vertical = True
    config.detection.roi_batch = 64
    config.eval.every_epochs = 5.0
    config.eval.batch_size = 8


def _rpn(config):
    """Step 1, from a classifier: the region proposal network."""
    config.detection.stage = "rpn"


def _fast_rcnn(config):
    """Step 2, from a classifier: the second stage, on the proposals of step 1."""
    config.detection.stage = "fast_rcnn"


def _rpn_again(config):
    """Step 3, from step 2: the layers that only the region proposal network has."""
    _rpn(config)
    _fix(config, "^(backbone|head)/")


def _fast_rcnn_again(config):
    """Step 4, from step 3: the layers that only the second stage has."""
    _fast_rcnn(config)
    _fix(config, "^(rpn/|backbone/(?!conv5_))")


def _fix(config, layers):
    """Starts from a whole detector, and keeps these layers and all statistics."""
    config.init_layers = ()
    config.model.frozen_statistics = True
    config.model.fields.frozen_until = "conv4_x"
    config.optimizer.rate_factors = ((layers, 0.0), *config.optimizer.rate_factors)


def _voc_2007_schedule(config):
    """60,000 and 20,000 steps of one image, or 30,000 and 10,000 of two."""
    rpn = config.detection.stage == "rpn"
    config.batch_size = 1 if rpn else 2
    config.num_steps = 80_000 if rpn else 40_000
    config.optimizer.accumulate = 1
    config.schedule.boundaries = (60_000 / VOC_07_12,)
    config.detection.roi_batch = 64


# The four-step alternating training of Section 3.2.
STEPS = {1: _rpn, 2: _fast_rcnn, 3: _rpn_again, 4: _fast_rcnn_again}
ALTERNATED = "digits", "paper"
