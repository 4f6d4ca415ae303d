"""ResNeXt on ImageNet (Xie, Girshick, Dollar, Tu, He, 2016, Sections 4 and 5.1).

    python main.py --config=configs/resnext50.py --workdir=runs/resnext50

The same recipe trains resnext101_32x4d and resnext101_64x4d, and resnext101_32x8d,
which is not in the paper: --config=configs/resnext50.py:resnext101_32x4d. The other
rows of the paper's Table 3 are resnext50_32x4d and resnext101_32x4d with
--config.model.fields="{'cardinality': 2, 'bottleneck_width': 40}".

The paper reports these top-1 errors with one crop, in per cent (Tables 3 and 4):

    cardinality x width  1x64d  2x40d  4x24d  8x14d  32x4d  64x4d
    ResNeXt-50            23.9   23.0   22.6   22.3   22.2
    ResNeXt-101           22.0   21.7   21.4   21.3   21.2   20.4

Not yet run here.

Differs from the paper: aspect ratios of crops, and colours are clipped to 0..255
(configs/datasets.py). The augmentation is fb.resnet.torch's. The epochs and the drops
of the rate are those of the authors' code.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "resnext50_32x4d", "resnext50_* resnext101_*")
    config = default.get_config()
    datasets.imagenet(config)
    datasets.fb_resnet(config)
    config.batch_size = 256
    config.num_epochs = 100.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.kwargs.momentum = 0.9
    config.optimizer.kwargs.nesterov = True
    config.schedule.name = "step"
    config.schedule.boundaries = (30.0, 60.0, 90.0)
    config.schedule.factors = (0.1, 0.01, 0.001)
    return config
