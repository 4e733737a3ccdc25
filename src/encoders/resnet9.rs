//! The ResNet9 of the follow-up on localizing memorization (Wang et al., NeurIPS 2024): eight 3x3 convolutions and two
//! sums, for 32x32 images. Its convolutions have biases, which the batch norms behind them cancel; here they have none.

use super::resnet::end_block;
use super::{Encoder, EncoderConfig};
use crate::error::{Error, Result};
use crate::ops::conv::Filter;
use crate::tape::Scope;
use crate::var::Var;

pub struct ResNet9;

impl Encoder for ResNet9 {
    fn name(&self) -> &'static str {
        "resnet9"
    }
    fn about(&self) -> String {
        "256 features, eight convolutions, two sums; for 32x32 images".into()
    }
    fn width(&self) -> usize {
        256
    }
    fn check(&self, _: &EncoderConfig, size: usize) -> Result<()> {
        if size >= 16 {
            return Ok(());
        }
        Err(Error::config(
            format!("resnet9 halves its images four times, which leaves nothing of {size} pixels"),
            "choose encoder.size of at least 16",
        ))
    }
    fn map(&self, s: &mut Scope, config: &EncoderConfig, images: Var) -> Var {
        let x = conv(s, 1, images, 32, None);
        let x = s.max_pool(x, 2);
        let x = conv(s, 2, x, 64, None);
        let x = s.max_pool(x, 2);
        let h = conv(s, 3, x, 64, None);
        let x = conv(s, 4, h, 64, Some(x));
        end_block(s, config, "bn4", 64);
        let x = conv(s, 5, x, 128, None);
        let x = s.max_pool(x, 2);
        let x = conv(s, 6, x, 256, None);
        let x = s.max_pool(x, 2);
        let h = conv(s, 7, x, 256, None);
        let x = conv(s, 8, h, 256, Some(x));
        end_block(s, config, "bn8", 256);
        x
    }
}

fn conv(s: &mut Scope, number: usize, x: Var, outputs: usize, residual: Option<Var>) -> Var {
    let names = [&format!("conv{number}")[..], &format!("bn{number}")[..]];
    let x = s.conv_norm(names, x, Filter::same(outputs, 3, 1), residual, true);
    s.at(names[0]).tap(x)
}
