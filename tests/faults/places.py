"""Disks that are full, folders that cannot be written or are gone, things of others in the way, limits, closed outputs."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

from common import LEFT, ROWS, Missing, compare, snapshot, test

NOBODY = 65534


@contextlib.contextmanager
def disk(bench, kilobytes, *options):
    """The working folder on a disk of its own."""
    bench.fresh()
    command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={kilobytes}k", *options)), "none", str(bench.work)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        raise Missing("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(bench.work)], check=True)


@test("full disk")
def full(bench):
    """A disk (tmpfs) with too little room, from none at all to just too little: an error that names a file; with more room the same command ends right."""
    for name in ("pack-3 layers+features", "folder-csv", "merge", "embed", "pack", "run", "train", "split", "convert"):
        scenario = bench.material.scenarios[name]
        want = bench.undisturbed(scenario)
        size = sum(len(value) // 1024 + 1 for value in want.values() if value is not None)
        for share in bench.some([0.02, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.2, 1.5, 2.0], 5):
            begins = sum(len(v) // 4096 * 4 + 4 for v in held(bench, scenario))
            kilobytes = begins + int(size * share) // 4 * 4 + 4
            with disk(bench, kilobytes):
                scenario.prepare(bench.work)
                ended = bench.run(scenario.args)
                if ended.status:
                    wrong = ended.refused(*names(want), ".parts", "run")
                    subprocess.run(["mount", "-o", "remount,size=1g", str(bench.work)], check=True)
                else:
                    wrong = ended.crash() + compare(snapshot(bench.work), want)
                yield f"{name}: {kilobytes} KiB of {size}", wrong + bench.ends_right(scenario)


@test("files that may not grow")
def short(bench):
    """A limit on the length of files (RLIMIT_FSIZE), with which a write is cut short and the next one fails."""
    for name in ("pack-3 layers+features", "folder-csv", "merge", "embed", "pack", "run", "split", "convert"):
        scenario = bench.material.scenarios[name]
        want = bench.undisturbed(scenario)
        largest = max(len(value) for value in want.values() if value is not None)
        for most in bench.some([1, 100, 1000, largest // 3, largest - 1], 3):
            bench.fresh(scenario)
            ended = bench.run(scenario.args, FSIZE=most)
            wrong = ended.refused(*names(want), ".parts", "run", ".lock") if ended.status else compare(snapshot(bench.work), want)
            yield f"{name}: {most} bytes", wrong + bench.ends_right(scenario)


def held(bench, scenario):
    bench.fresh(scenario)
    return [value for value in snapshot(bench.work).values() if value]


def names(want):
    return [name.rsplit("/", 1)[-1] for name in want]


@test("what is in the way")
def foreign(bench):
    """Files, folders and links of the user's where a job keeps its work, its lock or its result: they stay as they are, and the call is refused or ends right."""
    scenario = bench.material.scenarios["tar-parquet+features"]
    bench.undisturbed(scenario)
    out = scenario.args[scenario.args.index("--out") + 1]

    def written(name):
        def make(work):
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("mine")

        return make

    def linked(name, to, folder=False):
        def make(work):
            (work / "there").mkdir()
            (work / "there/file").write_text("mine")
            (work / "there/.x.1.0.part").write_text("mine")
            (work / name).symlink_to(work / to, target_is_directory=folder)

        return make

    ways = {
        "file in .parts": written(f"{out}.parts/thesis.txt"),
        "folder in .parts": written(f"{out}.parts/sub/b"),
        ".parts is a file": written(f"{out}.parts"),
        ".parts is a link to a folder": linked(f"{out}.parts", "there", True),
        ".parts is a link to nothing": linked(f"{out}.parts", "nowhere"),
        "job.json of another kind": lambda work: (written(f"{out}.parts/job.json")(work), written(f"{out}.parts/thesis.txt")(work)),
        ".lock is a text": written(f"{out}.lock"),
        ".lock is a link to a file": linked(f"{out}.lock", "there/file"),
        ".lock is a link to nothing": linked(f"{out}.lock", "nowhere"),
        ".lock is a folder": lambda work: (work / f"{out}.lock").mkdir(),
        ".lock is a FIFO": lambda work: os.mkfifo(work / f"{out}.lock"),
        ".lock is a socket": lambda work: socket.socket(socket.AF_UNIX).bind(str(work / f"{out}.lock")),
        "the table is there": written(out),
        "the manifest is there": written("o.json"),
        "the features are there": written("o.f.safetensors"),
        "the table is a folder": lambda work: (work / out).mkdir(),
        "the table is a FIFO": lambda work: os.mkfifo(work / out),
        "the table is a link to nothing": linked(out, "nowhere"),
        "the table is a link to a file": linked(out, "there/file"),
        "a .part of the user's": written(f".{out}.mine.part"),
    }
    for what, make in ways.items():
        bench.fresh()
        make(bench.work)
        before = snapshot(bench.work)
        ended = bench.run(scenario.args, timeout=20)
        after = snapshot(bench.work)
        wrong = ended.crash()
        if ended.status:
            wrong += ended.clear(out, "o.json", "o.f.safetensors", "o.g.safetensors")
        changed = [name for name in before if after.get(name, "") != before[name]]
        if changed:
            wrong.append((ROWS, f"changed or removed: {changed}"))
        if ended.status and set(after) - set(before):
            wrong.append((LEFT, f"left by a refused call: {sorted(set(after) - set(before))}"))
        yield what, wrong


@test("what cannot be written or read")
def permissions(bench):
    """As nobody: folders and files without permission, gone, read-only disks, FIFOs and devices as inputs, limits of memory and of open files, closed outputs."""
    m = bench.material
    folder, csv = m.scenarios["folder-csv"], m.scenarios["folder-csv"].args
    want = bench.undisturbed(folder)

    def swapped(old, new, args=csv):
        return [new if a == old else a for a in args]

    def trial(what, args, names=(), right=True, timeout=20, **kinds):
        """Refused, or the right bytes if they may come out."""
        ended = bench.run(args, timeout=timeout, **kinds)
        if ended.status or not right:
            return what, ended.refused(*names)
        return what, ended.crash() + compare(snapshot(bench.work), want)

    bench.fresh()
    bench.work.chmod(0o555)
    yield trial("folder that cannot be written", csv, ["o.csv"], False, uid=NOBODY)
    bench.work.chmod(0o000)
    yield trial("folder without any rights", swapped("o.csv", bench.work / "o.csv"), ["o.csv"], False, uid=NOBODY)
    bench.work.chmod(0o755)
    yield trial("folder that is not there", swapped("o.csv", "no/o.csv"), ["no/o.csv"], False)
    try:
        with disk(bench, 10000, "ro"):
            yield trial("read-only disk", csv, ["o.csv"], False)
        with disk(bench, 10000, "nr_inodes=3"):
            yield trial("no inodes", csv, ["o.csv", "o.json"], False)
    except Missing as missing:
        print(f"    left out: {missing}")
    for file in ("f", "d", "image"):
        bench.fresh()
        bench.work.chmod(0o777)
        shutil.copytree(m.folder, bench.work / "d")
        shutil.copy(m.f, bench.work / "f")
        args = m.score("folder:d", "o.csv", f="f")
        path = {"f": bench.work / "f", "d": bench.work / "d/a", "image": bench.work / "d/b/00001.png"}[file]
        path.chmod(0)
        yield trial(f"{file} without rights", args, [path.name], False, uid=NOBODY) if file != "image" else listed(bench, args, uid=NOBODY)
        path.chmod(0o755)
    # Gone while it is in use.
    for what in ("the folder of the output", "the folder of the images", "the tar file"):
        bench.fresh()
        sub = bench.work / "sub"
        sub.mkdir()
        shutil.copytree(m.folder, bench.work / "d")
        shutil.copy(m.tar, bench.work / "s.tar")
        data = "webdataset:s.tar" if "tar" in what else "folder:d"
        process = bench.start(m.score(data, "sub/o.csv"))
        while process.poll() is None and not (sub / "o.csv.parts/job.json").exists():
            time.sleep(0.001)
        gone = {"the folder of the output": sub, "the folder of the images": bench.work / "d"}.get(what)
        shutil.rmtree(gone) if gone else (bench.work / "s.tar").unlink()
        ended = bench.wait(process)
        yield f"{what} is removed meanwhile", (ended.refused("o.csv", "d/", "s.tar") if ended.status else [])
    bench.fresh()
    os.mkfifo(bench.work / "fifo")
    (bench.work / "list").write_text("")
    for place in ("fifo", "/dev/zero", "/dev/null", "/proc/self/mem", ".", "list"):
        for what, args in {
            "f": m.score(f"folder:{m.folder}", "o.csv", f=place),
            "split": [*csv, "--split", place],
            "recipe": [*csv, "--recipe", place],
            "list": m.score(f"list:{place}", "o.csv"),
            "tar": m.score(f"webdataset:{place}", "o.csv"),
            "parquet": m.score(f"parquet:{place}", "o.csv"),
            "pack": m.score(f"packed:{place}", "o.csv"),
            "scores": ["top", "--scores", place, "--data", "synthetic:9"],
            "run": ["report", place],
            "shard": ["merge", "o.csv", place],
            "out": swapped("o.csv", place),
            "convert": ["convert", place],
        }.items():
            if (place, what) != ("list", "recipe"):  # an empty recipe has every default
                yield trial(f"{place} as {what}", args, right=False)
    for kilobytes in (100_000, 300_000, 500_000, 1_000_000):
        bench.fresh()
        yield trial(f"{kilobytes} KB of addresses", csv, right=True, AS=kilobytes * 1024)
    for files in (5, 8, 12, 20, 64):
        bench.fresh()
        yield trial(f"{files} open files", csv, right=True, NOFILE=files)
    for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "| true"):
        bench.fresh()
        command = f'"$0" "$@" {closed}'
        ended = bench.wait(start_shell(bench, command, csv))
        wrong = ended.crash() + compare(snapshot(bench.work), want)
        yield f"output {closed}", wrong
    for seconds in (400 * 86400, -3000 * 86400):
        bench.fresh()
        shutil.copytree(m.folder, bench.work / "d")
        for path in (bench.work / "d").rglob("*"):
            os.utime(path, (time.time() + seconds,) * 2)
        ended = bench.run(m.score("folder:d", "o.csv"))
        yield f"files of {seconds // 86400:+} days", ended.done() + ([] if (bench.work / "o.csv").read_bytes() == want["o.csv"] else [(ROWS, "other")])


def start_shell(bench, command, args):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    words = ["sh", "-c", command, str(bench.binary), *map(str, args), "--quiet"]
    return subprocess.Popen(words, cwd=bench.work, env=bench.env, start_new_session=True, **pipes)


def listed(bench, args, **kinds):
    """An image that cannot be read is refused by its name, or is a bad one like any other."""
    ended = bench.run(args, **kinds)
    if ended.status:
        return "image without rights", ended.refused("00001.png")
    manifest = (pathlib.Path(bench.work) / "o.json").read_text()
    return "image without rights", ended.crash() + ([] if "00001.png" in manifest else [(ROWS, "lost without a word")])
