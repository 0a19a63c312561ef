"""Speed of the engines on this device at the paper's size: ``benchmarks.engine --scale paper``.

PreResNet-20 on images like CIFAR-10's, batch 64: all engines, for fleets of 1 to 64 nets, against a
reference loop like the authors' scripts (one net, a DataLoader with workers, PIL transforms,
``.item()`` each step). A CPU runs one process per core, as a sweep does, and the reference loop
with all threads. Net-epochs per second are printed, with their share of the floor: the time that
the bytes of 16-bit activations (pointwise operations fused) or the multiplications take at the
bandwidth and speed of this device. The last line is ``ratio``, the best engine over the reference
loop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.processes import Step, measure, record
from threeregime.data import Dataset, ImageBatches
from threeregime.data.registry import CIFAR10_MEAN, CIFAR10_STD
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import load_scale
from threeregime.fleet import BACKENDS, GPU_ENGINES, WARM_UP, Engine, Fleet, device_name
from threeregime.models import net_builder
from threeregime.results.provenance import commit
from threeregime.training import TrainingRun

PROTOCOL = load_scale("paper")
TRAINING = PROTOCOL.retraining
IMAGES = 50_000
STEPS = IMAGES // TRAINING.batch_size
BYTES = 6.2e6
"""Activations moved per image of training in 16 bits, pointwise operations fused."""
OPERATIONS = 244e6
"""Floating-point operations per image of training: three passes of 40.8 M multiply-adds."""
PATIENCE = 2.5
"""Seconds of a step; if one takes longer, larger fleets are skipped."""


def pictures() -> Dataset:
    """Return random images of CIFAR-10's shape, since speed does not depend on content."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    return Dataset(
        "cifar10", images, labels, images[:64], labels[:64], CIFAR10_MEAN, CIFAR10_STD, 10
    )


class Pictures(torch.utils.data.Dataset):
    """The images as torchvision loads them: a PIL image from an array, then transforms."""

    def __init__(self, data: Dataset) -> None:
        from torchvision import transforms

        self.images = data.train_images.permute(0, 2, 3, 1).numpy()
        self.labels = data.train_labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=PROTOCOL.data.crop),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def reference(device: str, workers: int) -> Step:
    """Train one net like a stand-alone script."""
    data = pictures()
    dataloader = torch.utils.data.DataLoader(
        Pictures(data),
        batch_size=TRAINING.batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=device != "cpu",
    )
    net = net_builder(PROTOCOL.net, data)().to(device).train()
    optimizer = torch.optim.SGD(
        net.parameters(), TRAINING.lr, TRAINING.momentum, weight_decay=TRAINING.weight_decay
    )
    losses, correct = [], 0

    def forever() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from dataloader

    batches = forever()

    def step(number: int) -> None:
        nonlocal correct
        images, labels = (part.to(device) for part in next(batches))
        outputs = net(images)
        loss = F.cross_entropy(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        correct += (outputs.argmax(dim=1) == labels).sum().item()

    return step


def fleet_of(members: int, engine: Engine, device: str) -> Step:
    """Train a fleet as a sweep does."""
    data, seeds = pictures().to(device), range(members)
    fleet = Fleet.initial(net_builder(PROTOCOL.net, data), seeds, device, **engine.fleet_options)
    loader = ImageBatches(data, seeds, TRAINING.batch_size, PROTOCOL.data.crop, PROTOCOL.data.flip)
    run = TrainingRun(fleet, loader, TRAINING, engine)
    draws = loader.draw(0)
    fleet.module.train()

    def step(number: int) -> None:
        run.advance(*loader.step_draws(draws, number % loader.steps))

    for number in range(WARM_UP + 1 if engine.graphed or engine.compiled else 0):
        step(number)
    return step


def runs(engine: Engine) -> bool:
    """Return whether an engine supports this net."""
    try:
        BACKENDS[engine.backend].stack(net_builder(PROTOCOL.net, pictures())(), 1)
    except ThreeRegimeError:
        return False
    return True


def floor(device: str) -> tuple[float, float, float]:
    """Return the least seconds of a net's epoch, and measured bytes and operations per second."""
    bandwidth, speed = _bandwidth(device), _speed(device)
    return IMAGES * max(BYTES / bandwidth, OPERATIONS / speed), bandwidth, speed


def _bandwidth(device: str) -> float:
    """Return the bytes read and written per second by a copy."""
    source = torch.ones(2**28 if device != "cpu" else 2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)


def _speed(device: str) -> float:
    """Return the floating-point operations per second of a 16-bit matrix product."""
    side = 8192 if device != "cpu" else 2048
    a = torch.ones(side, side, dtype=torch.bfloat16, device=device)
    return 2 * side**3 / _fastest(lambda: a @ a, device)


def _fastest(work: Callable[[], object], device: str) -> float:
    best = float("inf")
    for _ in range(10):
        begin = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    way: str
    members: int
    net_epochs_per_second: float
    spread: float
    share_of_floor: float

    def __str__(self) -> str:
        return (
            f"{self.way:42} {self.members:3d} nets  {self.net_epochs_per_second:9.4f} "
            f"+- {self.spread:.4f} net-epochs/s  {1 / self.net_epochs_per_second:8.3f} s each  "
            f"{self.share_of_floor:5.1%} of the floor"
        )


CPU_ENGINES = [Engine("planned"), Engine("separate"), Engine("separate", "bfloat16")]


def print_table(device: str, members: Sequence[int], workers: int, path: Path | None) -> None:
    """Print the table and the ratio.

    Args:
        device: cpu, cuda or cuda:N.
        members: sizes of the fleets.
        workers: number of processes of the reference loop's data loader.
        path: path to write the table to; None: none.
    """
    on_cpu = device == "cpu"
    cores = os.cpu_count() or 1
    seconds, bandwidth, speed = floor(device)
    print(
        f"{device_name(device)}, commit {commit()}: {bandwidth / 1e9:.0f} GB/s, "
        f"{speed / 1e12:.2f} Tflop/s in 16 bits; floor {seconds:.3f} s per net-epoch"
    )

    def print_row(way: str, members: int, steps: tuple[float, float]) -> Row:
        rate, spread = (value * members / STEPS for value in steps)
        row = Row(way, members, rate, spread, rate * seconds)
        print(row, flush=True)
        return row

    script = measure(partial(reference, device, workers), 1, cores if on_cpu else 1, rounds=3)
    if script is None:
        raise SystemExit("the reference loop failed")
    rows = [print_row("reference loop", 1, script)]
    for engine in filter(runs, CPU_ENGINES if on_cpu else GPU_ENGINES):
        for count in members:
            steps = measure(
                partial(fleet_of, count, engine, device), cores if on_cpu else 1, rounds=3
            )
            if steps is None:
                break  # it printed the reason, which holds for more nets as well
            rows.append(print_row(engine.name, count, steps))
            if on_cpu and cores / steps[0] > PATIENCE:
                break
    best = max(rows[1:], key=lambda row: row.net_epochs_per_second)
    ratio = best.net_epochs_per_second / rows[0].net_epochs_per_second
    if path:
        record(
            path,
            device,
            bytes_per_second=bandwidth,
            operations_per_second=speed,
            floor_seconds=seconds,
            ratio=ratio,
            rows=[vars(row) for row in rows],
        )
    print(f"ratio {ratio:.1f}")
