"""Global poolings: what turns a map per channel into one number per channel.

Each is a module from features (N, C, H, W) to (N, C). A new one is a class here and a line in POOLINGS.
"""

from torch import Tensor, nn


class AveragePool(nn.Module):
    """Mean over all positions: global average pooling (Lin, Chen and Yan, arXiv:1312.4400)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return x_NCHW.mean(dim=(2, 3))


class MaxPool(nn.Module):
    """Largest value over all positions; the textbook's PyTorch notebook pooled so until August 2020."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return x_NCHW.amax(dim=(2, 3))


POOLINGS: dict[str, type[nn.Module]] = {
    "average": AveragePool,
    "max": MaxPool,
}
