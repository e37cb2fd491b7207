"""What datasets of captures and sets of latents have in common: a store, an index of it, and people."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Generic, Protocol, Self, TypeVar

from numpy.typing import NDArray

from configs.errors import UserError
from configs.store import StoreConfig
from data.store import Buffer, Range, Store, Traffic


class SubjectIndex(Protocol):
    """An index of rows that belong to people."""

    def __len__(self) -> int: ...

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everybody in it."""
        ...

    def rows_of(self, subject: int) -> NDArray[Any]:
        """Rows of the subject of this number."""
        ...

    def text(self, column: str, row: int) -> str:
        """A cell."""
        ...


class Named(Protocol):
    """What is said of a set."""

    @property
    def url(self) -> str:
        """Where it lies."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the content."""
        ...


IndexT = TypeVar("IndexT", bound=SubjectIndex)
InfoT = TypeVar("InfoT", bound=Named)


class StoredSet(ABC, Generic[IndexT, InfoT]):
    """Safe to share between threads, to fork and to pickle: it travels as its URL.

    Attributes:
        index: every row and member.
        info: the numbers, licence and origin.
    """

    def __init__(self, store: Store, index: IndexT, info: InfoT, verify: bool = True) -> None:
        self._store, self._verify = store, verify
        self.index, self.info = index, info

    @staticmethod
    @abstractmethod
    def read(store: Store) -> tuple[Any, Any]:
        """The index and the info that lie in a store.

        Raises:
            UserError: they do not, or are not what was committed.
        """

    @classmethod
    def open(
        cls, url: str, *, verify: bool = True, fingerprint: str | None = None, settings: StoreConfig | None = None
    ) -> Self:
        """Read the index.

        Args:
            url: a folder, `file://`, `s3://` or `memory://`.
            verify: compare every member read with its checksum.
            fingerprint: what the set's must be.
            settings: patience with the store and speed.

        Raises:
            UserError: nothing of this kind there, or another one; both fingerprints are named.
        """
        return cls.of(Store(url, settings), verify=verify, fingerprint=fingerprint)

    @classmethod
    def of(cls, store: Store, *, verify: bool = True, fingerprint: str | None = None) -> Self:
        """As `open`, with a store that is there already, and is closed if it holds nothing of this kind."""
        try:
            index, info = cls.read(store)
            if fingerprint not in (None, info.fingerprint):
                raise UserError(f"it has fingerprint {info.fingerprint}, not {fingerprint}", where=store.url)
        except BaseException:
            store.close()
            raise
        return cls(store, index, info, verify)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self.url, self._verify, self.fingerprint, self._store.settings)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.info.url

    @property
    def fingerprint(self) -> str:
        """Names the content, whatever the place."""
        return self.info.fingerprint

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everybody in it."""
        return self.index.subjects

    def captures_of(self, subject: str) -> list[str]:
        """Names of one subject's captures."""
        if subject not in self.subjects:
            raise UserError(f"no subject is called '{subject}'", where=self.url)
        return [self.index.text("name", int(row)) for row in self.index.rows_of(self.subjects.index(subject))]

    def fetch(self, ranges: Sequence[Range]) -> Future[list[Buffer]]:
        """Members' bytes, verified unless the set was opened otherwise; as `Store.fetch`."""
        return self._store.fetch(ranges, self._verify)

    @property
    def traffic(self) -> Traffic:
        """What this process has asked of the store."""
        return self._store.traffic

    def close(self) -> None:
        """Drop this process's connections; the set may be used again."""
        self._store.close()


def _reopen(
    kind: type[StoredSet[Any, Any]], url: str, verify: bool, fingerprint: str, settings: StoreConfig
) -> StoredSet[Any, Any]:
    return kind.open(url, verify=verify, fingerprint=fingerprint, settings=settings)
