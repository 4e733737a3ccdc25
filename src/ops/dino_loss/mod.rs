//! The loss of DINO (Caron et al. 2021, Eq. 1 to 4): cross-entropy between the centred and sharpened softmax of a teacher and the softmax
//! of a student, over all pairs of different views.

mod backward;
mod center;
mod forward;
mod softmax;

use super::Case;
use crate::init::Init;
use crate::schedule::Schedule;
use crate::tape::{Mode, Scope};
use crate::var::{Dtype, Var};
use backward::Backward;
use center::Center;
use forward::Forward;

/// The hyperparameters of the loss.
#[derive(Clone, Copy)]
pub struct DinoLoss {
    pub student_temperature: f32,
    /// m of center = m center + (1 - m) mean of the teacher's rows.
    pub center_momentum: f32,
    /// Per-step values; the `Temperature` column is the teacher's softmax temperature.
    pub schedule: Schedule,
}

/// The results of [`Scope::dino_loss`].
#[derive(Clone, Copy)]
pub struct DinoLossOutput {
    pub loss: Var, // [1]
    /// The mean entropy of the teacher's softmax, nats. 0 or ln k means collapse.
    pub entropy: Var, // [1]
}

/// Views that the teacher sees: the two global crops, which are also the student's first.
const VIEWS: usize = 2;

impl Scope<'_> {
    /// L = mean over samples and pairs (u, v), u != v, of -sum_j q_j log p_j, where q = softmax((teacher_u - center) / T) and
    /// p = softmax(student_v / student_temperature) (Caron et al. 2021, Eq. 1 to 4).
    ///
    /// `student` is `[crops * n, k]`, `teacher` `[2 * n, k]`; row v * n + i is view v of sample i. The state `center` `[1, k]` is updated after
    /// the loss has read it. The gradient goes to the student only: (p - q) / student_temperature, summed over its pairs and divided
    /// by their number. Kernels: `dino_loss.cu`.
    ///
    /// # Panics
    /// The rows are not those of two teacher views and at least two student crops of the same n samples, or k differs.
    pub fn dino_loss(&mut self, student: Var, teacher: Var, d: &DinoLoss) -> DinoLossOutput {
        let (shape, n) = (self.shape(student), self.shape(teacher).rows() / VIEWS);
        let (k, crops) = (shape.cols(), shape.rows() / n);
        let fits = self.shape(teacher).dims() == [VIEWS * n, k] && shape.dims() == [crops * n, k] && crops >= VIEWS;
        assert!(fits, "{}: a student of {shape:?} has no teacher of {:?}", self.path(), self.shape(teacher));
        let center = self.state("center", [1, k], Dtype::F32, Init::Constant(0.0));
        let t = &mut *self.tape;
        let (loss, entropy) = (t.f32([1]), t.f32([1]));
        let (log_sums, used) = (t.f32([(VIEWS + crops) * n]), t.f32([1, k]));
        let parts = t.scratch([(VIEWS + crops) * n], Dtype::F32);
        let soft = t.f32([VIEWS * n, k]);
        t.cpu_only(soft);
        let size = DinoSize { n, crops, k, temperature: d.student_temperature };
        let call = Forward { loss, entropy, log_sums, parts, soft, student, teacher, center, schedule: d.schedule, size };
        let (schedule, momentum) = (d.schedule, d.center_momentum);
        self.record(&[student], loss, call, move |t, dloss| {
            if let Some(ds) = t.gradient_of(student) {
                t.no_grad(Backward { ds, dloss, log_sums, soft, student, teacher, center: used, schedule, size })
            }
        });
        self.tape.no_grad(Center { center, used, teacher, momentum, rows: VIEWS * n, k });
        DinoLossOutput { loss, entropy }
    }
}

#[derive(Clone, Copy)]
struct DinoSize {
    n: usize,
    crops: usize,
    k: usize,
    /// The student's temperature.
    temperature: f32,
}

impl DinoSize {
    /// Number of teacher views that this student crop is compared with (never itself).
    fn partners(&self, crop: usize) -> usize {
        VIEWS - (crop < VIEWS) as usize
    }
    /// Pairs of rows in the mean.
    fn pairs(&self) -> usize {
        (VIEWS * self.crops - VIEWS) * self.n
    }
}

/// A student and a teacher of this temperature; only the student wants a gradient.
fn case(s: &mut Scope, x: &[Var], temperature: f32, center_momentum: f32) -> Var {
    s.tape().stop_gradient(x[1]);
    let schedule = Schedule::new(s.tape(), &[[0.0, 0.0, 0.0, temperature]]);
    s.dino_loss(x[0], x[1], &DinoLoss { student_temperature: 0.1, center_momentum, schedule }).loss
}

pub static CASES: &[Case] = &[
    // Central differences of the loss need a constant centre, so its momentum is 1. A low temperature would leave three logits with an
    // entropy of nothing but rounding.
    Case { name: "dino_loss/one", mode: Mode::Train, inputs: &[&[2, 3], &[2, 3]], build: |s, x| case(s, x, 0.5, 1.0) },
    Case { name: "dino_loss/ragged", mode: Mode::Train, inputs: &[&[15, 19], &[6, 19]], build: |s, x| case(s, x, 0.07, 1.0) },
    Case { name: "dino_loss/crops", mode: Mode::Train, inputs: &[&[20, 1064], &[4, 1064]], build: |s, x| case(s, x, 0.07, 1.0) },
    // The second loss reads the centre that the first has updated.
    Case {
        name: "dino_loss/center",
        mode: Mode::Eval,
        inputs: &[&[40, 72], &[20, 72]],
        build: |s, x| {
            let losses = [(case(s, x, 0.07, 0.4), 1.0), (case(s, x, 0.07, 0.4), 1.0)];
            s.weighted_sum(&losses)
        },
    },
    Case { name: "dino_loss/center_ragged", mode: Mode::Eval, inputs: &[&[6, 67], &[6, 67]], build: |s, x| case(s, x, 0.07, 0.9) },
];
