"""A trained GAN generator, to be loaded where only torch (2.6 or newer) and Python (3.11 or newer) are installed.

Beside this file are the weights, generator.safetensors; what the network is made of, generator.json; and the source of
its class, in the folder network. Loading it runs that source, so load it only from people you trust.

    import json, sys, torch
    sys.path.insert(0, "<this folder>")
    from generator import load, save
    network = load()
    z = torch.randn(64, <z_dim of generator.json>)
    with torch.inference_mode():
        save(network(z), "drawn.png")

A network that takes labels is called with them too: network(z, labels), int64 (B,), or float (B, number of classes) for
images between classes. `classes()` are the names of the classes; label k is of class classes()[k].
"""

import builtins
import importlib.util
import json
import math
import struct
import sys
import uuid
import zlib
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load(folder: str | Path = HERE) -> nn.Module:
    """The generator, in eval mode: maps standard normal float32 (B, z_dim) to images (B, C, H, W) in [-1, 1].

    Where `classes` has names, it takes labels after the latents, and refuses with a ValueError what are none. Compiled,
    or while a CUDA graph is captured, it does not look at them.

    Raises:
        OSError: a file is missing.
        ValueError: the weights' file is damaged, or no safetensors file.
        RuntimeError: the weights are of another network.
    """
    folder = Path(folder)
    config = json.loads((folder / "generator.json").read_text())
    module, _, name = config.pop("_target_").rpartition(".")
    network: nn.Module = getattr(imported(folder / "network", module), name)(**config)
    network.load_state_dict(read_safetensors(folder / "generator.safetensors"))
    if count := len(classes(folder)):
        network.register_forward_pre_hook(
            lambda _, given, named: check_labels(count, *given, **named), with_kwargs=True
        )
    return network.eval().requires_grad_(False)


def check_labels(count: int, z: Tensor, labels: Tensor, *_: Any, **__: Any) -> None:
    """Check the labels of latents (B, z_dim), of `count` classes: a network may make images of no class of wrong ones.

    Raises:
        ValueError: they are neither whole numbers (B,) from 0 to count - 1 nor weights, float (B, count).
    """
    if torch.compiler.is_compiling() or (labels.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    shape = (len(z), count) if labels.is_floating_point() else (len(z),)
    if labels.shape == shape and (labels.is_floating_point() or ((labels >= 0) & (labels < count)).all()):
        return
    found = f"{labels.dtype} {tuple(labels.shape)}" if labels.shape != shape else f"{labels.min()} to {labels.max()}"
    raise ValueError(
        f"labels: takes whole numbers from 0 to {count - 1}, of shape ({len(z)},), which classes() names, or weights "
        f"of the classes, float ({len(z)}, {count}); not {found}"
    )


def classes(folder: str | Path = HERE) -> list[str]:
    """The names of the classes whose labels the generator takes; none where it takes no labels.

    Raises:
        OSError: the weights are missing.
        ValueError: their file is damaged, or no safetensors file.
    """
    return [str(name) for name in json.loads(about(folder).get("classes", "[]"))]


def about(folder: str | Path = HERE) -> dict[str, str]:
    """What the file of the weights says of them: the generator step, and the like.

    Raises:
        OSError, ValueError: see `classes`.
    """
    path = Path(folder) / "generator.safetensors"
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            said = json.loads(file.read(min(length, path.stat().st_size))).get("__metadata__", {})
            return {str(name): str(value) for name, value in said.items()}
        except (struct.error, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error


def imported(folder: Path, name: str) -> ModuleType:
    """The module of that dotted name in `folder`, under a name of its own: installed packages are left alone."""
    package = f"generator_{uuid.uuid4().hex}"  # its own for each folder and each time, so that none finds another's
    root = ModuleType(package)
    root.__path__ = [str(folder.resolve())]
    for place in (folder.resolve(), *folder.resolve().rglob("*/")):
        sys.path_importer_cache[str(place)] = FileFinder(str(place), (Copy, [".py"]))
    sys.modules[package] = root
    return importlib.import_module(f"{package}.{name}")


class Copy(SourceFileLoader):
    """Runs a module in such a folder; what it imports by an absolute name is looked for in the folder first."""

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]

        def find(name: str, variables: Any = None, local: Any = None, names: Any = (), level: int = 0) -> ModuleType:
            top = f"{package}.{name.partition('.')[0]}"
            if level or importlib.util.find_spec(top) is None:
                return __import__(name, variables, local, names, level)
            found = __import__(f"{package}.{name}", variables, local, names)
            return found if names else sys.modules[top]

        vars(module)["__builtins__"] = vars(builtins) | {"__import__": find}
        super().exec_module(module)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: the header's length (8 bytes), a JSON header, then the values, little-endian.

    Raises:
        ValueError: it is cut short, or its header does not describe it.
    """
    content = bytearray(Path(path).read_bytes())  # writable, as torch wants what it shares memory with
    try:
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        start, end, tensors = 8 + length, 8 + length, {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape, (first, last) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            count = math.prod(shape)
            if start + first != end or last - first != count * dtype.itemsize:
                raise ValueError(f"{name} does not lie where its shape says")
            end = start + last
            if end > len(content):
                raise ValueError(f"it ends within {name}")
            if count:
                tensors[name] = torch.frombuffer(content, dtype=dtype, count=count, offset=start + first).reshape(shape)
            else:
                tensors[name] = torch.empty(shape, dtype=dtype)
        if end != len(content):
            raise ValueError(f"{len(content) - end} bytes belong to no tensor")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    return tensors


def quantise(images: Tensor) -> Tensor:
    """Images in [-1, 1], any shape, as uint8: rounded to the nearest of 256 levels."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def straighten(pixels: Tensor) -> Tensor:
    """Images uint8 (N, C, H, W), C 4 (RGBA), as PNG files hold them: the generator's colours divided by their alpha.

    Others, which have no alpha, are returned as they are.
    """
    if pixels.shape[1] != 4:
        return pixels
    alpha = pixels[:, 3:].int()
    colours = (255 * pixels[:, :3].int().minimum(alpha) + alpha // 2) // alpha.clamp(min=1)
    return torch.cat([colours.to(torch.uint8), pixels[:, 3:]], 1)


def save(images: Tensor, path: str | Path, columns: int = 8) -> None:
    """Write images (N, C, H, W) in [-1, 1] as one PNG picture with `columns` in a row.

    C is 1 (grey), 3 (RGB), or 4 (RGBA, colours premultiplied by alpha as the generator makes them).
    """
    pixels = straighten(quantise(images).cpu())
    count, channels, height, width = pixels.shape
    columns = min(columns, count)
    pixels = torch.cat([pixels, pixels.new_zeros(-count % columns, channels, height, width)])
    tiled = pixels.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)  # row, y, column, x, channel
    lines = tiled.reshape(-1, columns * width * channels)
    lines = torch.cat([lines.new_zeros(len(lines), 1), lines], dim=1)  # a line begins with its filter: 0, none
    head = struct.pack(">IIBBBBB", columns * width, len(lines), 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    data = zlib.compress(bytes(lines.flatten().tolist()))
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    written = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
