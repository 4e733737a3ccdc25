//! Multinomial logistic regression by L-BFGS (Nocedal and Wright, algorithm 7.5), with a line search by bisection to the
//! weak Wolfe conditions (Lewis and Overton, 2013), the approximate ones near the end (Hager and Zhang, 2005).

use std::collections::VecDeque;

use super::{Features, Head};
use crate::progress::Progress;
use crate::random::{Purpose, Stream};

/// The l2 to choose among: factors of half the squared weights, beside the mean loss.
pub const STRENGTHS: [f64; 7] = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6];

/// Steps at most; probes of some thousand features take about a hundred.
const STEPS: usize = 500;
/// Pairs of steps that are remembered.
const MEMORY: usize = 10;
/// The largest element of the gradient that counts as zero where accuracy is all that matters (scikit-learn: 1e-4).
const ZERO: f64 = 1e-5;

/// The share of the slope that a loss must come down at least.
const DOWN: f64 = 1e-4;
/// The share of the slope that may be left.
const FLAT: f64 = 0.9;
/// What rounding of f32 logits does to a loss.
const ROUNDING: f64 = 1e-7;

/// A step, the change of the gradient along it, and one over their product.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    curvature: f64,
}

/// The head that minimises the mean cross-entropy plus `l2` / 2 times the squared weights (biases are free), from `start` on until
/// no element of the gradient is above `zero`, or rounding lets it come no lower.
pub fn fit(features: &Features, l2: f64, zero: f64, start: Head) -> Head {
    let mut head = start;
    let mut pairs: VecDeque<Pair> = VecDeque::new();
    let (mut loss, mut gradient) = objective(&head, features, l2);
    for _ in 0..STEPS {
        if gradient.iter().all(|g| g.abs() < zero) {
            break;
        }
        let direction = direction(&gradient, &pairs);
        let Some((next, next_loss, next_gradient)) = search(&head, features, l2, loss, &gradient, &direction) else { break };
        let step: Vec<f64> = next.values.iter().zip(&head.values).map(|(a, b)| a - b).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let product = dot(&step, &change);
        // Rounding can hide the curvature, which convexity makes positive.
        if product > 0.0 {
            pairs.push_back(Pair { step, change, curvature: product.recip() });
            if pairs.len() > MEMORY {
                pairs.pop_front();
            }
        }
        (head, loss, gradient) = (next, next_loss, next_gradient);
    }
    head
}

fn objective(head: &Head, features: &Features, l2: f64) -> (f64, Vec<f64>) {
    let (mut loss, mut gradient) = head.loss(features);
    for (g, w) in gradient.iter_mut().zip(&head.values).take(head.weights()) {
        *g += l2 * w;
        loss += l2 / 2.0 * w * w;
    }
    (loss, gradient)
}

/// Minus the gradient times the inverse Hessian that the pairs describe.
fn direction(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = vec![];
    for pair in pairs.iter().rev() {
        let share = pair.curvature * dot(&pair.step, &q);
        add(&mut q, -share, &pair.change);
        shares.push(share);
    }
    let scale = match pairs.back() {
        Some(last) => (last.curvature * dot(&last.change, &last.change)).recip(),
        None => dot(gradient, gradient).sqrt().max(1.0).recip(),
    };
    q.iter_mut().for_each(|v| *v *= scale);
    for (pair, share) in pairs.iter().zip(shares.into_iter().rev()) {
        let other = pair.curvature * dot(&pair.change, &q);
        add(&mut q, share - other, &pair.step);
    }
    q
}

/// The point along `direction` that has come down and flattened enough, with its loss and gradient; `None` where
/// rounding leaves no such point.
fn search(head: &Head, features: &Features, l2: f64, loss: f64, gradient: &[f64], direction: &[f64]) -> Option<(Head, f64, Vec<f64>)> {
    let slope = dot(gradient, direction);
    let (mut low, mut high, mut t) = (0.0, f64::INFINITY, 1.0);
    for _ in 0..30 {
        let mut next = head.clone();
        add(&mut next.values, t, direction);
        let (next_loss, next_gradient) = objective(&next, features, l2);
        let next_slope = dot(&next_gradient, direction);
        // A loss that is not finite counts as too high. Where rounding hides how far it came down, the slope tells.
        let same = next_loss <= loss + ROUNDING * loss && next_slope <= (2.0 * DOWN - 1.0) * slope;
        let down = next_loss <= loss + DOWN * t * slope || same;
        if down && next_slope >= FLAT * slope {
            return Some((next, next_loss, next_gradient));
        }
        *(if down { &mut low } else { &mut high }) = t;
        t = if high.is_finite() { (low + high) / 2.0 } else { 2.0 * low };
    }
    None
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, v)| *to += factor * v);
}

/// Fit with the strength that does best on a random tenth, the larger one of equals, and that strength. The tenth takes
/// part in the last fit.
pub fn choose(train: &Features, seed: u64, progress: &mut dyn Progress) -> (Head, f64) {
    let order = Stream::new(seed, Purpose::Probe, 0, 0, 0).permutation(train.len());
    let (held, rest) = order.split_at((train.len() / 10).max(1));
    let (held, rest) = (train.select(held), train.select(rest));
    progress.start("linear probe", STRENGTHS.len() as u64 + 1, "fit");
    let mut best: Option<(usize, f64, Head)> = None;
    // From the smoothest problem on, each from the solution of the last.
    let mut head = Head::zero(train.classes, train.width);
    for strength in STRENGTHS {
        head = fit(&rest, strength, ZERO, head);
        let right = head.ranks(&held).iter().filter(|&&rank| rank == 0).count();
        progress.advance(1, &format!("l2 {strength:.0e}: {:.1} % of the held-out tenth", 100.0 * right as f64 / held.len() as f64));
        if best.as_ref().is_none_or(|(most, ..)| right > *most) {
            best = Some((right, strength, head.clone()));
        }
    }
    let (_, strength, head) = best.expect("there are strengths");
    let head = fit(train, strength, ZERO, head);
    progress.advance(1, "");
    progress.done();
    (head, strength)
}
