//! The page: the result in words, then figures, galleries, tables and the facts of the run.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Input;
use super::figures::{self, Scatter, dealt, present, seen_by};
use super::gallery::{SIDE, Tile, png};
use super::svg::{DARK, LIGHT, Palette, SHAPES, Svg, class, escape};
use super::tables::{self, LEVEL, digits, images, p, signed, symbol};
use crate::split::Subset::{self, Candidate, External, Independent, Shared};
use crate::stats::{self, CALIBRATED, CLAIMS, Tests, summary, values};
use crate::table::Row;

/// The whole page: well-formed, without scripts, and loading nothing.
pub fn page(input: &Input, histogram: Option<Svg>, scatter: Option<Scatter>, galleries: Option<[Vec<Tile>; 2]>) -> String {
    let tests = stats::tables(input.rows);
    let (title, subtitle) = (escape(&input.title), escape(&input.subtitle));
    let mut out = head(&title, &subtitle);
    out += &warnings(input);
    out += &headline(input.rows, &tests);
    out += &means(input.rows);
    out += "</header>\n";
    out += &scores(input.rows, histogram);
    out += &scatter.map(alignments).unwrap_or_default();
    out += &training(input);
    out += &match galleries {
        Some(galleries) => self::galleries(&galleries, dealt(input.rows)),
        None => "<section>\n<h2>Images</h2>\n<p class=\"soft\">The galleries are left out: this report was made without the data set.</p>\n</section>\n".into(),
    };
    out += &probes(input);
    out += &numbers(input, &tests);
    out += &reading();
    if !input.facts.is_empty() || !input.skipped.is_empty() {
        out += "<section>\n<h2>What made this</h2>\n";
        out += &if input.facts.is_empty() { String::new() } else { tables::facts(&input.facts) };
        out += &if input.skipped.is_empty() { String::new() } else { tables::skipped(input) };
        out += "</section>\n";
    }
    out + "</main>\n</body>\n</html>\n"
}

/// Everything to the end of the heading.
fn head(title: &str, subtitle: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{title}</title>\n<style>\n{}{}</style>\n\
         </head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n<p class=\"soft\">{subtitle}</p>\n",
        colors(),
        include_str!("style.css"),
    )
}

/// The page of both ends of a table.
pub fn top(input: &Input, ends: &[Vec<Tile>; 2]) -> String {
    let dealt = dealt(input.rows);
    let about = if dealt {
        "The most and the least memorised candidates. Positive: remembered by <i>f</i>."
    } else {
        "The samples with the highest and the lowest scores, all taken as candidates: no split says which of them <i>f</i> was trained on. \
         Positive: <i>f</i> aligns the views of the sample better than <i>g</i>."
    };
    let mut out = head(&escape(&input.title), about) + &warnings(input) + "</header>\n" + &galleries(ends, dealt);
    for (name, pairs) in [("How it was scored", &input.facts), ("Images that could not be decoded", &input.skipped)] {
        if !pairs.is_empty() {
            let _ = write!(out, "<section>\n<h2>{name}</h2>\n{}</section>\n", tables::facts(pairs));
        }
    }
    out + "</main>\n</body>\n</html>\n"
}

/// Warnings about the numbers below.
fn warnings(input: &Input) -> String {
    let mut all = input.warnings.clone();
    if all.is_empty() && input.rows.iter().all(|row| row.delta == 0.0) {
        all.push("f and g align every image alike, so every score is 0; they may be the same weights".into());
    }
    all.iter().map(|warning| format!("<p class=\"warning\"><b>Warning:</b> {}.</p>\n", escape(warning))).collect()
}

/// Light everywhere, dark on screens that ask for it; paper stays light.
fn colors() -> String {
    let scheme = |palette: &Palette, panel: &str| {
        let Palette { surface, ink, soft, rule, .. } = palette;
        format!(":root{{--surface:{surface};--ink:{ink};--soft:{soft};--rule:{rule};--panel:{panel}}}{}", palette.rules())
    };
    format!("{}\n@media screen and (prefers-color-scheme:dark){{{}}}\n{SHAPES}\n", scheme(&LIGHT, "#f3f4f6"), scheme(&DARK, "#20242a"))
}

/// The result in words: the paper's score against the control group, the other subsets, the calibrated score.
fn headline(rows: &[Row], tests: &Tests) -> String {
    let mean = |s: Subset| summary(&values(rows, s, |r| r.score)).map(|s| s.mean);
    let d = digits(present(rows).into_iter().filter_map(mean)).min(4);
    let Some(candidates) = mean(Candidate) else {
        return format!(
            "<p class=\"lead\">The table has no scored candidates ({}), so there is no SSLMem to report.</p>\n",
            symbol(Candidate)
        );
    };
    let (n, c) = (images(values(rows, Candidate, |r| r.score).len()), format!("<b>{}</b>", signed(candidates, d)));
    let mut out = String::from("<p class=\"lead\">");
    match (mean(External), &tests.score[1]) {
        (Some(external), Some(test)) => {
            let verdict = if test.p < LEVEL {
                "<i>f</i> remembers what only it has seen."
            } else {
                "At the 1 % level these numbers do not show memorization."
            };
            let [low, high] = test.interval.map(|v| signed(v, d));
            let (e, difference) = (signed(external, d), signed(test.difference, d));
            let _ = write!(
                out,
                "{verdict} SSLMem averages {c} over the {n} that only <i>f</i> was trained on and <b>{e}</b> over images neither encoder saw: \
                 a difference of {difference} (95 % interval {low} to {high}, {}).",
                chance(test.p)
            );
        }
        (external, _) => {
            let interval = summary(&values(rows, Candidate, |r| r.score)).and_then(|s| s.interval);
            if interval.is_none_or(|[low, _]| low <= 0.0) {
                out += "These numbers do not show memorization. ";
            }
            let who = if dealt(rows) {
                "that only <i>f</i> was trained on"
            } else {
                "that are taken as candidates, because no split says which of them <i>f</i> was trained on"
            };
            let interval = interval.map(|i| i.map(|v| signed(v, d)));
            let interval = interval.map_or(String::new(), |[low, high]| format!(" (95 % interval {low} to {high})"));
            let _ = write!(out, "SSLMem averages {c} over the {n} {who}{interval}. ");
            out += if external.is_none() {
                "No images that neither encoder saw were scored, so the part of this that belongs to the two encoders and not to the images cannot be told."
            } else {
                "There are too few images, or too little variation between them, to test it against those neither encoder saw."
            };
        }
    }
    out += "</p>\n<p>";
    let others = [(Independent, "only <i>g</i> saw"), (Shared, "both saw")];
    let others: Vec<_> = others.into_iter().filter_map(|(s, who)| Some((s, who, mean(s)?))).collect();
    for (i, (subset, who, v)) in others.iter().enumerate() {
        let start = if i == 0 { "Images" } else { ", those" };
        let _ = write!(out, "{start} {who} ({}) average {}", symbol(*subset), signed(*v, d));
    }
    out += if others.is_empty() { "" } else { ". " };
    let calibrated = |s: Subset| summary(&values(rows, s, |r| r.calibrated)).map(|s| s.mean);
    if let (Some(c), Some(_)) = (calibrated(Candidate), mean(External)) {
        let i = calibrated(Independent);
        let d = digits([c, i.unwrap_or(0.0)]);
        let _ = write!(out, "Calibrated by {}, in units of the distance itself, candidates lie at {}", symbol(External), signed(c, d));
        if let Some(i) = i {
            let _ = write!(out, " and {} at {}", symbol(Independent), signed(i, d));
        }
        if let (Some(_), Some(test)) = (i, &tests.calibrated[3]) {
            let _ = write!(out, " ({} for {} below {})", chance(test.p), symbol(Independent), symbol(External));
        }
        out += ".";
    }
    out + "</p>\n"
}

/// `p = 0.012`, `p < 10^-300`, in one line.
fn chance(value: f64) -> String {
    let text = p(value);
    let equals = if text.contains("&lt;") { "" } else { "= " };
    format!("<span class=\"nowrap\"><i>p</i> {equals}{text}</span>")
}

/// The means of the subsets, large.
fn means(rows: &[Row]) -> String {
    let all: Vec<_> = present(rows).into_iter().filter_map(|s| Some((s, summary(&values(rows, s, |r| r.score))?))).collect();
    if all.is_empty() {
        return String::new();
    }
    let d = digits(all.iter().map(|(_, s)| s.mean)).min(4);
    let mut out = String::from("<div class=\"means\">\n");
    for (subset, s) in all {
        let interval = s.interval.map_or("no interval".into(), |[low, high]| format!("{} to {}", signed(low, d), signed(high, d)));
        let _ = writeln!(
            out,
            "<div class=\"{}\"><span>{} {}</span><span class=\"big\">{}</span><span class=\"soft\">{interval}</span>\
             <span class=\"soft\">{}</span></div>",
            class(subset),
            symbol(subset),
            seen_by(rows, subset),
            signed(s.mean, d),
            images(s.n)
        );
    }
    let per = if dealt(rows) { " per subset" } else { "" };
    out + &format!("</div>\n<p class=\"caption\">Mean SSLMem{per} with its 95 % confidence interval.</p>\n")
}

fn scores(rows: &[Row], histogram: Option<Svg>) -> String {
    let Some(wide) = histogram else { return String::new() };
    let label = "Histogram of the SSLMem score per subset";
    let narrow = figures::histogram(rows, 400.0).map_or(String::new(), |svg| svg.inline(label));
    let has = |subset| rows.iter().any(|row| row.subset == subset);
    let about = if has(Candidate) && has(External) {
        "<p>Candidates to the right of the images neither encoder saw are memorised by <i>f</i>; images to their left are memorised by <i>g</i>.</p>\n"
    } else {
        ""
    };
    format!(
        "<section>\n<h2>Scores</h2>\n{about}<figure><div class=\"wide\">{}</div><div class=\"narrow\">{narrow}</div>\n\
         <figcaption class=\"caption\">Below: the middle 90 % (line) and 50 % (bar) of each subset, its median (tick) and mean (dot).</figcaption></figure>\n</section>\n",
        wide.inline(label)
    )
}

fn alignments(scatter: Scatter) -> String {
    let Scatter { svg, shown, total, control } = scatter;
    let mut caption =
        String::from("Every point is a candidate; its height above the solid diagonal is the score before division by the range.");
    if control {
        let _ = write!(
            caption,
            " The dashed line lies as far from the diagonal as images neither encoder saw ({}) do in the mean: the zero of the calibrated score.",
            symbol(External)
        );
    }
    if shown < total {
        let _ = write!(caption, " {shown} of {total} candidates are drawn, evenly spaced in the table.");
    }
    format!(
        "<section>\n<h2>Where the score comes from</h2>\n<p>How far apart the views of one image lie for <i>g</i>, against the same for <i>f</i>.</p>\n\
         <figure class=\"beside\">{}<figcaption class=\"caption\">{caption}</figcaption></figure>\n</section>\n",
        svg.inline("Alignment loss of g against alignment loss of f, one point per candidate")
    )
}

fn training(input: &Input) -> String {
    let panels = figures::panels(&input.curves);
    if panels.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section>\n<h2>Training</h2>\n<div class=\"legend\">");
    for (color, text) in figures::legend(&input.curves) {
        let _ = write!(out, "<span><span class=\"{color}\"></span>{}</span>", escape(&text));
    }
    out += "</div>\n<figure><div class=\"panels\">\n";
    panels.iter().for_each(|panel| out += &panel.inline("Training curve"));
    out + "</div></figure>\n</section>\n"
}

fn galleries([most, least]: &[Vec<Tile>; 2], dealt: bool) -> String {
    let names = if dealt {
        ["The most memorised candidates", "The least memorised candidates"]
    } else {
        ["The highest scores", "The lowest scores"]
    };
    let mut out = format!("<section>\n<h2>{}</h2>\n", names[0]);
    if most.is_empty() {
        out += "<p class=\"soft\">No candidate has a score.</p>\n";
    }
    out += &gallery(most);
    out += "</section>\n";
    if !least.is_empty() {
        let _ = write!(out, "<section>\n<h2>{}</h2>\n", names[1]);
        out += &gallery(least);
        out += "</section>\n";
    }
    out
}

fn gallery(tiles: &[Tile]) -> String {
    let mut out = String::from("<div class=\"gallery\">\n");
    for Tile { row, class, picture } in tiles {
        let (id, class) = (escape(&row.id), class.as_deref().map(escape).unwrap_or_default());
        let score = signed(row.score, 2);
        let details = format!(
            "{id} · delta {} ± {} · alignment f {}, g {}",
            signed(row.delta, 3),
            tables::plain(row.stderr, 3),
            tables::plain(row.align_f, 3),
            tables::plain(row.align_g, 3)
        );
        let picture = match picture {
            Err(reason) => format!("<div class=\"box\"><span class=\"reason\">{}</span></div>", escape(reason)),
            Ok(picture) => {
                let small = if picture.width().max(picture.height()) * 2 <= SIDE { " small" } else { "" };
                let data = STANDARD.encode(png(picture));
                format!(
                    "<div class=\"box{small}\"><img src=\"data:image/png;base64,{data}\" alt=\"{}\"/></div>",
                    format!("{class} {id}").trim()
                )
            }
        };
        let _ = writeln!(
            out,
            "<figure title=\"{details}\">{picture}<figcaption><b>{score}</b><span>{class}</span><span class=\"soft\">{id}</span></figcaption></figure>"
        );
    }
    out + "</div>\n"
}

/// Memorization beside accuracy, as in the paper's Table 1.
fn probes(input: &Input) -> String {
    let Some(first) = input.probes.first() else { return String::new() };
    let mut out = String::from(
        "<section>\n<h2>What the features are worth</h2>\n<div class=\"scroll\"><table><thead><tr><th>share of right answers</th>",
    );
    for probes in &input.probes {
        let _ = write!(out, "<th>{}</th>", escape(&probes.encoder));
    }
    out += "</tr></thead><tbody>\n";
    for (row, (name, _)) in first.found.iter().enumerate() {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(name));
        for probes in &input.probes {
            let value = probes.found.get(row).map(|(_, share)| format!("{:.1} %", 100.0 * share)).unwrap_or_default();
            let _ = write!(out, "<td>{value}</td>");
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n<p class=\"caption\">Frozen encoders on the test part of the data, with what each was trained on as examples \
           (<code>sslmem probe</code>).</p>\n</section>\n"
}

fn numbers(input: &Input, tests: &Tests) -> String {
    let rows = input.rows;
    let mut out = String::from("<section>\n<h2>The numbers</h2>\n");
    let mut part = |name: &str, table: String| {
        if !table.is_empty() {
            let _ = write!(out, "<h3>{name}</h3>\n{table}");
        }
    };
    part("The score, per subset", tables::summaries(rows, |subset| summary(&values(rows, subset, |r| r.score))));
    part("The calibrated score, per subset", tables::summaries(rows, |subset| stats::calibrated_summary(rows, subset)));
    part("What they are made of: means per subset", tables::parts(rows));
    let lost = rows.iter().filter(|r| !r.score.is_finite()).count();
    if lost > 0 {
        let _ = writeln!(out, "<p class=\"caption\">{} without a finite score left out.</p>", images(lost));
    }
    if let Some(truth) = &input.truth {
        let (reference, table) = tables::kinds(rows, truth);
        let _ = write!(
            out,
            "<h3>Kinds of images</h3>\n{table}<p class=\"caption\">AUC: the chance that a candidate of this kind scores above one that is {}, \
             with its 95 % interval. In the control group nothing can be memorised: what differs there belongs to the kind, not to memory.</p>\n",
            escape(&reference)
        );
    }
    let tables = [tables::tests(&CLAIMS, &tests.score), tables::tests(&CALIBRATED, &tests.calibrated)];
    for (name, table) in ["Tests on the score", "Tests on the calibrated score"].into_iter().zip(&tables).filter(|(_, t)| !t.is_empty()) {
        let _ = write!(out, "<h3>{name}</h3>\n{table}");
    }
    if tables.iter().any(|table| !table.is_empty()) {
        out += "<p class=\"caption\">The tests of the paper’s Tables 2 and 16: two samples with pooled variance, and one sample against 0; one-sided";
        out += &if tests.score[6].is_some() { format!(", except 0 = m({})", symbol(Shared)) } else { String::new() };
        out += ". Its “effect size” is <i>t</i>. A positive difference speaks against the null hypothesis. ";
        if !tables[1].is_empty() {
            let e = symbol(External);
            let _ = write!(
                out,
                "The 0 of the calibrated score is the mean of {e}, an estimate: its tests against 0 and its intervals are those of the difference from {e}. "
            );
        }
        out += "All treat the encoders as given: how much another pair would differ, only several pairs can tell.</p>\n";
    }
    out + "</section>\n"
}

fn reading() -> String {
    let [c, e] = [Candidate, External].map(symbol);
    format!(
        "<section>\n<h2>How to read this</h2>\n<ol class=\"read\">\n\
         <li>The <b>alignment loss</b> of an encoder on an image is the mean distance between the unit-length representations of random views of it; \
         it is small where the encoder has learnt to see the views as one.</li>\n\
         <li><b>SSLMem</b> is the alignment loss of <i>g</i> minus that of <i>f</i>, divided by the range of this difference over the candidates ({c}): \
         above 0, <i>f</i> aligns the image better than <i>g</i> does, and for an image that only <i>f</i> was trained on this is memorization; below 0 it is the other way round.</li>\n\
         <li>Two encoders trained apart also differ on images that neither saw ({e}), and the <b>calibrated</b> score takes that off the difference: \
         its 0 is what an image never trained on would get, in units of the distance, not of the range.</li>\n\
         </ol>\n</section>\n"
    )
}
