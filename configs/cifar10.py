"""Five networks on CIFAR-10, with trainings of 20 to 60 minutes on two idle cores.

    python main.py --config=configs/cifar10.py:resnet20 --workdir=runs/cifar_resnet20

The argument is the network: resnet20 (the default), wrn_16_4, densenet_40_12,
vgg11_cifar or nin. The recipes are ours, and as short as the time allows: the learning
rate rises for one epoch and falls linearly to zero, images are flipped and translated
by up to 4 pixels, and the network of the last step is the result. NIN, which has no
batch normalisation, learns with AdamW; the others learn with SGD. There is neither
label smoothing nor a Polyak average: so few epochs overfit little, and the last steps
of a rate that falls to zero are an average of their own. docs/training.md has the test
errors.

Nothing is chosen by the test images. What is to be compared is compared on 5,000
training images that the training leaves out:

    --config.dataset.train_split='train[:45000]'
    --config.dataset.eval_split='train[45000:]'

Images are normalised by the statistics of the training split itself, so that
--config.dataset.name=cifar100 or fashion_mnist needs no other flag. (The images of
Fashion-MNIST get a frame of zeros, which the statistics include.)
"""

from configs import datasets, default

# Network: epochs, optimizer, learning rate, weight decay, images per step. With 0.05,
# VGG's loss on train[:45000] rises from 1.7 to 2.3 within the warm-up.
ROWS = {
    "resnet20": (40.0, "sgd", 0.1, 5e-4, 128),
    "wrn_16_4": (12.0, "sgd", 0.1, 5e-4, 128),
    "densenet_40_12": (4.0, "sgd", 0.1, 1e-4, 64),
    "vgg11_cifar": (20.0, "sgd", 0.02, 5e-4, 128),
    "nin": (10.0, "adamw", 1e-3, 1e-2, 128),
}


def get_config(network="resnet20"):
    if network not in ROWS:
        raise ValueError(f"configs/cifar10.py has no {network!r}; it has {list(ROWS)}")
    epochs, optimizer, rate, decay, batch_size = ROWS[network]
    config = default.get_config()
    datasets.cifar10(config)
    datasets.channels(config)
    config.batch_size = batch_size
    config.num_epochs = epochs
    config.model.name = network
    config.optimizer.name = optimizer
    config.optimizer.learning_rate = rate
    config.optimizer.weight_decay = decay
    if optimizer == "sgd":
        config.optimizer.kwargs.momentum = 0.9
        config.optimizer.kwargs.nesterov = True
    config.schedule.name = "polynomial"
    config.schedule.warmup_epochs = 1.0
    config.checkpoint.keep_best = 0  # by the test images
    return config
