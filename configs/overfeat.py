"""OverFeat on ImageNet (Sermanet et al., 2013, Section 3.1).

    python main.py --config=configs/overfeat.py --workdir=runs/overfeat

The argument is the network: overfeat_fast (the default; 231x231 images) or
overfeat_accurate (221x221). The paper reports 39.28 % top-1 and 17.12 % top-5 error on
the validation images for the fast network slid over one scale, 35.60 % and 14.71 % for
the accurate one with 10 crops. Not yet run here.

Differs from the paper: every epoch draws new crops, where the authors drew five of each
image once; the schedule begins at the paper's 0.05 and ends 10 epochs after its last
halving, at epoch 80, since the paper does not say how long the authors continued.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "overfeat_fast", "overfeat_*")
    config = default.get_config()
    size = 221 if network == "overfeat_accurate" else 231
    datasets.imagenet(config, size)
    # The networks that the authors released use one mean and deviation for all
    # channels.
    config.dataset.mean = (118.380948,)
    config.dataset.std = (61.896913,)
    config.augment.view = "rescale_crop"
    config.augment.short_side = (256, 256)
    config.batch_size = 128
    config.num_epochs = 90.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 1e-5
    config.optimizer.kwargs.momentum = 0.6
    config.schedule.name = "step"
    config.schedule.boundaries = (30.0, 50.0, 60.0, 70.0, 80.0)
    config.schedule.factors = (0.5, 0.25, 0.125, 0.0625, 0.03125)
    config.eval.protocol = "offsets"
    return config
