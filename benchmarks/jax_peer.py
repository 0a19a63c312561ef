"""A training step of many nets in JAX, ``jit`` of ``vmap``: what a user would take instead.

The net is the recorded list of operations of a plain one; the step is stochastic gradient descent
with momentum, weight decay and masks. JAX is optional and never a dependency.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

# Read when JAX is imported: one thread, as all others.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from threeregime.kernels.recorder import ADD, CONV, LINEAR, MEAN, NORM, Recorder
from threeregime.protocol import Training

Arrays = dict[str, Any]


def _run(recorder: Recorder, parameters: Arrays, x: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return outputs [batch, classes] and the batch norms' statistics for x [batch, h, w, c]."""
    tensors, statistics = {0: x}, []
    for op in recorder.ops:
        x = tensors[op.input]
        if op.kind == CONV:
            padding = [(op.p, op.p)] * 2
            weight = parameters[_name(recorder, op.w)]
            dimensions = ("NHWC", "HWIO", "NHWC")
            x = lax.conv_general_dilated(
                x, weight, (op.s, op.s), padding, dimension_numbers=dimensions
            )
            x = x + tensors[op.other] if op.other >= 0 else x
        elif op.kind == NORM:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            statistics.append((mean, var))
            scale, shift = (parameters[_name(recorder, offset)] for offset in (op.w, op.b))
            x = (x - mean) * lax.rsqrt(var + 1e-5) * scale + shift
            x = jax.nn.relu(x) if op.relu else x
        elif op.kind == ADD:
            x = x + tensors[op.other]
        elif op.kind == MEAN:
            x = x.mean((1, 2))
        elif op.kind == LINEAR:
            x = x @ parameters[_name(recorder, op.w)].T + parameters[_name(recorder, op.b)]
        tensors[op.output] = x
    return x, statistics


def _name(recorder: Recorder, offset: int) -> str:
    return next(p.name for p in recorder.parameters if p.offset == offset)


def make_step(
    recorder: Recorder, state: Arrays, training: Training, inputs: Any, labels: Any
) -> Callable[[int], None]:
    """Return the function of a step of M nets, compiled.

    Args:
        recorder: the operations of a plain net.
        state: parameters by name, each a NumPy array [M, ...] as PyTorch has them.
        training: learning rate, momentum and weight decay.
        inputs: images [M, batch, channels, h, w].
        labels: [M, batch].
    """

    def loss(parameters: Arrays, x: Any, y: Any) -> tuple[Any, Any]:
        outputs, statistics = _run(recorder, parameters, x)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], 1)
        return -chosen.mean(), statistics

    def step(
        parameters: Arrays, momentum: Arrays, running: Any, mask: Arrays, x: Any, y: Any
    ) -> Any:
        gradients, statistics = jax.grad(loss, has_aux=True)(parameters, x, y)
        rule = training
        momentum = {
            n: rule.momentum * momentum[n] + gradients[n] * mask[n] + rule.weight_decay * p
            for n, p in parameters.items()
        }
        parameters = {n: p - rule.lr * momentum[n] for n, p in parameters.items()}
        running = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, running, statistics)
        return parameters, momentum, running

    def array(name: str) -> Any:
        value = state[name]
        return jnp.asarray(value.transpose(0, 3, 4, 2, 1) if value.ndim == 5 else value)

    parameters = {p.name: array(p.name) for p in recorder.parameters}
    members = len(labels)
    channels = [op.C for op in recorder.ops if op.kind == NORM]
    running = [(jnp.zeros((members, c)), jnp.ones((members, c))) for c in channels]
    carried = (parameters, jax.tree.map(jnp.zeros_like, parameters), running)
    mask = jax.tree.map(jnp.ones_like, parameters)
    x, y = jnp.asarray(np.asarray(inputs).transpose(0, 1, 3, 4, 2)), jnp.asarray(labels)
    compiled = jax.jit(jax.vmap(step), donate_argnums=(0, 1, 2))

    def advance(number: int) -> None:
        nonlocal carried
        carried = compiled(*carried, mask, x, y)
        jax.block_until_ready(carried)

    return advance
