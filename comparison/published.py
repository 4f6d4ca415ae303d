"""The depth and error that were published for each network, in order of publication.

The errors are other people's figures, in per cent; none was measured here. Each network
has one result. Where several were published, this is the one that compares best with
the other networks': a single crop, which most papers since 2015 report, rather than ten
crops, a whole image or several scales. The protocol says which it is:

  1-crop      the centre of each of ImageNet's validation images, at the network's size
              unless the protocol names another
  10-crop     the mean over four corners and the centre, each also flipped
  dense       the network slid over the whole image; the number is its shorter side
  CIFAR-10+   every test image once; training shifted and flipped the images (+) or
              augmented them further (++)

Ten crops are 1 to 2 points better than one (ResNet-50: 22.85 and 24.7). The source is a
table or section of the network's own paper unless it names another.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """A network's row.

    The year is that of the network's paper; a variant has the year of the original.
    Layers are the number that the paper gives. Where it gives none, they are the
    convolutions and fully connected layers on the longest path, as ResNet counts them.
    LeNet-5's seven include sub-sampling; WRN counts the projections of its three
    shortcuts instead of the last layer; NIN and FractalNet count convolutions alone.
    """

    name: str
    family: str
    year: int
    layers: int
    image: int  # the height and width that the network is made for
    channels: int
    classes: int
    top1: float | None = None
    top5: float | None = None
    protocol: str = ""
    source: str = ""
    verified: bool = True  # False: from memory or second hand, not seen in the source


# The images' channels, and the number of classes.
MNIST = (1, 10)
CIFAR_10 = (3, 10)
CIFAR_100 = (3, 100)
IMAGENET = (3, 1000)

RELEASED = "the authors' released weights"
TORCHVISION = "torchvision's weights"
TORCH_RESNET = "fb.resnet.torch"

# Each entry is (family, year, data) followed by its networks. A network has name,
# layers and image. If an error was published, top-1, top-5, protocol and source follow,
# and False if the figures are not verified.
_ROWS = (
    (
        ("LeNet", 1998, MNIST),
        ("lenet5", 7, 32, 0.95, None, "MNIST test", "Section III.B"),
        ("lenet5_modern", 7, 28),
    ),
    (
        ("AlexNet", 2012, IMAGENET),
        ("alexnet", 8, 227, 40.7, 18.2, "10-crop", "Table 2"),
        ("alexnet_ungrouped", 8, 227),
    ),
    (
        ("ZFNet", 2013, IMAGENET),
        # Table 2 has one network of Figure 3 and (b), and does not describe the test.
        ("zfnet", 8, 224, 38.4, 16.5, "not stated", "Table 2"),
        ("zfnet_b", 8, 224, 37.5, 16.0, "not stated", "Table 2"),
    ),
    (
        ("NIN", 2013, CIFAR_10),
        # Each of the three "mlpconv" layers has three convolutions.
        ("nin", 9, 32, 8.81, None, "CIFAR-10+", "Table 1", False),
    ),
    (
        ("NIN", 2013, IMAGENET),
        ("nin_imagenet", 12, 224, 40.64, None, "1-crop", "Caffe's model zoo", False),
    ),
    (
        ("OverFeat", 2013, IMAGENET),
        # The fast network is tested at its coarse stride, the accurate one on corners
        # and centre.
        ("overfeat_fast", 8, 231, 39.28, 17.12, "dense, 1 scale", "Table 2", False),
        ("overfeat_accurate", 9, 221, 35.60, 14.71, "10-crop", "Table 2", False),
    ),
    (
        # The network is that of https://arxiv.org/abs/1404.5997, "One weird trick".
        ("AlexNet", 2014, IMAGENET),
        ("alexnet_one_tower", 8, 224, 43.48, 20.93, "1-crop", TORCHVISION),
    ),
    (
        ("VGG", 2014, IMAGENET),
        # Table 3 has two training scales; these are the better results.
        ("vgg11", 11, 224, 29.6, 10.4, "dense, 256", "Table 3"),
        ("vgg11_lrn", 11, 224, 29.7, 10.5, "dense, 256", "Table 3"),
        ("vgg13", 13, 224, 28.7, 9.9, "dense, 256", "Table 3"),
        ("vgg16_c", 16, 224, 27.3, 8.8, "dense, 384", "Table 3"),
        ("vgg16", 16, 224, 25.6, 8.1, "dense, 384", "Table 3"),
        ("vgg19", 19, 224, 25.5, 8.0, "dense, 384", "Table 3"),
        ("vgg11_bn", 11, 224, 29.63, None, "1-crop", TORCHVISION),
        ("vgg13_bn", 13, 224, 28.41, None, "1-crop", TORCHVISION),
        ("vgg16_bn", 16, 224, 27.02, 8.81, "1-crop", "SENet, Table 2"),
        ("vgg19_bn", 19, 224, 25.78, None, "1-crop", TORCHVISION),
    ),
    (
        # The names are the originals'. These have one fully connected layer, not three.
        ("VGG", 2014, CIFAR_10),
        ("vgg11_cifar", 9, 32),
        ("vgg13_cifar", 11, 32),
        ("vgg16_cifar", 14, 32, 7.36, None, "CIFAR-10+", "kuangliu/pytorch-cifar"),
        ("vgg19_cifar", 17, 32),
    ),
    (
        ("Inception", 2014, IMAGENET),
        ("googlenet", 22, 224, None, 10.07, "1-crop", "Table 3", False),
        ("googlenet_bn", 22, 224, 30.22, 10.47, "1-crop", TORCHVISION),
    ),
    (
        ("Inception", 2015, IMAGENET),
        ("bn_inception", 34, 224, 25.2, 7.82, "1-crop", "Figure 4", False),
        ("bn_inception_128", 34, 224, 25.38, 7.89, "1-crop", "SENet, Table 2"),
        # The released network has 48 layers; the paper counts 42 in its Table 1. It
        # tests on 48,238 of the images; all 50,000 give about 0.2 more.
        ("inception_v3", 48, 299, 21.2, 5.6, "1-crop, 48,238 images", "Table 3"),
    ),
    (
        ("ResNet", 2015, IMAGENET),
        # The paper tests these two with option A and ten crops, 27.88 and 25.03.
        ("resnet18", 18, 224, 30.43, 10.76, "1-crop", TORCH_RESNET),
        ("resnet34", 34, 224, 26.73, 8.74, "1-crop", TORCH_RESNET),
        ("resnet50", 50, 224, 24.7, 7.8, "1-crop", RELEASED),
        ("resnet101", 101, 224, 23.6, 7.1, "1-crop", RELEASED),
        ("resnet152", 152, 224, 23.0, 6.7, "1-crop", RELEASED),
        ("plain18", 18, 224, 27.94, None, "10-crop", "Table 2"),
        ("plain34", 34, 224, 28.54, 10.02, "10-crop", "Table 3"),
    ),
    (
        ("ResNet", 2015, CIFAR_10),
        ("resnet20", 20, 32, 8.75, None, "CIFAR-10+", "Table 6"),
        ("resnet32", 32, 32, 7.51, None, "CIFAR-10+", "Table 6"),
        ("resnet44", 44, 32, 7.17, None, "CIFAR-10+", "Table 6"),
        ("resnet56", 56, 32, 6.97, None, "CIFAR-10+", "Table 6"),
        ("resnet110", 110, 32, 6.43, None, "CIFAR-10+, best of 5", "Table 6"),
        ("resnet1202", 1202, 32, 7.93, None, "CIFAR-10+", "Table 6"),
        # Figure 6 has their curves but no numbers.
        ("plain20", 20, 32),
        ("plain32", 32, 32),
        ("plain44", 44, 32),
        ("plain56", 56, 32),
        ("plain110", 110, 32),
    ),
    (
        ("Inception", 2016, IMAGENET),
        # On all 50,000 images SENet's authors had 20.37 / 5.21 for the second.
        ("inception_v4", 76, 299, 20.0, 5.0, "1-crop, 48,238 images", "Table 2", False),
        (
            "inception_resnet_v2",
            176,
            299,
            19.9,
            4.9,
            "1-crop, 48,238 images",
            "Table 2",
            False,
        ),
    ),
    (
        ("Pre-activation ResNet", 2016, CIFAR_10),
        ("preact_resnet110", 110, 32, 6.37, None, "CIFAR-10+, median of 5", "Table 3"),
        ("preact_resnet164", 164, 32, 5.46, None, "CIFAR-10+, median of 5", "Table 3"),
        (
            "preact_resnet1001",
            1001,
            32,
            4.92,
            None,
            "CIFAR-10+, median of 5",
            "Table 3",
        ),
    ),
    (
        ("Pre-activation ResNet", 2016, IMAGENET),
        # Its own Table 5 has only crops of 320, 20.7 / 5.3.
        ("preact_resnet200", 200, 224, 21.7, 5.8, "1-crop", "ResNeXt, Table 4"),
    ),
    (
        ("Wide ResNet", 2016, CIFAR_10),
        # Tables 5 and 6 normalise by the channels' means and deviations, Table 4
        # whitens by ZCA.
        ("wrn_40_1", 40, 32, 6.85, None, "CIFAR-10+, ZCA", "Table 4"),
        ("wrn_40_2", 40, 32, 5.33, None, "CIFAR-10+, ZCA", "Table 4"),
        ("wrn_40_4", 40, 32, 4.53, None, "CIFAR-10+, median of 5", "Table 5"),
        ("wrn_40_8", 40, 32, 4.66, None, "CIFAR-10+, ZCA", "Table 4"),
        ("wrn_40_10", 40, 32, 3.8, None, "CIFAR-10+, dropout, 1 run", "Table 9"),
        ("wrn_28_10", 28, 32, 4.00, None, "CIFAR-10+, median of 5", "Table 5"),
        ("wrn_28_12", 28, 32, 4.33, None, "CIFAR-10+, ZCA", "Table 4"),
        ("wrn_22_8", 22, 32, 4.38, None, "CIFAR-10+, ZCA", "Table 4"),
        ("wrn_22_10", 22, 32, 4.44, None, "CIFAR-10+, ZCA", "Table 4"),
        ("wrn_16_4", 16, 32, 5.02, None, "CIFAR-10+, median of 5", "Table 6"),
        ("wrn_16_8", 16, 32, 4.27, None, "CIFAR-10+, median of 5", "Table 5"),
        ("wrn_16_10", 16, 32, 4.56, None, "CIFAR-10+, ZCA", "Table 4"),
    ),
    (
        ("Wide ResNet", 2016, IMAGENET),
        ("wrn_18_1.5", 18, 224, 27.06, 9.0, "1-crop", "Table 7"),
        ("wrn_18_2", 18, 224, 25.58, 8.06, "1-crop", "Table 7"),
        ("wrn_18_3", 18, 224, 24.06, 7.33, "1-crop", "Table 7"),
        ("wrn_34_1.5", 34, 224, 24.5, 7.58, "1-crop", "Table 7"),
        ("wrn_34_2", 34, 224, 23.39, 7.00, "1-crop", "Table 7"),
        ("wrn_50_2", 50, 224, 21.9, 6.03, "1-crop", "Table 8"),
        ("wrn_101_2", 101, 224, 21.15, None, "1-crop", TORCHVISION),
    ),
    (
        ("FractalNet", 2016, CIFAR_10),
        (
            "fractalnet",
            20,
            32,
            4.60,
            None,
            "CIFAR-10+, drop-path, dropout",
            "Table 1",
            False,
        ),
    ),
    (
        ("FractalNet", 2016, CIFAR_100),
        ("fractalnet_5", 5, 32, 37.32, None, "CIFAR-100++", "Table 3", False),
        ("fractalnet_10", 10, 32, 30.71, None, "CIFAR-100++", "Table 3", False),
        ("fractalnet_20", 20, 32, 27.69, None, "CIFAR-100++", "Table 3", False),
        ("fractalnet_40", 40, 32, 27.38, None, "CIFAR-100++", "Table 3", False),
        ("fractalnet_80", 80, 32, 26.46, None, "CIFAR-100++", "Table 3", False),
        ("fractalnet_160", 160, 32, 27.38, None, "CIFAR-100++", "Table 3", False),
    ),
    (
        ("FractalNet", 2016, IMAGENET),
        ("fractalnet_34", 34, 224, 24.12, 7.39, "10-crop", "Table 2", False),
    ),
    (
        ("DenseNet", 2016, IMAGENET),
        ("densenet121", 121, 224, 25.02, 7.71, "1-crop", "Table 3"),
        ("densenet169", 169, 224, 23.80, 6.85, "1-crop", "Table 3"),
        ("densenet201", 201, 224, 22.58, 6.34, "1-crop", "Table 3"),
        # Our count of its blocks, 6, 12, 64 and 48, is 265.
        ("densenet264", 264, 224, 22.15, 6.12, "1-crop", "Table 3"),
        ("densenet161", 161, 224, 22.2, None, "1-crop", RELEASED),
    ),
    (
        ("DenseNet", 2016, CIFAR_10),
        ("densenet_40_12", 40, 32, 5.24, None, "CIFAR-10+", "Table 2"),
        ("densenet_100_12", 100, 32, 4.10, None, "CIFAR-10+", "Table 2"),
        ("densenet_100_24", 100, 32, 3.74, None, "CIFAR-10+", "Table 2"),
        ("densenet_bc_100_12", 100, 32, 4.51, None, "CIFAR-10+", "Table 2"),
        ("densenet_bc_250_24", 250, 32, 3.62, None, "CIFAR-10+", "Table 2"),
        ("densenet_bc_190_40", 190, 32, 3.46, None, "CIFAR-10+", "Table 2"),
    ),
    (
        ("ResNeXt", 2016, IMAGENET),
        ("resnext50_32x4d", 50, 224, 22.2, None, "1-crop", "Table 3"),
        ("resnext101_32x4d", 101, 224, 21.2, 5.6, "1-crop", "Table 4"),
        ("resnext101_64x4d", 101, 224, 20.4, 5.3, "1-crop", "Table 4"),
        ("resnext101_32x8d", 101, 224, 20.69, None, "1-crop", TORCHVISION),
    ),
    (
        ("ResNeXt", 2016, CIFAR_10),
        ("resnext29_1x64d", 29, 32),
        ("resnext29_8x64d", 29, 32, 3.65, None, "CIFAR-10+, mean of 10", "Table 7"),
        ("resnext29_16x64d", 29, 32, 3.58, None, "CIFAR-10+, mean of 10", "Table 7"),
    ),
    (
        ("DPN", 2017, IMAGENET),
        ("dpn68", 68, 224, 23.57, 6.93, "1-crop", RELEASED),
        ("dpn92", 92, 224, 20.73, 5.37, "1-crop", RELEASED),
        ("dpn98", 98, 224, 20.15, 5.15, "1-crop", RELEASED),
        ("dpn131", 131, 224, 19.93, 5.12, "1-crop", RELEASED),
        # It was pre-trained on 5,000 further classes, so it does not compare.
        ("dpn107", 107, 224, 19.75, 4.94, "1-crop, ImageNet-5k first", RELEASED),
    ),
    (
        ("SENet", 2017, IMAGENET),
        ("se_resnet50", 50, 224, 23.29, 6.62, "1-crop", "Table 2"),
        ("se_resnet101", 101, 224, 22.38, 6.07, "1-crop", "Table 2"),
        ("se_resnet152", 152, 224, 21.57, 5.73, "1-crop", "Table 2"),
        ("se_resnext50_32x4d", 50, 224, 21.10, 5.49, "1-crop", "Table 2"),
        ("se_resnext101_32x4d", 101, 224, 20.70, 5.01, "1-crop", "Table 2"),
        ("senet154", 154, 224, 18.68, 4.47, "1-crop", RELEASED),
    ),
)

PUBLISHED = {
    name: Published(name, family, year, layers, image, *data, *result)
    for (family, year, data), *networks in _ROWS
    for name, layers, image, *result in networks
}
