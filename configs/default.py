"""Every field of a run's config, with its unit and its default.

A recipe (configs/<run>.py) starts from `get_config()` and changes a few fields; the
command line changes a few more: --config.optimizer.learning_rate=0.1. Durations are in
epochs (passes over the training split). No field is derived from another.

The text after a recipe's name and a colon, as in configs/vgg.py:vgg19, names a network
of that paper, which is trained as there; "paper", or nothing, means the file's first
network. A file may have other recipes under other names, which its docstring lists.
"""

import fnmatch

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config():
    config = ConfigDict()

    config.seed = 0  # for initialisation, data order, augmentation and dropout
    config.num_devices = 0  # devices to use, in the order of jax.devices(); 0: all
    config.batch_size = 128  # images per step, over all devices and hosts
    # The length of training; 0 keeps init_from as it is, whatever num_steps says.
    config.num_epochs = 10.0
    # If given, the length in steps instead. On the command line the length given last
    # counts: --config.num_epochs=20 after a recipe with num_steps is 20 epochs.
    config.num_steps = placeholder(int)
    config.steps_per_dispatch = 1  # steps per call of the compiled program
    # The source of the initial parameters: a run directory, a file of torch or Keras,
    # safetensors, or "hf:OWNER/NAME".
    config.init_from = ""
    # Which of them to load: regular expressions, searched in paths such as
    # "backbone/conv1_1/kernel"; (): all.
    config.init_layers = ()
    # Which set of weights, if the source holds several: "state_dict_ema", or of a run
    # "params"; "": a run's Polyak average, and a file's weights without one.
    config.init_key = ""

    config.dataset = ConfigDict()
    # A TFDS name, "folder:PATH" with one folder per class, or "csv:PATH" with lines
    # "path,label". For detectors: "digits", "voc:PATH", "coco:IMAGES,JSON", a TFDS set
    # of objects, or several, "voc/2007,voc/2012" (detection/sources.py).
    config.dataset.name = "mnist"
    config.dataset.data_dir = ""  # TFDS directory; "": the places in docs/data.md
    config.dataset.download = True  # let TFDS download a missing data set
    config.dataset.train_split = "train"  # TFDS syntax: "train[:50000]"
    config.dataset.eval_split = (
        "auto"  # "auto": "validation" if there is one, or "test"
    )
    config.dataset.holdout = 0.1  # share to evaluate on if files have no splits
    # That share of each "class"; or "path", the rule of earlier versions, which drew it
    # from all files and knew no other names of splits than train, val and test.
    config.dataset.holdout_by = "class"
    config.dataset.damaged = "replace"  # a damaged training image by another; or "fail"
    config.dataset.cache = ""  # in cache_dir: "resized" (JPEG) or "pixels"; "": none
    config.dataset.cache_dir = ""
    config.dataset.cache_side = 256  # short side of cached images, pixels
    config.dataset.placement = "auto"  # "device" (the whole split), "host" or "auto"
    config.dataset.order = "shuffle"  # every epoch; "fixed": once for all epochs
    # How evenly training draws the classes. A class of n images is drawn in proportion
    # to n^(1 - balance). 0: as stored; 0.5: by the root; 1: all equally often.
    config.dataset.balance = 0.0
    config.dataset.image_size = 0  # pixels, height = width; 0: the data's own size
    # How images get that size outside training: "pad" with zeros, "resize", or "crop"
    # the centre of the image rescaled to short_side. "auto" resizes image files, and
    # other images that differ in size, and pads the rest.
    config.dataset.fit = "auto"
    config.dataset.short_side = 256  # pixels, for fit "crop"
    config.dataset.interpolation = "bilinear"  # or bicubic, lanczos, box, nearest
    # Applied before mean and std: "mean_image" subtracts each pixel's mean over the
    # training set, "channels" each channel's mean and divides by its deviation, "gcn"
    # normalises each image's contrast, "gcn_zca" also whitens it.
    config.dataset.whiten = ""
    # The mean is subtracted, then std divides: levels of 0..255, one or per channel.
    # Images with a single channel use the average of several.
    config.dataset.mean = (0.0,)
    config.dataset.std = (255.0,)
    config.dataset.num_threads = 0  # read and decode on the host; 0: one per core
    config.dataset.prefetch = 4  # batches prepared ahead with placement "host"

    # For training images; 0 or False: off. The pixels of translate and crop, and the
    # rectangle of erasing, are the network's, except where all images have one size
    # and the host neither crops nor resizes them (no view, no fit "crop", no resizing
    # but bilinear): there they are the stored image's, before jit resizes or pads it,
    # unless crop_mode is "mean".
    config.augment = ConfigDict()
    # The part of an image that is shown: "" is the whole, brought to size by
    # dataset.fit; or "rescale_crop", "inception_crop".
    config.augment.view = ""
    config.augment.short_side = (256, 256)  # "rescale_crop": pixels, (from, to)
    config.augment.area = (0.08, 1.0)  # "inception_crop": share of the image
    config.augment.aspect = (3 / 4, 4 / 3)  # "inception_crop": width / height
    # Of crops; as dataset.interpolation or "random". Policies take it too, and bicubic
    # in the place of lanczos, box and "random".
    config.augment.interpolation = "bilinear"
    config.augment.image_sizes = ()  # (first epoch, pixels), ...; (): image_size
    config.augment.policy = ""  # "randaugment", "randaugment_timm", "trivialaugment"
    config.augment.policy_ops = 2  # operations per image, for the first two
    config.augment.policy_magnitude = 9.0  # theirs, of 30; for "randaugment_timm" of 10
    config.augment.policy_std = 0.0  # deviation of the magnitude
    config.augment.translate = 0.0  # affine: pixels, uniform in +-
    config.augment.rotate = 0.0  # degrees, uniform in +-
    config.augment.scale = 0.0  # by (1 + scale)^u, u uniform in +-1
    config.augment.squeeze = (
        0.0  # one axis by (1 + squeeze)^u, the other by its inverse
    )
    config.augment.shear = 0.0  # horizontal pixels per row, uniform in +-
    config.augment.flip = False  # left to right, with probability 1/2
    config.augment.crop = 0  # pixels added on each side before a random crop
    # What is added: "zeros" (black), "reflect", or the "mean", which adds zeros to the
    # image as the network sees it, after any whitening.
    config.augment.crop_mode = "zeros"
    config.augment.brightness = 0.0  # factor uniform in 1 +- this; in random order ...
    config.augment.contrast = 0.0  # ... with this
    config.augment.saturation = 0.0  # ... and this
    config.augment.hue = 0.0  # turns, uniform in +-
    config.augment.pca = 0.0  # deviation of AlexNet's colour noise
    config.augment.erasing = 0.0  # probability of a random rectangle of noise
    config.augment.mixup = 0.0  # alpha of the beta distribution
    config.augment.cutmix = 0.0  # alpha; with mixup, each has half of the batches
    config.augment.repeats = 1  # copies of an image in a batch, augmented differently

    config.model = ConfigDict()
    # Of models.MODELS or models.DETECTORS, or "module:Class" for a classifier.
    config.model.name = "lenet5"
    config.model.dtype = "float32"  # for computation; parameters stay float32
    config.model.fields = ConfigDict()  # further fields of that network
    # Stages that are computed again for their gradient instead of keeping their
    # activations: "conv2,conv3", or "all" (training/remat.py). "auto": the fewest, by
    # rank, whose step fits into `memory` (training/remat_budget.py).
    config.model.remat = ""
    # For "auto", the memory of a step on each device: "2GiB", "800MiB" or a number of
    # bytes; "": what the device has.
    config.model.memory = ""
    # In training, batch normalisation uses the statistics of init_from unchanged.
    config.model.frozen_statistics = False

    config.detection = ConfigDict()  # for detectors; sides are in pixels
    # An image is resized to this short side, or to the long side if that is less.
    config.detection.short_side = 600
    config.detection.long_side = 1000
    config.detection.train_short_sides = ()  # training draws one; (): short_side
    config.detection.flip_vertical = False  # training also flips top to bottom
    # (height, width) to which images are padded; (): the smallest for the data's.
    config.detection.buckets = ()
    config.detection.max_boxes = 0  # of an image, with padding; 0: the data's most
    config.detection.use_difficult = False  # in training
    config.detection.damaged_boxes = "drop"  # or "fail"
    # How boxes lie in a file that EXIF turns by 180 degrees or that is square:
    # as in the "upright" image or as "stored".
    config.detection.unclear = "upright"
    # What is trained: both stages, "joint", or one alone, "rpn" or "fast_rcnn".
    config.detection.stage = "joint"
    # For "fast_rcnn", the run whose network proposes regions.
    config.detection.proposals = ""
    config.detection.rpn_batch = 256  # anchors sampled from an image ...
    config.detection.rpn_fg = 0.5  # ... and the largest share of positives
    config.detection.rpn_iou = (0.7, 0.3)  # least of positives, limit of negatives
    config.detection.only_inside = True  # anchors that leave the image do not train
    config.detection.rpn_beta = 1 / 9  # where smooth L1 becomes linear
    config.detection.roi_batch = 128  # regions sampled from an image ...
    config.detection.roi_fg = 0.25  # ... and the largest share of foreground
    config.detection.roi_iou = 0.5  # least of foreground
    config.detection.roi_background = (0.0, 0.5)  # from, to
    config.detection.box_beta = 1.0  # as rpn_beta, for the second stage
    config.detection.spare_crowds = False  # no negatives inside crowds
    config.detection.metric = "voc07"  # "voc" (2010) or "coco"
    # Short sides at which tests see regions, each at two; (): short_side.
    config.detection.test_scales = ()

    config.loss = ConfigDict()
    # Or "binary_cross_entropy" with sigmoids, or LeNet-5's "map" and "ml".
    config.loss.name = "softmax_cross_entropy"
    config.loss.label_smoothing = 0.0  # share of the target spread over all classes
    # In training, an image's loss is multiplied by the weight of its class: a number
    # per class, (1.0, 5.0), or "balanced": in inverse proportion to the images of the
    # class, with mean 1 over the training images.
    config.loss.class_weights = placeholder(object)
    config.loss.auxiliary_weight = 0.3  # for each auxiliary head, if a network has any
    config.loss.rubbish = 1.0  # "map": the constant j of LeNet-5's eq. 9

    config.optimizer = ConfigDict()
    # An optax function, or "sdlm", "lars", "lamb" from training/optimizers.py.
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.per_examples = (
        0  # N: the rate is for N images per batch; 0: no scaling
    )
    config.optimizer.weight_decay = 0.0  # L2; decoupled if the optimizer takes it
    config.optimizer.decay_mask = "all"  # what decays; "kernels": no biases or norms
    # Factors of the learning rate: (expression, factor). A parameter gets the factor of
    # the first expression found in its path, "head/fc8/bias", or else 1; 0 freezes it.
    config.optimizer.rate_factors = ()
    # Gradual unfreezing: (expression, epoch). The first expression found in its path
    # freezes a parameter until that epoch.
    config.optimizer.unfreeze = ()
    # After a step, larger filters are scaled back to a limit of their root mean square:
    # (expression, limit).
    config.optimizer.filter_rms = ()
    # Limit of the global norm of the gradient, also of frozen parameters'; 0: none.
    config.optimizer.clip_norm = 0.0
    config.optimizer.accumulate = 1  # micro-batches whose gradients are averaged
    config.optimizer.ema_decay = 0.0  # of the Polyak average for evaluation; 0: off
    config.optimizer.ema_every = 1  # steps between its updates
    config.optimizer.curvature_examples = 500  # "sdlm": patterns per Hessian estimate
    # Arguments of the optimizer, under its own names; a recipe adds them. The command
    # line sets one, --config.optimizer.kwargs.b1=0.95, or replaces all of them:
    # --config.optimizer.kwargs="{'b1': 0.95, 'eps': 1e-6}"
    config.optimizer.kwargs = ConfigDict()

    config.schedule = ConfigDict()  # for the learning rate
    config.schedule.name = "constant"  # step polynomial cosine exponential plateau
    config.schedule.warmup_epochs = 0.0  # linear, before the schedule
    config.schedule.warmup_factor = 0.0  # share of the learning rate it starts from
    config.schedule.boundaries = ()  # "step": epochs at which the rate changes ...
    config.schedule.factors = ()  # ... to these multiples of the learning rate
    config.schedule.end_factor = 0.0  # "polynomial", "cosine": multiple at the end
    config.schedule.power = 1.0  # "polynomial"
    config.schedule.decay_rate = 0.1  # "exponential", "plateau": multiplied by this ...
    config.schedule.decay_epochs = 1.0  # "exponential": ... over so many epochs
    config.schedule.staircase = False  # "exponential": in jumps
    config.schedule.patience = 5  # "plateau": evaluations without improvement
    config.schedule.min_factor = 0.0  # "plateau": the smallest multiple

    config.eval = ConfigDict()
    config.eval.batch_size = 1000  # images; does not change which are counted
    # For --mode=evaluate; training evaluates one view, "single", of each image. It is
    # "single"; "ten_crop" (AlexNet); "crops_144" (GoogLeNet); "dense", "multi_crop",
    # "dense_multi_crop" (VGG); "scales" (ResNet); "offsets" (OverFeat).
    config.eval.protocol = "single"
    # A protocol's short sides in pixels. (): its paper's, for networks that see crops;
    # others need them.
    config.eval.scales = ()
    config.eval.average = "softmax"  # log of the views' mean probabilities; or "logits"
    # For --mode=evaluate on other data, and for a detector's split to evaluate on: they
    # must have the "same" classes as the training, or a "subset" of them.
    config.eval.classes = "same"
    config.eval.image_size = 0  # pixels; 0: as dataset.image_size
    config.eval.short_side = 0  # pixels; 0: as dataset.short_side
    # "wrong" counts an unreadable image as an error; a damaged record, whose class is
    # not known, still ends --mode=evaluate.
    config.eval.damaged = "fail"
    config.eval.every_epochs = 1.0  # 0: only at the end

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1.0  # 0: only at the end
    config.checkpoint.every_steps = 0  # also every so many steps; 0: off
    config.checkpoint.keep_last = 2
    config.checkpoint.keep_best = 1  # by the error on eval_split

    config.log = ConfigDict()
    config.log.every_steps = 100  # between reports: progress line, metrics.jsonl
    config.log.tensorboard = True
    config.log.profile_start = -1  # first step of a jax.profiler window; -1: none
    config.log.profile_steps = 10  # its length

    return config


def network(argument, first, known):
    """The network that a recipe's argument names; "paper" means `first`.

    `known` are the recipe's networks, with ? and * for letters: "vgg?? vgg??_bn".

    Raises:
      ValueError: it is another recipe's network.
    """
    name, known = first if argument == "paper" else argument, known.split()
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in known):
        raise ValueError(
            f"the recipe has no {argument!r}; it has {', '.join(known)}, and "
            "--config.model.name may train another network with it"
        )
    return name
