"""Recomputed blocks against the stock modules."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ionmodel.networks.recompute import recomputed_block
from ionmodel.networks.two_branch import TwoBranch

TAIL = nn.Sequential(nn.LeakyReLU(0.01), nn.AvgPool3d(2))


def block(n_in: int, n_out: int, *, kernel: int = 3, bias: bool = True) -> tuple[Any, Any]:
    conv = nn.Conv3d(n_in, n_out, kernel, padding=kernel // 2, bias=bias).double()
    norm = nn.BatchNorm3d(n_out).double()
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    return conv, norm


def bytes_of(n_samples: int, n_out: int, width: int, itemsize: int = 8) -> int:
    return n_samples * n_out * width**3 * itemsize


def pair(dtype: torch.dtype, *, radius: int = 4, **options: Any) -> tuple[TwoBranch, TwoBranch]:
    """The same network with stock and with recomputed blocks of three samples a slice."""
    options = {
        "block_channels": (3, 4),
        "kernel": 3,
        "head_dropout_widths": (6,),
        "head_widths": (4,),
    } | options
    stock = TwoBranch(radius, **options).to(dtype)
    recomputed = TwoBranch(radius, **options, recompute=True).to(dtype)
    recomputed.load_state_dict(stock.state_dict())
    for module in recomputed.modules():
        if hasattr(module, "slice_bytes"):
            module.slice_bytes = bytes_of(3, 3, 2 * radius + 1, dtype.itemsize)
    return stock, recomputed


def assert_equal_states(a: nn.Module, b: nn.Module, tolerance: dict[str, float]) -> None:
    for (name, value), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(
            other, value, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("width", [4, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_slice", [1, 2, 5, 8])
def test_block_equals_stock_modules(kernel: int, width: int, bias: bool, n_slice: int) -> None:
    conv, norm = block(2, 3, kernel=kernel, bias=bias)
    x = torch.randn(5, 2, *3 * (width,), dtype=torch.float64, requires_grad=True)
    parameters = [x, *conv.parameters(), *norm.parameters()]
    stock = TAIL(norm(conv(x)))
    weights = torch.randn_like(stock)
    expected = torch.autograd.grad((stock * weights).sum(), parameters)
    statistics = [buffer.clone() for buffer in norm.buffers()]
    norm.reset_running_stats()

    out = recomputed_block(x, conv, norm, TAIL, slice_bytes=bytes_of(n_slice, 3, width))
    got = torch.autograd.grad((out * weights).sum(), parameters)
    torch.testing.assert_close(out, stock, rtol=1e-10, atol=1e-12)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(norm.buffers(), statistics, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("recomputed_slice", [1, 2, 4])
def test_gradients_equal_finite_differences(recomputed_slice: int) -> None:
    conv, norm = block(1, 2)
    x = torch.randn(4, 1, 4, 4, 4, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, *_: Tensor) -> Tensor:
        return recomputed_block(x, conv, norm, TAIL, slice_bytes=bytes_of(recomputed_slice, 2, 4))

    assert torch.autograd.gradcheck(function, (x, *conv.parameters(), *norm.parameters()))


@pytest.mark.parametrize("shared", [True, False])
def test_steps_without_padding_equal_stock_modules(shared: bool) -> None:
    networks = pair(
        torch.float64, radius=6, shared_branches=shared, padding=False,
        feature_dropout=0.0, head_dropout=0.0,
    )  # fmt: skip
    x = torch.randn(7, 2, 13, 13, 13, dtype=torch.float64)
    gradients = []
    for network in networks:
        inputs = x.clone().requires_grad_()
        network(inputs).square().sum().backward()
        gradients.append([inputs.grad, *(weights.grad for weights in network.parameters())])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-10)
    assert_equal_states(networks[1], networks[0], {"rtol": 1e-10, "atol": 1e-12})


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("radius", [3, 4])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, {"rtol": 1e-10, "atol": 1e-11}),
        (torch.float32, {"rtol": 1e-3, "atol": 1e-5}),
    ],
)
def test_several_steps_equal_stock_modules(
    shared: bool, bias: bool, radius: int, dtype: torch.dtype, tolerance: dict[str, float]
) -> None:
    stock, recomputed = pair(dtype, radius=radius, shared_branches=shared, conv_bias=bias)
    width = stock.receptive_field
    x = torch.randn(4, 7, 2, *3 * (width,), dtype=dtype)
    y = torch.rand(4, 7, dtype=dtype)
    losses = []
    for network in (stock, recomputed):
        torch.manual_seed(1)  # the same dropout
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for batch, target in zip(x, y, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(network(batch), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses[4:]), torch.stack(losses[:4]), **tolerance)
    assert_equal_states(stock, recomputed, tolerance)
    n_updates = 8 if shared else 4
    assert recomputed.state_dict()["branches.0.0.norm.num_batches_tracked"] == n_updates

    for network in (stock, recomputed):
        network.eval()
    with torch.no_grad():
        torch.testing.assert_close(recomputed(x[0]), stock(x[0]), **tolerance)


def test_input_gradients_in_both_modes_equal_stock_modules() -> None:
    stock, recomputed = pair(torch.float64, feature_dropout=0.0, head_dropout=0.0)
    x = torch.randn(7, 2, 9, 9, 9, dtype=torch.float64, requires_grad=True)
    for training in (True, False):
        gradients = []
        for network in (stock, recomputed):
            network.train(training)
            network.zero_grad()
            (gradient,) = torch.autograd.grad(network(x).square().sum(), x)
            gradients.append(gradient)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-14)
    assert_equal_states(stock, recomputed, {"rtol": 1e-12, "atol": 1e-14})


def test_average_over_all_batches_when_momentum_is_none() -> None:
    conv, norm = block(1, 2)
    twin = nn.BatchNorm3d(2, momentum=None).double()
    norm.momentum = None
    for _ in range(3):
        x = torch.randn(3, 1, 4, 4, 4, dtype=torch.float64)
        twin(conv(x))
        recomputed_block(x, conv, norm, TAIL, slice_bytes=1)
    torch.testing.assert_close(norm.running_mean, twin.running_mean)
    torch.testing.assert_close(norm.running_var, twin.running_var)


def test_statistics_survive_a_large_offset() -> None:
    conv, norm = block(1, 2)
    conv, norm = conv.float(), norm.float()
    with torch.no_grad():
        conv.bias.fill_(1000.0)
    x = torch.randn(6, 1, 8, 8, 8)
    recomputed_block(x, conv, norm, TAIL, slice_bytes=1)
    with torch.no_grad():
        exact = conv.double()(x.double()).var((0, 2, 3, 4))
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * exact, rtol=1e-4, atol=0)


def test_parameters_that_are_frozen_get_no_gradient() -> None:
    conv, norm = block(1, 2)
    conv.requires_grad_(False)
    x = torch.randn(3, 1, 4, 4, 4, dtype=torch.float64)
    recomputed_block(x, conv, norm, TAIL).sum().backward()
    assert conv.weight.grad is None
    assert norm.bias.grad is not None


def test_nothing_of_convolution_size_is_kept() -> None:
    def saved_by(network: TwoBranch) -> int:
        largest = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal largest
            # the head's weights are no activations
            largest = max(largest, tensor.numel() if tensor.ndim == 5 else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.randn(7, 2, 9, 9, 9))
        return largest

    stock, recomputed = pair(torch.float32)
    assert saved_by(stock) == 7 * 3 * 9**3
    assert saved_by(recomputed) == max(7 * 9**3, 7 * 3 * 4**3)


def test_storage_of_the_convolution_output_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    from ionmodel.networks import recompute

    outputs = []
    convolve = recompute._convolve

    def spy(*arguments: Any) -> Tensor:
        y = convolve(*arguments)
        outputs.append(weakref.ref(y))
        return y

    monkeypatch.setattr(recompute, "_convolve", spy)
    conv, norm = block(1, 2)
    out = recomputed_block(torch.randn(3, 1, 4, 4, 4, dtype=torch.float64), conv, norm, TAIL)
    assert [y() for y in outputs] == [None]
    out.sum().backward()
    assert [y() for y in outputs] == [None, None]


def test_autocast_leaves_blocks_in_full_precision() -> None:
    conv, norm = block(1, 2)
    conv, norm = conv.float(), norm.float()
    x = torch.randn(3, 1, 4, 4, 4)
    expected = TAIL(norm(conv(x)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = recomputed_block(x, conv, norm, TAIL)
    out.sum().backward()
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected)


def test_second_derivative_is_refused() -> None:
    conv, norm = block(1, 2)
    x = torch.randn(3, 1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    out = recomputed_block(x, conv, norm, TAIL).square().sum()
    (gradient,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_one_value_per_channel_is_refused_in_training() -> None:
    conv, norm = block(1, 2)
    with pytest.raises(ValueError, match="at least 2 values per channel"):
        recomputed_block(torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64), conv, norm, TAIL)


def test_empty_batch_in_evaluation_stays_empty() -> None:
    _, recomputed = pair(torch.float32)
    recomputed.eval()
    with torch.no_grad():
        assert recomputed(torch.zeros(0, 2, 9, 9, 9)).shape == (0,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_stock_modules() -> None:
    stock, recomputed = (network.cuda() for network in pair(torch.float64, feature_dropout=0.0))
    x = torch.randn(7, 2, 9, 9, 9, dtype=torch.float64, device="cuda")
    for network in (stock, recomputed):
        torch.manual_seed(1)
        network(x).square().sum().backward()
    for a, b in zip(stock.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-8, atol=1e-12)
    assert_equal_states(stock, recomputed, {"rtol": 1e-10, "atol": 1e-12})
