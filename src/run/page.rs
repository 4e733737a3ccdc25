//! The report of a run.

use super::{PROBES, ROLES, Run};
use crate::error::Result;
use crate::files;
use crate::manifest::{self, EncoderFacts, Trust};
use crate::probe::{Accuracy, Probed, Results};
use crate::progress::Progress;
use crate::report::{self, Curve};
use crate::stage::{Identity, Stage};
use crate::train::read_curve;
use serde_json::json;
use std::path::PathBuf;

impl Run {
    /// Writes the report from the folder's table and curves; returns its path.
    ///
    /// # Errors
    /// The table was changed, or is not of the folder's weights, recipe, split and data.
    pub fn report(&self) -> Result<PathBuf> {
        let table = manifest::scored(&self.table_path(), Trust::Verified)?;
        let (rows, manifest) = (table.rows, table.manifest.unwrap_or_default());
        self.check_scores(&manifest)?;
        self.check_encoders()?;
        let warnings = manifest.warnings();
        let mut lost = vec![];
        let mut curves = vec![];
        for pair in 0..self.pairs.len() {
            for name in ROLES {
                let path = self.curve(pair, name);
                let label = if self.recipe.pairs == 1 { name.to_string() } else { format!("{name} pair {}", pair + 1) };
                match read_curve(&path)? {
                    Some(points) => curves.push(Curve { name: label, points }),
                    None => {
                        lost.push(("training curve".to_string(), format!("that of {label} is not there: {} was removed", path.display())))
                    }
                }
            }
        }
        let r = &self.recipe;
        let truth = rows.iter().map(|row| self.source.truth(row.index as usize).map(|k| k.name().to_string())).collect();
        let mut facts: Vec<(String, String)> = vec![
            ("data".into(), format!("{} ({} samples, BLAKE3 {})", r.data.source, manifest.data.samples, manifest.data.digest)),
            ("device".into(), manifest.device),
            ("sslmem".into(), manifest.sslmem),
        ];
        match self.split.left_out(&*self.source) {
            0 => (),
            n => facts.push(("in no subset".into(), format!("{n} of {} samples", self.source.len()))),
        }
        let (probes, others) = self.probed(&manifest.encoders)?;
        lost.extend(others.into_iter().map(|name| ("probe".to_string(), format!("that of {name} in {PROBES} is of other weights"))));
        facts.extend(lost);
        facts.extend(manifest.encoders.into_iter().map(|e| (format!("encoder {}", e.role), format!("{} (BLAKE3 {})", e.arch, e.digest))));
        facts.extend(r.to_toml()?.split("\n\n").map(|part| ("recipe".to_string(), part.trim().to_string())));
        let pairs = if r.pairs == 1 { "one pair of encoders".to_string() } else { format!("{} pairs of encoders", r.pairs) };
        let input = report::Input {
            title: format!("SSLMem of {} on {}", r.method.name, self.source.name()),
            subtitle: format!("{} for {} epochs, {pairs}, {} views per image", r.encoder.arch, r.train.epochs, r.score.views),
            rows: &rows,
            source: Some(&*self.source),
            curves,
            facts,
            truth,
            probes,
            skipped: manifest.data.skipped,
            warnings,
        };
        let out = self.page_path();
        report::write(&out, &input)?;
        Ok(out)
    }

    /// The results in `probe.json` that belong to these encoders, and the names of those that are of other weights.
    fn probed(&self, encoders: &[EncoderFacts]) -> Result<(Vec<report::Probes>, Vec<String>)> {
        let there = Results::read(&self.dir.join(PROBES))?.map_or(vec![], |results| results.encoders);
        let current = |e: &Probed| encoders.iter().any(|now| now.role == e.encoder && now.digest == e.digest);
        let (own, others): (Vec<Probed>, Vec<Probed>) = there.into_iter().partition(current);
        let shares = |a: Vec<Accuracy>| a.into_iter().map(|a| (a.protocol, a.top1)).collect();
        let of = |e: Probed| report::Probes { found: shares(e.accuracy), encoder: e.encoder };
        Ok((own.into_iter().map(of).collect(), others.into_iter().map(|e| e.encoder).collect()))
    }
}

/// The report of a run. It is made each time as well.
pub struct Report<'a>(pub &'a Run);

impl Stage for Report<'_> {
    fn name(&self) -> String {
        "report".into()
    }
    fn identity(&self) -> Result<Identity> {
        let digest = |path: PathBuf| if files::exists(&path)? { files::digest_file(&path).map(Some) } else { Ok(None) };
        let curves = (0..self.0.pairs.len()).flat_map(|pair| ROLES.map(|role| digest(self.0.curve(pair, role))));
        Ok(Identity::new(json!({
            "sslmem": env!("CARGO_PKG_VERSION"),
            "scores": digest(self.0.table_path())?,
            "curves": curves.collect::<Result<Vec<_>>>()?,
            "probes": digest(self.0.dir.join(PROBES))?,
        })))
    }
    fn outputs(&self) -> Vec<PathBuf> {
        vec![self.0.page_path()]
    }
    fn run(&self, _: &mut dyn Progress) -> Result<()> {
        self.0.report().map(drop)
    }
}
