"""Faster layers with the same results, for a network that trains or is evaluated in float32 or bf16 on a CPU.

Convolutions reach the processor's matrix rate; the layers around them do not. Therefore
(1) a ReLU is fused into the preceding convolution, or
(2) applied after a following max pooling, to a quarter of the values; both give identical bits.
(3) In bf16, a strided convolution with few channels, such as the first of AlexNet and NiN at 224 px, becomes a dense one by
    `pixel_unshuffle`; only the order of its sums changes. In float32, (3) is slower (150 ms against 124 for 64 images of 224 px,
    forward and backward, one thread of an AMD EPYC, torch 2.13.0) and is not applied.

Only what a `Sequential` does in its own forward pass changes. A layer that is called on its own, or stands in several places, is
computed there as always.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nin.precision import DTYPES

MAX_SPARSE_CHANNELS = 4  # input channels of a convolution that leaves a matrix unit mostly idle; images have up to 4
MIN_FUSED_OUTPUTS = 2**20  # values; with fewer, Python's share of a backward pass takes longer than the saved ReLU

Forward = Callable[[Tensor], Tensor]
Pair = tuple[int, int]
# Convolution of (x, weight, bias, stride, padding).
Convolve = Callable[[Tensor, Tensor, Tensor | None, Pair, Pair], Tensor]


@contextmanager
def fast_layers(model: nn.Module, precision: str) -> Iterator[bool]:
    """Context in which sequences of layers in `model` compute faster in that precision; yields whether any does.

    None does on a GPU, in float16, under torch.compile, on a processor for which oneDNN lacks the precision, and if a weight is
    not finite, because a fused ReLU turns nan into 0. Divergence inside is therefore detected from the weights.
    """
    is_possible = _is_here(model, precision) and not _is_compiled(model)
    replaced = dict(_faster(model, DTYPES[precision])) if is_possible and is_finite(model) else {}
    for sequence, forward in replaced.items():
        sequence.forward = forward
    try:
        yield bool(replaced)
    finally:
        for sequence in replaced:
            del sequence.forward


def _is_compiled(model: nn.Module) -> bool:
    """Return whether `model.compile()` or `torch.compile(model)` was called."""
    return bool(getattr(model, "_compiled_call_impl", None)) or hasattr(model, "_orig_mod")


def _is_here(model: nn.Module, precision: str) -> bool:
    """Return whether oneDNN computes this model in that precision on a CPU."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    if not (on_cpu and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    return precision == "float32" or (precision == "bf16" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


@torch.no_grad()
def is_finite(model: nn.Module) -> bool:
    """Return whether the sum of all weights is finite, so that no weight is infinite or nan."""
    return all(bool(parameter.sum().isfinite()) for parameter in model.parameters())


def _faster(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[nn.Module, Forward]]:
    """Yield outermost sequences that can compute faster, with their faster forward functions."""
    seen = set[nn.Module]()
    for module in model.modules():  # outer sequences come before the ones inside
        if _is_sequence(module) and module not in seen:
            layers = [*_flattened(module, seen)]
            steps = [*_steps(layers, dtype)]
            if steps != layers:
                yield module, partial(_in_turn, steps)


def _flattened(sequence: nn.Sequential, seen: set[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layers in their order of computation, with nested sequences flattened."""
    seen.add(sequence)
    for child in sequence:  # unlike children(), which names a layer that stands in two places once
        if _is_sequence(child):
            yield from _flattened(child, seen)
        else:
            yield child


def _steps(layers: Sequence[nn.Module], dtype: torch.dtype) -> Iterator[Forward]:
    """Yield functions that do what the layers do one after another: a layer itself, or a faster function of one or several."""
    padded = [*layers, nn.Identity(), nn.Identity()]
    place = 0
    while place < len(layers):
        layer, after, then = padded[place : place + 3]
        place += 1
        if not _is_usual(layer):
            yield layer
            continue
        convolve: Convolve = F.conv2d
        pool: Forward | None = None
        if type(after) is nn.ReLU and _is_plain(after):
            place += 1
            if type(then) is nn.MaxPool2d and _is_plain(then) and not then.return_indices:
                place += 1
                pool = partial(_pool_relu, then)
            else:
                convolve = partial(_conv_relu, dtype)
        if _is_sparse(layer) and dtype == torch.bfloat16:  # for float32 oneDNN's own way is faster
            yield partial(_dense, layer, convolve)
        else:
            yield layer if convolve is F.conv2d else partial(_same, layer, convolve)
        if pool:
            yield pool


def _in_turn(steps: Sequence[Forward], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Return whether the module is its children, one after another, and nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and _is_plain(module)


def _is_plain(module: nn.Module) -> bool:
    """Return whether calling the module is its class's forward pass alone, without hooks or a forward function of its own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "forward" not in vars(module) and not any(hooks)


def _is_usual(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(layer) is nn.Conv2d
        and _is_plain(layer)
        and (layer.padding_mode, layer.dilation, layer.groups) == ("zeros", (1, 1), 1)
        and not isinstance(layer.padding, str)
    )


def _pool_relu(pooling: nn.MaxPool2d, x_NCHW: Tensor) -> Tensor:
    return F.relu_(nn.MaxPool2d.forward(pooling, x_NCHW))


def _same(layer: nn.Conv2d, convolve: Convolve, x_NCHW: Tensor) -> Tensor:
    return convolve(x_NCHW, layer.weight, layer.bias, layer.stride, _padding(layer))  # type: ignore[arg-type]


def _is_sparse(layer: nn.Conv2d) -> bool:
    return layer.in_channels <= MAX_SPARSE_CHANNELS and layer.stride[0] == layer.stride[1] > 1


def _dense(layer: nn.Conv2d, convolve: Convolve, x_NCHW: Tensor) -> Tensor:
    """Convolve squares of stride x stride pixels as channels; the kernel is padded with zeros to whole squares."""
    stride = layer.stride[0]
    image_pads, kernel_pads = list[int](), list[int]()
    for size, kernel_size, padding in zip(
        x_NCHW.shape[:1:-1], layer.kernel_size[::-1], _padding(layer)[::-1], strict=True
    ):
        grown = stride * math.ceil(kernel_size / stride)
        last = stride * ((size + 2 * padding - kernel_size) // stride)  # pixel at which the last kernel begins
        image_pads += [padding, last + grown - size - padding]  # what no kernel reaches is cut off
        kernel_pads += [0, grown - kernel_size]
    x_NCHW, weight = (
        F.pixel_unshuffle(F.pad(tensor.bfloat16(), pads), stride).contiguous(memory_format=torch.channels_last)
        for tensor, pads in ((x_NCHW, image_pads), (layer.weight, kernel_pads))
    )
    return convolve(x_NCHW, weight, layer.bias, (1, 1), (0, 0))


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    assert not isinstance(layer.padding, str)
    return layer.padding


def _conv_relu(
    dtype: torch.dtype, x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """Return the ReLU of a convolution, in `dtype`."""
    num_outputs = x_NCHW.numel() // x_NCHW.shape[1] // math.prod(stride) * len(weight)
    if torch.is_grad_enabled() and num_outputs < MIN_FUSED_OUTPUTS:
        return F.relu_(F.conv2d(x_NCHW, weight, bias, stride, padding))
    x_NCHW, weight = x_NCHW.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    y_NCHW: Tensor = _ConvReLU.apply(x_NCHW, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
    return y_NCHW


class _ConvReLU(torch.autograd.Function):
    """A convolution by oneDNN with its ReLU fused; backward equals autograd's gradients of both."""

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        y_NCHW: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x_NCHW, weight, bias, padding, stride, (1, 1), 1, "relu", [], ""
        )
        ctx.save_for_backward(x_NCHW, weight, y_NCHW)
        ctx.geometry = stride, padding
        return y_NCHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NCHW: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments of `forward`."""
        x_NCHW, weight, y_NCHW = ctx.saved_tensors
        stride, padding = ctx.geometry
        if y_NCHW.dtype == torch.bfloat16:
            # Non-negative bf16 values compare like the integers with the same bits, and comparing integers is faster.
            gradient_NCHW = torch.ops.aten.threshold_backward(
                gradient_NCHW.view(torch.int16), y_NCHW.view(torch.int16), 0
            ).view(torch.bfloat16)
        else:
            gradient_NCHW = torch.ops.aten.threshold_backward(gradient_NCHW, y_NCHW, 0)
        gradients = torch.ops.aten.convolution_backward(
            *(gradient_NCHW, x_NCHW, weight, [len(weight)], stride, padding, (1, 1), False, (0, 0), 1),
            ctx.needs_input_grad[:3],
        )
        return *gradients, None, None
