import pytest

from geoclip_core.data.folders import restore, whole_folder, write_whole


def test_the_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "set"
    with whole_folder(target) as folder:
        (folder / "a").write_text("new")
        assert not target.exists()
    assert (target / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_crash_leaves_the_old_folder_whole(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    (target / "a").write_text("old")

    def build_half():
        with whole_folder(target) as folder:
            (folder / "a").write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        build_half()
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_swap_cut_short_is_undone(tmp_path):
    old = tmp_path / ".set.old"
    old.mkdir()
    (old / "a").write_text("old")
    restore(tmp_path / "set")
    assert (tmp_path / "set" / "a").read_text() == "old"


def test_left_overs_of_dead_processes_go(tmp_path):
    # No process has this number: Linux stops at 4,194,304.
    (tmp_path / ".set.new-99999999-abc").mkdir()
    (tmp_path / ".other.new-99999999-abc").mkdir()
    with whole_folder(tmp_path / "set"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.new-99999999-abc", "set"]


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "status.json"
    write_whole(path, "one")
    write_whole(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]
