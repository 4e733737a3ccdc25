"""Numbers of tests/stats.rs from scipy: python stats.py > stats.json (scipy 1.17)."""
import json
import numpy as np
from scipy import stats

STEP = 0.6180339887498949  # fractional parts of i * STEP: equidistributed and exact in every language


def sample(n, mean, width, tie):
    """mean + width * (fract(i * STEP) * 2 - 1), optionally rounded to multiples of `tie`."""
    x = mean + width * ((np.arange(1, n + 1) * STEP) % 1.0 * 2 - 1)
    return np.round(x / tie) * tie if tie else x


PAIRS = [  # (n, mean, width, tie) twice
    ((2, 0.3, 0.5, 0), (1, 0.1, 0.5, 0)),
    ((5, 0.3, 0.5, 0), (7, -0.2, 0.9, 0)),
    ((30, 0.279, 0.4, 0), (30, 0.170, 0.35, 0)),
    ((300, 0.30723, 0.37, 0.05), (300, 0.09958, 0.23, 0.05)),
    ((500, 0.01, 0.37, 0), (400, 0.012, 0.23, 0)),
    ((5000, 0.30723, 0.3717, 0), (5000, -0.00136, 0.2026, 0)),
    ((200000, 0.001, 0.3, 0), (150000, 0.0, 0.3, 0)),
]

out = []
for a, b in PAIRS:
    x, y = sample(*a), sample(*b)
    two = stats.ttest_ind(x, y)
    up = stats.ttest_ind(x, y, alternative="greater")
    one = stats.ttest_1samp(x, 0.0)
    interval, one_interval = two.confidence_interval(0.95), one.confidence_interval(0.95)
    out.append({
        "a": a, "b": b,
        "two": {"t": two.statistic, "p": two.pvalue, "greater": up.pvalue, "df": two.df, "interval": list(interval)},
        "one": {"t": one.statistic, "p": one.pvalue, "greater": stats.ttest_1samp(x, 0.0, alternative="greater").pvalue,
                "interval": list(one_interval)},
        "auc": stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)),
        "summary": {"mean": x.mean(), "std": x.std(ddof=1), "quantiles": list(np.quantile(x, [.05, .25, .5, .75, .95])),
                    "positive": (x > 0).mean(), "top_decile": np.sort(x)[-int(np.ceil(len(x) / 10)):].mean()},
    })
print(json.dumps(out, indent=1, default=float))
