"""Costs of a trial's model: parameters, memory, latency.

    model_costs(config, ["model/parameters"]) -> {"model/parameters": 1234567.0}

They can be objectives beside the quality. Parameters and memory are exact; latency is measured on this machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping
from typing import Any

PARAMETERS = "model/parameters"
MEMORY = "model/memory_mib"
LATENCY = "model/latency_ms"
COST_METRICS = (PARAMETERS, MEMORY, LATENCY)
REPEATS = 9
# The first calls allocate memory and choose kernels.
WARM_UP = 2


def model_costs(config: Mapping[str, Any], names: Collection[str]) -> dict[str, float]:
    """Measures those of `names` that are costs."""
    from jobs.config import ISNetConfig
    from trainplane.config.load import build

    # Without a cost among the objectives nothing is built.
    if not set(names) & set(COST_METRICS):
        return {}
    parsed = build(ISNetConfig, config)
    measures = {PARAMETERS: _parameters, MEMORY: _memory_mib, LATENCY: _latency_ms}
    return {name: measure(parsed) for name, measure in measures.items() if name in names}


def _parameters(config: Any) -> float:
    """Number of parameters of the generator, which is served."""
    import torch

    import isnet
    from jobs.train.networks import generator_options

    # The meta device counts parameters without allocating them.
    with torch.device("meta"):
        generator = isnet.build(config.model.name, **generator_options(config))
    return float(sum(parameter.numel() for parameter in generator.parameters()))


def _memory_mib(config: Any) -> float:
    """Peak memory of a training step, as `isnet plan` estimates."""
    from jobs.train.memory import step_bytes

    return step_bytes(config, ranks=config.train.max_workers).peak / 2**20


def _latency_ms(config: Any) -> float:
    """Median time of predicting one image of the training size."""
    import torch

    import isnet
    from jobs.train.networks import generator_options

    threads = torch.get_num_threads()
    # One thread: results do not depend on the number of cores.
    torch.set_num_threads(1)
    try:
        generator = isnet.build(config.model.name, **generator_options(config)).eval()
        size = config.data.size
        image, mask = torch.zeros(1, 3, size, size), torch.ones(1, 1, size, size)
        durations = []
        with torch.no_grad():
            for _ in range(REPEATS + WARM_UP):
                start = time.perf_counter()
                generator(image, mask)
                durations.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 1000 * statistics.median(durations[WARM_UP:])
