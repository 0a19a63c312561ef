"""Checkpoints as people save them, and files that are none."""

from __future__ import annotations

import argparse
import copy
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from tests.advice.examples import Sentences, ask, build_net, inspect, mlp, normed, pictures, words
from threeregime.advice.checkpoints import load_weights, read_weights
from threeregime.advice.model import PrunableNet
from threeregime.errors import ThreeRegimeError

State = dict[str, Tensor]


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def adam_state(net: nn.Module) -> Any:
    optimizer = torch.optim.Adam(net.parameters())
    net(pictures()[0]).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "Lightning": lambda s: {
        "epoch": 3,
        "state_dict": {**prefixed("model.", s), "criterion.weight": torch.ones(4)},
        "optimizer_states": [{"state": {0: {"exp_avg": s["0.weight"]}}}],
        "hyper_parameters": {"lr": 0.1},
    },
    "Lightning, compiled": lambda s: {"state_dict": prefixed("net._orig_mod.", s)},
    "timm": lambda s: {
        "arch": "n",
        "state_dict": s,
        "state_dict_ema": {n: 0 * t for n, t in s.items()},
        "args": argparse.Namespace(lr=0.1),
    },
    "net": lambda s: {"net": s, "acc": 93.1, "epoch": 2},
    "weights": lambda s: {"weights": s},
    "ema": lambda s: {"ema": prefixed("module.", s), "updates": 3},
    "another key": lambda s: {"generator_weights": {"inner": s}},
    "SWA": lambda s: {"n_averaged": torch.tensor(3), **prefixed("module.", s)},
    "thop": lambda s: {**s, "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
    "compiled, parallel": lambda s: prefixed("module._orig_mod.", s),
    "parallel, compiled": lambda s: prefixed("_orig_mod.module.", s),
    "half": lambda s: {n: t.half() if t.is_floating_point() else t for n, t in s.items()},
    "parameters": lambda s: OrderedDict((n, nn.Parameter(t, False)) for n, t in s.items()),
    "sparse": lambda s: {**s, "6.weight": s["6.weight"].to_sparse()},
    "masks": lambda s: {
        **{n: t for n, t in s.items() if n != "3.weight"},
        "3.weight_orig": s["3.weight"],
        "3.weight_mask": torch.ones_like(s["3.weight"]),
    },
    "without counters": lambda s: {n: t for n, t in s.items() if "tracked" not in n},
    "optimizer alongside": lambda s: {"optimizer": adam_state(normed()), "model": s, "best": 0.9},
    "objects": lambda s: {
        "model": s,
        "path": Path("here"),
        "score": np.float64(0.5),
        "config": argparse.Namespace(layers=argparse.Namespace(width=3)),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_as_they_are_saved(form: str, tmp_path: Path) -> None:
    model = build_net(normed)
    state = build_net(normed, seed=1).state_dict()
    net = inspect(model, pictures())
    given = FORMS[form](state)
    torch.save(given, tmp_path / "a.pt")
    for weights in (given, read_weights(tmp_path / "a.pt")):
        got = load_weights(net, weights, "a")
        for name, tensor in state.items():
            if "tracked" not in name:
                assert torch.allclose(got[f"net.{name}"], tensor, atol=1e-3), name


def test_a_whole_net_is_read_without_its_code(tmp_path: Path) -> None:
    state = build_net(normed, seed=1).state_dict()
    other = build_net(normed, seed=1)
    net = inspect(build_net(normed), pictures())
    for given in (other, {"model": other, "epoch": 3}):
        torch.save(given, tmp_path / "a.pt")
        got = load_weights(net, read_weights(tmp_path / "a.pt"), "a")
        assert torch.equal(got["net.0.weight"], state["0.weight"])
    assert torch.equal(load_weights(net, other, "a")["net.3.bias"], state["3.bias"])


def refusal(net: PrunableNet, path: Path) -> str:
    """Return the error of a load, or an empty text."""
    try:
        load_weights(net, read_weights(path), "a")
    except ThreeRegimeError as error:
        return str(error)
    return ""


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Evaluated:
    def __reduce__(self) -> Any:
        return eval, ("1 / 0",)


def test_no_code_of_a_file_runs_and_no_advice_to_run_it(tmp_path: Path) -> None:
    net = inspect(build_net(mlp), pictures())
    for number, harmful in enumerate((Harmful(tmp_path / "written"), Evaluated())):
        for zipped in (True, False):
            path = tmp_path / f"{number}{zipped}.pt"
            torch.save(
                {"model": mlp().state_dict(), "x": harmful},
                path,
                _use_new_zipfile_serialization=zipped,
            )
            message = refusal(net, path)
            assert len(message.splitlines()) <= 1
            assert "weights_only" not in message
            assert "will likely succeed" not in message
    assert not (tmp_path / "written").exists()


def test_tied_weights_need_one_name(tmp_path: Path) -> None:
    model = build_net(lambda: Sentences(tied=True))
    net = inspect(model, words(places=True))
    state = model.state_dict()
    path = tmp_path / "a.safetensors"
    save_file({n: t.clone() for n, t in state.items() if n != "head.weight"}, path)
    got = load_weights(net, read_weights(path), "a")
    assert torch.equal(got["net.words.weight"], state["words.weight"])
    path.rename(tmp_path / "a.bin")  # known by its content
    assert set(read_weights(tmp_path / "a.bin")) == set(state) - {"head.weight"}


def norm(net: nn.Module, old: bool) -> nn.Module:
    wrap: Any = nn.utils.weight_norm if old else parametrizations.weight_norm
    wrap(net[1])  # type: ignore[index]
    return net


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("old", [True, False])
def test_weight_norm_in_the_file_the_net_or_both(old: bool) -> None:
    normal = build_net(mlp, seed=1)
    expected = normal.state_dict()
    computed = norm(copy.deepcopy(normal), old)
    for build in (mlp, lambda: norm(mlp(), old), lambda: norm(mlp(), not old)):
        net = inspect(build_net(build), pictures())
        for state in (expected, computed.state_dict()):
            got = load_weights(net, state, "a")
            assert torch.allclose(got["net.1.weight"], expected["1.weight"], atol=1e-6)


def test_masks_in_the_net_and_in_the_file() -> None:
    model = build_net(mlp)
    prune.l1_unstructured(model[1], "weight", 0.5)  # type: ignore[index]
    net = inspect(model, pictures())
    got = load_weights(net, model.state_dict(), "a")["net.1.weight"]
    assert torch.equal(got, model[1].weight)  # type: ignore[index]
    assert (got == 0).float().mean() == 0.5


def test_spectral_norm_is_computed_from_the_net() -> None:
    model = build_net(mlp)
    parametrizations.spectral_norm(model[1])  # type: ignore[index]
    model.eval()
    got = load_weights(inspect(model, pictures()), model.state_dict(), "a")
    assert torch.allclose(got["net.1.weight"], model[1].weight)  # type: ignore[index]


def test_the_users_class_may_wrap_the_net_that_was_saved() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.backbone(x)

    state = build_net(mlp, seed=1).state_dict()
    got = load_weights(inspect(build_net(Wrapper), pictures()), state, "a")
    assert torch.equal(got["net.backbone.1.weight"], state["1.weight"])


def test_an_averaged_net_is_loaded_as_another() -> None:
    averaged = AveragedModel(build_net(mlp, seed=1))
    answer = ask(averaged, pictures(), checkpoints={"swa": averaged.state_dict()})
    assert answer.chosen == "swa"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if n != "1.bias"}, "it lacks 1.bias"),
        (lambda s: {**s, "fc.weight": s["1.bias"]}, "fc.weight is not in the net"),
        (lambda s: {**s, "1.bias": torch.zeros(3)}, "1.bias is [3], in the net [24]"),
        (lambda s: {**s, "1.bias": 3}, "1.bias is no tensor"),
        (lambda s: [1], "x holds no weights by name"),
        (lambda s: {"lr": 1, "epoch": 2}, "x holds no weights by name among lr, epoch"),
        (lambda s: {}, "x holds no weights by name"),
        (lambda s: {n: t * torch.nan for n, t in s.items()}, "x has diverged"),
        (lambda s: {n: t.to("meta") for n, t in s.items()}, "has no values for 1.weight"),
        (
            lambda s: {**s, "1._packed_params._packed_params": torch.zeros(1)},
            "it is of a quantised net",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit(change: Callable[[Any], Any], message: str) -> None:
    model = build_net(mlp)
    with pytest.raises(ThreeRegimeError, match=re.escape(message)) as caught:
        ask(model, pictures(), checkpoints={"x": change(model.state_dict())})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "is a web page, not the weights"),
        (b"", "is empty: save or download it again"),
        (json.dumps({"a": 1}).encode(), "is JSON, not the weights"),
        (b"\x89HDF\r\n\x1a\n", "is HDF5, as Keras saves weights"),
        (b"import torch", "is no file of weights, or is cut short"),
        (b"PK\x03\x04 cut short", "is no file of weights, or is cut short"),
    ],
)
def test_files_that_hold_no_weights(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(ThreeRegimeError, match=re.escape(message)) as caught:
        read_weights(path)
    assert len(str(caught.value).splitlines()) == 1
    assert "weights_only" not in str(caught.value)


def test_missing_files_folders_and_other_objects(tmp_path: Path) -> None:
    with pytest.raises(ThreeRegimeError, match="is missing: name a file of weights"):
        read_weights(tmp_path / "no.pt")
    with pytest.raises(ThreeRegimeError, match="is a folder: name a file in it"):
        read_weights(tmp_path)
    torch.save([1, 2], tmp_path / "a.pt")
    with pytest.raises(ThreeRegimeError, match="holds a list, no weights by name"):
        read_weights(tmp_path / "a.pt")
