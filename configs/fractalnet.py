"""FractalNet on CIFAR-10 and ImageNet (Larsson, Maire, Shakhnarovich, 2016, Section 4).

    python main.py --config=configs/fractalnet.py --workdir=runs/fractalnet

The argument names further networks, as in configs/fractalnet.py:fractalnet_40:
fractalnet_5, 10, 20, 40, 80 and 160, which the paper compares on CIFAR-100
(--config.dataset.name=cifar100), and fractalnet_34 for ImageNet. This leaves out
drop-path and dropout:
--config.model.fields="{'drop_path': 0.0, 'dropout': (0, 0, 0, 0, 0)}".

With drop-path and dropout the paper reports 4.60 % error on CIFAR-10 with translations
and flips, 4.68 % for the deepest column alone, and 5.22 % without either. For
fractalnet_34 it reports 24.12 % top-1 and 7.39 % top-5 error with 10 crops. Not yet run
here.

Biases learn at twice the rate of the weights, as in the authors' definition. There is
no weight decay, since the paper names none; their definition lets kernels decay and
biases not, at a rate that is not published.

Differs from the paper: channel means and deviations. The paper does not say how
ImageNet's images are cropped; here they are cropped as for ResNet, which it compares
with.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "fractalnet", "fractalnet*")
    config = default.get_config()
    datasets.cifar10(config)
    config.batch_size = 100
    config.num_epochs = 400.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.02
    config.optimizer.kwargs.momentum = 0.9
    config.optimizer.rate_factors = (("(conv|fc)/bias$", 2.0),)
    # The rate falls to a tenth each time half of the remaining epochs have passed.
    config.schedule.name = "step"
    config.schedule.boundaries = (200.0, 300.0, 350.0, 375.0)
    config.schedule.factors = (1e-1, 1e-2, 1e-3, 1e-4)
    if network == "fractalnet_34":
        datasets.imagenet(config)
        config.augment.crop = 0
        config.augment.view = "rescale_crop"
        config.augment.short_side = (256, 480)
        config.eval.protocol = "ten_crop"
        config.batch_size = 32
        config.num_epochs = 70.0
        config.optimizer.learning_rate = 0.001
        config.schedule.boundaries = (35.0, 52.5, 61.25, 65.625)
    return config
