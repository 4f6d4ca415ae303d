"""ResNet on ImageNet: the paper's recipe and later ones.

    python main.py --config=configs/resnet50.py --workdir=runs/resnet50
    python main.py --config=configs/resnet50.py:torchvision_v2 --workdir=runs/v2

The paper's recipe (He, Zhang, Ren, Sun, 2015, Section 3.4): :paper, or nothing, trains
ResNet-50; resnet18, resnet34, resnet101, resnet152, plain18 and plain34 are trained
alike. --config.model.fields="{'shortcut': 'A'}" chooses a shortcut option of Table 3.
The paper reports 22.85 % top-1 and 6.71 % top-5 error for ResNet-50 with 10 crops, and
with --change=eval.protocol=scales 20.74 % and 5.25 %; its released model has 24.7 % and
7.8 % with one crop. Differs from the paper: channel means and deviations replace the
mean of each pixel; 120 epochs stand for 600,000 steps of 256; batch statistics in tests
are moving averages (--batch_stats=population measures them).

The later recipes are for ResNet-50 with its strides on the 3x3 convolutions ("v1.5").
Their authors report with one crop, in % of top-1 accuracy:

    flax            76.54    a1  80.4    ffcv_16  73.8    ffcv_40  77.2
    torchvision_v1  76.13    a2  79.8    ffcv_24  75.6    ffcv_56  78.0
    torchvision_v2  80.86    a3  78.1    ffcv_32  76.6    ffcv_88  78.4
    modern: the same

    mlperf_1632, 3264, 4096, 8192, 13056, 32768 and 65536 (the batch): 75.9, at which
    each of these stops; the optimizer is LARS

--config.model.name trains another network with them that has the same fields.

None of this has been run here. Differs from the sources: convolutions start from N(0, 2
/ inputs), and other choices of torch and flax are not copied. torchvision_v2: the
average covers parameters only, not batch statistics; erased rectangles hold noise, not
the mean, and their aspect ratio is uniform, not its logarithm; the average begins at
step 0, not after the warm-up, and the last layer's biases do not decay. a1, a2, a3:
targets of mixed images are not rounded to 0 and 1. ffcv: strided convolutions have no
blur before them, tests do not add the mirrored image, and the last layer's biases do
not decay. mlperf: batch normalisation covers the whole batch, where the reference has
64 to 204 images. Learning rates change with every step.
"""

from configs import datasets, default

NETWORKS = ("resnet18 resnet34 resnet50 resnet101 resnet152 plain18 plain34").split()

# https://github.com/google/flax/tree/main/examples/imagenet
FLAX = {
    "batch_size": 1024,
    "num_epochs": 100.0,
    "dataset.interpolation": "bicubic",
    "augment.interpolation": "bicubic",
    "model.fields.zero_init": True,
    "optimizer.learning_rate": 0.1,
    "optimizer.per_examples": 256,
    "optimizer.weight_decay": 1e-4,
    "optimizer.kwargs.nesterov": True,
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 5.0,
}
# https://github.com/pytorch/vision/tree/main/references/classification
TORCHVISION_V1 = {
    "batch_size": 256,
    "num_epochs": 90.0,
    "optimizer.learning_rate": 0.1,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decay_mask": "all",
    "schedule.name": "step",
    "schedule.boundaries": (30.0, 60.0),
    "schedule.factors": (0.1, 0.01),
}
# https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives
TORCHVISION_V2 = {
    "batch_size": 1024,
    "num_epochs": 600.0,
    "dataset.image_size": 176,
    "eval.image_size": 224,
    "eval.short_side": 232,
    "augment.policy": "trivialaugment",
    "augment.erasing": 0.1,
    "augment.mixup": 0.2,
    "augment.cutmix": 1.0,
    "augment.repeats": 4,
    "loss.label_smoothing": 0.1,
    "optimizer.learning_rate": 0.5,
    "optimizer.weight_decay": 2e-5,
    # This is 0.99998 after torchvision's adjustment: 1 - 2e-5 * 1024 * 32 / 600.
    "optimizer.ema_decay": 0.998908,
    "optimizer.ema_every": 32,
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 5.0,
    "schedule.warmup_factor": 0.01,
}


def _strikes_back(
    epochs, size, rate, decay, smoothing, drop_path, repeats, magnitude, mixup
):
    """A row of Table 2 of ResNet strikes back (Wightman, Touvron, Jegou, 2021)."""
    return {
        # The paper has 2048, which 3 repeats do not divide.
        "batch_size": 2048 - 2048 % repeats,
        "num_epochs": epochs,
        "dataset.image_size": size,
        "dataset.interpolation": "bicubic",
        "eval.image_size": 224,
        "eval.short_side": 236,
        "augment.interpolation": "bicubic",
        "augment.policy": "randaugment_timm",
        "augment.policy_magnitude": magnitude,
        "augment.policy_std": 0.5,
        "augment.mixup": mixup,
        "augment.cutmix": 1.0,
        "augment.repeats": repeats,
        "model.fields.zero_init": True,
        "model.fields.drop_path": drop_path,
        "loss.name": "binary_cross_entropy",
        "loss.label_smoothing": smoothing,
        "optimizer.name": "lamb",
        "optimizer.learning_rate": rate,
        "optimizer.weight_decay": decay,
        "optimizer.clip_norm": 1.0,
        "schedule.name": "cosine",
        "schedule.warmup_epochs": 5.0,
        "schedule.warmup_factor": 1e-4,
        "schedule.end_factor": 1e-6 / rate,
    }


def _ffcv(epochs, larger):
    """A recipe of https://github.com/libffcv/ffcv-imagenet, rn50_configs.

    From epoch `larger` on, images have 192 pixels instead of 160.
    """
    return {
        "batch_size": 4096,  # 512 on each of 8 GPUs
        "num_epochs": epochs,
        "dataset.image_size": 192,
        "eval.image_size": 256,
        "eval.short_side": 293,
        "augment.image_sizes": ((0.0, 160), (larger, 192)),
        "loss.label_smoothing": 0.1,
        "optimizer.learning_rate": 1.7,
        "optimizer.weight_decay": 1e-4,
        "schedule.name": "polynomial",
        "schedule.warmup_epochs": 2.0,
        "schedule.warmup_factor": 1e-4,
    }


def _mlperf(batch_size, rate, warmup, momentum, decay, epochs):
    """MLPerf Training's reference convergence points, ResNet-50 v1.5 with LARS.

    They give the steps of decay. `epochs` is the total: these steps counted from the
    start or, if reaching 75.9 takes more epochs, from the end of the warm-up.
    """
    return {
        "batch_size": batch_size,
        "num_epochs": epochs,
        "loss.label_smoothing": 0.1,
        "optimizer.name": "lars",
        "optimizer.learning_rate": rate,
        "optimizer.weight_decay": decay,
        "optimizer.kwargs.momentum": momentum,
        "optimizer.kwargs.trust_coefficient": 0.001,
        "schedule.name": "polynomial",
        "schedule.power": 2.0,
        "schedule.warmup_epochs": warmup,
        "eval.every_epochs": 4.0,
    }


RECIPES = {
    "flax": FLAX,
    "torchvision_v1": TORCHVISION_V1,
    "torchvision_v2": TORCHVISION_V2,
    "modern": TORCHVISION_V2,
    "a1": _strikes_back(600.0, 224, 5e-3, 0.01, 0.1, 0.05, 3, 7.0, 0.2),
    "a2": _strikes_back(300.0, 224, 5e-3, 0.02, 0.0, 0.05, 3, 7.0, 0.1),
    "a3": _strikes_back(100.0, 160, 8e-3, 0.02, 0.0, 0.0, 1, 6.0, 0.1),
    "ffcv_16": _ffcv(16.0, 12.0),
    "ffcv_24": _ffcv(24.0, 19.0),
    "ffcv_32": _ffcv(32.0, 25.0),
    "ffcv_40": _ffcv(40.0, 32.0),
    "ffcv_56": _ffcv(56.0, 45.0),
    "ffcv_88": _ffcv(88.0, 71.0),
    "mlperf_1632": _mlperf(1632, 7.4, 2.0, 0.9, 5e-5, 37.0),
    "mlperf_3264": _mlperf(3264, 10.5, 2.0, 0.9, 5e-5, 37.0),
    "mlperf_4096": _mlperf(4096, 10.0, 5.0, 0.9, 2e-4, 42.0),
    "mlperf_8192": _mlperf(8192, 17.0, 5.0, 0.9, 2e-4, 44.0),
    "mlperf_13056": _mlperf(13056, 12.8, 9.0, 0.9, 2.5e-5, 48.0),
    "mlperf_32768": _mlperf(32768, 21.2, 16.0, 0.94, 2.5e-5, 58.0),
    "mlperf_65536": _mlperf(65536, 24.699, 31.0, 0.951807, 1e-4, 89.0),
}


def get_config(argument="paper"):
    if argument in RECIPES:
        return _later(RECIPES[argument])
    known = " ".join([*NETWORKS, *RECIPES])
    return _paper(default.network(argument, "resnet50", known))


def _paper(network):
    config = default.get_config()
    datasets.imagenet(config)
    config.augment.view = "rescale_crop"
    config.augment.short_side = (256, 480)
    config.augment.pca = 0.1
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
    config.eval.protocol = "ten_crop"
    return config


def _later(recipe):
    """Sets the fields that all of RECIPES share, and then the recipe's own."""
    config = default.get_config()
    datasets.imagenet(config)
    config.augment.view = "inception_crop"
    config.model.name = "resnet50"
    config.model.fields.stride_on = "3x3"
    config.optimizer.name = recipe.get("optimizer.name", "sgd")
    config.optimizer.decay_mask = "kernels"
    if config.optimizer.name == "sgd":
        config.optimizer.kwargs.momentum = 0.9
    for name, value in recipe.items():
        *parents, field = name.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        section[field] = value
    return config
