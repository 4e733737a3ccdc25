//! Probes: against scikit-learn and numpy (tests/golden/probe.py), in closed form, and from the command line.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use safetensors::SafeTensors;
use sslmem::data::{Image, Source, class_count};
use sslmem::probe::{Descent, Features, Head, NEIGHBOURS, Neighbours, Protocol, STRENGTHS, descend, fit, labelled, neighbours, probe};
use sslmem::progress::Silent;
use sslmem::random::{Purpose, Stream};
use tempfile::TempDir;

struct Golden(Vec<u8>);

impl Golden {
    fn read() -> Golden {
        Golden(fs::read(format!("{}/tests/golden/probe.safetensors", env!("CARGO_MANIFEST_DIR"))).unwrap())
    }
    fn get(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let data = tensors.tensor(name).unwrap_or_else(|_| panic!("no golden `{name}`")).data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
    fn features(&self, part: &str) -> Features {
        let labels = self.get(&format!("{part}.y")).into_iter().map(|y| y as u32).collect();
        Features::new(&self.get(&format!("{part}.x")), 24, labels, 12)
    }
}

/// Largest difference over the largest golden value.
fn close(what: &str, found: impl IntoIterator<Item = f64>, want: &[f32], most: f64) {
    let found: Vec<f64> = found.into_iter().collect();
    assert_eq!(found.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs() as f64));
    let far = found.iter().zip(want).fold(0.0f64, |far, (a, b)| far.max((a - *b as f64).abs())) / largest;
    assert!(far <= most, "{what}: off by {far:.1e} of the largest");
}

#[test]
fn neighbours_vote_as_in_numpy_and_scikit_learn() {
    let golden = Golden::read();
    let (train, test) = (golden.features("train"), golden.features("test"));
    let ranks = neighbours(&train, &test, &NEIGHBOURS, &mut Silent).unwrap();
    for (name, ranks) in ["knn.10.0", "knn.20.0.07", "knn.200.0.07", "knn.200.0.1"].iter().zip(ranks) {
        let want: Vec<usize> = golden.get(name).into_iter().map(|place| if place < 0.0 { usize::MAX } else { place as usize }).collect();
        assert_eq!(ranks, want, "{name}");
    }
    let one = [Neighbours { k: 1, temperature: None }];
    let right: Vec<bool> = neighbours(&train, &test, &one, &mut Silent).unwrap()[0].iter().map(|&rank| rank == 0).collect();
    let want: Vec<bool> = golden.get("knn.1.sklearn").iter().zip(&test.labels).map(|(found, label)| *found as u32 == *label).collect();
    assert_eq!(right, want);
    let own = neighbours(&train, &train, &one, &mut Silent).unwrap();
    assert!(own[0].iter().all(|&rank| rank == 0), "every sample is its own nearest neighbour");
}

#[test]
fn equal_neighbours_are_taken_in_order() {
    // 1,200 equal samples: the nearest are the first, which are of class 2; then classes 1 and 0 have the same votes.
    let labels: Vec<u32> = (0..1200).map(|i| if i < 3 { 2 } else { i % 2 }).collect();
    let train = Features::new(&[1.0; 2400], 2, labels, 4);
    let test = Features::new(&[2.0; 8], 2, vec![0, 1, 2, 3], 4);
    let ways = [3, 13].map(|k| Neighbours { k, temperature: Some(0.1) });
    let ranks = neighbours(&train, &test, &ways, &mut Silent).unwrap();
    assert_eq!(ranks[0], [usize::MAX, usize::MAX, 0, usize::MAX], "a class without votes has no place");
    assert_eq!(ranks[1], [0, 1, 2, usize::MAX]);
}

#[test]
fn logistic_regression_as_in_scikit_learn() {
    let golden = Golden::read();
    let train = golden.features("train");
    let train = train.standardised(&train);
    for l2 in ["0.1", "0.01", "0.001"] {
        let head = fit(&train, l2.parse().unwrap(), 1e-7, Head::zero(12, 24));
        let (weight, bias) = head.values.split_at(head.weights());
        close(&format!("weight, l2 {l2}"), weight.iter().copied(), &golden.get(&format!("logistic.{l2}.weight")), 1e-3);
        let mean = bias.iter().sum::<f64>() / 12.0;
        close(&format!("bias, l2 {l2}"), bias.iter().map(|b| b - mean), &golden.get(&format!("logistic.{l2}.bias")), 1e-3);
    }
}

#[test]
fn descent_as_in_numpy() {
    let golden = Golden::read();
    let train = golden.features("train");
    let code = Descent { batch: 300, ..Descent::code(300) };
    for (name, descent) in [("lars", Descent::paper(300, None)), ("adamw", code)] {
        let start = golden.get("descent.start").into_iter().map(f64::from).collect();
        let mut head = Head { values: start, ..Head::zero(12, 24) };
        descend(&mut head, &train, &descent, 0, &mut Silent).unwrap();
        close(name, head.values, &golden.get(&format!("descent.{name}")), 1e-4);
    }
    assert_eq!(Descent::paper(50_000, Some("simclr")).rate, 4.8);
    assert_eq!((Descent::paper(50_000, Some("mae")).rate, Descent::paper(2048, None).rate), (1.6, 0.8));
}

#[test]
fn the_loss_is_that_of_its_gradient_and_of_no_number_of_threads() {
    let golden = Golden::read();
    let train = golden.features("train");
    let head = Head::random(12, 24, 5);
    let (loss, gradient) = head.loss(&train);
    for at in [0, 7, 100, 287, 288, 299] {
        let moved = |by: f64| {
            let mut head = head.clone();
            head.values[at] += by;
            head.loss(&train).0
        };
        let slope = (moved(0.05) - moved(-0.05)) / 0.1;
        assert!(
            (slope - gradient[at]).abs() < 5e-3 * gradient.iter().fold(0.0f64, |a, b| a.max(b.abs())),
            "{at}: {slope} {}",
            gradient[at]
        );
    }
    let uniform = Head::zero(12, 24).loss(&train).0;
    assert!((uniform - 12f64.ln()).abs() < 1e-6, "without weights every class is as likely: {uniform}");
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(|| head.loss(&train)) == (loss, gradient.clone()));
    }
}

/// Fifty samples on an axis of their own class each, and the whole way through every protocol.
#[test]
fn separable_classes_are_told_apart() {
    let (classes, width) = (20u32, 30);
    let part = |samples: u32| {
        let rows: Vec<f32> = (0..samples)
            .flat_map(|i| (0..width).map(move |j| if j == i % classes { 3.0 } else { ((i * 31 + j * 17) % 13) as f32 / 13.0 - 0.5 }))
            .collect();
        Features::new(&rows, width as usize, (0..samples).map(|i| i % classes).collect(), classes as usize)
    };
    let (train, test) = (part(400), part(60));
    let protocols = [Protocol::Knn, Protocol::Lbfgs, Protocol::Code];
    let found = probe(&train, &test, &protocols, None, 0, &mut Silent).unwrap();
    assert_eq!(found.len(), 6);
    for (accuracy, least) in found.iter().zip([0.9, 0.9, 0.9, 0.9, 1.0, 0.3]) {
        // The released code's rate is meant for more steps than these samples make.
        assert!(accuracy.top1 >= least && accuracy.top5.unwrap() >= accuracy.top1, "{accuracy:?}");
    }
    assert!(found[4].protocol.starts_with("linear, L-BFGS, l2 "), "{:?}", found[4]);
    assert_eq!(found[5].protocol, "linear, AdamW 0.0005, batch 128, 90 epochs");
    let refused = |train: &Features, test: &Features| probe(train, test, &protocols, None, 0, &mut Silent).unwrap_err().to_string();
    assert!(refused(&part(199), &test).starts_with("k-NN asks for 200 neighbours, but there are 199 labelled training samples;"));
    let same = Features { labels: vec![3; 400], ..part(400) };
    assert!(refused(&same, &test).starts_with("the 400 labelled training samples are not of two classes;"));
}

/// Two hundred samples whose classes differ along directions of little variance, as features of networks do: the strength matters, and
/// twenty samples cannot say which is best.
#[test]
fn the_strength_is_chosen_by_all_samples() {
    let width = 40;
    let normal = |seed: u32, i: u32, j: u32| Stream::new(seed as u64, Purpose::Statistics, 0, i, j).normal();
    let part = |samples: u32, seed: u32| {
        let value = |i: u32, j: u32| {
            let own = 0.5 * normal(9, i % 4, j) + normal(seed, i, j);
            0.05 * own + (0..3).map(|k| normal(seed + 20, i, k) * normal(8, k, j)).sum::<f32>()
        };
        let rows: Vec<f32> = (0..samples).flat_map(|i| (0..width).map(|j| value(i, j)).collect::<Vec<_>>()).collect();
        Features::new(&rows, width as usize, (0..samples).map(|i| i % 4).collect(), 4)
    };
    let (train, test) = (part(200, 1), part(2000, 2));
    let (train, test) = (train.standardised(&train), test.standardised(&train));
    let fitted = |on: &Features| STRENGTHS.map(|l2| fit(on, l2, 1e-5, Head::zero(4, width as usize)));
    let right = |head: &Head, on: &Features| head.ranks(on).iter().filter(|rank| **rank == 0).count() as f64 / on.len() as f64;
    let all = fitted(&train).map(|head| right(&head, &test));
    let best = all.iter().fold(0.0, |a: f64, b| a.max(*b));
    let (mut tenth, mut folds) = (0.0f64, 0.0f64); // what the worst choice loses
    for seed in 0..3 {
        let found = probe(&train, &test, &[Protocol::Lbfgs], None, seed, &mut Silent).unwrap();
        folds = folds.max(best - found[0].top1);
        let order = Stream::new(seed, Purpose::Probe, 0, 0, 0).permutation(200);
        let held = train.select(&order[..20]);
        let of = fitted(&train.select(&order[20..])).map(|head| right(&head, &held));
        let chosen = (1..STRENGTHS.len()).fold(0, |best, i| if of[i] > of[best] { i } else { best });
        tenth = tenth.max(best - all[chosen]);
    }
    assert!(tenth > 0.1, "one held-out tenth chooses well here: it loses {tenth} of {all:?}");
    assert!(folds < 0.02, "five folds lose {folds} of {all:?}");
}

/// Ten samples, of which every third has no label.
struct Partly;

impl Source for Partly {
    fn len(&self) -> usize {
        10
    }
    fn train_len(&self) -> usize {
        7
    }
    fn id(&self, index: usize) -> String {
        format!("sample {index}")
    }
    fn label(&self, index: usize) -> Option<u32> {
        (!index.is_multiple_of(3)).then_some(index as u32)
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn digest(&self) -> &str {
        ""
    }
    fn largest(&self) -> usize {
        3
    }
    fn image(&self, index: usize) -> sslmem::Result<Image> {
        Ok(Image { height: 1, width: 1, pixels: vec![index as u8; 3] })
    }
}

#[test]
fn samples_without_a_label_are_left_out_and_counted() {
    let (chosen, without) = labelled(&Partly, 0..7, None, 0);
    assert_eq!((chosen.len(), without, class_count(&Partly)), (4, 3, 9));
    assert_eq!((chosen.label(2), chosen.id(2), chosen.image(2).unwrap().pixels[0]), (Some(4), "sample 4".into(), 4));
    // Samples sorted by class lose no class to a limit for certain: the choice is random, in order, and the seed's.
    let labels = |seed| {
        let (chosen, without) = labelled(&Partly, 0..7, Some(2), seed);
        assert_eq!(without, 3);
        (0..chosen.len()).map(|i| chosen.label(i).unwrap()).collect::<Vec<_>>()
    };
    let drawn: Vec<Vec<u32>> = (0..20).map(labels).collect();
    assert!(drawn.iter().all(|labels| labels.len() == 2 && labels[0] < labels[1]), "{drawn:?}");
    assert!(drawn[0] == labels(0) && drawn.iter().any(|labels| labels != &drawn[0]), "{drawn:?}");
}

fn sslmem(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sslmem")).current_dir(folder).args(args).output().unwrap()
}

fn done(folder: &Path, args: &[&str]) -> String {
    let output = sslmem(folder, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(folder: &Path, args: &[&str], status: i32, want: &str) {
    let output = sslmem(folder, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {error}");
    assert!(error.contains(want) && output.stdout.is_empty(), "{args:?}: {error}");
}

#[test]
fn a_run_and_a_file_are_probed_alike() {
    let folder = TempDir::new().unwrap();
    let f = folder.path();
    let split = ["shared=0.8", "candidate=0.1", "independent=0.1", "external=candidates"].map(|part| format!("split.{part}"));
    let train = ["train", "--out", "run", "--preset", "demo", "--data", "synthetic:1000", "--epochs", "1", "--quiet"];
    let set = split.iter().map(String::as_str).chain(["optim.warmup_epochs=0"]).flat_map(|key| ["--set", key]);
    done(f, &train.into_iter().chain(set).collect::<Vec<_>>());
    let said = done(f, &["probe", "--run", "run", "--quiet", "--limit-train", "500", "--limit-test", "120"]);
    assert!(said.starts_with("f1: 500 training samples, 120 test samples\n  k-NN, k 10, unweighted "), "{said}");
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(f.join("run/probe.json")).unwrap()).unwrap();
    let encoders = json["encoders"].as_array().unwrap();
    assert_eq!((encoders.len(), &encoders[1]["encoder"], encoders[0]["train"]["samples"].as_u64()), (2, &"g1".into(), Some(500)));
    assert_eq!(encoders[0]["accuracy"].as_array().unwrap().len(), 5);
    let chance = 1.0 / json["classes"].as_u64().unwrap() as f64;
    for accuracy in encoders.iter().flat_map(|e| e["accuracy"].as_array().unwrap()) {
        assert!(accuracy["top1"].as_f64().unwrap() > 1.5 * chance, "features know something: {accuracy}");
    }
    let probe = |more: &[&'static str]| {
        let limits = ["--limit-train", "500", "--limit-test", "120"];
        done(f, &[&["probe", "--run", "run", "--quiet"], &limits[..], more].concat())
    };
    let kept = fs::read(f.join("run/probe.json")).unwrap();
    fs::remove_file(f.join("run/probe.json")).unwrap();
    assert_eq!(probe(&["--threads", "1"]), said, "the number of threads does not matter");
    assert!(fs::read(f.join("run/probe.json")).unwrap() == kept);

    // Stopped after the first of two encoders, whose results are marked here: it is not probed again, and the other is.
    let knn = || probe(&["--protocol", "knn"]);
    let whole = knn();
    let mut stopped: serde_json::Value = serde_json::from_str(&fs::read_to_string(f.join("run/probe.json")).unwrap()).unwrap();
    let marked = &mut stopped["encoders"];
    marked[0]["accuracy"][0]["top1"] = 0.125.into();
    marked.as_array_mut().unwrap().truncate(1);
    fs::write(f.join("run/probe.json"), stopped.to_string()).unwrap();
    let first = knn();
    assert!(first.contains("12.50 %") && first.lines().skip(5).eq(whole.lines().skip(5)), "{first}");
    // Results of another seed, or damaged ones, are not reused.
    assert!(!probe(&["--protocol", "knn", "--seed", "5"]).contains("12.50 %"));
    stopped["encoders"][0]["accuracy"] = serde_json::Value::Array(vec![]);
    fs::write(f.join("run/probe.json"), stopped.to_string()).unwrap();
    assert_eq!(knn(), whole);
    // A file that no probe wrote stays.
    fs::write(f.join("run/probe.json"), "{\"my\": 1}").unwrap();
    fails(f, &["probe", "--run", "run", "--protocol", "knn"], 1, "run/probe.json: is not what `sslmem probe` writes");
    assert_eq!(fs::read_to_string(f.join("run/probe.json")).unwrap(), "{\"my\": 1}");

    let weights = ["probe", "--weights", "run/pair1/f.safetensors", "--data", "synthetic:1000", "--quiet"];
    let with = |more: &[&'static str]| [&weights[..], more].concat();
    let said = done(f, &with(&["--protocol", "knn", "--out", "p.json"]));
    assert!(said.starts_with("f.safetensors: 1000 training samples, 200 test samples\n") && said.lines().count() == 5, "{said}");
    fails(f, &with(&["--out", "p.json"]), 2, "p.json exists already");
    fails(f, &with(&["--limit-train", "150"]), 2, "k-NN asks for 200 neighbours, but there are 150 labelled training samples");
    let other = sslmem(f, &with(&["--normalize", "imagenet", "--protocol", "knn"]));
    let warned = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.success() && warned.contains("trained on images with other channel statistics"), "{warned}");
    fails(f, &with(&["--arch", "resnet18"]), 2, "--arch resnet18 contradicts ");
    fails(f, &["probe", "--run", "nowhere"], 2, "is not the folder of a run");
    fails(f, &["probe", "--weights", "run/pair1/f.safetensors"], 2, "--data");
    fs::create_dir(f.join("photos")).unwrap();
    fs::copy(format!("{}/tests/golden/README.md", env!("CARGO_MANIFEST_DIR")), f.join("photos/readme")).unwrap();
    image::RgbImage::new(8, 8).save(f.join("photos/a.png")).unwrap();
    let photos = ["probe", "--weights", "run/pair1/f.safetensors", "--data", "folder:photos", "--quiet"];
    fails(f, &photos, 2, "folder:photos has no labelled training sample to probe with");
}
