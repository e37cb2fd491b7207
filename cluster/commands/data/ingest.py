"""`headway data ingest`: captures of other data sets and tools, one command per format."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from data.ingest.job import Format

app = typer.Typer(
    no_args_is_help=True,
    help="Convert captures of other data sets and tools: in parallel, going on where it stopped, from and to "
    "folders or object storage.",
    rich_markup_mode="markdown",
)

Lenses = Annotated[Literal["undistort", "ignore"], typer.Option(help="straighten the images, or keep bytes and error")]
Quality = Annotated[int, typer.Option(min=1, max=100, help="of JPEGs that are written anew")]


def convert(
    format: Format,
    source: Annotated[str, typer.Argument(help="where the data lie: a folder, file:// or s3://; read in place")],
    out: Annotated[str, typer.Option(help="dataset to write: a folder, file:// or s3://")],
    subjects: Annotated[str, typer.Option(help="only these: names or patterns, such as 306,31*")] = "",
    first: Annotated[int, typer.Option(min=0, help="at most so many subjects, the first by name; 0 for all")] = 0,
    cameras: Annotated[str, typer.Option(help="only these: names or patterns, with commas between")] = "",
    every: Annotated[int, typer.Option(min=1, help="every n-th frame of a sequence")] = 1,
    frames: Annotated[int, typer.Option(min=0, help="at most so many frames of a sequence; 0 for all")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="processes; the result does not depend on it")] = 1,
    per_shard: Annotated[int, typer.Option(min=1, help="captures after which a shard is full")] = 64,
    licence: Annotated[str, typer.Option(help="travels with the dataset")] = "unknown",
    keep_going: Annotated[bool, typer.Option(help="leave broken parts out and name them in the dataset")] = False,
) -> None:
    """Run an importer with a bar, or lines where there is no terminal, and print what came out."""
    from rich.console import Console

    from cluster.display import counter
    from data.ingest.job import Selection, ingest

    console = Console(highlight=False)
    select = Selection(
        subjects=names(subjects),
        most_subjects=first or None,
        every=every,
        most_frames=frames or None,
        cameras=names(cameras),
    )
    with counter("captures", console) as progress:
        info = ingest(
            format,
            source,
            out,
            select=select,
            workers=workers,
            per_shard=per_shard,
            licence=licence,
            keep_going=keep_going,
            progress=progress,
            report=lambda line: console.print(line, markup=False, soft_wrap=True),
        )
    for name, error in info.provenance.get("skipped", {}).items():
        print(f"left out: {name}: {error}")
    print(f"{info.url}: {info.subjects} subjects, {info.captures} captures, fingerprint {info.fingerprint}")


def names(text: str) -> tuple[str, ...]:
    """`a,b*` as its parts."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def format_command(name: str) -> Callable[[Callable[..., Format]], Callable[..., Format]]:
    """Make a command of a function whose parameters are a format's options; those of `convert` are added to them."""

    def register(make: Callable[..., Format]) -> Callable[..., Format]:
        own, common = _parameters(make), list(_parameters(convert).values())[1:]

        def command(**values: Any) -> None:
            options = {key: values.pop(key) for key in own}
            convert(make(**options), **values)

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [p.replace(kind=keyword) for p in (*common[:2], *own.values(), *common[2:])]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__doc__ = make.__doc__
        app.command(name)(command)
        return make

    return register


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    # Format is known to type checkers only: importing it here would cost every command a second.
    return inspect.signature(function, locals={"Format": object}, eval_str=True).parameters


@format_command("nerfstudio")
def nerfstudio(
    front: Annotated[str, typer.Option(help="name of the camera that sees the face, where masks do not tell")] = "",
) -> Format:
    """Convert nerfstudio captures (transforms.json) or Blender ones (transforms_train.json, ...).

    SOURCE is a capture or a folder of captures. Cameras are turned from OpenGL camera-to-world to OpenCV
    world-to-camera, and the scene is moved, turned and scaled to the canonical head frame. Frames with a
    `timestep_index` become one capture per time step.

    **Example:** `headway data ingest nerfstudio captures/anna --out out/data/anna`
    """
    from data.ingest.nerfstudio import Nerfstudio

    return Nerfstudio(front or None)


@format_command("nersemble")
def nersemble(
    sequences: Annotated[str, typer.Option(help="only these: names or patterns, such as EXP-*,FREE")] = "",
    colour: Annotated[bool, typer.Option(help="correct colours by the chart's polynomial")] = True,
    masks: Annotated[
        Literal["alpha", "background", "none"],
        typer.Option(help="alpha maps; or else a rough difference to the empty studio; or none"),
    ] = "alpha",
    downscale: Annotated[int, typer.Option(min=1, help="images so many times smaller")] = 1,
    quality: Quality = 95,
) -> Format:
    """Convert NeRSemble v2 or its benchmark (multi-view videos).

    SOURCE holds `017/calibration/camera_params.json`, `017/calibration/color_calibration.json` (optional),
    `017/sequences/NAME/images/cam_SERIAL.mp4` and, where they are there, `alpha_maps/cam_SERIAL.mp4` and
    `tracking/flame2023_tracking_v2.npz` beside `images`. A person's sequence is converted as a whole.

    **Example:** `headway data ingest nersemble s3://heads/nersemble --out out/data/nersemble --sequences "EXP-*"
    --every 24 --workers 8`
    """
    from data.ingest.nersemble import Nersemble

    return Nersemble(names(sequences), colour, masks, downscale, quality)


@format_command("ava256")
def ava256(
    segments: Annotated[str, typer.Option(help="only these: names or patterns, such as EXP_*")] = "",
    lenses: Lenses = "undistort",
    quality: Quality = 95,
) -> Format:
    """Convert Ava-256 (zips of AVIF images by camera).

    SOURCE holds `m--DATE--TIME--SUBJECT--GHS/decoder/` with `camera_calibration.json`, `frame_list.csv`,
    `head_pose/head_pose.zip` and `image/camID.zip`; the zips are read in place. Cameras become relative to the head.

    **Example:** `headway data ingest ava256 s3://heads/ava-256 --out s3://heads/shards/ava --every 10 --workers 8`
    """
    from data.ingest.ava256 import Ava256

    return Ava256(names(segments), lenses, quality)


@format_command("renderme360")
def renderme360(
    parts: Annotated[str, typer.Option(help="only these: names or patterns, such as e* for expressions")] = "",
    extrinsics: Annotated[
        Literal["auto", "world_to_camera", "camera_to_world"], typer.Option(help="what RT is; auto asks the keypoints")
    ] = "auto",
    lenses: Lenses = "undistort",
    quality: Quality = 95,
) -> Format:
    """Convert RenderMe-360 (SMC files, which are HDF5).

    SOURCE holds pairs `0026_e0_raw.smc` and `0026_e0_anno.smc`, in folders or not; they are read in place. Expression
    parts have a FLAME fit, which tells the head's frame; for the others masks and rig do.

    **Example:** `headway data ingest renderme360 smc --out out/data/renderme --parts "e*" --every 5 --workers 8`
    """
    from data.ingest.renderme360 import RenderMe360

    return RenderMe360(names(parts), extrinsics, lenses, quality)


@format_command("eg3d")
def eg3d(
    mirrors: Annotated[bool, typer.Option(help="mirrored copies too, as a second frame of the same person")] = True,
) -> Format:
    """Convert image sets with EG3D's labels (FFHQ and others; one view per person).

    SOURCE holds `dataset.json` ({"labels": [["00000/img00000000.png", [25 numbers]], ...]}) and the images it names, or
    one zip of them, or is that zip; zips are read in place. A label is a camera-to-world matrix and K in shares of the
    image.

    **Example:** `headway data ingest eg3d s3://heads/FFHQ_512.zip --out out/data/ffhq --workers 8`
    """
    from data.ingest.eg3d import Eg3d

    return Eg3d(mirrors)


@format_command("openlrm")
def openlrm(
    up: Annotated[Literal["z", "y"], typer.Option(help="the world's axis that is up; Blender's is z")] = "z",
    front: Annotated[
        str, typer.Option(help="view that looks straight at the face, such as 000, where -y does not")
    ] = "",
    metric: Annotated[bool, typer.Option("--metric", help="the unit is m, dm, cm or mm, not arbitrary")] = False,
) -> Format:
    """Convert objects rendered for OpenLRM, LGM and their like.

    SOURCE holds `OBJECT/rgba/000.png`, `OBJECT/pose/000.npy` (camera-to-world, Blender's axes) and
    `OBJECT/intrinsics.npy`, at any depth. Alpha is the mask.

    **Example:** `headway data ingest openlrm renders --out out/data/renders --workers 8`
    """
    from data.ingest.openlrm import OpenLrm

    return OpenLrm(up, front, metric)


@format_command("monocular")
def monocular(
    fov: Annotated[float, typer.Option(help="horizontal field of view in degrees, where the npz has no camera")] = 0.0,
    origin: Annotated[str, typer.Option(help="x,y,z of FLAME that becomes the head's origin")] = "0,0,0",
    root_joint: Annotated[str, typer.Option(help="x,y,z of FLAME's root joint; else the npz's, or an estimate")] = "",
    neck_joint: Annotated[str, typer.Option(help="x,y,z of FLAME's neck joint; else the npz's, or an estimate")] = "",
    quality: Quality = 95,
) -> Format:
    """Convert clips of one head with tracked FLAME parameters (CelebV-HQ, VFHQ, VHAP, GaussianAvatars).

    SOURCE holds `CLIP.mp4` beside `CLIP.npz`, or `CLIP/images/00000.png` (and `CLIP/masks/00000.png`) beside
    `CLIP/tracked_flame_params_30.npz`, at any depth. Every frame becomes a capture of one view, its camera relative to
    the head.

    **Example:** `headway data ingest monocular clips --out out/data/clips --every 5 --fov 20`
    """
    from data.ingest.flame import vector
    from data.ingest.monocular import Monocular

    joints = (vector(root_joint, "--root-joint"), vector(neck_joint, "--neck-joint"))
    return Monocular(fov, vector(origin, "--origin") or (0.0, 0.0, 0.0), *joints, quality)
