"""Losses on logits."""

import pytest
import torch

from ionmodel.training.losses import make_loss

LOGITS = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
TARGET = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)


def test_each_loss_is_its_formula() -> None:
    p = 1 / (1 + torch.exp(-LOGITS))
    mse = make_loss("mse", final_activation=True)
    assert mse(LOGITS, TARGET).item() == pytest.approx(((p - TARGET) ** 2).mean().item())
    raw = make_loss("mse", final_activation=False)
    assert raw(LOGITS, TARGET).item() == pytest.approx(((LOGITS - TARGET) ** 2).mean().item())
    bce = make_loss("bce", final_activation=True)
    entropy = -(TARGET * torch.log(p) + (1 - TARGET) * torch.log(1 - p)).mean()
    assert bce(LOGITS, TARGET).item() == pytest.approx(entropy.item())


def test_cross_entropy_keeps_its_gradient_where_the_sigmoid_is_flat() -> None:
    gradients = {}
    for name in ("mse", "bce"):
        logits = torch.tensor([-20.0], requires_grad=True)
        make_loss(name, final_activation=True)(logits, torch.ones(1)).backward()
        assert logits.grad is not None
        gradients[name] = abs(logits.grad.item())
    assert gradients["bce"] == pytest.approx(1)
    assert gradients["mse"] < 1e-8


@pytest.mark.parametrize(("name", "final"), [("l1", True), ("bce", False)])
def test_other_losses_are_refused(name: str, final: bool) -> None:
    with pytest.raises(ValueError, match="loss must be"):
        make_loss(name, final_activation=final)
