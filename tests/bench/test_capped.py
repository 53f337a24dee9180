"""bench/shared/capped.py: what is held counts, wherever it is held; a file that is mapped does not."""

import pytest

from bench.shared.capped import MIB, run_capped

HOLD = "import time; held = b'x' * (96 << 20); time.sleep({})"
CAP, MUCH = 48 * MIB, 1 << 30


def test_the_watcher_ends_what_holds_more_than_the_cap():
    done = run_capped(["-c", HOLD.format(60)], cap=CAP, mapped=MUCH)
    assert done.killed
    assert done.code != 0
    assert CAP < done.most < 110 * MIB
    assert done.seconds < 60


def test_the_watcher_looks_at_what_a_command_started_too():
    started = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD.format(60)!r}])"
    assert run_capped(["-c", started], cap=CAP, mapped=MUCH).killed


def test_the_kernel_refuses_what_is_above_the_cap():
    done = run_capped(["-c", HOLD.format(0)], cap=CAP)
    assert "MemoryError" in done.said
    assert not done.killed
    assert done.code == 1


@pytest.mark.parametrize("writes", [False, True])
def test_a_mapped_file_counts_where_it_is_written_to(writes, tmp_path):
    (tmp_path / "file").write_bytes(bytes(96 * MIB))
    change = "pages[::4096] = bytes(len(pages) // 4096)" if writes else "sum(pages[::4096])"
    opened = f"import mmap, time; file = open({str(tmp_path / 'file')!r}, 'r+b')"
    mapped = f"{opened}; pages = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)"
    done = run_capped(["-c", f"{mapped}; {change}; time.sleep(1)"], cap=CAP, mapped=MUCH)
    assert (done.killed, done.most > CAP) == (writes, writes)
    assert writes or done.code == 0, done.said
