//! Multinomial logistic regression by L-BFGS (Nocedal and Wright, algorithm 7.5), with a line search by bisection to the
//! weak Wolfe conditions (Lewis and Overton, 2013), the approximate ones near the end (Hager and Zhang, 2005).

use std::collections::VecDeque;

use super::{Features, Head};
use crate::error::Result;
use crate::progress::Progress;
use crate::random::{Purpose, Stream};

/// Candidates for l2: the loss adds l2 / 2 times the sum of squared weights to the mean cross-entropy.
pub const STRENGTHS: [f64; 13] = [1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6];
/// Folds of the cross-validation over strengths.
pub const FOLDS: usize = 5;

/// Most steps; probes of some thousand features take about a hundred.
const STEPS: usize = 500;
/// Pairs in L-BFGS's memory.
const MEMORY: usize = 10;
/// Convergence: the largest element of the gradient that counts as zero (scikit-learn: 1e-4).
const ZERO: f64 = 1e-5;

/// First Wolfe condition: least decrease of the loss, as a share of the slope.
const DOWN: f64 = 1e-4;
/// Second Wolfe condition: most slope left, as a share of the first slope.
const FLAT: f64 = 0.9;
/// Relative error of a loss from f32 logits.
const ROUNDING: f64 = 1e-7;

/// A step, the change of the gradient along it, and one over their product.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    curvature: f64,
}

/// The head that minimises the mean cross-entropy plus `l2` / 2 times the squared weights (biases are free), from `start` on until no
/// element of the gradient is above `zero`, or rounding stops the descent.
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

/// The direction -H g, with H the inverse Hessian that the pairs approximate.
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

/// A point along `direction` that meets both Wolfe conditions, with its loss and gradient; `None` if rounding leaves no such point.
fn search(head: &Head, features: &Features, l2: f64, loss: f64, gradient: &[f64], direction: &[f64]) -> Option<(Head, f64, Vec<f64>)> {
    let slope = dot(gradient, direction);
    let (mut low, mut high, mut t) = (0.0, f64::INFINITY, 1.0);
    for _ in 0..30 {
        let mut next = head.clone();
        add(&mut next.values, t, direction);
        let (next_loss, next_gradient) = objective(&next, features, l2);
        let next_slope = dot(&next_gradient, direction);
        // A loss that is not finite counts as too high. If rounding hides the decrease, the slope decides (approximate Wolfe conditions).
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

/// Fits all samples with the strength of the highest accuracy in five-fold cross-validation; ties go to the larger strength. One held-out
/// part would do for large sets, but a tenth of 2,000 samples once chose an l2 that cost four points of accuracy. The cost is [`STRENGTHS`]
/// x [`FOLDS`] fits of four fifths of the samples.
///
/// # Errors
/// [`Error::Stopped`](crate::error::Error::Stopped).
pub fn choose(train: &Features, seed: u64, progress: &mut dyn Progress) -> Result<(Head, f64)> {
    let order = Stream::new(seed, Purpose::Probe, 0, 0, 0).permutation(train.len());
    let folds = FOLDS.min(train.len());
    progress.start("linear probe", (STRENGTHS.len() * folds) as u64 + 1, "fit");
    let mut right = [0; STRENGTHS.len()];
    for fold in 0..folds {
        let cut = |fold: usize| fold * train.len() / folds;
        let held = train.select(&order[cut(fold)..cut(fold + 1)]);
        let rest = train.select(&[&order[..cut(fold)], &order[cut(fold + 1)..]].concat());
        // From the largest strength on, each fit starts at the last solution.
        let mut head = Head::zero(train.classes, train.width);
        for (strength, right) in STRENGTHS.iter().zip(&mut right) {
            head = fit(&rest, *strength, ZERO, head);
            *right += head.ranks(&held).iter().filter(|&&rank| rank == 0).count();
            progress.advance(1, &format!("l2 {strength:.0e}, part {} of {folds}", fold + 1));
            progress.go_on("the linear probe")?;
        }
    }
    let best = (1..STRENGTHS.len()).fold(0, |best, i| if right[i] > right[best] { i } else { best });
    let head = fit(train, STRENGTHS[best], ZERO, Head::zero(train.classes, train.width));
    let share = 100.0 * right[best] as f64 / train.len() as f64;
    progress.advance(1, &format!("l2 {:.0e}: {share:.1} % when held out", STRENGTHS[best]));
    progress.done();
    Ok((head, STRENGTHS[best]))
}
