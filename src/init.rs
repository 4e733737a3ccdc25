//! Initialisers of weights.

use crate::random::Stream;
use crate::var::Shape;

/// The initialiser of a weight. Each name has a random stream of its own, so a weight's start does not depend on the rest of the
/// network.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    Constant(f32),
    /// Standard deviation.
    Normal(f32),
    /// Standard deviation of a normal, redrawn beyond two standard deviations.
    Truncated(f32),
    /// Uniform in [-bound, bound).
    Uniform(f32),
    /// A function of the shape alone, such as a table of positions.
    Table(fn(Shape) -> Vec<f32>),
}

impl Init {
    /// All values of a weight of this shape.
    pub(crate) fn values(self, shape: Shape, mut stream: Stream) -> Vec<f32> {
        let mut value: Box<dyn FnMut() -> f32> = match self {
            Init::Table(of) => return of(shape),
            Init::Constant(c) => Box::new(move || c),
            Init::Normal(std) => Box::new(move || std * stream.normal()),
            Init::Truncated(std) => {
                Box::new(move || std * std::iter::repeat_with(|| stream.normal()).find(|x| x.abs() <= 2.0).unwrap_or(0.0))
            }
            Init::Uniform(bound) => Box::new(move || stream.range(-bound, bound)),
        };
        (0..shape.len()).map(|_| value()).collect()
    }
}
