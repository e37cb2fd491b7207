"""Reads every byte of a dataset again and names each member that is not what was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import UserError
from configs.store import StoreConfig
from data.keep.check import Finding, ShardCheck
from data.keep.contents import Contents, Inventory, take_stock
from data.keep.work import Tell, in_threads
from data.store import Store

Progress = Callable[[int, int], object]


@dataclass
class Report:
    """What was read and what was wrong.

    Attributes:
        url: of the dataset; `fingerprint` is empty where it never was committed.
        shards, members, bytes: how many were read.
        findings: bad members and shards, in the order of the shards.
        notes: what is odd but harms nobody.
    """

    url: str
    fingerprint: str = ""
    shards: int = 0
    members: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bad_members(self) -> list[Finding]:
        """Findings that name a member."""
        return [finding for finding in self.findings if finding.is_member]

    def write(self, path: Path) -> None:
        """Write the list as `data.quarantine` reads it: a name per line, what is wrong in a comment before it.

        Raises:
            UserError: the file cannot be written.
        """
        lines = [f"# headway data verify {self.url} (fingerprint {self.fingerprint or 'none'})"]
        for finding in self.findings:
            lines.append(f"# {finding.what}" if finding.is_member else f"# {finding.where}: {finding.what}")
            lines += [finding.where] if finding.is_member else []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
        except OSError as error:
            raise UserError(f"cannot be written ({error.strerror})", where=str(path)) from None


def verify(
    url: str,
    *,
    pixels: bool = False,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    settings: StoreConfig | None = None,
) -> Report:
    """Read every shard from end to end and compare it with what the index says; goes on to the end whatever it finds.

    Args:
        url: a dataset, or shards that never were committed.
        pixels: also decode every image and mask.
        workers: shards that are read at a time.
        progress: told (bytes read, bytes of all shards).
        settings: patience with the store.

    Raises:
        UserError: nothing there, an index that cannot be read, or a store that does not answer.
    """
    store = Store(url, settings)
    try:
        inventory = take_stock(store)
        report = Report(store.url, inventory.fingerprint, len(inventory.shards))
        report.findings += [Finding(*complaint) for complaint in inventory.complaints]
        report.notes += [f"{path} is no part of the dataset" for path in inventory.strays]
        for check in _check_all(store, inventory, pixels, workers, progress):
            report.members += check.members
            report.bytes += check.bytes
            report.findings += check.findings
            report.notes += check.notes
        return report
    finally:
        store.close()


def _check_all(store: Store, inventory: Inventory, pixels: bool, workers: int, progress: Progress) -> list[ShardCheck]:
    total = sum(contents.shard.bytes for contents in inventory.shards)

    def check(contents: Contents, tell: Tell) -> ShardCheck:
        found = ShardCheck(store, contents, pixels, tell)
        found.run()
        return found

    return in_threads(check, inventory.shards, workers, lambda done: progress(min(done, total), total))
