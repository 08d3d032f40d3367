"""Checks of views of images, which are affine maps of the images for given uniform numbers."""

import torch

from gantry.models.penalties import squared_gradient_norm


def check_gradients(view, images, uniform):
    """Compare both gradients of a view, by autograd, with differences of its values, which are exact for affine maps.

    With the Jacobian J, the gradient of <g, view(x)> at x is J^T g, and that of <J^T g, d> at g is J d. R1's second
    derivative through the view, for D(x) = <w, view(x)>, is that of |J^T w|^2, 2 J J^T w.
    """
    generator = torch.Generator().manual_seed(1)
    d, g = (torch.randn(images.shape, generator=generator) for _ in range(2))
    moved = view(images + d, uniform) - view(images, uniform)
    assert moved.abs().max() > 0.1  # the view does not hide the images
    x, g = images.clone().requires_grad_(), g.requires_grad_()
    (back,) = torch.autograd.grad(view(x, uniform), x, g, create_graph=True)
    assert torch.isclose((g * moved).sum(), (back * d).sum(), rtol=1e-4, atol=1e-2)
    (forth,) = torch.autograd.grad((back * d).sum(), g)
    assert torch.allclose(forth, moved, rtol=1e-4, atol=1e-4)

    def critic(shown):
        return (view(shown, uniform) * g).sum((1, 2, 3))

    penalty = squared_gradient_norm(critic, images)
    assert torch.allclose(penalty, back.square().sum((1, 2, 3)), rtol=1e-4)
    (of_weight,) = torch.autograd.grad(penalty.sum(), g)
    step = back.detach()
    expected = 2 * (view(images + step, uniform) - view(images, uniform))
    assert torch.allclose(of_weight, expected, rtol=1e-4, atol=1e-3)


def check_reads_no_value(view, shape):
    """Run a view and both its gradients on the meta device: what waits for a value, or takes its shape, fails there."""
    with torch.device("meta"):
        images, uniform = torch.empty(shape, requires_grad=True), torch.empty(shape[0], view.width)
        shown = view.to("meta")(images, uniform)
        (gradient,) = torch.autograd.grad(shown.sum(), images, create_graph=True)
    assert shown.shape == gradient.shape == images.shape
