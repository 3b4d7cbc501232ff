"""CIFAR-100: 32×32 RGB, 100 classes, 50,000 training and 10,000 test images. Reported: the official test set."""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.readers import Torchvision
from lskd.data.registry import register

CLASSES = tuple(  # one string, because a hundred lines of one word each say less
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905
)

# 20 groups of 5 classes that look or live alike (Krizhevsky 2009).
SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "aquatic mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit and vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household electrical devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large man-made outdoor things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large natural outdoor scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large omnivores and herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium-sized mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles 1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles 2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}

# Within each of them to the next, and from the last to the first (Patrini et al. 2017).
FLIPS = {one: group[(i + 1) % 5] for group in SUPERCLASSES.values() for i, one in enumerate(group)}

register(
    Spec(
        name="cifar100",
        title="CIFAR-100",
        num_classes=100,
        shape=(3, 32, 32),
        train=50_000,
        test=10_000,
        class_names=CLASSES,
        digest="bab62f9e864a85956af419ad73218e727450486bdeb69451156a7508a712f526",
        class_sizes=((500,) * 100, (100,) * 100),
    ),
    recipe="crd",
    origin="from $LSKD_DATA/cifar100, else downloaded",
    flips=FLIPS,
    groups=SUPERCLASSES,
)(Torchvision("CIFAR100", "cifar-100-python"))
