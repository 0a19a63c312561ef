"""What the engine reaches on this device at the paper's size: ``python -m benchmarks.engine``.

PreResNet-20 on images like CIFAR-10's, batch 64: every engine that is built, for fleets of 1 to 64
nets, against a reference loop that trains as the authors' scripts do (one net, a DataLoader with
workers, PIL transforms, ``.item()`` each step). A CPU runs a process on every core, as a sweep
does, and the reference loop with all its threads. Printed are net-epochs per second, and the share
of the floor: the time that the bytes of 16-bit activations (pointwise operations fused) or the
multiplications must take at the bandwidth and speed measured here. The last line is ``ratio``,
the best engine against the reference loop.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.processes import Step, measure, record
from threeregime.data.images import Dataset, ImageBatches
from threeregime.data.registry import CIFAR10_MEAN, CIFAR10_STD
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.fleet.backends import BACKENDS
from threeregime.fleet.cuda_graph import WARM_UP
from threeregime.fleet.device import device_name
from threeregime.fleet.engine import Engine, candidate_engines
from threeregime.fleet.fleet import Fleet
from threeregime.models.registry import net_builder
from threeregime.results import commit
from threeregime.training.run import TrainingRun

PROTOCOL = catalogue.load_scale("paper")
TRAINING = PROTOCOL.retraining
IMAGES = 50_000
STEPS = IMAGES // TRAINING.batch_size
BYTES = 6.2e6
"""Activations moved per image of training in 16 bits, pointwise operations fused."""
OPERATIONS = 244e6
"""Floating-point operations per image of training: three passes of 40.8 M multiply-adds."""
PATIENCE = 2.5
"""Seconds: where a step takes longer, larger fleets are left out."""


def pictures() -> Dataset:
    """Random images of CIFAR-10's shape: speed does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    return Dataset(
        "cifar10", images, labels, images[:64], labels[:64], CIFAR10_MEAN, CIFAR10_STD, 10
    )


class Pictures(torch.utils.data.Dataset):
    """The same as torchvision serves them: a PIL image made of an array, then transforms."""

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
    """One net trained as a script of its own would."""
    data = pictures()
    served = torch.utils.data.DataLoader(
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
    losses, right = [], 0

    def forever() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from served

    batches = forever()

    def step(number: int) -> None:
        nonlocal right
        images, labels = (part.to(device) for part in next(batches))
        outputs = net(images)
        loss = F.cross_entropy(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        right += (outputs.argmax(dim=1) == labels).sum().item()

    return step


def fleet_of(members: int, engine: Engine, device: str) -> Step:
    """A fleet in training, as a sweep trains it."""
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
    """Whether an engine runs nets of this kind at all."""
    try:
        BACKENDS[engine.backend].stack(net_builder(PROTOCOL.net, pictures())(), 1)
    except ThreeRegimeError:
        return False
    return True


def floor(device: str) -> tuple[float, float, float]:
    """Seconds that an epoch of one net must take, and measured bytes and operations per second."""
    bandwidth, speed = _bandwidth(device), _speed(device)
    return IMAGES * max(BYTES / bandwidth, OPERATIONS / speed), bandwidth, speed


def _bandwidth(device: str) -> float:
    """Bytes read and written per second in copying."""
    source = torch.ones(2**28 if device != "cpu" else 2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)


def _speed(device: str) -> float:
    """Floating-point operations per second in multiplying matrices of 16-bit numbers."""
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
    """One line of the table."""

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


def main() -> None:
    """Print the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--loader-workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="write the table there too")
    chosen = parser.parse_args()
    device, on_cpu = chosen.device, chosen.device == "cpu"
    cores = os.cpu_count() or 1
    seconds, bandwidth, speed = floor(device)
    print(
        f"{device_name(device)}, commit {commit()}: {bandwidth / 1e9:.0f} GB/s, "
        f"{speed / 1e12:.2f} Tflop/s in 16 bits; floor {seconds:.3f} s per net-epoch"
    )

    def row(way: str, members: int, found: tuple[float, float]) -> Row:
        rate, spread = (value * members / STEPS for value in found)
        made = Row(way, members, rate, spread, rate * seconds)
        print(made, flush=True)
        return made

    script = measure(
        partial(reference, device, chosen.loader_workers), 1, cores if on_cpu else 1, rounds=3
    )
    if script is None:
        raise SystemExit("the reference loop failed")
    rows = [row("reference loop", 1, script)]
    for engine in dict.fromkeys(e for m in chosen.members for e in candidate_engines(device, m)):
        if not runs(engine):
            continue
        for members in chosen.members:
            if engine not in candidate_engines(device, members):
                continue
            found = measure(
                partial(fleet_of, members, engine, device), cores if on_cpu else 1, rounds=3
            )
            if found is None:
                break  # it has said why; more nets would not do better
            rows.append(row(engine.name, members, found))
            if on_cpu and cores / found[0] > PATIENCE:
                break
    best = max(rows[1:], key=lambda made: made.net_epochs_per_second)
    ratio = best.net_epochs_per_second / rows[0].net_epochs_per_second
    if chosen.json:
        record(
            chosen.json,
            device,
            bytes_per_second=bandwidth,
            operations_per_second=speed,
            floor_seconds=seconds,
            ratio=ratio,
            rows=[vars(made) for made in rows],
        )
    print(f"ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
