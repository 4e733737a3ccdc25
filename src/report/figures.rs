//! The figures: histogram of the score, scatter of the alignments, training curves.

use std::fmt::Write;

use super::Curve;
use super::svg::{STEPS, Scale, Svg, class, drawable, escape, nice, symbol};
use crate::split::Subset;
use crate::stats::{summary, values};
use crate::table::Row;

/// Back to front, so that the candidates lie on top.
const LAYERS: [Subset; 4] = [Subset::Shared, Subset::External, Subset::Independent, Subset::Candidate];
/// The subsets in the order of the report.
pub const READING: [Subset; 4] = [Subset::Candidate, Subset::External, Subset::Shared, Subset::Independent];
/// More points than this are thinned, to keep the page small.
pub const MOST_POINTS: usize = 4000;

/// Whether the table is of a split. Without one all samples count as candidates, and it is unknown which encoder saw them.
pub fn dealt(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.subset != Subset::Candidate)
}

/// The subsets of a table, as [`READING`] meets them.
pub fn present(rows: &[Row]) -> Vec<Subset> {
    READING.into_iter().filter(|&subset| rows.iter().any(|row| row.subset == subset)).collect()
}

/// Who saw a subset of these rows.
pub fn seen_by(rows: &[Row], subset: Subset) -> &'static str {
    match subset {
        Subset::Candidate if !dealt(rows) => "taken as candidates",
        Subset::Shared => "both saw it",
        Subset::Candidate => "only f saw it",
        Subset::Independent => "only g saw it",
        Subset::External => "neither saw it",
    }
}

/// Histograms of the score, one per subset over the same bins, above one strip per subset with the middle 90 %, the
/// middle 50 %, median and mean. `None` without a finite score. Narrow below a width of 600.
pub fn histogram(rows: &[Row], width: f64) -> Option<Svg> {
    let narrow = width < 600.0;
    let scores = |s| -> Vec<f64> { values(rows, s, |r| r.score).into_iter().filter(|v| drawable(*v)).collect() };
    let present: Vec<Subset> = READING.into_iter().filter(|&s| !scores(s).is_empty()).collect();
    let bins = bins(&present.iter().map(|&s| scores(s)).collect::<Vec<_>>())?;
    let count = bins.count;
    let shares: Vec<(Subset, Vec<f64>)> = LAYERS
        .into_iter()
        .filter(|s| present.contains(s))
        .map(|subset| {
            let (mut shares, values) = (vec![0.0; count], scores(subset));
            values.iter().for_each(|v| shares[bins.of(*v)] += 100.0 / values.len() as f64);
            (subset, shares)
        })
        .collect();
    let highest = shares.iter().flat_map(|(_, s)| s).copied().fold(0.0, f64::max);

    let (left, right) = (if narrow { 46.0 } else { 56.0 }, width - 16.0);
    let top = if narrow { 74.0 } else { 54.0 };
    let floor = top + if narrow { 220.0 } else { 280.0 };
    let strips = floor + 12.0;
    let bottom = strips + 22.0 * present.len() as f64;
    let mut svg = Svg::new(width, bottom + 46.0);
    let x = Scale::new([bins.edge(0), bins.edge(count)], [left, right]);
    let y = Scale::new([0.0, highest * 1.05], [floor, top]);

    for (i, &subset) in present.iter().enumerate() {
        let (column, row) = if narrow { (i % 2, i / 2) } else { (i, 0) };
        let [at, line] = [4.0 + column as f64 * (width / if narrow { 2.0 } else { 4.0 }), 8.0 + 20.0 * row as f64];
        svg.rect(&format!("solid {}", class(subset)), [at, line - 5.0], [11.0, 11.0], "");
        svg.text("ink", "start", [at + 18.0, line + 5.0], &symbol(subset, seen_by(rows, subset)));
    }
    svg.text("small soft", "start", [4.0, top - 10.0], "share of each subset per bin");
    for (value, text) in y.ticks(if narrow { 4 } else { 5 }) {
        svg.segment("hair rule", [left, y.at(value)], [right, y.at(value)]);
        svg.text("small soft", "end", [left - 8.0, y.at(value) + 4.0], &format!("{text} %"));
    }
    for (value, text) in x.ticks(if narrow { 5 } else { 9 }) {
        svg.segment("hair rule", [x.at(value), strips], [x.at(value), bottom]);
        svg.text("small soft", "middle", [x.at(value), bottom + 16.0], &text);
    }
    if x.domain[0] <= 0.0 && 0.0 <= x.domain[1] {
        svg.segment("hair soft", [x.at(0.0), top], [x.at(0.0), bottom]);
    }
    svg.text("ink", "middle", [(left + right) / 2.0, bottom + 38.0], "SSLMem score");

    for (subset, shares) in &shares {
        let occupied: Vec<usize> = (0..count).filter(|&i| shares[i] > 0.0).collect();
        let (Some(&first), Some(&last)) = (occupied.first(), occupied.last()) else { continue };
        let mut outline = format!("M{:.1} {floor}", x.at(bins.edge(first)));
        for (i, share) in shares.iter().enumerate().take(last + 1).skip(first) {
            let _ = write!(outline, "V{:.1}H{:.1}", y.at(*share), x.at(bins.edge(i + 1)));
        }
        let _ = write!(outline, "V{floor}");
        svg.path(&format!("area {}", class(*subset)), &format!("{outline}Z"));
        svg.path(&format!("line {}", class(*subset)), &outline);
    }
    svg.segment("hair soft", [left, floor], [right, floor]);
    for (i, &subset) in present.iter().enumerate() {
        strip(&mut svg, subset, &scores(subset), x, strips + 22.0 * i as f64 + 11.0);
    }
    for bin in 0..count {
        let [from, to] = [bin, bin + 1].map(|i| bins.edge(i));
        let mut title = format!("{from:+.3} to {to:+.3}").replace('-', "−");
        for (subset, shares) in &shares {
            let _ = write!(title, "\n{}: {:.1} %", subset.symbol(), shares[bin]);
        }
        svg.rect("hover ink", [x.at(from), top], [x.at(to) - x.at(from), floor - top], &title);
    }
    Some(svg)
}

fn strip(svg: &mut Svg, subset: Subset, scores: &[f64], x: Scale, y: f64) {
    let Some(s) = summary(scores) else { return };
    let [low, lower, median, upper, high] = s.quantiles.map(|q| x.at(q));
    let color = class(subset);
    svg.text(color, "end", [x.range[0] - 8.0, y + 4.0], &symbol(subset, ""));
    svg.segment(&format!("line {color}"), [low, y], [high, y]);
    svg.segment(&format!("fat {color}"), [lower, y], [upper, y]);
    svg.segment(&format!("line {color}"), [median, y - 6.0], [median, y + 6.0]);
    svg.dot(&format!("solid {color}"), [x.at(s.mean), y], 4.0);
}

struct Bins {
    first: f64, // in widths
    width: f64,
    count: usize,
}

impl Bins {
    fn edge(&self, i: usize) -> f64 {
        (self.first + i as f64) * self.width
    }
    fn of(&self, v: f64) -> usize {
        ((v / self.width).floor() - self.first).clamp(0.0, (self.count - 1) as f64) as usize
    }
}

/// Bins of a round width with an edge at 0: Freedman and Diaconis' width of the median subset, about 24 to 60 bins.
fn bins(subsets: &[Vec<f64>]) -> Option<Bins> {
    let whole = Scale::around(subsets.iter().flatten().copied(), 0.0, [0.0, 1.0])?;
    let span = whole.domain[1] - whole.domain[0];
    let mut widths: Vec<f64> =
        subsets.iter().filter_map(|v| summary(v)).map(|s| 2.0 * (s.quantiles[3] - s.quantiles[1]) / (s.n as f64).cbrt()).collect();
    widths.sort_by(f64::total_cmp);
    let width = nice(widths[widths.len() / 2].clamp(span / 60.0, span / 24.0));
    let first = (whole.domain[0] / width).floor();
    let count = ((whole.domain[1] / width).floor() - first) as usize + 1;
    Some(Bins { first, width, count })
}

/// The scatter of the candidates, and how many of them it shows.
pub struct Scatter {
    pub svg: Svg,
    pub shown: usize,
    pub total: usize,
    /// Whether the line of the control group is drawn.
    pub control: bool,
}

/// align_g against align_f of the candidates, coloured by score, with the diagonal and, dashed, the mean offset of S_E. `None` without
/// candidates.
pub fn scatter(rows: &[Row]) -> Option<Scatter> {
    let shows = |r: &&Row| [r.align_f, r.align_g, r.score].into_iter().all(drawable);
    let all: Vec<&Row> = rows.iter().filter(|r| r.subset == Subset::Candidate).filter(shows).collect();
    let shown: Vec<&Row> = (0..all.len().min(MOST_POINTS)).map(|i| all[i * all.len() / all.len().min(MOST_POINTS)]).collect();
    let [left, right, top, floor] = [52.0, 472.0, 30.0, 450.0];
    let x = Scale::around(shown.iter().flat_map(|r| [r.align_f, r.align_g]), 0.04, [left, right])?;
    let y = Scale { range: [floor, top], ..x };
    let mut svg = Svg::new(550.0, 500.0);
    svg.text("ink", "start", [4.0, 16.0], "alignment loss of g");
    svg.text("ink", "end", [right, floor + 42.0], "alignment loss of f");
    for (value, text) in x.ticks(6) {
        svg.segment("hair rule", [x.at(value), top], [x.at(value), floor]);
        svg.segment("hair rule", [left, y.at(value)], [right, y.at(value)]);
        svg.text("small soft", "middle", [x.at(value), floor + 18.0], &text);
        svg.text("small soft", "end", [left - 8.0, y.at(value) + 4.0], &text);
    }
    svg.text("small soft", "start", [left + 10.0, top + 18.0], "f aligns better: memorised by f");
    svg.text("small soft", "end", [right - 10.0, floor - 10.0], "g aligns better");

    let mut strength: Vec<f64> = all.iter().map(|r| r.score.abs()).collect();
    strength.sort_by(f64::total_cmp);
    let most = nice(strength[(strength.len() - 1) * 98 / 100].max(1e-12));
    let middle = (STEPS / 2) as f64;
    let step = |r: &Row| (middle + (r.score / most * middle).round()).clamp(0.0, 2.0 * middle) as usize;
    let size = if shown.len() <= 500 {
        6.0
    } else if shown.len() <= 2000 {
        4.5
    } else {
        3.2
    };
    let mut steps: Vec<usize> = (0..STEPS).collect();
    steps.sort_by_key(|s| s.abs_diff(STEPS / 2)); // the strongest on top
    for s in steps {
        let points = shown.iter().filter(|r| step(r) == s).map(|r| [x.at(r.align_f), y.at(r.align_g)]);
        svg.dots(&format!("q{s}"), size, points);
    }
    let [low, high] = x.domain;
    svg.segment("hair ink", [x.at(low), y.at(low)], [x.at(high), y.at(high)]);
    let offset = summary(&values(rows, Subset::External, |r| r.delta)).map(|s| s.mean);
    let control = offset.filter(|o| o.abs() < high - low);
    if let Some(offset) = control {
        let [from, to] = [low.max(low - offset), high.min(high - offset)];
        svg.segment("dash external", [x.at(from), y.at(from + offset)], [x.at(to), y.at(to + offset)]);
    }

    let (bar, cell) = (494.0, 16.0);
    svg.text("ink", "start", [bar, top + 8.0], "score");
    for s in 0..STEPS {
        let at = top + 20.0 + cell * (STEPS - 1 - s) as f64;
        svg.rect(&format!("solid q{s}"), [bar, at], [12.0, cell], "");
    }
    let ends = Scale::new([-most, most], [top + 20.0 + cell * (STEPS as f64 - 0.5), top + 20.0 + cell * 0.5]);
    for (value, text) in ends.ticks(4) {
        svg.text("small soft", "start", [bar + 18.0, ends.at(value) + 4.0], &text);
    }
    Some(Scatter { svg, shown: shown.len(), total: all.len(), control: control.is_some() })
}

/// Loss, spread and rank of the embeddings, a teacher's entropy or the accuracy on the training's views, and the learning rate over epochs, one panel each; panels without data are left out.
pub fn panels(curves: &[Curve]) -> Vec<Svg> {
    let loss = panel(curves, "training loss", |p| p.loss, false);
    let std = panel(curves, "std of the embeddings", |p| p.std, true);
    let rank = panel(curves, "rank of the embeddings", |p| p.rank, true);
    let entropy = panel(curves, "entropy of the teacher", |p| p.entropy.unwrap_or(f64::NAN), true);
    let lr = panel(curves, "learning rate", |p| p.lr, true);
    let accuracy = panel(curves, "accuracy (training views)", |p| p.accuracy.unwrap_or(f64::NAN), true);
    [loss, std, rank, entropy, accuracy, lr].into_iter().flatten().collect()
}

/// The panels in one row with their legend: the figure's file.
pub fn curves(curves: &[Curve]) -> Option<Svg> {
    let panels = panels(curves);
    let width: f64 = panels.iter().map(|p| p.width + 16.0).sum();
    let mut svg = Svg::new(width.max(1.0) - 16.0, panels.first()?.height + 30.0);
    let mut at = 4.0;
    for (color, text) in legend(curves) {
        svg.segment(&format!("line {color}"), [at, 11.0], [at + 20.0, 11.0]);
        svg.text("ink", "start", [at + 27.0, 15.0], &escape(&text));
        at += 60.0 + 7.0 * text.chars().count() as f64;
    }
    let mut at = 0.0;
    for panel in &panels {
        svg.place([at, 30.0], panel);
        at += panel.width + 16.0;
    }
    Some(svg)
}

/// Colour and text per family of curves: all of f, all of g.
pub fn legend(curves: &[Curve]) -> Vec<(&'static str, String)> {
    let mut families: Vec<(&str, &str, usize)> = Vec::new();
    for curve in curves {
        let color = color(&curve.name);
        match families.iter_mut().find(|f| f.0 == color) {
            Some(family) => family.2 += 1,
            None => families.push((color, &curve.name, 1)),
        }
    }
    let text = |(color, name, n): (&'static str, &str, usize)| match (color, n) {
        (_, 1) => (color, name.to_string()),
        ("candidate", n) => (color, format!("f ({n} runs)")),
        ("independent", n) => (color, format!("g ({n} runs)")),
        (_, n) => (color, format!("others ({n} runs)")),
    };
    families.into_iter().map(text).collect()
}

/// f has the colour of S_C, which only f saw; g has that of S_I.
fn color(name: &str) -> &'static str {
    match name.chars().next() {
        Some('f') => "candidate",
        Some('g') => "independent",
        _ => "external",
    }
}

fn panel(curves: &[Curve], title: &str, value: fn(&super::Point) -> f64, from_zero: bool) -> Option<Svg> {
    let [left, right, top, floor] = [48.0, 282.0, 34.0, 190.0];
    let lines: Vec<Vec<[f64; 2]>> = curves.iter().map(|c| thin(c, value)).collect();
    let all = || lines.iter().flatten();
    let x = Scale::around(all().map(|p| p[0]), 0.0, [left, right])?;
    let x = Scale::new([x.domain[0].min(0.0), x.domain[1]], x.range);
    let zero = from_zero.then_some(0.0);
    let y = Scale::around(all().map(|p| p[1]).chain(zero), 0.05, [floor, top])?;
    let y = if from_zero { Scale::new([0.0, y.domain[1]], y.range) } else { y };
    let mut svg = Svg::new(290.0, 236.0);
    svg.text("ink", "start", [4.0, 16.0], title);
    for (value, text) in y.ticks(5) {
        svg.segment("hair rule", [left, y.at(value)], [right, y.at(value)]);
        svg.text("small soft", "end", [left - 8.0, y.at(value) + 4.0], &text);
    }
    for (value, text) in x.ticks(5) {
        svg.text("small soft", "middle", [x.at(value), floor + 18.0], &text);
    }
    svg.text("small soft", "end", [right, floor + 36.0], "epoch");
    // The first run of each family lies on top of its fainter repetitions.
    let first = |i: usize| !curves[..i].iter().any(|c| color(&c.name) == color(&curves[i].name));
    let (firsts, others): (Vec<usize>, Vec<usize>) = (0..curves.len()).partition(|&i| first(i));
    for i in others.into_iter().chain(firsts) {
        let mut d = String::new();
        for (k, p) in lines[i].iter().enumerate() {
            let _ = write!(d, "{}{:.1} {:.1}", if k == 0 { "M" } else { "L" }, x.at(p[0]), y.at(p[1]));
        }
        svg.path(&format!("line {}{}", color(&curves[i].name), if first(i) { "" } else { " faint" }), &d);
    }
    Some(svg)
}

/// At most 250 points (epoch, value): means of equal stretches of the finite ones.
fn thin(curve: &Curve, value: fn(&super::Point) -> f64) -> Vec<[f64; 2]> {
    let points: Vec<[f64; 2]> = curve.points.iter().map(|p| [p.epoch, value(p)]).filter(|p| p.iter().all(|v| drawable(*v))).collect();
    let mean = |chunk: &[[f64; 2]], i: usize| chunk.iter().map(|p| p[i]).sum::<f64>() / chunk.len() as f64;
    points.chunks(points.len().div_ceil(250).max(1)).map(|chunk| [mean(chunk, 0), mean(chunk, 1)]).collect()
}
