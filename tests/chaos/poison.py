"""A sample that goes bad in the store while a job streams from it, and that the job has not seen before."""

from __future__ import annotations

from numpy.random import Generator

from data.dataset import Dataset
from data.sampling import Sample
from data.stream import sampler_of
from tests.chaos.job import Job

AHEAD_STEPS = 12
"""What a job may have read ahead of the step that it last reported."""


def poison(job: Job, draw: Generator) -> str:
    """Overwrite an image that is first needed later than the job has read.

    A run that meets it from the beginning goes the same way as this one, so the two can be compared.

    Returns:
        The member's name, as the quarantine gives it.
    """
    config = job.config
    with Dataset.open(str(job.data.local)) as dataset:
        sampler = sampler_of([dataset], config.data, config.run.seed)
        batch, last = config.data.batch_size, config.trainer.steps - 5
        seen, fresh = set[tuple[int, int]](), list[tuple[int, int]]()
        for step in range(last):
            views = {view for sample in sampler.samples(step * batch, step * batch, batch) for view in _views(sample)}
            if step > job.step + AHEAD_STEPS:
                fresh += sorted(views - seen)
            seen |= views
        row, view = fresh[int(draw.integers(len(fresh)))]
        member = dataset.members(row, [view])[0].image
    client, bucket = job.site.store.client(), job.data.bucket
    shard = bytearray(client.get_object(Bucket=bucket, Key=member.path)["Body"].read())
    middle = member.offset + member.length // 2
    shard[middle : middle + 16] = bytes(byte ^ 0xFF for byte in shard[middle : middle + 16])
    client.put_object(Bucket=bucket, Key=member.path, Body=bytes(shard))
    return member.member


def _views(sample: Sample) -> list[tuple[int, int]]:
    source = [(sample.source_row, view) for view in sample.source]
    return source + [(sample.target_row, view) for view in sample.target]
