"""What a dataset holds: the numbers against captures that are known, the picture as a picture."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from cluster.cli import main
from data.inspect import summary as module
from data.inspect.rig_picture import draw_dataset
from data.inspect.summary import size, summarise


def lines(dataset) -> dict[str, str]:
    return dict(line.split("  ", 1) for line in summarise(dataset).lines() if "  " in line)


def test_the_numbers_are_those_of_the_captures(make_dataset):
    dataset = make_dataset(5, views=6)
    found = summarise(dataset)
    captures = [dataset.capture(name) for name in dataset.captures]
    assert found.views == Counter({6: 5})
    assert found.frames == Counter({1: 5})
    assert found.sizes == Counter({(48, 40): 30})
    assert found.formats == Counter({"jpg": 30})
    assert found.masked == 1.0
    assert found.expressions == 1.0
    assert found.rigs == 5
    assert found.rig[1] == 1
    assert found.image_bytes == pytest.approx(np.mean([len(image) for c in captures for image in c.images]))
    assert found.mask_bytes == pytest.approx(np.mean([len(mask or b"") for c in captures for mask in c.masks]))


def test_the_text_tells_shares_and_counts(make_dataset):
    found = lines(make_dataset(5, views=6))
    assert found["images"].startswith(" ") or "100 % jpg" in found["images"]
    assert "6 in all" in found["views per capture"]
    assert "100 % 40 x 48 (width x height)" in found["image sizes"]
    assert "100 % of the views" in found["masks"]
    assert "CC0-1.0" in found["licence"]


def test_a_dataset_without_masks_says_so(make_dataset):
    dataset = make_dataset(2, views=6, masks=(None,) * 6)
    assert summarise(dataset).masked == 0.0
    assert lines(dataset)["masks"].strip() == "0 % of the views"


def test_a_large_dataset_is_sampled_and_says_so(make_dataset, monkeypatch):
    dataset = make_dataset(6)
    monkeypatch.setattr(module, "MOST", 3)
    found = summarise(dataset)
    assert (found.looked_at, sum(found.views.values())) == (3, 6)
    assert "of 3 captures" in list(found.lines())[-1]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1400, "1.4 kB"), (5.06e6, "5.06 MB"), (3e15, "3e+03 TB")]
)
def test_sizes_are_for_people(count, text):
    assert size(count) == text


def test_the_picture_shows_head_cameras_and_bars(make_dataset):
    data = draw_dataset(summarise(make_dataset(3)))
    assert len(data) < 300_000
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert pixels.shape[1] > 1000
    for color in ((0xCD, 0xB8, 0xA6), (0x5B, 0x84, 0xB1)):  # the head and the bars
        assert (np.abs(pixels - color).max(axis=2) < 6).sum() > 500


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_the_commands_print_write_and_exit(make_dataset, tmp_path, capsys):
    dataset = make_dataset(2)
    code, out, _ = run(capsys, "data", "stats", dataset.url, "--picture", str(tmp_path / "new/rig.png"))
    assert code == 0
    assert "picture:" in out
    assert Image.open(tmp_path / "new/rig.png").format == "PNG"
    # Blocks of random colours and masks fit no cameras at all.
    code, out, _ = run(
        capsys, "data", "check-cameras", dataset.url, "--out", str(tmp_path / "c.png"), "--captures", "1"
    )
    assert code == 1
    assert out.count("verdict: likely wrong") == 1
    assert Image.open(tmp_path / "c.png").format == "PNG"


@pytest.mark.parametrize("command", ["stats", "check-cameras"])
def test_no_dataset_is_one_message(command, tmp_path, capsys):
    code, _, err = run(capsys, "data", command, str(tmp_path / "nowhere"))
    assert code == 2
    assert "nowhere" in err
    assert "Traceback" not in err


def test_a_picture_that_cannot_be_written_is_one_message(make_dataset, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "data", "stats", make_dataset(1).url, "--picture", str(tmp_path / "file/rig.png"))
    assert code == 2
    assert "cannot be written" in err
