//! Memory traffic of the kernels bound by memory, counted by the emulator. The numbers are exact, so one extra read of an operand fails
//! without a card.

use crate::emulated::Emulated;
use crate::kernels::record;
use crate::kernels::update;
use emulator::{Access, LaunchCounts, Options};
use sslmem::device::Device;
use sslmem::init::Init;
use sslmem::ops::Case;
use sslmem::ops::alignment::Pairs;
use sslmem::ops::dino_loss::DinoLoss;
use sslmem::ops::drop_path::Drop;
use sslmem::ops::linear::{Dense, Epilogue};
use sslmem::ops::optimize::{Algorithm, LarsVariant};
use sslmem::schedule::Schedule;
use sslmem::tape::Mode;
use sslmem::var::Dtype;

/// What a kernel does with as many bytes as the first input has.
struct Floor {
    kernel: &'static str,
    /// How often it must read them from memory.
    read: f64,
    /// How often it must write them.
    write: f64,
    /// How often its threads ask for them at most: more than `read` is for the caches. Close to what was counted.
    asked: f64,
}

const fn floor(kernel: &'static str, read: f64, write: f64, asked: f64) -> Floor {
    Floor { kernel, read, write, asked }
}

static CASES: &[(Case, &[Floor])] = &[
    (
        Case {
            name: "batch_norm",
            mode: Mode::Train,
            inputs: &[&[8192, 64], &[8192, 64]],
            build: |s, x| s.at("bn").batch_norm(x[0], Some(x[1]), true),
        },
        &[
            floor("batch_norm_moments", 1.0, 0.0, 1.15),
            floor("batch_norm_fwd", 2.0, 1.0, 4.0),
            floor("batch_norm_bwd_sums", 3.0, 0.0, 4.6),
            floor("batch_norm_bwd", 3.0, 2.0, 7.1),
        ],
    ),
    (
        Case { name: "batch_norm alone", mode: Mode::Train, inputs: &[&[8192, 64]], build: |s, x| s.at("bn").batch_norm(x[0], None, true) },
        &[floor("batch_norm_fwd", 1.0, 1.0, 3.0), floor("batch_norm_bwd_sums", 2.0, 0.0, 3.6), floor("batch_norm_bwd", 2.0, 1.0, 6.1)],
    ),
    (
        Case { name: "relu", mode: Mode::Train, inputs: &[&[512, 64]], build: |s, x| s.relu(x[0]) },
        &[floor("relu_fwd", 1.0, 1.0, 1.0), floor("relu_bwd", 2.0, 1.0, 2.0)],
    ),
    (
        Case { name: "max_pool", mode: Mode::Train, inputs: &[&[2, 32, 32, 64]], build: |s, x| s.max_pool(x[0], 3) },
        &[floor("max_pool_fwd", 1.0, 0.25, 2.25), floor("max_pool_bwd", 1.25, 1.0, 10.0)],
    ),
    (
        Case { name: "average_pool", mode: Mode::Train, inputs: &[&[16, 8, 8, 64]], build: |s, x| s.average_pool(x[0]) },
        &[floor("average_pool_fwd", 1.0, 1.0 / 64.0, 1.0), floor("average_pool_bwd", 1.0 / 64.0, 1.0, 1.0)],
    ),
    // A quarter of the pixels stay, in twice as many channels.
    (
        Case { name: "shortcut", mode: Mode::Train, inputs: &[&[4, 16, 16, 64]], build: |s, x| s.shortcut(x[0]) },
        &[floor("shortcut_fwd", 0.25, 0.5, 0.25), floor("shortcut_bwd", 0.25, 1.0, 0.25)],
    ),
    (
        Case { name: "alignment", mode: Mode::Eval, inputs: &[&[40, 1024]], build: |s, x| s.alignment(x[0], 5, Pairs::All) },
        &[floor("alignment_fwd", 1.0, 0.0, 1.2)],
    ),
    (
        Case { name: "cosine", mode: Mode::Train, inputs: &[&[64, 512], &[64, 512]], build: |s, x| s.cosine(x[0], x[1]) },
        &[floor("cosine_fwd", 2.0, 0.0, 2.0), floor("cosine_bwd", 2.0, 1.0, 2.5)],
    ),
    (
        Case {
            name: "cross_entropy",
            mode: Mode::Train,
            inputs: &[&[64, 1024]],
            build: |s, x| {
                let labels = s.tape().words([64], (0..64).map(|i| 15 * i).collect());
                s.cross_entropy(x[0], labels).loss
            },
        },
        &[floor("cross_entropy_fwd", 1.0, 0.0, 1.2), floor("cross_entropy_bwd", 1.0, 1.0, 1.2)],
    ),
    (
        Case { name: "distance", mode: Mode::Train, inputs: &[&[64, 1024]], build: |s, x| s.distance_halves(x[0]) },
        &[floor("distance_fwd", 1.0, 0.0, 2.0), floor("distance_bwd", 1.0, 1.0, 2.05)],
    ),
    (
        // Ten crops of a student: two views of the teacher are a fifth of it, and the centre in f32 a tenth.
        Case {
            name: "dino_loss",
            mode: Mode::Train,
            inputs: &[&[20, 4096], &[4, 4096]],
            build: |s, x| {
                s.tape().stop_gradient(x[1]);
                let schedule = Schedule::new(s.tape(), &[[0.0, 0.0, 0.0, 0.07]]);
                s.dino_loss(x[0], x[1], &DinoLoss { student_temperature: 0.1, center_momentum: 0.9, schedule }).loss
            },
        },
        &[
            floor("dino_loss_teacher", 0.3, 0.0, 0.7),
            floor("dino_loss_fwd", 1.3, 0.0, 5.4),
            floor("dino_loss_center", 0.3, 0.2, 0.35),
            floor("dino_loss_bwd", 1.3, 1.0, 5.7),
        ],
    ),
    (
        Case {
            name: "barlow_twins_loss",
            mode: Mode::Train,
            inputs: &[&[128, 256], &[128, 256]],
            build: |s, x| s.barlow_twins_loss(x[0], x[1], 0.005, 1.0),
        },
        // The correlations [256, 256] are four times as many bytes as an output, and their gradient twice two.
        &[
            floor("decorrelation_columns", 1.0, 1.0, 3.0),
            floor("barlow_twins_loss_fwd", 4.0, 4.0, 4.1),
            floor("barlow_twins_loss_bwd", 2.0, 1.0, 5.2),
        ],
    ),
    // Sums over chunks of eight rows, in f32, are half of x.
    (
        Case { name: "layer_norm", mode: Mode::Train, inputs: &[&[2048, 256]], build: |s, x| s.layer_norm(x[0], 1e-6, false) },
        &[floor("layer_norm_fwd", 1.0, 1.0, 5.05), floor("layer_norm_bwd_8", 2.0, 1.5, 4.6)],
    ),
    (
        Case { name: "l2_normalize", mode: Mode::Train, inputs: &[&[2048, 256]], build: |s, x| s.l2_normalize(x[0]) },
        &[floor("l2_normalize_fwd", 1.0, 1.0, 2.05), floor("l2_normalize_bwd", 2.0, 1.0, 4.3)],
    ),
    (
        Case {
            name: "gelu",
            mode: Mode::Train,
            inputs: &[&[512, 64]],
            build: |s, x| {
                s.dense(x[0], &Dense { outputs: 64, bias: false, weight: Init::Normal(0.1), shape: None, epilogue: Epilogue::Gelu })
            },
        },
        &[floor("gelu_bwd", 2.0, 1.0, 2.0)],
    ),
    (
        Case {
            name: "drop_path",
            mode: Mode::Train,
            inputs: &[&[4, 64, 256], &[4, 64, 256]],
            build: |s, x| {
                let keys = s.tape().words([4, 2], vec![0; 8]);
                s.add_dropped(x[0], x[1], 0.5, Drop { keys, seed: 1, view: 0, layer: 0 })
            },
        },
        &[floor("drop_path_fwd", 2.0, 1.0, 2.05), floor("drop_path_bwd", 1.0, 1.0, 1.05)],
    ),
    (
        Case {
            name: "sequence",
            mode: Mode::Train,
            inputs: &[&[64, 15, 256]],
            build: |s, x| {
                let class = s.param("cls_token", [1, 1, 256], Init::Normal(0.1));
                let positions = s.param("pos_embed", [1, 16, 256], Init::Normal(0.1));
                s.sequence(x[0], Some(class), positions, None)
            },
        },
        &[floor("sequence_fwd", 1.0, 16.0 / 15.0, 3.35), floor("sequence_bwd", 1.0, 1.0, 1.0)],
    ),
    (
        Case { name: "tokens_mean", mode: Mode::Train, inputs: &[&[64, 17, 256]], build: |s, x| s.tokens_mean(x[0], 1..17) },
        &[floor("tokens_mean_fwd", 16.0 / 17.0, 1.0 / 17.0, 0.95), floor("tokens_mean_bwd", 1.0 / 17.0, 1.0, 0.95)],
    ),
    (
        Case { name: "patches", mode: Mode::Eval, inputs: &[&[8, 16, 16, 3]], build: |s, x| s.patches(x[0], 4, None) },
        &[floor("patches_fwd", 1.0, 1.0, 1.0)],
    ),
    // The weight, in f32, is twice the first input.
    (
        Case {
            name: "weight_norm",
            mode: Mode::Train,
            inputs: &[&[256, 256]],
            build: |s, x| {
                let u = s.at("last").linear(x[0], 256, false);
                let v = s.at("last").param("weight", [256, 256], Init::Constant(0.0));
                s.weight_norm(u, v)
            },
        },
        &[
            floor("weight_norm_lengths", 2.0, 0.0, 2.0),
            floor("weight_norm_fwd", 1.0, 1.0, 1.6),
            floor("weight_norm_bwd", 2.0, 1.0, 2.3),
            floor("weight_norm_bwd_v", 2.0, 2.0, 2.4),
        ],
    ),
];

/// Where `load16` reads f32: the place that its sites begin with.
fn parameters() -> String {
    let text = include_str!("../../kernels/prelude.cuh");
    let line = text.lines().position(|l| l.contains("void load16(const float")).unwrap() + 2;
    format!("prelude.cuh:{line}:")
}

fn check(counts: &[LaunchCounts], bytes: f64, floors: &[Floor]) {
    for Floor { kernel, read, write, asked } in floors {
        let c = counts.iter().find(|c| c.kernel == *kernel).unwrap_or_else(|| panic!("{kernel} was not launched"));
        // Statistics, partial sums and tables come on top.
        let close = |got: u64, floor: f64| got as f64 >= floor * bytes && got as f64 <= (floor + 0.05) * bytes;
        assert!(close(c.unique_read, *read), "reads {:.3} times its {bytes} bytes, not {read}: {c}", c.unique_read as f64 / bytes);
        assert!(close(c.unique_written, *write), "writes {:.3} times its {bytes} bytes, not {write}: {c}", c.unique_written as f64 / bytes);
        assert!(c.read as f64 <= asked * bytes, "asks for {:.3} times its {bytes} bytes, not {asked}: {c}", c.read as f64 / bytes);
        for site in c.sites.iter().filter(|s| matches!(s.access, Access::GlobalLoad | Access::GlobalStore) && s.size == 16) {
            // The eight f32 parameters of a thread's columns are two loads: each takes half of its sectors, the other half is in the L1 then.
            let most = if site.place.starts_with(&parameters()) { 2 * site.ideal } else { site.ideal };
            assert!(site.passes <= most, "{kernel} takes more sectors than its bytes fill: {site:?}");
        }
    }
}

#[test]
fn kernels_move_what_they_must_and_no_more() {
    if crate::emulated::missing() {
        return;
    }
    let gpu = Emulated::new(Dtype::Bf16, Options { counts: true, ..Options::default() });
    for (case, floors) in CASES {
        let mut program = record(case, false, Device::Gpu(gpu.clone()));
        gpu.take_counts();
        program.run().unwrap();
        check(&gpu.take_counts(), 2.0 * case.inputs[0].iter().product::<usize>() as f64, floors);
    }
}

#[test]
fn optimizers_move_each_weight_once() {
    if crate::emulated::missing() {
        return;
    }
    let gpu = Emulated::new(Dtype::Bf16, Options { counts: true, ..Options::default() });
    let adam = Algorithm::Adam { betas: [0.9, 0.999], eps: 1e-8, decoupled: true };
    let rules: [(Algorithm, &[Floor]); 3] = [
        (Algorithm::Sgd { momentum: 0.9 }, &[floor("optimize_sgd", 3.0, 2.0, 5.05), floor("ema", 2.0, 1.0, 2.9)]),
        (adam, &[floor("optimize_adam", 4.0, 3.0, 6.15)]),
        (Algorithm::Lars { momentum: 0.9, trust: 0.02, variant: LarsVariant::Plain }, &[floor("optimize_lars", 3.0, 2.0, 5.25)]),
    ];
    for (algorithm, floors) in rules {
        let mut recorded = update::record(algorithm, update::RUNS[1], Device::Gpu(gpu.clone()));
        update::step(&mut recorded, 0);
        check(&gpu.take_counts(), 4.0 * update::SHAPES.iter().map(|s| s.iter().product::<usize>()).sum::<usize>() as f64, floors);
    }
}
