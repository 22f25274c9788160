"""CUDA graphs of a network, forward and backward: hundreds of small kernels cost the host more time than the device."""

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from smpl_renderer.dispatch import kernels_take

logger = logging.getLogger(__name__)

MAX_RECORDINGS = 48
"""Kinds of input for which there is a recording: 1 to 8 frames of 1 to 4 views, and then some. All others run as usual,
and as many of them are remembered."""

Outputs = Tensor | tuple[Tensor, ...]
"""Of a function."""


class CudaGraphCache:
    """Runs a module's function of tensors, and plays its launches from a recording once a kind of input comes again.

    A kind is what the launches depend on: shapes, dtypes, whether gradients are wanted, of which parameters, and
    autocast's state. The first call of a kind runs as usual, the second records, which takes some of a step's time
    twice over. A recording reads parameters and buffers where they are: changes in place take effect, and those that
    move them let all recordings go. Results and gradients belong to the caller.

    Recordings share one pool of memory, in which all lives that a forward pass keeps for its backward pass, and one
    buffer for each parameter's gradient; nobody else can use it meanwhile. There is room for one pass: a second one,
    before the first is done with, runs as usual, and so does what another CUDA graph captures.

    The function must launch the same kernels at every call: no random numbers, no look at the contents of a tensor.
    Hooks of modules within do not run.

    Attributes:
        enabled: Whether to record at all.
    """

    def __init__(self):
        self.enabled = True
        self.clear()

    def __deepcopy__(self, memo: dict) -> "Recorder":
        twin = type(self)()
        twin.enabled = self.enabled
        return twin

    def __reduce__(self) -> tuple:
        return type(self), ()

    def clear(self) -> None:
        """Let all recordings go."""
        self._places: list[tuple[dict, str]] = []  # of parameters and buffers
        self._state: list[int] = []
        self._parameters: list[nn.Parameter] = []
        self._gradients: dict[nn.Parameter, Tensor] = {}  # where backward passes leave those of parameters
        self._seen: dict[tuple, CapturedGraph | None] = {}
        self._pass: weakref.ref[ForwardPass] | None = None
        self._is_full = False

    def can_capture(self, x: Tensor) -> bool:
        """Whether a call with x may be recorded: kernels on a CUDA device, and no other recording under way."""
        return self.enabled and kernels_take(x) and not torch.cuda.is_current_stream_capturing()

    def __call__(self, module: nn.Module, function: Callable[..., Outputs], *tensors: Tensor) -> Outputs:
        """`function(*tensors)`, which uses parameters and buffers of the module."""
        self._follow(module)
        parameters = self._parameters
        wanted = [x.requires_grad and torch.is_grad_enabled() for x in (*tensors, *parameters)]
        device = tensors[0].device.type
        kind = (
            *((x.shape, x.dtype) for x in tensors),
            tuple(wanted),
            module.training,
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            torch.is_inference_mode_enabled(),
        )
        if kind not in self._seen:
            self._remember(kind)  # what never comes again is not worth a recording
            return function(*tensors)
        if self._pass is not None and self._pass() is not None:
            return function(*tensors)
        if self._seen[kind] is None and self._has_room():
            try:
                self._seen[kind] = self._record(function, tensors, wanted)
            except torch.OutOfMemoryError:
                logger.warning("no memory is left to record a network's launches; going on without, which is slower")
                self.enabled = False
                self.clear()
        recording = self._seen.get(kind)
        if recording is None:
            return function(*tensors)
        if not any(wanted):
            return recording.replay(tensors)
        return _Replay.apply(recording, self, len(tensors), *tensors, *parameters)

    def begin(self) -> "Pass":
        own = ForwardPass()
        self._pass = weakref.ref(own)
        return own

    def end(self, own: "Pass") -> None:
        if self._pass is None or self._pass() is not own:
            raise RuntimeError(
                "a recorded network goes backward once for each time it went forward; "
                "for more, set the recorder's `enabled` to False"
            )
        self._pass = None

    def _follow(self, module: nn.Module) -> None:
        """Let recordings go if any tensor of the module has moved."""
        if not self._places:  # kept: to walk through modules takes long
            for own in module.modules():
                self._places += [(own._parameters, name) for name, x in own._parameters.items() if x is not None]
                self._places += [(own._buffers, name) for name, x in own._buffers.items() if x is not None]
        tensors = [place[name] for place, name in self._places]
        state = [*map(id, tensors), *(x.data_ptr() for x in tensors)]
        if state != self._state:
            places = self._places
            self.clear()
            self._places, self._state = places, state
            own = (x for x in tensors if isinstance(x, nn.Parameter))
            self._parameters = list(dict.fromkeys(own))  # shared ones once

    def _remember(self, kind: tuple) -> None:
        waiting = [own for own, recording in self._seen.items() if recording is None]
        if len(waiting) >= MAX_RECORDINGS:
            del self._seen[waiting[0]]
        self._seen[kind] = None

    def _has_room(self) -> bool:
        has_room = sum(recording is not None for recording in self._seen.values()) < MAX_RECORDINGS
        if not (has_room or self._is_full):
            logger.info("more than %d kinds of input come again; the others go without a recording", MAX_RECORDINGS)
        self._is_full = not has_room
        return has_room

    def _record(self, function: Callable[..., Outputs], tensors: tuple[Tensor, ...], wanted: list[bool]) -> "Recording":
        pool = next((r.pool for r in self._seen.values() if r is not None), None)
        if not any(wanted):
            return CapturedGraph(function, tensors, [], wanted, pool)
        for parameter, own in zip(self._parameters, wanted[len(tensors) :], strict=True):
            if own and parameter not in self._gradients:
                self._gradients[parameter] = torch.empty_like(parameter)
        buffers = [self._gradients.get(parameter) for parameter in self._parameters]
        with self._stand_ins() as parameters:
            return CapturedGraph(function, tensors, parameters, wanted, pool, buffers)

    @contextmanager
    def _stand_ins(self) -> Iterator[list[nn.Parameter]]:
        """Other parameters with the same memory: whoever waits for the module's own gradients (DDP) notices nothing."""
        twins = {p: nn.Parameter(p.detach(), p.requires_grad) for p in self._parameters}
        own = [(place, name, place[name]) for place, name in self._places if place[name] in twins]
        try:
            for place, name, parameter in own:
                place[name] = twins[parameter]
            yield list(twins.values())
        finally:
            for place, name, parameter in own:
                place[name] = parameter


class ForwardPass:
    """Forward, until its backward is done or can no longer come."""


class CapturedGraph:
    """The launches of a function for one kind of input, and of its backward pass."""

    def __init__(
        self,
        function: Callable[..., Outputs],
        tensors: tuple[Tensor, ...],
        parameters: list[nn.Parameter],
        wanted: list[bool],
        pool: tuple[int, int] | None,
        buffers: Sequence[Tensor | None] = (),
    ):
        self._inputs = [x.detach().clone().requires_grad_(own) for x, own in zip(tensors, wanted)]
        self._wanted = wanted
        # Gradients of parameters are as large for every kind of input, and wait in the same place.
        self._buffers = [x for x, own in zip(buffers, wanted[len(tensors) :]) if own]
        self._targets = [x for x, own in zip((*self._inputs, *parameters), wanted) if own]
        device = tensors[0].device
        # Autocast must lower the weights within the recording, at each replay anew: nothing from its cache.
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
                self._record_backward()

    def _warm_up(self, function: Callable[..., Outputs]) -> None:
        """Compile what has not run yet, which a capture does not allow."""
        output = function(*self._inputs)
        if self._targets:
            outputs = (output,) if isinstance(output, Tensor) else output
            torch.autograd.grad(outputs, self._targets, [*map(torch.zeros_like, outputs)], allow_unused=True)

    def _record_backward(self) -> None:
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
        self._outputs = tuple(x.detach() for x in self._outputs)  # and with them goes what the backward pass needed

    def replay(self, tensors: tuple[Tensor, ...]) -> Outputs:
        torch._foreach_copy_([x.detach() for x in self._inputs], [x.detach() for x in tensors])
        self._forward.replay()
        outputs = tuple(x.detach().clone() for x in self._outputs)
        return outputs[0] if self._is_single else outputs

    def replay_backward(self, cotangents: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of all inputs and all parameters; None where none is wanted, or there is none."""
        torch._foreach_copy_(self._cotangents, list(cotangents))
        self._backward.replay()
        own = iter(torch._foreach_mul([g for g in self._gradients if g is not None], 1))  # copies, in few launches
        found = iter([g if g is None else next(own) for g in self._gradients])
        return [next(found) if x else None for x in self._wanted]


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, recording, graph_cache, num_inputs, *tensors):
        ctx.recording, ctx.graph_cache, ctx.own = recording, graph_cache, graph_cache.begin()
        return recording.replay(tensors[:num_inputs])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *cotangents):
        ctx.graph_cache.end(ctx.own)
        return None, None, None, *ctx.recording.replay_backward(cotangents)
