"""VGG-16 on ImageNet; configs/vgg.py describes the recipe.

python main.py --config=configs/vgg16.py --workdir=runs/vgg16
"""

from configs import vgg


def get_config(recipe="paper"):
    return vgg.get_config(recipe)
