"""SENet on ImageNet (Hu, Shen, Albanie, Sun, Wu, 2017, Section 5.1).

    python main.py --config=configs/senet.py:se_resnext50_32x4d --workdir=runs/senet

The argument is the network, by default se_resnet50. The paper reports these top-1 and
top-5 errors with one crop, in per cent (Table 2; Table 8 for SENet-154):

    se_resnet50   23.29  6.62        se_resnext50_32x4d   21.10  5.49
    se_resnet101  22.38  6.07        se_resnext101_32x4d  20.70  5.01
    se_resnet152  21.57  5.73        senet154             18.68  4.47

Not yet run here.

Differs from the paper: images are divided by a deviation, where the paper only
subtracts channel means; SENet-154's training also used larger batches, label smoothing
and batch normalisation frozen at the end.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "se_resnet50", "se*")
    config = default.get_config()
    datasets.imagenet(config)
    config.augment.view = "inception_crop"
    config.batch_size = 1024
    config.num_epochs = 100.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.6
    config.optimizer.weight_decay = 1e-4
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "step"
    config.schedule.boundaries = (30.0, 60.0, 90.0)
    config.schedule.factors = (0.1, 0.01, 0.001)
    return config
