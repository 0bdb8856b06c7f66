"""Global poolings: reduce a map per channel to a vector, for the classes or for a last linear layer.

Each is a module built for features of in_shape = (C, H, W), from (N, C, H, W) to (N, out_features); most keep one number per
channel. A new one is a class here and a line in POOLINGS. Defaults are those that the papers publish.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nin.registry import Registry
from nin.spec import Shape


class GlobalPool(nn.Module):
    """Base of all poolings for features of a known shape; one number per channel unless a subclass says otherwise.

    channel_by_channel  whether each number is pooled from its own channel's map alone, so that the map explains it
    """

    channel_by_channel = True
    is_global_pooling = True  # mark for modules that do not import this one

    def __init__(self, in_shape: Shape) -> None:
        super().__init__()
        self.in_shape = in_shape
        self.out_features = in_shape[0]


class AveragePool(GlobalPool):
    """Mean over all positions: global average pooling (Lin, Chen and Yan, arXiv:1312.4400)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return x_NCHW.mean(dim=(2, 3))


class MaxPool(GlobalPool):
    """Largest value over all positions, as in the textbook's PyTorch notebook until August 2020."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return x_NCHW.amax(dim=(2, 3))


class AvgMaxPool(GlobalPool):
    """Half of the mean plus half of the largest value."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return (x_NCHW.mean(dim=(2, 3)) + x_NCHW.amax(dim=(2, 3))) / 2


class ConcatPool(GlobalPool):
    """Mean and largest value side by side."""

    channel_by_channel = False

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape)
        self.out_features = 2 * in_shape[0]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 2C)."""
        return torch.cat([x_NCHW.mean(dim=(2, 3)), x_NCHW.amax(dim=(2, 3))], dim=1)


class MixedPool(GlobalPool):
    """a max + (1 - a) mean with one learned a, at first a half (Lee, Gallagher and Tu, arXiv:1509.08985)."""

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape)
        self.share_of_max = nn.Parameter(torch.tensor(0.5))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return torch.lerp(x_NCHW.mean(dim=(2, 3)), x_NCHW.amax(dim=(2, 3)), self.share_of_max.to(x_NCHW.dtype))


class GatedPool(GlobalPool):
    """Mixed pooling whose a = sigmoid(w . x) depends on each map; w has a weight per position, shared by channels (1509.08985)."""

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape)
        self.gate_HW = nn.Parameter(torch.zeros(in_shape[1:]))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        share_of_max_NC = torch.sigmoid((x_NCHW * self.gate_HW).sum(dim=(2, 3)))
        return torch.lerp(x_NCHW.mean(dim=(2, 3)), x_NCHW.amax(dim=(2, 3)), share_of_max_NC.to(x_NCHW.dtype))


class LogSumExpPool(GlobalPool):
    """log(mean(exp(r x))) / r with learned r, at first 10: mean for small r, maximum for large (Pinheiro and Collobert 2015)."""

    SMALLEST = 1e-3  # r at which it is nearly the mean, and where a smaller r stays; below 0 it would be a minimum

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape)
        self.sharpness = nn.Parameter(torch.tensor(10.0))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        num_positions = x_NCHW.shape[2] * x_NCHW.shape[3]
        r = self.sharpness.clamp(min=self.SMALLEST)
        smooth_NC = (torch.logsumexp(r * x_NCHW.float(), dim=(2, 3)) - math.log(num_positions)) / r
        return smooth_NC.to(r.dtype)


class GeMPool(GlobalPool):
    """Generalised mean, mean(x^p)^(1/p) with learned p, at first 3, of values clamped at 1e-6 (Radenovic et al., 1711.02512)."""

    SMALLEST = 1e-6
    SMALLEST_POWER = 1.0  # at which it is the mean

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape)
        self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        x_NCHW, power = x_NCHW.float().clamp(min=self.SMALLEST), self.power.clamp(min=self.SMALLEST_POWER)
        # Powers are scaled by the largest value, since those of small values alone would be zero.
        largest_NC = x_NCHW.detach().amax(dim=(2, 3))
        shares_NCHW = x_NCHW / largest_NC[:, :, None, None]
        mean_NC = shares_NCHW.pow(power).mean(dim=(2, 3)).pow(1 / power)
        return (largest_NC * mean_NC).to(self.power.dtype)


class StochasticPool(GlobalPool):
    """In training one position, drawn with p = a / sum(a); in evaluation the mean under p (Zeiler and Fergus, 1301.3557).

    It is meant for maps that are not negative: negative values are never drawn. A map of zeros gives zero.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        a_NCP = x_NCHW.flatten(2).float().clamp(min=0)  # a sum in bf16 may exceed what is there to draw from
        total_NC1 = a_NCP.sum(dim=2, keepdim=True)
        if not self.training:
            smallest = torch.finfo(a_NCP.dtype).tiny
            mean_NC1 = a_NCP.square().sum(dim=2, keepdim=True) / total_NC1.clamp(min=smallest)
            return mean_NC1.squeeze(2).to(x_NCHW.dtype)
        # The drawn position is the first at which the running sum passes a uniform share of the total.
        threshold_NC1 = total_NC1 * torch.rand(total_NC1.shape, device=a_NCP.device)
        drawn_NC1 = (a_NCP.cumsum(dim=2) <= threshold_NC1).sum(dim=2, keepdim=True)
        return a_NCP.gather(2, drawn_NC1.clamp(max=a_NCP.shape[2] - 1)).squeeze(2).to(x_NCHW.dtype)


class AttentionPool(GlobalPool):
    """The mean attends to all positions and itself, heads of 64 channels, learned positions (CLIP, Radford et al., 2103.00020)."""

    channel_by_channel = False
    HEAD_CHANNELS = 64

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape)
        channels, height, width = in_shape
        num_heads = channels // self.HEAD_CHANNELS if channels % self.HEAD_CHANNELS == 0 else 1
        self.positions_TC = nn.Parameter(torch.randn(height * width + 1, channels) / channels**0.5)
        self.attention = nn.MultiheadAttention(channels, num_heads, batch_first=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        x_NTC = x_NCHW.flatten(2).transpose(1, 2)
        x_NTC = torch.cat([x_NTC.mean(dim=1, keepdim=True), x_NTC], dim=1) + self.positions_TC
        pooled_N1C, _ = self.attention(x_NTC[:, :1], x_NTC, x_NTC, need_weights=False)
        vector_NC: Tensor = pooled_N1C.squeeze(1)
        return vector_NC


class SimPool(GlobalPool):
    """One step of attention from the mean, values pooled by a generalised mean (Psomas et al., 2309.06891).

    Queries come from the mean and keys from the normalised features, each through a linear map; values are the normalised
    features themselves, shifted to be positive within each image.
    """

    channel_by_channel = False
    GAMMA = 2.0  # the authors' for convolutional networks; for transformers they have 1.25
    SMALLEST = 1e-6

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape)
        channels = in_shape[0]
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        kind = "cpu" if x_NCHW.is_meta else x_NCHW.device.type  # where nothing is computed, there is no autocast
        with torch.autocast(kind, enabled=False):  # powers and their roots lose precision in bf16
            return self._attended(x_NCHW.to(self.norm.weight.dtype))

    def _attended(self, x_NCHW: Tensor) -> Tensor:
        x_NPC = x_NCHW.flatten(2).transpose(1, 2)
        features_NPC = self.norm(x_NPC)
        query_N1C = self.query(x_NPC.mean(dim=1, keepdim=True))
        scores_N1P = query_N1C @ self.key(features_NPC).transpose(1, 2) / math.sqrt(x_NPC.shape[2])
        attention_N1P = scores_N1P.softmax(dim=2)
        values_NPC = features_NPC - features_NPC.amin(dim=(1, 2), keepdim=True) + self.SMALLEST
        pooled_N1C: Tensor = (attention_N1P @ values_NPC.pow(self.GAMMA)).pow(1 / self.GAMMA)
        return pooled_N1C.squeeze(1)


class SpatialPyramidPool(GlobalPool):
    """Largest values on grids of 3x3, 2x2 and 1x1 cells, side by side (He et al., arXiv:1406.4729)."""

    channel_by_channel = False
    GRIDS = (3, 2, 1)

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape)
        self.out_features = in_shape[0] * sum(cells**2 for cells in self.GRIDS)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 14 C)."""
        # On an Apple GPU it is wrong where cells differ in size (pytorch/pytorch#190064).
        there_NCHW = x_NCHW.cpu() if x_NCHW.device.type == "mps" else x_NCHW
        cells_NF = [F.adaptive_max_pool2d(there_NCHW, cells).flatten(1) for cells in self.GRIDS]
        return torch.cat(cells_NF, dim=1).to(x_NCHW.device)


class FlattenPool(GlobalPool):
    """No pooling: every channel at every position, for a linear layer."""

    channel_by_channel = False

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape)
        self.out_features = math.prod(in_shape)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C H W)."""
        return x_NCHW.flatten(1)


POOLINGS: Registry[type[GlobalPool]] = Registry(
    "pooling",
    "model.pooling",
    {
        "average": AveragePool,
        "max": MaxPool,
        "avgmax": AvgMaxPool,
        "concat": ConcatPool,
        "mixed": MixedPool,
        "gated": GatedPool,
        "lse": LogSumExpPool,
        "gem": GeMPool,
        "stochastic": StochasticPool,
        "attention": AttentionPool,
        "simpool": SimPool,
        "pyramid": SpatialPyramidPool,
        "flatten": FlattenPool,
    },
)
