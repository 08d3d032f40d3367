import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from gantry.core.errors import UserError
from gantry.evaluation.metrics import precision_recall
from gantry.evaluation.metrics.precision_recall import Manifold, manifold, radii


def gaussian(count: int, dimensions: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    deviations = scale * torch.arange(1, dimensions + 1) ** -0.7
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)) * deviations + 0.4


def prdc(real: torch.Tensor, generated: torch.Tensor) -> tuple[float, float]:
    """Density and coverage as Naeem et al. write them, on whole matrices in float64."""
    reach = torch.cdist(real.double(), real.double()).sort().values[:, 5]
    inside = torch.cdist(real.double(), generated.double()) < reach[:, None]
    return inside.sum(0).double().mean().item() / 5, inside.any(1).double().mean().item()


@pytest.mark.parametrize("blocks", [(1000, 4096), (64, 37)])
@pytest.mark.parametrize(("n_real", "n_generated"), [(150, 90), (90, 150)])
def test_the_scores_are_those_of_the_papers_packages(
    n_real: int, n_generated: int, blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_recall, "ROWS", blocks[0])
    monkeypatch.setattr(precision_recall, "COLUMNS", blocks[1])
    real, generated = gaussian(n_real, 24, 0), gaussian(n_generated, 24, 1, scale=1.2)
    found, _ = manifold(real, generated)
    theirs = prc_features_to_metric(generated, real, verbose=False)
    assert (found.precision, found.recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-7)
    assert (found.density, found.coverage) == pytest.approx(prdc(real, generated), rel=1e-12)
    assert found.precision != found.recall
    assert manifold(real, generated, radii(real))[0] == found


def test_values_on_a_line() -> None:
    real = torch.arange(10.0)[:, None]  # inner balls reach to 2 (three neighbours) and to 3 (five)
    assert radii(real)[5].tolist() == [2, 3]
    generated = torch.tensor([0.4, 0.5, 0.6, 0.7, 0.8, 100.0])[:, None]
    found, _ = manifold(real, generated)
    assert found.precision == pytest.approx(5 / 6)
    assert found.recall == pytest.approx(9 / 10)  # the ball about 100 reaches to 0.6, and no other one to 0
    assert found.density == pytest.approx(5 * 4 / 5 / 6)  # five are within reach of 0, 1, 2 and 3
    assert found.coverage == pytest.approx(4 / 10)


def test_a_set_covers_itself() -> None:
    features = gaussian(200, 16, 0)
    found, _ = manifold(features, features.clone())
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_a_generator_of_one_image_is_precise_but_covers_little() -> None:
    real = gaussian(300, 16, 0)
    found, _ = manifold(real, real.mean(0).expand(300, -1))
    assert found.precision == 1
    assert found.recall < 0.01
    assert found.coverage < 0.7


@pytest.mark.parametrize(("n_real", "n_generated"), [(5, 100), (100, 5)])
def test_too_few_images_are_an_error(n_real: int, n_generated: int) -> None:
    with pytest.raises(UserError, match="need 6 images or more on either side, not 5"):
        manifold(gaussian(n_real, 4, 0), gaussian(n_generated, 4, 1))


def test_the_spread_is_that_of_repeated_draws() -> None:
    real = gaussian(200, 16, 0)
    kept = radii(real)
    draws = [manifold(real, gaussian(200, 16, seed, scale=0.8) + 0.1, kept) for seed in range(1, 41)]
    values, spreads = (torch.tensor([draw[side] for draw in draws], dtype=torch.float64) for side in (0, 1))
    ratios = Manifold(*(spreads.square().mean(0).sqrt() / values.std(0)).tolist())
    assert 1 / 1.6 < ratios.precision < 1.6
    assert 1 / 1.6 < ratios.density < 1.6
    assert 1 / 1.6 < ratios.recall < 2  # the jackknife's errs upwards
    assert 1 / 1.6 < ratios.coverage < 2
