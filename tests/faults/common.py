"""What all tests share: the program under test, how it ended, what must be there afterwards, and what the table counts."""

import dataclasses
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import time

TESTS = []  # (name, what it does, function), in the order of the modules

# What can be wrong with a trial: the columns of the table after "survived".
ROWS = "lost, double or wrong rows"
CRASH = "crashes"
WORDS = "unclear messages"
LEFT = "left behind"
WRONG = (ROWS, CRASH, WORDS, LEFT)


def test(name):
    """A test: a function of a Bench that yields a trial at a time, (what was done, [(column, what was wrong), ...])."""

    def register(function):
        TESTS.append((name, " ".join(function.__doc__.split()), function))
        return function

    return register


class Missing(Exception):
    """What a test needs is not on this machine."""


@dataclasses.dataclass
class Ended:
    """How the program ended. `status` is negative for a signal, None if it had to be killed for taking too long."""

    status: int | None
    out: str
    err: str
    seconds: float

    @property
    def lines(self):
        """What it said, without warnings and advice of the way."""
        return [line for line in self.err.splitlines() if line and not line.startswith("warning:")]

    @property
    def error(self):
        return next((line for line in self.lines if line.startswith(("error: ", "stopped: "))), "")

    def crash(self, allowed=()):
        """No signal, panic, failed allocation or hang."""
        if self.status is None:
            return [(CRASH, f"does not end: {self.err[-200:]}")]
        if (self.status < 0 and -self.status not in allowed) or self.status in (101, 132, 134, 135, 136, 139):
            return [(CRASH, f"status {self.status}: {self.err[-300:]}")]
        if "panicked" in self.err or "memory allocation of" in self.err:
            return [(CRASH, self.err[-300:])]
        return []

    def clear(self, *names):
        """One sentence that names one of `names`; without them any will do."""
        if len(self.lines) != 1 or not self.error:
            return [(WORDS, f"status {self.status}, {len(self.lines)} lines: {self.err[:300]!r}")]
        if names and not any(str(name) in self.error for name in names):
            return [(WORDS, f"names none of {', '.join(map(str, names))}: {self.error[:300]}")]
        if re.search(r"Os \{|Some\(|\.rs:\d|Error\(", self.error):
            return [(WORDS, f"in the words of Rust: {self.error[:300]}")]
        return []

    def refused(self, *names):
        """It ended with an error that is a sentence."""
        if self.status == 0:
            return [(ROWS, "it was taken as if nothing were wrong")]
        return self.crash() or self.clear(*names)

    def done(self):
        return self.crash() or ([(WORDS, f"status {self.status}: {self.err[:300]}")] if self.status else [])


def limits(**kinds):
    """What a process is started with: limits, by name without RLIMIT_; `uid` is who it runs as."""

    def apply():
        # Whoever started this script may have had them ignored, and a program inherits that.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        for kind, most in kinds.items():
            if kind == "uid":
                os.setgroups([])
                os.setgid(most)
                os.setuid(most)
            else:
                resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (most, most))

    return apply


@dataclasses.dataclass
class Scenario:
    """A command that writes, in a folder that `prepare` fills before."""

    name: str
    args: list
    prepare: object = lambda work: None
    # What goes on with it, where that is another command.
    again: list = None
    # What the working folder holds after a run that nothing disturbed, and the seconds it took.
    want: dict = None
    seconds: float = 0


class Bench:
    """Where tests work: the binary, a folder of their own, and chance that is the same every time."""

    def __init__(self, binary, folder, seed, quick):
        self.binary, self.folder, self.quick = binary, folder, quick
        self.random = random.Random(seed)
        self.work = folder / "work"
        self.env = os.environ | {"SSLMEM_CACHE": str(folder / "cache"), "RUST_BACKTRACE": "0"}

    def count(self, all_of_them):
        """How many trials: a quarter with --quick, at least one."""
        return max(1, all_of_them // 4) if self.quick else all_of_them

    def some(self, things, most):
        """At most so many of these, by chance, in their order."""
        things, most = list(things), self.count(most)
        chosen = sorted(self.random.sample(range(len(things)), min(most, len(things))))
        return [things[i] for i in chosen]

    def fresh(self, scenario=None):
        """An empty working folder, or what a scenario begins with."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        if scenario:
            scenario.prepare(self.work)
        return self.work

    def start(self, args, before=(), **kinds):
        command = [*map(str, before), str(self.binary), *map(str, args), "--quiet"]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.work, env=self.env, preexec_fn=limits(**kinds), start_new_session=True, **pipes)

    def wait(self, process, timeout=120):
        start = time.monotonic()
        try:
            out, err = process.communicate(timeout=timeout)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            status = None
        return Ended(status, out.decode(errors="replace"), err.decode(errors="replace"), time.monotonic() - start)

    def run(self, args, before=(), timeout=120, **kinds):
        return self.wait(self.start(args, before, **kinds), timeout)

    def made(self, args):
        """Runs what must succeed."""
        ended = self.run(args)
        if ended.status:
            raise RuntimeError(f"{' '.join(map(str, args))}\n{ended.err}")
        return ended

    def undisturbed(self, scenario):
        """Fills in what a scenario ends in. Twice, for what is not the same twice cannot be compared."""
        if scenario.want is None:
            for _ in range(2):
                self.fresh(scenario)
                scenario.seconds = self.made(scenario.args).seconds
                before, scenario.want = scenario.want, snapshot(self.work)
            if before != scenario.want:
                raise RuntimeError(f"{scenario.name} differs from run to run: {differing(scenario.want, before)}")
        return scenario.want

    def ends_right(self, scenario):
        """The same command again, by a process that nobody disturbs, ends in what an undisturbed one ends in."""
        begun = scenario.again and (self.work / "run/recipe.toml").exists()
        ended = self.run(scenario.again if begun else scenario.args)
        wrong = compare(snapshot(self.work), self.undisturbed(scenario))
        # The work was over already, and a verb that does not go on says so.
        if ended.status == 2 and "exists already" in ended.error and not wrong:
            return []
        return ended.done() or wrong


VARYING = ("written", "seconds", "throughput", "command", "seal")


def snapshot(folder):
    """Everything below a folder: name -> bytes, the target of a link, None for a folder. Manifests without what each run has its own."""
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = None
        elif path.is_file():
            found[name] = path.read_bytes()
            if path.suffix == ".json":
                found[name] = plain(found[name])
        else:
            found[name] = "special"
    return found


def plain(text):
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict):
        for key in VARYING:
            value.pop(key, None)
    return json.dumps(value, sort_keys=True).encode()


def differing(a, b):
    return sorted(name for name in a.keys() | b.keys() if a.get(name, "") != b.get(name, ""))


def compare(found, want):
    """What is wrong with what was found."""
    wrong = []
    extra = sorted(found.keys() - want.keys())
    if extra:
        wrong.append((LEFT, f"left: {', '.join(extra[:4])}"))
    other = [name for name in want if found.get(name, "") != want[name]]
    if other:
        wrong.append((ROWS, f"not as after an undisturbed run: {', '.join(other[:4])}"))
    return wrong


def unfinished(folder):
    """Names that only work in progress has."""
    return [name for name in snapshot(folder) if re.search(r"\.part$|\.parts(/|$)|\.lock$", name)]


def flip(path, chance, bits=1, low=0, high=None):
    """Turns bits of a file around."""
    data = bytearray(path.read_bytes())
    for _ in range(bits):
        place = chance.randrange(low, high or len(data))
        data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
