"""What a plan should make its reader think about, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from data.plan.model import DatasetPlan, Plan, Rates, Site

_PREFIX_LIMIT = 5500  # GET requests per second that S3 gives each prefix before it has scaled
_MANY_EPOCHS = 1000
_LARGEST_CACHE = 10e12  # bytes that one would still think of keeping locally


def warnings(plan: Plan, site: Site) -> list[str]:
    """One sentence for each thing that will hurt; none for a plan that is fine."""
    found = [warning for part in plan.datasets for warning in _dataset(part, plan)]
    if plan.rates:
        found += _rates(plan, plan.rates, site)
    if plan.per_sample.used < 0.8:
        found.append(
            f"{1 - plan.per_sample.used:.0%} of the bytes fetched are not used: members lie close together and reading "
            "through the gaps is cheaper than more requests, at the latency and bandwidth given"
        )
    if plan.workers > 1 and plan.cache.all_bytes < _LARGEST_CACHE and any(part.epochs > 2 for part in plan.datasets):
        hits = plan.cache.second_epoch_hits
        found.append(
            f"a cache that no other worker shares would hold {hits:.0%} of what its worker asks in the second epoch, "
            f"because every epoch deals the captures anew to {plan.workers:,} workers; on one machine let them share it"
        )
    return found


def _dataset(part: DatasetPlan, plan: Plan) -> Iterator[str]:
    if part.epochs < 1:
        seen, steps = f"{part.epochs:.0%}", f"{part.steps_per_epoch:,}"
        yield f"{part.where}: the run sees only {seen} of its epoch; {steps} steps would see it all"
    if part.epochs > _MANY_EPOCHS:
        yield f"{part.where}: every capture comes {part.epochs:,.0f} times; more subjects would teach more"
    if plan.batch_size * part.share > part.epoch:
        yield f"{part.where}: a batch takes more than its {part.epoch:,} samples, so it holds captures twice"
    most = max(plan.datasets, key=lambda other: other.epochs)
    if part is most and len(plan.datasets) > 1:
        least = min(plan.datasets, key=lambda other: other.epochs)
        if most.epochs > 20 * max(least.epochs, 1e-9) and most.epochs > 20:
            yield (
                f"{part.where} is repeated {most.epochs:,.0f} times while {least.where} is seen {least.epochs:.1f} "
                "times: the weights favour the smaller one strongly"
            )


def _rates(plan: Plan, rates: Rates, site: Site) -> Iterator[str]:
    if rates.link_used > 1:
        yield (
            f"a link of {site.link_mbit:,.0f} Mbit/s does not suffice: each worker needs "
            f"{rates.worker_bytes_per_second * 8 / 1e6:,.0f} Mbit/s, so the run would go at "
            f"{plan.link_samples_per_second:,.0f} samples/s instead of {rates.samples_per_second:,.0f}"
        )
    elif rates.link_used > 0.7:
        yield f"each worker's link is used to {rates.link_used:.0%}: little is left for checkpoints and slow moments"
    if rates.in_flight > site.in_flight:
        yield (
            f"each worker needs {rates.in_flight:,.0f} requests in flight at {site.latency * 1000:.0f} ms, it may have "
            f"{site.in_flight}: read nearer to the store or with larger requests"
        )
    if rates.requests_per_second > _PREFIX_LIMIT:
        yield (
            f"{rates.requests_per_second:,.0f} requests/s in all: S3 gives {_PREFIX_LIMIT:,} to a prefix until it has "
            "scaled up, so expect 503 answers at the beginning (they are retried)"
        )
