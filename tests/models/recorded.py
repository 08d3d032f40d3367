"""A `Capture` on the CPU that is as strict as CUDA's: it repeats the operations that a function ran, not the function.

What the function computes on the host, such as a counter or a branch, is fixed, and reading a value of a tensor is an
error.
"""

from contextlib import nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("aten._local_scalar_dense", "aten.item", "aten.equal", "aten.is_nonzero", "aten.nonzero")


def tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


class Tape(TorchDispatchMode):
    """Notes operations with their arguments and results, tensors at fixed addresses, and leaves all values as before.

    Recording has to run the operations; what they changed is put back, and their results are spoilt until a replay.
    """

    def __init__(self):
        super().__init__()
        self.operations = []
        self.made = {}  # storages of results, by address, kept so that none is used again
        self.before = {}  # of all other storages used: a tensor and a copy of its values

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs, schema = kwargs or {}, operation._schema
        if str(operation).startswith(READS):
            raise RuntimeError(f"operation not permitted when stream is capturing: {operation}")
        for tensor in tensors((args, kwargs)):
            address = tensor.untyped_storage().data_ptr()
            if address not in self.made and address not in self.before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self.before[address] = whole, whole.clone()
        result = operation(*args, **kwargs)
        view = any(returned.alias_info for returned in schema.returns) and not schema.is_mutable
        if not view and schema.name.startswith("aten::"):
            self.operations.append((operation, args, kwargs, result))
        if not schema.is_mutable:
            known = self.before.keys() | self.made.keys()
            new = [t.untyped_storage() for t in tensors(result) if t.untyped_storage().data_ptr() not in known]
            self.made |= {storage.data_ptr(): storage for storage in new}
        return result

    @torch.no_grad()
    def put_back(self):
        for whole, copy in self.before.values():
            whole.copy_(copy)
        for storage in self.made.values():
            torch.empty(0, dtype=torch.uint8).set_(storage).fill_(0xFF)  # NaN in every float

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)  # the operations are those that it has chosen, casts among them
    def replay(self):
        for operation, args, kwargs, result in self.operations:
            again = operation(*args, **kwargs)
            if not operation._schema.is_mutable:
                for old, new in zip(tensors(result), tensors(again), strict=True):
                    old.copy_(new)


class Recorded:
    """Captures on the CPU.

    Attributes:
        tapes: those made, in order.
    """

    def __init__(self, device=None):
        self.tapes = []

    def aside(self, strictly=False):
        return nullcontext()

    def __call__(self, function):
        tape = Tape()
        try:
            with tape:
                function()
        finally:
            tape.put_back()
        self.tapes.append(tape)
        return tape.replay
