#!/usr/bin/env bash
# torch: one interpolate call is the TensorFlow 1 resize of FID; the code of torch-fidelity for it breaks in half types.
#
# Expected: FID's Inception wants images resized as TensorFlow 1 does, with neither corners nor pixel centres aligned
#   (output pixel i lies at i * size / new size). torch.nn.functional.interpolate has only the two aligned ways, so that
#   torch-fidelity interpolates by index arithmetic ("slow") or by grid_sample ("fast"). Its function takes any
#   floating-point type, and is then as exact as that type.
# What happens: repeat the last row and the last column once, interpolate to one pixel more with align_corners=True, and
#   drop that pixel again: the scale is then (size + 1 - 1) / (new size + 1 - 1), and the repeated pixel is the clamp at
#   the border. This is TensorFlow 1's resize for every size, enlarged or reduced, square or not, and for the gradient.
#     pad = torch.nn.functional.pad(images, (0, 1, 0, 1), mode="replicate")
#     resized = torch.nn.functional.interpolate(pad, (h + 1, w + 1), mode="bilinear", align_corners=True)[..., :h, :w]
#   For images of 0..255 in float32 it agrees with "slow" to 3 units in the last place (4.6e-5). That is little beside
#   what both have lost, as TensorFlow 1 has: positions in float32 cost up to 1.7e-2. "fast" is off by up to 3e-2.
#   - float64: the call is exact to 1e-10. "slow" keeps its scale in float32, and gains nothing.
#   - float16, bfloat16: the call computes positions in float32 and is right to 0.2 and 1.6, which is rounding. "slow"
#     computes positions in the type of the images. Without a warning it is off by up to 46 of 255 in float16, and by
#     255 in bfloat16 even from 299 to 299, where nothing is to be done.
#   - uint8: the call takes images as they are stored, and rounds its result (off by up to 1).
# Versions: torch 2.14.1 run on the CPU, torch-fidelity 0.4.0, Linux, Python 3.11.
# Output seen:
#   torch 2.14.1 torch-fidelity 0.4.0
#   images of 0..255, float32       call from slow  call from exact  slow from exact  fast from slow  centred
#   8x8 to 299x299                  3.1e-05         8.8e-05          9.0e-05          1.8e-04         145
#   24x24 to 299x299                4.6e-05         4.9e-04          5.0e-04          7.9e-04         159
#   28x28 to 299x299                4.6e-05         6.3e-04          6.3e-04          8.9e-04         154
#   32x32 to 299x299                4.6e-05         3.9e-04          4.1e-04          8.2e-04         160
#   48x48 to 299x299                4.6e-05         1.0e-03          1.0e-03          1.3e-03         148
#   64x64 to 299x299                4.6e-05         6.9e-04          6.8e-04          1.3e-03         144
#   100x100 to 299x299              4.6e-05         1.4e-03          1.4e-03          3.4e-03         121
#   128x128 to 299x299              4.6e-05         1.6e-03          1.6e-03          3.1e-03         118
#   299x299 to 299x299              0.0e+00         0.0e+00          0.0e+00          7.4e-03         0
#   300x300 to 299x299              3.1e-05         1.2e-02          1.2e-02          1.3e-02         1
#   512x512 to 299x299              3.1e-05         6.5e-03          6.5e-03          1.2e-02         131
#   480x640 to 299x299              3.1e-05         1.7e-02          1.7e-02          1.8e-02         166
#   100x37 to 64x299                4.6e-05         5.1e-04          5.1e-04          2.0e-03         131
#   1000x1000 to 75x75              1.5e-05         1.2e-02          1.2e-02          3.1e-02         229
#   gradient, 32x32: up to 96, 5.3e-05 apart
#   difference from exact by type   call      slow
#   float64 28 to 299               1.2e-12   1.8e-04
#   float64 32 to 299               7.7e-13   1.0e-04
#   float64 100 to 299              2.5e-12   2.3e-04
#   float64 256 to 299              5.1e-12   8.6e-04
#   float64 299 to 299              0.0e+00   0.0e+00
#   float64 512 to 299              1.3e-11   1.7e-03
#   float16 28 to 299               1.8e-01   2.2e+00
#   float16 32 to 299               1.7e-01   2.8e+00
#   float16 100 to 299              1.7e-01   1.1e+01
#   float16 256 to 299              1.8e-01   2.2e+01
#   float16 299 to 299              0.0e+00   0.0e+00
#   float16 512 to 299              1.8e-01   4.6e+01
#   bfloat16 28 to 299              1.6e+00   3.7e+01
#   bfloat16 32 to 299              1.5e+00   5.2e+01
#   bfloat16 100 to 299             1.5e+00   1.3e+02
#   bfloat16 256 to 299             1.4e+00   2.5e+02
#   bfloat16 299 to 299             0.0e+00   2.6e+02
#   bfloat16 512 to 299             1.6e+00   2.5e+02
#   uint8 32 to 299                 9.9e-01   refused
#   time of slow, 32 images of 32x32, one thread: 6 times the call's
# Why it matters: FID depends on this resize, and everybody who computes it in torch carries an own copy of it, or the
#   plain align_corners=False (column "centred", for images of noise). One call does it by torch's own kernel, in a
#   fraction of the time. It is not for numbers that must have torch-fidelity's bits: for those keep float32 and "slow".
# Not asserted: the time.
# Known: pytorch/pytorch issue 10604, open, asks for this resize. The feature extractors of torch-fidelity themselves
#   refuse types of less than 32 bits; its function for the resize does not.
#
# Usage: [PYTHON=an interpreter that has torch 2.14.1 and torch-fidelity 0.4.0] ./tensorflow1_resize.sh
# Exit status: 0 as described, 1 the behaviour has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-}
if [ -z "$python" ] || ! "$python" -c 'from importlib.metadata import version as v
raise SystemExit((v("torch").partition("+")[0], v("torch-fidelity")) != ("2.14.1", "0.4.0"))' 2>/dev/null; then
    "${python:-python3}" -m venv "$work/venv"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet --no-cache-dir torch==2.14.1 torchvision==0.29.1 torch-fidelity==0.4.0
fi

cat >"$work/finding.py" <<'PYTHON'
import time
from importlib.metadata import version

import torch
from torch.nn import functional
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

SIDE = 299  # of the images that Inception takes
SQUARES = (8, 24, 28, 32, 48, 64, 100, 128, 299, 300, 512)
SHAPES = {(480, 640): (299, 299), (100, 37): (64, 299), (1000, 1000): (75, 75)}
random = torch.Generator().manual_seed(0)


def one_call(images, height, width):
    pad = functional.pad(images, (0, 1, 0, 1), mode="replicate")
    size = (height + 1, width + 1)
    return functional.interpolate(pad, size, mode="bilinear", align_corners=True)[..., :height, :width]


def fidelity(images, height, width, method="slow"):
    return interpolate_bilinear_2d_like_tensorflow1x(images, (height, width), align_corners=False, method=method)


def exact(images, height, width):
    """In float64, with each position as a whole number and a rest: i * old = low * new + rest."""
    images = images.double()
    for dim, new in ((-2, height), (-1, width)):
        old = images.shape[dim]
        at = torch.arange(new) * old
        low, weight = at // new, (at % new).double() / new
        high = (low + 1).clamp_max(old - 1)
        weight = weight[:, None] if dim == -2 else weight
        images = images.index_select(dim, low) * (1 - weight) + images.index_select(dim, high) * weight
    return images


def draw(*size):
    return torch.randint(0, 256, (1, 3, *size), generator=random).float()


def apart(one, other):
    return float((one.double() - other.double()).abs().max())


failed = []


def check(holds, text):
    if not holds:
        failed.append(text)


print("torch", torch.__version__.partition("+")[0], "torch-fidelity", version("torch-fidelity"))
print("images of 0..255, float32       call from slow  call from exact  slow from exact  fast from slow  centred")
for size, new in ({(n, n): (SIDE, SIDE) for n in SQUARES} | SHAPES).items():
    name = f"{size[0]}x{size[1]} to {new[0]}x{new[1]}"
    images = draw(*size)
    call, slow, fast = one_call(images, *new), fidelity(images, *new), fidelity(images, *new, "fast")
    right = exact(images, *new)
    centred = functional.interpolate(images, new, mode="bilinear", align_corners=False)
    agrees, lost, lost_slow, lost_fast = apart(call, slow), apart(call, right), apart(slow, right), apart(fast, slow)
    figures = f"{agrees:<16.1e}{lost:<17.1e}{lost_slow:<17.1e}{lost_fast:<16.1e}{apart(centred, slow):.0f}"
    print(f"{name:32}{figures}")
    check(agrees < 1e-4, f"{name}: the call agrees with torch-fidelity to 1e-4")
    check(lost < lost_slow + 1e-4, f"{name}: the call is as exact as torch-fidelity")
    check(lost_fast > agrees, f"{name}: the call is nearer to slow than fast is")

images, cotangent = draw(32, 32).requires_grad_(), torch.rand(1, 3, SIDE, SIDE, generator=random)
one, other = (torch.autograd.grad(way(images, SIDE, SIDE), images, cotangent)[0] for way in (one_call, fidelity))
print(f"gradient, 32x32: up to {other.abs().max():.0f}, {apart(one, other):.1e} apart")
check(apart(one, other) < 1e-3, "the gradients agree")

print("difference from exact by type   call      slow")
for dtype, allowed in {torch.float64: 1e-10, torch.float16: 0.25, torch.bfloat16: 2}.items():
    worst = 0.0
    for side in (28, 32, 100, 256, SIDE, 512):
        images = draw(side, side).to(dtype)  # whole numbers up to 255 are exact in each type
        right = exact(images, SIDE, SIDE)
        call = apart(one_call(images, SIDE, SIDE), right)
        slow = apart(fidelity(images, SIDE, SIDE), right)
        name = f"{str(dtype).removeprefix('torch.')} {side} to {SIDE}"
        print(f"{name:32}{call:<10.1e}{slow:.1e}")
        check(call < allowed, f"{name}: the call is right to {allowed:g}")
        worst = max(worst, slow)
    least = {torch.float64: 1e-3, torch.float16: 20, torch.bfloat16: 200}[dtype]
    check(worst > least, f"{dtype}: torch-fidelity is off by {least} or more")
images = draw(32, 32).byte()
call = one_call(images, SIDE, SIDE)
rounded = apart(call, exact(images, SIDE, SIDE))
print(f"{'uint8 32 to 299':32}{rounded:<10.1e}refused")
check(call.dtype == torch.uint8 and rounded < 1.01, "the call takes uint8, and rounds")
try:
    fidelity(images, SIDE, SIDE)
    failed.append("torch-fidelity refuses uint8")
except ValueError:
    pass

torch.set_num_threads(1)
images, seconds = draw(32, 32).expand(32, 3, 32, 32).contiguous(), {}
for way in (one_call, fidelity):
    way(images, SIDE, SIDE)
    begun = time.perf_counter()
    way(images, SIDE, SIDE)
    seconds[way] = time.perf_counter() - begun
print(f"time of slow, 32 images of 32x32, one thread: {seconds[fidelity] / seconds[one_call]:.0f} times the call's")
for text in failed:
    print("CHANGED, no longer so:", text)
raise SystemExit(bool(failed))
PYTHON
nice "$python" -W ignore "$work/finding.py"
