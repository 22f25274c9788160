"""Recordings of launches: when there is one, whose gradients it gives, and that it never shows what has passed.

Without a CUDA device, a recording that is played changes nothing: it gives the results of when it was made,
and the gradients of their sum.
"""

import contextlib
import copy
import gc
import logging

import pytest
import torch
from torch import nn

from core.model.edges import edge_capacity
from core.runtime import cuda_graphs as recorded
from core.runtime.cuda_graphs import CudaGraphCache


class FakeGraph:
    def pool(self):
        return (0, 0)

    def replay(self):
        pass


class Sums(nn.Module):
    """A weight that two places share, one that is frozen, one without use; and a table of whole numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(2))

    def run(self, x, table):
        return (self.second(self.first(x).sin()) * self.frozen)[table]


@pytest.fixture
def played(monkeypatch):
    """The recordings that were played; CUDA graphs are replaced by nothing at all."""
    calls = []
    replay = recorded.CapturedGraph.replay
    monkeypatch.setattr(
        recorded.CapturedGraph, "replay", lambda self, tensors: calls.append(self) or replay(self, tensors)
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


def test_third_call_is_played_and_gives_what_the_first_gave(module, inputs, played):
    graph_cache, parameters = CudaGraphCache(), list(module.parameters())

    def step():
        out = graph_cache(module, module.run, *inputs)
        return out, *torch.autograd.grad(out.sum(), [inputs[0], *module.first.parameters(), module.second.bias])

    first, second, third = step(), step(), step()
    assert len(played) == 2  # the one that records gives its result by playing it
    assert all(torch.equal(a, b) for a, b in zip(first, third, strict=True))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(second, third, strict=True))  # no memory of the recording's
    assert list(map(id, module.parameters())) == list(map(id, parameters))


def test_gradients_add_up_in_parameters_and_nowhere_else(module, inputs, played):
    graph_cache, twin = CudaGraphCache(), copy.deepcopy(module)
    graph_cache(module, module.run, *inputs)
    for _ in range(3):  # the first fills `grad`, the others add to it
        graph_cache(module, module.run, *inputs).sum().backward()
        twin.run(*inputs).sum().backward()
    assert len(played) == 3
    assert module.unused.grad is None and module.frozen.grad is None
    torch.testing.assert_close(module.first.weight.grad, twin.first.weight.grad)
    torch.testing.assert_close(module.second.bias.grad, twin.second.bias.grad)


def test_one_pass_at_a_time(module, inputs, played):
    graph_cache = CudaGraphCache()
    for _ in range(2):
        pending = graph_cache(module, module.run, *inputs)
    other = graph_cache(module, module.run, *inputs)  # as usual: what `pending` keeps must stay
    with torch.no_grad():
        graph_cache(module, module.run, *inputs)
        graph_cache(module, module.run, *inputs)
    assert len(played) == 1
    (pending + other).sum().backward()
    graph_cache(module, module.run, *inputs)  # nobody keeps it
    gc.collect()
    graph_cache(module, module.run, *inputs)
    assert len(played) == 3


def test_backward_twice_is_an_error(module, inputs, played):
    graph_cache = CudaGraphCache()
    for _ in range(2):
        out = graph_cache(module, module.run, *inputs).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward once"):
        out.backward()


def test_results_belong_to_the_caller(module, inputs, played):
    graph_cache = CudaGraphCache()
    with torch.no_grad():
        first, second, third = (graph_cache(module, module.run, *inputs) for _ in range(3))
    second.zero_()
    assert torch.equal(first, third)


@pytest.mark.parametrize("change", ["shape", "dtype", "frozen", "no_grad", "training", "autocast"])
def test_another_kind_of_call_is_not_played(module, inputs, played, change):
    graph_cache, (x, table) = CudaGraphCache(), inputs
    for _ in range(2):
        graph_cache(module, module.run, x, table).sum().backward()
    assert len(played) == 1
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
    assert len(played) == 1


def test_parameters_that_move_end_all_recordings(module, inputs, played):
    graph_cache = CudaGraphCache()
    for _ in range(2):
        graph_cache(module, module.run, *inputs).sum().backward()
    module.first.weight.data = module.first.weight.data + 1
    actual = graph_cache(module, module.run, *inputs)
    assert len(played) == 1
    assert torch.equal(actual, module.run(*inputs))


def test_no_more_recordings_than_there_is_room_for(module, inputs, played):
    graph_cache = CudaGraphCache()
    for size in range(1, recorded.MAX_RECORDINGS + 3):
        for _ in range(2):
            graph_cache(module, module.run, inputs[0], inputs[1].repeat(size)).sum().backward()
    assert len(played) == recorded.MAX_RECORDINGS


def test_kinds_that_never_come_again_take_no_room(module, inputs, played):
    graph_cache, (x, table) = CudaGraphCache(), inputs
    for size in range(1, 3 * recorded.MAX_RECORDINGS):
        graph_cache(module, module.run, x, table.repeat(size))
    assert len(graph_cache._seen) <= recorded.MAX_RECORDINGS
    for _ in range(2):
        graph_cache(module, module.run, x, table[:2]).sum().backward()
    assert len(played) == 1


def test_kinds_without_room_are_mentioned_once(module, inputs, played, caplog):
    graph_cache, (x, table) = CudaGraphCache(), inputs
    with torch.no_grad(), caplog.at_level(logging.INFO):
        for size in range(1, recorded.MAX_RECORDINGS + 4):
            for _ in range(3):
                graph_cache(module, module.run, x, table.repeat(size))
    assert [record.getMessage() for record in caplog.records] == [
        f"more than {recorded.MAX_RECORDINGS} kinds of input come again; the others go without a recording"
    ]


def test_recordings_of_inference_mode_serve_nobody_else(module, inputs, played):
    graph_cache = CudaGraphCache()
    for context in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with context():
            for _ in range(3):
                out = graph_cache(module, module.run, *inputs)
        assert torch.equal(out, module.run(*inputs))
    assert len(played) == 5  # with gradients, one pass at a time
    out.sum().backward()


def test_several_results_belong_to_the_caller(module, inputs, played):
    graph_cache = CudaGraphCache()
    with torch.no_grad():
        first, second, third = (graph_cache(module, lambda x: (x.sin(), x.cos()), inputs[0]) for _ in range(3))
    assert len(played) == 2
    for a, b, c in zip(first, second, third, strict=True):
        b.zero_()
        assert torch.equal(a, c)


def test_several_results_have_gradients(module, inputs, played):
    graph_cache, x = CudaGraphCache(), inputs[0]

    def run(x):
        y = module.first(x)
        return y.sin(), y.cos(), 2 * x

    def gradients(results):
        return torch.autograd.grad(3 * results[0].sum() + results[1].sum(), [x, *module.first.parameters()])

    for _ in range(2):  # the cotangents of a recording are ones until they are copied, and zeros for what is unused
        results = graph_cache(module, run, x)
        actual = gradients(results)
    assert len(played) == 1 and all(torch.equal(a, b) for a, b in zip(results, run(x), strict=True))
    recording = next(filter(None, graph_cache._seen.values()))
    assert [c.unique().tolist() for c in recording._cotangents] == [[3.0], [1.0], [0.0]]
    assert len(actual) == 3


def test_gradients_of_all_kinds_of_input_wait_in_one_place(module, inputs, played):
    graph_cache, (x, table) = CudaGraphCache(), inputs
    for size in (1, 2):
        for _ in range(2):
            graph_cache(module, module.run, x, table.repeat(size)).sum().backward()
    first, second = filter(None, graph_cache._seen.values())
    weights = zip(first._gradients[1:], second._gradients[1:], strict=True)
    assert all(a is b for a, b in weights) and first._gradients[0] is not second._gradients[0]


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Recorded(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module, self.graph_cache = module, CudaGraphCache()

    def forward(self, *inputs):
        return self.graph_cache(self, self.module.run, *inputs)


def test_data_parallel_training_sums_up_and_exchanges_recorded_gradients(module, inputs, played, process_group):
    module.unused.requires_grad_(False)
    twin, exchanges = copy.deepcopy(module), []
    parallel = nn.parallel.DistributedDataParallel(Recorded(module), gradient_as_bucket_view=True)

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
    assert len(played) == 7  # all but the first


def test_without_memory_it_goes_on_without_recordings(module, inputs, monkeypatch, caplog):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(recorded, "CapturedGraph", fail)
    graph_cache = CudaGraphCache()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            out = graph_cache(module, module.run, *inputs)
    assert torch.equal(out, module.run(*inputs)) and not graph_cache.enabled
    assert "no memory is left" in caplog.text


def test_copies_of_a_network_record_for_themselves(module, inputs, played):
    module.graph_cache = CudaGraphCache()
    for _ in range(2):
        module.graph_cache(module, module.run, *inputs).sum().backward()
    twin = copy.deepcopy(module)
    assert twin.graph_cache is not module.graph_cache and twin.graph_cache._seen == {}


def test_room_for_edges_comes_in_few_sizes():
    sizes = {edge_capacity(n) for n in range(100_000)}
    assert all(n <= edge_capacity(n) <= max(n + 4096, 1.5 * n) for n in range(1, 100_000))
    assert len(sizes) < 12 and edge_capacity(0) > 0
