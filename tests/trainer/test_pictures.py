"""Moving pictures, by the ending of their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from configs import UserError
from trainer.pictures import check_animation, save_animation


def test_a_video_shows_the_frames_in_their_order_and_time(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    levels = torch.linspace(0.2, 0.9, 12)
    frames = levels[:, None, None, None] * torch.tensor([1.0, 0.6, 0.3])[:, None, None].expand(3, 48, 64)
    save_animation(frames, tmp_path / "clip.mp4", seconds=0.5)
    video = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(24)
    read = []
    while (found := video.read())[0]:
        read.append(found[1][:, :, ::-1] / 255)
    assert np.abs(np.stack(read) - frames.permute(0, 2, 3, 1).numpy()).mean() < 0.02


def test_what_cannot_be_written_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"clip\.gif: is no \.webp or \.mp4 file"):
        save_animation(torch.zeros(2, 3, 8, 8), tmp_path / "clip.gif")
    monkeypatch.setattr("trainer.pictures.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"install headway\[ingest\]"):
        check_animation(tmp_path / "clip.mp4")
    check_animation(tmp_path / "clip.webp")
