"""The power fails: what a disk may hold then, from the order of the file operations of a job.

strace records every operation below the working folder. They are replayed on a model of a disk that is as careless as POSIX allows: data that was not brought to
the disk (fsync) is there, cut, zeros, or missing; a name that was made, renamed or removed since its folder was brought to the disk has its old or its new state,
within one folder in the order of the operations. Each state is put into a folder, and the same command has to end right.
"""

import ast
import hashlib
import os
import re
import shutil

from common import ROWS, compare, snapshot, test
from trace import needed

CALLS = "open,openat,creat,close,write,pwrite64,writev,pwritev,lseek,ftruncate,truncate,fallocate,copy_file_range,sendfile,mmap,fsync,fdatasync,sync,syncfs,"
CALLS += "rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,exit_group"
LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)(?:<.*>)?(?: .*)?$")


class Unknown(Exception):
    """A call that the model does not know: then what it says is worth nothing."""


def text(word):
    """A string of strace's as bytes."""
    return ast.literal_eval("b" + word)


def recorded(bench, scenario):
    """The operations on files below the working folder, in order; and what is there before them."""
    log = bench.folder / "power"
    bench.fresh(scenario)
    before = snapshot_raw(bench.work)
    ended = bench.run(scenario.args, ["strace", "-f", "-qq", "-xx", "-s", "100000000", "-o", log, "-e", f"trace={CALLS}"], timeout=300)
    if ended.status:
        raise RuntimeError(ended.err)
    work = os.fsencode(bench.work)
    calls, open_files, cut = [], {}, {}

    def inside(path):
        path = os.path.normpath(os.path.join(work, path))
        return path[len(work) + 1 :].decode() if path.startswith(work + b"/") else "" if path == work else None

    def name(word):
        return inside(text(word))

    for line in log.read_text(errors="replace").splitlines():
        thread = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            cut[thread] = line[: -len("<unfinished ...>")].rstrip()
            continue
        resumed = re.match(r"^\d+ +<\.\.\. \w+ resumed>(.*)$", line)
        if resumed:
            line = cut.pop(thread) + resumed[1]
        found = LINE.match(line)
        if not found:
            continue
        _, call, words, result = found.groups()
        if result.startswith("-") or result == "?":
            continue
        words = split(words)
        if call in ("open", "openat", "creat"):
            path = name(words[1] if call == "openat" else words[0])
            flags = words[2] if call == "openat" else words[1]
            open_files[int(result)] = None
            if path is not None:
                open_files[int(result)] = path
                if "O_CREAT" in flags or "O_TRUNC" in flags or "O_WRONLY" in flags or "O_RDWR" in flags:
                    calls.append(("open", int(result), path, flags))
                else:
                    calls.append(("look", int(result), path, flags))
            continue
        if call == "mmap":
            if "MAP_SHARED" in line and "PROT_WRITE" in line and open_files.get(int(words[4], 0)) is not None:
                raise Unknown(line[:200])
            continue
        if call in ("close", "write", "pwrite64", "writev", "pwritev", "lseek", "ftruncate", "fallocate", "fsync", "fdatasync", "sendfile", "copy_file_range", "syncfs"):
            fd = int(words[2 if call == "copy_file_range" else 0], 0)
            if open_files.get(fd) is None:
                continue
            if call == "close":
                calls.append(("close", fd))
                open_files[fd] = None
            elif call in ("write",):
                calls.append(("write", fd, text(words[1])[: int(result)]))
            elif call == "pwrite64":
                calls.append(("pwrite", fd, text(words[1])[: int(result)], int(words[3])))
            elif call == "lseek":
                calls.append(("seek", fd, int(result)))
            elif call == "ftruncate":
                calls.append(("cut", fd, int(words[1])))
            elif call in ("fsync", "fdatasync"):
                calls.append(("sync", fd))
            else:
                raise Unknown(line[:200])
            continue
        paths = [name(word) for word in words if word.startswith('"')]
        if all(path is None for path in paths):
            continue
        plain = {"renameat": "rename", "renameat2": "rename", "mkdirat": "mkdir", "unlinkat": "unlink"}.get(call, call)
        if plain == "unlink" and "AT_REMOVEDIR" in line:
            plain = "rmdir"
        if plain not in ("rename", "mkdir", "rmdir", "unlink"):
            raise Unknown(line[:200])
        calls.append((plain, *paths))
    return before, calls


def split(words):
    """At commas that are not in strings (which are hexadecimal)."""
    return [word.strip() for word in words.split(", ")]


def snapshot_raw(folder):
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in sorted(folder.rglob("*"))}


class File:
    """What was written, and what the disk has for certain."""

    def __init__(self, data=b"", durable=None):
        self.now, self.safe = bytearray(data), durable


class Disk:
    """Folders are lists of (operation, name, file), of which the first `safe` are on the disk."""

    def __init__(self, before):
        self.root = Folder()
        self.fds = {}
        for path, data in before.items():
            folder, name = self.place(path)
            folder.entries.append((name, Folder() if data is None else File(data, bytes(data))))
            folder.safe = len(folder.entries)

    def place(self, path):
        """Its folder, as the process sees it, and its name there."""
        parts = path.split("/")
        folder = self.root
        for part in parts[:-1]:
            folder = folder.look()[part]
        return folder, parts[-1]

    def at(self, path):
        folder, name = self.place(path)
        return self.root if path == "" else folder.look().get(name)

    def do(self, call, *words):
        if call in ("open", "look"):
            fd, path, flags = words
            there = self.at(path)
            if there is None:
                there = File()
                folder, name = self.place(path)
                folder.entries.append((name, there))
            if "O_TRUNC" in flags and there.now:
                there.now, there.safe = bytearray(), None
            self.fds[fd] = [there, len(there.now) if "O_APPEND" in flags else 0]
        elif call == "close":
            self.fds.pop(words[0])
        elif call in ("write", "pwrite"):
            held = self.fds[words[0]]
            file, at, data = held[0], words[2] if call == "pwrite" else held[1], words[1]
            if len(file.now) < at:
                file.now.extend(bytes(at - len(file.now)))
            file.now[at : at + len(data)] = data
            file.dirty = True
            if call == "write":
                held[1] = at + len(data)
        elif call == "seek":
            self.fds[words[0]][1] = words[1]
        elif call == "cut":
            file = self.fds[words[0]][0]
            file.now = file.now[: words[1]] + bytes(max(0, words[1] - len(file.now)))
        elif call == "sync":
            there = self.fds[words[0]][0]
            if isinstance(there, Folder):
                there.safe = len(there.entries)
            else:
                there.safe = bytes(there.now)
        elif call == "mkdir":
            folder, name = self.place(words[0])
            folder.entries.append((name, Folder()))
        elif call in ("unlink", "rmdir"):
            folder, name = self.place(words[0])
            folder.entries.append((name, None))
        elif call == "rename":
            (a, old), (b, new) = self.place(words[0]), self.place(words[1])
            if a is not b:
                raise Unknown(f"renamed from folder to folder: {words}")
            a.entries.append((old, new, a.look()[old]))
        else:
            raise Unknown(call)

    def state(self, names, data):
        """name -> bytes of what is on the disk. `names(folder)` says how many operations on it are, `data(file)` what a file holds."""
        found = {}

        def walk(folder, at):
            for name, there in folder.look(names(folder)).items():
                if isinstance(there, Folder):
                    found[at + name] = None
                    walk(there, at + name + "/")
                else:
                    found[at + name] = data(there)

        walk(self.root, "")
        return found


class Folder:
    def __init__(self):
        self.entries, self.safe = [], 0

    def look(self, count=None):
        found = {}
        for entry in self.entries[:count]:
            if len(entry) == 3:  # a rename is one operation
                found.pop(entry[0], None)
                found[entry[1]] = entry[2]
            elif entry[1] is None:
                found.pop(entry[0], None)
            else:
                found[entry[0]] = entry[1]
        return found


def data_of(how, chance):
    def data(file):
        safe, now = file.safe, bytes(file.now)
        if safe == now:
            return now
        kind = chance.choice(["now", "safe", "zeros", "cut", "old and new"]) if how == "any" else how
        if kind == "now":
            return now
        if kind == "zeros":
            return bytes(len(now))
        if kind == "cut":
            return now[: chance.randrange(len(now) + 1)]
        if kind == "old and new":  # a page that came, others that did not
            at = chance.randrange(len(now) + 1)
            return now[:at] + bytes(len(now) - at)
        return safe or b""

    return data


def names_of(how, chance):
    def names(folder):
        if how == "all":
            return len(folder.entries)
        if how == "safe":
            return folder.safe
        return chance.randrange(folder.safe, len(folder.entries) + 1)

    return names


STATES = [("all", "now"), ("safe", "safe"), ("all", "safe"), ("all", "zeros"), ("all", "cut"), ("safe", "now"), ("any", "any"), ("any", "any")]


def kept(disk):
    """Blocks and checkpoints that were finished: they and their names were brought to the disk, in folders that are there for whoever asks."""
    found = {}

    def walk(folder, at):
        for name, there in folder.look().items():
            if isinstance(there, Folder):
                walk(there, at + name + "/")
            elif folder.look(folder.safe).get(name) is there and there.safe and name.endswith((".block", ".features", ".safetensors")):
                found[at + name] = there.safe

    walk(disk.root, "")
    return found


@test("power loss")
def power(bench):
    """The power fails at any operation of score, merge, embed, pack, a training and a run: what the disk may hold then (see power.py) is put into a folder and the same
    command called: bytes as without, or a refusal that names a file, and every block that was finished is still there."""
    needed()
    for name, most in POWER.items():
        scenario = bench.material.scenarios[name]
        want = bench.undisturbed(scenario)
        before, calls = recorded(bench, scenario)
        if bench.forget:
            calls = [call for call in calls if call[0] != "sync"]
        disk = Disk(before)
        for call in calls:
            disk.do(*call)
        here = snapshot_raw(bench.work)
        if disk.state(names_of("all", None), data_of("now", None)) != here:
            raise Unknown("the operations do not add up to what is there")
        # After some operations, what may be there; not what was before.
        matters = [i for i, call in enumerate(calls) if call[0] not in ("seek", "look", "close") and (call[0] != "write" or i % 11 == 0)]
        chosen = set(bench.some([(i, how) for i in matters for how in range(len(STATES))], most))
        disk, states, seen = Disk(before), [], set()
        for number, call in enumerate(calls):
            disk.do(*call)
            for names, data in [how for i, how in enumerate(STATES) if (number, i) in chosen]:
                state = disk.state(names_of(names, bench.random), data_of(data, bench.random))
                key = hashlib.blake2b(b"".join(p.encode() + b"\0" + hashlib.blake2b(d or b"").digest() for p, d in sorted(state.items()))).digest()
                if key not in seen:
                    seen.add(key)
                    states.append((number, call, names, data, state, kept(disk)))
        last = (len(calls), ("the end",), "safe", "safe", disk.state(names_of("safe", None), data_of("safe", None)), {})
        for number, call, names, data, state, blocks in [*states, last]:
            bench.fresh()
            for path, content in state.items():
                (bench.work / path).mkdir() if content is None else (bench.work / path).write_bytes(content)
            what = f"{name}: at {number} of {len(calls)} ({call[0]} {call[-1] if isinstance(call[-1], str) else ''}), names {names}, data {data}"
            wrong = []
            lost = [path for path, content in blocks.items() if state.get(path) != content]
            if call == ("the end",):
                wrong += lasting(snapshot(bench.work), want)
            if lost and call[0] not in ("unlink", "rmdir") and not over(state, want):
                wrong.append((ROWS, f"finished work is lost: {lost}"))
            again = scenario.again and (bench.work / "run/recipe.toml").exists()
            ended = bench.run(scenario.again if again else scenario.args)
            if ended.status:
                wrong += ended.refused(*[path.rsplit("/", 1)[-1] for path in (*want, *state)], ".parts")
            else:
                wrong += ended.crash() + compare(snapshot(bench.work), want)
            yield what, wrong


def over(state, want):
    return all(name in state for name in want)


def lasting(found, want):
    """A command that has ended with status 0 has brought its work to the disk."""
    return [(column, f"after the end: {why}") for column, why in compare(found, want) if column == ROWS]


POWER = {"folder-csv": 60, "pack-3 layers+features": 25, "merge": 40, "embed": 40, "pack": 15, "train": 30, "run": 20}
