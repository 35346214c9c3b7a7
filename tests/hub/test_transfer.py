import hashlib
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from geoclip_core.hub import placement, transfer
from geoclip_core.hub.placement import DownloadError, readable, safe_path
from geoclip_core.hub.transfer import RemoteFile, fetch
from tests.hub.fake_hub import COMMIT, fake_hub

CONTENT = bytes(range(256)) * 5000


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)


@pytest.fixture
def hub(tmp_path):
    (tmp_path / "hub" / "user" / "name").mkdir(parents=True)
    (tmp_path / "hub" / "user" / "name" / "big.bin").write_bytes(CONTENT)
    with fake_hub(tmp_path / "hub") as server:
        yield server


def remote(hub, **changes):
    values = {
        "name": "big.bin",
        "url": f"{hub.url}/user/name/resolve/{COMMIT}/big.bin",
        "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    return RemoteFile(**(values | changes))


def test_a_file_arrives_with_progress(hub, tmp_path):
    seen = []
    path = fetch(remote(hub), tmp_path / "to", lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("big.bin", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    fetch(remote(hub), tmp_path / "to")
    assert len(hub.downloads()) == 1, "what is there and right is not fetched again"


def test_a_cut_connection_goes_on_by_itself(hub, tmp_path):
    hub.cut_after, hub.cuts = 400_000, 2
    assert fetch(remote(hub), tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in hub.downloads()] == [None, "bytes=400000-", "bytes=800000-"]


def test_a_download_that_stays_cut_is_kept_for_the_next_time(hub, tmp_path):
    hub.cut_after = 300_000
    hub.ranges = False
    with pytest.raises(DownloadError, match=r"broke after 300 kB of 1 MB.*goes on from there"):
        fetch(remote(hub), tmp_path)
    assert not (tmp_path / "big.bin").exists()
    hub.cut_after, hub.ranges = None, True
    assert fetch(remote(hub), tmp_path).read_bytes() == CONTENT
    assert hub.downloads()[-1] == ("big.bin", "bytes=300000-")


def test_a_server_without_ranges_starts_over(hub, tmp_path):
    (tmp_path / "big.bin.part").write_bytes(b"old" * 1000)
    hub.ranges = False
    assert fetch(remote(hub), tmp_path).read_bytes() == CONTENT


def test_a_stale_part_is_thrown_away_once(hub, tmp_path):
    (tmp_path / "big.bin.part").write_bytes(b"x" * 1000)
    assert fetch(remote(hub), tmp_path).read_bytes() == CONTENT
    (tmp_path / "big.bin.part").write_bytes(b"x" * (len(CONTENT) + 5))
    (tmp_path / "big.bin").unlink()
    assert fetch(remote(hub), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("known", [{}, {"sha256": None, "git_blob": "0" * 40}])
def test_a_wrong_checksum_leaves_nothing(hub, tmp_path, known):
    hub.changed["big.bin"] = b"y" + CONTENT[1:]
    with pytest.raises(DownloadError, match="wrong checksum and was thrown away"):
        fetch(remote(hub, **known), tmp_path)
    assert list(tmp_path.glob("big*")) == []


def test_git_blobs_are_checked(hub, tmp_path):
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT, usedforsecurity=False).hexdigest()
    assert fetch(remote(hub, sha256=None, git_blob=blob), tmp_path).is_file()


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_more_bytes_than_announced_are_not_kept(hub, tmp_path, size):
    hub.changed["big.bin"] = CONTENT * 3
    with pytest.raises(DownloadError, match=r"larger than announced|wrong checksum"):
        fetch(remote(hub, size=size), tmp_path)
    assert not (tmp_path / "big.bin").exists()


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "does not exist"), (401, "hf auth login"), (403, "licence"), (503, "problem")],
)
def test_a_refusal_is_one_sentence(hub, tmp_path, status, message):
    hub.status["big.bin"] = status
    with pytest.raises(DownloadError, match=message):
        fetch(remote(hub), tmp_path)


def test_no_network_is_one_sentence(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = RemoteFile("big.bin", f"http://127.0.0.1:{port}/big.bin")
    with pytest.raises(DownloadError, match=r"no network: big\.bin cannot be reached"):
        fetch(file, tmp_path)


def test_a_disk_that_is_too_small_is_refused_first(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(placement.shutil, "disk_usage", lambda _: usage(10, 9, 1_000_000))
    with pytest.raises(DownloadError, match=r"needs 1 MB.*1 MB free.*GEOCLIP_CACHE"):
        fetch(remote(hub), tmp_path)
    assert list(tmp_path.glob("big*")) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_fills_up_on_the_way(hub, tmp_path):
    (tmp_path / "big.bin.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="the disk is full"):
        fetch(remote(hub), tmp_path)
    assert list(tmp_path.glob("big*")) == []


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a\\b", "C:x"])
def test_names_stay_in_their_folder(tmp_path, name):
    with pytest.raises(DownloadError, match="leads out"):
        safe_path(tmp_path, name)


def test_only_the_web_is_fetched(tmp_path):
    with pytest.raises(DownloadError, match="no web address"):
        fetch(RemoteFile("x", "file:///etc/hostname"), tmp_path)


def test_sizes_read_well():
    assert [readable(n) for n in (12, 41_000_000, 1_710_540_580)] == ["1 kB", "41 MB", "1.71 GB"]
