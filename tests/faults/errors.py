"""System calls that fail: a full disk, a quota, a disk that dies, a server that went away, no more files."""

import re

from common import ROWS, WORDS, compare, snapshot, test
from trace import injected, needed, numbered, traced

# What each call can fail with. A write of 0 bytes is what some full file systems give. An image that may not be read (EACCES) is a bad one, left out and
# listed like any other: see "what cannot be written or read".
FAIL = {
    "openat": ["EMFILE", "ENFILE", "EIO", "ESTALE", "EROFS", "ENOSPC", "EINTR"],
    "read": ["EIO", "ESTALE", "EINTR"],
    "write": ["ENOSPC", "EIO", "EDQUOT", "EFBIG", "EINTR", "0"],
    "rename": ["EXDEV", "EACCES", "EIO", "ENOSPC", "EROFS", "EDQUOT"],
    "fsync": ["EIO", "ENOSPC", "EDQUOT", "EINTR"],
    "flock": ["ENOLCK", "EOPNOTSUPP", "EIO", "EINTR"],
    "unlink": ["EIO", "EACCES", "EROFS"],
    "mkdir": ["EACCES", "ENOSPC", "EROFS", "EDQUOT"],
    "rmdir": ["EIO", "EACCES"],
    "getdents64": ["EIO", "ESTALE"],
    "statx": ["EIO", "EACCES", "ESTALE"],
    "lseek": ["EIO"],
    "ftruncate": ["EIO", "ENOSPC"],
}


def ours(bench, scenario):
    """(call, number, name of the file) of the calls on files of the test; not those with which a process starts, or looks at the machine."""
    for call, number, words in numbered(traced(bench, scenario, FAIL)):
        if "LOCK_UN" in words:
            continue  # which no program can do anything about
        names = re.findall(r'[<"]([^<>"]+)[>"]', words)
        names = [name for name in names if not name.startswith(("/proc", "/sys", "/etc", "/lib", "/usr", "/dev", "pipe:", "/root"))]
        # With -s 0 the names in quotes are cut away, those of descriptors are not.
        if names or (call in ("rename", "unlink", "mkdir", "rmdir") and '""...' in words):
            yield call, number


def named(ended, bench, want):
    """The error names a file of the test, or standard output."""
    if "standard output" in ended.error:
        return []
    known = {name.rsplit("/", 1)[-1] for name in (*snapshot(bench.work), *want, *bench.material.names)}
    known |= {f"{name}{more}" for name in known for more in (".lock", ".parts")} | {"job.json", "run.lock", "0000000.block", "0000000.features"}
    words = re.split(r"[\s:'`\"]+", ended.error)
    parts = r"\d{7}\.(block|features)"
    return [] if any(word == "." or re.fullmatch(f".*{parts}", word.rstrip(".,;")) or word.rstrip(".,;").rsplit("/", 1)[-1] in known for word in words) else [(WORDS, f"names no file: {ended.error}")]


@test("failing calls")
def failing(bench):
    """Calls of score, merge, embed, pack, run, ... fail (strace): open, read, write, rename, fsync, flock, unlink, mkdir, rmdir, list, stat with ENOSPC, EIO, EDQUOT,
    EXDEV, EACCES, EROFS, ENOLCK, EOPNOTSUPP, EINTR, EMFILE, ENFILE, ESTALE, or write nothing. One sentence that names the file, or the right bytes; and then the
    same command ends right."""
    needed()
    log = bench.folder / "log"
    every = {"tar-parquet+features": 30, "folder-csv": 30, "pack-3 layers+features": 15}
    for name in (*every, "parquet-npy", "merge", "embed", "pack", "run", "train", "probe", "report", "split", "convert", "show augment"):
        scenario = bench.material.scenarios[name]
        want = bench.undisturbed(scenario)
        calls = sorted(set(ours(bench, scenario)))
        # Each kind of call as often as any other.
        kinds = sorted({call for call, _ in calls})
        most, chosen = bench.count(every.get(name, 8)), set()
        for round in range(most):
            kind = kinds[round % len(kinds)]
            chosen.add((kind, bench.random.choice([n for call, n in calls if call == kind]), bench.random.choice(FAIL[kind])))
        for call, number, error in sorted(chosen):
            bench.fresh(scenario)
            what = "retval=0" if error == "0" else f"error={error}"
            ended = bench.run(scenario.args, injected(call, what, number, log))
            if "INJECTED" not in log.read_text(errors="replace"):
                continue  # another thread made that call this time
            wrong = ended.crash()
            if wrong:
                pass
            elif ended.status == 0:
                wrong = compare(snapshot(bench.work), want)
                # What cannot be taken away in the end is work that is over.
                left = call in ("unlink", "rmdir", "flock") and not any(column == ROWS for column, _ in wrong)
                wrong = [] if left else wrong
                if call == "flock" and error in ("ENOLCK", "EOPNOTSUPP") and "nothing can be locked" not in ended.err:
                    wrong.append((WORDS, "no warning that nothing is locked"))
            else:
                wrong = ended.clear() or named(ended, bench, want)
                if error == "EINTR":
                    wrong.append((WORDS, f"an interrupted call is made again: {ended.error}"))
            yield f"{name}: {error} at {call} {number}", wrong + bench.ends_right(scenario)
