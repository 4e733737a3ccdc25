//! A policy in one line, for people.

use std::fmt;

use super::{Crop, Interpolation, View};

/// Everything but the size and the statistics of the channels.
impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut parts = vec![match &self.crop {
            Crop::Random { scale: [low, high], .. } => format!("crop {low} to {high} of the area"),
            Crop::Center { resize } if *resize == self.size => "centre".to_string(),
            Crop::Center { resize } => format!("centre of {resize}"),
            Crop::Square { resize } => format!("whole image to {resize}, centre"),
            Crop::Whole => "whole image".to_string(),
        }];
        let mut part = |holds: bool, text: String| {
            if holds {
                parts.push(text)
            }
        };
        part(self.interpolation == Interpolation::Bicubic, "bicubic".into());
        part(self.flip > 0.0, format!("flip {}", self.flip));
        if let Some(j) = &self.jitter {
            part(true, format!("jitter {} {} {} {} p {}", j.brightness, j.contrast, j.saturation, j.hue, j.p));
        }
        part(self.gray > 0.0, format!("gray {}", self.gray));
        if let Some(b) = &self.blur {
            let kernel = b.kernel.map(|pixels| format!(" in {pixels} pixels")).unwrap_or_default();
            part(true, format!("blur {} to {}{kernel} p {}", b.sigma[0], b.sigma[1], b.p));
        }
        if let Some(s) = &self.solarize {
            part(true, format!("solarize {} p {}", s.threshold, s.p));
        }
        write!(f, "{}", parts.join(", "))
    }
}
