"""What a person at a terminal sees: help that teaches, one message for a mistake, exit codes that scripts can use."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.cli import main
from configs import load_config, presets

ROOT = Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command line, in this process."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def headway(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    command = [sys.executable, "-c", "from cluster.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, env=environment(), check=False)


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "COLUMNS": "200"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def existing_run(folder: Path, name: str = "first", *overrides: str) -> Path:
    from cluster.runs import prepare, resolve

    config = resolve(load_config("headsup-nano", [f"run.name={name}", *overrides]), folder)
    prepare(config, resume=False)
    return config.run.path


COMMANDS = [
    ["demo"],
    ["train"],
    ["resume"],
    ["reconstruct"],
    ["evaluate"],
    ["doctor"],
    ["latents"],
    ["animate"],
    ["vocabulary"],
    ["sample"],
    ["model", "describe"],
    ["config", "show"],
    ["config", "check"],
    ["config", "diff"],
    ["data", "synth"],
    ["data", "ingest", "nerfstudio"],
    ["data", "ingest", "eg3d"],
    ["data", "ingest", "openlrm"],
    ["data", "ingest", "monocular"],
    ["data", "stats"],
    ["data", "check-cameras"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert f"headway {' '.join(command)}" in out.split("Example:")[1]


def test_help_needs_none_of_the_heavy_packages() -> None:
    code = (
        "import sys; from cluster.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'deepspeed', 'pandas', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - began < 10  # a second on an idle machine


MISTAKES = [
    (["train", "headsup-nono"], "no preset or file is called 'headsup-nono'", "did you mean 'headsup-nano'?"),
    (["train", "no/such.yaml"], "no/such.yaml: no such config file", "presets: headsup-base"),
    (["train", "headsup-nano", "data.batchsize=8"], "unknown key 'data.batchsize'", "did you mean 'batch_size'?"),
    (["train", "headsup-nano", "data.batch_size=many"], "data.batch_size", "(got 'many')"),
    (["train", "headsup-nano", "data.batch_size=-4"], "data.batch_size", "greater than 0"),
    (["train", "headsup-nano", "cluster.workers=3"], "take a multiple of 3", ""),
    (["train", "headsup-nano", "steps"], "an override is key=value", "data.batch_size=8"),
    (["train", "headsup-nano", "model.system=headdown"], "no system is called 'headdown'", "headsup"),
    (["train", "headsup-nano", "--name", "../escape"], "run.name", ""),
    (["train", "headsup-nano", "--address", "127.0.0.1:1"], "no Ray cluster answers there", "HOST:PORT"),
    (["train", "headsup-nano", "--address", "nonsense"], "no Ray cluster answers there", "HOST:PORT"),
    (["train", "headsup-nano", "--address", "ray://127.0.0.1:1"], "not the address of a Ray head", "6379"),
    (["resume", "nothing"], "no run is called 'nothing'", "no runs in out/runs yet"),
    (["config", "show", "headsup-nano", "engine.zero_stage=4"], "engine.zero_stage", "(got 4)"),
    (["config", "check", "headsup-nano", "trainer={"], "not readable as YAML", ""),
    (["config", "diff", "headsup-nano", "headsup"], "no preset or file is called 'headsup'", "did you mean"),
    (["data", "synth", "out", "--rig", "5"], "5", "16"),
    (["data", "synth", "out", "--image-size", "big"], "'big' is no image size", "128x128"),
    (["data", "stats", "nowhere"], "nowhere", ""),
    (["data", "stats", "ftp://host/x"], "cannot read 'ftp' URLs", "known: file, s3, memory"),
    (["data", "stats", "s3://key:secret@bucket/x"], "credentials do not belong in a URL", "AWS_ACCESS_KEY_ID"),
    (["data", "ingest", "nerfstudio", "nowhere", "--out", "x"], "there is no such folder", ""),
]


@pytest.mark.parametrize(("arguments", "message", "hint"), MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_gives_one_message_and_exit_code_2(
    arguments: list[str], message: str, hint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert hint in err
    assert err.startswith("headway: ")
    assert "Traceback" not in err
    assert "secret" not in err


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["train"], ["train", "headsup-nano", "--speed", "9"], ["data", "synth", "x", "--subjects", "0"]],
    ids=" ".join,
)
def test_a_wrong_command_line_is_a_mistake_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "Traceback" not in err


def test_a_bug_of_ours_shows_its_traceback_and_exit_code_1(here: Path) -> None:
    code = (
        "import configs, cluster.commands.config as c\n"
        "def broken(*_): raise ZeroDivisionError('ours')\n"
        "c.load_config = broken\n"
        "from cluster.cli import main; main(['config', 'check', 'headsup-nano'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(), check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: ours" in done.stderr


def test_a_reader_that_goes_away_is_not_an_error() -> None:
    command = f"{sys.executable} -c 'from cluster.cli import main; main()' config show headsup-nano | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment(), check=False
    )
    assert done.stdout.startswith("run:")
    assert done.stderr == ""


@pytest.mark.parametrize("preset", presets())
def test_config_show_can_be_saved_and_read_back(preset: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "config", "show", preset)
    (here / "mine.yaml").write_text(out)
    assert load_config("mine.yaml") == load_config(preset)
    _, digest, _ = run(capsys, "config", "show", preset, "--hash")
    assert digest.strip() == load_config(preset).hash


def test_config_show_without_a_name_lists_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "config", "show")
    assert (code, out.split()) == (0, presets())


def test_config_diff_names_what_differs_and_tells_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "config", "diff", "headsup-small", "headsup-base")
    assert code == 1
    assert any(line.startswith("model.capacity ") and "->" in line for line in out.splitlines())
    assert run(capsys, "config", "diff", "headsup-base", "headsup-base")[:2] == (0, "")


def test_a_name_that_is_taken_by_another_config_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    existing_run(here, "first", "optimizer.learning_rate=0.5")
    code, _, err = run(capsys, "train", "headsup-nano", "--name", "first", "trainer.steps=7")
    assert code == 2
    preset = load_config("headsup-nano")
    assert f"optimizer.learning_rate: 0.5 there, {preset.optimizer.learning_rate} here" in err
    assert f"trainer.steps: {preset.trainer.steps} there, 7 here" in err
    assert "headway resume first" in err
    assert "--name OTHER" in err


def test_resume_names_the_nearest_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    existing_run(here, "firstborn")
    code, _, err = run(capsys, "resume", "firstbron")
    assert code == 2
    assert "did you mean 'firstborn'?" in err


@pytest.mark.parametrize("override", ["model.capacity=8", "model.uv_size=128", "run.name=other"])
def test_resume_refuses_what_a_checkpoint_cannot_follow(
    override: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    existing_run(here)
    code, _, err = run(capsys, "resume", "first", override)
    assert code == 2
    assert "Traceback" not in err


def test_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    done = headway("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {finding["part"]: finding for finding in json.loads(done.stdout)}
    assert findings["torch"]["verdict"] == findings["ray"]["verdict"] == "ok"
    assert all(finding["hint"] for finding in findings.values() if finding["verdict"] != "ok")


def test_doctor_never_prints_a_secret() -> None:
    import os

    env = {**environment(), "AWS_ACCESS_KEY_ID": "AKIAHUNTER", "AWS_SECRET_ACCESS_KEY": "hunter2"}
    command = [sys.executable, "-c", "from cluster.doctor import _storage; print(list(_storage()))"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}, check=True)
    assert "credentials from env" in done.stdout
    assert "hunter" not in done.stdout.lower()
