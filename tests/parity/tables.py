"""What a table of scores says: the report's numbers against scipy, and the order of the subsets."""

import csv
import html
import re

import numpy as np
import pyarrow.parquet
from scipy import stats

from common import check

SUBSETS = {"S_S": (70, -0.01, 0.20), "S_C": (90, 0.12, 0.25), "S_I": (80, -0.08, 0.22), "S_E": (110, 0.01, 0.15)}  # samples, mean, deviation


def table(path):
    """Writes a table of random scores; gives the column `score` by subset."""
    rng = np.random.default_rng(8)
    names = "index,id,label,subset,align_f,align_g,delta,score,relative,calibrated,stderr".split(",")
    delta = {name: rng.normal(mean, std, count) * 0.1 for name, (count, mean, std) in SUBSETS.items()}
    span, external = np.ptp(delta["S_C"]), delta["S_E"].mean()
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(names)
        index = 0
        for name, values in delta.items():
            for d in values:
                f = rng.uniform(0.5, 0.9)
                out.writerow([index, f"images/{index}", "", name, *map(repr, map(float, (f, f + d, d, d / span, d / (2 * f + d), d - external, 0.01)))])
                index += 1
    return {name: values / span for name, values in delta.items()}


def tables_of(page):
    """Heading to its table: lines of cells, as text."""
    found = {}
    for heading, rest in re.findall(r"<h3>(.*?)</h3>(.*?)(?=<h3>|</section>)", page, re.S):
        lines = re.findall(r"<tr>(.*?)</tr>", rest, re.S)
        text = lambda cell: html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<sup>(.*?)</sup>", r"^\1", cell))).replace("−", "-").strip()
        found[heading] = [[text(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)] for line in lines]
    return found


def units(printed, right):
    """How far a printed number is from the right one, in units of its last digit: at most a half."""
    printed = re.sub(r" × 10\^", "e", printed).strip("+% ").replace(" %", "")
    mantissa, _, power = printed.partition("e")
    digits = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(power or 0) - digits)
    return abs(float(printed) - right) / unit


def interval(test):
    low, high = test.confidence_interval(0.95)
    return float(low), float(high)


def worst(cells, right):
    """The largest of the differences of cells from numbers; `a to b` has two."""
    printed = [number for cell in cells for number in cell.split(" to ")]
    assert len(printed) == len(right), f"{printed} for {right}"
    return max(units(p, r) for p, r in zip(printed, right))


HALF = 0.5 + 1e-6


@check("4.1")
def statistics(bench):
    """The report's summaries and the paper's tests of `score` against scipy: differences in units of the last printed digit. (Of `calibrated`, whose
    zero is an estimate, tests/report.rs holds the tests.)"""
    path = bench.folder / "scores.csv"
    values = table(path)
    bench.sslmem("report", path, "--out", bench.folder / "page.html")
    found = tables_of((bench.folder / "page.html").read_text())
    lines = {line[0].split()[0].replace("S", "S_", 1): line for line in found["The score, per subset"][1:]}
    for name, v in values.items():
        cells = lines[name]
        low, high = interval(stats.ttest_1samp(v, 0))
        quantiles = np.quantile(v, [0.05, 0.5, 0.95])
        top = np.sort(v)[-int(np.ceil(len(v) / 10)) :].mean()
        right = [len(v), v.mean(), low, high, v.std(ddof=1), *quantiles, 100 * (v > 0).mean(), top]
        yield f"{name}: n, mean, interval, deviation, quantiles, share, top", worst(cells[1:], right), HALF
    tests = {re.sub(r"S([SCIE])", r"S_\1", line[0]): line[1:] for line in found["Tests on the score"][1:]}
    assert len(tests) == 8, list(tests)
    for null, cells in tests.items():
        subsets = re.findall(r"S_[SCIE]", null)
        a = values[subsets[0]] * (-1 if null.startswith("0 ≤") else 1)
        tail = "two-sided" if "=" in null else "greater"
        if len(subsets) == 2:
            b = values[subsets[1]]
            m, n = len(a), len(b)
            one, both = stats.ttest_ind(a, b, alternative=tail), stats.ttest_ind(a, b)
            pooled = (((m - 1) * a.var(ddof=1) + (n - 1) * b.var(ddof=1)) / (m + n - 2)) ** 0.5
            difference = a.mean() - b.mean()
            d = difference / pooled
            error = ((m + n) / (m * n) + d * d / (2 * (m + n))) ** 0.5
        else:
            one, both = stats.ttest_1samp(a, 0, alternative=tail), stats.ttest_1samp(a, 0)
            difference, d = a.mean(), a.mean() / a.std(ddof=1)
            error = (1 / len(a) + d * d / (2 * len(a))) ** 0.5
        z = stats.norm.ppf(0.975)
        right = [difference, *interval(both), d, d - z * error, d + z * error, one.statistic, one.pvalue]
        yield f"{null}: difference, d, their intervals, t, p", worst(cells[:-1], right), HALF
        yield f"{null}: rejected", float((cells[-1] == "yes") != (one.pvalue < 0.01)), 0


@check("6")
def subsets(bench):
    """Trains f and g on CIFAR-10 (`--preset smoke`, four minutes of two cores): 1 where S_C > S_E > S_I does not hold, or not with p < .01."""
    run = bench.folder / "run"
    bench.sslmem("run", "--preset", "smoke", "--data", f"cifar10:{bench.real('cifar10')}", "--out", run)
    rows = pyarrow.parquet.read_table(run / "scores.parquet")
    score, subset = (np.array(rows[name].to_pylist()) for name in ("score", "subset"))
    for a, b in [("S_C", "S_E"), ("S_E", "S_I")]:
        test = stats.ttest_ind(score[subset == a], score[subset == b], alternative="greater")
        yield f"{a} > {b}: not", float(test.statistic <= 0), 0
        yield f"{a} > {b}: p", float(test.pvalue), 0.01
