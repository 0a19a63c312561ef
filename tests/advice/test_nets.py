"""Nets of every kind: advised and left alone, or named in one line."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from tests.advice.examples import (
    CLASSES,
    Pair,
    Rows,
    Sentences,
    ask,
    build_net,
    inspect,
    line,
    mlp,
    normed,
    pictures,
    plain,
    solid,
    words,
)
from threeregime.advice import advisor
from threeregime.errors import ThreeRegimeError


def layers(net: nn.Module) -> Any:
    """Return a sequence of layers."""
    return net


NETS: dict[str, tuple[Callable[[], nn.Module], Pair, int]] = {
    "mlp": (mlp, pictures(), 1),
    "plain": (plain, pictures(), 2),
    "line": (line, pictures(), 1),
    "solid": (solid, pictures(), 1),
    # in_proj, out_proj and two linear layers
    "encoder": (Sentences, words(), 4),
    "tied": (lambda: Sentences(tied=True), words(places=True), 4),
    "lstm": (Rows, pictures(), 2),
}


def test_a_busy_machine_gives_one_thread(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other on busy cores would take minutes for a step."""
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds, percpu: [100.0, 90.0])
    seen: set[int] = set()

    def forward(net: nn.Module, x: Tensor) -> Any:
        seen.add(torch.get_num_threads())
        return net(x)

    ask(mlp(), pictures(), forward=forward)
    assert seen == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", NETS)
def test_every_kind_of_net_is_advised_and_left_alone(name: str) -> None:
    build, data, count = NETS[name]
    model = build_net(build).eval()
    before = copy.deepcopy(model.state_dict())
    random_states = (torch.random.get_rng_state(), random.getstate())
    answer = ask(model, data, epochs=2)
    assert answer.pruned["layers"] == count
    assert answer.regime in ("I", "II-A", "II-B")
    assert len(answer.evidence[advisor.OWN].curve[0]) == 11
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert torch.equal(torch.random.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    # Dropout included, the seed determines everything.
    again = ask(model, data, epochs=2)
    assert again.evidence == answer.evidence
    assert json.loads(answer.to_json())["turn"] == answer.turn


@pytest.mark.exhaustive
@pytest.mark.slow
def test_torchvision_resnet18() -> None:
    from torchvision.models import resnet18

    generator = torch.Generator().manual_seed(0)
    data = (torch.randn((16, 3, 32, 32), generator=generator), torch.arange(16) % CLASSES)
    answer = ask(resnet18(num_classes=CLASSES), data, epochs=1, density=0.05, batch_size=8)
    assert answer.pruned["layers"] == 20  # 17 convolutions and 3 beside the shortcuts
    assert answer.pruned["classifier"] == "fc"
    assert answer.cost.steps == 2 * 2 + 6 * 2


# --- as they come


def wrapped_twice(net: nn.Module) -> nn.Module:
    return nn.DataParallel(cast(nn.Module, torch.compile(net)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch.compile itself
@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        AveragedModel,
        wrapped_twice,
        lambda net: torch.compile(nn.DataParallel(net)),
        lambda net: net.bfloat16(),
        lambda net: net.to(memory_format=torch.channels_last),
        torch.fx.symbolic_trace,
        nn.SyncBatchNorm.convert_sync_batchnorm,
    ],
)
def test_wrapped_nets_are_answered_as_the_net_itself(wrap: Callable[[Any], nn.Module]) -> None:
    net = build_net(normed).eval()
    expected = ask(net, pictures()).evidence[advisor.OWN]
    got = ask(wrap(build_net(normed).eval()), pictures()).evidence[advisor.OWN]
    assert got.lmc == pytest.approx(expected.lmc, abs=0.05)
    assert got.cka == pytest.approx(expected.cka, abs=0.05)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_net_is_not_compiled_again() -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise AssertionError

    net = build_net(mlp)
    net.compile(backend=backend)
    assert ask(net, pictures()).pruned["weights"] == 384


def test_frozen_layers_are_thawed_and_named() -> None:
    net = build_net(normed)
    for parameter in layers(net)[:2].parameters():
        parameter.requires_grad_(False)
    answer = ask(net, pictures())
    assert "0.weight, 0.bias were frozen: thawed" in str(answer).replace("Note: ", "")
    assert not layers(net)[0].weight.requires_grad
    # Layers that stay dense stay frozen.
    kept = inspect(net, pictures(), keep=["0"])
    assert not layers(kept.plain)[0].weight.requires_grad
    assert kept.prunable == ("net.3.weight",)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_call_inside_of_an_evaluation_block(mode: Callable[[], Any]) -> None:
    expected = ask(build_net(normed), pictures())
    with mode():
        # Tensors that are made here cannot be trained on, unless they are copied.
        inputs, labels = pictures()
        answer = ask(build_net(normed), (inputs * 1, labels * 1))
    assert answer.evidence == expected.evidence


class Counting(nn.Module):
    """Has buffers of integers and scalars that its passes change, and a parameter of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.passes: Tensor
        self.seen: Tensor
        self.mean: Tensor
        self.register_buffer("passes", torch.tensor(0))
        self.register_buffer("seen", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("mean", torch.tensor(0.0))
        self.order = nn.Parameter(torch.arange(16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.seen[int(x.sum() * 1000) % 3] += 1  # differs between copies
        self.mean += 0.1 * (x.mean().detach() - self.mean)
        return self.net(x.flatten(1)[:, self.order])


class Leftover(nn.Module):
    """Has a layer that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.old_head = normed(), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Skipping(nn.Module):
    """Skips a layer at random in training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(96, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        if not self.training or torch.rand(()) > 0.5:
            x = x + self.b(x).relu()
        return self.head(x.flatten(1))


class Squeezing(nn.Module):
    """Fails on a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).amax(dim=(2, 3)).squeeze())


@pytest.mark.parametrize("kind", [Counting, Leftover, Skipping, Squeezing])
def test_nets_of_unusual_habits(kind: Callable[[], nn.Module]) -> None:
    answer = ask(build_net(kind), pictures(257))  # 256 and one
    assert len(answer.evidence) == 1
    assert ("old_head.bias, old_head.weight were not used" in str(answer)) == (kind is Leftover)


def weight_normed(old: bool) -> nn.Module:
    net = mlp()
    norm = nn.utils.weight_norm if old else parametrizations.weight_norm
    norm(layers(net)[1])
    return net


def spectral() -> nn.Module:
    net = mlp()
    parametrizations.spectral_norm(layers(net)[1])
    return net


def pruned_before() -> nn.Module:
    net = mlp()
    prune.l1_unstructured(layers(net)[1], "weight", 0.5)
    return net


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize(
    "build", [lambda: weight_normed(True), lambda: weight_normed(False), spectral, pruned_before]
)
def test_computed_weights_are_made_plain(build: Callable[[], nn.Module]) -> None:
    net = build_net(build).eval()
    inputs, _ = pictures()
    expected = net(inputs).detach()
    found = inspect(net, pictures())
    assert torch.allclose(found.module.eval()(inputs), expected, atol=1e-5)
    assert found.prunable == ("net.1.weight",)
    assert any("1.weight was computed" in note for note in found.notes)
    zeros = any("50% of the weights were zero already" in note for note in found.notes)
    assert zeros == (build is pruned_before)
    assert ask(net, pictures()).pruned["weights"] == 384


def test_sparse_weights_are_made_dense() -> None:
    net = build_net(mlp)
    dense = layers(net)[1].weight.detach()
    layers(net)[1].weight = nn.Parameter(dense.to_sparse())
    found = inspect(net, pictures())
    assert torch.equal(layers(found.plain)[1].weight, dense)


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def on_meta() -> nn.Module:
    return mlp().to("meta")


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization")
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (on_meta, "1.weight is on the meta device, without values: load its weights first"),
        (
            lambda: torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}),
            "the net is quantised: give the net of floats",
        ),
        (lambda: torch.jit.script(mlp()), "the net is TorchScript: give the PyTorch net"),
        (lambda: nn.LazyLinear(4), "lazy layers: call it once on a batch"),
        (Two, "the net's outputs are tuple: they must be one tensor [batch, classes]"),
        (lambda: "resnet", "a net of type str is not allowed: a torch.nn.Module"),
        (nn.Flatten, "there is nothing to prune"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), "there is nothing to prune"),
        (lambda: nn.Conv2d(1, 4, 3), "outputs are [8, 4, 2, 2] for labels of shape [8]"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), "the net has one output"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_nets_that_cannot_be_advised(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ThreeRegimeError, match=re.escape(message)) as caught:
        ask(build(), pictures())
    assert len(str(caught.value).splitlines()) == 1


def test_a_child_of_the_name_module_is_no_wrapper() -> None:
    class Flattening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x.flatten(1))

    assert inspect(build_net(Flattening), pictures()).classifier == "module.2"
