"""Where is the spatial work done: does the first convolution need its large kernel, and what does its stride cost?

Kernels and strides of the first convolution of the d2l layout, which has 11x11 with stride 4 on 224 px images.
"""

from ablations.study import Study, Variant

STUDY = Study(
    baseline="11x11/4",
    variants={
        f"{kernel}x{kernel}/{stride}": Variant(model={"first_kernel": kernel, "first_stride": stride})
        for kernel, stride in ((11, 4), (7, 4), (5, 4), (3, 4), (7, 2), (11, 8))
    },
    protocols=("d2l",),
)
