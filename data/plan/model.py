"""The parts of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from data.store import Cost


@dataclass(frozen=True)
class Prices:
    """Dollars: per million GET requests, and per GB that leaves the cloud's region."""

    million_requests: float
    gigabyte_out: float


# List prices of standard storage in US regions as of 2025; reading inside the region is free of egress.
CLOUDS = {"s3": Prices(0.40, 0.09), "gcs": Prices(0.40, 0.12), "azure": Prices(0.50, 0.087)}


@dataclass(frozen=True)
class Site:
    """Where the run reads from.

    Attributes:
        link_mbit: bandwidth between the store and one worker, Mbit/s.
        latency: of a request, seconds.
        in_flight: most requests of one worker at a time.
        prices: of requests and egress.
    """

    link_mbit: float = 500.0
    latency: float = 0.03
    in_flight: int = 96
    prices: Prices = CLOUDS["s3"]

    @property
    def cost(self) -> Cost:
        """What decides which gaps between members are read through."""
        return Cost(request=self.latency / self.in_flight, byte=8 / (self.link_mbit * 1e6))


@dataclass(frozen=True)
class DatasetPlan:
    """What becomes of one dataset.

    Attributes:
        where: its URL.
        share: of the samples that come from it.
        subjects, captures: that are drawn from.
        epoch: samples in an epoch.
        epochs: passes over it in the whole run.
        steps_per_epoch: until every sample of an epoch has been seen.
        steps_to_see_all: until every capture has been; longer where an epoch has one frame of each subject.
        views_per_subject: images that the run reads of each subject, sources and targets, repeats included.
        bytes: of the shards that hold it.
    """

    where: str
    share: float
    subjects: int
    captures: int
    epoch: int
    epochs: float
    steps_per_epoch: int
    steps_to_see_all: int
    views_per_subject: float
    bytes: int


@dataclass(frozen=True)
class PerSample:
    """Means per sample: images read of `cameras`, requests, bytes of the members, bytes of the requests."""

    views: float
    cameras: float
    requests: float
    needed: float
    asked: float

    @property
    def used(self) -> float:
        """Share of the bytes asked for that are needed."""
        return self.needed / self.asked


@dataclass(frozen=True)
class Whole:
    """The whole run: requests, bytes, dollars for the requests, and for the bytes if they leave the region."""

    requests: int
    bytes: int
    request_dollars: float
    egress_dollars: float


@dataclass(frozen=True)
class CachePlan:
    """What a cache would do.

    Attributes:
        epoch_bytes: that one epoch of every dataset asks for.
        all_bytes: of a cache that holds whatever the run may ever ask.
        second_epoch_hits: share of the second epoch that a worker's own cache would already hold.
    """

    epoch_bytes: int
    all_bytes: int
    second_epoch_hits: float


@dataclass(frozen=True)
class Rates:
    """What the store must give for the run to go at its speed.

    Attributes:
        samples_per_second: of the run.
        seconds: that the run takes.
        seconds_to_see_all: until every capture has been seen once.
        requests_per_second, bytes_per_second: of all workers together.
        worker_requests_per_second, worker_bytes_per_second: of each.
        link_used: share of a worker's link.
        in_flight: requests of a worker under way at any time.
    """

    samples_per_second: float
    seconds: float
    seconds_to_see_all: float
    requests_per_second: float
    bytes_per_second: float
    worker_requests_per_second: float
    worker_bytes_per_second: float
    link_used: float
    in_flight: float


@dataclass(frozen=True)
class Plan:
    """What a run asks of its store. Evaluation is not counted, and caches are not relied on.

    Attributes:
        workers, batch_size, steps, samples: of the run.
        datasets: one by one.
        link_samples_per_second: that the workers' links can carry together.
        rates: where the speed of the run is known.
    """

    workers: int
    batch_size: int
    steps: int
    samples: int
    datasets: tuple[DatasetPlan, ...]
    per_sample: PerSample
    whole: Whole
    cache: CachePlan
    link_samples_per_second: float
    rates: Rates | None
