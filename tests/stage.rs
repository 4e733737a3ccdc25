//! Stages: one comparison of identities decides between reuse, resume and refusal.

use serde_json::json;
use sslmem::Error;
use sslmem::config::Layers;
use sslmem::device::Device;
use sslmem::progress::Silent;
use sslmem::run::{Run, Which};
use sslmem::stage::{Existing, Found, Identity, Next};
use std::fs;

#[test]
fn a_difference_is_said_by_name_and_by_the_first_one() {
    let one = Identity::new(json!({ "seed": 0, "view": { "size": 32, "flip": 0.5 }, "also": null }));
    assert_eq!(one.difference(&one.clone()), None);
    let other = |value| one.difference(&Identity::new(value));
    let there = other(json!({ "seed": 5, "view": { "size": 32, "flip": 0.5 } }));
    assert_eq!(there.as_deref(), Some("seed is 5 there and 0 here"));
    let there = other(json!({ "seed": 0, "view": { "size": 64, "flip": 0.1 }, "more": "x".repeat(50) }));
    assert_eq!(there.as_deref(), Some("more is xxxxxxxxxxxx... there and none here"));
    let there = other(json!({ "seed": 0, "view": { "size": 64, "flip": 0.1 } }));
    assert_eq!(there.as_deref(), Some("view.flip is 0.1 there and 0.5 here"));
    // The text form reads back; other text is no identity.
    assert_eq!(Identity::parse(&one.to_string()), Some(one.clone()));
    assert_eq!((Identity::parse("3"), Identity::parse("{")), (None, None));
    assert_eq!(one.digest(), Identity::parse(&one.to_string()).unwrap().digest());
    assert_ne!(one.digest(), one.clone().without(&["seed"]).digest());
}

#[test]
fn what_is_there_decides_what_is_left_to_do() {
    let [own, other] = [0, 1].map(|seed| Identity::new(json!({ "seed": seed })));
    let made = |identity: &Identity| Found::Made(identity.clone());
    let begun = |identity: &Identity| Found::Begun(identity.clone());
    for (existing, found, expected) in [
        (Existing::Keep, Found::Nothing, Some(Next::Start)),
        (Existing::Keep, made(&own), Some(Next::Reuse)),
        (Existing::Keep, begun(&own), Some(Next::Resume)),
        (Existing::Keep, made(&other), None),
        (Existing::Keep, begun(&other), None),
        (Existing::Renew, made(&own), Some(Next::Reuse)),
        (Existing::Renew, made(&other), Some(Next::Start)),
        (Existing::Renew, begun(&own), Some(Next::Resume)),
        (Existing::Renew, begun(&other), Some(Next::Start)),
        (Existing::Replace, made(&own), Some(Next::Start)),
        (Existing::Replace, begun(&own), Some(Next::Resume)),
        (Existing::Replace, begun(&other), Some(Next::Start)),
    ] {
        let next = existing.next(&found, &own, |what| Error::config(what, "choose another place"));
        match (next, expected) {
            (Ok(next), Some(expected)) => assert_eq!(next, expected, "{existing:?}, {found:?}"),
            (Err(error), None) => assert!(error.to_string().contains("seed is 1 there and 0 here"), "{error}"),
            (next, _) => panic!("{existing:?}, {found:?}: {next:?}"),
        }
    }
}

#[test]
fn a_run_is_a_list_of_stages_that_say_what_they_depend_on() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = || {
        let keys = ["pairs=2", "train.epochs=1", "train.batch=16", "optim.warmup_epochs=0", "score.views=2", "encoder.size=16"];
        let split = ["data.source=synthetic:60", "split.shared=20", "split.candidate=8", "split.independent=8", "split.external=8"];
        let layers = Layers::presets(&["demo"]).unwrap();
        keys.iter().chain(&split).try_fold(layers, |layers, key| layers.assign(key)).unwrap().resolve().unwrap()
    };
    let run = Run::open(recipe(), folder.path(), None, Device::Cpu).unwrap();
    let stages = run.stages();
    let names: Vec<String> = stages.iter().map(|stage| stage.name()).collect();
    let trained = ["train f of pair 1", "train g of pair 1", "train f of pair 2", "train g of pair 2"];
    assert_eq!(names[..4], trained);
    assert_eq!(names[4..], ["score pair 1", "score pair 2", "mean of the pairs", "report"]);
    // An identity needs its inputs: the weights do not exist yet.
    assert!(stages[4].identity().unwrap_err().to_string().contains("f.safetensors"));
    for stage in &stages {
        assert!(stage.outputs().iter().all(|path| !path.exists()), "{}", stage.name());
        stage.run(&mut Silent).unwrap();
        assert!(stage.outputs().iter().all(|path| path.exists()) && !stage.outputs().is_empty(), "{}", stage.name());
    }
    // Identities differ between stages, and running a stage does not change its own.
    let before: Vec<_> = stages.iter().map(|stage| stage.identity().unwrap()).collect();
    assert!((0..before.len()).all(|i| before[..i].iter().all(|other| *other != before[i])));
    let bytes = |path: &str| fs::read(folder.path().join(path)).unwrap();
    let files = ["pair1/f.safetensors", "pair2/scores.parquet", "pair2/scores.json", "scores.parquet"];
    let made = files.map(bytes);
    stages.iter().for_each(|stage| stage.run(&mut Silent).unwrap());
    assert!(files.map(bytes) == made, "what is there is reused");
    assert!(stages.iter().zip(&before).all(|(stage, before)| stage.identity().unwrap() == *before));
    // Weights trained again have the same identity, and so has everything after them.
    drop(stages);
    fs::remove_file(folder.path().join("pair2/g.safetensors")).unwrap();
    drop(run);
    let run = Run::open(recipe(), folder.path(), None, Device::Cpu).unwrap();
    run.train(Which::Both, &mut Silent).unwrap();
    assert!(run.stages().iter().zip(&before).all(|(stage, before)| stage.identity().unwrap() == *before), "the same weights again");
}
