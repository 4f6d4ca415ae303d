"""Wide ResNet on ImageNet (Zagoruyko, Komodakis, 2016, Section 3).

    python main.py --config=configs/wide_resnet_imagenet.py --workdir=runs/wrn_50_2

The argument is the network, by default wrn_50_2:
--config=configs/wide_resnet_imagenet.py:wrn_18_1.5. The paper reports these top-1 and
top-5 errors with one crop, in per cent (Tables 7 and 8):

    wrn_18_1.5  27.06  9.0         wrn_34_1.5  24.5   7.58
    wrn_18_2    25.58  8.06        wrn_34_2    23.39  7.00
    wrn_18_3    24.06  7.33        wrn_50_2    21.9   6.03

wrn_101_2 is not in the paper. Not yet run here.

Differs from the paper: aspect ratios of crops, and colours are clipped to 0..255
(configs/datasets.py). The recipe is fb.resnet.torch's, augmentation included.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(
        network, "wrn_50_2", "wrn_18_* wrn_34_* wrn_50_* wrn_101_*"
    )
    config = default.get_config()
    datasets.imagenet(config)
    datasets.fb_resnet(config)
    config.batch_size = 256
    config.num_epochs = 90.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.kwargs.momentum = 0.9
    config.optimizer.kwargs.nesterov = True
    config.schedule.name = "step"
    config.schedule.boundaries = (30.0, 60.0)
    config.schedule.factors = (0.1, 0.01)
    return config
