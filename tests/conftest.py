"""What all tests share."""

from __future__ import annotations

import torch

# As the engine runs on a CPU: one thread a fleet.
torch.set_num_threads(1)
