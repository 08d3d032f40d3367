"""An error that says memory did not suffice comes with what to do about it, in values that work."""

import pytest
import torch

from gantry.training.hardware.out_of_memory import advice


def real_failure():
    """What torch's own allocator says."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "error", [GPU, RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), real_failure(), MemoryError()]
)
def test_too_little_memory_is_told_with_values_to_type(error):
    assert "batch_size=64 accumulate=2 takes the same step of 128 images" in advice(error, 128, 1, "32-true")


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError("not enough memory"), KeyError("a")]
)
def test_other_errors_are_left_alone(error):
    assert advice(error, 128, 1, "32-true") is None


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "world_size", "expected"),
    [(48, 3, 8, "batch_size=24 accumulate=6"), (45, 1, 1, "batch_size=15 accumulate=3"), (12, 1, 4, "batch_size=4 ")],
)
def test_the_smaller_batch_divides_among_the_devices_and_keeps_the_step(batch_size, accumulate, world_size, expected):
    text = advice(GPU, batch_size, accumulate, "32-true", world_size)
    assert expected in text
    assert f"step of {batch_size * accumulate} images" in text


def test_what_would_not_help_is_not_advised():
    """An image cannot be halved, a precision not twice; further ranks on a processor share its memory."""
    assert "accumulate" not in advice(GPU, 1, 4, "32-true")
    assert "bf16" in advice(GPU, 8, 1, "32-true")
    assert "bf16" not in advice(GPU, 8, 1, "16-mixed")
    assert "devices" not in advice(MemoryError(), 8, 1, "32-true")


@pytest.mark.parametrize(("jobs", "fewer"), [(2, 1), (4, 2), (5, 2)])
def test_a_job_that_shares_its_gpu_is_told_so_first(jobs, fewer):
    head, first, *rest = advice(GPU, 8, 1, "32-true", jobs=jobs).splitlines()
    assert f"this job's part of the GPU's memory (sweep.jobs_per_device={jobs}) does not suffice" in head
    assert first.strip().startswith(f"sweep.jobs_per_device={fewer} gives each job of the sweep a larger part")
    assert rest == advice(GPU, 8, 1, "32-true").splitlines()[1:]
    assert "sweep" not in advice(MemoryError(), 8, 1, "32-true", jobs=jobs)  # the host's memory is not shared out
