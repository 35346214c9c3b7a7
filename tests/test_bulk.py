"""`geoclip locate --bulk` and `train embed --bulk`: many photos, shared among workers of Ray."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image

from geoclip_core import Geolocator, bulk, ray_workers
from geoclip_core.__main__ import main
from geoclip_core.bulk import BulkOptions, RemotePhoto, listed, photo_source
from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.photos import photo_files
from geoclip_core.errors import DatasetError
from geoclip_core.evaluation.evaluate import model_fingerprint
from geoclip_core.formats import csv_header, table_schema, to_csv_line, to_table
from geoclip_core.model.backbones import build_backbone
from geoclip_core.ray_workers import Pool, WorkerError, _Worker, in_workers, part_rows, ray_pool
from geoclip_core.training import embeddings
from geoclip_core.training.embeddings import embed_dataset
from tests.model import tiny_networks
from tests.ray_work import doubled
from tests.training import tiny_photos
from train.__main__ import main as train_main

ROOT = Path(__file__).resolve().parents[1]
MODEL = "mini-plain"


def _photo(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of eleven photos and one file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(11):
        _photo(folder / ("below" if number % 2 else ".") / f"{number}.jpg", number)
    (folder / "broken.jpg").write_text("a text file renamed")
    return folder


@pytest.fixture(scope="module")
def pool():
    """Ray with two workers for all tests; started once, because that takes seconds."""
    with ray_pool(2) as started:
        (folder,) = Path("/tmp").glob(f"geoclip-ray-{os.getpid()}-*")
        assert folder.stat().st_mode & 0o077 == 0  # no other user enters
        yield started
    assert not folder.exists()


def _names(paths):
    return [name.decode() for name in paths.to_pylist()]


def _rows(output):
    tables = [pq.read_table(path) for path in sorted(output.glob("part-*.parquet"))]
    return {row["file"]: row for table in tables for row in table.to_pylist()}, sum(
        map(len, tables)
    )


# Input, without workers ---------------------------------------------------------------------------


def test_a_folder_gives_the_photos_that_every_command_finds(photos):
    paths, hashes = listed(photos)
    assert _names(paths) == [path.relative_to(photos).as_posix() for path in photo_files(photos)]
    assert len(set(hashes.tolist())) == len(paths) == 12


@pytest.mark.parametrize("column", ["file", "Path", "image"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "dictionary"])
def test_a_table_gives_its_column_of_paths_each_once(tmp_path, column, kind):
    names = ["a.jpg", "s3://bucket/ä, b.jpg", "/c.jpg", "a.jpg"] * 5000
    table, path = pa.table({"id": range(20_000), column: names}), tmp_path / "photos"
    if kind == "csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        if kind == "dictionary":
            table = table.set_column(1, column, table.column(1).dictionary_encode())
        pq.write_table(table, path)
    assert _names(listed(path)[0]) == names[:3]


def test_tables_that_cannot_be_used_are_one_sentence(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": ["1"]}), path)
    with pytest.raises(DatasetError, match="no column 'file' among id"):
        listed(path)
    pq.write_table(pa.table({"path": [1]}), path)
    with pytest.raises(DatasetError, match="holds int64, not paths"):
        listed(path)
    repeated = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * 100_000])
    pq.write_table(pa.table({"path": repeated}), path)  # 10 GB, in a few kB
    assert path.stat().st_size < 10**6
    with pytest.raises(DatasetError, match="a path has 100,000 bytes"):
        listed(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match="not a readable table"):
        listed(path)
    path.write_text("file\n" + "x" * 5000)
    with pytest.raises(DatasetError, match="has over 4096 bytes"):
        listed(path)
    with pytest.raises(DatasetError, match="does not exist"):
        listed(tmp_path / "no")


def test_addresses_are_read_with_the_limits_of_files(photos, monkeypatch):
    content = (photos / "0.jpg").read_bytes()
    with fsspec.open("memory://bulk/0.jpg", "wb") as file:
        file.write(content)
    names = [b"memory://bulk/0.jpg", b"0.jpg", f"file://{photos}/0.jpg".encode(), b"memory://no"]
    names += [b"https://127.0.0.1/0.jpg", b"memory::s3://bulk/0.jpg", b"s3://bulk/0.jpg"]
    monkeypatch.setenv("GEOCLIP_OFFLINE", "1")
    sources = [photo_source(name, photos) for name in names]
    assert isinstance(sources[0], RemotePhoto)
    first, second, third, *wrong = Geolocator.load(MODEL).locate_many(sources, errors="yield")
    assert first.latitude == second.latitude == third.latitude
    assert [row.error for row in wrong] == [
        "no cannot be read: there is no such file.",
        "0.jpg cannot be read: addresses of the kind https:// are not read; download the photo, or "
        f"use one of {', '.join(bulk.REMOTE)}.",
        "0.jpg cannot be read: addresses of the kind memory::s3:// are not read; download the "
        f"photo, or use one of {', '.join(bulk.REMOTE)}.",
        "0.jpg cannot be read: the network is switched off (GEOCLIP_OFFLINE).",
    ]
    monkeypatch.setattr("geoclip_core.data.photos.MAX_BYTES", len(content) - 1)
    (row,) = Geolocator.load(MODEL).locate_many(sources[:1], errors="yield")
    assert "larger than" in row.error


def test_parquet_has_the_cells_of_the_csv(photos):
    locator = Geolocator.load("mini")
    sources = [photos / "0.jpg", photos / "broken.jpg"]
    rows = list(locator.locate_many(sources, errors="yield", given={"country": "Chile"}))
    header = csv_header(locator.features, 5)
    table = to_table(rows, table_schema(locator.features, 5))
    assert table.column_names == header
    for row, cells in zip(rows, table.to_pylist(), strict=True):
        line = ",".join("" if cell is None else str(cell) for cell in cells.values())
        assert line == to_csv_line(row, header).replace('"', "").strip()


# Options, without workers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bulk", "{}"], "--bulk needs --output"),
        (["--bulk", "{}", "a.jpg", "--together", "--format", "csv"], "leave out photos beside it"),
        (["--bulk", "{}", "--output", "{}/out", "--similar", "2"], "leave out --similar"),
        (["--bulk", "{}", "--output", "{}/out", "--workers", "0"], "--workers must be 1 or more"),
        (["--bulk", "{}", "--output", "{}/out", "--device", "xla"], "--device must be"),
        (["--bulk", "{}/no", "--output", "{}/out"], "no does not exist"),
        (["--bulk", "{}/empty", "--output", "{}/out"], "empty holds no photo"),
        (["--bulk", "{}/0.jpg", "--output", "{}/out"], "0.jpg"),
        (["--bulk", "{}", "--output", "{}/0.jpg"], "0.jpg is a file, and --bulk writes a folder"),
        (["--bulk", "{}", "--output", "{}/out", "--given", "month=1"], "month"),
        (["--bulk", "{}", "--output", "{}/out", "--claim", "Springfield"], "several places"),
        (["--bulk", "{}", "--output", "{}/out", "--model", "nowhere"], "nowhere"),
        (["a.jpg", "--workers", "2"], "--workers is an option of --bulk"),
    ],
)
def test_wrong_options_are_one_sentence(arguments, words, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GEOCLIP_OFFLINE", "1")
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "empty").mkdir()
    given = ["locate", *(argument.format(folder) for argument in arguments)]
    assert main([*given, *([] if "--model" in given else ["--model", MODEL])]) == 1
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("geoclip locate: error: ")
    assert words in error
    assert not (folder / "out").exists() or not any((folder / "out").glob("part*"))


def test_without_ray_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError, match=r'pip install "ray\[data\]"'), ray_pool(1):
        pass


def test_a_folder_of_other_predictions_is_not_mixed(photos, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    with FileLock(output / ".lock"), pytest.raises(ValueError, match="another command is writing"):
        bulk.locate_bulk(photos, output, BulkOptions(MODEL))
    (output / "part-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="holds parts, but no bulk"):
        bulk.locate_bulk(photos, output, BulkOptions(MODEL))
    (output / "bulk.json").write_text(json.dumps({"model": MODEL, "top_k": 3}))
    with pytest.raises(ValueError, match="another setting of top-k: choose another folder"):
        bulk.locate_bulk(photos, output, BulkOptions(MODEL))
    fingerprint = model_fingerprint(Geolocator.load(MODEL).model)
    settings = {**dataclasses.asdict(BulkOptions(MODEL)), "fingerprint": fingerprint}
    (output / "bulk.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="remove it, and its photos are located again"):
        bulk.locate_bulk(photos, output, BulkOptions(MODEL))


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "wanted"),
    [
        ([(8, 0)], None, "auto", Pool(8, 1, "cpu")),
        ([(8, 0)], 3, "auto", Pool(3, 2, "cpu")),
        ([(3, 0), (8, 0)], 3, "auto", Pool(3, 3, "cpu")),
        ([(16, 4), (6, 2), (4, 0)], None, "auto", Pool(6, 3, "cuda")),
        ([(16, 4), (6, 2)], 2, "auto", Pool(2, 8, "cuda")),
        ([(16, 4)], 2, "cpu", Pool(2, 8, "cpu")),
        ([(2, 0)], 9999, "auto", "9999 workers do not fit: Ray has 2 CPUs"),
        ([(2, 1)], 2, "cuda", "2 workers do not fit: Ray has 1 GPU and 2 CPUs"),
        ([(2, 0)], None, "cuda", "1 worker does not fit: Ray has 0 GPUs and 2 CPUs"),
    ],
)
def test_workers_are_as_many_as_fit(nodes, workers, device, wanted, monkeypatch):
    resources = [{"CPU": float(c), "GPU": float(g), "memory": 64e9} for c, g in nodes]
    found = [{"Alive": True, "Resources": r} for r in resources]
    found.append({"Alive": False, "Resources": {"CPU": 99.0}})
    # not Ray itself, which must be imported with the variables of `ray_pool`
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: found))
    if isinstance(wanted, str):
        with pytest.raises(WorkerError, match=f"^{wanted}$"):
            ray_workers._room(workers, device)
    else:
        assert ray_workers._room(workers, device) == wanted


def test_without_a_number_the_workers_fit_into_memory(monkeypatch):
    node = {"Alive": True, "Resources": {"CPU": 8.0, "memory": 5e9}}
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: [node]))
    assert ray_workers._room(None, "auto") == Pool(3, 2, "cpu")


def test_every_worker_gets_several_parts():
    pool = Pool(2, 1, "cpu")
    assert part_rows(3, pool) == 1
    assert part_rows(80, pool) == 10
    assert part_rows(10**6, pool) == 512


# Workers ------------------------------------------------------------------------------------------


def _doubled(pool, count, part, **settings):
    found, lost, retried = [], [], []
    rows = pa.table({"n": range(count)})
    for positions, table in in_workers(pool, doubled, settings, rows, part, retried.append):
        if table is None:
            lost += positions.tolist()
        else:
            assert table.column("twice").to_pylist() == (2 * positions).tolist()
            found += positions.tolist()
    assert sorted(found + lost) == list(range(count))
    return lost, retried


@pytest.mark.slow
def test_a_row_that_kills_its_worker_is_lost_alone(pool):
    lost, retried = _doubled(pool, 12, 4, deadly=7)
    assert lost == [7]
    assert len(retried) == 1
    assert retried[0] >= 4


def test_a_worker_that_cannot_be_made_says_why():
    table = _Worker(doubled, {"broken": True})(pa.table({"n": [1]}))
    assert table.to_pylist() == [{"__stopped": "cannot be made"}]


@pytest.mark.slow
def test_errors_of_workers_end_the_work(pool):
    with pytest.raises(WorkerError, match=r"^that is wrong$"):
        _doubled(pool, 8, 4, wrong=2)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        _doubled(pool, 8, 4, fault=2)


@pytest.mark.slow
def test_photos_are_located_as_without_workers_and_only_once(pool, photos, tmp_path, capfd):
    table = tmp_path / "photos.csv"
    for number in (0, 1):
        _photo(tmp_path / f"n{number}.jpg", number)
    names = ["n0.jpg", f"file://{tmp_path}/n1.jpg", str(photos / "broken.jpg"), "https://a.b/c.jpg"]
    table.write_text("path;source\n" + "".join(f"{name};x\n" for name in names))
    command = ["locate", "--bulk", str(table), "--output", str(tmp_path / "out"), "--model", MODEL]
    assert main(command) == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "4 of 4 photos (100%), 2 unreadable" in printed.err
    assert "ray" not in printed.err.replace("starting Ray", "").lower()
    rows, count = _rows(tmp_path / "out")
    assert count == len(rows) == 4
    wanted = Geolocator.load(MODEL).locate(tmp_path / "n0.jpg")
    assert rows["n0.jpg"]["latitude"] == pytest.approx(wanted.latitude, abs=0.01)
    assert rows["n0.jpg"]["candidate_5_place"] == wanted.candidates[4].place.label
    assert rows[names[1]]["error"] is None
    assert "not a photo" in rows[names[2]]["error"]
    assert "https:// are not read" in rows[names[3]]["error"]

    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    table.write_text(table.read_text() + "0.jpg;x\n")
    shutil.copy(photos / "0.jpg", tmp_path)
    assert main(command) == 0
    assert "4 of 5 photos are in" in capfd.readouterr().err
    assert all(path.stat().st_mtime_ns == time for path, time in parts.items())
    assert len(list((tmp_path / "out").glob("*.parquet"))) == len(parts) + 1
    assert main(command) == 0
    assert "5 of 5 photos are in" in capfd.readouterr().err


def _workers():
    """Return the worker processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "MapWorker" in process.name() + " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.slow
def test_a_killed_worker_loses_no_photo_and_repeats_none(pool, photos, tmp_path, monkeypatch):
    killed = []

    class Killing(bulk.Progress):
        def add(self, count, failed):
            super().add(count, failed)
            if not killed:
                victim = _workers()[0]
                victim.kill()
                killed.append(victim.pid)

    monkeypatch.setattr(bulk, "Progress", Killing)
    monkeypatch.setattr(bulk, "part_rows", lambda *_: 1)
    bulk.locate_bulk(photos, tmp_path / "out", BulkOptions(MODEL))
    assert killed
    rows, count = _rows(tmp_path / "out")
    assert count == len(rows) == 12
    assert [name for name, row in rows.items() if row["error"]] == ["broken.jpg"]


@pytest.mark.slow
def test_a_killed_command_continues_where_it_was(pool, photos, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "geoclip_core", "locate", "--bulk", str(photos)]
    command += ["--output", str(output), "--model", MODEL, "--workers", "1"]
    log = tmp_path / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
    started = psutil.Process(process.pid)
    children = []
    try:
        while not any(output.glob("part-*")):
            assert process.poll() is None, log.read_text()
            children = started.children(recursive=True)
            time.sleep(0.02)
        process.kill()  # in the middle: the twelve photos are four parts
    finally:
        process.kill()
        process.wait()
    assert children
    _, alive = psutil.wait_procs(children, timeout=120)  # Ray ends with the command
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    lines = log.read_text().splitlines()
    assert lines[:2] == ["reading the list of photos", "starting Ray"]
    assert lines[2].startswith("12 photos; starting 1 worker, each with ")
    assert all("photos (" in line for line in lines[3:])
    parts = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 1 <= len(parts) < 4
    bulk.locate_bulk(photos, output, BulkOptions(MODEL))
    assert all(path.stat().st_mtime_ns == time for path, time in parts.items())
    rows, count = _rows(output)
    assert count == len(rows) == 12
    assert not [path for path in output.iterdir() if path.name.endswith(".part")]


# Embeddings ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """65 photos in a dataset, the second of which is none."""
    root = tiny_photos.write(tmp_path_factory.mktemp("dataset"), train=50, test=15)
    read_dataset(root).paths[1].write_text("a text file renamed")
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_networks.write("resnet", tmp_path_factory.mktemp("resnet"))


def _assert_same(found, wanted):
    assert found.failures == wanted.failures
    np.testing.assert_allclose(
        found.values.astype(np.float32), wanted.values.astype(np.float32), rtol=2e-3, atol=2e-3
    )


def test_shards_are_put_together_from_any_parts(dataset, network, tmp_path, monkeypatch):
    """What workers return after some of them died: parts of shards, in any order, and losses."""
    monkeypatch.setattr(embeddings, "SHARD_PHOTOS", 16)
    photos, backbone = read_dataset(dataset), build_backbone(network)
    wanted = embed_dataset(backbone, photos, tmp_path / "plain", engine="torch")

    def in_parts(pool, make, settings, rows, part_rows):
        assert part_rows == 16
        work, order = make(**settings), np.random.default_rng(0).permutation(len(rows))
        for positions in np.array_split(order[order != 40], 9):
            yield positions, work(rows.take(pa.array(positions)))
        yield np.array([40]), None

    seen = []
    monkeypatch.setattr(embeddings, "in_workers", in_parts)
    found = embeddings.embed_with_workers(
        Pool(2, 1, "cpu"),
        backbone,
        photos,
        tmp_path / "bulk",
        engine="torch",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (65, 65)
    assert "worker process died" in found.failures.pop(40)
    assert np.isnan(found.values[40]).all()
    whole = np.array(found.values)
    whole[40] = wanted.values[40]
    _assert_same(embeddings.Embeddings(whole, found.failures), wanted)


@pytest.mark.slow
def test_workers_make_the_embeddings_that_one_process_makes(
    pool, dataset, network, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(embeddings, "SHARD_PHOTOS", 16)
    photos, backbone = read_dataset(dataset), build_backbone(network)
    wanted = embed_dataset(backbone, photos, tmp_path / "plain")
    cache = embeddings.EmbeddingCache(backbone, photos, tmp_path / "bulk")
    cache.place.mkdir(parents=True)
    cache.write_shard(16, embeddings.Embeddings(wanted.values[16:32], {}))  # of an earlier run
    command = ["embed", "--bulk", "--data", str(dataset), "--backbone", str(network)]
    assert train_main([*command, "--cache-dir", str(tmp_path / "bulk"), "--device", "cpu"]) == 0
    assert "unreadable: train_images/" in capfd.readouterr().out
    _assert_same(cache.find(), wanted)
    assert isinstance(cache.find().values, np.memmap)  # as `fit` reads it
    assert not list(cache.place.glob("*shard*"))


def test_wrong_options_of_embed_are_one_sentence(dataset, capsys):
    for flags, words in (
        (["--processes", "2"], "--processes is an option of bulk"),
        (["--bulk", "--device", "mps"], "--device must be auto, cpu or cuda with bulk"),
    ):
        with pytest.raises(SystemExit):
            train_main(["embed", "--data", str(dataset), *flags])
        assert capsys.readouterr().err.strip() == f"python -m train embed: error: {words}"
