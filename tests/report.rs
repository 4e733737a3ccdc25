//! The report: self-contained, well-formed, and written even if inputs are missing or hostile.

use std::path::Path;

use sslmem::data::{Image, Source};
use sslmem::error::{Error, Result};
use sslmem::random::{Purpose, Stream};
use sslmem::report::{self, Curve, Input, Point};
use sslmem::split::Subset;
use sslmem::table::Row;

/// Images by formula.
struct Fake {
    classes: Vec<String>,
    len: usize,
    id: fn(usize) -> String,
    image: fn(usize) -> Result<Image>,
}

impl Source for Fake {
    fn len(&self) -> usize {
        self.len
    }
    fn train_len(&self) -> usize {
        self.len
    }
    fn id(&self, index: usize) -> String {
        (self.id)(index)
    }
    fn label(&self, index: usize) -> Option<u32> {
        Some(index as u32 % 10)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn digest(&self) -> &str {
        "0"
    }
    fn largest(&self) -> usize {
        300 * 200 * 3
    }
    fn image(&self, index: usize) -> Result<Image> {
        (self.image)(index)
    }
}

fn plain_id(index: usize) -> String {
    format!("train/{index:05}")
}

fn gradient(index: usize) -> Result<Image> {
    let (height, width) = if index.is_multiple_of(3) { (200, 300) } else { (32, 32) };
    let pixels = (0..height * width * 3).map(|i| (i * (index + 1) / 97) as u8).collect();
    Ok(Image { height, width, pixels })
}

fn source() -> Fake {
    let classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    Fake { classes: classes.map(String::from).into(), len: 10_000, id: plain_id, image: gradient }
}

/// Rows like those of a real run: an offset of .17 that belongs to the encoders, +.12 and -.2 around it.
fn rows(sizes: [usize; 4], source: &dyn Source) -> Vec<Row> {
    let of =
        [(Subset::Candidate, 0.30, 0.2), (Subset::External, 0.10, 0.13), (Subset::Shared, 0.0, 0.12), (Subset::Independent, -0.3, 0.22)];
    let mut rows = Vec::new();
    for ((subset, mean, std), size) in of.into_iter().zip(sizes) {
        for _ in 0..size {
            let index = rows.len();
            let mut stream = Stream::new(0, Purpose::Statistics, 0, index as u32, 0);
            let score = mean + std * stream.normal() as f64;
            let align_f = 0.45 + 0.09 * stream.normal() as f64;
            let (delta, label) = (score * 0.4, source.label(index));
            let (id, align_g) = (source.id(index), align_f + delta);
            let relative = delta / (align_f + align_g);
            rows.push(Row {
                index: index as u32,
                id,
                label,
                subset,
                align_f,
                align_g,
                delta,
                score,
                relative,
                calibrated: delta - 0.04,
                stderr: 0.02,
                more: vec![],
            });
        }
    }
    rows
}

fn curve(name: &str, shift: f64) -> Curve {
    let point = |step: u64| {
        let (t, noise) =
            (step as f64 / 2000.0, Stream::new(1, Purpose::Statistics, shift.to_bits() as u32, step as u32, 0).normal() as f64);
        let lr = 2e-3 * (1.0 - t).powi(2).min(t * 10.0);
        Point {
            step,
            epoch: t * 400.0,
            loss: 1.9 + (3.4 + shift) * (-5.0 * t).exp() + 0.05 * noise,
            std: 0.055 + 0.02 * t + 0.001 * noise,
            rank: 20.0 + 10.0 * t + noise,
            entropy: None,
            accuracy: None,
            lr,
        }
    };
    Curve { name: name.into(), points: (0..2000).map(point).collect() }
}

fn input<'a>(rows: &'a [Row], source: Option<&'a dyn Source>) -> Input<'a> {
    let (title, subtitle) = ("SimCLR on CIFAR-10".into(), "resnet18, 400 epochs, seed 0, 5 views".into());
    Input { title, subtitle, rows, source, curves: vec![], facts: vec![], truth: None, probes: vec![], skipped: vec![], warnings: vec![] }
}

/// Every tag closed in order, every attribute quoted, every `<` and `&` meant.
#[track_caller]
fn well_formed(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text.strip_prefix("<!DOCTYPE html>\n").unwrap_or(text);
    while let Some(at) = rest.find('<') {
        entities(&rest[..at], &open);
        let end = at + rest[at..].find('>').expect("an open tag");
        let tag = &rest[at + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "tag <{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another tag");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        entities(tag, &open);
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

#[track_caller]
fn entities(text: &str, open: &[&str]) {
    for part in text.split('&').skip(1).filter(|_| open.last() != Some(&"style")) {
        let name = part.split(';').next().unwrap();
        assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "&{name} in {open:?}");
    }
}

#[track_caller]
fn self_contained(page: &str) {
    for word in ["http:", "https:", "<script", "<link", "<iframe", "@import", "url(", "NaN", ">inf"] {
        assert!(!page.contains(word), "the page contains {word}");
    }
    let sources = page.split("src=").skip(1);
    assert!(sources.into_iter().all(|s| s.starts_with("\"data:image/png;base64,")), "an image from elsewhere");
}

#[track_caller]
fn written(input: &Input) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run/report.html");
    report::write(&out, input).unwrap();
    let page = std::fs::read_to_string(&out).unwrap();
    well_formed(&page);
    self_contained(&page);
    for file in std::fs::read_dir(folder.path().join("run/report.figures")).unwrap().map(|f| f.unwrap().path()) {
        assert!(!file.to_string_lossy().ends_with(".partial"), "{file:?}");
        if file.extension().is_some_and(|e| e == "svg") {
            let text = std::fs::read_to_string(&file).unwrap();
            well_formed(&text);
            assert!(!text.contains("NaN") && !text.contains("inf "), "{file:?}");
        }
    }
    (folder, page)
}

fn figures(folder: &Path) -> Vec<String> {
    let list = std::fs::read_dir(folder.join("run/report.figures")).unwrap();
    let mut names: Vec<String> = list.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_full_report() {
    let source = source();
    let rows = rows([60, 30, 30, 30], &source);
    let mut all = input(&rows, Some(&source));
    all.curves = vec![curve("f", 0.0), curve("g", 0.2), curve("f pair 2", 0.1), curve("g pair 2", 0.3)];
    all.facts = vec![("recipe".into(), "arch = \"resnet18\"\nepochs = 400".into())];
    all.truth = Some(
        rows.iter().map(|r| ["common", "atypical", "rare"][(r.score > 0.4) as usize + (r.index % 5 == 0) as usize].to_string()).collect(),
    );
    all.skipped = vec![("a/b.jpg".into(), "not an image".into())];
    let (folder, page) = written(&all);
    assert_eq!(figures(folder.path()), ["curves.svg", "histogram.svg", "least.png", "most.png", "scatter.svg"]);
    assert_eq!(page.matches("<img ").count(), 48);
    for word in [
        "remembers what only it has seen",
        "f (2 runs)",
        "AUC",
        "How to read this",
        "m(<i>S</i><sub>C</sub>) ≤ 0",
        "The 0 of the calibrated score is the mean of",
        "arch = &quot;resnet18&quot;\nepochs",
        "1 image left out",
    ] {
        assert!(page.contains(word), "no {word}");
    }
    assert!(page.find(">common<").unwrap() < page.find(">rare<").unwrap(), "kinds in reading order");
    let sheet = image::open(folder.path().join("run/report.figures/most.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (8 * 110 + 14, 3 * 134 + 14));
    // The same input, the same bytes.
    assert_eq!(page, written(&all).1);
}

#[test]
fn thumbnails_are_small() {
    let source = source();
    let rows = rows([200, 0, 0, 0], &source);
    let (_, page) = written(&input(&rows, Some(&source)));
    // Images of 300 x 200 shrink to 96 x 64: the page stays far below their 180 kB each.
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
}

#[test]
fn hostile_text_is_escaped() {
    let mut source = source();
    source.id = |i| format!("\"><script>alert({i})</script>&\u{0}'");
    source.classes = vec!["</figcaption><b onload=x>&nbsp;".into(); 10];
    let rows = rows([20, 10, 10, 10], &source);
    let evil = "</style></title><script src=\"evil.js\">&bogus;";
    let mut all = input(&rows, Some(&source));
    (all.title, all.subtitle) = (evil.into(), evil.into());
    all.facts = vec![(evil.into(), evil.into())];
    all.skipped = vec![(evil.into(), evil.into())];
    all.truth = Some(vec![evil.into(); rows.len()]);
    all.curves = vec![curve(evil, 0.0)];
    // A hostile src= is text here; everything else that `written` checks must still hold.
    let folder = tempfile::tempdir().unwrap();
    report::write(&folder.path().join("report.html"), &all).unwrap();
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    well_formed(&page);
    well_formed(&std::fs::read_to_string(folder.path().join("report.figures/curves.svg")).unwrap());
    assert!(!page.contains("<script") && !page.contains("<b onload") && !page.contains('\0'));
    assert!(page.contains("&lt;script&gt;alert(0)&lt;/script&gt;&amp;"));
}

#[test]
fn works_with_whatever_is_there() {
    let source = source();
    for sizes in [[1, 0, 0, 0], [2, 1, 0, 0], [0, 5, 0, 0], [0, 0, 3, 3], [3, 0, 0, 2], [5, 5, 5, 0]] {
        let rows = rows(sizes, &source);
        for source in [Some(&source as &dyn Source), None] {
            let (folder, page) = written(&input(&rows, source));
            assert!(!figures(folder.path()).contains(&"curves.svg".into()));
            let present = sizes.iter().filter(|n| **n > 0).count();
            assert!(!page.contains("not scored") && (present > 1 || !page.contains(">n/a<")), "{sizes:?}");
            assert_eq!(page.matches("class=\"big\"").count(), present, "{sizes:?}");
            assert_eq!(page.contains("no scored candidates"), sizes[0] == 0);
            assert_eq!(page.contains("galleries are left out"), source.is_none());
        }
    }
}

/// Without a split nothing is known of who saw what.
#[test]
fn candidates_without_a_split_are_called_that() {
    let source = source();
    for (shift, shows) in [(-0.3, false), (0.0, true)] {
        let mut rows = rows([40, 0, 0, 0], &source);
        rows.iter_mut().for_each(|row| (row.score, row.calibrated) = (row.score + shift, f64::NAN));
        let (_, page) = written(&input(&rows, Some(&source)));
        for word in
            ["taken as candidates", "no split says which of them", "No images that neither encoder saw were scored", "The highest scores"]
        {
            assert!(page.contains(word), "no {word}");
        }
        for word in
            ["only f saw", "<i>f</i> was trained on and", "memorised candidates", "neither saw it", ">n/a<", "calibrated score, per"]
        {
            assert!(!page.contains(word), "{word}");
        }
        assert_eq!(page.contains("These numbers do not show memorization."), !shows, "{shift}");
    }
    // One sample of another subset: then there was a split.
    let (_, page) = written(&input(&rows([40, 0, 0, 1], &source), Some(&source)));
    assert!(page.contains("only f saw it") && page.contains("The most memorised candidates") && !page.contains("taken as candidates"));
}

#[test]
fn equal_encoders_are_warned_of() {
    let source = source();
    let mut same = rows([6, 6, 6, 6], &source);
    same.iter_mut().for_each(|row| (row.score, row.delta, row.calibrated, row.align_g) = (0.0, 0.0, 0.0, row.align_f));
    assert!(written(&input(&same, None)).1.contains("<b>Warning:</b> f and g align every image alike"));
    let rows = rows([6, 6, 6, 6], &source);
    assert!(!written(&input(&rows, None)).1.contains("Warning"));
    let mut all = input(&rows, None);
    all.warnings = vec!["f1 and g1 are <one>".into()];
    assert!(written(&all).1.contains("<b>Warning:</b> f1 and g1 are &lt;one&gt;.</p>"));
}

/// Two pages in a folder have their figures apart.
#[test]
fn a_page_leaves_another_pages_figures_alone() {
    let source = source();
    let (few, many) = (rows([10, 10, 10, 10], &source), rows([90, 30, 30, 30], &source));
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    report::write(&f.join("a.html"), &input(&few, None)).unwrap();
    let before = std::fs::read(f.join("a.figures/histogram.svg")).unwrap();
    report::write(&f.join("b.html"), &input(&many, None)).unwrap();
    assert!(std::fs::read(f.join("a.figures/histogram.svg")).unwrap() == before);
    assert!(std::fs::read(f.join("b.figures/histogram.svg")).unwrap() != before);
}

#[test]
fn works_without_variance_or_finite_numbers() {
    let source = source();
    let mut same = rows([6, 6, 6, 6], &source);
    for row in &mut same {
        (row.score, row.delta, row.calibrated, row.align_f, row.align_g) = (0.0, 0.0, 0.0, 0.5, 0.5);
    }
    let mut broken = same.clone();
    for row in &mut broken {
        (row.score, row.stderr, row.align_f) = (f64::NAN, f64::INFINITY, f64::NAN);
    }
    let mut some = rows([30, 30, 30, 30], &source);
    (some[3].score, some[40].score) = (f64::NAN, f64::NEG_INFINITY);
    (some[5].stderr, some[6].align_f) = (f64::NAN, f64::NAN);
    let mut extreme = rows([30, 30, 30, 30], &source);
    (extreme[0].score, extreme[1].score, extreme[2].align_g) = (1e308, -1e308, 1e300);
    for (rows, lost) in [(same, None), (broken, Some("24 images without")), (some, Some("2 images without")), (extreme, None)] {
        let mut all = input(&rows, Some(&source));
        let nothing = Point { step: 0, epoch: 0.0, loss: f64::NAN, std: f64::NAN, ..Point::default() };
        all.curves = vec![Curve { name: "f".into(), points: vec![nothing] }, Curve { name: "g".into(), points: vec![] }];
        let (_, page) = written(&all);
        assert!(lost.is_none_or(|text| page.contains(text)), "{lost:?}");
    }
}

#[test]
fn a_broken_image_is_a_tile_with_the_reason() {
    let mut source = source();
    source.len = 12;
    source.image = |i| match i {
        0 => Err(Error::format("train/a<b>.jpg", "the file ends in the middle of the image")),
        1 => Ok(Image { height: 2, width: 2, pixels: vec![0; 3] }),
        2 => Ok(Image { height: 0, width: 0, pixels: vec![] }),
        _ => gradient(i),
    };
    let mut rows = rows([20, 5, 5, 5], &source);
    rows[3].id = "another".into();
    let (folder, page) = written(&input(&rows, Some(&source)));
    for reason in [
        "train/a&lt;b&gt;.jpg: the file ends in the middle of the image",
        "has no pixels",
        "the data set has train/00003 at this index",
        "index 15 is beyond the data set&#39;s 12 images",
    ] {
        assert!(page.contains(reason), "no {reason}");
    }
    assert_eq!(figures(folder.path()), ["histogram.svg", "least.png", "most.png", "scatter.svg"]);
}

#[test]
fn many_points_are_thinned_and_said_so() {
    let source = source();
    let rows = rows([9000, 500, 500, 500], &source);
    let (folder, page) = written(&input(&rows, None));
    assert!(page.contains("4000 of 9000 candidates are drawn"));
    let scatter = std::fs::read_to_string(folder.path().join("run/report.figures/scatter.svg")).unwrap();
    assert_eq!(scatter.matches("h0").count(), 4000);
    assert!(page.len() < 150_000, "{} bytes", page.len());
}

#[test]
fn an_earlier_reports_figures_do_not_stay() {
    let source = source();
    let rows = rows([10, 10, 10, 10], &source);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run/report.html");
    let mut all = input(&rows, Some(&source));
    all.curves = vec![curve("f", 0.0)];
    report::write(&out, &all).unwrap();
    report::write(&out, &input(&rows, None)).unwrap();
    assert_eq!(figures(folder.path()), ["histogram.svg", "scatter.svg"]);
}

#[test]
fn bad_requests_are_one_sentence() {
    let source = source();
    let rows = rows([3, 3, 3, 3], &source);
    let folder = tempfile::tempdir().unwrap();
    let error = report::write(&folder.path().join("a.html"), &input(&[], None)).unwrap_err();
    assert_eq!(error.to_string(), "the score table has no rows, so there is nothing to report; score at least one sample");
    let mut all = input(&rows, None);
    all.truth = Some(vec!["common".into()]);
    let error = report::write(&folder.path().join("a.html"), &all).unwrap_err();
    assert_eq!(error.to_string(), "1 kinds of images are given for 12 scored rows; give one for every row, or none");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is half-written");
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = report::write(&folder.path().join("file/a.html"), &input(&rows, None)).unwrap_err();
    assert!(error.to_string().starts_with("cannot create "), "{error}");
}
