"""Settings that recipes on one data set share; a recipe changes what its paper does."""

# Mean and standard deviation of the training images, per channel, on a scale of 0 to
# 255. A training that takes those of another data set says so.
STATISTICS = {
    "imagenet2012": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    "fashion_mnist": ((72.9,), (90.0,)),
}


def statistics(config, name):
    """Normalises images by the mean and deviation of the data set `name`."""
    config.dataset.mean, config.dataset.std = STATISTICS[name]


def imagenet(config, image_size=224, short_side=256):
    """ILSVRC-2012: 1,281,167 training and 50,000 validation images, 1000 classes.

    Tests see the centre of an image that is rescaled to `short_side`.
    """
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = image_size
    config.dataset.fit = "crop"
    config.dataset.short_side = short_side
    statistics(config, "imagenet2012")
    config.augment.flip = True
    config.log.every_steps = 100


def fb_resnet(config):
    """The augmentation of https://github.com/facebookarchive/fb.resnet.torch.

    There the root of a crop's aspect ratio is uniform in 3/4 to 4/3; here the ratio's
    logarithm is uniform, up to 4/3. Here each change of colours is clipped to 0..255,
    there none.
    """
    config.dataset.interpolation = "bicubic"
    config.augment.view = "inception_crop"
    config.augment.interpolation = "bicubic"
    config.augment.brightness = 0.4
    config.augment.contrast = 0.4
    config.augment.saturation = 0.4
    config.augment.pca = 0.1


def googlenet(config, strength=0.5):
    """The sampling of GoogLeNet (2014, Section 6).

    Crops cover 8 to 100 % of the area at an aspect ratio of 3/4 to 4/3 and are resized
    with a random interpolation. The photometric distortions are "by Andrew Howard"
    (https://arxiv.org/abs/1312.5402, Section 3.2): brightness, contrast and colour
    change by factors of 0.5 to 1.5 (`strength` 0.5), and AlexNet's colour noise is
    added.
    """
    config.augment.view = "inception_crop"
    config.augment.interpolation = "random"
    config.augment.brightness = strength
    config.augment.contrast = strength
    config.augment.saturation = strength
    config.augment.pca = 0.1


def inception(config):
    """The augmentation released by Inception-v3's authors (TensorFlow's models, slim).

    Inception crops of 299x299 cover 5 to 100 % of the area. Colours change: brightness
    by an eighth, contrast and saturation by half, hue by a fifth of a turn. The authors
    shift brightness by 32 of 255 levels; here it is a factor. Tests see 87.5 % of the
    short side; the authors take 87.5 % of each side and squeeze that to a square.
    """
    imagenet(config, image_size=299, short_side=342)
    config.dataset.mean = (127.5,)
    config.dataset.std = (127.5,)
    config.augment.view = "inception_crop"
    config.augment.area = (0.05, 1.0)
    config.augment.interpolation = "random"
    config.augment.brightness = 0.125
    config.augment.contrast = 0.5
    config.augment.saturation = 0.5
    config.augment.hue = 0.2


def cifar10(config):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32, ten classes.

    Images are translated by up to 4 pixels and flipped, which the papers mark with a +.
    Zeros move in after the mean is subtracted, as in fb.resnet.torch, whose mean and
    deviation these are.
    """
    config.dataset.name = "cifar10"
    config.dataset.image_size = 32
    statistics(config, "cifar10")
    config.augment.crop = 4
    config.augment.crop_mode = "mean"
    config.augment.flip = True
    config.log.every_steps = 100


def mean_image(config):
    """Subtracts each pixel's mean over the training set, and does nothing else."""
    _fitted(config, "mean_image")


def channels(config):
    """Normalises by each channel's mean and deviation over the training set itself.

    They are computed at the start of a training, so they fit any data set and split.
    """
    _fitted(config, "channels")


def _fitted(config, whiten):
    config.dataset.whiten = whiten
    config.dataset.mean = (0.0,)
    config.dataset.std = (1.0,)
