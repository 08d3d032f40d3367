"""Writes a generator as a program without its source: a torch.export program, ONNX, and TorchScript.

They map latents (B, z_dim), float32, and of a network that takes labels these, int64 (B,), to images (B, C, H, W),
float32, in [-1, 1], for any B of at least 1. Each file is read back and compared with the network before it gets its
name, so an incomplete or wrong file is never left.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gantry.core.errors import UserError
from gantry.core.safe_load import reason
from gantry.data.alpha import RGBA, SAID
from gantry.models.labels import Classes

if TYPE_CHECKING:
    from torch.export import ExportedProgram


INPUT, LABELS, OUTPUT = "z", "labels", "images"
EXTRA, CLASSES = "image_channels", "classes"  # entries of a file's metadata
TOLERANCE = 1e-4  # between images in [-1, 1]: an eightieth of one of 256 levels
BATCHES = (1, 7, 64)
Program = Callable[..., Tensor]  # of latents and, where the network takes them, labels
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write_torch_export(network: nn.Module, z_dim: int, path: Path, classes: Classes | None = None) -> float:
    """Write the network as a `torch.export` program, which `torch.export.load(path).module()` makes callable.

    Of images with alpha the file says in `EXTRA`, which `load` reads with `extra_files`, what the channels are; of a
    network that takes labels in `CLASSES` the names of the classes, a JSON list.

    Args:
        network: a generator in eval mode, on the CPU.
        z_dim: length of its latent vectors.
        path: the file to write, .pt2.
        classes: whose labels the network takes; None: it takes none.

    Returns:
        The largest difference between its images and the network's.

    Raises:
        UserError: the network cannot be written as a program (it branches on the values of its input, say), or the
            program generates other images.
        OSError: the file cannot be written.
    """
    program = _program(network, z_dim, classes)

    def write(part: Path) -> None:
        with part.open("wb") as file:  # given a path, torch refuses a name that does not end in .pt2
            torch.export.save(program, file, extra_files=_about(network, z_dim, classes))

    def read(part: Path) -> Program:
        with part.open("rb") as file:
            return torch.export.load(file).module()

    return _checked(network, z_dim, path, write, read, classes)


def write_onnx(
    network: nn.Module, z_dim: int, path: Path, step: int | None = None, classes: Classes | None = None
) -> float:
    """Write the network as one ONNX file, input "z", output "images", and compare onnxruntime's images of it.

    A network that takes labels has a second input "labels". The file's metadata contain z_dim, image_range and, if
    known, the generator step; where images have alpha, what the channels are; and the names of the classes, a JSON
    list, where there are labels.

    Args:
        network: a generator in eval mode, on the CPU.
        z_dim: length of its latent vectors.
        path: the file to write, .onnx.
        step: its generator step.
        classes: whose labels the network takes; None: it takes none.

    Returns:
        The largest difference between onnxruntime's images, on its CPU provider, and the network's.

    Raises:
        UserError: a library is missing; or see `write_torch_export`.
        OSError: the file cannot be written.
    """
    require_onnx()
    program = _program(network, z_dim, classes)
    inputs = [INPUT] if classes is None else [INPUT, LABELS]
    properties = {"z_dim": str(z_dim), "image_range": "[-1, 1]"} | ({} if step is None else {"step": str(step)})
    properties |= _about(network, z_dim, classes)

    def write(part: Path) -> None:
        import onnx

        exported = torch.onnx.export(program, (), input_names=inputs, output_names=[OUTPUT], dynamo=True, verbose=False)
        assert exported is not None
        model = exported.model_proto
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.helper.set_model_props(model, properties)
        onnx.checker.check_model(model)
        onnx.save(model, part)

    def read(part: Path) -> Program:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(part, options, providers=["CPUExecutionProvider"])

        def run(*given: Tensor) -> Tensor:
            named = {name: value.numpy() for name, value in zip(inputs, given, strict=True)}
            return torch.from_numpy(session.run([OUTPUT], named)[0])

        return run

    return _checked(network, z_dim, path, write, read, classes)


def write_torchscript(network: nn.Module, z_dim: int, path: Path, classes: Classes | None = None) -> float:
    """Write the network as a TorchScript program, which `torch.jit.load(path)` and libtorch's C++ load.

    A trace records the one path that its input takes, so a network is first written as a `torch.export` program, which
    refuses one that branches on the values of its input. Since torch 2.5 `torch.jit` is deprecated in favour of that.

    Args:
        network: a generator in eval mode, on the CPU.
        z_dim: length of its latent vectors.
        path: the file to write, .torchscript.
        classes: whose labels the network takes; None: it takes none.

    Returns:
        The largest difference between its images and the network's.

    Raises:
        UserError: see `write_torch_export`.
        OSError: the file cannot be written.
    """
    _program(network, z_dim, classes)

    def write(part: Path) -> None:
        program = torch.jit.trace(network, _example(2, z_dim, classes), check_trace=False)  # `_checked` compares it
        torch.jit.save(program, part)

    return _checked(network, z_dim, path, write, torch.jit.load, classes)


def require_onnx() -> None:
    """Check that the libraries for ONNX are installed.

    Raises:
        UserError: a library is missing.
    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"formats: onnx needs {', '.join(missing)}: pip install -c constraints.txt -e '.[export]'; "
            "formats=[safetensors,torch_export] does without"
        )


def _example(
    count: int, z_dim: int, classes: Classes | None, source: torch.Generator | None = None
) -> tuple[Tensor, ...]:
    """Return inputs of a network for `count` images: latents, zero without a source, and the labels in turn."""
    z = torch.zeros(count, z_dim) if source is None else torch.randn(count, z_dim, generator=source)
    return (z,) if classes is None else (z, torch.arange(count) % len(classes))


def _program(network: nn.Module, z_dim: int, classes: Classes | None) -> ExportedProgram:
    inputs = _example(2, z_dim, classes)  # a batch of 1 would be treated as a constant
    try:
        with _quiet():
            batch = torch.export.Dim("batch", min=1)
            return torch.export.export(network, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    except Exception as error:  # any part of torch's compiler may raise
        raise UserError(f"{_name(network)} cannot be written as a program: {reason(error)}") from error


def _about(network: nn.Module, z_dim: int, classes: Classes | None) -> dict[str, str]:
    """Return what the channels of the network's images are, where they have alpha, and the names of its classes."""
    with torch.inference_mode():
        channels = network(*_example(1, z_dim, classes)).shape[1]
    named = {} if classes is None else {CLASSES: json.dumps(classes.names)}
    return named | ({EXTRA: SAID} if channels == RGBA else {})


def _checked(
    network: nn.Module,
    z_dim: int,
    path: Path,
    write: Callable[[Path], None],
    read: Callable[[Path], Program],
    classes: Classes | None,
) -> float:
    """Write a file, unless it generates other images than the network; returns the largest difference."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with _quiet():
                write(part)
                difference = _difference(network, read(part), z_dim, classes)
        except OSError:
            raise
        except Exception as error:  # raised by the exporter or by the runtime
            raise UserError(f"{_name(network)} cannot be written as {path.suffix[1:]}: {reason(error)}") from error
        if not difference <= TOLERANCE:
            raise UserError(
                f"{_name(network)} as {path.suffix[1:]} makes other images: they differ by up to {difference:.2g}, "
                f"where {TOLERANCE:g} is allowed; a network that draws random numbers of its own cannot be exported so"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return difference


def _difference(network: nn.Module, program: Program, z_dim: int, classes: Classes | None) -> float:
    """Return the largest difference between images over batches of several sizes; NaN if any is NaN."""
    source = torch.Generator().manual_seed(0)
    differences = []
    for batch in BATCHES:
        inputs = _example(batch, z_dim, classes, source)
        with torch.inference_mode():
            images, expected = program(*(value.clone() for value in inputs)), network(*inputs)
        if images.shape != expected.shape or images.dtype != torch.float32:
            raise ValueError(f"it makes {images.dtype} {tuple(images.shape)}, not float32 {tuple(expected.shape)}")
        differences.append((images - expected).abs().max())
    return float(torch.stack(differences).max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress exporters' output, logs and warnings; errors are raised."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.ERROR)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def _name(network: Any) -> str:
    return f"{type(network).__module__}.{type(network).__qualname__}"
