"""Where is the spatial work done: does the first convolution need its large kernel, and what does its stride cost?

Kernels and strides of the first convolution of the textbook's layout on 224 px images, under every protocol; the textbook has
11x11 with stride 4. Images that are enlarged to 224 px have less detail than that: of Fashion-MNIST's 28 px, a kernel of 11x11 sees
9 pixels and one of 3x3 sees 4, so differences can be smaller here than between kernels on large photographs.
"""

from ablations.study import Study, Variant

STUDY = Study(
    baseline="11x11/4",
    variants={
        f"{kernel}x{kernel}/{stride}": Variant(
            model={"layout": "d2l", "first_kernel": kernel, "first_stride": stride}, data={"image_size": 224}
        )
        for kernel, stride in ((11, 4), (7, 4), (5, 4), (3, 4), (7, 2), (11, 8))
    },
    protocols=("smoke", "quick", "full", "d2l"),
)
