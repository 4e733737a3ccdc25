//! The losses of self-supervised methods: values that are known in closed form, and values and gradients of PyTorch
//! (tests/golden/ssl_losses.py). The optimizer's special cases and moving averages besides.

use crate::ops::golden::{Golden, close};
use sslmem::init::Init;
use sslmem::ops::dino_loss::{DinoLoss, DinoLossOutput};
use sslmem::ops::mask::Masking;
use sslmem::ops::optimize::{Algorithm, Gradients, LarsVariant, ParamGroup, Rate};
use sslmem::schedule::Schedule;
use sslmem::tape::{Mode, Scope, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;

/// A loss of inputs, and its gradients; empty where there is none.
fn evaluate(inputs: &[(&[usize], &[f32])], loss: impl FnOnce(&mut Scope, &[Var]) -> Var) -> (f32, Vec<Vec<f32>>) {
    let mut tape = Tape::new(Mode::Train);
    let x: Vec<Var> = inputs.iter().map(|(shape, values)| tape.constant(*shape, values.to_vec())).collect();
    x.iter().for_each(|x| tape.require_grad(*x));
    let y = loss(&mut tape.root(), &x);
    tape.keep(y);
    tape.backward(y);
    let gradients: Vec<Option<Var>> = x.iter().map(|x| tape.gradient(*x)).collect();
    gradients.iter().flatten().for_each(|g| tape.keep(*g));
    let mut program = tape.compile(&mut Weights::new(0)).unwrap();
    program.run().unwrap();
    let read = |v: Var| program.read::<f32>(v).unwrap();
    (read(y)[0], gradients.into_iter().map(|g| g.map(read).unwrap_or_default()).collect())
}

/// A number made of inputs, without gradients.
fn forward(inputs: &[(&[usize], &[f32])], y: impl FnOnce(&mut Scope, &[Var]) -> Var) -> f32 {
    let mut tape = Tape::new(Mode::Eval);
    let x: Vec<Var> = inputs.iter().map(|(shape, values)| tape.constant(*shape, values.to_vec())).collect();
    let y = y(&mut tape.root(), &x);
    tape.keep(y);
    let mut program = tape.compile(&mut Weights::new(0)).unwrap();
    program.run().unwrap();
    program.read::<f32>(y).unwrap()[0]
}

fn near(what: &str, got: f32, want: f32, tolerance: f32) {
    assert!((got - want).abs() <= tolerance, "{what}: {got}, not {want}");
}

fn noise(stream: u32, n: usize) -> Vec<f32> {
    let mut s = sslmem::random::Stream::new(5, sslmem::random::Purpose::Statistics, 0, stream, 0);
    (0..n).map(|_| s.normal()).collect()
}

#[test]
fn cosines_of_equal_and_orthogonal_rows() {
    // (b, SimSiam's loss, one direction of BYOL's)
    for (b, simsiam, byol) in [([2.0, 0.0, 4.0, 0.0], -1.0, 0.0), ([0.0, 3.0, 0.0, 1.0], 0.0, 2.0), ([-1.0, 0.0, -1.0, 0.0], 1.0, 4.0)] {
        let inputs: [(&[usize], &[f32]); 2] = [(&[2, 2], &[1.0, 0.0, 5.0, 0.0]), (&[2, 2], &b)];
        let got = evaluate(&inputs, |s, x| {
            let (there, back) = (s.cosine(x[0], x[1]), s.cosine(x[1], x[0]));
            s.weighted_sum(&[(there, -0.5), (back, -0.5)])
        });
        near("SimSiam", got.0, simsiam, 1e-6);
        let got = evaluate(&inputs, |s, x| {
            let (cosine, one) = (s.cosine(x[0], x[1]), s.tape().constant([1], vec![1.0]));
            s.weighted_sum(&[(one, 2.0), (cosine, -2.0)])
        });
        near("BYOL", got.0, byol, 1e-6);
    }
}

/// All similarities equal: each direction is 2 T ln N.
#[test]
fn info_nce_of_equal_embeddings_is_the_closed_form() {
    for (n, t, want) in [(256usize, 0.2f32, 4.4361f32), (2, 1.0, 4.0 * 2f32.ln())] {
        let rows = [1.0, 2.0, -1.0].repeat(n);
        let (got, _) = evaluate(&[(&[n, 3], &rows), (&[n, 3], &rows)], |s, x| {
            let (there, back) = (s.info_nce(x[0], x[1], t), s.info_nce(x[1], x[0], t));
            s.weighted_sum(&[(there, 2.0 * t), (back, 2.0 * t)])
        });
        near("MoCo v3", got, want, 1e-4);
    }
}

/// A uniform student or teacher costs ln k, and a uniform teacher's entropy is ln k too.
#[test]
fn distillation_of_uniform_outputs_is_the_closed_form() {
    for (k, want) in [(4096usize, 8.3178f32), (65536, 11.0904)] {
        let (student, teacher) = (vec![0.3; 3 * k], vec![-2.0; 2 * k]);
        let mut tape = Tape::new(Mode::Train);
        let [s, t] = [(3, student), (2, teacher)].map(|(rows, values)| tape.constant([rows, k], values));
        let schedule = Schedule::new(&mut tape, &[[0.0, 0.0, 0.0, 0.04]]);
        let d = tape.root().dino_loss(s, t, &DinoLoss { student_temperature: 0.1, center_momentum: 0.9, schedule });
        tape.keep(d.loss);
        tape.keep(d.entropy);
        let mut program = tape.compile(&mut Weights::new(0)).unwrap();
        program.run().unwrap();
        near("the loss", program.read::<f32>(d.loss).unwrap()[0], want, 1e-3);
        near("the entropy", program.read::<f32>(d.entropy).unwrap()[0], want, 1e-3);
    }
}

/// A collapsed output has no variance: 25 (1 - 0.01) in the authors' code, twice that where the variances are not halved.
#[test]
fn vicreg_of_collapsed_outputs_is_the_closed_form() {
    let rows = [0.5, -1.0, 2.0, 0.25].repeat(8);
    let inputs: [(&[usize], &[f32]); 2] = [(&[8, 4], &rows), (&[8, 4], &rows)];
    for (variance, want) in [(25.0, 24.75), (50.0, 49.5)] {
        let (got, gradients) = evaluate(&inputs, |s, x| s.vicreg_loss(x[0], x[1], [25.0, variance, 1.0]));
        near("VICReg", got, want, 1e-4);
        assert!(gradients.iter().flatten().all(|g| g.is_finite()));
    }
}

/// Independent views of width d over n samples: C has ones nowhere and a variance of 1 / n everywhere.
#[test]
fn barlow_twins_of_independent_views_is_the_closed_form() {
    let (n, d, lambda) = (256usize, 512usize, 0.0051f32);
    let (a, b) = (noise(1, n * d), noise(2, n * d));
    let (got, _) = evaluate(&[(&[n, d], &a), (&[n, d], &b)], |s, x| s.barlow_twins_loss(x[0], x[1], lambda, 0.1));
    let (n, d) = (n as f32, d as f32);
    let want = 0.1 * (d * (1.0 + 1.0 / n) + lambda * d * (d - 1.0) / n);
    near("Barlow Twins", got, want, 0.02 * want);
    // The formula itself, at the sizes of the paper and of solo-learn.
    let at = |n: f32, d: f32| d * (1.0 + 1.0 / n) + lambda * d * (d - 1.0) / n;
    near("paper", at(2048.0, 8192.0), 8363.0, 1.0);
    near("solo-learn", 0.1 * at(256.0, 2048.0), 214.0, 0.1);
}

/// A prediction of zeros misses a normalised patch by its variance, which is (P - 1) / P where it is made unbiased.
#[test]
fn reconstruction_by_zeros_is_the_closed_form() {
    for (patch, want) in [(16usize, 0.99870f32), (4, 0.97917), (2, 0.91667)] {
        let (side, cols) = (2 * patch, patch * patch * 3);
        let images = noise(3, 2 * side * side * 3);
        let (got, gradients) = evaluate(&[(&[2, 5, cols], &vec![0.0; 2 * 5 * cols]), (&[2, side, side, 3], &images)], |s, x| {
            let place = s.tape().words([2, 4], vec![0, 1, 2, 3, 3, 2, 1, 0]);
            s.mae_loss(x[0], x[1], Masking { ids_keep: place, ids_restore: place, keep: 1 }, patch, true)
        });
        near("MAE", got, want, 2e-5);
        // Tokens 0 and 1 of the first image and 0 and 4 of the second do not count.
        let zero = |token: usize| gradients[0][token * cols..][..cols].iter().all(|g| *g == 0.0);
        assert_eq!((0..10).filter(|t| zero(*t)).collect::<Vec<_>>(), [0, 1, 5, 9]);
    }
}

#[test]
fn distances_of_equal_opposite_and_orthogonal_vectors() {
    let a = [3.0, 0.0, 0.0, 4.0];
    for (b, want) in [([0.5, 0.0, 0.0, 7.0], 0.0), ([-1.0, 0.0, 0.0, -1.0], 2.0), ([0.0, 2.0, 9.0, 0.0], 2f32.sqrt())] {
        let (got, gradients) = evaluate(&[(&[2, 2], &a), (&[2, 2], &b)], |s, x| s.distance(x[0], x[1]));
        near("distance", got, want, 1e-6);
        let both = [a, b].concat();
        let (halves, dx) = evaluate(&[(&[4, 2], &both)], |s, x| s.distance_halves(x[0]));
        assert_eq!((halves, &dx[0]), (got, &gradients.concat()), "halves are the two sides");
        assert!(want > 0.0 || gradients.concat().iter().all(|g| *g == 0.0), "no distance, no gradient: {gradients:?}");
    }
}

/// A loss of the golden file and the gradients of those of its inputs that have one there.
fn compare(golden: &Golden, name: &str, inputs: [&str; 2], loss: impl FnOnce(&mut Scope, &[Var]) -> Var) {
    let get = |part: &str| (golden.shape(&format!("{name}.{part}")), golden.get(&format!("{name}.{part}")));
    let (got, gradients) = evaluate(&inputs.map(get), loss);
    close(name, &[got], get("loss").1, 1e-5);
    for (input, gradient) in inputs.iter().zip(gradients) {
        match golden.with(&format!("{name}.d")).find(|n| n == input) {
            Some(_) => close(&format!("{name}.d{input}"), &gradient, get(&format!("d{input}")).1, 2e-5),
            None => assert!(gradient.is_empty(), "{name}: {input} is a target and got a gradient"),
        }
    }
}

#[test]
fn losses_and_gradients_equal_pytorch() {
    let golden = Golden::read("ssl_losses");
    compare(&golden, "cosine", ["a", "b"], |s, x| s.cosine(x[0], x[1]));
    compare(&golden, "info_nce", ["q", "k"], |s, x| s.info_nce(x[0], x[1], 0.2));
    compare(&golden, "decorrelate", ["a", "b"], |s, x| s.barlow_twins_loss(x[0], x[1], 0.0051, 0.1));
    compare(&golden, "variance_covariance", ["a", "b"], |s, x| s.vicreg_loss(x[0], x[1], [25.0, 25.0, 1.0]));
    compare(&golden, "distance", ["a", "b"], |s, x| s.distance(x[0], x[1]));
}

#[test]
fn cross_entropy_equals_pytorch() {
    let golden = Golden::read("ssl_losses");
    let get = |part: &str| golden.get(&format!("cross_entropy.{part}"));
    let labels: Vec<u32> = get("labels").iter().map(|l| *l as u32).collect();
    let (shape, logits) = (golden.shape("cross_entropy.logits"), get("logits"));
    let loss = |s: &mut Scope, x: &[Var]| {
        let labels = s.tape().words([labels.len()], labels.clone());
        s.cross_entropy(x[0], labels)
    };
    let (got, gradients) = evaluate(&[(shape, logits)], |s, x| loss(s, x).loss);
    close("loss", &[got], get("loss"), 1e-6);
    close("gradient", &gradients[0], get("dlogits"), 1e-6);
    close("accuracy", &[forward(&[(shape, logits)], |s, x| loss(s, x).accuracy)], get("accuracy"), 0.0);
}

/// A label that is no class must not pass for one that is learned; of equal logits the first is the choice.
#[test]
fn cross_entropy_of_no_class_is_nan_and_ties_go_to_the_first() {
    let logits = [1.0, 1.0, 0.5, 2.0, 2.0, 2.0];
    for (labels, loss, accuracy) in [([0u32, 0], false, 1.0), ([1, 0], false, 0.5), ([0, 3], true, 0.5), ([u32::MAX, 2], true, 0.0)] {
        let found = [0, 1].map(|pick| {
            forward(&[(&[2, 3], &logits)], |s, x| {
                let labels = s.tape().words([2], labels.to_vec());
                let c = s.cross_entropy(x[0], labels);
                [c.loss, c.accuracy][pick]
            })
        });
        assert_eq!((found[0].is_nan(), found[1]), (loss, accuracy), "{labels:?}");
    }
}

#[test]
fn reconstruction_equals_pytorch() {
    let golden = Golden::read("ssl_losses");
    let get = |part: &str| (golden.shape(&format!("reconstruct.{part}")), golden.get(&format!("reconstruct.{part}")));
    for (kind, normalize) in [("pixels", false), ("normalized", true)] {
        let (shape, place) = get("place");
        let (got, gradients) = evaluate(&[get("pred"), get("images")], |s, x| {
            let place = s.tape().words(shape, place.iter().map(|p| *p as u32).collect());
            s.mae_loss(x[0], x[1], Masking { ids_keep: place, ids_restore: place, keep: 2 }, 2, normalize)
        });
        close(kind, &[got], get(&format!("{kind}.loss")).1, 1e-5);
        close(&format!("d {kind}"), &gradients[0], get(&format!("{kind}.dpred")).1, 2e-5);
        assert!(gradients[1].is_empty(), "images are targets");
    }
}

/// Three steps, so that the centre, which moves after each, and the teacher's temperature count.
#[test]
fn distillation_equals_pytorch_for_three_steps() {
    let golden = Golden::read("ssl_losses");
    let get = |part: &str| golden.get(&format!("distill.{part}"));
    let rows = |part: &str| golden.shape(&format!("distill.{part}"))[1..].to_vec();
    let steps: Vec<[f32; 4]> = get("temperature").iter().map(|t| [0.0, 0.0, 0.0, *t]).collect();
    let mut tape = Tape::new(Mode::Train);
    let [student, teacher] = ["student", "teacher"].map(|part| tape.fixed(&rows(part)[..], Dtype::F32));
    tape.require_grad(student);
    tape.require_grad(teacher);
    let schedule = Schedule::new(&mut tape, &steps);
    let d = DinoLoss { student_temperature: 0.1, center_momentum: 0.9, schedule };
    let DinoLossOutput { loss, entropy } = tape.root().at("head").dino_loss(student, teacher, &d);
    tape.backward(loss);
    assert!(tape.gradient(teacher).is_none(), "the teacher is a target");
    let dstudent = tape.gradient(student).unwrap();
    [loss, entropy, dstudent].into_iter().for_each(|v| tape.keep(v));
    let log = tape.fixed([1, 1], Dtype::F32);
    tape.log_step(schedule, log, &[loss]);
    let mut weights = Weights::new(0);
    let mut program = tape.compile(&mut weights).unwrap();
    for step in 0..steps.len() {
        let at = |part: &'static str| {
            let values = get(part);
            let n = values.len() / steps.len();
            &values[step * n..][..n]
        };
        program.write(student, at("student")).unwrap();
        program.write(teacher, at("teacher")).unwrap();
        program.run().unwrap();
        for (part, v) in [("loss", loss), ("entropy", entropy), ("dstudent", dstudent)] {
            close(&format!("{part} of step {step}"), &program.read::<f32>(v).unwrap(), at(part), 2e-5);
        }
        close(&format!("centre after step {step}"), &weights.get("head.center").unwrap().unwrap(), at("center"), 1e-6);
    }
}

/// Clipped gradients, a factor on the rate, a rate of its own and a late start: ten steps.
#[test]
fn special_weights_move_as_in_pytorch() {
    let golden = Golden::read("ssl_losses");
    let rules = [
        ("sgd", Algorithm::Sgd { momentum: 0.9 }),
        ("adamw", Algorithm::Adam { betas: [0.9, 0.999], eps: 1e-8, decoupled: true }),
        ("lars", Algorithm::Lars { momentum: 0.9, trust: 1e-3, variant: LarsVariant::Plain }),
    ];
    for (name, algorithm) in rules {
        let rows: Vec<[f32; 4]> = golden.get("update.lr").iter().map(|lr| [*lr, 0.05, 0.0, 0.0]).collect();
        let (mut tape, mut weights, mut parts) = (Tape::new(Mode::Train), Weights::new(0), vec![]);
        for part in ["matrix", "vector", "late"] {
            let shape = golden.shape(&format!("update.{part}"));
            weights.set(part, shape, golden.get(&format!("update.{part}"))).unwrap();
            let (w, g) = (tape.root().param(part, shape, Init::Constant(0.0)), tape.fixed(shape, Dtype::F32));
            tape.seed(w, g);
            parts.push((part, w, g));
        }
        let schedule = Schedule::new(&mut tape, &rows);
        let group = |name: &str, _| match name {
            "matrix" => ParamGroup { rate: Rate::Scheduled(0.5), ..ParamGroup::default() },
            "vector" => ParamGroup { decay: false, rate: Rate::Fixed(0.1), from: 0 },
            _ => ParamGroup { from: 3, ..ParamGroup::default() },
        };
        tape.optimize(Gradients::of(&tape).clip(1.8), algorithm, &group, schedule);
        let watched = tape.constant([1], vec![0.0]);
        let log = tape.fixed([1, 1], Dtype::F32);
        tape.log_step(schedule, log, &[watched]);
        let mut program = tape.compile(&mut weights).unwrap();
        for step in 0..rows.len() {
            let at = |values: &'_ [f32]| {
                let n = values.len() / rows.len();
                values[step * n..][..n].to_vec()
            };
            for (part, _, g) in &parts {
                program.write(*g, &at(golden.get(&format!("update.gradient.{part}")))).unwrap();
            }
            program.run().unwrap();
            for (part, w, _) in &parts {
                let want = at(golden.get(&format!("update.{name}.{part}")));
                close(&format!("{name} {part} step {step}"), &program.read::<f32>(*w).unwrap(), &want, 2e-5);
            }
        }
    }
}

/// A teacher follows the weights of its student, and neither statistics nor what only one of them has.
#[test]
fn a_teacher_follows_the_weights_of_its_student() {
    let mut tape = Tape::new(Mode::Train);
    let network =
        |s: &mut Scope| [s.param("weight", [2, 2], Init::Constant(0.0)), s.state("running_mean", [2], Dtype::F32, Init::Constant(0.0))];
    network(&mut tape.root().at("student"));
    tape.root().at("student").param("predictor", [3], Init::Constant(5.0));
    network(&mut tape.root().frozen("teacher"));
    let schedule = Schedule::new(&mut tape, &[[0.0, 0.0, 0.75, 0.0], [0.0, 0.0, 0.5, 0.0]]);
    tape.ema("student", "teacher", schedule);
    let watched = tape.constant([1], vec![0.0]);
    let log = tape.fixed([1, 1], Dtype::F32);
    tape.log_step(schedule, log, &[watched]);
    let mut weights = Weights::new(0);
    weights.set("student.weight", [2, 2], &[4.0, 8.0, -4.0, 0.0]).unwrap();
    weights.set("student.running_mean", [2], &[1.0, 2.0]).unwrap();
    let mut program = tape.compile(&mut weights).unwrap();
    for want in [[1.0, 2.0, -1.0, 0.0], [2.5, 5.0, -2.5, 0.0]] {
        program.run().unwrap();
        assert_eq!(weights.get("teacher.weight").unwrap().unwrap(), want);
    }
    assert_eq!(weights.get("teacher.running_mean").unwrap().unwrap(), [0.0, 0.0]);
    assert_eq!(weights.get("student.weight").unwrap().unwrap(), [4.0, 8.0, -4.0, 0.0]);
    assert_eq!(weights.get("teacher.predictor").unwrap(), None);
}

#[test]
#[should_panic(expected = "no trained weight below `student` has its like below `teacher`")]
fn a_teacher_that_matches_nothing_is_refused() {
    let mut tape = Tape::new(Mode::Train);
    tape.root().at("student").param("weight", [2], Init::Constant(0.0));
    tape.root().frozen("teacher").param("other", [2], Init::Constant(0.0));
    let schedule = Schedule::new(&mut tape, &[[0.0; 4]]);
    tape.ema("student", "teacher", schedule);
}
