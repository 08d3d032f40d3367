"""The switches of float32's products are set for a block, agree with one another, and are put back."""

import pytest
import torch

from gantry.core.determinism import float32_products, whole_float32

KINDS = [
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
]


def switches() -> list[str]:
    return [kind.fp32_precision for kind in KINDS]


@pytest.fixture(params=["highest", "high", "medium", "newer"], autouse=True)
def allowed(request: pytest.FixtureRequest):
    """What the user has allowed, by the older switch or by the newer ones."""
    older, before = torch.get_float32_matmul_precision(), switches()
    if request.param == "newer":
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    else:
        torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(older)
    for kind, value in zip(KINDS, before, strict=True):
        kind.fp32_precision = value


@pytest.mark.parametrize("products", ["ieee", "tf32"])
def test_they_hold_for_the_block(products: str, allowed: str) -> None:
    before = switches()
    with float32_products(products):
        assert switches() == [products, products, "ieee", "ieee"]
        # torch refuses to answer, and libraries that ask to go on, where the older switch says otherwise
        assert torch.backends.cuda.matmul.allow_tf32 == (products == "tf32")
        with whole_float32():
            assert switches() == ["ieee"] * 4
            assert not torch.backends.cuda.matmul.allow_tf32
        assert switches() == [products, products, "ieee", "ieee"]
    assert switches() == before
    if allowed != "newer":
        assert torch.get_float32_matmul_precision() == allowed


@pytest.mark.gpu
@pytest.mark.parametrize("products", ["ieee", "tf32"])
def test_a_gpu_multiplies_so(products: str) -> None:
    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(512, 512, generator=random) for _ in range(2))
    exact = left.double() @ right.double()
    with float32_products(products):
        found = (left.cuda() @ right.cuda()).cpu().double()
    error = ((found - exact).norm() / exact.norm()).item()
    has = torch.cuda.get_device_capability() >= (8, 0)
    assert (error > 1e-5) == (products == "tf32" and has)
