"""The same over s3://: an S3 server in this process, and a real gateway where one can be started."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from configs import UserError
from configs.schema import DataConfig
from configs.store import StoreConfig
from data import CaptureStream, Dataset
from data.sequential import read_sequential
from data.store import BadMember, Store, StoreError
from tests.data.s3 import make_bucket

CONFIG = DataConfig(batch_size=2, image_size=(24, 20), source_views=(2, 2), target_views=2, readers=2)


def first_batch(dataset: Dataset):
    with CaptureStream(dataset, CONFIG, seed=0, rank=0, world_size=1) as stream:
        return next(stream).unpack()


def test_a_dataset_in_s3_is_the_one_on_disk(make_dataset, bucket):
    far, near = make_dataset(5, url=f"{bucket}/sets/train"), make_dataset(5)
    assert far.fingerprint == near.fingerprint
    one, two = first_batch(far), first_batch(near)
    assert one.names == two.names
    assert torch.equal(one.source.images, two.source.images)
    assert torch.equal(one.target.cameras.K, two.target.cameras.K)
    assert [c.name for c in read_sequential(far)] == near.captures
    far.close()


def test_a_byte_flipped_in_s3_is_named(make_dataset, bucket):
    dataset = make_dataset(1, url=f"{bucket}/x")
    store, path = Store(dataset.url), dataset.index.shards[0].path
    data = bytearray(store.read(path))
    data[dataset.index.sample_range(0).offset + 3] ^= 1
    store.write(path, bytes(data))
    store.close()
    with pytest.raises(BadMember, match=r"shards/000000\.tar, member person000_0\.json: its checksum"):
        dataset.capture("person000")


def test_what_is_not_there_is_named_without_secrets(bucket):
    with pytest.raises(UserError, match="there is no dataset here") as caught:
        Dataset.open(f"{bucket}/nothing")
    assert "very-secret-key" not in str(caught.value)


def test_a_server_that_is_gone_is_named_at_the_deadline(monkeypatch, s3_server):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    store = Store("s3://bucket/x", StoreConfig(deadline=1.0))
    with pytest.raises(StoreError, match="did not answer") as caught:
        store.read("dataset.json")
    assert "very-secret-key" not in str(caught.value)
    store.close()


def test_a_store_without_credentials_says_so_at_once(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    threads = threading.active_count()
    with pytest.raises(StoreError, match="there are no credentials"):
        Dataset.open(f"{bucket}/set")
    assert threading.active_count() <= threads


def test_credentials_of_a_profile_are_found(make_dataset, bucket, monkeypatch, tmp_path):
    make_dataset(1, url=f"{bucket}/set")
    keys = (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    listed = tmp_path / "credentials"
    listed.write_text(f"[default]\naws_access_key_id = {keys[0]}\naws_secret_access_key = {keys[1]}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(listed))
    with Dataset.open(f"{bucket}/set") as dataset:
        assert dataset.capture("person000").images


def test_a_forked_child_makes_its_own_client(make_dataset, bucket):
    dataset = make_dataset(2, url=f"{bucket}/fork")
    expected = first_batch(dataset).names
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if first_batch(dataset).names == expected else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert first_batch(dataset).names == expected


def test_closed_datasets_leave_no_threads_and_no_descriptors(make_dataset, bucket):
    url = make_dataset(2, url=f"{bucket}/leak").url
    code = (
        "import os, threading; from tests.data.test_s3 import Dataset, first_batch\n"
        "for turn in range(8):\n"
        f"    with Dataset.open({url!r}) as dataset: first_batch(dataset)\n"
        "    print(threading.active_count(), len(os.listdir('/proc/self/fd')))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    threads, files = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert set(threads) == {1}
    assert min(files[4:]) <= max(files[:4])  # one left open at every turn would be four more


def test_a_process_that_read_from_s3_ends_cleanly(make_dataset, bucket):
    url = make_dataset(2, url=f"{bucket}/exit").url
    code = f"from data import Dataset; print(len(Dataset.open({url!r}).capture('person001').images))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "6"), done.stderr
    assert "very-secret-key" not in done.stderr


@pytest.mark.slow
def test_the_same_with_a_real_gateway(make_dataset, shared: Path, tmp_path, monkeypatch):
    start = shared / "bin" / "radosgw-up"
    if not start.is_file() or not all(shutil.which(tool) for tool in ("radosgw", "ceph-mon", "ceph-osd", "curl")):
        pytest.skip("needs Ceph's RADOS gateway")
    folder = str(tmp_path / "ceph")
    up = subprocess.run([str(start), folder, "9304"], capture_output=True, text=True, check=True, timeout=180)
    try:
        settings = up.stdout.splitlines()[0].removeprefix("export ").split()
        for name, value in (setting.split("=", 1) for setting in settings):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        far, near = make_dataset(5, url=f"{make_bucket('heads')}/train"), make_dataset(5)
        assert far.fingerprint == near.fingerprint
        assert torch.equal(first_batch(far).source.images, first_batch(near).source.images)
        far.close()
    finally:
        subprocess.run([str(start), "--down", folder], check=True, timeout=60)
