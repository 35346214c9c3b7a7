"""Read weights from safetensors files of strangers: shapes first, then numbers.

A checkpoint is used only if its header fits the model that its config describes, so that a file
or a config of a few bytes cannot make the program allocate gigabytes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from geoclip_core.errors import DeviceError, FileError, first_line
from geoclip_core.files import open_file, readable

MAX_WEIGHTS = 16 * 10**9
"""Bytes of the largest file of weights; the largest published image towers have 4 to 10 GB."""
MAX_TENSORS = 20_000
LARGEST_NUMBER = 1e8
"""Largest absolute value of a weight. Trained weights are below 1e5."""
_FLOATS = ("F16", "BF16", "F32", "F64")
_INTEGERS = ("I8", "I16", "I32", "I64", "U8", "BOOL")

_MAX_HEADER = 4 * 2**20


class Stored(NamedTuple):
    """What the header of a file says about a tensor."""

    shape: tuple[int, ...]
    floating: bool


Shapes = dict[str, Stored]


def read_shapes(path: Path) -> Shapes:
    """Return the shape of every tensor of a file. Only the header is read.

    Raises:
        FileError: it is missing, is not a whole safetensors file, or holds numbers of other kinds.
    """
    with _opened(path) as stored:
        shapes: Shapes = {}
        for name in stored.keys():  # noqa: SIM118  not a mapping
            part = stored.get_slice(name)
            if part.get_dtype() not in (*_FLOATS, *_INTEGERS):
                raise FileError(path, f"holds {name} as {part.get_dtype()}, which is not supported")
            shapes[name] = Stored(tuple(part.get_shape()), part.get_dtype() in _FLOATS)
        return shapes


def read_tensors(path: Path, prefix: str = "", *, any_numbers: bool = False) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by their whole names.

    Args:
        path: of the file.
        prefix: of the names.
        any_numbers: leave out the check of the numbers, for the state of a training.

    Raises:
        FileError: as `read_shapes`, or a number is not finite or larger than `LARGEST_NUMBER`.
    """
    names = [name for name in read_shapes(path) if name.startswith(prefix)]
    with _opened(path) as stored:
        tensors: dict[str, Tensor] = {name: stored.get_tensor(name) for name in names}
    if not any_numbers:
        check_numbers(tensors, path)
    return tensors


def check_numbers(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that all numbers are finite and not larger than `LARGEST_NUMBER`.

    Raises:
        FileError: naming the tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        extremes = torch.stack(tuple(tensor.detach().aminmax())).double().abs()
        if not torch.isfinite(extremes).all():
            raise FileError(path, f"holds numbers that are not finite in {name}")
        if float(extremes.max()) > LARGEST_NUMBER:
            raise FileError(
                path, f"holds {float(extremes.max()):.3g} in {name}, which no trained model has"
            )


def check_shapes(module: nn.Module, shapes: Shapes, path: Path) -> None:
    """Check that a file holds exactly the weights of a module, which may be on the meta device.

    Raises:
        FileError: naming a tensor that is missing, too many, or of another shape.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in shapes:
            raise FileError(path, f"lacks the weights {name}")
        shape, floating = shapes[name]
        if shape != tuple(tensor.shape):
            wanted = tuple(tensor.shape)
            raise FileError(path, f"has {name} of shape {shape}, config.json says {wanted}")
        if floating != tensor.is_floating_point():
            raise FileError(path, f"has {name} in {'floats' if floating else 'integers'}")
    if extra := sorted(set(shapes) - set(own)):
        raise FileError(path, f"holds {extra[0]}, which config.json does not describe")


def check_device(device: str) -> None:
    """Check that this computer has a torch device: cpu, cuda, cuda:1, mps.

    Raises:
        DeviceError: it does not.
    """
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise DeviceError(f"device {device!r} is not known: choose cpu, cuda or mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"device {device}: this computer has no CUDA GPU that torch can use; leave it out"
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {device}: there are {torch.cuda.device_count()} CUDA GPUs")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(
            f"device {device}: this computer has no Apple GPU that torch can use; leave it out"
        )


def below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the items whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with open_file(path, MAX_WEIGHTS) as stream:
        size = os.fstat(stream.fileno()).st_size
        header = int.from_bytes(stream.read(8), "little")
    if header > min(size, _MAX_HEADER):
        raise FileError(path, f"cannot be read as safetensors: its header has {header} bytes")
    try:
        with safe_open(path, framework="pt") as stored:
            if len(stored.keys()) > MAX_TENSORS:
                raise FileError(path, f"holds more than {MAX_TENSORS:,} tensors")
            yield stored
    except FileError:
        raise
    except (OSError, SafetensorError, ValueError, RuntimeError, MemoryError) as error:
        reason = f"cannot be read as safetensors ({readable(size)}): {first_line(error)}"
        raise FileError(path, reason) from error
