"""Where numbers come from: the facts that travel with every results table."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision

import threeregime
from threeregime.mechanisms import choose
from threeregime.sweep import Job, Place


def provenance(
    job: Job, place: Place, protocols: dict[str, Any], seeds: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """All that is recorded with a fleet's tables, as plain values."""
    return {
        "experiment": place.experiment.name,
        "scale": place.experiment.scale,
        "fleet": job.fleet,
        "nets": job.nets,
        "protocols": protocols,
        "seeds": seeds,
        "commit": commit(),
        "versions": {
            "threeregime": threeregime.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": numpy.__version__,
        },
        "device": device_name(place.device),
        "mechanism": choose(place.device, job.nets),
        "seconds": round(seconds, 2),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def device_name(device: str) -> str:
    """The device in words, e.g. the GPU's or the processor's name."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU, {model}, one of {os.cpu_count()} cores"


@functools.cache
def commit() -> str:
    """Git commit of the code, with "+" after it when files have changed since; or "unknown"."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD")[:12] + (
            "+" if git("status", "--porcelain", "--", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
