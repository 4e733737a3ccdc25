//! Progress on stderr: a bar on a terminal, a line now and then elsewhere.

use std::fmt::Write;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use super::signals;
use crate::error::visible;
use crate::progress::{Progress, Silent};

/// Least time between two lines without a terminal.
const PAUSE: Duration = Duration::from_secs(5);

/// The listener of long work, which may also stop it.
pub fn heard(quiet: bool) -> Box<dyn Progress> {
    let shown: Box<dyn Progress> = match (quiet, std::io::stderr().is_terminal()) {
        (true, _) => Box::new(Silent),
        (false, true) => Box::new(Bar(None)),
        (false, false) => Box::new(Lines(None)),
    };
    Box::new(Heard { shown, quiet })
}

/// Stops the work at a signal, and prints warnings even if progress is off.
struct Heard {
    shown: Box<dyn Progress>,
    quiet: bool,
}

impl Progress for Heard {
    fn start(&mut self, what: &str, total: u64, unit: &str) {
        self.shown.start(what, total, unit);
    }
    fn advance(&mut self, n: u64, note: &str) {
        self.shown.advance(n, note);
    }
    fn done(&mut self) {
        self.shown.done();
    }
    fn line(&mut self, text: &str) {
        self.shown.line(text);
    }
    fn warning(&mut self, text: &str) {
        let text = format!("warning: {text}");
        if self.quiet { say(&text) } else { self.shown.line(&text) }
    }
    fn stopped(&self) -> bool {
        signals::stopped()
    }
}

struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn start(&mut self, what: &str, total: u64, unit: &str) {
        self.done();
        let template = format!("{{prefix}} {{wide_bar:.dim}} {{human_pos}}/{{human_len}} {unit}s{{speed}}  {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("speed", |state: &ProgressState, out: &mut dyn Write| {
            // The rate is unknown until something is done. Errors of drawing are ignored.
            if state.pos() > 0 && state.per_sec() > 0.0 {
                let _ = write!(out, "  {:.1}/s  {} left", state.per_sec(), HumanDuration(state.eta()));
            }
        });
        let bar = ProgressBar::new(total).with_style(style).with_prefix(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(500));
        self.0 = Some(bar);
    }
    fn advance(&mut self, n: u64, note: &str) {
        if let Some(bar) = &self.0 {
            bar.inc(n);
            if !note.is_empty() {
                bar.set_message(note.to_string());
            }
        }
    }
    fn done(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish();
        }
    }
    fn line(&mut self, text: &str) {
        match &self.0 {
            Some(bar) => bar.println(visible(text)),
            None => say(text),
        }
    }
}

struct Lines(Option<Work>);

/// A piece of work that is reported in lines.
struct Work {
    what: String,
    unit: String,
    total: u64,
    done: u64,
    /// Units done by an earlier process: a resumed training starts in the middle.
    before: Option<u64>,
    note: String,
    started: Instant,
    said: Instant,
    /// Units done at the last report.
    told: Option<u64>,
}

impl Work {
    fn say(&mut self) {
        self.said = Instant::now();
        self.told = Some(self.done);
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = (self.done - self.before.unwrap_or(0)) as f64 / seconds.max(1e-9);
        let Work { what, unit, total, done, note, .. } = self;
        let mut line = format!("{what}: {done}/{total} {unit}s");
        if rate > 0.0 {
            let left = Duration::from_secs_f64(((*total).saturating_sub(*done) as f64 / rate).min(1e9));
            line +=
                &format!(", {rate:.1}/s, {}", if left.is_zero() { "done".to_string() } else { format!("{} left", HumanDuration(left)) });
        }
        if !note.is_empty() {
            line += &format!(", {note}");
        }
        say(&line);
    }
}

impl Progress for Lines {
    fn start(&mut self, what: &str, total: u64, unit: &str) {
        self.done();
        let now = Instant::now();
        let (what, unit, note) = (what.to_string(), unit.to_string(), String::new());
        self.0 = Some(Work { what, unit, total, done: 0, before: None, note, started: now, said: now, told: None });
    }
    fn advance(&mut self, n: u64, note: &str) {
        let Some(work) = &mut self.0 else { return };
        work.done += n;
        let first = work.before.is_none();
        // An instant jump at the start is work of an earlier process, which must not count in the rate.
        work.before.get_or_insert(if work.started.elapsed() < Duration::from_millis(1) { n } else { 0 });
        if !note.is_empty() {
            work.note = note.to_string();
        }
        if !first && work.said.elapsed() >= PAUSE {
            work.say();
        }
    }
    fn done(&mut self) {
        if let Some(mut work) = self.0.take()
            && work.told != Some(work.done)
        {
            work.say();
        }
    }
    fn line(&mut self, text: &str) {
        say(text);
    }
}

/// A closed stderr is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", visible(text));
}
