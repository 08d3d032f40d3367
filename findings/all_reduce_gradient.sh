#!/usr/bin/env bash
# torch.distributed.nn.functional.all_reduce gives wrong gradients for MAX, MIN and PRODUCT, and says nothing of it.
#
# Expected: a differentiable all_reduce has right first gradients for every reduction that it takes, or refuses. Its
#   second derivative, which a gradient penalty needs, was the doubtful part: perhaps missing, perhaps silently zero.
# What happens: for SUM and AVG the first and the second derivatives are right (those of the sum of the losses of all
#   processes). For MAX, MIN and PRODUCT the backward pass applies the same reduction to the gradients: PRODUCT
#   multiplies the gradients of the processes, and MAX gives every process the largest gradient, whether or not its
#   value was the largest (MIN likewise the smallest). No error; the one warning is a FutureWarning that the function is
#   deprecated, and names a function of a private module instead, torch.distributed._functional_collectives.all_reduce.
#   That one has the same right derivatives for SUM and AVG, and for the others its forward pass runs and its backward
#   pass raises.
# Versions: torch 2.14.1 run on the CPU, gloo, two processes, Linux, Python 3.11.
# Output seen:
#   torch 2.14.1
#   gradients of process 0 and 1 by the deprecated function and its named replacement
#   FutureWarning: torch.distributed.nn.functional.all_reduce is deprecated,
#     use torch.distributed._functional_collectives.all_reduce instead.
#   sum     closed form 1470 1470, of the penalty 2.4696e+06 2.4696e+06
#   sum     deprecated  right: 1470 1470, of the penalty 2.4696e+06 2.4696e+06
#   sum     replacement right: 1470 1470, of the penalty 2.4696e+06 2.4696e+06
#   avg     closed form 183.75 183.75, of the penalty 38587.5 38587.5
#   avg     deprecated  right: 183.75 183.75, of the penalty 38587.5 38587.5
#   avg     replacement right: 183.75 183.75, of the penalty 38587.5 38587.5
#   max     closed form 0 750, of the penalty 0 450000
#   max     deprecated  wrong: 525 525, of the penalty 220500 220500
#   max     replacement raises: all_reduce backward only supports 'sum' and 'avg' reductions, got 'max'
#   min     closed form 120 0, of the penalty 28800 0
#   min     deprecated  wrong: 36 36, of the penalty 2592 2592
#   min     replacement raises: all_reduce backward only supports 'sum' and 'avg' reductions, got 'min'
#   product closed form 15000 6000, of the penalty 5.58e+08 2.988e+08
#   product deprecated  wrong: 1.89e+06 1.89e+06, of the penalty 1.54344e+31 1.54344e+31
#   product replacement raises: all_reduce backward only supports 'sum' and 'avg' reductions, got 'product'
# Why it matters: training of GANs over several processes reduces statistics of the whole batch inside the losses and
#   penalties (means and variances, and a maximum for a stable log-sum-exp). A sum is safe, twice differentiated too; a
#   maximum trains on wrong numbers, and moving to the named replacement turns it into an error.
# Known: pytorch/pytorch issue 190007 and pull request 190942 treat the backward pass of the replacement.
#
# Usage: [PYTHON=an interpreter that has torch 2.14.1] ./all_reduce_gradient.sh
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
import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

VALUES, WEIGHTS = (2.0, 5.0), (3.0, 7.0)  # of the two processes
REDUCTIONS = {
    "sum": lambda x: x.sum(),
    "avg": lambda x: x.mean(),
    "max": lambda x: x.max(),
    "min": lambda x: x.min(),
    "product": lambda x: x.prod(),
}


def derivatives(reduce, x, weight):
    """The gradient of weight * reduce(x)^3, and that of the penalty, the gradient's square."""
    first = torch.autograd.grad(weight * reduce(x) ** 3, x, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), x)[0]
    return first.tolist(), second.tolist()


def shown(first, second):
    return f"{first[0]:g} {first[1]:g}, of the penalty {second[0]:g} {second[1]:g}"


def work(rank, folder):
    from torch.distributed import _functional_collectives as private
    from torch.distributed.nn import functional as public

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found, warned = {}, set()
    for name in REDUCTIONS:
        operation = getattr(dist.ReduceOp, name.upper())
        for way, reduce in {
            "deprecated": lambda x, operation=operation: public.all_reduce(x, operation),
            "replacement": lambda x, name=name: private.all_reduce(x, name, dist.group.WORLD),
        }.items():
            x = torch.tensor(VALUES[rank], dtype=torch.float64, requires_grad=True)
            with warnings.catch_warnings(record=True) as records:
                warnings.simplefilter("always")
                try:
                    found[f"{way} {name}"] = derivatives(reduce, x, WEIGHTS[rank])
                except RuntimeError as error:
                    found[f"{way} {name}"] = str(error)
            warned |= {f"{record.category.__name__}: {record.message}" for record in records if way == "deprecated"}
    found["warned"] = sorted(warned)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    folder = sys.argv[1]
    torch.multiprocessing.spawn(work, (folder,), nprocs=2)
    ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2)]
    print("torch", torch.__version__.partition("+")[0])
    print("gradients of process 0 and 1 by the deprecated function and its named replacement")
    print(*ranks[0]["warned"])
    failed = []
    named = "use torch.distributed._functional_collectives.all_reduce instead."
    if [(line.partition(":")[0], line.endswith(named)) for line in ranks[0]["warned"]] != [("FutureWarning", True)]:
        failed.append("one FutureWarning, which names the private function")
    for name, reduce in REDUCTIONS.items():
        x = torch.tensor(VALUES, dtype=torch.float64, requires_grad=True)
        right = [list(numbers) for numbers in derivatives(reduce, x, sum(WEIGHTS))]
        print(f"{name:8}closed form {shown(*right)}")
        for way in ("deprecated", "replacement"):
            results = [found[f"{way} {name}"] for found in ranks]
            if isinstance(results[0], str):
                print(f"{name:8}{way:12}raises: {results[0]}")
                seen = "raises"
            else:
                got = [[result[order] for result in results] for order in range(2)]
                close = [torch.allclose(torch.tensor(g), torch.tensor(r)) for g, r in zip(got, right, strict=True)]
                seen = "right" if all(close) else "wrong" if not any(close) else "half right"
                print(f"{name:8}{way:12}{seen}: {shown(*got)}")
            should = "right" if name in ("sum", "avg") else "raises" if way == "replacement" else "wrong"
            if seen != should:
                failed.append(f"{name}, {way}: {should}")
    for text in failed:
        print("CHANGED, no longer so:", text)
    raise SystemExit(bool(failed))
PYTHON
nice "$python" -W ignore "$work/finding.py" "$work"
