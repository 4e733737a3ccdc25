//! Checks of a recipe before any work.

use super::{Recipe, SubsetSize, Train};
use crate::data::PIXELS;
use crate::encoders;
use crate::error::{Error, Result};
use crate::methods::{self, Method};
use crate::ops::alignment::Pairs;

impl Recipe {
    /// Refuses impossible settings before any file is opened.
    ///
    /// # Errors
    /// `Config`, for the first key that is wrong.
    pub fn validate(&self) -> Result<()> {
        let Recipe { method, optim, train, score, .. } = self;
        word("encoder.arch", &self.encoder.arch, encoders::ENCODERS.iter().map(|e| e.name()))?;
        word("method.name", &method.name, methods::METHODS.iter().map(|m| m.name()))?;
        word("optim.name", &optim.name, ["sgd", "adam", "adamw", "lars", "lars_classic", "lars_clipped"].into_iter())?;
        word("optim.lr_scaling", &optim.lr_scaling, ["none", "linear", "sqrt"].into_iter())?;
        word("optim.schedule", &optim.schedule, ["cosine", "cosine_epochs", "constant"].into_iter())?;
        at_least("pairs", self.pairs, 1)?;
        if !(1..=PIXELS).contains(&self.data.max_pixels) {
            let what = format!("data.max_pixels is {}", self.data.max_pixels);
            return Err(Error::config(what, format!("choose 1 to {PIXELS}, for which there is room")));
        }
        at_least("encoder.size", self.encoder.size, 1)?;
        at_least("train.epochs", train.epochs, 1)?;
        at_least("train.batch", train.batch, 2)?;
        at_least("train.accumulate", train.accumulate, 1)?;
        at_least("score.views", score.views, if score.pairs == Pairs::All { 2 } else { 1 })?;
        at_least("score.batch", score.batch, 1)?;
        share("data.max_bad", self.data.max_bad as f32)?;
        positive("optim.lr", optim.lr)?;
        positive("optim.eps", optim.eps)?;
        positive("optim.trust", optim.trust)?;
        optim.weight_decay.0.iter().try_for_each(|&d| not_negative("optim.weight_decay", d))?;
        not_negative("optim.lr_end", optim.lr_end)?;
        not_negative("optim.lr_bias", optim.lr_bias)?;
        not_negative("optim.clip", optim.clip)?;
        not_negative("optim.warmup_epochs", optim.warmup_epochs)?;
        below_one("optim.momentum", optim.momentum)?;
        optim.betas.iter().try_for_each(|&beta| below_one("optim.betas", beta))?;
        if optim.warmup_epochs > train.epochs as f32 {
            let what = format!("optim.warmup_epochs is {}, but train.epochs is {}", optim.warmup_epochs, train.epochs);
            return Err(Error::config(what, "choose a warm-up that ends before the training"));
        }
        self.validate_split()?;
        self.validate_views()?;
        self.validate_method()
    }

    fn validate_method(&self) -> Result<()> {
        let m = &self.method;
        positive("method.temperature", m.temperature)?;
        m.teacher_temperature.0.iter().try_for_each(|&t| positive("method.teacher_temperature", t))?;
        m.momentum.0.iter().try_for_each(|&m| share("method.momentum", m))?;
        below_one("method.center_momentum", m.center_momentum)?;
        below_one("method.mask", m.mask)?;
        below_one("method.alignment_limit", m.alignment_limit)?;
        below_one("encoder.drop_path", self.encoder.drop_path)?;
        not_negative("method.teacher_warmup_epochs", m.teacher_warmup_epochs)?;
        not_negative("method.freeze_last_layer", m.freeze_last_layer)?;
        not_negative("method.lambda", m.lambda)?;
        positive("method.scale", m.scale)?;
        m.weights.iter().try_for_each(|&w| not_negative("method.weights", w))?;
        let network = self.network()?;
        if self.encoder.drop_path > 0.0 && network.encoder.vit().is_none() {
            let what =
                format!("encoder.drop_path is {}, and {} has no branches to leave out", self.encoder.drop_path, network.encoder.name());
            return Err(Error::config(what, "set it to 0, or choose a ViT"));
        }
        let method = methods::find(&m.name)?;
        method.check(m, &network)?;
        self.validate_parts(method)
    }

    /// Micro-batches have one size, and the method's loss is a mean over single samples.
    fn validate_parts(&self, method: &dyn Method) -> Result<()> {
        let Train { batch, accumulate, .. } = self.train;
        if accumulate > 1 && !method.by_sample() {
            let what = format!(
                "{} looks at a batch as a whole (negatives, correlations or a centre), so train.accumulate of {accumulate} would train something else",
                method.name()
            );
            let able: Vec<&str> = methods::METHODS.iter().filter(|m| m.by_sample()).map(|m| m.name()).collect();
            return Err(Error::config(what, format!("leave it at 1, or choose one of {}", able.join(", "))));
        }
        if !batch.is_multiple_of(accumulate) || batch / accumulate < 2 {
            let what = format!("train.batch of {batch} cannot be taken in {accumulate} parts of at least 2 samples each");
            return Err(Error::config(what, "choose a train.accumulate that divides train.batch into parts of 2 samples or more"));
        }
        Ok(())
    }

    fn validate_split(&self) -> Result<()> {
        for (name, size) in [("candidate", self.split.candidate), ("shared", self.split.shared), ("independent", self.split.independent)] {
            if size == SubsetSize::Candidates {
                let what = format!("split.{name} is \"candidates\", which only split.external can be");
                return Err(Error::config(what, "choose a fraction such as 0.1 or a count such as 5000"));
            }
        }
        if matches!(self.split.candidate, SubsetSize::Count(0)) || self.split.candidate == SubsetSize::Fraction(0.0) {
            return Err(Error::config(
                "split.candidate is 0, so there is nothing to score",
                "choose a fraction such as 0.1 or a count such as 5000",
            ));
        }
        Ok(())
    }

    fn validate_views(&self) -> Result<()> {
        let method = methods::find(&self.method.name)?;
        let (train, score, original) = (self.train_views(method)?, self.score_view()?, self.original_view()?);
        let train = || train.iter().flatten();
        let trained = train().map(|view| ("method.view", view));
        for (key, view) in trained.chain([("score.view", &score), ("score.view", &original)]) {
            view.validate().map_err(|error| match error {
                Error::Config { what, remedy } => Error::config(format!("{key}: {what}"), remedy),
                other => other,
            })?;
        }
        if train().any(|train| (train.mean, train.std) != (score.mean, score.std)) {
            return Err(Error::config(
                "method.view and score.view are normalised differently, so scoring would show the encoders what they never saw",
                "give both the same mean and std",
            ));
        }
        Ok(())
    }
}

/// The option nearest to `typed`, if one is near.
pub fn nearest<'a>(typed: &str, options: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let near = options.map(|option| (strsim::damerau_levenshtein(&typed, option), option));
    let (distance, option) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2.max(option.len() / 3)).then_some(option)
}

/// Advice for the unknown name `typed`: the nearest option, or all of them.
pub(super) fn remedy<'a>(typed: &str, options: impl Iterator<Item = &'a str>) -> String {
    let mut options: Vec<&str> = options.collect();
    match nearest(typed, options.iter().copied()) {
        Some(option) => format!("did you mean `{option}`?"),
        None => {
            options.dedup();
            format!("choose one of {}", options.join(", "))
        }
    }
}

fn word<'a>(key: &str, value: &str, options: impl Iterator<Item = &'a str>) -> Result<()> {
    let options: Vec<&str> = options.collect();
    if options.contains(&value) {
        return Ok(());
    }
    Err(Error::config(format!("{key}: there is no `{value}`"), remedy(value, options.into_iter())))
}

fn at_least(key: &str, value: usize, least: usize) -> Result<()> {
    if value >= least { Ok(()) } else { Err(Error::config(format!("{key} is {value}"), format!("choose at least {least}"))) }
}

fn positive(key: &str, value: f32) -> Result<()> {
    let holds = value > 0.0 && value.is_finite();
    if holds { Ok(()) } else { Err(Error::config(format!("{key} is {value}"), "choose a number above 0")) }
}

fn not_negative(key: &str, value: f32) -> Result<()> {
    let holds = value >= 0.0 && value.is_finite();
    if holds { Ok(()) } else { Err(Error::config(format!("{key} is {value}"), "choose 0 or more")) }
}

fn share(key: &str, value: f32) -> Result<()> {
    let holds = (0.0..=1.0).contains(&value);
    if holds { Ok(()) } else { Err(Error::config(format!("{key} is {value}"), "choose a number from 0 to 1")) }
}

fn below_one(key: &str, value: f32) -> Result<()> {
    let holds = (0.0..1.0).contains(&value);
    if holds { Ok(()) } else { Err(Error::config(format!("{key} is {value}"), "choose a number from 0 to below 1")) }
}
