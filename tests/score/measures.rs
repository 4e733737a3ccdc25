//! Measures beside the alignment: the confidence of classifiers, against a softmax recomputed from the features.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{command, done, encoders, fails};
use safetensors::SafeTensors;
use sslmem::random::{Purpose, Stream};
use sslmem::table::{self, More};
use sslmem::weights::Weights;

const WIDTH: usize = 64;

/// A classifier beside the encoder `name`; returns its weights [classes, width] and biases [classes].
fn classifier(folder: &Path, name: &str, classes: usize, seed: u32) -> (Vec<f32>, Vec<f32>) {
    let mut stream = Stream::new(7, Purpose::Init, 0, seed, 0);
    let mut draw = |n: usize, scale: f32| (0..n).map(|_| scale * stream.normal()).collect::<Vec<f32>>();
    let (weight, bias) = (draw(classes * WIDTH, 2.0), draw(classes, 0.3));
    let mut weights = Weights::new(0);
    weights.set("classifier.weight", [classes, WIDTH], &weight).unwrap();
    weights.set("classifier.bias", [classes], &bias).unwrap();
    weights.set("projector.fc1.weight", [2, 2], &[0.0; 4]).unwrap(); // a head that scoring does not read
    weights.save(&folder.join(format!("{name}.heads.safetensors")), "", &BTreeMap::new()).unwrap();
    (weight, bias)
}

/// Features of all samples as `score --also embeddings` wrote them, [samples, width].
fn features(folder: &Path, name: &str) -> Vec<Vec<f64>> {
    let bytes = fs::read(folder.join(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values: Vec<f64> =
        file.tensor("features").unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect();
    values.chunks_exact(WIDTH).map(<[f64]>::to_vec).collect()
}

fn softmax((weight, bias): &(Vec<f32>, Vec<f32>), x: &[f64], label: usize) -> f64 {
    let logit = |c: usize| bias[c] as f64 + x.iter().zip(&weight[c * WIDTH..]).map(|(x, w)| x * *w as f64).sum::<f64>();
    let logits: Vec<f64> = (0..bias.len()).map(logit).collect();
    (logits[label]).exp() / logits.iter().map(|l| l.exp()).sum::<f64>()
}

#[test]
fn confidence_is_the_softmax_of_each_sides_classifier() {
    let folder = encoders();
    let f = folder.path();
    let data = "synthetic:50";
    let first = |out: &str, more: &[&str]| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_sslmem"));
        run.current_dir(f).args(["score", "--f", "f.safetensors", "--g", "g.safetensors", "--size", "16", "--normalize", "unit"]);
        run.args(["--measure", "confidence", "--data", data, "--out", out]).args(more);
        done(run)
    };
    let original = ["--pairs", "original", "--views", "1"];
    let classes = sslmem::data::open(data, sslmem::data::OnBadImage::Fail).unwrap().classes().len();
    let heads = [classifier(f, "f", classes, 1), classifier(f, "g", classes, 2)];

    done(command(f, data, "plain.csv", &[]));
    for (out, pairs) in [
        ("all.csv", &["--pairs", "all", "--views", "3", "--also", "embeddings"][..]),
        ("original.csv", &["--pairs", "original", "--views", "1", "--also", "embeddings"]),
    ] {
        first(out, pairs);
        let rows = table::read(f.join(out)).unwrap();
        let stem = out.trim_end_matches(".csv");
        let [of_f, of_g] = ["f", "g"].map(|role| features(f, &format!("{stem}.{role}.safetensors")));
        assert_eq!(rows.len(), 60);
        for (i, row) in rows.iter().enumerate() {
            let label = row.label.unwrap() as usize;
            for (column, head, x) in [(More::ConfidenceF, &heads[0], &of_f[i]), (More::ConfidenceG, &heads[1], &of_g[i])] {
                let (got, want) = (row.get(column), softmax(head, x, label));
                assert!((got - want).abs() < 1e-5, "{out}: {column:?} of {}: {got}, not {want}", row.id);
            }
        }
        let spread = rows.iter().map(|row| row.get(More::ConfidenceF)).fold((1.0f64, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
        assert!(spread.1 - spread.0 > 0.2, "all samples look alike to this classifier: {spread:?}");
    }
    // The alignment columns equal those without confidence.
    let numbers = |name: &str| table::read(f.join(name)).unwrap().iter().map(|row| row.numbers().map(f64::to_bits)).collect::<Vec<_>>();
    assert_eq!(numbers("plain.csv"), numbers("original.csv"));

    // Several layers, shards and batches.
    first("layers.csv", &[&original[..], &["--layers", "pooled,map", "--batch", "7"]].concat());
    let text = |name: &str| fs::read_to_string(f.join(name)).unwrap();
    assert_eq!(text("layers.pooled.csv"), text("original.csv"));
    let confidences = |name: &str| table::read(f.join(name)).unwrap().iter().map(|row| row.more.clone()).collect::<Vec<_>>();
    assert_eq!(confidences("layers.map.csv"), confidences("original.csv"));
    for shard in ["1/2", "2/2"] {
        first("whole.csv", &[&original[..], &["--shard", shard]].concat());
    }
    let mut merge = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    merge.current_dir(f).args(["merge", "whole.csv", "whole.1-of-2.csv", "whole.2-of-2.csv"]);
    done(merge);
    assert_eq!(text("whole.csv"), text("original.csv"));
}

#[test]
fn confidence_of_other_classes_or_of_none_is_refused() {
    let folder = encoders();
    let f = folder.path();
    let asked = || command(f, "synthetic:50", "s.csv", &["--measure", "alignment,confidence"]);
    fails(asked(), 2, &["f.safetensors has no classifier: there is no f.heads.safetensors", "--method supervised"]);
    classifier(f, "f", 3, 1);
    fails(asked(), 2, &["f.heads.safetensors tells 3 classes apart, and the data have "]);
    fs::copy(f.join("f.safetensors"), f.join("f.heads.safetensors")).unwrap();
    fails(asked(), 2, &["f.heads.safetensors holds no classifier"]);
    // Logits beyond f32 are an error, not an unknown confidence.
    let classes = sslmem::data::open("synthetic:50", sslmem::data::OnBadImage::Fail).unwrap().classes().len();
    classifier(f, "f", classes, 1);
    let mut weights = Weights::new(0);
    weights.set("classifier.weight", [classes, WIDTH], &vec![3e38; classes * WIDTH]).unwrap();
    weights.set("classifier.bias", [classes], &vec![0.0; classes]).unwrap();
    weights.save(&f.join("g.heads.safetensors"), "", &BTreeMap::new()).unwrap();
    fails(asked(), 1, &["g gives features or logits that are not finite"]);
    fs::remove_dir_all(f.join("s.csv.parts")).unwrap();
    assert!(!f.join("s.csv").exists() && !f.join("s.csv.parts").exists());
}
