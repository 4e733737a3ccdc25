"""strace: which calls a process makes, and what happens in the midst of one."""

import re
import shutil

from common import Missing

LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")


def needed():
    if not shutil.which("strace"):
        raise Missing("no strace")


def traced(bench, scenario, calls):
    """The calls of an undisturbed run: (thread, call, its words)."""
    log = bench.folder / "trace"
    bench.fresh(scenario)
    ended = bench.run(scenario.args, ["strace", "-f", "-qq", "-y", "-s", "0", "-o", log, "-e", f"trace={','.join(calls)}"])
    if ended.status:
        raise Missing(f"strace cannot be used here ({ended.err.strip()[-200:]})")
    return [found.groups() for found in map(LINE.match, log.read_text(errors="replace").splitlines()) if found]


def numbered(calls):
    """Each call with its number among those of its name and thread, which is how strace counts."""
    count = {}
    for thread, call, words in calls:
        count[thread, call] = count.get((thread, call), 0) + 1
        yield call, count[thread, call], words


def injected(call, what, number, log):
    return ["strace", "-f", "-qq", "-o", log, "-e", f"trace={call}", "-e", f"inject={call}:{what}:when={number}"]
