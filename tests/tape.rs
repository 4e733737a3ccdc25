//! A forward is recorded with its backward. A loss that would lose a gradient is refused, and the error names the op.

use sslmem::init::Init;
use sslmem::ops::alignment::Pairs;
use sslmem::ops::{ALL, Case};
use sslmem::tape::{Mode, Scope, Tape};
use sslmem::var::Var;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is said of asking for the gradient of what `build` makes of a trained weight `[8, 6]`; nothing if there is one.
fn refusal(mode: Mode, build: impl FnOnce(&mut Scope, Var) -> Var) -> Option<String> {
    let mut tape = Tape::new(mode);
    let mut root = tape.root();
    let w = root.param("w", [8, 6], Init::Normal(1.0));
    let loss = build(&mut root, w);
    let asked = catch_unwind(AssertUnwindSafe(|| tape.backward(loss)));
    assert!(asked.is_err() || tape.gradient(w).is_some(), "the gradient is lost in silence");
    asked.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_else(|| panic.downcast_ref::<&str>().unwrap().to_string()))
}

/// A number of the measured distances: a mean that has a gradient of its own.
fn mean_distance(s: &mut Scope, x: Var) -> Var {
    let distances = s.alignment(x, 8, Pairs::Original);
    crate::ops::dot_with(s, distances, distances)
}

#[test]
fn a_gradient_that_would_be_lost_names_the_op() {
    // A loss by itself, one term of several, through an op that has a gradient, through a gradient.
    let lost = |build: fn(&mut Scope, Var) -> Var| refusal(Mode::Train, build).expect("a refusal");
    assert!(lost(|s, w| s.feature_std(w)).contains("asked through `feature_std_fwd`"));
    assert!(lost(mean_distance).contains("asked through `alignment_fwd`"));
    let mixed = |s: &mut Scope, w: Var| {
        let terms = [(s.nt_xent(w, 0.5), 1.0), (s.feature_std(w), -0.1)];
        s.weighted_sum(&terms)
    };
    assert!(lost(mixed).contains("asked through `feature_std_fwd`"));
    let again = |s: &mut Scope, w: Var| {
        let loss = s.nt_xent(w, 0.5);
        s.tape().backward(loss);
        let dw = s.tape().gradient(w).unwrap();
        s.nt_xent(dw, 0.5)
    };
    assert!(lost(again).contains("asked through `nt_xent_bwd`"));
    let second = |s: &mut Scope, w: Var| {
        let schedule = sslmem::schedule::Schedule::new(s.tape(), &[[0.0, 0.0, 0.0, 0.1]]);
        let teacher = s.tape().constant([8, 6], vec![0.5; 48]);
        let options = sslmem::ops::dino_loss::DinoLoss { student_temperature: 0.1, center_momentum: 0.9, schedule };
        let seen = s.concat_rows(&[w, w]);
        let made = s.dino_loss(seen, teacher, &options);
        let terms = [(made.loss, 1.0), (made.entropy, 1.0)];
        s.weighted_sum(&terms)
    };
    // The teacher's entropy: it is made beside the loss, which alone has a gradient.
    assert!(lost(second).contains("asked through `dino_loss_fwd`"));
}

#[test]
fn a_loss_that_trains_nothing_is_refused() {
    let constant = |s: &mut Scope, _: Var| {
        let x = s.tape().constant([4, 3], vec![0.5; 12]);
        s.nt_xent(x, 0.5)
    };
    let said = refusal(Mode::Train, constant).expect("a refusal");
    assert_eq!(said, "no trained weight leads to the loss, which `nt_xent_fwd` makes");
    let said = refusal(Mode::Eval, |s, w| s.nt_xent(w, 0.5)).expect("a refusal");
    assert_eq!(said, "a recording for evaluation has no backward");
}

#[test]
fn a_target_needs_no_gradient() {
    let target = |s: &mut Scope, w: Var| {
        let target = s.feature_std(w);
        s.tape().stop_gradient(target);
        let terms = [(s.nt_xent(w, 0.5), 1.0), (target, 1.0)];
        s.weighted_sum(&terms)
    };
    assert_eq!(refusal(Mode::Train, target), None);
}

/// Of every op: its result has a gradient for each input that wants one, or asking for it is refused.
#[test]
fn no_op_loses_a_gradient_in_silence() {
    let mut refused = vec![];
    for case in ALL.iter().copied().flatten() {
        let Case { name, inputs, build, .. } = *case;
        let mut tape = Tape::new(Mode::Train);
        let inputs: Vec<Var> = inputs.iter().map(|dims| tape.constant(*dims, vec![0.5; dims.iter().product()])).collect();
        inputs.iter().for_each(|x| tape.require_grad(*x));
        // Cases for evaluation refuse to be recorded here.
        let built = catch_unwind(AssertUnwindSafe(|| build(&mut tape.root(), &inputs)));
        let Ok(y) = built else {
            assert!(case.mode == Mode::Eval, "{name} cannot be recorded");
            continue;
        };
        let gradient = tape.fixed_like(y);
        let asked = catch_unwind(AssertUnwindSafe(|| {
            tape.seed(y, gradient);
            tape.reverse();
        }));
        let lost: Vec<&Var> = inputs.iter().filter(|x| tape.requires_grad(**x) && tape.gradient(**x).is_none()).collect();
        assert!(asked.is_err() || lost.is_empty(), "{name}: the gradients of {lost:?} are lost in silence");
        if asked.is_err() {
            refused.push(name.split('/').next().unwrap());
        }
    }
    refused.dedup();
    // For the cross-entropy it is the accuracy that has no gradient.
    assert_eq!(refused, ["alignment", "cross_entropy", "feature_std", "mask", "patches"]);
}
