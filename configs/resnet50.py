"""ResNet on ImageNet (He, Zhang, Ren, Sun, 2015, Section 3.4).

    python main.py --config=configs/resnet50.py --workdir=runs/resnet50

The same recipe trains resnet18, resnet34, resnet101, resnet152, plain18 and plain34:
--config=configs/resnet50.py:resnet101. Each shortcut option of the paper's Table 3 is
--config.model.fields="{'shortcut': 'A'}".

The paper reports 22.85 % top-1 and 6.71 % top-5 error for ResNet-50 with 10 crops; its
released model has 24.7 % and 7.8 % with one. Not yet run here.

Differs from the paper: images are resized to 224x224, not cropped from a short side of
256 to 480, and colours are not changed; channel means and deviations instead of the
mean of each pixel; 120 epochs stand for 600,000 steps of 256.
"""

from configs import datasets, default


def get_config(network="resnet50"):
    config = default.get_config()
    datasets.imagenet(config)
    config.batch_size = 256
    config.num_epochs = 120.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "plateau"  # "divided by 10 when the error plateaus"
    config.schedule.decay_rate = 0.1
    config.schedule.patience = 5
    return config
