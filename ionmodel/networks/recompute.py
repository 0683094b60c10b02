"""Convolution, batch normalization and pooling that keep only their input for the backward pass.

A convolution output is as large as the mesh times its channels, and the stock modules keep it, its
normalized and its activated form until the backward pass. Here all three are computed again
from the block's input, once for the convolution and in slices of few samples for the rest.
Checkpointing a whole block would do the same work but update the running statistics twice and
hold all three forms at once.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

SLICE_BYTES = 128 * 2**20
"""Convolution output of a slice, in bytes; a slice is at least one sample."""

Tail = Callable[[Tensor], Tensor]

_SUMMED = (0, 2, 3, 4)


def recomputed_block(
    x: Tensor,
    conv: nn.Conv3d,
    norm: nn.BatchNorm3d,
    tail: Tail,
    *,
    slice_bytes: int = SLICE_BYTES,
) -> Tensor:
    """Compute ``tail(norm(conv(x)))`` keeping only `x` for the backward pass.

    The convolution has stride 1, dilation 1 and one group, the normalization is affine with running
    statistics, and the tail has no parameters, randomness or coupling between samples. Forward and
    backward each hold one convolution output of the batch and about six of a slice.

    With :math:`\\hat y = (y - \\mu)/\\sigma` over the :math:`m` values of a channel and
    :math:`g` the gradient at :math:`\\gamma \\hat y + \\beta` (Ioffe, Szegedy 2015, section 3),

    .. math:: \\partial y = \\frac{\\gamma}{\\sigma}
        \\Bigl(g - \\frac{1}{m}\\sum g - \\hat y \\frac{1}{m}\\sum g \\hat y\\Bigr).
    """
    assert not isinstance(conv.padding, str)
    n_cells = math.prod(_output_widths(x, conv.weight, conv.padding))
    sample_bytes = conv.out_channels * n_cells * x.element_size()
    step = max(1, slice_bytes // sample_bytes)
    with _full_precision(x.device.type):
        if not norm.training:
            return _evaluate(x, conv, norm, tail, step)
        count = len(x) * n_cells  # values of a channel; their variance needs two
        if count < 2:
            raise ValueError(f"x must have at least 2 values per channel in training, got {count}")
        out, mean, variance = _RecomputedBlock.apply(  # type: ignore[no-untyped-call]
            x, conv.weight, conv.bias, norm.weight, norm.bias, tail, norm.eps, step, conv.padding
        )
        _update_running_statistics(norm, mean, variance, count)
    assert isinstance(out, Tensor)
    return out


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    if not torch.amp.is_autocast_available(device_type):  # the meta device, for one
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def _evaluate(x: Tensor, conv: nn.Conv3d, norm: nn.BatchNorm3d, tail: Tail, step: int) -> Tensor:
    def block(part: Tensor) -> Tensor:
        return tail(norm(conv(part)))

    if not torch.is_grad_enabled():
        return torch.cat([block(x[rows]) for rows in _slices(len(x), step)])
    # Safe only here: in evaluation a second forward pass updates no statistics.
    parts = [
        checkpoint(block, x[rows], use_reentrant=False, preserve_rng_state=False)
        for rows in _slices(len(x), step)
    ]
    return torch.cat(parts)


@torch.no_grad()
def _update_running_statistics(
    norm: nn.BatchNorm3d, mean: Tensor, variance: Tensor, count: int
) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    # Without a momentum BatchNorm3d keeps the plain average of all batches.
    momentum = norm.momentum
    if momentum is None:
        momentum = 1.0 / float(norm.num_batches_tracked)
    unbiased = variance * (count / (count - 1))
    norm.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
    norm.running_var.mul_(1 - momentum).add_(unbiased, alpha=momentum)


class _RecomputedBlock(torch.autograd.Function):
    """Convolution, normalization by batch statistics, and tail, with its own backward pass."""

    @staticmethod
    def forward(  # noqa: PLR0917 - apply passes them by position
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        tail: Tail,
        eps: float,
        step: int,
        padding: tuple[int, ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = _convolve(x, weight, bias, padding, step)
        mean, variance = _batch_statistics(y, step)
        out = torch.cat(
            [
                tail(_normalize(y[rows], mean, variance, gamma, beta, eps=eps))
                for rows in _slices(len(x), step)
            ]
        )
        ctx.save_for_backward(x, weight, bias, gamma, beta, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        ctx.tail, ctx.eps, ctx.step, ctx.padding = tail, eps, step, padding
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * 4
        if grad_out is None:
            return (None,) * 5 + nothing
        x, weight, bias, gamma, beta, mean, variance = ctx.saved_tensors
        y = _convolve(x, weight, bias, ctx.padding, ctx.step)
        rows_of_batch = list(_slices(len(x), ctx.step))
        center = _per_channel(mean)
        inverse_std = torch.rsqrt(variance.double() + ctx.eps)
        scale = _per_channel(inverse_std.to(y.dtype))

        def grad_normalized(rows: slice) -> tuple[Tensor, Tensor]:
            """Return the gradient before the tail, and the standardized values, of a slice."""
            # The tail is run again on a leaf of its own, for its gradient alone.
            z = _normalize(y[rows], mean, variance, gamma, beta, eps=ctx.eps).requires_grad_()
            with torch.enable_grad():
                out = ctx.tail(z)
            (grad,) = torch.autograd.grad(out, z, grad_out[rows])
            return grad, (y[rows] - center).mul_(scale)

        sum_grad = torch.zeros_like(mean, dtype=torch.float64)
        sum_product = torch.zeros_like(sum_grad)
        for rows in rows_of_batch:
            grad, standardized = grad_normalized(rows)
            # float64 across samples: the sums are over millions of values of either sign.
            sum_grad += grad.sum((2, 3, 4)).double().sum(0)
            sum_product += standardized.mul_(grad).sum((2, 3, 4)).double().sum(0)
            del grad, standardized

        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias else None
        # In a second pass over the slices, because each gradient needs the sums over all of them.
        if needs_x or needs_weight or needs_bias:
            count = y[:, 0].numel()
            mean_grad = _per_channel((sum_grad / count).to(y.dtype))
            mean_product = _per_channel((sum_product / count).to(y.dtype))
            for rows in rows_of_batch:
                grad, standardized = grad_normalized(rows)
                grad.sub_(mean_grad).sub_(standardized.mul_(mean_product))
                grad.mul_(_per_channel(gamma) * scale)
                del standardized
                parts = _convolution_backward(
                    grad, x[rows], weight, ctx.padding, ctx.needs_input_grad[:3]
                )
                del grad
                if grad_x is not None:
                    grad_x[rows] = parts[0]
                if grad_weight is not None:
                    grad_weight += parts[1]
                if grad_bias is not None:
                    grad_bias += parts[2]
        grads = (grad_x, grad_weight, grad_bias, sum_product.to(y.dtype), sum_grad.to(y.dtype))
        return grads + nothing


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, max(length, 1), step):  # an empty batch is one empty slice
        yield slice(start, start + step)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)


def _output_widths(x: Tensor, weight: Tensor, padding: tuple[int, ...]) -> list[int]:
    axes = zip(x.shape[2:], weight.shape[2:], padding, strict=True)
    return [cells + 2 * pad - kernel + 1 for cells, kernel, pad in axes]


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...], step: int
) -> Tensor:
    """Convolve slice by slice into one tensor."""
    # In slices, so that the backend's reordered copies stay small.
    y = x.new_empty((len(x), len(weight), *_output_widths(x, weight, padding)))
    for rows in _slices(len(x), step):
        y[rows] = functional.conv3d(x[rows], weight, bias, padding=padding)
    return y


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    padding: tuple[int, ...],
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and bias that are needed."""
    parts: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        [len(weight)],
        [1, 1, 1],
        list(padding),
        [1, 1, 1],
        False,  # transposed
        [0, 0, 0],
        1,  # groups
        list(needed),
    )
    return parts


def _batch_statistics(y: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance per channel, merged over slices in float64."""
    # Two passes within a slice and the pairwise update between slices (Chan, Golub, LeVeque 1979,
    # equation 2.1), because a difference of large squares would lose the variance.
    count = 0
    mean = y.new_zeros(y.shape[1], dtype=torch.float64)
    m2 = torch.zeros_like(mean)
    for rows in _slices(len(y), step):
        part = y[rows]
        n = part[:, 0].numel()
        variance, center = torch.var_mean(part, _SUMMED, correction=0)
        shift = center.double() - mean
        total = count + n
        mean += shift * (n / total)
        m2 += variance.double() * n + shift.square() * (count * n / total)
        count = total
    return mean.to(y.dtype), (m2 / count).to(y.dtype)


def _normalize(
    y: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, *, eps: float
) -> Tensor:
    """Apply given statistics; in one fused pass over memory."""
    return functional.batch_norm(y, mean, variance, gamma, beta, training=False, eps=eps)
