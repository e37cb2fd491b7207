"""Bytes beneath one URL: ranged reads that are verified, hedged, cached and patient; writes that appear whole."""

from data.store.errors import BadMember, StoreError
from data.store.ranges import Buffer, Cost, Range, Span, coalesce
from data.store.reader import Traffic
from data.store.store import Store

__all__ = ["BadMember", "Buffer", "Cost", "Range", "Span", "Store", "StoreError", "Traffic", "coalesce"]
