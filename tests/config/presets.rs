//! Presets named after someone's code are compared with that code, key by key, and with their own list of deviations.

use std::collections::BTreeSet;

use sslmem::config::{Cited, PRESETS, Recipe, preset, sources};
use toml::Value;

/// Those that are nobody else's.
fn ours(name: &str) -> bool {
    let parts = ["cifar100", "svhn", "stl10", "mnist", "imagenet", "cifar_small", "demo"];
    parts.contains(&name) || name.starts_with("smoke")
}

fn theirs() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name).filter(|name| !ours(name))
}

/// The keys of a recipe that decide what its training, and with the paper's its scores, are.
fn matters(recipe: &Recipe, paper: bool) -> BTreeSet<&'static str> {
    let vit = recipe.network().unwrap().encoder.vit().is_some();
    let (method, optim) = (&recipe.method, &recipe.optim);
    let network: &[&str] =
        if vit { &["encoder.patch", "encoder.positions", "encoder.drop_path"] } else { &["encoder.stem", "encoder.zero_init_residual"] };
    let heads: &[&str] = &["method.projector", "method.head_norm", "method.second_view"];
    let of_method: &[&str] = match &method.name[..] {
        "simclr" => &["method.temperature", "method.head_end", "method.scale"],
        "mocov3" => &["method.temperature", "method.predictor", "method.momentum"],
        "byol" => &["method.predictor", "method.momentum", "method.head_end"],
        "simsiam" => &["method.predictor", "method.fixed_predictor"],
        "barlow" => &["method.lambda", "method.scale"],
        "vicreg" => &["method.weights"],
        "mae" => &["method.mask", "method.norm_pix", "method.decoder"],
        "dino" => &[
            "method.temperature",
            "method.prototypes",
            "method.momentum",
            "method.teacher_temperature",
            "method.teacher_warmup_epochs",
            "method.center_momentum",
            "method.freeze_last_layer",
            "method.local_crops",
            "optim.clip",
        ],
        other => panic!("no key of {other} is known to matter"),
    };
    let of_optim: &[&str] = match &optim.name[..] {
        "sgd" => &["optim.momentum"],
        "adam" | "adamw" => &["optim.betas", "optim.eps"],
        _ => &["optim.momentum", "optim.trust"],
    };
    let all = [
        "encoder.arch",
        "encoder.size",
        "encoder.normalize",
        "method.view",
        "optim.name",
        "optim.lr",
        "optim.lr_scaling",
        "optim.warmup_epochs",
        "optim.schedule",
        "optim.weight_decay",
        "optim.decay_all",
        "train.epochs",
        "train.batch",
    ];
    let mut keys: BTreeSet<&str> = all.iter().chain(network).chain(of_method).chain(of_optim).copied().collect();
    let mut also = |holds: bool, more: &[&'static str]| keys.extend(more.iter().filter(|_| holds));
    also(method.name != "mae", heads);
    also(recipe.encoder.heads != 0, &["encoder.heads"]);
    also(method.name == "dino" && method.local_crops > 0, &["method.local_view", "method.local_size"]);
    also(optim.schedule != "constant", &["optim.lr_end"]);
    also(optim.lr_bias != 1.0, &["optim.lr_bias"]);
    also(optim.clip != 0.0, &["optim.clip"]);
    also(paper, &["score.views", "score.pairs", "score.features", "score.view"]);
    keys
}

/// What the recipe has for a key, as a table of sources states it.
fn value(recipe: &Recipe, key: &str) -> String {
    let table: toml::Table = recipe.to_toml().unwrap().parse().unwrap();
    let value = key.split('.').fold(Value::Table(table), |at, part| at.get(part).unwrap_or_else(|| panic!("no key {key}")).clone());
    recipe.stated(key, &value.to_string())
}

fn same(a: &str, b: &str) -> bool {
    let parsed = |text: &str| format!("x = {text}").parse::<toml::Table>().ok();
    a == b || parsed(a).is_some_and(|a| Some(a) == parsed(b))
}

#[test]
fn every_value_is_where_the_table_says_or_deviates_as_it_says() {
    for name in theirs() {
        let recipe = preset(name).unwrap();
        let known = sources(name);
        for source in known.iter().filter(|source| !source.key.starts_with('(')) {
            let here = value(&recipe, source.key);
            assert!(same(&here, source.value), "{name}: {} is {here}, the table says {}", source.key, source.value);
            let theirs = source.differs.map_or("", |[theirs, _]| theirs);
            assert!(!same(&here, theirs), "{name}: {} is no deviation", source.key);
        }
        let stated: BTreeSet<&str> = known.iter().map(|source| source.key).filter(|key| !key.starts_with('(')).collect();
        let matters = matters(&recipe, name.starts_with("paper") || name.starts_with("layermem"));
        let missing: Vec<_> = matters.difference(&stated).collect();
        assert!(missing.is_empty(), "{name}: the table does not say where {missing:?} are from");
        let idle: Vec<_> = stated.difference(&matters).collect();
        assert!(idle.is_empty(), "{name}: {idle:?} do nothing");
    }
}

#[test]
fn presets_of_our_own_have_no_table() {
    for preset in PRESETS.iter().filter(|preset| ours(preset.name)) {
        assert!(sources(preset.name).is_empty(), "{}", preset.name);
    }
}

/// A commit, a file and a line, or a paper.
#[test]
fn every_place_can_be_looked_up() {
    let literature = ["Wang et al. (", "Chen and He (2021)", "torch.optim."];
    for (name, Cited { key, place, .. }) in theirs().flat_map(|name| sources(name).into_iter().map(move |source| (name, source))) {
        let repository = place.split_once(' ').filter(|(at, _)| at.contains('/') && at.contains('@'));
        let lines = repository.is_some_and(|(_, files)| {
            files.split(", ").all(|file| {
                let lines = file.split_once(':').map_or("", |(_, lines)| lines);
                !lines.is_empty() && lines.split([',', '-']).all(|line| line.parse::<u32>().is_ok_and(|line| line > 0))
            })
        });
        assert!(lines || literature.iter().any(|start| place.starts_with(start)), "{name}: {key} is from {place:?}");
    }
}

#[test]
fn a_preset_says_itself_where_it_deviates() {
    for name in theirs() {
        let path = format!("{}/src/config/presets/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let comments: String = text.lines().filter_map(|line| line.strip_prefix("# ")).map(|line| format!("{line} ")).collect();
        let said = comments.split_once("Not as there: ").map_or("", |(_, rest)| rest.split_once('.').map_or(rest, |(said, _)| said));
        let mut said: Vec<&str> = said.split(", ").filter(|word| !word.is_empty()).collect();
        let known = sources(name);
        let deviates = known.iter().filter(|source| source.differs.is_some());
        let mut deviates: Vec<&str> =
            deviates.map(|source| source.key.trim_matches(['(', ')'])).map(|key| key.rsplit('.').next().unwrap()).collect();
        said.sort();
        deviates.sort();
        assert_eq!(said, deviates, "{name}");
    }
}
