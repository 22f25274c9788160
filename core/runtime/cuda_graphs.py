"""CUDA graphs of a network's forward and backward pass, and counts that the host does not wait for.

Launching hundreds of small kernels takes the host longer than the device needs to run them; a captured graph replays
them in one launch.
"""

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from smpl_renderer.dispatch import FLOAT_TYPES, can_use_kernels

logger = logging.getLogger(__name__)

MAX_GRAPHS = 48
"""Maximum number of captured input signatures: 1 to 8 frames of 1 to 4 views, and some more. Calls with other
signatures are launched as usual; as many of them are recorded."""

Outputs = Tensor | tuple[Tensor, ...]
"""Result of a captured function."""


class CudaGraphCache:
    """Runs a module's function of tensors, and replays its launches from CUDA graphs for repeated input signatures.

    The signature holds all that the launches depend on: shapes, dtypes, which tensors and parameters need gradients,
    training mode, and the state of autocast and inference mode. The first call with a signature runs as usual, the
    second captures graphs after a warm-up run, and later calls replay them.

    A graph reads parameters and buffers at their addresses: changes in place take effect, and when one of them moves,
    all graphs are released. Results and gradients are copies that the caller may keep.

    All graphs share one memory pool, which holds the activations that a forward pass keeps for its backward pass, and
    one buffer for the gradient of each parameter. There is room for one pass: a call runs as usual while an earlier
    forward pass still waits for its backward pass, or while another CUDA graph is being captured.

    The function must launch the same kernels at every call: no random numbers, and no control flow that depends on
    values of tensors. Hooks of submodules do not run.

    Attributes:
        enabled: True to capture and replay graphs.
    """

    def __init__(self):
        self.enabled = True
        self.clear()

    def __deepcopy__(self, memo: dict) -> "CudaGraphCache":
        twin = type(self)()
        twin.enabled = self.enabled
        return twin

    def __reduce__(self) -> tuple:
        return type(self), ()

    def clear(self) -> None:
        """Release all graphs."""
        self._slots: list[tuple[dict, str]] = []  # where modules keep their parameters and buffers
        self._addresses: list[int] = []
        self._parameters: list[nn.Parameter] = []
        self._gradients: dict[nn.Parameter, Tensor] = {}  # buffers that backward graphs write to
        self._graphs: dict[tuple, CapturedGraph | None] = {}  # by signature; None before the capture
        self._pending: weakref.ref[ForwardPass] | None = None
        self._is_full = False

    def can_capture(self, x: Tensor) -> bool:
        """True if a call with input x may be captured: kernels run on its device, and no other capture is active."""
        return self.enabled and can_use_kernels(x, dtypes=FLOAT_TYPES) and not torch.cuda.is_current_stream_capturing()

    def __call__(self, module: nn.Module, function: Callable[..., Outputs], *tensors: Tensor) -> Outputs:
        """Compute `function(*tensors)`, a function that uses the parameters and buffers of the module."""
        self._release_if_moved(module)
        parameters = self._parameters
        needs_grad = [x.requires_grad and torch.is_grad_enabled() for x in (*tensors, *parameters)]
        device = tensors[0].device.type
        signature = (
            *((x.shape, x.dtype) for x in tensors),
            tuple(needs_grad),
            module.training,
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            torch.is_inference_mode_enabled(),
        )
        if signature not in self._graphs:
            self._remember(signature)  # a signature that occurs once is not worth a capture
            return function(*tensors)
        if self._pending is not None and self._pending() is not None:
            return function(*tensors)
        if self._graphs[signature] is None and self._has_room():
            try:
                self._graphs[signature] = self._capture(function, tensors, needs_grad)
            except torch.OutOfMemoryError:
                logger.warning("not enough GPU memory to capture CUDA graphs; running without them, which is slower")
                self.enabled = False
                self.clear()
        graph = self._graphs.get(signature)
        if graph is None:
            return function(*tensors)
        if not any(needs_grad):
            return graph.replay(tensors)
        return _Replay.apply(graph, self, len(tensors), *tensors, *parameters)

    def begin(self) -> "ForwardPass":
        """Register a forward pass; it is pending until `end`, or until the returned object is no longer referenced."""
        forward_pass = ForwardPass()
        self._pending = weakref.ref(forward_pass)
        return forward_pass

    def end(self, forward_pass: "ForwardPass") -> None:
        """Mark a forward pass as done, before its backward pass is replayed."""
        if self._pending is None or self._pending() is not forward_pass:
            raise RuntimeError(
                "a forward pass from a CUDA graph allows one backward pass; for more, set `enabled` of the "
                "CudaGraphCache to False"
            )
        self._pending = None

    def _release_if_moved(self, module: nn.Module) -> None:
        """Release all graphs if any parameter or buffer of the module has moved or was replaced."""
        if not self._slots:  # kept, because a walk through all modules is slow
            for own in module.modules():
                self._slots += [(own._parameters, name) for name, x in own._parameters.items() if x is not None]
                self._slots += [(own._buffers, name) for name, x in own._buffers.items() if x is not None]
        tensors = [slot[name] for slot, name in self._slots]
        addresses = [*map(id, tensors), *(x.data_ptr() for x in tensors)]
        if addresses != self._addresses:
            slots = self._slots
            self.clear()
            self._slots, self._addresses = slots, addresses
            own = (x for x in tensors if isinstance(x, nn.Parameter))
            self._parameters = list(dict.fromkeys(own))  # shared parameters once

    def _remember(self, signature: tuple) -> None:
        """Register a new signature; forget the oldest without a graph if there are too many of them."""
        waiting = [other for other, graph in self._graphs.items() if graph is None]
        if len(waiting) >= MAX_GRAPHS:
            del self._graphs[waiting[0]]
        self._graphs[signature] = None

    def _has_room(self) -> bool:
        has_room = sum(graph is not None for graph in self._graphs.values()) < MAX_GRAPHS
        if not (has_room or self._is_full):
            logger.info("more than %d input signatures repeat; calls with further ones run without graphs", MAX_GRAPHS)
        self._is_full = not has_room
        return has_room

    def _capture(
        self, function: Callable[..., Outputs], tensors: tuple[Tensor, ...], needs_grad: list[bool]
    ) -> "CapturedGraph":
        pool = next((graph.pool for graph in self._graphs.values() if graph is not None), None)
        if not any(needs_grad):
            return CapturedGraph(function, tensors, [], needs_grad, pool)
        for parameter, wanted in zip(self._parameters, needs_grad[len(tensors) :], strict=True):
            if wanted and parameter not in self._gradients:
                self._gradients[parameter] = torch.empty_like(parameter)
        buffers = [self._gradients.get(parameter) for parameter in self._parameters]
        with self._substituted_parameters() as parameters:
            return CapturedGraph(function, tensors, parameters, needs_grad, pool, buffers)

    @contextmanager
    def _substituted_parameters(self) -> Iterator[list[nn.Parameter]]:
        """Replace the module's parameters by others in the same memory, so that a capture triggers no hooks of DDP."""
        twins = {p: nn.Parameter(p.detach(), p.requires_grad) for p in self._parameters}
        own = [(slot, name, slot[name]) for slot, name in self._slots if slot[name] in twins]
        try:
            for slot, name, parameter in own:
                slot[name] = twins[parameter]
            yield list(twins.values())
        finally:
            for slot, name, parameter in own:
                slot[name] = parameter


class ForwardPass:
    """Token of a forward pass: alive while its backward pass may still follow."""


class CapturedGraph:
    """CUDA graphs of a function for one input signature, and of its backward pass.

    Args:
        function: Function to capture.
        tensors: Its inputs.
        parameters: Parameters that it uses.
        needs_grad: Which of the inputs and parameters, in this order, need gradients.
        pool: Memory pool shared with other graphs; None for a new one.
        buffers: Where to write the gradient of each parameter.
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        tensors: tuple[Tensor, ...],
        parameters: list[nn.Parameter],
        needs_grad: list[bool],
        pool: tuple[int, int] | None,
        buffers: Sequence[Tensor | None] = (),
    ):
        self._inputs = [x.detach().clone().requires_grad_(own) for x, own in zip(tensors, needs_grad)]
        self._needs_grad = needs_grad
        # Gradients of parameters have the same sizes for every signature, so all graphs write to the same buffers.
        self._buffers = [x for x, own in zip(buffers, needs_grad[len(tensors) :]) if own]
        self._targets = [x for x, own in zip((*self._inputs, *parameters), needs_grad) if own]
        device = tensors[0].device
        # The casts of weights must be part of the graph, so that each replay repeats them: no autocast cache.
        dtype, lowered = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
        with torch.cuda.device_of(tensors[0]), torch.autocast(device.type, dtype, lowered, cache_enabled=False):
            self._warm_up(function)
            self._forward = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._forward, pool=pool, capture_error_mode="thread_local"):
                output = function(*self._inputs)
            self._is_single = isinstance(output, Tensor)
            self._outputs = (output,) if self._is_single else output
            self.pool = self._forward.pool()
            if self._targets:
                self._capture_backward()

    def _warm_up(self, function: Callable[..., Outputs]) -> None:
        """Compile kernels that have not run yet, which is not allowed during a capture."""
        output = function(*self._inputs)
        if self._targets:
            outputs = (output,) if isinstance(output, Tensor) else output
            torch.autograd.grad(outputs, self._targets, [*map(torch.zeros_like, outputs)], allow_unused=True)

    def _capture_backward(self) -> None:
        self._cotangents = [*map(torch.ones_like, self._outputs)]
        inputs = len(self._targets) - len(self._buffers)
        self._backward = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._backward, pool=self.pool, capture_error_mode="thread_local"):
            gradients = torch.autograd.grad(self._outputs, self._targets, self._cotangents, allow_unused=True)
            found = [(b, g) for b, g in zip(self._buffers, gradients[inputs:], strict=True) if g is not None]
            if found:
                torch._foreach_copy_(*map(list, zip(*found)))
        parameters = [None if g is None else b for b, g in zip(self._buffers, gradients[inputs:])]
        self._gradients = [*gradients[:inputs], *parameters]
        self._outputs = tuple(x.detach() for x in self._outputs)  # releases the autograd graph of the capture

    def replay(self, tensors: tuple[Tensor, ...]) -> Outputs:
        """Compute the function by replaying its graph; the results are copies."""
        torch._foreach_copy_([x.detach() for x in self._inputs], [x.detach() for x in tensors])
        self._forward.replay()
        outputs = tuple(x.detach().clone() for x in self._outputs)
        return outputs[0] if self._is_single else outputs

    def replay_backward(self, cotangents: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of all inputs and parameters; None for those that need none or do not contribute."""
        torch._foreach_copy_(self._cotangents, list(cotangents))
        self._backward.replay()
        own = iter(torch._foreach_mul([g for g in self._gradients if g is not None], 1))  # copies, in few launches
        found = iter([g if g is None else next(own) for g in self._gradients])
        return [next(found) if x else None for x in self._needs_grad]


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, graph, graph_cache, num_inputs, *tensors):
        ctx.graph, ctx.graph_cache, ctx.forward_pass = graph, graph_cache, graph_cache.begin()
        return graph.replay(tensors[:num_inputs])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *cotangents):
        ctx.graph_cache.end(ctx.forward_pass)
        return None, None, None, *ctx.graph.replay_backward(cotangents)


class AsyncCount:
    """The number of true entries of a mask, copied to the host asynchronously.

    Created early and read late, it does not make the host wait for the device.
    """

    def __init__(self, mask: Bool[Tensor, "*any"]):
        self._capacity = mask.numel()
        self._copied: torch.cuda.Event | None = None
        self._count = mask.sum()
        if mask.is_cuda and not torch.cuda.is_current_stream_capturing():
            self._count = torch.empty((), dtype=torch.int64, pin_memory=True).copy_(self._count, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> int:
        """The count; during the capture of a CUDA graph, which cannot depend on it, the size of the mask."""
        if self._copied is None:
            return self._capacity if self._count.is_cuda else int(self._count)
        self._copied.synchronize()
        return int(self._count)
