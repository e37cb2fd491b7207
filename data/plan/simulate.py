"""Some steps of every rank, computed exactly: that the order keeps its promises, and where the load falls."""

from __future__ import annotations

import resource
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from configs.schema import Config
from data.plan.demand import Asked, Demand
from data.sampling import Sample
from data.shares import Shares

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class HotSpots:
    """Where requests fall.

    Attributes:
        requests: of all ranks in a step, mean.
        busiest: that one shard gets in a step; the most over the steps.
        mean: per shard and step, over all shards.
        touched: shards that are asked anything in a step, mean.
    """

    requests: float
    busiest: int
    mean: float
    touched: float


@dataclass(frozen=True)
class Balance:
    """How evenly the ranks are loaded.

    Attributes:
        least, mean, most: bytes that a rank asks for in the simulated steps.
        slowest: in a step, bytes of the rank that asks most, over the mean; the others wait for it. A mean.
    """

    least: int
    mean: float
    most: int
    slowest: float


@dataclass(frozen=True)
class Simulation:
    """What the simulated steps showed.

    Attributes:
        ranks, captures, shards: of the run.
        steps: that were computed.
        samples: in these steps, over all ranks.
        equal_steps: every rank has the same number of samples in every step.
        same_as_one_rank: the ranks' samples, in order, are those that a single rank would have.
        no_repeats: no capture came twice in an epoch.
        seconds, peak_memory_mb: what simulating took; memory of the whole process.
    """

    ranks: int
    captures: int
    shards: int
    steps: tuple[int, ...]
    samples: int
    equal_steps: bool
    same_as_one_rank: bool
    no_repeats: bool
    hot: HotSpots
    load: Balance
    seconds: float
    peak_memory_mb: float

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return self.equal_steps and self.same_as_one_rank and self.no_repeats


def chosen_steps(steps: int, each: int = 2) -> tuple[int, ...]:
    """A few first, middle and last steps of a run."""
    starts = (0, max(0, steps // 2 - each // 2), max(0, steps - each))
    return tuple(sorted({step for start in starts for step in range(start, min(start + each, steps))}))


def simulate(demand: Demand, config: Config, steps: Iterable[int], progress: Progress | None = None) -> Simulation:
    """Let every rank of `cluster.workers` compute its samples and requests of some steps.

    Args:
        demand: of this config.
        config: of the run.
        steps: numbers of the steps.
        progress: told of ranks done, and of how many.
    """
    began, numbers, ranks = time.perf_counter(), tuple(steps), config.cluster.workers
    asked: dict[int, list[list[Asked]]] = {step: [] for step in numbers}
    for rank in range(ranks):
        for step in numbers:
            asked[step].append(_of_rank(demand, config, rank, step))
        if progress:
            progress(rank + 1, ranks)
    shards = sum(holding.shards for holding in demand.holdings)
    joined = {step: _joined(config, parts) for step, parts in asked.items()}
    return Simulation(
        ranks=ranks,
        captures=sum(len(order.captures) for order in demand.sampler.orders),
        shards=shards,
        steps=numbers,
        samples=sum(map(len, joined.values())),
        equal_steps=all(len({len(own) for own in parts}) == 1 for parts in asked.values()),
        same_as_one_rank=all(_as_alone(demand, config, step, parts) for step, parts in joined.items()),
        no_repeats=_no_repeats(demand, [one.sample for parts in joined.values() for one in parts]),
        hot=_hot_spots(list(joined.values()), shards),
        load=_balance(list(asked.values())),
        seconds=time.perf_counter() - began,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _of_rank(demand: Demand, config: Config, rank: int, step: int) -> list[Asked]:
    shares = Shares(config.data.batch_size, config.cluster.workers, config.engine.accumulation)
    numbers = range(step * shares.accumulation, (step + 1) * shares.accumulation)
    parts = [shares.micro_batch(rank, number) for number in numbers]
    return [one for part in parts for one in demand.of(part.batch_start, part.first, part.count)]


def _joined(config: Config, ranks: list[list[Asked]]) -> list[Asked]:
    """A global batch from what the ranks have: first every rank's first micro-batch, then every rank's second."""
    micro = len(ranks[0]) // config.engine.accumulation
    blocks = [[own[start : start + micro] for own in ranks] for start in range(0, len(ranks[0]), micro)]
    return [one for block in blocks for part in block for one in part]


def _as_alone(demand: Demand, config: Config, step: int, found: list[Asked]) -> bool:
    part = Shares(config.data.batch_size, 1).micro_batch(0, step)
    return [one.sample for one in found] == demand.sampler.samples(part.batch_start, part.first, part.count)


def _no_repeats(demand: Demand, samples: list[Sample]) -> bool:
    """Rows by dataset and epoch, each once."""
    datasets, places = demand.sampler.mixture.at(np.array([sample.position for sample in samples]))
    rows: dict[tuple[int, int], list[int]] = defaultdict(list)
    for sample, dataset, place in zip(samples, datasets.tolist(), places.tolist(), strict=True):
        rows[dataset, place // len(demand.sampler.orders[dataset])].append(sample.source_row)
    return all(len(set(each)) == len(each) for each in rows.values())


def _hot_spots(steps: list[list[Asked]], shards: int) -> HotSpots:
    counts = [Counter(shard for one in step for shard in one.shards) for step in steps]
    requests = float(np.mean([counter.total() for counter in counts]))
    busiest = max(max(counter.values()) for counter in counts)
    return HotSpots(requests, busiest, requests / shards, float(np.mean([len(counter) for counter in counts])))


def _balance(steps: list[list[list[Asked]]]) -> Balance:
    """Of the samples by step and rank."""
    table = np.array([[sum(one.asked for one in own) for own in ranks] for ranks in steps])
    whole = table.sum(axis=0)
    slowest = float((table.max(axis=1) / table.mean(axis=1)).mean())
    return Balance(int(whole.min()), float(whole.mean()), int(whole.max()), slowest)
