//! The small networks that methods put on top of an encoder.

use crate::tape::Scope;
use crate::var::Var;

/// x [n, in] through linear layers of the given widths, relu between them. `norm`: batch norm before each
/// relu, and no bias in front of it.
pub fn mlp(s: &mut Scope, x: Var, widths: &[usize], norm: bool) -> Var {
    let mut h = x;
    for (i, &width) in widths.iter().enumerate() {
        let last = i + 1 == widths.len();
        h = s.at(format!("fc{}", i + 1)).linear(h, width, last || !norm);
        h = match (last, norm) {
            (true, _) => h,
            (false, true) => s.at(format!("bn{}", i + 1)).batch_norm(h, None, true),
            (false, false) => s.relu(h),
        };
    }
    h
}
