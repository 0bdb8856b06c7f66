"""Published geometries of NiN: the blocks of the trunk, and the class block that the head makes of them.

"d2l" is Dive into Deep Learning's for 224 px, "small" the same idea for 28 to 32 px, the others the authors' own (Lin, Chen and
Yan, arXiv:1312.4400, and its Caffe definitions).
"""

from dataclasses import dataclass

from nin.registry import Registry


@dataclass(frozen=True)
class NinBlock:
    """One block: widths of the spatial convolution and of its 1x1s, and the geometry of the spatial one in pixels."""

    channels: tuple[int, ...]
    kernel_size: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class NinLayout:
    """A published geometry of NiN: the blocks before the class block, each followed by 3x3 max pooling with stride 2.

    class_block      the wide class block except its last layer, which has K channels; without channels: the trunk's own
    ceil_pooling     whether pooling counts windows that overhang the border, as Caffe does
    dropout_between  whether units are dropped after every pooling; otherwise only after the last, which is in the head
    """

    blocks: tuple[NinBlock, ...]
    class_block: NinBlock = NinBlock((), 3, padding=1)
    ceil_pooling: bool = False
    dropout_between: bool = False


def _authors(*blocks: NinBlock, class_block: NinBlock) -> NinLayout:
    return NinLayout(blocks, class_block, ceil_pooling=True, dropout_between=True)


NIN_LAYOUTS: Registry[NinLayout] = Registry(
    "NiN layout",
    "model.layout",
    {
        "d2l": NinLayout(
            (NinBlock((96,), 11, stride=4), NinBlock((256,), 5, padding=2), NinBlock((384,), 3, padding=1))
        ),
        "small": NinLayout(
            (NinBlock((96,), 5, padding=2), NinBlock((192,), 5, padding=2), NinBlock((256,), 3, padding=1)),
            ceil_pooling=True,
        ),
        "cifar": _authors(
            NinBlock((192, 160, 96), 5, padding=2),
            NinBlock((192, 192, 192), 5, padding=2),
            class_block=NinBlock((192, 192), 3, padding=1),
        ),
        "svhn": _authors(
            NinBlock((128, 96, 64), 5, padding=2),
            NinBlock((320, 256, 128), 5, padding=2),
            class_block=NinBlock((384, 256), 5, padding=2),
        ),
        "mnist": _authors(
            NinBlock((96, 64, 48), 5, padding=2),
            NinBlock((128, 96, 48), 5, padding=2),
            class_block=NinBlock((128, 96), 5, padding=2),
        ),
    },
)
