//! Statistics against scipy, the paper's own numbers and inputs that allow no answer.

use serde_json::Value;
use sslmem::split::Subset;
use sslmem::stats::{self, CLAIMS, Tail};
use sslmem::table::Row;

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
    // The offset of the two encoders cancels between subsets and is gone against 0.
    assert!((tests.calibrated[0].as_ref().unwrap().t - t[0]).abs() < 1e-9);
    assert!(tests.calibrated[7].as_ref().unwrap().t.abs() < 1e-9);
    assert_eq!(CLAIMS[5].null(), "0 ≤ m(S_I)");
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
    let text = [0.0, 1e-310, 3.174e-9, 0.0421, 0.5, f64::NAN].map(stats::p_text);
    assert_eq!(text, ["< 1e-300", "< 1e-300", "3.17e-9", "0.042", "0.500", "n/a"]);
}
