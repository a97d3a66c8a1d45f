"""What a trial of a search is worth beside its quality: parameters, memory of a step, latency of a prediction.

    facts(config, wanted) -> {"model/parameters": 1234567.0, …}, only what is wanted

Parameters and memory are exact and need no numbers in the networks; latency is measured here and now, on one thread.
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
TIMES = 9


def model_costs(config: Mapping[str, Any], wanted: Collection[str]) -> dict[str, float]:
    """Those of the wanted values that are known here."""
    from jobs.config import ISNetConfig
    from trainplane.config.load import build

    if not set(wanted) & set(COST_METRICS):
        return {}
    made = build(ISNetConfig, config)
    measures = {PARAMETERS: _parameters, MEMORY: _memory_mib, LATENCY: _latency_ms}
    return {name: measure(made) for name, measure in measures.items() if name in wanted}


def _parameters(config: Any) -> float:
    """Of the generator: what is served."""
    import torch

    import isnet
    from jobs.isnet_task import generator_options

    with torch.device("meta"):
        generator = isnet.build(config.model.name, **generator_options(config))
    return float(sum(parameter.numel() for parameter in generator.parameters()))


def _memory_mib(config: Any) -> float:
    """At the peak of a training step of one rank, as `isnet plan` reckons it."""
    from jobs.train.memory import step_bytes

    return step_bytes(config, ranks=config.train.max_workers).peak / 2**20


def _latency_ms(config: Any) -> float:
    """Median of a few predictions of one picture of the training size."""
    import torch

    import isnet
    from jobs.isnet_task import generator_options

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = isnet.build(config.model.name, **generator_options(config)).eval()
        size = config.data.size
        image, mask = torch.zeros(1, 3, size, size), torch.ones(1, 1, size, size)
        taken = []
        with torch.no_grad():
            for _ in range(TIMES + 2):
                began = time.perf_counter()
                generator(image, mask)
                taken.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return 1000 * statistics.median(taken[2:])
