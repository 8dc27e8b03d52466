from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steadyvoice.errors import StorageFull
from steadyvoice.service.private_folder import FILES_KEPT_S, IN_USE_S, LEAST_BYTES, PrivateFolder
from tests.disks import filled, small_disk

KB = 1_000
NAME = "asr-6006"


def folder_in(parent: Path, max_bytes: int = 1_000 * KB) -> PrivateFolder:
    return PrivateFolder(NAME, max_bytes, parent)


def write(folder: PrivateFolder, size: int = 100 * KB) -> Path:
    return folder.write({"a.wav": bytes(size)}, "the audio")[0]


def test_everything_in_it_is_for_its_user_alone(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    write(folder)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder.path, *folder.path.rglob("*"))}
    assert modes == {0o700, 0o600}


def test_no_two_apps_share_one(tmp_path: Path) -> None:
    folders = [folder_in(tmp_path), folder_in(tmp_path), PrivateFolder("tts-7860", KB, tmp_path)]
    assert len({folder.path for folder in folders}) == 3
    for folder in folders:
        folder.close()
    assert not list(tmp_path.iterdir())


def test_a_link_an_open_folder_or_a_file_at_its_name_is_not_used(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    name = tmp_path / f"steadyvoice-{os.geteuid()}-{NAME}"

    def is_avoided() -> bool:
        folder = folder_in(tmp_path)
        return folder.path != name and not folder.path.is_symlink() and not list(elsewhere.iterdir())

    name.symlink_to(elsewhere)
    assert is_avoided()
    name.unlink()
    name.mkdir()
    name.chmod(0o777)
    assert is_avoided()
    name.rmdir()
    name.write_text("")
    assert is_avoided()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_the_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    name = tmp_path / f"steadyvoice-0-{NAME}"
    name.mkdir(mode=0o700)
    os.chown(name, 65_534, 65_534)
    assert folder_in(tmp_path).path != name


def test_after_a_kill_the_next_run_keeps_what_pages_may_use_and_nothing_else(tmp_path: Path) -> None:
    run = f"""if True:
        import sys, time
        from pathlib import Path
        from steadyvoice.service.private_folder import PrivateFolder
        folder = PrivateFolder({NAME!r}, 10**6, Path({str(tmp_path)!r}))
        (folder.unfinished / "half").write_bytes(b"x")
        print(folder.write({{"a.wav": bytes(100_000)}}, "")[0], folder.write({{"b.wav": b"x"}}, "")[0], flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        kept, old = map(Path, killed.stdout.readline().split())
        assert folder_in(tmp_path).path != kept.parents[2], "it is in use"
        killed.send_signal(signal.SIGKILL)
    os.utime(old, (1, 1))
    folder = folder_in(tmp_path)
    assert kept.is_relative_to(folder.kept)
    assert folder.kept_bytes == 100 * KB
    assert [path for path in folder.path.rglob("*") if path.is_file()] == [kept]
    assert not old.parent.exists()


def test_old_files_are_swept_with_their_folders_and_used_ones_stay(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    old, used, new = write(folder), write(folder), write(folder)
    half = folder.unfinished / "half"
    half.write_bytes(b"x")
    for file in (old, used, half):
        os.utime(file, (time.time() - FILES_KEPT_S - 1,) * 2)
    folder.touch(used)
    folder.sweep()
    assert not old.parent.exists()
    assert not half.exists()
    assert used.exists()
    assert new.exists()
    assert write(folder).exists()


def test_the_folder_of_an_app_that_ended_is_swept_by_others_and_one_in_use_is_not(tmp_path: Path) -> None:
    ended, running = tmp_path / f"steadyvoice-{os.geteuid()}-tts-1", PrivateFolder("tts-2", KB, tmp_path)
    (ended / "kept").mkdir(parents=True)
    ended.chmod(0o700)
    (ended / "kept" / "a").write_bytes(b"")
    os.utime(ended / "kept" / "a", (1, 1))
    for path in (ended / "kept", ended, running.kept, running.unfinished):
        os.utime(path, (1, 1))
    folder_in(tmp_path)
    assert not ended.exists()
    assert running.unfinished.exists()


def test_the_least_recently_used_makes_room_and_what_is_in_use_does_not(tmp_path: Path) -> None:
    now = 0.0
    folder = PrivateFolder(NAME, 350 * KB, tmp_path, clock=lambda: now)
    first, second, third = write(folder), write(folder), write(folder)
    now = IN_USE_S + 10
    folder.touch(first)
    fourth = write(folder)
    assert [file.exists() for file in (first, second, third, fourth)] == [True, False, True, True]
    with pytest.raises(
        StorageFull, match=r"no room for 0\.2 MB: 0\.3 MB .* limit is 0\.35 MB \(STEADYVOICE_MAX_STORED_MB\)"
    ) as refused:
        write(folder, 200 * KB)
    assert refused.value.retry_after_s == pytest.approx(IN_USE_S)
    assert third.exists(), "what would not have been enough was not deleted"
    with folder.room(150 * KB):
        assert not third.exists()
        with pytest.raises(StorageFull):
            write(folder)
    assert write(folder).exists()


def test_small_files_count_too(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, 10 * LEAST_BYTES)
    for _ in range(10):
        write(folder, 0)
    with pytest.raises(StorageFull):
        write(folder, 1)


def test_a_discarded_file_makes_room(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, 150 * KB)
    file = write(folder)
    folder.discard(file)
    assert not file.parent.exists()
    assert write(folder).exists()


def test_what_a_cleaner_deletes_is_made_again(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    shutil.rmtree(folder.path)
    folder.sweep()
    assert write(folder).exists()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_full_disk_leaves_no_file_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path, 2) as disk:
        folder = folder_in(disk, 100_000 * KB)
        with filled(disk):
            with pytest.raises(StorageFull, match="no space left on the server's disk for the audio"):
                write(folder)
            folder.sweep()
        with pytest.raises(StorageFull):
            write(folder, 3_000 * KB)
        assert not list(folder.kept.iterdir())
        assert write(folder).exists()
