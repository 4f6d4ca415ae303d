"""DenseNet on ImageNet (Huang, Liu, van der Maaten, Weinberger, 2016, Section 4.2).

    python main.py --config=configs/densenet121.py --workdir=runs/densenet121

The same recipe trains densenet169, densenet201 and densenet264:
--config=configs/densenet121.py:densenet169. densenet161, from the conference version,
has half the batch size and ten more epochs.

The paper reports 25.02, 23.80, 22.58 and 22.15 % top-1 error and 7.71, 6.85, 6.34 and
6.12 % top-5 with one crop (Table 3); the authors' DenseNet-161 has 22.2 % top-1. Not
yet run here.

Differs from the paper: aspect ratios of crops, and colours are clipped to 0..255
(configs/datasets.py). The augmentation is fb.resnet.torch's.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "densenet121", "densenet???")
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
    if network == "densenet161":
        config.batch_size = 128
        config.num_epochs = 100.0
        config.schedule.boundaries = (30.0, 60.0, 90.0)
        config.schedule.factors = (0.1, 0.01, 0.001)
    return config
