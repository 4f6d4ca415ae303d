"""Every field a run has, with its unit and its default.

A recipe (configs/<run>.py) starts from `get_config()` and changes a few fields; the
command line changes a few more: --config.optimizer.learning_rate=0.1. Durations are in
epochs (passes over the training split). Nothing here is derived from anything else.

What follows a recipe's name and a colon, configs/vgg.py:vgg19, is the network, trained
as its paper has it; "paper", or nothing, is the file's first. A file may have other
recipes under other names: its docstring lists them.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config():
    config = ConfigDict()

    config.seed = 0  # of initialisation, order of the data, augmentation and dropout
    config.num_devices = 0  # devices to use, in jax.devices() order; 0: all of them
    config.batch_size = 128  # images per step, over all devices and hosts
    config.num_epochs = 10.0  # length of the training; 0: init_from as it is
    config.num_steps = placeholder(int)  # if given: its length in steps instead
    config.steps_per_dispatch = 1  # steps in one call of the compiled program
    # Whose parameters are those of the start: a run directory, a file of torchvision,
    # timm or Keras, our safetensors, or "hf:OWNER/NAME".
    config.init_from = ""
    # Which of them: regular expressions, searched in paths such as
    # "backbone/conv1_1/kernel"; (): all.
    config.init_layers = ()

    config.dataset = ConfigDict()
    # A TFDS name, "folder:PATH" with a folder for each class, or "csv:PATH" of lines
    # path,label.
    config.dataset.name = "mnist"
    config.dataset.data_dir = ""  # TFDS directory; "": the places in docs/data.md
    config.dataset.download = True  # let TFDS download a set found nowhere
    config.dataset.train_split = "train"  # TFDS syntax: "train[:50000]"
    config.dataset.eval_split = (
        "auto"  # "auto": "validation" if there is one, or "test"
    )
    config.dataset.holdout = 0.1  # share to evaluate on, where files have no splits
    config.dataset.damaged = "replace"  # a training image: by another; or "fail"
    config.dataset.cache = ""  # in cache_dir: "resized" (JPEG), "pixels"; "": none
    config.dataset.cache_dir = ""
    config.dataset.cache_side = 256  # short side of the images there, pixels
    config.dataset.placement = "auto"  # "device": whole split there; "host"; "auto"
    config.dataset.order = "shuffle"  # anew every epoch; "fixed": once for all epochs
    config.dataset.image_size = 0  # pixels, height = width; 0: as the data has it
    # How to get there when not in training: "pad" with zeros, "resize", or "crop" the
    # centre of the image rescaled to short_side.
    config.dataset.fit = "pad"
    config.dataset.short_side = 256  # pixels, for fit "crop"
    config.dataset.interpolation = "bilinear"  # or bicubic, lanczos, box, nearest
    # Ahead of mean and std: "mean_image" subtracts each pixel's mean over the training
    # set, "gcn" normalises each image's contrast, "gcn_zca" and whitens it.
    config.dataset.whiten = ""
    # Subtracted, and then divided by: levels of 0..255, one or per channel. Of several,
    # images with a single channel take the average.
    config.dataset.mean = (0.0,)
    config.dataset.std = (255.0,)
    config.dataset.num_threads = 0  # reading and decoding on the host; 0: one per core
    config.dataset.prefetch = 4  # batches prepared ahead, with placement "host"

    config.augment = ConfigDict()  # of training images; 0 or False: off
    # The part of an image that is shown: "" the whole, brought to size by dataset.fit;
    # "rescale_crop", "inception_crop".
    config.augment.view = ""
    config.augment.short_side = (256, 256)  # "rescale_crop": pixels, from, to
    config.augment.area = (0.08, 1.0)  # "inception_crop": share of the image
    config.augment.aspect = (3 / 4, 4 / 3)  # "inception_crop": width / height
    config.augment.interpolation = "bilinear"  # of both; or "random"
    config.augment.image_sizes = ()  # (epoch, pixels) from which on; (): image_size
    config.augment.policy = ""  # "randaugment", "randaugment_timm", "trivialaugment"
    config.augment.policy_ops = 2  # operations on an image; of the first two, as ...
    config.augment.policy_magnitude = 9.0  # ... of 30; of "randaugment_timm" of 10 ...
    config.augment.policy_std = 0.0  # ... with this deviation
    config.augment.translate = 0.0  # affine: pixels, uniform in +-
    config.augment.rotate = 0.0  # degrees, uniform in +-
    config.augment.scale = 0.0  # by (1 + scale)^u, u uniform in +-1
    config.augment.squeeze = (
        0.0  # one axis by (1 + squeeze)^u, the other by its inverse
    )
    config.augment.shear = 0.0  # horizontal pixels per row, uniform in +-
    config.augment.flip = False  # left to right, with probability 1/2
    config.augment.crop = 0  # pixels added around, then a random crop
    # What is added: "zeros" (black), "reflect", or the "mean": zeros to the image as
    # the network sees it, whitened too.
    config.augment.crop_mode = "zeros"
    config.augment.brightness = 0.0  # factor uniform in 1 +- this; in random order ...
    config.augment.contrast = 0.0  # ... with this
    config.augment.saturation = 0.0  # ... and this
    config.augment.hue = 0.0  # turns, uniform in +-
    config.augment.pca = 0.0  # deviation of AlexNet's colour noise
    config.augment.erasing = 0.0  # probability of a random rectangle of noise
    config.augment.mixup = 0.0  # alpha of the beta distribution
    config.augment.cutmix = 0.0  # alpha; with mixup, each has half of the batches
    config.augment.repeats = 1  # times an image is in a batch, each time augmented anew

    config.model = ConfigDict()
    config.model.name = "lenet5"  # a name of models.MODELS
    config.model.dtype = "float32"  # of the computation; parameters stay float32
    config.model.fields = ConfigDict()  # further fields of that network
    # Stages to compute again for their gradient instead of keeping their activations:
    # "conv2,conv3", or "all"; training/remat.py.
    config.model.remat = ""
    # Batch normalisation uses in training, and keeps, the statistics of init_from.
    config.model.frozen_statistics = False

    config.loss = ConfigDict()
    # Or "binary_cross_entropy", by sigmoids; LeNet-5's "map", "ml".
    config.loss.name = "softmax_cross_entropy"
    config.loss.label_smoothing = 0.0  # share of the target spread over all classes
    config.loss.auxiliary_weight = (
        0.3  # of each auxiliary head, where a network has some
    )
    config.loss.rubbish = 1.0  # "map": the constant j of LeNet-5's eq. 9

    config.optimizer = ConfigDict()
    # A function of optax; "sdlm", "lars", "lamb" are training/optimizers.py's.
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.per_examples = (
        0  # N: the rate is per N images of the batch; 0: as is
    )
    config.optimizer.weight_decay = 0.0  # L2; decoupled where the optimizer takes it
    config.optimizer.decay_mask = "all"  # what decays; "kernels": no bias, no norm
    # Factors of the learning rate: (expression, factor), of which a parameter has the
    # first that is found in its path, "head/fc8/bias", or 1; 0 keeps it as it is.
    config.optimizer.rate_factors = ()
    # Gradual unfreezing: (expression, epoch), of which the first that is found in its
    # path keeps a parameter as it is until that epoch.
    config.optimizer.unfreeze = ()
    # After a step, filters are scaled back to a root mean square: (expression, limit).
    config.optimizer.filter_rms = ()
    config.optimizer.clip_norm = 0.0  # global norm of the gradient; 0: no clipping
    config.optimizer.accumulate = 1  # micro-batches whose gradients are averaged
    config.optimizer.ema_decay = 0.0  # Polyak average used for evaluation; 0: off
    config.optimizer.ema_every = 1  # steps from one update of it to the next
    config.optimizer.curvature_examples = 500  # "sdlm": patterns per Hessian estimate
    # Arguments of the optimizer by its own names; a recipe adds them. Replaced whole on
    # the command line: --config.optimizer.kwargs="{'b1': 0.95, 'eps': 1e-6}"
    config.optimizer.kwargs = ConfigDict()

    config.schedule = ConfigDict()  # of the learning rate
    config.schedule.name = "constant"  # step polynomial cosine exponential plateau
    config.schedule.warmup_epochs = 0.0  # linear, ahead of the schedule
    config.schedule.warmup_factor = 0.0  # share of the learning rate it starts from
    config.schedule.boundaries = ()  # "step": epochs at which the rate changes ...
    config.schedule.factors = ()  # ... to these multiples of the learning rate
    config.schedule.end_factor = 0.0  # "polynomial", "cosine": multiple at the end
    config.schedule.power = 1.0  # "polynomial"
    config.schedule.decay_rate = 0.1  # "exponential", "plateau": multiplied by this ...
    config.schedule.decay_epochs = 1.0  # "exponential": ... over so many epochs
    config.schedule.staircase = False  # "exponential": in jumps
    config.schedule.patience = 5  # "plateau": evaluations without improvement
    config.schedule.min_factor = 0.0  # "plateau": the least multiple

    config.eval = ConfigDict()
    config.eval.batch_size = 1000  # images; changes nothing in the result
    # Of --mode=evaluate; a training looks at one view, "single", of each image.
    # "single"; "ten_crop" (AlexNet); "crops_144" (GoogLeNet); "dense", "multi_crop",
    # "dense_multi_crop" (VGG); "scales" (ResNet); "offsets" (OverFeat).
    config.eval.protocol = "single"
    config.eval.scales = ()  # short sides, pixels, of a protocol; (): its paper's
    config.eval.average = "softmax"  # what is averaged over views; or "logits"
    config.eval.image_size = 0  # pixels; 0: as dataset.image_size
    config.eval.short_side = 0  # pixels; 0: as dataset.short_side
    # "wrong": an image that cannot be read counts as an error; a damaged record, whose
    # class is not known, still ends --mode=evaluate.
    config.eval.damaged = "fail"
    config.eval.every_epochs = 1.0  # 0: only at the end

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1.0  # 0: only at the end
    config.checkpoint.every_steps = 0  # steps, in addition; 0: off
    config.checkpoint.keep_last = 2
    config.checkpoint.keep_best = 1  # by the error on eval_split

    config.log = ConfigDict()
    config.log.every_steps = 100  # between two lines of progress and of metrics.jsonl
    config.log.tensorboard = True
    config.log.profile_start = -1  # first step of a jax.profiler window; -1: none
    config.log.profile_steps = 10  # its length

    return config


def network(argument, first):
    """The network that the argument of a recipe names; `first` is that of "paper"."""
    return first if argument == "paper" else argument
