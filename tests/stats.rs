//! Statistics against scipy, the paper's own numbers and inputs that allow no answer.

use serde_json::Value;
use sslmem::ops::alignment::Pairs;
use sslmem::random::{Purpose, Stream};
use sslmem::score::standard_error;
use sslmem::split::Subset;
use sslmem::stats::{self, CALIBRATED, CLAIMS, Tail};
use sslmem::table::{self, Row};

/// The same numbers as `sample` in golden/stats.py.
fn sample(spec: &Value) -> Vec<f64> {
    let [n, mean, width, tie] = [0, 1, 2, 3].map(|i| spec[i].as_f64().unwrap());
    let value = |i: usize| mean + width * ((i as f64 * 0.6180339887498949).fract() * 2.0 - 1.0);
    let round = |x: f64| if tie > 0.0 { (x / tie).round_ties_even() * tie } else { x };
    (1..=n as usize).map(|i| round(value(i))).collect()
}

#[track_caller]
fn close(what: &str, ours: f64, golden: &Value, tolerance: f64) {
    let golden = golden.as_f64().unwrap();
    let error = (ours - golden).abs() / golden.abs().max(1e-290);
    assert!(error <= tolerance || ours == golden, "{what}: {ours} instead of {golden} (relative error {error:.1e})");
}

#[test]
fn equals_scipy() {
    let cases: Value = serde_json::from_str(include_str!("golden/stats.json")).unwrap();
    for case in cases.as_array().unwrap() {
        let (a, b) = (sample(&case["a"]), sample(&case["b"]));
        let name = format!("{} x {}", a.len(), b.len());
        let two = stats::two_sample(&a, &b, Tail::TwoSided).unwrap();
        let one = stats::one_sample(&a, Tail::TwoSided).unwrap();
        for (test, golden, greater) in [
            (&two, &case["two"], stats::two_sample(&a, &b, Tail::Greater).unwrap()),
            (&one, &case["one"], stats::one_sample(&a, Tail::Greater).unwrap()),
        ] {
            close(&format!("{name} t"), test.t, &golden["t"], 1e-9);
            close(&format!("{name} p"), test.p, &golden["p"], 1e-8);
            close(&format!("{name} one-sided p"), greater.p, &golden["greater"], 1e-8);
            close(&format!("{name} lower"), test.interval[0], &golden["interval"][0], 1e-8);
            close(&format!("{name} upper"), test.interval[1], &golden["interval"][1], 1e-8);
        }
        close(&format!("{name} freedom"), two.freedom, &case["two"]["df"], 0.0);
        close(&format!("{name} auc"), stats::auc(&a, &b).unwrap().value, &case["auc"], 1e-12);
        let (ours, golden) = (stats::summary(&a).unwrap(), &case["summary"]);
        close(&format!("{name} mean"), ours.mean, &golden["mean"], 1e-10);
        close(&format!("{name} std"), ours.std.unwrap(), &golden["std"], 1e-10);
        close(&format!("{name} positive"), ours.positive, &golden["positive"], 1e-15);
        close(&format!("{name} top decile"), ours.top_decile, &golden["top_decile"], 1e-12);
        for (q, value) in ours.quantiles.iter().enumerate() {
            close(&format!("{name} quantile {q}"), *value, &golden["quantiles"][q], 1e-10);
        }
    }
}

/// `n` rows of one subset with exactly this mean and standard deviation.
fn rows(subset: Subset, n: usize, mean: f64, std: f64) -> Vec<Row> {
    let raw: Vec<f64> = (1..=n).map(|i| (i as f64 * 0.6180339887498949).fract()).collect();
    let s = stats::summary(&raw).unwrap();
    raw.iter()
        .enumerate()
        .map(|(i, v)| {
            let score = mean + std * (v - s.mean) / s.std.unwrap();
            let (id, calibrated) = (format!("{i}"), score - 0.09958);
            Row {
                index: i as u32,
                id,
                label: None,
                subset,
                align_f: 0.5,
                align_g: 0.5 + score,
                delta: score,
                score,
                relative: 0.0,
                calibrated,
                stderr: 0.01,
                more: vec![],
            }
        })
        .collect()
}

#[test]
fn papers_table_follows_from_its_means() {
    // Means are printed in the paper; the standard deviations follow from its tests against 0 (Table 16).
    let subsets = [
        (Subset::Candidate, 0.30723, 0.2146),
        (Subset::Shared, -0.00136, 0.117),
        (Subset::External, 0.09958, 0.1323),
        (Subset::Independent, -0.31182, 0.2196),
    ];
    let all: Vec<Row> = subsets.iter().flat_map(|&(s, mean, std)| rows(s, 5000, mean, std)).collect();
    let tests = stats::tables(&all);
    let t = tests.score.each_ref().map(|t| t.as_ref().unwrap().t);
    for (claim, (ours, expected)) in CLAIMS.iter().zip(t.iter().zip([89.3, 58.2, 88.2, 113.5, 101.24, 100.42, -0.821, 53.23])) {
        assert!((ours - expected).abs() < 0.1, "{}: t {ours} instead of {expected}", claim.null());
    }
    let p = tests.score.each_ref().map(|t| t.as_ref().unwrap().p);
    assert!(p.iter().enumerate().all(|(i, &p)| i == 6 || p < 1e-300), "{p:?}");
    assert!(p[6] > 0.4, "S_S differs from 0: p {}", p[6]);
    let d = tests.score[0].as_ref().unwrap();
    assert!((d.effect - 1.786).abs() < 0.01 && d.effect_interval[0] < d.effect && d.effect < d.effect_interval[1]);
    // The offset of the two encoders cancels between subsets, and 0 is the mean of S_E.
    let calibrated = tests.calibrated.each_ref().map(|t| t.as_ref().unwrap().t);
    for (ours, expected) in calibrated.iter().zip([t[0], t[2], t[1], t[3]]) {
        assert!((ours - expected).abs() < 1e-9, "{calibrated:?} of {t:?}");
    }
    assert_eq!(stats::calibrated_summary(&all, Subset::External).unwrap().interval, None, "0 by construction");
    assert_eq!(CLAIMS[5].null(), "0 ≤ m(S_I)");
}

/// `count` tables in which all subsets are alike, with `n` samples in S_C, S_I and S_S each and 300 in S_E: how often each claim about the
/// calibrated score is believed at these levels, and how often a 95 % interval of the mean of S_C misses 0.
fn believed_by_chance(n: usize, count: u32, levels: [f64; 2]) -> ([[f64; 2]; 5], f64) {
    let sizes = [(Subset::Candidate, n), (Subset::Independent, n), (Subset::Shared, n), (Subset::External, 300)];
    let mut all: Vec<Row> = sizes.iter().flat_map(|&(subset, n)| rows(subset, n, 0.0, 1.0)).collect();
    let (mut believed, mut missed) = ([[0.0; 2]; 5], 0.0);
    for draw in 0..count {
        let mut stream = Stream::new(n as u64, Purpose::Statistics, 0, draw, 0);
        all.iter_mut().for_each(|row| row.align_g = row.align_f + 0.1 * stream.normal() as f64);
        table::finish(&mut all);
        for (claim, believed) in CALIBRATED.iter().zip(&mut believed) {
            let p = claim.test_calibrated(&all).unwrap().p;
            levels.iter().zip(believed).for_each(|(level, sum)| *sum += f64::from(p < *level));
        }
        let [low, high] = stats::calibrated_summary(&all, Subset::Candidate).unwrap().interval.unwrap();
        missed += f64::from(low > 0.0 || 0.0 > high);
    }
    (believed, missed)
}

#[test]
fn nothing_is_believed_of_equal_subsets_more_often_than_said() {
    for n in [300, 60] {
        let (count, levels) = (8000, [0.01, 0.05]);
        let (believed, missed) = believed_by_chance(n, count, levels);
        // Four standard deviations of a binomial count.
        let off = |times: f64, p: f64| (times - p * count as f64).abs() / (count as f64 * p * (1.0 - p)).sqrt();
        for (claim, found) in CALIBRATED.iter().zip(believed) {
            for (times, level) in found.into_iter().zip(levels) {
                assert!(off(times, level) < 4.0, "{n} samples, {}: {} at {level}", claim.null(), times / count as f64);
            }
        }
        assert!(off(missed, 0.05) < 4.0, "{n} samples: the interval misses in {}", missed / count as f64);
    }
}

/// Over many draws of K views: the root of the mean of `standard_error` squared, over the deviation of the means themselves.
fn error_over_deviation(kind: Pairs, k: usize, value: impl Fn(&[f64], &[f64]) -> f64) -> f64 {
    let draws = 20_000;
    let views = if kind == Pairs::Original { k + 1 } else { k };
    let (mut squares, mut means) = (0.0, Vec::with_capacity(draws));
    for draw in 0..draws {
        let mut stream = Stream::new(k as u64, Purpose::Statistics, 1, draw as u32, 0);
        let mut view: Vec<[f64; 3]> = (0..views).map(|_| std::array::from_fn(|_| stream.normal() as f64)).collect();
        if kind == Pairs::Original {
            view[0] = [0.3, -0.2, 0.1]; // the image itself
        }
        let delta: Vec<f64> = kind.list(views).into_iter().map(|(a, b)| value(&view[a], &view[b])).collect();
        squares += standard_error(kind, &delta, views).powi(2) / draws as f64;
        means.push(delta.iter().sum::<f64>() / delta.len() as f64);
    }
    squares.sqrt() / stats::summary(&means).unwrap().std.unwrap()
}

#[test]
fn standard_errors_are_the_deviation_over_draws_of_views() {
    // A difference of two distances, as in a score, one of which bends.
    let distance =
        |a: &[f64], b: &[f64], bend: fn(f64) -> f64| a.iter().zip(b).map(|(a, b)| (bend(*a) - bend(*b)).powi(2)).sum::<f64>().sqrt();
    let score = |a: &[f64], b: &[f64]| distance(a, b, |v| v) - distance(a, b, |v| (1.5 * v).tanh());
    let sum = |a: &[f64], b: &[f64]| a[0] + b[0] + 0.3 * a[1] * b[1];
    let product = |a: &[f64], b: &[f64]| a[0] * b[0];
    for k in 2..=8 {
        let ratio = error_over_deviation(Pairs::Original, k, score);
        assert!((ratio - 1.0).abs() < 0.03, "original, K {k}: {ratio}");
        if k == 2 {
            assert!(standard_error(Pairs::All, &[0.5], 2).is_nan());
            continue;
        }
        let of = |value: &dyn Fn(&[f64], &[f64]) -> f64| error_over_deviation(Pairs::All, k, value);
        let [sum, score, product] = [of(&sum), of(&score), of(&product)];
        assert!((sum - 1.0).abs() < 0.03, "views that matter by themselves, K {k}: {sum}");
        let most = if k == 3 { 1.3 } else { 1.04 };
        assert!((0.97..most).contains(&score), "distances, K {k}: {score}");
        // Where views matter in pairs alone, it is cautious, the jackknife more so.
        let jackknife = (2.0 * (k as f64 - 1.0) / (k as f64 - 2.0)).sqrt();
        assert!((0.97..1.01 * jackknife).contains(&product) && product < 2.05, "pairs alone, K {k}: {product}");
    }
    assert!(standard_error(Pairs::Original, &[0.5], 2).is_nan());
    assert_eq!(standard_error(Pairs::All, &[0.5; 6], 4), 0.0);
}

#[test]
fn wrong_direction_is_no_evidence() {
    let (low, high) = ([0.0, 0.1, 0.2], [1.0, 1.1, 1.2]);
    assert!(stats::two_sample(&low, &high, Tail::Greater).unwrap().p > 0.99);
    assert!(stats::two_sample(&high, &low, Tail::Greater).unwrap().p < 0.01);
}

#[test]
fn inputs_without_an_answer_have_none() {
    for (a, b) in [
        (vec![], vec![1.0, 2.0]),
        (vec![1.0], vec![2.0]),
        (vec![0.1; 7], vec![0.1; 3]),
        (vec![0.1; 7], vec![0.3; 3]),
        (vec![f64::NAN; 3], vec![1.0, 2.0]),
        (vec![1e308, 1.5e308], vec![1e308]),
    ] {
        assert_eq!(stats::two_sample(&a, &b, Tail::Greater), None, "{a:?} {b:?}");
        assert_eq!(stats::two_sample(&b, &a, Tail::TwoSided), None, "{b:?} {a:?}");
    }
    for a in [vec![], vec![1.0], vec![0.1; 9], vec![f64::INFINITY, 1.0]] {
        assert_eq!(stats::one_sample(&a, Tail::Greater), None, "{a:?}");
    }
    assert_eq!(stats::summary(&[f64::NAN]), None);
    let single = stats::summary(&[0.5]).unwrap();
    assert_eq!((single.n, single.mean, single.std, single.interval), (1, 0.5, None, None));
    assert_eq!(single.quantiles, [0.5; 5]);
    assert_eq!(stats::auc(&[], &[1.0]), None);
    assert!(stats::tables(&[]).score.iter().all(Option::is_none));
}

#[test]
fn auc_counts_ties_as_half() {
    assert_eq!(stats::auc(&[1.0, 1.0], &[1.0]).unwrap().value, 0.5);
    let perfect = stats::auc(&[2.0, 3.0], &[1.0, 0.0]).unwrap();
    assert_eq!((perfect.value, perfect.interval), (1.0, None));
    let some = stats::auc(&[0.0, -0.0, 2.0], &[0.0, 1.0]).unwrap();
    assert!(some.value == 0.5, "{some:?}");
    let [low, high] = some.interval.unwrap();
    assert!((0.0..0.5).contains(&low) && high > 0.5 && high <= 1.0);
}

#[test]
fn p_values_read_well() {
    let text = [0.0, 1e-310, 3.174e-9, 9.996e-4, 1e-3, 0.009584, 0.0064, 0.0421, 0.09996, 0.5, 1.0, f64::NAN].map(stats::p_text);
    let want = ["< 1e-300", "< 1e-300", "3.17e-9", "0.00100", "0.00100", "0.00958", "0.00640", "0.0421", "0.100", "0.500", "1.00", "n/a"];
    assert_eq!(text, want);
}
