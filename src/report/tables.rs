//! The tables of the page: subsets, tests, kinds of images, facts. A missing number reads "n/a"; a row or column of only these is left out.

use std::fmt::Write;

use super::Input;
use super::figures::{present, seen_by};
use super::svg::{class, escape};
use crate::split::Subset;
use crate::stats::{Auc, Claim, Summary, Test, auc, p_text, summary, values};
use crate::table::Row;

/// The significance level of the paper.
pub const LEVEL: f64 = 0.01;
/// More rows than this of the skipped images are counted instead of listed.
const MOST_SKIPPED: usize = 200;

/// The paper's symbol.
pub fn symbol(subset: Subset) -> String {
    format!("<i>S</i><sub>{}</sub>", &subset.symbol()[2..])
}

/// `+0.279`, `−0.031`, `0.000`, `n/a`.
pub fn signed(v: f64, digits: usize) -> String {
    let text = plain(v, digits);
    let zero = text.chars().all(|c| matches!(c, '0' | '.'));
    if zero || !v.is_finite() || v < 0.0 { text } else { format!("+{text}") }
}

/// Like [`signed`] without a plus.
pub fn plain(v: f64, digits: usize) -> String {
    if !v.is_finite() {
        return "n/a".into();
    }
    let text = if v.abs() < 1e7 { format!("{v:.digits$}") } else { format!("{v:.2e}") };
    let zero = !text.contains(|c: char| c.is_ascii_digit() && c != '0');
    if zero { text.trim_start_matches('-').into() } else { text.replace('-', "−") }
}

/// Decimals that give the largest of these numbers three significant digits, between 2 and 7.
pub fn digits(values: impl IntoIterator<Item = f64>) -> usize {
    let most = values.into_iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    if most > 0.0 { (2.0 - most.log10().floor()).clamp(2.0, 7.0) as usize } else { 3 }
}

/// A p-value with a raised exponent.
pub fn p(p: f64) -> String {
    let text = p_text(p);
    let (less, number) = text.strip_prefix("< ").map_or(("", text.as_str()), |rest| ("&lt; ", rest));
    match number.split_once('e') {
        Some((digits, power)) => {
            let power = power.replace('-', "−");
            let factor = if digits == "1" { String::new() } else { format!("{digits} × ") };
            format!(r#"<span class="nowrap">{less}{factor}10<sup>{power}</sup></span>"#)
        }
        None => format!("{less}{number}"),
    }
}

fn span([low, high]: [f64; 2], digits: usize) -> String {
    format!(r#"<span class="soft nowrap">{} to {}</span>"#, signed(low, digits), signed(high, digits))
}

fn or_na<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or("n/a".into(), text)
}

/// A table with these column heads; the first column is left-aligned, the rest right-aligned. Columns of only "n/a" are left out, and so is
/// a table without rows.
fn table(heads: &[&str], lines: &[Vec<String>]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let known: Vec<usize> = (0..heads.len()).filter(|&i| lines.iter().any(|line| line[i] != "n/a")).collect();
    let mut out = String::from("<div class=\"scroll\"><table>\n<thead><tr>");
    for &i in &known {
        let _ = write!(out, "<th scope=\"col\">{}</th>", heads[i]);
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for line in lines {
        out.push_str("<tr>");
        for &i in &known {
            let cell = &line[i];
            let tag = if i == 0 { "th scope=\"row\"" } else { "td" };
            let _ = write!(out, "<{tag}>{cell}</{}>", &tag[..2]);
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    out
}

fn name(rows: &[Row], subset: Subset) -> String {
    let color = class(subset);
    format!(r#"<span class="swatch {color}"></span>{} <span class="soft">{}</span>"#, symbol(subset), seen_by(rows, subset))
}

/// Mean, spread and quantiles of one column of the score table, a line per subset that has any.
pub fn summaries(rows: &[Row], summary: impl Fn(Subset) -> Option<Summary>) -> String {
    let all: Vec<_> = present(rows).into_iter().filter_map(|s| Some((s, summary(s)?))).collect();
    let d = digits(all.iter().map(|(_, s)| s.mean.abs().max(s.std.unwrap_or(0.0))));
    let line = |(subset, s): (Subset, Summary)| {
        vec![
            name(rows, subset),
            s.n.to_string(),
            format!("<b>{}</b>", signed(s.mean, d)),
            or_na(s.interval, |i| span(i, d)),
            or_na(s.std, |v| plain(v, d)),
            signed(s.quantiles[0], d),
            signed(s.quantiles[2], d),
            signed(s.quantiles[4], d),
            format!("{:.0} %", 100.0 * s.positive),
            signed(s.top_decile, d),
        ]
    };
    let heads = ["Subset", "n", "Mean", "95 % interval", "Std", "5 %", "Median", "95 %", "Above 0", "Mean of top 10 %"];
    table(&heads, &all.into_iter().map(line).collect::<Vec<_>>())
}

/// Means of the columns that the score is computed from, a row per subset.
pub fn parts(rows: &[Row]) -> String {
    let columns: [fn(&Row) -> f64; 5] = [|r| r.align_f, |r| r.align_g, |r| r.delta, |r| r.stderr, |r| r.relative];
    let mean = |s: Subset, value| summary(&values(rows, s, value)).map(|s| s.mean);
    let d = digits(present(rows).into_iter().filter_map(|s| mean(s, columns[2]))).max(3);
    let line = |subset| {
        let cell = |(i, value): (usize, &fn(&Row) -> f64)| {
            or_na(mean(subset, *value), |v| if i == 2 || i == 4 { signed(v, d) } else { plain(v, d) })
        };
        [vec![name(rows, subset)], columns.iter().enumerate().map(cell).collect()].concat()
    };
    let lines: Vec<_> = present(rows).into_iter().map(line).collect();
    table(&["Subset", "Alignment of f", "Alignment of g", "Delta (g − f)", "Its standard error", "(g − f) / (g + f)"], &lines)
}

/// The paper's tests on one score, as far as the table allows them.
pub fn tests(claims: &[Claim], tests: &[Option<Test>]) -> String {
    let d = digits(tests.iter().flatten().map(|t| t.difference));
    let line = |(claim, test): (&Claim, &Option<Test>)| {
        let t = test.as_ref()?;
        let null = Subset::ALL.into_iter().fold(claim.null(), |text, s| text.replace(s.symbol(), &symbol(s)));
        Some(vec![
            format!(r#"<span class="nowrap">{null}</span>"#),
            signed(t.difference, d),
            span(t.interval, d),
            signed(t.effect, 2),
            span(t.effect_interval, 2),
            signed(t.t, 2),
            p(t.p),
            (if t.p < LEVEL { "<b>yes</b>" } else { "no" }).into(),
        ])
    };
    let lines: Vec<_> = claims.iter().zip(tests).filter_map(line).collect();
    let heads =
        ["Null hypothesis", "Difference", "95 % interval", "Cohen’s <i>d</i>", "95 % interval", "<i>t</i>", "<i>p</i>", "Rejected at 1 %"];
    table(&heads, &lines)
}

/// Per kind of image: the scores of the candidates, and the AUC of the score against the reference kind, among the candidates and, as a
/// control, in S_E. Returns the reference kind and the table.
pub fn kinds(rows: &[Row], truth: &[String]) -> (String, String) {
    let mut kinds: Vec<&str> = truth.iter().map(String::as_str).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let known = ["common", "rare", "atypical"];
    kinds.sort_by_key(|k| known.iter().position(|n| n == k).unwrap_or(known.len()));
    let reference = kinds.first().copied().unwrap_or_default();
    let of = |kind: &str, subset: Subset, value: fn(&Row) -> f64| -> Vec<f64> {
        let rows = rows.iter().zip(truth).filter(|(r, k)| r.subset == subset && *k == kind);
        rows.map(|(r, _)| value(r)).filter(|v| v.is_finite()).collect()
    };
    let cell = |auc: Option<Auc>| {
        or_na(auc, |a| {
            let interval =
                a.interval.map_or(String::new(), |[low, high]| format!(" <span class=\"soft nowrap\">{low:.2} to {high:.2}</span>"));
            format!("{:.3}{interval}", a.value)
        })
    };
    let columns: [fn(&Row) -> f64; 2] = [|r| r.score, |r| r.calibrated];
    let mean = |kind: &str, value| summary(&of(kind, Subset::Candidate, value)).map(|s| s.mean);
    let d = columns.map(|value| digits(kinds.iter().filter_map(|k| mean(k, value))));
    let lines: Vec<_> = kinds
        .iter()
        .map(|&kind| {
            let against = |subset, value| {
                let found = if kind == reference { None } else { auc(&of(kind, subset, value), &of(reference, subset, value)) };
                if kind == reference { "reference".into() } else { cell(found) }
            };
            vec![
                escape(kind),
                of(kind, Subset::Candidate, columns[0]).len().to_string(),
                or_na(mean(kind, columns[0]), |v| signed(v, d[0])),
                or_na(mean(kind, columns[1]), |v| signed(v, d[1])),
                against(Subset::Candidate, columns[0]),
                against(Subset::Candidate, columns[1]),
                against(Subset::External, columns[0]),
            ]
        })
        .collect();
    let control = format!("AUC in {}, control", symbol(Subset::External));
    let heads = ["Kind", "Candidates", "Mean score", "Mean calibrated", "AUC, score", "AUC, calibrated", &control];
    (reference.to_string(), table(&heads, &lines))
}

/// Names and values, as given.
pub fn facts(facts: &[(String, String)]) -> String {
    let mut out = String::from("<div class=\"scroll\"><table class=\"facts\"><tbody>\n");
    for (name, value) in facts {
        let _ = writeln!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    out + "</tbody></table></div>\n"
}

/// The images left out, folded away.
pub fn skipped(input: &Input) -> String {
    let all = &input.skipped;
    let mut out =
        format!("<details><summary>{} left out</summary><div class=\"scroll\"><table class=\"facts\"><tbody>\n", images(all.len()));
    for (path, reason) in all.iter().take(MOST_SKIPPED) {
        let _ = writeln!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(path), escape(reason));
    }
    if all.len() > MOST_SKIPPED {
        let _ = writeln!(out, "<tr><th scope=\"row\">and {} more</th><td></td></tr>", all.len() - MOST_SKIPPED);
    }
    out + "</tbody></table></div></details>\n"
}

/// `1 image`, `7 images`.
pub fn images(n: usize) -> String {
    if n == 1 { "1 image".into() } else { format!("{n} images") }
}
