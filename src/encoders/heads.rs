//! The small networks that methods put on top of an encoder. Scoring can ask a classifier for its confidence; it ignores the others.

use crate::init::Init;
use crate::tape::Scope;
use crate::var::Var;

/// The name of a classifier on an encoder's features: `classifier.weight` `[classes, width]` and `classifier.bias` `[classes]`.
pub const CLASSIFIER: &str = "classifier";

/// Linear layers with ReLU between them. Biases in front of a batch norm, which some authors have, are cancelled by it and left out.
pub struct MlpHead<'a> {
    pub widths: &'a [usize],
    /// Batch norm before each relu.
    pub norm: bool,
    pub last: Last,
}

/// How the last layer ends.
#[derive(Clone, Copy, PartialEq)]
pub enum Last {
    Linear {
        bias: bool,
    },
    /// Batch norm, with or without a learned scale; never with an offset.
    Norm {
        scale: bool,
    },
}

impl MlpHead<'_> {
    /// Records the head: x `[n, in]` to `[n, last width]`.
    pub fn record(&self, s: &mut Scope, x: Var) -> Var {
        let mut h = x;
        for (i, &width) in self.widths.iter().enumerate() {
            let last = i + 1 == self.widths.len();
            let bias = if last { self.last == Last::Linear { bias: true } } else { !self.norm };
            h = s.at(format!("fc{}", i + 1)).linear(h, width, bias);
            let bn = format!("bn{}", i + 1);
            h = match (last, self.last) {
                (true, Last::Linear { .. }) => h,
                (true, Last::Norm { scale: true }) => {
                    let mut s = s.at(bn);
                    h = s.batch_norm(h, None, false);
                    let offset = s.param("bias", [width], Init::Constant(0.0));
                    s.tape().stop_gradient(offset);
                    h
                }
                (true, Last::Norm { scale: false }) => s.frozen(bn).batch_norm(h, None, false),
                (false, _) if self.norm => s.at(bn).batch_norm(h, None, true),
                (false, _) => s.relu(h),
            };
        }
        h
    }
}
