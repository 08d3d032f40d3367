#!/usr/bin/env bash
# torch: bilinear interpolation of images with three channels has other bits in a DataLoader worker than outside of it.
#
# Expected: interpolate computes each output pixel from four input pixels. Nothing is summed across threads, so that the
#   number of threads cannot change a bit; above all not with torch.use_deterministic_algorithms(True).
# What happens: on the CPU, with one thread and exactly three channels, another kernel runs than with two or more. It
#   does so where height and width of the result exceed 128 together. The workers of a DataLoader run with one thread:
#   the same dataset gives other images with num_workers=1 than with num_workers=0. Grey images, images with an alpha
#   channel, other modes, antialias=True, small results and gradients have the same bits with any number of threads.
#   In float32 the difference is some units in the last place, in half types it is worth more: the kernel of several
#   threads rounds three times, and its error is 2 to 3 times that of the other one.
# Versions: torch 2.14.1 run on the CPU, x86-64, Linux, Python 3.11.
# Output seen:
#   torch 2.14.1
#   images of 0..255 with one thread and with two:
#   1 channels, 32x32 to 299x299                the same
#   2 channels, 32x32 to 299x299                the same
#   3 channels, 32x32 to 299x299                up to 5e-05 apart
#   4 channels, 32x32 to 299x299                the same
#   8 channels, 32x32 to 299x299                the same
#   3 channels, 32x32 to 64x64                  the same
#   3 channels, 32x32 to 65x65                  up to 3e-05 apart
#   3 channels, 299x299 to 64x64                the same
#   3 channels, 299x299 to 65x65                up to 3e-05 apart
#   3 channels, 512x512 to 299x299              up to 5e-05 apart
#   3 channels, align_corners=True              up to 5e-05 apart
#   3 channels, channels_last                   up to 5e-05 apart
#   3 channels, antialias=True                  the same
#   3 channels, uint8                           the same
#   3 channels, bicubic                         the same
#   3 channels, deterministic algorithms        up to 5e-05 apart
#   each channel with one thread, all with one  up to 5e-05 apart
#   each channel with one thread, all with two  the same
#   3 channels, float32                         up to 5e-05 apart
#       error with one thread 3.7e-04, with two 3.7e-04
#   3 channels, float16                         up to 0.1 apart
#       error with one thread 6.3e-02, with two 1.8e-01
#   3 channels, bfloat16                        up to 1 apart
#       error with one thread 5.0e-01, with two 1.4e+00
#   DataLoader(num_workers=0), hash of four images 933905d2
#   DataLoader(num_workers=1), hash of four images ca313373
# Why it matters: FID needs images of three channels resized to 299x299. Who caches features or compares evaluations by
#   hash gets other ones after a change of num_workers, of OMP_NUM_THREADS, or on a machine with one processor; a tool
#   that reruns an evaluation in a worker looks broken. For the same bits everywhere, set the number of threads around
#   the call, or interpolate channel by channel (one channel has the bits of several threads).
# Not asserted: the size of the differences.
#
# Usage: [PYTHON=an interpreter that has torch 2.14.1] ./interpolate_one_thread.sh
# Exit status: 0 as described, 1 the behaviour has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-}
if [ -z "$python" ] || ! "$python" -c 'from importlib.metadata import version as v
raise SystemExit(v("torch").partition("+")[0] != "2.14.1")' 2>/dev/null; then
    "${python:-python3}" -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet --no-cache-dir torch==2.14.1
fi

cat >"$work/finding.py" <<'PYTHON'
import hashlib

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

BILINEAR = {"mode": "bilinear", "align_corners": False}


def draw(channels, side, count=2):
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), generator=random).float()


def resized(images, size, threads, **options):
    torch.set_num_threads(threads)
    return functional.interpolate(images, (size, size), **options)


def apart(images, size, **options):
    one, two, five = (resized(images, size, threads, **options).double() for threads in (1, 2, 5))
    check(torch.equal(two, five), "two and five threads have the same bits")
    return float((one - two).abs().max())


class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return functional.interpolate(draw(3, 32, 4)[index : index + 1], (299, 299), **BILINEAR)[0]


failed = []


def check(holds, text):
    if not holds:
        failed.append(text)


def show(name, difference, differs):
    print(f"{name:44}{'the same' if difference == 0 else f'up to {difference:.1g} apart'}")
    check((difference > 0) == differs, f"{name}: {'other' if differs else 'the same'} bits")


print("torch", torch.__version__.partition("+")[0])
print("images of 0..255 with one thread and with two:")
for channels in (1, 2, 3, 4, 8):
    show(f"{channels} channels, 32x32 to 299x299", apart(draw(channels, 32), 299, **BILINEAR), channels == 3)
for side, size, differs in ((32, 64, False), (32, 65, True), (299, 64, False), (299, 65, True), (512, 299, True)):
    show(f"3 channels, {side}x{side} to {size}x{size}", apart(draw(3, side), size, **BILINEAR), differs)
corners = {"mode": "bilinear", "align_corners": True}
show("3 channels, align_corners=True", apart(draw(3, 32), 299, **corners), True)
last = draw(3, 32).contiguous(memory_format=torch.channels_last)
show("3 channels, channels_last", apart(last, 299, **BILINEAR), True)
show("3 channels, antialias=True", apart(draw(3, 32), 299, antialias=True, **BILINEAR), False)
show("3 channels, uint8", apart(draw(3, 32).byte(), 299, **BILINEAR), False)
show("3 channels, bicubic", apart(draw(3, 32), 299, mode="bicubic"), False)
torch.use_deterministic_algorithms(True)
show("3 channels, deterministic algorithms", apart(draw(3, 32), 299, **BILINEAR), True)
torch.use_deterministic_algorithms(False)
one_by_one = torch.cat([resized(draw(3, 32)[:, i : i + 1], 299, 1, **BILINEAR) for i in range(3)], 1)
both = [float((one_by_one - resized(draw(3, 32), 299, threads, **BILINEAR)).abs().max()) for threads in (1, 2)]
show("each channel with one thread, all with one", both[0], True)
show("each channel with one thread, all with two", both[1], False)

for dtype in (torch.float32, torch.float16, torch.bfloat16):
    images = draw(3, 32).to(dtype)  # whole numbers up to 255 are exact in each type
    exact = resized(images.double(), 299, 1, **BILINEAR)
    errors = [float((resized(images, 299, threads, **BILINEAR) - exact).abs().max()) for threads in (1, 2)]
    show(f"3 channels, {str(dtype).removeprefix('torch.')}", apart(images, 299, **BILINEAR), True)
    print(f"    error with one thread {errors[0]:.1e}, with two {errors[1]:.1e}")
    check(dtype == torch.float32 or errors[1] > 1.5 * errors[0], f"{dtype}: several threads round worse")

torch.set_num_threads(2)
digests = {}
for workers in (0, 1):
    images = next(iter(DataLoader(Images(), batch_size=4, num_workers=workers)))
    digests[workers] = hashlib.sha256(bytes(images.view(torch.uint8).flatten().tolist())).hexdigest()[:8]
    print(f"DataLoader(num_workers={workers}), hash of four images {digests[workers]}")
check(digests[0] != digests[1], "a worker of a DataLoader gives other bits")
for text in failed:
    print("CHANGED, no longer so:", text)
raise SystemExit(bool(failed))
PYTHON
nice "$python" -W ignore "$work/finding.py"
