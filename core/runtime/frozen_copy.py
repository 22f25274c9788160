"""A copy in bfloat16 of a network that is not trained.

Autocast would read the float32 weights and write them in bfloat16 again at every call.
"""

import copy

import torch
from torch import Tensor, nn

from core.runtime.cuda_graphs import CudaGraphCache


class FrozenCopy:
    """Runs the method `maps` of a network with weights that are cast once, while none of them is trained.

    The network keeps its float32 weights and their names. Loads and changes in place of the weights are detected and
    copied. Call `clear` when the network moves to another device or dtype, and after changes through `p.data`, which no
    version counter shows.

    Attributes:
        graph_cache: CUDA graphs of the copy, disabled by default: they pay off for small networks, whose launches take
            longer than their work.
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
        """Release the copy and its graphs."""
        self._network: nn.Module | None = None
        self._pairs: list[tuple[dict, str, Tensor]] = []  # a module's parameters, a name therein, and the copy
        self._versions: list[tuple[int, int]] = []
        self.graph_cache.clear()

    def can_run(self, network: nn.Module, x: Tensor) -> bool:
        """True if the copy can stand in for the network: autocast to bfloat16 is on, and no gradient is needed."""
        parameters = self._parameters() if self._pairs else network.parameters()
        if any(p.requires_grad for p in parameters):
            # Fused optimizers do not increment version counters, so changes by training would go undetected.
            self.clear()
            return False
        if next(network.parameters()).is_inference():
            return False  # inference tensors have no version counters
        device = x.device.type
        lowered = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
        return lowered and not (x.requires_grad and torch.is_grad_enabled())

    def __call__(self, network: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        """Compute `network.maps(x)` in bfloat16; the caller may keep the results."""
        # The copy outlives this call, so it must not consist of inference tensors.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            self._update(network)
            x = x.to(torch.bfloat16)
            if self.graph_cache.can_capture(x):
                return self.graph_cache(self._network, self._maps, x)
            return self._maps(x)

    def _maps(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._network.maps(x, fused=True)

    def _update(self, network: nn.Module) -> None:
        """Make the copy, or copy weights that have changed; without changes this only compares version counters."""
        if self._network is None:
            self._copy(network)
        parameters = self._parameters()
        versions = [(p._version, p.data_ptr()) for p in parameters]
        if versions != self._versions:
            copies = [lowered for *_, lowered in self._pairs]
            torch._foreach_copy_(copies, parameters)  # in place: captured graphs stay valid
            self._versions = versions

    def _parameters(self) -> list[Tensor]:
        """Current parameters of the network; a walk through its modules would take longer than to launch them."""
        return [slot[name] for slot, name, _ in self._pairs]

    def _copy(self, network: nn.Module) -> None:
        self._network = copy.deepcopy(network).to(memory_format=torch.channels_last).requires_grad_(False)
        for module in self._network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(torch.bfloat16)  # norms stay in float32: they are small, and the kernels read them so
        self._pairs = [
            (own._parameters, name, lowered)
            for own, twin in zip(network.modules(), self._network.modules(), strict=True)
            for name, lowered in twin._parameters.items()
            if lowered is not None
        ]
