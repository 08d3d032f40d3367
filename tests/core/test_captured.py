"""A captured function gives what the function gives; on a CPU its stand-in is as static as a graph."""

import pytest
import torch

from gantry.core.captured import Captured


def products(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tanh(x @ y), (x + 1).square()


def made(seed: int, device: str = "cpu") -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 5, generator=random).to(device) for _ in range(2)]


def assert_it_is_static(device: str) -> None:
    captured = Captured(products, *made(0, device))
    for seed in range(1, 4):
        given = made(seed, device)
        found = captured(*given)
        for mine, plain in zip(found, products(*given), strict=True):
            assert torch.equal(mine, plain)
    held = captured.inputs[0]
    held.copy_(made(9, device)[0])
    assert torch.equal(captured.replay()[1], products(held, held)[1])
    assert captured.replay()[0].data_ptr() == found[0].data_ptr()  # so a caller that keeps it clones it
    assert not torch.equal(found[1], products(*given)[1])


def test_the_stand_in_gives_what_the_function_gives_in_the_same_tensors() -> None:
    assert_it_is_static("cpu")


@pytest.mark.gpu
def test_a_graph_gives_what_the_function_gives_in_the_same_tensors() -> None:
    assert_it_is_static("cuda")


def test_arguments_are_copied_and_never_changed() -> None:
    captured = Captured(lambda x: x.mul_(2), torch.ones(3))
    given = torch.ones(3)
    assert captured(given).tolist() == [2, 2, 2]
    assert given.tolist() == [1, 1, 1]


def count_calls(device: str) -> torch.Tensor:
    """The number of calls that the warm-up and two calls make of a function that changes what it does not own."""
    calls = torch.zeros(1, device=device)
    captured = Captured(lambda x: x + calls.add_(1), torch.zeros(1, device=device), warm_up=2)
    assert calls.item() == 2
    captured(torch.zeros(1, device=device))
    return captured(torch.zeros(1, device=device))


def test_a_warm_up_has_the_effects_of_its_calls() -> None:
    assert count_calls("cpu").item() == 4


@pytest.mark.gpu
def test_a_warm_up_has_the_effects_of_its_calls_and_the_capture_has_none() -> None:
    assert count_calls("cuda").item() == 4


def assert_it_works_in_and_out_of_inference_mode(device: str) -> None:
    with torch.inference_mode():
        captured = Captured(products, *made(0, device))
        captured(*made(1, device))
    assert torch.equal(captured(*made(2, device))[0], products(*made(2, device))[0])
    with torch.inference_mode():
        inside = captured(*made(3, device))[0].clone()
    assert torch.equal(inside, products(*made(3, device))[0])


def test_the_stand_in_works_in_and_out_of_inference_mode() -> None:
    assert_it_works_in_and_out_of_inference_mode("cpu")


@pytest.mark.gpu
def test_a_graph_works_in_and_out_of_inference_mode() -> None:
    assert_it_works_in_and_out_of_inference_mode("cuda")


def assert_it_differentiates(device: str) -> None:
    """A function that differentiates: no history of one call reaches another one."""
    weight = torch.ones(3, device=device, requires_grad=True)

    def step(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = (weight * x).square().sum()
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        return loss, gradient

    captured = Captured(step, torch.ones(3, device=device))
    for scale in (2.0, 3.0):
        loss, gradient = captured(torch.full((3,), scale, device=device))
        assert loss.item() == 3 * scale**2
        assert gradient.tolist() == [2 * scale**2] * 3


def test_the_stand_in_differentiates() -> None:
    assert_it_differentiates("cpu")


@pytest.mark.gpu
def test_a_graph_differentiates() -> None:
    assert_it_differentiates("cuda")


def test_another_number_of_arguments_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Captured(products, *made(0))(torch.zeros(5, 5))


@pytest.mark.gpu
def test_a_function_that_waits_for_the_gpu_is_no_graph_and_the_gpu_goes_on() -> None:
    with pytest.raises(RuntimeError):
        Captured(lambda x: x * x.sum().item(), torch.ones(3, device="cuda"))
    assert torch.ones(3, device="cuda").sum().item() == 3
    assert_it_is_static("cuda")
