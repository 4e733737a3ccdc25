//! Statistics of the score table: summaries, Student's t-tests, effect sizes and AUC, all in f64.
//!
//! A result that the numbers do not allow (too few samples, no variance, a missing subset) is `None`, never NaN. The tests treat samples as
//! independent given the encoders: they say how sure a difference is for these encoders. Encoders trained anew vary further, which needs
//! several pairs.

use statrs::distribution::{Continuous, ContinuousCDF, StudentsT};

use crate::split::Subset;
use crate::table::Row;

/// 97.5 % point of the standard normal distribution.
const Z: f64 = 1.959963984540054;

/// Summary of one subset.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub n: usize,
    pub mean: f64,
    /// 95 % confidence interval of the mean (Student's t); needs two samples.
    pub interval: Option<[f64; 2]>,
    /// With n - 1 in the denominator; needs two samples.
    pub std: Option<f64>,
    /// At 5, 25, 50, 75 and 95 %, linear between order statistics (numpy's default).
    pub quantiles: [f64; 5],
    /// Share of values above 0.
    pub positive: f64,
    /// Mean of the highest tenth, rounded up to whole samples: the paper's "top 10 %" (Fig. 2b).
    pub top_decile: f64,
}

/// Summarise the finite values; `None` if there are none.
pub fn summary(values: &[f64]) -> Option<Summary> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let (mean, _) = moments(&sorted)?;
    let std = variance(&sorted).map(f64::sqrt);
    let interval = std.and_then(|s| {
        let half = t_quantile(n as f64 - 1.0)? * s / (n as f64).sqrt();
        Some([mean - half, mean + half])
    });
    let top = &sorted[n - n.div_ceil(10)..];
    Some(Summary {
        n,
        mean,
        interval,
        std,
        quantiles: [0.05, 0.25, 0.5, 0.75, 0.95].map(|q| quantile(&sorted, q)),
        positive: sorted.iter().filter(|&&v| v > 0.0).count() as f64 / n as f64,
        top_decile: top.iter().sum::<f64>() / top.len() as f64,
    })
}

/// Quantile `q` in [0, 1] of ascending values, linear between order statistics. NaN when there are none.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q * last as f64;
    let below = place as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// The alternative hypothesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Only a positive difference: the paper's "half of the two-sided p".
    Greater,
    TwoSided,
}

/// A t-test with its effect size. Intervals are two-sided at 95 %.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Difference of the means, or the mean itself against 0.
    pub difference: f64,
    pub interval: [f64; 2],
    /// Cohen's d: the difference in (pooled) standard deviations.
    pub effect: f64,
    pub effect_interval: [f64; 2],
    /// Student's t; the paper's tables call it "effect size".
    pub t: f64,
    /// Degrees of freedom.
    pub freedom: f64,
    pub p: f64,
}

/// Two-sample t-test with pooled variance (`scipy.stats.ttest_ind`); `Greater` means mean(a) > mean(b).
///
/// The interval of d uses its large-sample error sqrt((m + n) / mn + d^2 / 2(m + n)) (Hedges and Olkin,
/// Statistical Methods for Meta-Analysis, 1985, chapter 5).
/// `None` below three finite values, when one side is empty, or without variance.
pub fn two_sample(a: &[f64], b: &[f64], tail: Tail) -> Option<Test> {
    let (mean_a, squares_a) = moments(a)?;
    let (mean_b, squares_b) = moments(b)?;
    let (m, n) = (count(a), count(b));
    let freedom = m + n - 2.0;
    if freedom < 1.0 || (squares_a == 0.0 && squares_b == 0.0) {
        return None;
    }
    let std = ((squares_a + squares_b) / freedom).sqrt();
    let effect = (mean_a - mean_b) / std;
    let share = (m + n) / (m * n);
    let effect_error = (share + effect * effect / (2.0 * (m + n))).sqrt();
    test(mean_a - mean_b, std * share.sqrt(), freedom, effect, effect_error, tail)
}

/// One-sample t-test against 0 (`scipy.stats.ttest_1samp`); d is mean / std with error sqrt(1 / n + d^2 / 2n).
/// `None` below two finite values or without variance.
pub fn one_sample(a: &[f64], tail: Tail) -> Option<Test> {
    let (mean, squares) = moments(a)?;
    let n = count(a);
    if n < 2.0 || squares == 0.0 {
        return None;
    }
    let std = (squares / (n - 1.0)).sqrt();
    let effect = mean / std;
    let effect_error = (1.0 / n + effect * effect / (2.0 * n)).sqrt();
    test(mean, std / n.sqrt(), n - 1.0, effect, effect_error, tail)
}

fn test(difference: f64, error: f64, freedom: f64, effect: f64, effect_error: f64, tail: Tail) -> Option<Test> {
    let t = difference / error;
    if !t.is_finite() {
        return None; // sums of 1e300 overflow, and the tail of NaN panics
    }
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let p = match tail {
        Tail::Greater => student.sf(t),
        Tail::TwoSided => (2.0 * student.sf(t.abs())).min(1.0),
    };
    let half = t_quantile(freedom)? * error;
    let effect_half = Z * effect_error;
    [p, effect, half, effect_half].iter().all(|v| v.is_finite()).then_some(Test {
        difference,
        interval: [difference - half, difference + half],
        effect,
        effect_interval: [effect - effect_half, effect + effect_half],
        t,
        freedom,
        p,
    })
}

/// 97.5 % point of Student's t. statrs' inverse is off by 1e-5 at 10^5 degrees of freedom; its tail is not, so two
/// Newton steps on the tail mend it.
fn t_quantile(freedom: f64) -> Option<f64> {
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let newton = |x: f64| x + (student.sf(x) - 0.025) / student.pdf(x);
    Some(newton(newton(student.inverse_cdf(0.975))))
}

/// How well a score separates two groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Auc {
    /// Chance that a random member of the first group lies above one of the second; ties count one half.
    pub value: f64,
    /// 95 % interval (Hanley and McNeil, Radiology 143, 1982), cut to [0, 1]. `None` at a perfect separation,
    /// where their error is 0 however small the groups.
    pub interval: Option<[f64; 2]>,
}

/// Area under the ROC curve, the Mann-Whitney U of `high` over the number of couples. `None` if a side is empty.
pub fn auc(high: &[f64], low: &[f64]) -> Option<Auc> {
    let tag = |values: &[f64], side: bool| -> Vec<(f64, bool)> { values.iter().filter(|v| v.is_finite()).map(|&v| (v, side)).collect() };
    let mut all = tag(high, true);
    all.extend(tag(low, false));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (m, n) = (count(high), count(low));
    if m == 0.0 || n == 0.0 {
        return None;
    }
    let mut ranks = 0.0; // of `high`, ties sharing their mean rank
    let mut before = 0.0;
    for group in all.chunk_by(|a, b| a.0 == b.0) {
        let size = group.len() as f64;
        let members = group.iter().filter(|v| v.1).count() as f64;
        ranks += members * (before + (size + 1.0) / 2.0);
        before += size;
    }
    let a = (ranks - m * (m + 1.0) / 2.0) / (m * n);
    let (q1, q2) = (a / (2.0 - a), 2.0 * a * a / (1.0 + a));
    let square = (a * (1.0 - a) + (m - 1.0) * (q1 - a * a) + (n - 1.0) * (q2 - a * a)) / (m * n);
    let half = Z * square.max(0.0).sqrt();
    Some(Auc { value: a, interval: (half > 0.0).then_some([(a - half).max(0.0), (a + half).min(1.0)]) })
}

/// The claim about means in a row of the paper's Tables 2 and 16; the null hypothesis is its opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Above(Subset, Subset),
    Positive(Subset),
    Negative(Subset),
    Nonzero(Subset),
}

/// The paper's eight, in its order: between subsets (Table 2), then against 0 (Table 16).
pub const CLAIMS: [Claim; 8] = [
    Claim::Above(Subset::Candidate, Subset::Shared),
    Claim::Above(Subset::Candidate, Subset::External),
    Claim::Above(Subset::Shared, Subset::Independent),
    Claim::Above(Subset::External, Subset::Independent),
    Claim::Positive(Subset::Candidate),
    Claim::Negative(Subset::Independent),
    Claim::Nonzero(Subset::Shared),
    Claim::Positive(Subset::External),
];

impl Claim {
    /// The null hypothesis as the paper writes it, with m for the mean score.
    pub fn null(self) -> String {
        match self {
            Claim::Above(a, b) => format!("m({}) ≤ m({})", a.symbol(), b.symbol()),
            Claim::Positive(a) => format!("m({}) ≤ 0", a.symbol()),
            Claim::Negative(a) => format!("0 ≤ m({})", a.symbol()),
            Claim::Nonzero(a) => format!("0 = m({})", a.symbol()),
        }
    }

    /// Test it on the score; a positive difference speaks for the claim (so `Negative` reports 0 - mean).
    pub fn test(self, rows: &[Row]) -> Option<Test> {
        let of = |subset| values(rows, subset, |r| r.score);
        match self {
            Claim::Above(a, b) => two_sample(&of(a), &of(b), Tail::Greater),
            Claim::Positive(a) => one_sample(&of(a), Tail::Greater),
            Claim::Negative(a) => one_sample(&of(a).iter().map(|v| -v).collect::<Vec<_>>(), Tail::Greater),
            Claim::Nonzero(a) => one_sample(&of(a), Tail::TwoSided),
        }
    }

    /// Tests it on the calibrated score. Its 0 is the mean of S_E and as uncertain, so a claim about 0 is a two-sample test against S_E.
    /// `None` without S_E.
    pub fn test_calibrated(self, rows: &[Row]) -> Option<Test> {
        let of = |subset| values(rows, subset, |r| r.calibrated);
        let (a, b, tail) = match self {
            Claim::Above(a, b) => (a, b, Tail::Greater),
            Claim::Positive(a) => (a, Subset::External, Tail::Greater),
            Claim::Negative(a) => (Subset::External, a, Tail::Greater),
            Claim::Nonzero(a) => (a, Subset::External, Tail::TwoSided),
        };
        two_sample(&of(a), &of(b), tail)
    }
}

/// The claims of [`CLAIMS`] that make sense for the calibrated score: S_E has mean 0 by construction, so above S_E means above 0.
pub const CALIBRATED: [Claim; 5] = [
    Claim::Above(Subset::Candidate, Subset::Shared),
    Claim::Above(Subset::Shared, Subset::Independent),
    Claim::Positive(Subset::Candidate),
    Claim::Negative(Subset::Independent),
    Claim::Nonzero(Subset::Shared),
];

/// The paper's tests, in the order of [`CLAIMS`] and [`CALIBRATED`].
#[derive(Clone, Debug, PartialEq)]
pub struct Tests {
    pub score: [Option<Test>; 8],
    pub calibrated: [Option<Test>; 5],
}

/// The paper's tests on its own score and on the calibrated one.
pub fn tables(rows: &[Row]) -> Tests {
    Tests { score: CLAIMS.map(|claim| claim.test(rows)), calibrated: CALIBRATED.map(|claim| claim.test_calibrated(rows)) }
}

/// [`summary`] of the calibrated score of a subset. The interval is that of the difference from S_E, because the mean of S_E is uncertain,
/// too; S_E itself has none.
pub fn calibrated_summary(rows: &[Row], subset: Subset) -> Option<Summary> {
    let of = |subset| values(rows, subset, |r| r.calibrated);
    let test = if subset == Subset::External { None } else { two_sample(&of(subset), &of(Subset::External), Tail::TwoSided) };
    Some(Summary { interval: test.map(|test| test.interval), ..summary(&of(subset))? })
}

/// The finite values of one subset, in the order of the rows.
pub fn values(rows: &[Row], subset: Subset, value: fn(&Row) -> f64) -> Vec<f64> {
    rows.iter().filter(|r| r.subset == subset).map(value).filter(|v| v.is_finite()).collect()
}

/// A p-value in three significant digits: `0.0421`, `3.17e-9`, `< 1e-300`; `n/a` for NaN.
pub fn p_text(p: f64) -> String {
    if p.is_nan() {
        return "n/a".into();
    }
    if p < 1e-300 {
        return "< 1e-300".into();
    }
    let text = format!("{p:.2e}"); // rounded first: .09996 is 0.100
    match text.split_once('e').and_then(|(_, power)| power.parse::<i32>().ok()) {
        Some(power) if power >= -3 => format!("{p:.*}", (2 - power) as usize),
        _ => text,
    }
}

fn count(values: &[f64]) -> f64 {
    values.iter().filter(|v| v.is_finite()).count() as f64
}

/// Mean and sum of squared deviations of the finite values. Deviations that are no more than rounding of the
/// mean count as none: otherwise equal values get a variance of 1e-34 and a t of 1e16.
fn moments(values: &[f64]) -> Option<(f64, f64)> {
    let finite = || values.iter().filter(|v| v.is_finite());
    let n = count(values);
    if n == 0.0 {
        return None;
    }
    let mean = finite().sum::<f64>() / n;
    let squares = finite().map(|v| (v - mean).powi(2)).sum::<f64>();
    let rounding = 1e-13 * finite().fold(0.0, |m: f64, v| m.max(v.abs()));
    Some((mean, if squares <= n * rounding * rounding { 0.0 } else { squares }))
}

fn variance(values: &[f64]) -> Option<f64> {
    let n = count(values);
    moments(values).filter(|_| n >= 2.0).map(|(_, squares)| squares / (n - 1.0))
}
