"""VGG on ImageNet (Simonyan, Zisserman, 2014, Section 3.1).

    python main.py --config=configs/vgg.py:vgg19 --workdir=runs/vgg19

The argument is the network: vgg16 (if none is given), vgg11, vgg11_lrn, vgg13, vgg16_c,
vgg19, or vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn, which are not in the paper.

With training images of a short side of 256 pixels and one scale in evaluation the paper
reports (top-1/top-5 % error): vgg11 29.6/10.4, vgg11_lrn 29.7/10.5, vgg13 28.7/9.9,
vgg16_c 28.1/9.4, vgg16 27.0/8.8, vgg19 27.3/9.0. Not yet run here.

Differs from the paper: images are resized to 224x224, not cropped from a short side of
256, of 384 or from 256 to 512, and colours are not changed; the deeper networks do not
start from layers of vgg11 (models/vgg.py); the map of class scores of a whole image is
not averaged in evaluation.
"""

from configs import datasets, default


def get_config(network="vgg16"):
    config = default.get_config()
    datasets.imagenet(config)
    config.dataset.std = (1.0, 1.0, 1.0)  # "subtracting the mean" is all (Section 2.1)
    config.batch_size = 256
    config.num_epochs = 74.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 5e-4
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "plateau"  # "decreased 3 times", when accuracy stopped
    config.schedule.decay_rate = 0.1
    config.schedule.patience = 5
    return config
