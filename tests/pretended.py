"""A pretended accelerator: tensors that compute on the CPU and say that they are on cuda:0 or mps:0.

To C++ they are on torch's `privateuseone` device, whose guard can be registered from Python, so that autograd runs; to
Python they are on the device that was asked for. Every operation of theirs passes a dispatch mode that refuses what the
real device refuses (operands on different devices; float64 on MPS; operations without a deterministic form where that
is demanded), rounds the operands of products to TF32 where that is allowed, counts what makes the host wait, and keeps
account of the bytes that live tensors hold, with a limit: beyond it, memory is out.

It shows faults of placement, of type and of memory; neither speed nor the rounding of real kernels. What one operation
needs while it runs is not seen. It lasts for the process: start it in a process of its own.
"""

import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers.modeling_utils
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten

# Operations whose result's shape depends on values, for which the host has to wait.
WAITING = ("nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "equal")
UNORDERED = ("put_", "histc", "bincount", "kthvalue", "median", "nll_loss_forward", "scatter_reduce")
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
OPERANDS = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "linear"), (0, 1)),
    **dict.fromkeys(("addmm", "addmm_", "baddbmm", "baddbmm_", "addmv"), (1, 2)),
}
ACCELERATORS = ("cuda", "mps", "pretended", "privateuseone")


@dataclass(kw_only=True)
class Machine:
    """The pretended device: what it is, what it holds, and how often the host waited for it, by place."""

    device: torch.device
    capacity: int = 80 << 30
    """Bytes that fit."""
    live: int = 0
    peak: int = 0
    pins: int = 0
    """Tensors that were pinned."""
    pinned: set[int] = field(default_factory=set)
    """Addresses of live pinned memory."""
    waits: Counter[str] = field(default_factory=Counter)
    owners: Counter[int] = field(default_factory=Counter)
    """Live tensors of every storage, by its address."""

    def hold(self, tensor: "Pretended") -> None:
        """Count a tensor's storage, once for all views of it; raise torch.OutOfMemoryError where it does not fit."""
        tensor.release()
        storage = tensor.inner.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if not size:
            return
        if not self.owners[address]:
            if self.live + size > self.capacity:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
            self.live += size
            self.peak = max(self.peak, self.live)
        self.owners[address] += 1
        tensor.release = weakref.finalize(tensor, self._release, address, size)

    def _release(self, address: int, size: int) -> None:
        self.owners[address] -= 1
        if not self.owners[address]:
            del self.owners[address]
            self.live -= size

    def pin(self, tensor: Tensor) -> Tensor:
        """Count a tensor that goes into pinned memory."""
        if isinstance(tensor, Pretended):
            raise RuntimeError(f"cannot pin a tensor on {self.device}, only dense CPU tensors can be pinned")
        self.pins += 1
        pinned = tensor.clone()
        self.pinned.add(pinned.data_ptr())
        weakref.finalize(pinned, self.pinned.discard, pinned.data_ptr())
        return pinned

    def wait_for_copy(self, host: Tensor, what: str, non_blocking: Any) -> None:
        """Count a copy to or from the host's memory, for which the host waits unless that is pinned and it need not."""
        if not (non_blocking and host.data_ptr() in self.pinned):
            self.wait(what)

    def wait(self, what: str) -> None:
        """Count a wait of the host, with the place in curate, or else in transformers, that caused it."""
        self.waits[f"{_place()}: {what}"] += 1


machine = Machine(device=torch.device("cpu"))


class Pretended(torch.Tensor):
    """A tensor that computes on the CPU and says that it is on the machine's device."""

    inner: Tensor
    release: Callable[[], object] = staticmethod(lambda: None)
    """Take its storage out of the machine's account, once."""
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device("pretended", 0),
        )
        tensor.inner = inner
        machine.hold(tensor)
        return tensor

    @property
    def device(self) -> torch.device:
        return machine.device

    def _set_data(self, value: "Pretended") -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]  # which `Module.to(dtype)` does
        self.inner = value.inner
        machine.hold(self)

    data = property(torch.Tensor.data.__get__, _set_data)  # type: ignore[attr-defined, assignment]
    is_cuda = property(lambda self: machine.device.type == "cuda")
    is_mps = property(lambda self: machine.device.type == "mps")
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {machine.device} device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def tolist(self) -> Any:
        machine.wait("tolist")
        return self.inner.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.inner!r})"

    def __getitem__(self, index: Any) -> Tensor:
        return torch.Tensor.__getitem__(self, _with_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        torch.Tensor.__setitem__(self, _with_tensors(index), value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Pretended, (self.inner,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretended":
        copy = Pretended(self.inner.clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _with_tensors(index: Any) -> Any:
    """Turn lists in an index into tensors, as torch does in C++ for its own devices."""
    if isinstance(index, tuple):
        return tuple(map(_with_tensors, index))
    if isinstance(index, list):
        return torch.tensor(index, dtype=torch.bool if index and isinstance(index[0], bool) else torch.int64)
    return index


def start(kind: str, *, capacity: int = 80 << 30) -> Machine:
    """Let this process have one device of that kind, 'cuda' or 'mps'; never call it twice."""
    _setup_privateuseone_for_python_backend("pretended")
    machine.device, machine.capacity = torch.device(kind, 0), capacity
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # a thread of transformers' would know nothing of the mode below
    _device_constructors()  # noted by `with torch.device(…)` as they are now
    torch.tensor = _made_here(torch.tensor)
    free: Callable[..., int] = lambda *_: machine.capacity - machine.live  # noqa: E731
    if kind == "cuda":
        # It takes a block as large as the model from the allocator before loading, and a GB for granted.
        transformers.modeling_utils.caching_allocator_warmup = lambda *_, **__: None
        torch.cuda._lazy_init = lambda: None
        torch.cuda.is_available = lambda: True
        torch.cuda.device_count, torch.cuda.current_device = (lambda: 1), (lambda: 0)
        torch.cuda.get_device_capability = lambda *_: (9, 0)
        torch.cuda.mem_get_info = lambda *_: (free(), machine.capacity)
        torch.cuda.memory_allocated = torch.cuda.memory_reserved = lambda *_: machine.live
        torch.cuda.max_memory_allocated = lambda *_: machine.peak
        torch.cuda.reset_peak_memory_stats = lambda *_: setattr(machine, "peak", machine.live)
        torch.cuda.empty_cache = lambda: None
        torch.cuda.synchronize = lambda *_: None
        torch.cuda.set_device = lambda *_: None
        torch._C._cuda_getCurrentRawStream = lambda *_: 0  # type: ignore[attr-defined]  # that bitsandbytes imports
        torch.Tensor.pin_memory = lambda self, *_: machine.pin(self)  # type: ignore[method-assign]
    else:
        torch.backends.mps.is_available = lambda: True
        torch.mps.current_allocated_memory = torch.mps.driver_allocated_memory = lambda: machine.live
        torch.mps.recommended_max_memory = lambda: machine.capacity
        torch.mps.empty_cache = lambda: None
        torch.mps.synchronize = lambda: None
    _Mode().__enter__()
    return machine


def _made_here(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `torch.tensor` that goes to a device by a road that the mode below sees."""

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        there = device is not None and torch.device(device).type in ACCELERATORS
        return make(data, **options).to(device) if there else make(data, device=device, **options)

    return tensor


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _place() -> str:
    frame, elsewhere = sys._getframe(2), "?"
    while frame is not None:
        file = frame.f_code.co_filename
        if "/curate/" in file and "site-packages" not in file:
            return f"{file.rsplit('/curate/', 1)[1]}:{frame.f_lineno}"
        if "/transformers/" in file and elsewhere == "?":
            elsewhere = f"transformers/{file.rsplit('/transformers/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return elsewhere


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation as the pretended device would."""
    name = func._schema.name.split("::")[1]
    operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    ours = [x for x in operands if isinstance(x, Pretended)]
    target = kwargs.get("device")
    there = target is not None and torch.device(target).type in ACCELERATORS
    if kwargs.get("pin_memory") and not there:
        return machine.pin(func(*tree_map(_inner, args), **(kwargs | {"pin_memory": False})))
    if not ours and not there:
        return func(*args, **kwargs)
    if func is aten._to_copy.default:
        return _copy(args[0], kwargs)
    if func is aten._efficientzerotensor.default:
        return _on_device(torch.zeros(args[0], dtype=kwargs.get("dtype")), func)
    if func is aten._local_scalar_dense.default:
        machine.wait("item")
        return ours[0].inner.item()
    on_device = there or target is None
    if there and getattr(kwargs.get("generator"), "device", machine.device).type == "cpu":
        raise RuntimeError(f"Expected a {machine.device.type} device type for generator but found cpu ({func})")
    _refuse_mixed(func, name, args, operands, ours)
    _refuse_unordered(name, operands)
    _count_waits(name, args, ours)
    allow_tf32 = machine.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    inner = _inner_arguments(args, name if allow_tf32 else "")
    options = {k: tree_map(_inner, v) for k, v in kwargs.items() if k not in ("device", "pin_memory")}
    if target is not None:
        options["device"] = torch.device("cpu")
    result = func(*inner, **options)
    if name in EMPTY and result.is_floating_point():
        result.fill_(torch.nan)  # as what was there before may be
    owners = {id(x.inner): x for x in ours}

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, Pretended):
            return x
        if id(x) in owners:
            return owners[id(x)]  # an operation in place
        return _on_device(x, func) if on_device else x

    return tree_map(wrapped, result)


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Pretended) else x


def _inner_arguments(args: Any, product: str) -> list[Any]:
    inner = [tree_map(_inner, x) for x in args]
    for i in OPERANDS.get(product, ()):
        if inner[i].dtype is torch.float32 and inner[i].numel():
            bits = inner[i].contiguous().view(torch.int32)
            inner[i] = ((bits + 0x1000) & ~0x1FFF).view(torch.float32).view(inner[i].shape)
    return inner


def _on_device(tensor: Tensor, func: Any) -> Pretended:
    if machine.device.type == "mps" and tensor.dtype is torch.float64:
        raise TypeError(
            f"Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it. ({func})"
        )
    return Pretended(tensor)


def _copy(tensor: Tensor, kwargs: dict[str, Any]) -> Tensor:
    here, target = isinstance(tensor, Pretended), kwargs.get("device")
    there = here if target is None else torch.device(target).type in ACCELERATORS
    if here and not there:
        machine.wait("copy to the host")
    if there and not here:
        machine.wait_for_copy(tensor, "copy from the host", kwargs.get("non_blocking"))
    options = {k: v for k, v in kwargs.items() if k in ("dtype", "memory_format", "layout")}
    copy = aten._to_copy.default(_inner(tensor), **options)
    return _on_device(copy, aten._to_copy.default) if there else copy


def _refuse_mixed(func: Any, name: str, args: Any, operands: list[Tensor], ours: list[Pretended]) -> None:
    if not ours or name in ("copy_", "_foreach_copy_"):
        return
    if name in INDEXED:
        # Indices may be on the CPU for a tensor that is not; nothing else may.
        indexed, values = isinstance(args[0], Pretended), args[2] if len(args) > 2 else None
        if not indexed and any(isinstance(i, Pretended) for i in args[1]):
            raise RuntimeError(f"indices should be on the same device as the indexed tensor (cpu) in {func}")
        if isinstance(values, Tensor) and values.ndim and isinstance(values, Pretended) != indexed:
            raise RuntimeError(f"Expected all tensors to be on the same device: self and values differ in {func}")
        return
    strangers = [x for x in operands if not isinstance(x, Pretended)]
    if any(x.ndim for x in strangers) or (strangers and name in ("mm", "bmm", "addmm", "embedding", "cat")):
        shapes = [tuple(x.shape) for x in strangers]
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {shapes} on the CPU in {func}")


def _refuse_unordered(name: str, operands: list[Tensor]) -> None:
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    if machine.device.type != "cuda" or not strict:
        return
    if name in UNORDERED or (name == "cumsum" and operands[0].is_floating_point()):
        raise RuntimeError(f"{name}_cuda does not have a deterministic implementation")


def _count_waits(name: str, args: Any, ours: list[Pretended]) -> None:
    if name in WAITING and ours:
        machine.wait(name)
    if name in INDEXED and isinstance(args[0], Pretended):
        indices = [i for i in args[1] if isinstance(i, Tensor)]
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
            machine.wait("index by truth")
        elif not all(isinstance(i, Pretended) for i in indices):
            machine.wait("index from the host")
    if name == "copy_" and isinstance(args[0], Pretended) != isinstance(args[1], Pretended):
        to, source, non_blocking = args[0], args[1], (*args, False)[2]
        there = isinstance(to, Pretended)
        machine.wait_for_copy(source if there else to, f"copy {'from' if there else 'to'} the host", non_blocking)
