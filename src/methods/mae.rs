//! MAE (He et al. 2022): the encoder sees a quarter of the patches, a small decoder paints the others.

use super::{Context, LossOutput, Method, Options, Representations, ViewKind};
use crate::encoders::{Block, EncoderConfig, Network, Start, glorot, sine_cosine};
use crate::error::{Error, Result};
use crate::init::Init;
use crate::ops::linear::{Dense, Epilogue};
use crate::tape::Scope;
use crate::var::{Dtype, Var};

pub struct Mae;

/// Of the decoder's norm.
const EPS: f32 = 1e-6;

impl Method for Mae {
    fn name(&self) -> &'static str {
        "mae"
    }
    fn about(&self) -> &'static str {
        "hidden patches are painted from the visible ones; ViTs only (He et al. 2022)"
    }
    fn views(&self, _: &Options) -> Vec<Vec<ViewKind>> {
        vec![vec![ViewKind::First]]
    }
    fn check(&self, options: &Options, network: &Network) -> Result<()> {
        if network.encoder.vit().is_none() {
            let what = format!("mae hides patches, and {} has none", network.encoder.name());
            return Err(Error::config(what, "choose a ViT, such as encoder.arch = \"vit_tiny\""));
        }
        let (patches, [width, _, heads]) = ((network.config.size / network.config.patch).pow(2), options.decoder);
        let kept = kept(patches, options.mask);
        if kept == 0 || kept == patches {
            let what = format!("method.mask of {} hides {} of {patches} patches", options.mask, patches - kept);
            return Err(Error::config(what, "choose a share that leaves some patches visible and hides some"));
        }
        if heads == 0 || width == 0 || !width.is_multiple_of(4 * heads) {
            let what = format!("a decoder of width {width} cannot have {heads} heads");
            return Err(Error::config(
                what,
                "choose method.decoder = [width, blocks, heads] with a width that is a multiple of 4 times the heads",
            ));
        }
        Ok(())
    }
    fn by_sample(&self) -> bool {
        true
    }
    fn loss(&self, s: &mut Scope, context: &Context, views: &[Var]) -> LossOutput {
        let (o, images) = (context.options, views[0]);
        let config = EncoderConfig { start: Start::Mae, ..context.network.config };
        let Some(vit) = context.network.encoder.vit() else { panic!("check refuses what is no ViT") };
        let (patches, [width, depth, heads]) = ((config.size / config.patch).pow(2), o.decoder);
        let colours = s.shape(images).cols();
        let masking = s.tape().mask(context.batch, patches, kept(patches, o.mask), context.seed);
        let x = vit.tokens(&mut s.at("encoder"), &config, images, Some(masking));
        let embeddings = context.network.encoder.mean(s, x);

        let mut s = s.at("decoder");
        let layer = |from: usize, outputs| Dense {
            outputs,
            bias: true,
            weight: Init::Uniform(glorot(from, outputs)),
            shape: None,
            epilogue: Epilogue::Nothing,
        };
        let x = s.at("decoder_embed").dense(x, &layer(vit.width, width));
        let hidden = s.param("mask_token", [1, 1, width], Init::Normal(0.02));
        let positions = s.state("decoder_pos_embed", [1, 1 + patches, width], Dtype::F32, Init::Table(sine_cosine));
        let mut x = s.unmask_tokens(x, hidden, positions, masking);
        for i in 0..depth {
            let block = Block { heads, eps: EPS, start: Start::Mae, drop: None, class_alone: false };
            x = block.record(&mut s.at(format!("decoder_blocks.{i}")), x);
        }
        let x = s.at("decoder_norm").layer_norm(x, EPS, false);
        let painted = s.at("decoder_pred").dense(x, &layer(width, config.patch * config.patch * colours));
        let loss = s.mae_loss(painted, images, masking, config.patch, o.norm_pix);
        LossOutput { loss, embeddings, representations: Representations::None, metric: None }
    }
    /// Nothing keeps its features apart, and nothing needs to.
    fn can_collapse(&self) -> bool {
        false
    }
}

/// Patches that stay visible: rounded down as in the authors' code, but for what f32 cannot say of a share such as 0.6.
fn kept(patches: usize, mask: f32) -> usize {
    (patches as f32 * (1.0 - mask) + 1e-3) as usize
}
