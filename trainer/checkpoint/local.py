"""What a node keeps of the newest checkpoint, on its own fast disk or in memory, for a restart in the same place."""

from __future__ import annotations

import logging
import os
from contextlib import suppress

from configs import UserError
from trainer.checkpoint.shards import SHARD, write_shard
from trainer.checkpoint.staging import Tensors
from trainer.checkpoint.storage import Folder

log = logging.getLogger(__name__)


class LocalCopies:
    """Copies of the shards that this node's ranks have written, of the newest save alone.

    The checkpoint itself is never here: what a copy lacks, or what is not as the manifest says, is read from there.

    Args:
        folder: of this run on this node; its ranks share it.

    Raises:
        UserError: it is a URL of something else.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Folder(folder)
        if not self._folder.is_local:
            hint = "a folder such as /dev/shm/headway, or of a disk in the node"
            raise UserError("is not a folder of this node", where=f"checkpoint.local: {folder}", hint=hint)

    def keep(self, name: str, tensors: Tensors) -> None:
        """Write a shard of a checkpoint that is there, in place of earlier ones: these are removed first.

        No room, or whatever else goes wrong, is told of and does no harm.

        Args:
            name: of the file, the same as in the checkpoint.
            tensors: of this rank.
        """
        try:
            self._remove(but=name.rsplit("-", 1)[1])
            write_shard(self._folder, name, tensors)
        except OSError as error:
            log.warning("no copy of %s is kept in %s: %s", name, self._folder.url, error)
            with suppress(OSError):
                os.unlink(f"{self._folder.path}/{name}")

    def clear(self) -> None:
        """Remove all copies: the run is over."""
        with suppress(OSError):
            self._remove()
            os.rmdir(self._folder.path)

    def _remove(self, but: str | None = None) -> None:
        """Remove the shards of all saves, except those of one."""
        with suppress(FileNotFoundError):
            for name in os.listdir(self._folder.path):
                if SHARD.match(name) and (but is None or not name.endswith(but)):
                    with suppress(FileNotFoundError):  # another rank of this node was quicker
                        os.unlink(f"{self._folder.path}/{name}")
