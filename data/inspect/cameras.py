"""Are these cameras right, and if not, which convention are they likely in?

Every hypothesis is a repair of a well-known mistake (`data.inspect.hypotheses`). It is scored by what the images show
(`data.inspect.evidence`): silhouettes against their visual hull, colours of neighbouring views on it, keypoints. The
simplest hypothesis among the best wins; the world's frame is then measured under it (`data.inspect.frame`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.capture import Capture, camera_centers
from data.dataset import Dataset
from data.ingest.hull import meeting_point
from data.ingest.nerfstudio import read_as_given
from data.inspect.evidence import color_agreement, keypoint_agreement, looked_at_surfaces, silhouette_agreement
from data.inspect.frame import Check, Placement, check_frame
from data.inspect.hypotheses import FIXES, NERFSTUDIO_FIXES, Fix, Hypothesis, hypotheses, upper_triangular
from data.inspect.observed import Observed, observe

_MARGIN = 0.04  # by which a repair must be better than the cameras as given
_LEAST, _LEAST_COLORS = 0.6, 0.3
_OUTLIER = 0.15


@dataclass(frozen=True)
class Score:
    """What speaks for cameras: each in [0, 1] or NaN where there is no such evidence.

    Attributes:
        silhouettes: overlap of masks and their hull.
        colors: correlation of neighbouring views.
        keypoints: keypoints on the person, or where they were seen.
        lens: 1 for square pixels and a centred principal point, as almost all cameras have.
        worst, worst_share: the view with the least overlap of its mask.
    """

    silhouettes: float = float("nan")
    colors: float = float("nan")
    keypoints: float = float("nan")
    lens: float = 1.0
    worst: int | None = None
    worst_share: float = float("nan")

    @property
    def total(self) -> float:
        """Product; of the colours the square root, because they are never the same in two views. NaN for nothing."""
        parts = [self.silhouettes, float(np.sqrt(np.maximum(self.colors, 0.0))), self.keypoints]
        known = [part for part in parts if np.isfinite(part)]
        return float(np.prod(known)) * self.lens if known else float("nan")


@dataclass(frozen=True)
class Verdict:
    """The findings on one capture.

    Attributes:
        capture: its name.
        checks: what was looked at, in order.
        ranked: hypotheses with their scores, best first.
        best: the likely cameras: as given, or repaired.
        placement: where the canonical head is in the world of the best cameras.
    """

    capture: str
    checks: list[Check]
    ranked: list[tuple[Hypothesis, Score]]
    best: Hypothesis
    placement: Placement

    @property
    def right(self) -> bool:
        """Whether nothing was found wrong."""
        return all(check.good is not False for check in self.checks)

    @property
    def wrong(self) -> tuple[str, ...]:
        """Names of the likely mistakes, such as `camera-to-world` or `unit`; `convention` for an unknown one."""
        fixes = tuple(fix.name for fix in self.best.fixes)
        found = [check.name for check in self.checks if check.good is False]
        return fixes + tuple(name for name in found if not (fixes and name == "convention"))

    @property
    def advice(self) -> str:
        """The likely repair in one sentence."""
        return "; ".join(check.advice for check in self.checks if check.good is False and check.advice)

    def lines(self, most: int = 4) -> Iterator[str]:
        """A line per check, the best hypotheses, and the verdict."""
        yield f"capture {self.capture}"
        for check in self.checks:
            mark = {True: "right", False: "WRONG", None: "  ?  "}[check.good]
            yield f"  {mark}  {check.name:<11} {check.text}"
        for place, (hypothesis, score) in enumerate(self.ranked[:most]):
            parts = {"silhouettes": score.silhouettes, "colours": score.colors, "keypoints": score.keypoints}
            known = ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if np.isfinite(value))
            yield f"    {place + 1}. {score.total:.2f}  {hypothesis.name} ({known})"
        yield f"  verdict: {'the cameras are right' if self.right else 'likely wrong: ' + self.advice}"


def check_capture(capture: Capture, raw: bool = False) -> Verdict:
    """Judge one capture's cameras.

    Args:
        capture: validated or not; see `data.inspect.observed.observe`.
        raw: as a nerfstudio file gives it: mistakes are told from the file's side, and up, unit, origin and front are
            left to the importer. Otherwise the world is said to be the canonical head frame in metres.

    Raises:
        UserError: what no convention explains (NaN, a singular or mirrored rotation), or a broken image, by name.
    """
    seen = observe(capture, canonical=not raw)
    scored = _rank(seen, NERFSTUDIO_FIXES if raw else FIXES)
    given = scored[0]
    usable = [pair for pair in scored if np.isfinite(pair[1].total)]
    ranked = sorted(usable, key=lambda pair: -pair[1].total + 0.01 * len(pair[0].fixes))
    best = ranked[0] if ranked else given
    sure = np.isfinite(best[1].silhouettes) or (np.isfinite(best[1].keypoints) and len(seen.cameras) > 2)
    margin = _MARGIN if sure else 2 * _MARGIN
    if not best[0].fixes or best[1].total - np.nan_to_num(given[1].total) < margin:
        best = given
    chosen = seen.with_cameras(best[0].world_to_camera, best[0].K)
    checks = [_check_front_of(seen), _check_convention(best, ranked, len(seen.cameras))]
    checks += _check_evidence(best, seen)
    frame, placement = check_frame(chosen)
    checks += [] if raw else frame
    return Verdict(capture.name, [check for check in checks if check is not None], ranked, best[0], placement)


def captures_at(location: str, most: int) -> Iterator[tuple[Capture, bool]]:
    """Captures to look at, and whether they are raw (see `check_capture`).

    Args:
        location: a nerfstudio folder, whose own cameras are taken as they are; `DATASET_URL`, of which `most` captures
            spread over it are taken; or `DATASET_URL#capture`.
        most: of a dataset.

    Raises:
        UserError: nothing there.
    """
    url, _, name = location.partition("#")
    if "://" not in url and not name and not (Path(url) / "dataset.json").is_file():
        yield read_as_given(url), True
        return
    with Dataset.open(url) as dataset:
        names = dataset.captures if not name else [name]
        chosen = sorted({round(place) for place in np.linspace(0, len(names) - 1, min(most, len(names)))})
        for place in chosen:
            yield dataset.capture(names[place]), False


def score(seen: Observed) -> Score:
    """What speaks for these cameras; nothing for a K that is no pinhole's."""
    if not upper_triangular(seen.K):
        return Score(0.0, 0.0, 0.0)
    keypoints, lens = keypoint_agreement(seen), _lens(seen)
    silhouettes = seen.silhouettes()
    if silhouettes is not None:
        shares, surface = silhouette_agreement(silhouettes)
        worst = int(np.argmin(shares))
        colors = color_agreement(seen, surface) if surface is not None else 0.0
        return Score(float(shares.mean()), colors, keypoints, lens, worst, float(shares[worst]))
    if len(seen.cameras) < 2:
        return Score(keypoints=keypoints, lens=lens)
    found = [color_agreement(seen, surface) for surface in looked_at_surfaces(seen)]
    colors = max((value for value in found if np.isfinite(value)), default=float("nan") if found else 0.0)
    return Score(colors=colors, keypoints=keypoints, lens=lens)


def _lens(seen: Observed) -> float:
    size = np.array([(width, height) for height, width in seen.sizes], np.float64)
    away = float(np.median(np.abs(seen.K[:, :2, 2] / size - 0.5).max(axis=1)))
    stretch = float(np.median(np.abs(np.log(seen.K[:, 0, 0] / seen.K[:, 1, 1]))))
    return 1.0 - 0.1 * min(1.0, away / 0.15) - 0.1 * min(1.0, stretch / 0.1)


def _rank(seen: Observed, fixes: tuple[Fix, ...]) -> list[tuple[Hypothesis, Score]]:
    """All hypotheses, the cameras as given first; colours count for all or, where they tell nothing, for none."""
    scored = [(one, score(seen.with_cameras(one.world_to_camera, one.K))) for one in hypotheses(seen, fixes)]
    clearest = max(scored, key=lambda pair: np.nan_to_num(pair[1].silhouettes, nan=-1.0))[1]
    flat = np.isfinite(clearest.silhouettes) and np.isnan(clearest.colors)
    flat |= all(not found.colors > 0 for _, found in scored)
    return [(one, replace(found, colors=np.nan if flat else np.nan_to_num(found.colors))) for one, found in scored]


def _check_front_of(seen: Observed) -> Check | None:
    if len(seen.cameras) < 2:
        return None
    centers, axes = camera_centers(seen.world_to_camera), seen.world_to_camera[:, 2, :3]
    middle = meeting_point(centers, axes)
    toward = middle - centers
    along = (toward * axes).sum(axis=1)
    behind = [camera for camera, depth in zip(seen.cameras, along, strict=True) if depth <= 0]
    missed = np.linalg.norm(toward - along[:, None] * axes, axis=1)
    share = float(np.median(missed) / max(1e-12, float(np.median(np.abs(along)))))
    text = f"the optical axes pass within {share:.0%} of their length of one point"
    if behind:
        some = ", ".join(behind[:3]) + (", ..." if len(behind) > 3 else "")
        text += f", which lies behind {len(behind)} of {len(seen.cameras)} cameras ({some})"
    return Check("in front", None if behind else True, text)


def _check_convention(best: tuple[Hypothesis, Score], ranked: list[tuple[Hypothesis, Score]], count: int) -> Check:
    hypothesis, found = best
    if not ranked:
        what = "no mask" if count > 1 else "one view"
        return Check("convention", None, f"{what} and no keypoints: nothing to compare the cameras with")
    if hypothesis.fixes:
        gain = f"{found.total:.2f}, as given {_given(ranked):.2f}"
        return Check("convention", False, f"{hypothesis.name}: {gain}", hypothesis.advice)
    floor = _LEAST_COLORS**0.5 if np.isnan(found.silhouettes) and np.isnan(found.keypoints) else _LEAST
    if not found.total >= floor:
        advice = "no convention known here explains the images; is the calibration of another session or order?"
        return Check("convention", False, f"as given {found.total:.2f}, and nothing better is known", advice)
    return Check("convention", True, f"as given {found.total:.2f}; the next best explains the images less")


def _given(ranked: list[tuple[Hypothesis, Score]]) -> float:
    return next((found.total for one, found in ranked if not one.fixes), 0.0)


def _check_evidence(best: tuple[Hypothesis, Score], seen: Observed) -> list[Check]:
    """One camera among right ones."""
    found = best[1]
    if found.worst is None or not found.silhouettes >= _LEAST:
        return []
    masked = [name for name, mask in zip(seen.cameras, seen.masks, strict=True) if mask is not None and mask.any()]
    camera = masked[found.worst]
    text = f"masks and their hull overlap by {found.silhouettes:.1%}, least in camera {camera}: {found.worst_share:.1%}"
    if found.silhouettes - found.worst_share <= _OUTLIER:
        return [Check("silhouettes", True, text)]
    advice = f"camera {camera} does not fit the others: is its calibration of another session, or its mask wrong?"
    return [Check("silhouettes", False, text, advice)]
