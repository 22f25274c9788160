"""A frozen network's copy in bfloat16. Autocast would read its float32 weights and write them again at every call."""

import copy

import torch
from torch import Tensor, nn

from core.runtime.cuda_graphs import CudaGraphCache


class FrozenCopy:
    """Runs a network's `maps` on CUDA with weights that are lowered once, as long as none of them is trained.

    The network itself keeps its float32 weights and its names for them. The copy follows them when they are loaded
    or changed in place; what moves them to another place or trains them must `clear` it or, simply, run the network.
    So must what changes them in place through `p.data`, which no counter shows.

    Attributes:
        recorder: Plays the launches of a kind of input that comes again, if enabled: for small networks, whose
            launches take longer than their work. It is not by default.
    """

    def __init__(self):
        self.graph_cache = CudaGraphCache()
        self.graph_cache.enabled = False
        self.clear()

    def __deepcopy__(self, memo: dict) -> "FrozenCopy":
        twin = type(self)()
        twin.graph_cache = copy.deepcopy(self.graph_cache, memo)
        return twin

    def __reduce__(self) -> tuple:
        return type(self), ()

    def clear(self) -> None:
        self._network: nn.Module | None = None
        self._pairs: list[tuple[dict, str, Tensor]] = []  # where a parameter is, under which name, and its copy
        self._state: list[tuple[int, int]] = []
        self.graph_cache.clear()

    def can_capture(self, network: nn.Module, x: Tensor) -> bool:
        """Whether the copy gives all that a call is to give: bfloat16 is asked for, and no gradients."""
        parameters = self._parameters() if self._pairs else network.parameters()
        if any(p.requires_grad for p in parameters):
            # The fused optimizers do not count their changes: after training, nothing else would tell.
            self.clear()
            return False
        if next(network.parameters()).is_inference():
            return False  # nothing counts the changes of such tensors either
        device = x.device.type
        lowered = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
        return lowered and not (x.requires_grad and torch.is_grad_enabled())

    def __call__(self, network: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        """`network.maps(x)`; the results belong to the caller."""
        # What outlives a call is no tensor of inference mode, which could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            self._follow(network)
            x = x.to(torch.bfloat16)
            if self.graph_cache.can_capture(x):
                return self.graph_cache(self._network, self._maps, x)
            return self._maps(x)

    def _maps(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._network.maps(x, fused=True)

    def _follow(self, network: nn.Module) -> None:
        """Bring the copy up to date; as long as nothing changes that is a look at each parameter's counter."""
        if self._network is None:
            self._make(network)
        parameters = self._parameters()
        state = [(p._version, p.data_ptr()) for p in parameters]
        if state != self._state:
            copies = [lowered for *_, lowered in self._pairs]
            torch._foreach_copy_(copies, parameters)  # in place: recordings stay valid
            self._state = state

    def _parameters(self) -> list[Tensor]:
        """Of the network itself; to walk through its modules would take longer than to launch them."""
        return [place[name] for place, name, _ in self._pairs]

    def _make(self, network: nn.Module) -> None:
        self._network = copy.deepcopy(network).to(memory_format=torch.channels_last).requires_grad_(False)
        for module in self._network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(torch.bfloat16)  # norms stay exact: they are small, and read as float32
        self._pairs = [
            (own._parameters, name, lowered)
            for own, twin in zip(network.modules(), self._network.modules(), strict=True)
            for name, lowered in twin._parameters.items()
            if lowered is not None
        ]
