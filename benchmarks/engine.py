"""Speed of a training step on this device: ``python -m benchmarks.engine``.

At the scales digits and mini: the ways to train many small nets on one core, one thread each, in
one run: plain PyTorch one net at a time, ``torch.func.vmap``, the backend ``grouped``, JAX where it
is installed, and the backend ``planned`` with dense nets and pruned ones. Milliseconds of processor
time per net-step (one net, one batch) are printed, with the floating-point operations per second
and their share of the peak of this core, measured in the same run. The last line is ``ratio``,
planned dense nets over plain PyTorch. At the scale paper: see :mod:`benchmarks.paper_size`.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks import paper_size, small_nets
from benchmarks.processes import Step, record
from threeregime.data import Dataset, load_images
from threeregime.fleet import Engine, Fleet, compute_settings, device_name
from threeregime.kernels import compile_library, find_compiler
from threeregime.kernels import record as record_ops
from threeregime.kernels.recorder import CONV, LINEAR
from threeregime.models import net_builder
from threeregime.protocol import Net, Protocol
from threeregime.pruning import magnitude_masks
from threeregime.results.provenance import commit
from threeregime.training import TrainingRun

WIDTHS = {"digits": (0.25, 0.5), "mini": (0.5,)}
DENSITIES = (0.05, 0.1, 0.2)
MEMBERS = {"vmap": 16, "jax": 16, "grouped": 16, "planned": 48}
"""Number of nets at which a way is at its best on a CPU."""
ROUNDS = 3
SECONDS = 1.0
"""Processor time that a way is measured for in each round."""


def peak() -> float:
    """Return the floating-point operations per second of this core in float32."""
    compiler = find_compiler()
    if not compiler:
        raise SystemExit("no C++ compiler: apt-get install g++")
    library = compile_library(compiler, source=Path(__file__).with_name("peak.cpp"))
    measure = ctypes.CDLL(str(library)).operations_per_second
    measure.restype = ctypes.c_double
    return max(measure(ctypes.c_long(5_000_000)) for _ in range(5))


def load_task(scale: str) -> Dataset:
    """Return the training images: those of the digits, or random ones of the scale's shape."""
    data = small_nets.protocol(scale).data
    images = load_images("digits") if data.name == "digits" else paper_size.pictures()
    return images.reduced(data.images, data.size).augmented(data.crop, data.flip)


@dataclass(frozen=True)
class Workload:
    """A protocol with its net and training images."""

    protocol: Protocol
    task: Dataset

    @classmethod
    def at(cls, scale: str, width: float) -> Workload:
        """Return the workload of a scale, with a net of another width."""
        protocol = small_nets.protocol(scale)
        net: Net = replace(protocol.net, width=width)
        return cls(replace(protocol, net=net), load_task(scale))

    def build(self) -> nn.Module:
        """Return one plain net."""
        return net_builder(self.protocol.net, self.task)()

    @property
    def operations(self) -> float:
        """Floating-point operations of a step of a dense net; those at the padding do not count."""
        shape = self.task.train_images.shape[1:]
        products = 0
        for op in record_ops(self.build(), shape).ops:
            passes = 2 if op.input == 0 else 3  # nobody needs the gradient of the images
            if op.kind == CONV:
                rows, columns = (
                    sum(
                        0 <= at * op.s + tap - op.p < side
                        for at in range(out)
                        for tap in range(op.k)
                    )
                    for side, out in ((op.H, op.Ho), (op.W, op.Wo))
                )
                products += passes * op.C * op.O * rows * columns
            elif op.kind == LINEAR:
                products += passes * op.C * op.O
        return 2.0 * products * self.protocol.retraining.batch_size


def one_at_a_time(work: Workload) -> Step:
    """Train a plain module by torch.optim.SGD, on batches of the same loader."""
    net, recipe = work.build().train(), work.protocol.retraining
    optimizer = torch.optim.SGD(
        net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    loader = work.task.loader([0], recipe.batch_size)
    draws = loader.draw(0)

    def step(number: int) -> None:
        part = loader.step_draws(draws, number % loader.steps)
        images, labels = loader.batch(part, torch.float32)
        optimizer.zero_grad()
        F.cross_entropy(net(images[:, 0]), labels[0]).backward()
        optimizer.step()

    return step


def vmapped(work: Workload, members: int) -> Step:
    """Train the nets by ``vmap`` of ``grad``, without running statistics, which it cannot have."""
    recipe = work.protocol.retraining
    nets = [work.build().train() for _ in range(members)]
    for norm in (m for net in nets for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    parameters = {n: p.detach() for n, p in stack_module_state(nets)[0].items()}
    momentum = {name: torch.zeros_like(p) for name, p in parameters.items()}
    loader = work.task.loader(range(members), recipe.batch_size)
    draws = loader.draw(0)

    def loss(
        net: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        return F.cross_entropy(functional_call(nets[0], net, images), labels)

    gradients = vmap(grad(loss), in_dims=(0, 1, 0))

    def step(number: int) -> None:
        part = loader.step_draws(draws, number % loader.steps)
        images, labels = loader.batch(part, torch.float32)
        slopes = gradients(parameters, images, labels)
        for name, p in parameters.items():
            slope = slopes[name].add_(p, alpha=recipe.weight_decay)
            momentum[name].mul_(recipe.momentum).add_(slope)
            p.sub_(momentum[name], alpha=recipe.lr)

    return step


def fleet_of(work: Workload, backend: str, members: int, density: float = 1.0) -> Step:
    """Train a fleet; where it is pruned, each 16 nets are copies of one pruned net."""
    recipe = work.protocol.retraining
    fleet = Fleet.initial(work.build, range(members), backend=backend)
    run = TrainingRun(
        fleet, work.task.loader(range(members), recipe.batch_size), recipe, Engine(backend)
    )
    if density < 1:
        state = fleet.state()
        first = torch.arange(members) // 16 * 16
        weights = {name: state[name][first] for name in fleet.prunable()}
        run.prune(magnitude_masks(weights, ["uniform"] * members, [density] * members))
    draws = run.loader.draw(0)
    fleet.module.train()
    return lambda number: run.step(*run.loader.step_draws(draws, number % run.loader.steps))


def jax_vmap(work: Workload, members: int) -> Step:
    """Train the nets in JAX, always on the same batch."""
    from benchmarks.jax_peer import make_step

    recipe = work.protocol.retraining
    fleet = Fleet.initial(work.build, range(members))
    loader = work.task.loader(range(members), recipe.batch_size)
    images, labels = loader.batch(loader.step_draws(loader.draw(0), 0), torch.float32)
    recorder = record_ops(work.build(), work.task.train_images.shape[1:])
    state = {name: tensor.numpy() for name, tensor in fleet.state().items()}
    return make_step(recorder, state, recipe, images.transpose(0, 1).numpy(), labels.numpy())


@dataclass(frozen=True)
class Way:
    """One way to train nets: its name, how many at once, their density, and what makes its step."""

    name: str
    members: int
    density: float
    make: Callable[[], Step]


def ways(work: Workload) -> list[Way]:
    """Return all ways on this machine."""
    members = MEMBERS["planned"]
    found = [
        Way("plain PyTorch", 1, 1.0, partial(one_at_a_time, work)),
        Way("torch.func.vmap", MEMBERS["vmap"], 1.0, partial(vmapped, work, MEMBERS["vmap"])),
        Way(
            "grouped",
            MEMBERS["grouped"],
            1.0,
            partial(fleet_of, work, "grouped", MEMBERS["grouped"]),
        ),
        *(
            Way("planned", members, density, partial(fleet_of, work, "planned", members, density))
            for density in (1.0, *DENSITIES)
        ),
    ]
    if importlib.util.find_spec("jax"):
        found.insert(
            2, Way("JAX vmap + jit", MEMBERS["jax"], 1.0, partial(jax_vmap, work, MEMBERS["jax"]))
        )
    else:
        print("JAX is not installed: pip install jax to compare with it")
    return found


def processor_seconds(step: Step) -> float:
    """Return the median processor time of a step."""
    times: list[float] = []
    while sum(times) < SECONDS:
        begin = time.process_time()
        step(len(times))
        times.append(time.process_time() - begin)
    return statistics.median(times)


def print_scale(scale: str, path: Path | None) -> None:
    """Measure all ways at a scale, print and record them, and print the ratio."""
    speed = peak()
    print(f"{device_name('cpu')}, commit {commit()}: peak {speed / 1e9:.0f} GFLOP/s in float32")
    rows = []
    for width in WIDTHS[scale]:
        work = Workload.at(scale, width)
        floor = 1e3 * work.operations / speed
        print(f"{scale}, width {width}: {work.operations / 1e6:.1f} MFLOP, floor {floor:.3f} ms")
        found = ways(work)
        steps = [way.make() for way in found]
        for step in steps:
            step(0), step(1)
        # In turn, since the load of the machine changes.
        rounds = [[processor_seconds(step) for step in steps] for _ in range(ROUNDS)]
        for way, seconds in zip(found, zip(*rounds, strict=True), strict=True):
            milliseconds = 1e3 * statistics.median(seconds) / way.members
            share = floor * way.density / milliseconds
            row = {
                "width": width,
                "way": way.name,
                "nets": way.members,
                "density": way.density,
                "milliseconds": milliseconds,
                "share": share,
                "floor": floor * way.density,
            }
            rows.append(row)
            print(
                f"  {way.name:16} {way.members:3d} nets  density {way.density:4.0%}  "
                f"{milliseconds:8.3f} ms  {share * speed / 1e9:6.1f} GFLOP/s  "
                f"{share:4.0%} of the peak",
                flush=True,
            )
    ratio = compute_ratio(rows)
    if path:
        record(path, "cpu", scale=scale, operations_per_second=speed, ratio=ratio, rows=rows)
    print(f"ratio {ratio:.1f}")


def compute_ratio(rows: list[dict[str, object]]) -> float:
    """Return the time of plain PyTorch over that of planned dense nets, at the first width."""
    first = [row for row in rows if row["width"] == rows[0]["width"] and row["density"] == 1]
    times = {str(row["way"]): float(str(row["milliseconds"])) for row in first}
    return times["plain PyTorch"] / times["planned"]


def main() -> None:
    """Print the table of a scale."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", help="of the scale paper")
    parser.add_argument(
        "--scale", choices=[*WIDTHS, "paper"], default="paper" if on_gpu else "digits"
    )
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--loader-workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="path to write the table to")
    arguments = parser.parse_args()
    if arguments.scale == "paper":
        paper_size.print_table(
            arguments.device, arguments.members, arguments.loader_workers, arguments.json
        )
        return
    with compute_settings("cpu"):
        print_scale(arguments.scale, arguments.json)


if __name__ == "__main__":
    main()
