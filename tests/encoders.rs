//! Settings of an encoder and of its images: each key of a file and of the configs beside it is applied, asked for or refused.

use crate::checkpoint::libraries::filled;
use crate::ops::golden::{Golden, close};
use sslmem::checkpoint::Checkpoint;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pipelines");

/// Status, and what was said.
fn sslmem(folder: &Path, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sslmem")).current_dir(folder).args(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout))
}

/// The features that `embed` writes of a folder of images, [images, width], and what it said.
fn embed(encoder: &Path, images: &Path, flags: &[&str]) -> (Vec<f32>, String) {
    let to = TempDir::new().unwrap();
    let data = format!("folder:{}", images.display());
    let args = ["embed", "--encoder", encoder.to_str().unwrap(), "--data", &data, "--out", "e.safetensors"];
    let (code, said) = sslmem(to.path(), &[&args, flags].concat());
    assert_eq!(code, 0, "{}: {said}", encoder.display());
    let file = Checkpoint::open(&to.path().join("e.safetensors")).unwrap();
    (file.values("features").unwrap(), said)
}

/// The sentence with which `embed` refuses an encoder.
fn refused(encoder: &Path, flags: &[&str]) -> String {
    let to = TempDir::new().unwrap();
    let args = ["embed", "--encoder", encoder.to_str().unwrap(), "--data", "synthetic:4", "--out", "e.safetensors"];
    let (code, said) = sslmem(to.path(), &[&args, flags].concat());
    assert!(code != 0 && said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0, "nothing is written");
    said
}

fn pictures() -> PathBuf {
    Path::new(GOLDEN).join("pictures")
}

/// A kept checkpoint, with its JSON files as `change` makes them.
fn changed(name: &str, file: &str, change: impl Fn(&mut serde_json::Value)) -> TempDir {
    let folder = filled(&Path::new(GOLDEN).join(name));
    let path = folder.path().join(file);
    let mut json = fs::read(&path).ok().map_or(serde_json::json!({}), |text| serde_json::from_slice(&text).unwrap());
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
    folder
}

/// Without any flag: the library's own transform and model. Pillow rounds to 8 bits behind its resizing, so 3e-4.
#[test]
fn embed_is_the_librarys_own_pipeline() {
    let golden = Golden::read("pipelines/features");
    let seen = [
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "short side 248 (bicubic), middle 224 x 224, mean [0.5, 0.5, 0.5]"),
        ("vit_small_patch16_224.dino", "short side 248 (bicubic), middle 224 x 224, mean [0.485, 0.456, 0.406]"),
        ("deit_tiny_patch16_224.fb_in1k", "short side 248 (bicubic), middle 224 x 224"),
        ("resnet18.a1_in1k", "short side 235 (bicubic), middle 224 x 224"),
        ("resnet34.tv_in1k", "short side 256 (bilinear), middle 224 x 224"),
        ("resnet50.a1_in1k", "short side 235 (bicubic), middle 224 x 224"),
        ("vit", "whole image to 224 x 224 (bilinear), mean [0.5, 0.5, 0.5]"),
        (
            "vit_other",
            "12 heads, positions of 224 pixels, norm eps 1e-1); of an image it sees: whole image to 256 x 256 (bicubic), middle 224",
        ),
        ("dinov2", "short side 256 (bicubic), middle 224 x 224"),
        ("resnet", "short side 256 (bicubic), middle 224 x 224"),
    ];
    for (name, what) in seen {
        let folder = filled(&Path::new(GOLDEN).join(name));
        let (features, said) = embed(folder.path(), &pictures(), &[]);
        assert!(said.contains(what), "{name}: {said}");
        close(name, &features, golden.get(name), 3e-4);
    }
}

#[test]
fn what_is_asked_for_wins_over_the_file() {
    let golden = Golden::read("pipelines/features");
    let folder = changed("resnet18.a1_in1k", "config.json", |json| {
        json["pretrained_cfg"]["crop_pct"] = 0.5.into();
        json["pretrained_cfg"]["interpolation"] = "bilinear".into();
        json["pretrained_cfg"]["std"] = serde_json::json!([0.5, 0.6, 0.7]);
    });
    let want = golden.get("resnet18.a1_in1k");
    let own = ["--resize", "235", "--interpolation", "bicubic", "--normalize", "imagenet"];
    let (features, said) = embed(folder.path(), &pictures(), &own);
    close("flags", &features, want, 3e-4);
    assert!(said.contains("warning: ") && said.contains("other channel statistics"), "{said}");
    let by_number = "encoder.normalize={ mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }";
    let set = ["--set", "encoder.resize=235", "--set", "encoder.interpolation=bicubic", "--set", by_number];
    assert_eq!(embed(folder.path(), &pictures(), &set).0, features);
    fs::write(folder.path().join("r.toml"), "[encoder]\nresize = 235\ninterpolation = \"bicubic\"\nnormalize = \"imagenet\"\n").unwrap();
    assert_eq!(embed(folder.path(), &pictures(), &["--recipe", folder.path().join("r.toml").to_str().unwrap()]).0, features);
    // With another size `resize` scales in proportion, and positions are interpolated.
    let vit = filled(&Path::new(GOLDEN).join("vit_small_patch16_224.dino"));
    let said = embed(vit.path(), &pictures(), &["--size", "160"]).1;
    assert!(said.contains("positions of 224 pixels") && said.contains("short side 177 (bicubic), middle 160 x 160"), "{said}");
    let statistics = embed(folder.path(), &pictures(), &[]).1;
    assert!(
        statistics.contains("short side 448 (bilinear), middle 224 x 224, mean [0.485, 0.456, 0.406], std [0.5, 0.6, 0.7]"),
        "{statistics}"
    );
    fs::write(folder.path().join("r.toml"), "[encoder]\narch = \"resnet34\"\n").unwrap();
    let said = refused(folder.path(), &["--recipe", folder.path().join("r.toml").to_str().unwrap()]);
    assert!(said.contains("resnet34 contradicts"), "{said}");
}

/// Every key of a network that changes its features is read, or refused.
#[test]
fn a_config_of_another_network_is_refused() {
    let config = |name: &str, key: &str, value: serde_json::Value| {
        let folder = changed(name, "config.json", |json| {
            *json.pointer_mut("").unwrap().as_object_mut().unwrap().entry(key).or_insert(().into()) = value.clone()
        });
        refused(folder.path(), &[])
    };
    for (name, key, value, sentence) in [
        ("vit", "hidden_act", "relu".into(), "has the activation `relu` by its config.json; those here have gelu"),
        ("vit", "hidden_act", "gelu_new".into(), "has the activation `gelu_new`"),
        ("vit", "num_channels", 4.into(), "config.json says num_channels 4; 3 is known here"),
        ("dinov2", "use_swiglu_ffn", true.into(), "config.json says use_swiglu_ffn true"),
        ("resnet", "hidden_act", "gelu".into(), "has the activation `gelu` by its config.json; those here have relu"),
        ("resnet", "downsample_in_first_stage", true.into(), "config.json says downsample_in_first_stage true"),
        ("resnet", "downsample_in_bottleneck", true.into(), "config.json says downsample_in_bottleneck true"),
        ("resnet18.a1_in1k", "architecture", "resnetblur18".into(), "is a `resnetblur18` by its config.json, which is not known here"),
        ("resnet50.a1_in1k", "architecture", "resnetaa50".into(), "is a `resnetaa50`"),
        ("vit_small_patch16_224.dino", "architecture", "vit_small_patch16_rope_224".into(), "which is not known here"),
        ("resnet18.a1_in1k", "model_args", serde_json::json!({ "aa_layer": "blurpool" }), "was built with aa_layer of model_args"),
        ("vit_small_patch16_224.dino", "model_args", serde_json::json!({ "act_layer": "relu" }), "was built with act_layer"),
    ] {
        let said = config(name, key, value);
        assert!(said.contains(sentence), "{name}, {key}: {said}");
    }
    // Unknown keys are listed and not refused.
    let folder = changed("vit", "config.json", |json| json["favourite_colour"] = "blue".into());
    let (code, said) = sslmem(folder.path(), &["convert", "."]);
    assert!(code == 0 && said.contains("not known   favourite_colour of config.json"), "{said}");
}

#[test]
fn heads_and_eps_are_the_configs() {
    let own = |config: &dyn Fn(&mut serde_json::Value)| embed(changed("vit", "config.json", config).path(), &pictures(), &[]).0;
    let usual = own(&|_| ());
    assert_ne!(own(&|json| json["num_attention_heads"] = 6.into()), usual);
    assert_ne!(own(&|json| json["layer_norm_eps"] = 0.01.into()), usual);
    // Without the key the family's default is 1e-12.
    assert_eq!(own(&|json| drop(json.as_object_mut().unwrap().remove("layer_norm_eps"))), usual);
    let folder = changed("vit", "config.json", |json| json["num_attention_heads"] = 7.into());
    assert!(refused(folder.path(), &[]).contains("7 heads do not divide the width 192 of vit_tiny"));
    // Without the config no tensor shows the heads.
    let folder = filled(&Path::new(GOLDEN).join("vit"));
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(refused(folder.path(), &[]).contains("no tensor tells how many heads it has; say how many with --heads"));
    assert_eq!(embed(folder.path(), &pictures(), &["--heads", "3", "--set", "encoder.norm_eps=1e-12"]).0, usual);
}

#[test]
fn images_that_nothing_is_known_of_are_asked_for() {
    let gone = |name: &str, file: &str| {
        let folder = filled(&Path::new(GOLDEN).join(name));
        fs::remove_file(folder.path().join(file)).unwrap();
        folder
    };
    let said = refused(gone("vit", "preprocessor_config.json").path(), &[]);
    assert!(said.contains("does not say how the images of its encoder were normalised; choose --normalize imagenet"), "{said}");
    let resized = [
        ("vit", serde_json::json!({ "resample": 0 })),
        ("vit", serde_json::json!({ "do_resize": false })),
        ("vit", serde_json::json!({ "rescale_factor": 1.0 })),
        ("vit", serde_json::json!({ "size": { "height": 224, "width": 196 } })),
        ("dinov2", serde_json::json!({ "do_center_crop": false, "size": { "shortest_edge": 224 } })),
    ];
    for (name, keys) in resized {
        let folder = changed(name, "preprocessor_config.json", |json| {
            keys.as_object().unwrap().iter().for_each(|(key, value)| json[key] = value.clone());
        });
        let said = refused(folder.path(), &[]);
        assert!(said.contains("--resize"), "{keys}: {said}");
        embed(folder.path(), &pictures(), &["--resize", "whole", "--interpolation", "bilinear", "--size", "224"]);
    }
    let folder = changed("resnet18.a1_in1k", "config.json", |json| json["pretrained_cfg"]["crop_mode"] = "border".into());
    assert!(refused(folder.path(), &[]).contains("in a way that is not known here"));
    // timm's own defaults where its config is silent: .875, bicubic, ImageNet's.
    let folder =
        changed("resnet18.a1_in1k", "config.json", |json| json["pretrained_cfg"] = serde_json::json!({ "input_size": [3, 224, 224] }));
    let said = embed(folder.path(), &pictures(), &[]).1;
    assert!(said.contains("short side 256 (bicubic), middle 224 x 224, mean [0.485, 0.456, 0.406]"), "{said}");
}

/// f and g of other families: each sees what its own file says, and features beside scores are those of `embed`.
#[test]
fn f_and_g_each_see_their_own() {
    let [f, g] = ["vit", "resnet18.a1_in1k"].map(|name| filled(&Path::new(GOLDEN).join(name)));
    let to = TempDir::new().unwrap();
    let data = format!("folder:{}", pictures().display());
    for pairs in ["all", "original"] {
        let args = ["score", "--f", f.path().to_str().unwrap(), "--g", g.path().to_str().unwrap(), "--data", &data, "--also", "embeddings"];
        let (code, said) = sslmem(to.path(), &[&args[..], &["--views", "2", "--pairs", pairs, "--out", "s.csv", "--force"]].concat());
        assert_eq!(code, 0, "{said}");
        for (role, folder) in [("f", &f), ("g", &g)] {
            let beside = Checkpoint::open(&to.path().join(format!("s.{role}.safetensors"))).unwrap().values("features").unwrap();
            assert!(beside == embed(folder.path(), &pictures(), &[]).0, "{role}, {pairs}");
        }
    }
    let manifest = fs::read_to_string(to.path().join("s.json")).unwrap();
    for seen in ["whole image to 224 x 224 (bilinear)", "short side 235 (bicubic), middle 224 x 224"] {
        assert!(manifest.contains(seen), "{manifest}");
    }
}

/// What is no checkpoint is called by its name.
#[test]
fn files_of_others_are_named() {
    let folder = TempDir::new().unwrap();
    let onnx = [&[8, 10, 0x12, 7][..], b"pytorch\x1a\x052.0.0"].concat();
    for (bytes, sentence) in [
        (&onnx[..], "is an ONNX model; save the encoder's state_dict()"),
        (b"\x89HDF\r\n\x1a\n and more", "is an HDF5 file"),
        (b"GGUF\x03\0\0\0 and more", "is a GGUF file"),
        (b"\x93NUMPY\x01\0 and more", "is a numpy array"),
        (b"not at all", "is not a whole safetensors file"),
    ] {
        let path = folder.path().join("weights");
        fs::write(&path, bytes).unwrap();
        let said = refused(&path, &[]);
        assert!(said.contains(sentence), "{said}");
    }
    let Ok(script) = Path::new("../shared/cases/torchscript_small.pt").canonicalize() else { return };
    assert!(refused(&script, &[]).contains("is TorchScript (torch.jit.save); save model.state_dict()"));
}

/// Inputs that once gave other features, with those of PyTorch.
#[test]
fn cases_of_others_are_right_or_refused() {
    let Ok(cases) = Path::new("../shared/cases").canonicalize() else {
        eprintln!("skipped: no cases in ../shared/cases");
        return;
    };
    let right = |name: &str, file: &str| {
        let bytes = fs::read(cases.join(name).join(file)).unwrap();
        let start = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        bytemuck::pod_collect_to_vec::<u8, f32>(&bytes[start..])
    };
    let small = ["--size", "32", "--normalize", "half"];
    let at = |name: &str, file: &str| cases.join(name).join(file);
    let (of32, of300) = (cases.join("pictures32"), cases.join("pictures300"));
    let solo = at("solo_cifar", "solo.ckpt");
    assert!(refused(&solo, &small).contains("--stem cifar_wide or --stem cifar"));
    close("solo", &embed(&solo, &of32, &[&small[..], &["--stem", "cifar_wide"]].concat()).0, &right("solo_cifar", "right.npy"), 1e-5);
    close("eps", &embed(&at("hf_eps", "pytorch_model.bin"), &of32, &small).0, &right("hf_eps", "right.npy"), 1e-5);
    for name in ["hf_relu", "hf_gelu_tanh"] {
        assert!(refused(&at(name, "pytorch_model.bin"), &small).contains("has the activation"), "{name}");
    }
    for name in ["timm_vit_tiny_patch16_224", "timm_resnet18"] {
        close(name, &embed(&at(name, "pytorch_model.bin"), &of300, &[]).0, &right(name, "right.npy"), 3e-4);
    }
}

/// Who wrote a file is seen by the names of its tensors alone, so what follows from it is said, unless it was asked for otherwise.
#[test]
fn a_guess_is_said_unless_a_flag_answers_it() {
    let solo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/sololearn.ckpt");
    for (stem, guessed) in [(&[][..], true), (&["--stem", "cifar"], false), (&["--set", "encoder.stem=cifar_wide"], false)] {
        let to = TempDir::new().unwrap();
        let args = ["embed", "--encoder", solo.to_str().unwrap(), "--size", "32", "--normalize", "unit", "--data", "synthetic:4", "--out"];
        let (code, said) = sslmem(to.path(), &[&args[..], &["e.safetensors"], stem].concat());
        assert_eq!((code, said.contains("as solo-learn builds it for CIFAR; this is a guess")), (0, guessed), "{said}");
    }
}
