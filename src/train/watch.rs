//! Watches a training: computes the points of the curve and stops at NaN and collapse.

use super::step::Log;
use super::{Job, Point};
use crate::device::conv::{self, Conv, Epilogue};
use crate::error::{Error, Result};
use crate::methods::Metric;
use crate::program::Program;

/// Below this spread all embeddings point in one direction.
const COLLAPSED: f64 = 0.01;
/// Below this rank the embeddings lie on one line. A later batch norm can hide that from the spread.
const LINE: f64 = 1.05;
/// Collapsed points in a row before the training stops.
const PATIENCE: usize = 20;

/// The means of the last `rows` steps, and the rank of the last one's embeddings.
pub fn measure(program: &Program, log: Log, rows: usize) -> Result<Point> {
    let Log { values, embeddings, metric } = log;
    let columns = program.shape(values).cols();
    let log: Vec<f32> = program.read(values)?;
    let mean = |column: usize| log.chunks_exact(columns).take(rows).map(|r| r[column] as f64).sum::<f64>() / rows as f64;
    let rank = rank(&program.read(embeddings)?, program.shape(embeddings).cols());
    let point = Point { loss: mean(0), std: mean(1), rank, ..Point::default() };
    Ok(match metric {
        None => point,
        Some(Metric::TeacherEntropy(_)) => Point { entropy: Some(mean(2)), ..point },
        Some(Metric::Accuracy(_)) => Point { accuracy: Some(mean(2)), ..point },
    })
}

/// Effective rank of x [rows, cols]: (sum of the eigenvalues)^2 / sum of their squares, of its covariance. The sum of squared eigenvalues
/// is the sum of squared elements of the smaller Gram matrix.
pub fn rank(x: &[f32], cols: usize) -> f64 {
    let rows = x.len() / cols;
    let mut mean = vec![0.0f64; cols];
    x.chunks_exact(cols).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += *v as f64 / rows as f64));
    let centred: Vec<f32> = x.iter().enumerate().map(|(i, v)| (*v as f64 - mean[i % cols]) as f32).collect();
    let mut products = vec![0.0; rows.min(cols).pow(2)];
    if rows < cols {
        conv::forward(&Conv::linear(rows, cols, rows), &centred, &centred, &Epilogue::default(), &mut products);
    } else {
        conv::backward_weight(&Conv::linear(rows, cols, cols), &centred, &centred, &mut products, false);
    }
    let squares = |values: &[f32]| values.iter().map(|v| (*v as f64).powi(2)).sum::<f64>();
    let (total, products) = (squares(&centred), squares(&products));
    if products > 0.0 { total * total / products } else { 0.0 }
}

/// A point as a line of progress.
pub fn line(p: &Point) -> String {
    let entropy = p.entropy.map(|e| format!("  teacher entropy {e:.2}")).unwrap_or_default();
    let accuracy = p.accuracy.map(|a| format!("  accuracy {:.1} %", 100.0 * a)).unwrap_or_default();
    format!("loss {:.3}  spread {:.2}  rank {:.1}{entropy}{accuracy}", p.loss, p.std, p.rank)
}

/// An error if the loss is not finite, or if the embeddings stayed collapsed for several points.
pub fn check(job: &Job, curve: &[Point], now: &Point) -> Result<()> {
    let remedy = "lower optim.lr or lengthen optim.warmup_epochs";
    if !now.loss.is_finite() || !now.std.is_finite() {
        return Err(Error::diverged(format!("the loss of {} became {} at step {}", job.name, now.loss, now.step), remedy));
    }
    if !job.method.can_collapse() {
        return Ok(());
    }
    let last = &curve[curve.len().saturating_sub(PATIENCE)..];
    let always = |collapsed: fn(&Point) -> bool| last.len() == PATIENCE && last.iter().chain([now]).all(collapsed);
    if always(|p| p.std < COLLAPSED) || always(|p| p.rank < LINE) {
        let what =
            format!("the embeddings of {} have collapsed (spread {:.4}, rank {:.2} at step {})", job.name, now.std, now.rank, now.step);
        return Err(Error::diverged(what, remedy));
    }
    Ok(())
}
