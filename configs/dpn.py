"""Dual path networks on ImageNet (Chen, Li, Xiao, Jin, Yan, Feng, 2017, Section 5).

    python main.py --config=configs/dpn.py --workdir=runs/dpn92

The argument is the network: dpn68, dpn92 (the default), dpn98, dpn131, dpn107. With one
crop of 224x224 the authors report (https://github.com/cypw/DPNs) these top-1 and top-5
errors in %: dpn68 23.57 and 6.93, dpn92 20.73 and 5.37, dpn98 20.15 and 5.15, dpn131
19.93 and 5.12. They trained dpn107 on a larger ImageNet first. Not yet run here.

The paper gives batches of 32 images on each of 40 GPUs (24 for DPN-131) and a learning
rate that starts from the root of 0.1 (0.4 for DPN-98) and drops in steps to a tenth. It
does not say when, nor how long training lasts and how weights decay: 90 epochs with
drops after 30 and 60, and 1e-4, are fb.resnet.torch's. Nor does it have DPN-68 and
DPN-107, for which the authors' code names 64 and 24 images on each of 40 GPUs; it names
no rates, so theirs is that of DPN-92.

Differs from the paper: the authors add up to 20 of 180 to the hue and up to 40 and 50
of 255 to saturation and lightness, where saturation and brightness are multiplied here;
batch statistics are the moving averages and are not measured again after training
(--batch_stats=population does that).
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "dpn92", "dpn*")
    config = default.get_config()
    datasets.imagenet(config)
    config.dataset.mean = (124.0, 117.0, 104.0)
    config.dataset.std = (59.88, 59.88, 59.88)  # the authors multiply by 0.0167
    config.augment.view = "inception_crop"
    config.augment.interpolation = "bicubic"
    config.augment.hue = 0.111
    config.augment.saturation = 0.157
    config.augment.brightness = 0.196
    config.batch_size = 1280
    config.num_epochs = 90.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.316
    config.optimizer.weight_decay = 1e-4
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "step"
    config.schedule.boundaries = (30.0, 60.0)
    config.schedule.factors = (0.1, 0.01)
    if network == "dpn98":
        config.optimizer.learning_rate = 0.4
    if network == "dpn68":
        config.batch_size = 2560
    if network in ("dpn131", "dpn107"):
        config.batch_size = 960
    return config
