"""Processes that are killed, asked to end, or stopped, whatever they are doing."""

import contextlib
import os
import signal
import time

from common import LEFT, ROWS, WORDS, compare, snapshot, test, unfinished
from trace import injected, needed, numbered, traced

SCORED = ("folder-csv", "tar-parquet+features", "parquet-npy", "pack-3 layers+features")
OTHERS = ("merge", "embed", "pack", "run", "train", "probe", "report", "split", "convert", "show augment")


def killed(bench, scenario, number, delay):
    """Whether the signal came in time; how the process ended."""
    process = bench.start(scenario.args)
    time.sleep(delay)
    alive = process.poll() is None
    if alive:
        os.kill(process.pid, number)
    return alive, bench.wait(process)


def judged(bench, ended, number):
    """A process that was asked to end says so and what is kept; one that was killed says nothing."""
    if number == signal.SIGKILL or ended.status == 0:  # the work was over before the signal was heard
        return ended.crash({signal.SIGKILL})
    wrong = ended.crash({number})  # before it listens for signals, one ends it
    if ended.status == -number:
        return wrong
    if ended.status != 128 + number:
        return wrong + [(WORDS, f"status {ended.status} after signal {number}")]
    return wrong + ended.clear("the same command goes on", "are kept in", "are scored and kept", "the same command begins again")


@test("killed at random")
def at_random(bench):
    """score, merge, embed, pack, run, ... get SIGKILL, SIGTERM or SIGINT at random moments, some of them twice; the same command must end in the bytes of an
    undisturbed run and leave nothing else."""
    for names, count in ((SCORED, 10), (OTHERS, 3)):
        for name in names:
            scenario = bench.material.scenarios[name]
            bench.undisturbed(scenario)
            left = bench.count(count)
            misses = 0
            while left and misses < 50:
                number = bench.random.choice([signal.SIGKILL] * 6 + [signal.SIGTERM] * 2 + [signal.SIGINT] * 2)
                bench.fresh(scenario)
                wrong, told = [], []
                for _ in range(bench.random.choice([1, 1, 2])):
                    delay = bench.random.uniform(0, scenario.seconds * 0.95)
                    alive, ended = killed(bench, scenario, number, delay)
                    if alive:
                        told.append(f"{signal.Signals(number).name} after {delay:.2f} s")
                        wrong += judged(bench, ended, number)
                if not told:
                    misses += 1
                    continue
                left -= 1
                yield f"{name}: {', '.join(told)}", wrong + bench.ends_right(scenario)


CALLS = "rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,rmdir,mkdir,flock,ftruncate,write".split(",")


@test("killed at each call")
def at_calls(bench):
    """The same killed at every rename, fsync, unlink, rmdir, mkdir, flock and ftruncate, and every 11th write (strace)."""
    needed()
    log = bench.folder / "log"
    for name in ("pack-3 layers+features", "folder-csv", *OTHERS):
        scenario = bench.material.scenarios[name]
        bench.undisturbed(scenario)
        calls = {(call, number) for call, number, _ in numbered(traced(bench, scenario, CALLS))}
        calls = sorted((call, number) for call, number in calls if call != "write" or number % 11 == 1)
        for call, number in bench.some(calls, 30 if name in SCORED else 12):
            bench.fresh(scenario)
            ended = bench.run(scenario.args, injected(call, "signal=KILL", number, log))
            if ended.status == 0:
                continue  # another thread made that call this time
            yield f"{name}: SIGKILL at {call} {number}", ended.crash({signal.SIGKILL}) + bench.ends_right(scenario)


@test("stopped, and a second process")
def stopped(bench):
    """A process is stopped (SIGSTOP), a second one with the same output must be refused and name the first, which goes on (SIGCONT) and ends right."""
    for name in (*SCORED, "merge", "embed", "pack", "run", "train"):
        scenario = bench.material.scenarios[name]
        bench.undisturbed(scenario)
        for _ in range(bench.count(2)):
            bench.fresh(scenario)
            first = bench.start(scenario.args)
            # As soon as it holds a lock.
            while first.poll() is None and not any(name.endswith(".lock") for name in unfinished(bench.work)):
                time.sleep(0.001)
            time.sleep(bench.random.uniform(0, scenario.seconds * 0.5))
            if first.poll() is None:
                os.kill(first.pid, signal.SIGSTOP)
            if first.poll() is not None or not any(name.endswith(".lock") for name in unfinished(bench.work)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first.pid, signal.SIGCONT)
                bench.wait(first)
                continue
            second = bench.run(scenario.args, timeout=20)
            os.kill(first.pid, signal.SIGCONT)
            wrong = second.refused(f"process {first.pid}") + bench.wait(first).done()
            yield name, wrong + bench.ends_right(scenario)


@test("three at once")
def at_once(bench):
    """Three processes with one output: one ends right, the others are refused or find it done."""
    for name in ("folder-csv", "merge", "embed", "pack"):
        scenario = bench.material.scenarios[name]
        want = bench.undisturbed(scenario)
        for _ in range(bench.count(2)):
            bench.fresh(scenario)
            ended = [bench.wait(process) for process in [bench.start(scenario.args) for _ in range(3)]]
            wrong = [w for e in ended for w in (e.crash() if e.status == 0 else e.refused(f"{bench.work.name}", "process", "exists already"))]
            if not any(e.status == 0 for e in ended):
                wrong.append((ROWS, "none of them ended well"))
            left = unfinished(bench.work)
            yield name, wrong + compare(snapshot(bench.work), want) + ([(LEFT, str(left))] if left else [])
