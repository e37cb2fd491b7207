"""The hub without Ray around it."""

from __future__ import annotations

from typing import Any

from cluster.hub import Hub


class Direct:
    """A hub whose methods are called where they stand, with an actor handle's manners."""

    def __init__(self) -> None:
        self.hub = Hub()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.hub, name)
        return type("Method", (), {"remote": staticmethod(method)})
