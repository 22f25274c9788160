"""CUDA graphs: which calls replay them, which gradients they give, and that results are never stale.

There is no CUDA device here: the graphs are fakes whose replay does nothing, so outputs and gradients keep the values
of the capture.
"""

import contextlib
import copy
import gc
import logging

import pytest
import torch
from torch import nn

from core.model.graph import edge_capacity
from core.runtime import cuda_graphs
from core.runtime.cuda_graphs import CudaGraphCache


class FakeGraph:
    def pool(self):
        return (0, 0)

    def replay(self):
        pass


class Sums(nn.Module):
    """A network with a shared, a frozen and an unused parameter, whose second input is an integer index."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(2))

    def run(self, x, table):
        return (self.second(self.first(x).sin()) * self.frozen)[table]


@pytest.fixture
def replayed(monkeypatch):
    """List of the graphs that are replayed; CUDA graphs are replaced by fakes."""
    calls = []
    replay = cuda_graphs.CapturedGraph.replay
    monkeypatch.setattr(
        cuda_graphs.CapturedGraph, "replay", lambda self, tensors: calls.append(self) or replay(self, tensors)
    )
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())
    return calls


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Sums()


@pytest.fixture
def inputs():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    return x, torch.tensor([2, 0, 2])


def test_third_call_replays_the_result_of_the_first(module, inputs, replayed):
    graph_cache, parameters = CudaGraphCache(), list(module.parameters())

    def step():
        out = graph_cache(module, module.run, *inputs)
        return out, *torch.autograd.grad(out.sum(), [inputs[0], *module.first.parameters(), module.second.bias])

    first, second, third = step(), step(), step()
    assert len(replayed) == 2  # the call that captures also replays
    assert all(torch.equal(a, b) for a, b in zip(first, third, strict=True))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(second, third, strict=True))  # copies
    assert list(map(id, module.parameters())) == list(map(id, parameters))


def test_gradients_accumulate_in_trained_parameters_only(module, inputs, replayed):
    graph_cache, twin = CudaGraphCache(), copy.deepcopy(module)
    graph_cache(module, module.run, *inputs)
    for _ in range(3):  # the first fills `grad`, the others add to it
        graph_cache(module, module.run, *inputs).sum().backward()
        twin.run(*inputs).sum().backward()
    assert len(replayed) == 3
    assert module.unused.grad is None and module.frozen.grad is None
    torch.testing.assert_close(module.first.weight.grad, twin.first.weight.grad)
    torch.testing.assert_close(module.second.bias.grad, twin.second.bias.grad)


def test_only_one_forward_pass_is_pending(module, inputs, replayed):
    graph_cache = CudaGraphCache()
    for _ in range(2):
        pending = graph_cache(module, module.run, *inputs)
    other = graph_cache(module, module.run, *inputs)  # runs as usual: the graph holds activations of `pending`
    with torch.no_grad():
        graph_cache(module, module.run, *inputs)
        graph_cache(module, module.run, *inputs)
    assert len(replayed) == 1
    (pending + other).sum().backward()
    graph_cache(module, module.run, *inputs)  # not referenced: no longer pending
    gc.collect()
    graph_cache(module, module.run, *inputs)
    assert len(replayed) == 3


def test_backward_twice_is_an_error(module, inputs, replayed):
    graph_cache = CudaGraphCache()
    for _ in range(2):
        out = graph_cache(module, module.run, *inputs).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        out.backward()


def test_results_belong_to_the_caller(module, inputs, replayed):
    graph_cache = CudaGraphCache()
    with torch.no_grad():
        first, second, third = (graph_cache(module, module.run, *inputs) for _ in range(3))
    second.zero_()
    assert torch.equal(first, third)


@pytest.mark.parametrize("change", ["shape", "dtype", "frozen", "no_grad", "training", "autocast"])
def test_another_signature_is_not_replayed(module, inputs, replayed, change):
    graph_cache, (x, table) = CudaGraphCache(), inputs
    for _ in range(2):
        graph_cache(module, module.run, x, table).sum().backward()
    assert len(replayed) == 1
    context = contextlib.nullcontext()
    if change == "shape":
        table = table[:2]
    elif change == "dtype":
        table = table.int()
    elif change == "frozen":
        module.first.bias.requires_grad_(False)
    elif change == "no_grad":
        context = torch.no_grad()
    elif change == "training":
        module.eval()
    else:
        context = torch.autocast("cpu", torch.bfloat16)
    with context:
        graph_cache(module, module.run, x, table)
    assert len(replayed) == 1


def test_moved_parameters_release_all_graphs(module, inputs, replayed):
    graph_cache = CudaGraphCache()
    for _ in range(2):
        graph_cache(module, module.run, *inputs).sum().backward()
    module.first.weight.data = module.first.weight.data + 1
    actual = graph_cache(module, module.run, *inputs)
    assert len(replayed) == 1
    assert torch.equal(actual, module.run(*inputs))


def test_number_of_graphs_is_limited(module, inputs, replayed):
    graph_cache = CudaGraphCache()
    for size in range(1, cuda_graphs.MAX_GRAPHS + 3):
        for _ in range(2):
            graph_cache(module, module.run, inputs[0], inputs[1].repeat(size)).sum().backward()
    assert len(replayed) == cuda_graphs.MAX_GRAPHS


def test_signatures_that_occur_once_do_not_count(module, inputs, replayed):
    graph_cache, (x, table) = CudaGraphCache(), inputs
    for size in range(1, 3 * cuda_graphs.MAX_GRAPHS):
        graph_cache(module, module.run, x, table.repeat(size))
    assert len(graph_cache._graphs) <= cuda_graphs.MAX_GRAPHS
    for _ in range(2):
        graph_cache(module, module.run, x, table[:2]).sum().backward()
    assert len(replayed) == 1


def test_signatures_beyond_the_limit_are_logged_once(module, inputs, replayed, caplog):
    graph_cache, (x, table) = CudaGraphCache(), inputs
    with torch.no_grad(), caplog.at_level(logging.INFO):
        for size in range(1, cuda_graphs.MAX_GRAPHS + 4):
            for _ in range(3):
                graph_cache(module, module.run, x, table.repeat(size))
    assert [record.getMessage() for record in caplog.records] == [
        f"more than {cuda_graphs.MAX_GRAPHS} input signatures repeat; calls with further ones run without graphs"
    ]


def test_graphs_of_inference_mode_are_replayed_in_that_mode_only(module, inputs, replayed):
    graph_cache = CudaGraphCache()
    for context in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with context():
            for _ in range(3):
                out = graph_cache(module, module.run, *inputs)
        assert torch.equal(out, module.run(*inputs))
    assert len(replayed) == 5  # with gradients, only one pass is pending
    out.sum().backward()


def test_tuples_of_results_belong_to_the_caller(module, inputs, replayed):
    graph_cache = CudaGraphCache()
    with torch.no_grad():
        first, second, third = (graph_cache(module, lambda x: (x.sin(), x.cos()), inputs[0]) for _ in range(3))
    assert len(replayed) == 2
    for a, b, c in zip(first, second, third, strict=True):
        b.zero_()
        assert torch.equal(a, c)


def test_tuples_of_results_have_gradients(module, inputs, replayed):
    graph_cache, x = CudaGraphCache(), inputs[0]

    def run(x):
        y = module.first(x)
        return y.sin(), y.cos(), 2 * x

    def gradients(results):
        return torch.autograd.grad(3 * results[0].sum() + results[1].sum(), [x, *module.first.parameters()])

    for _ in range(2):  # captured with cotangents of one; at replay they are copied, zeros for unused results
        results = graph_cache(module, run, x)
        actual = gradients(results)
    assert len(replayed) == 1 and all(torch.equal(a, b) for a, b in zip(results, run(x), strict=True))
    graph = next(filter(None, graph_cache._graphs.values()))
    assert [c.unique().tolist() for c in graph._cotangents] == [[3.0], [1.0], [0.0]]
    assert len(actual) == 3


def test_graphs_share_buffers_for_parameter_gradients(module, inputs, replayed):
    graph_cache, (x, table) = CudaGraphCache(), inputs
    for size in (1, 2):
        for _ in range(2):
            graph_cache(module, module.run, x, table.repeat(size)).sum().backward()
    first, second = filter(None, graph_cache._graphs.values())
    weights = zip(first._gradients[1:], second._gradients[1:], strict=True)
    assert all(a is b for a, b in weights) and first._gradients[0] is not second._gradients[0]


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class WithGraphs(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module, self.graph_cache = module, CudaGraphCache()

    def forward(self, *inputs):
        return self.graph_cache(self, self.module.run, *inputs)


def test_data_parallel_training_accumulates_and_exchanges_gradients_of_graphs(module, inputs, replayed, process_group):
    module.unused.requires_grad_(False)
    twin, exchanges = copy.deepcopy(module), []
    parallel = nn.parallel.DistributedDataParallel(WithGraphs(module), gradient_as_bucket_view=True)

    def exchange(state, bucket):
        exchanges.append(bucket.index())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    parallel.register_comm_hook(None, exchange)
    for step in range(4):
        for network in (module, twin):
            network.zero_grad()
        with parallel.no_sync():
            parallel(*inputs).sum().backward()
        assert len(exchanges) == step
        parallel(*inputs).sum().backward()
        assert len(exchanges) == step + 1
        for _ in range(2):
            twin.run(*inputs).sum().backward()
        for name, parameter in twin.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(module.get_parameter(name).grad, parameter.grad)
    assert len(replayed) == 7  # all calls except the first


def test_lack_of_memory_disables_graphs(module, inputs, monkeypatch, caplog):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(cuda_graphs, "CapturedGraph", fail)
    graph_cache = CudaGraphCache()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            out = graph_cache(module, module.run, *inputs)
    assert torch.equal(out, module.run(*inputs)) and not graph_cache.enabled
    assert "not enough GPU memory" in caplog.text


def test_copies_of_a_network_have_graphs_of_their_own(module, inputs, replayed):
    module.graph_cache = CudaGraphCache()
    for _ in range(2):
        module.graph_cache(module, module.run, *inputs).sum().backward()
    twin = copy.deepcopy(module)
    assert twin.graph_cache is not module.graph_cache and twin.graph_cache._graphs == {}


def test_edge_capacities_take_few_sizes():
    sizes = {edge_capacity(n) for n in range(100_000)}
    assert all(n <= edge_capacity(n) <= max(n + 4096, 1.5 * n) for n in range(1, 100_000))
    assert len(sizes) < 12 and edge_capacity(0) > 0
