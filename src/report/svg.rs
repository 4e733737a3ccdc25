//! A small chart helper: SVG text, scales with nice ticks, and the one palette of all figures.

use std::fmt::Write;

use crate::split::Subset;

/// Colours of one scheme. The hue of a subset says who saw it: f warm, g cool, both between, neither grey.
/// Under simulated protanopia, deuteranopia and tritanopia any two subsets stay 0.09 apart in OKLab.
pub struct Palette {
    pub surface: &'static str,
    pub ink: &'static str,
    pub soft: &'static str,
    pub rule: &'static str,
    pub subsets: [&'static str; 4],    // in the order of Subset::ALL
    pub scores: [&'static str; STEPS], // from most negative over 0 to most positive
}

/// Colours of a score, an odd number so that one of them means 0.
pub const STEPS: usize = 11;

pub const LIGHT: Palette = Palette {
    surface: "#ffffff",
    ink: "#1d2126",
    soft: "#5d646d",
    rule: "#e3e5e8",
    subsets: ["#b57fcb", "#d9480f", "#1a6fc4", "#494d52"],
    scores: ["#0f58ad", "#2c66b1", "#4474b5", "#5e84b9", "#7d98bd", "#b9bdc2", "#c49084", "#c57764", "#c56248", "#c44d2d", "#c23703"],
};

pub const DARK: Palette = Palette {
    surface: "#15171b",
    ink: "#e7e9ec",
    soft: "#a2a8b1",
    rule: "#2c3037",
    subsets: ["#cfa8ea", "#ff7f45", "#3f8fe8", "#8b9097"],
    scores: ["#5aa6ff", "#5b9deb", "#5c92d5", "#5b87bc", "#5a789d", "#565c65", "#967062", "#b7795e", "#d28059", "#e98554", "#ff8a4d"],
};

impl Palette {
    /// One CSS class per colour; shapes take it as `currentColor`, so a page can switch schemes.
    pub fn rules(&self) -> String {
        let mut css = format!(".ink{{color:{}}}.soft{{color:{}}}.rule{{color:{}}}", self.ink, self.soft, self.rule);
        for (subset, color) in Subset::ALL.into_iter().zip(self.subsets) {
            let _ = write!(css, ".{}{{color:{color}}}", class(subset));
        }
        for (step, color) in self.scores.iter().enumerate() {
            let _ = write!(css, ".q{step}{{color:{color}}}");
        }
        css
    }
}

/// How shapes look in either scheme.
pub const SHAPES: &str = ".chart text{fill:currentColor;font-size:13px;stroke:none}.chart rect{shape-rendering:crispEdges}.chart .small{font-size:12px}\
.chart .line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}\
.chart .hair{fill:none;stroke:currentColor;stroke-width:1}.chart .fat{fill:none;stroke:currentColor;stroke-width:7;stroke-opacity:.45}\
.chart .dash{fill:none;stroke:currentColor;stroke-width:1.5;stroke-dasharray:6 4}.chart .faint{stroke-opacity:.5;stroke-width:1.2}\
.chart .area{fill:currentColor;fill-opacity:.13;stroke:none}.chart .solid{fill:currentColor;stroke:none}\
.chart .dots{fill:none;stroke:currentColor;stroke-linecap:round;stroke-opacity:.85}.chart .hover{fill:transparent;stroke:none}\
.chart .hover:hover{fill:currentColor;fill-opacity:.08}";

/// The class, and plain name, of a subset.
pub fn class(subset: Subset) -> &'static str {
    match subset {
        Subset::Shared => "shared",
        Subset::Candidate => "candidate",
        Subset::Independent => "independent",
        Subset::External => "external",
    }
}

/// Text from data as HTML, XML or an attribute's value; control characters, which neither allows, become spaces.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// The paper's symbol as SVG text; `rest` follows on the same base line.
pub fn symbol(subset: Subset, rest: &str) -> String {
    let letter = &subset.symbol()[2..];
    format!(r#"<tspan font-style="italic">S</tspan><tspan font-size="9" dy="3">{letter}</tspan><tspan dy="-3"> {rest}</tspan>"#)
}

/// A drawing under construction; y grows downwards, units are pixels.
pub struct Svg {
    pub width: f64,
    pub height: f64,
    body: String,
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Svg {
        Svg { width, height, body: String::new() }
    }

    pub fn path(&mut self, class: &str, d: &str) {
        let _ = writeln!(self.body, r#"<path class="{class}" d="{d}"/>"#);
    }

    pub fn segment(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        self.path(class, &format!("M{} {}L{} {}", n(from[0]), n(from[1]), n(to[0]), n(to[1])));
    }

    /// `title` is the browser's tooltip, already escaped.
    pub fn rect(&mut self, class: &str, at: [f64; 2], size: [f64; 2], title: &str) {
        let [x, y, w, h] = [at[0], at[1], size[0], size[1]].map(n);
        let title = if title.is_empty() { String::new() } else { format!("<title>{title}</title>") };
        let _ = writeln!(self.body, r#"<rect class="{class}" x="{x}" y="{y}" width="{w}" height="{h}">{title}</rect>"#);
    }

    pub fn dot(&mut self, class: &str, at: [f64; 2], radius: f64) {
        let _ = writeln!(self.body, r#"<circle class="{class}" cx="{}" cy="{}" r="{radius}"/>"#, n(at[0]), n(at[1]));
    }

    /// Points as round dots of one path, the smallest way to write thousands of them.
    pub fn dots(&mut self, class: &str, diameter: f64, at: impl Iterator<Item = [f64; 2]>) {
        let mut d = String::new();
        for [x, y] in at {
            let _ = write!(d, "M{} {}h0", n(x), n(y));
        }
        if !d.is_empty() {
            let _ = writeln!(self.body, r#"<path class="dots {class}" stroke-width="{diameter}" d="{d}"/>"#);
        }
    }

    /// `anchor` is start, middle or end; `markup` is already escaped.
    pub fn text(&mut self, class: &str, anchor: &str, at: [f64; 2], markup: &str) {
        let (x, y) = (n(at[0]), n(at[1]));
        let _ = writeln!(self.body, r#"<text class="{class}" text-anchor="{anchor}" x="{x}" y="{y}">{markup}</text>"#);
    }

    /// Another drawing with its corner here.
    pub fn place(&mut self, at: [f64; 2], other: &Svg) {
        let _ = write!(self.body, "<g transform=\"translate({} {})\">\n{}</g>\n", n(at[0]), n(at[1]), other.body);
    }

    /// For a page that holds the rules of [`Palette::rules`] and [`SHAPES`].
    pub fn inline(&self, label: &str) -> String {
        let (w, h) = (self.width, self.height);
        let label = escape(label);
        format!(r#"<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{}{}</svg>"#, "\n", self.body)
    }

    /// A file of its own: light colours on white.
    pub fn file(&self, label: &str) -> String {
        const MARGIN: f64 = 14.0;
        let (w, h) = (self.width + 2.0 * MARGIN, self.height + 2.0 * MARGIN);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" width=\"{w}\" height=\"{h}\" viewBox=\"-{MARGIN} -{MARGIN} {w} {h}\" \
             font-family=\"Helvetica Neue, Helvetica, Arial, sans-serif\">\n<title>{}</title>\n<style>{}{SHAPES}</style>\n\
             <rect x=\"-{MARGIN}\" y=\"-{MARGIN}\" width=\"{w}\" height=\"{h}\" fill=\"{}\"/>\n{}</svg>\n",
            escape(label),
            LIGHT.rules(),
            LIGHT.surface,
            self.body
        )
    }
}

/// A coordinate with at most one decimal.
fn n(v: f64) -> String {
    let text = format!("{v:.1}");
    text.strip_suffix(".0").map(String::from).unwrap_or(text)
}

/// Whether a chart can show a number: finite, and so are differences and ratios of such numbers.
pub fn drawable(v: f64) -> bool {
    v.abs() < 1e150
}

/// Numbers onto pixels, linearly.
#[derive(Clone, Copy)]
pub struct Scale {
    pub domain: [f64; 2],
    pub range: [f64; 2],
}

impl Scale {
    /// A domain without width is widened around its value, so that `at` is always finite.
    pub fn new(domain: [f64; 2], range: [f64; 2]) -> Scale {
        let [low, high] = domain;
        let half = if low == 0.0 { 0.5 } else { low.abs() / 2.0 };
        let flat = high - low <= 1e-9 * low.abs().max(high.abs());
        Scale { domain: if flat { [low - half, low + half] } else { domain }, range }
    }

    /// The domain of these values with a margin of `pad` of its width; `None` if there are none to draw.
    pub fn around(values: impl Iterator<Item = f64>, pad: f64, range: [f64; 2]) -> Option<Scale> {
        let (low, high) =
            values.filter(|v| drawable(*v)).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let margin = pad * (high - low);
        (low <= high).then(|| Scale::new([low - margin, high + margin], range))
    }

    pub fn at(&self, v: f64) -> f64 {
        let [low, high] = self.domain;
        self.range[0] + (self.range[1] - self.range[0]) * ((v - low) / (high - low))
    }

    /// About `count` round numbers inside the domain, with their text.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let [low, high] = self.domain;
        let step = nice((high - low) / count as f64);
        let (first, last) = ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
        (first..=last).map(|i| (i as f64 * step, tick_text(i as f64 * step, step))).collect()
    }
}

/// The smallest of 1, 2, 2.5, 5, 10 times a power of ten that is not below `v`.
pub fn nice(v: f64) -> f64 {
    let power = 10f64.powf(v.log10().floor());
    [1.0, 2.0, 2.5, 5.0].into_iter().map(|m| m * power).find(|&m| m >= v * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

fn tick_text(v: f64, step: f64) -> String {
    if !(1e-4..1e6).contains(&step) && v != 0.0 {
        return format!("{v:.1e}").replace('-', "−");
    }
    let decimals = (0..6).find(|&d| ((step * 10f64.powi(d)).fract() + 1e-6).fract() < 1e-5).unwrap_or(6);
    format!("{v:.*}", decimals as usize).replace('-', "−")
}
