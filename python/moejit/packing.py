"""pack_weights: weights in the order in which the CPU's kernels read them."""

from __future__ import annotations

import math
import sys
from typing import Any, List, Optional, Sequence, Tuple

from . import _tensors
from ._library import library
from .config import ConfigHandle, ConfigLike, as_config, c_text
from .errors import InvalidArgument
from .kernel import device_name, dtypes_of, packed_shapes, plain_shapes, refuse_grad

_LINE = 64  # bytes of a cache line


def pack_weights(config: ConfigLike, w13: Any, w2: Any, device: Any = "cpu", *,
                 out: "Optional[Tuple[Any, Any]]" = None) -> Tuple[Any, Any]:
    """(packed_w13, packed_w2), for a kernel whose config is the same but for packed=True.

    config: as get_kernel takes it; `packed` may be either. w13 and w2: on the CPU, dense, as config.transposed,
    interleaved and up_first say; of whatever a kernel takes (bf16 of NumPy as uint16 or ml_dtypes.bfloat16). The results
    are new tensors of the same library and dtype with the same number of dimensions, whose rows are filled up to whole
    blocks: w13 [E, 2I or a little more, H], w2 [E, H or a little more, I]. `out`: two tensors of these shapes to write
    instead. One of w13 and w2 may be None, to pack the other alone; its result is None.

    device: the kernel's. The order depends on the processor and the dtype: pack where the layer runs, and keep packed
    weights in no file. Where nothing has to be filled up packed weights have the shape of others, and no check tells
    them apart. Costs about what reading and writing the weights costs. Raises InvalidArgument, whose .message begins with
    the argument's name; Unsupported where the device is not the CPU.
    """
    layer = as_config(config)
    name = device_name(device)
    targets = (None, None) if out is None else out
    if not isinstance(targets, (tuple, list)) or len(targets) != 2:
        raise InvalidArgument("out: must be None or two tensors, (packed_w13, packed_w2)")
    if w13 is None and w2 is None:
        raise InvalidArgument("w13 is None, and w2 too: at least one must be a tensor")
    refuse_grad(w13, w2, *targets)
    packed: List[Any] = []
    read: List[Tuple[str, _tensors.View]] = []
    written: List[Tuple[str, _tensors.View]] = []
    pointers = {"w13": 0, "w2": 0, "packed_w13": 0, "packed_w2": 0}
    dtypes = dtypes_of(layer)
    for field, tensor, target, (plain, letters), (shape, packed_letters) in zip(
            ("w13", "w2"), (w13, w2), targets, plain_shapes(layer), packed_shapes(layer, name)):
        if tensor is None:
            if target is not None:
                raise InvalidArgument(f"{field} is None: must be a tensor, as packed_{field} is given in out")
            packed.append(None)
            continue
        read.append((field, _tensors.checked(field, tensor, plain, letters, dtypes, "cpu")))
        if target is None:
            target = _empty_like(tensor, shape)
        packed.append(target)
        written.append((f"packed_{field}", _tensors.checked(f"packed_{field}", target, shape, packed_letters, dtypes, "cpu",
                                                            writable=True)))
    for i, (field, view) in enumerate(written):
        _tensors.separate(field, view, read + written[:i])
    pointers.update((field, view.pointer) for field, view in read + written)
    lib = library()
    with ConfigHandle.of(layer) as handle:
        lib.check(lib.c.moejit_pack_weights(handle.pointer, c_text("device", name), pointers["w13"], pointers["w2"],
                                            pointers["packed_w13"], pointers["packed_w2"]))
    return packed[0], packed[1]


def _empty_like(tensor: Any, shape: Sequence[int]) -> Any:
    """As _tensors.empty_like, at the start of a cache line, where NumPy's large arrays never are: a vector that lies over
    two lines costs two loads."""
    if type(tensor).__module__.partition(".")[0] != "numpy":
        return _tensors.empty_like(tensor, shape)
    size = math.prod(shape) * tensor.dtype.itemsize
    numpy = sys.modules["numpy"]
    memory = numpy.empty(size + _LINE, numpy.uint8)
    begin = -memory.ctypes.data % _LINE
    return memory[begin:begin + size].view(tensor.dtype).reshape(tuple(shape))
