"""Pre-activation ResNet (He, Zhang, Ren, Sun, 2016, Section 5 and appendix).

    python main.py --config=configs/preact_resnet.py:preact_resnet110 --workdir=runs/v2

The argument is the network: preact_resnet110, preact_resnet164 (the default) or
preact_resnet1001 on CIFAR-10, preact_resnet200 on ImageNet. CIFAR-100 needs
--config.dataset.name=cifar100.

The paper reports 6.37, 5.46 and 4.92 % error on CIFAR-10 (medians of five runs), 24.33
and 22.71 % on CIFAR-100 for 164 and 1001 layers, and for 200 layers on ImageNet 20.7 %
top-1 and 5.3 % top-5 error with one crop of 320x320. Not yet run here.

Differs from the paper: the paper trains on ImageNet "with the scale augmentation"; the
rest of the augmentation here (configs/datasets.py) and the total of 90 epochs are
fb.resnet.torch's.

CIFAR's 64,000 steps and the epochs of the rate's drops belong together for 50,000
images and a batch of 128: with other numbers, change both.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "preact_resnet164", "preact_resnet*")
    config = default.get_config()
    if network == "preact_resnet200":
        datasets.imagenet(config)
        datasets.fb_resnet(config)
        config.augment.view = "rescale_crop"
        config.augment.short_side = (256, 480)
        config.eval.image_size = 320
        config.eval.short_side = 320
        config.batch_size = 256
        config.num_epochs = 90.0
    else:
        datasets.cifar10(config)
        datasets.mean_image(config)
        config.batch_size = 128
        config.num_steps = 64_000
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "step"
    if network == "preact_resnet200":
        config.schedule.boundaries = (30.0, 60.0)
        config.schedule.factors = (0.1, 0.01)
    else:
        # The rate is 0.01 for 400 steps, then 0.1, and falls at 32,000 and 48,000;
        # factors multiply 0.01.
        config.optimizer.learning_rate = 0.01
        config.schedule.boundaries = (1.024, 81.92, 122.88)
        config.schedule.factors = (10.0, 1.0, 0.1)
    return config
