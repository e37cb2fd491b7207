"""How bytes are fetched from a store: patience and speed, never what comes out."""

from __future__ import annotations

from pydantic import Field

from configs.section import Section


class StoreConfig(Section):
    """Requests to object storage. Local folders need none of it."""

    in_flight: int = Field(default=96, gt=0, description="requests at a time in each process")
    deadline: float = Field(
        default=60.0, gt=0, description="seconds for one read, retries included, while the store is up"
    )
    patience: float = Field(default=900.0, ge=0, description="seconds to wait for a store that does not answer at all")
    timeout: float = Field(default=30.0, gt=0, description="seconds after which one request is repeated")
    hedge: bool = Field(default=True, description="ask a second time for what is slower than 95 % of requests")
    cache_dir: str | None = Field(
        default=None, description="local folder that keeps what was fetched, for later epochs"
    )
    cache_gb: float = Field(default=100.0, gt=0, description="bytes kept there by all processes together, GB")
