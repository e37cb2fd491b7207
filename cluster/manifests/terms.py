"""What a run in an image checks before it trains (`cluster.arrival`)."""

from __future__ import annotations

import json


def terms() -> str:
    """Wait for the cluster's other machines; versions are the image's own affair."""
    return json.dumps({"wait": True, "versions": {}}) + "\n"
