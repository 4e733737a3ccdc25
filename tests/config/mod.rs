//! Recipes: layers, TOML out and in, refusals and suggestions.

mod presets;

use std::collections::BTreeSet;
use std::fs;

use sslmem::Error;
use sslmem::config::{self, DEFAULT, KEYS, Layers, Normalize, Order, PRESETS, Recipe, nearest, preset};
use sslmem::split::{How, SubsetSize};
use sslmem::view::{self, Policy};

fn base() -> Layers {
    Layers::presets::<&str>(&[]).unwrap()
}

fn refused<T>(result: Result<T, Error>) -> String {
    let Err(error) = result else { panic!("this should have been refused") };
    assert_eq!(error.exit_code(), 2, "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "one sentence: {text}");
    text
}

/// Sets some keys and resolves; the error's text.
fn wrong(assignments: &[&str]) -> String {
    refused(assignments.iter().try_fold(base(), |layers, a| layers.assign(a)).and_then(Layers::resolve))
}

#[test]
fn every_preset_is_valid_and_comes_back_from_toml() {
    assert_eq!(preset(DEFAULT).unwrap(), Recipe::default());
    for preset in PRESETS {
        let recipe = config::preset(preset.name).unwrap();
        for text in [recipe.to_toml().unwrap(), recipe.explained().unwrap()] {
            assert_eq!(base().text("t", &text).unwrap().resolve().unwrap(), recipe, "{}", preset.name);
        }
        let json = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&json).unwrap(), recipe, "{}", preset.name);
    }
    assert_eq!(refused(preset("papr")), "there is no preset `papr`; did you mean `paper`?");
    assert!(refused(preset("quux")).contains("choose one of reference, paper, paper_mae,"));
}

#[test]
fn presets_go_on_top_of_each_other() {
    let recipe = Layers::presets(&["paper_mae", "svhn"]).unwrap().resolve().unwrap();
    assert_eq!((&recipe.method.name[..], &recipe.encoder.arch[..], &recipe.data.source[..]), ("mae", "vit_tiny", "svhn:data/svhn"));
    assert_eq!((recipe.split.shared, recipe.train.epochs), (SubsetSize::Count(40_000), 600));
    let alone = Layers::presets(&["mnist"]).unwrap().resolve().unwrap();
    assert_eq!((&alone.method.name[..], alone.split.candidate), ("simclr", SubsetSize::Count(5_000)));
    // One with a base starts again.
    let again = Layers::presets(&["svhn", "paper_dino"]).unwrap().resolve().unwrap();
    assert_eq!(again, preset("paper_dino").unwrap());
}

fn views_of(recipe: &Recipe) -> Vec<Vec<sslmem::view::View>> {
    recipe.train_views(sslmem::methods::find(&recipe.method.name).unwrap()).unwrap()
}

#[test]
fn the_second_view_is_as_the_first_unless_it_has_a_kind_of_its_own() {
    let views = views_of(&base().assign("method.view=simclr_cifar").unwrap().resolve().unwrap());
    assert_eq!((views.len(), views[0].len()), (1, 2), "SimCLR's views go through the encoder together");
    assert_eq!(views[0][0], views[0][1]);
    let views = views_of(&preset("cifar_byol").unwrap());
    assert!(views.len() == 2 && views[0][0].solarize.is_none() && views[1][0].solarize.is_some());
}

#[test]
fn a_number_may_go_from_one_value_to_another() {
    let recipe = base().assign("optim.weight_decay=[0.04, 0.4]").unwrap().resolve().unwrap();
    let decay = recipe.optim.weight_decay;
    assert_eq!((decay.cosine(0.0) as f32, decay.cosine(1.0) as f32), (0.04, 0.4));
    assert!((decay.cosine(0.5) - 0.22).abs() < 1e-6 && (decay.line(0.25) - 0.13).abs() < 1e-6 && decay.line(3.0) == decay.line(1.0));
    assert!(base().assign("optim.weight_decay=1").unwrap().resolve().unwrap().to_toml().unwrap().contains("weight_decay = 1.0"));
    for (key, expected) in
        [("optim.weight_decay=x", "expected a number, or [first, last]"), ("method.momentum=[0.9, 1.5]", "method.momentum is 1.5")]
    {
        let error = wrong(&[key]);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn every_key_has_a_meaning_and_every_meaning_a_key() {
    let table: toml::Table = Recipe::default().to_toml().unwrap().parse().unwrap();
    let mut keys = BTreeSet::new();
    for (name, value) in &table {
        match value {
            toml::Value::Table(section) => keys.extend(section.keys().map(|key| format!("{name}.{key}"))),
            _ => drop(keys.insert(name.clone())),
        }
    }
    let known: BTreeSet<String> = KEYS.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(keys, known);
    let text = Recipe::default().explained().unwrap();
    for (key, meaning) in KEYS {
        assert!(text.contains(&format!("# {meaning}")), "{key} is not explained");
    }
}

#[test]
fn later_layers_win() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    fs::write(&path, "seed = 4\n[train]\nepochs = 7\nbatch = 64\n[split]\norder = 9\nshared = 240\nexternal = 0.5\n").unwrap();
    let layers = Layers::presets(&["paper"]).unwrap().file(&path).unwrap();
    let layers = layers.set("train.batch", "32").unwrap().set("data.source", "folder:x").unwrap();
    let recipe = layers.assign("data.source=cifar10:a b=c").unwrap().resolve().unwrap();
    assert_eq!((recipe.seed, recipe.train.epochs, recipe.train.batch), (4, 7, 32));
    assert_eq!(recipe.data.source, "cifar10:a b=c");
    assert_eq!(recipe.encoder.arch, "resnet50", "from the preset");
    assert_eq!(recipe.how(), How::Seeded(9));
    assert_eq!((recipe.split.shared, recipe.split.external), (SubsetSize::Count(240), SubsetSize::Fraction(0.5)));
    assert_eq!(Recipe::default().split.order, Order::Auto);
}

#[test]
fn files_of_ones_own_are_dealt_by_class_and_the_papers_sets_in_order() {
    let of = |set: &[&str]| set.iter().fold(Layers::presets::<&str>(&[]).unwrap(), |l, a| l.assign(a).unwrap()).resolve().unwrap();
    assert_eq!(of(&["data.source=cifar10:x"]).how(), How::Ordered);
    for kind in ["folder", "list", "webdataset", "parquet", "packed"] {
        assert_eq!(of(&[&format!("data.source={kind}:x"), "seed=7"]).how(), How::Stratified(7), "{kind}");
    }
    assert_eq!(of(&["data.source=folder:x", "split.order=ordered"]).how(), How::Ordered);
    assert_eq!(of(&["data.source=cifar10:x", "split.order=stratified", "seed=2"]).how(), How::Stratified(2));
    for preset in ["paper", "paper_mae", "paper_dino", "paper_dino_resnet50", "paper_vicreg", "layermem_simsiam"] {
        assert_eq!(config::preset(preset).unwrap().split.order, Order::Ordered, "{preset}");
    }
    for order in ["auto", "ordered", "stratified", "5"] {
        let recipe = of(&[&format!("split.order={order}")]);
        assert_eq!(Layers::presets::<&str>(&[]).unwrap().text("r", &recipe.to_toml().unwrap()).unwrap().resolve().unwrap(), recipe);
    }
}

#[test]
fn views_have_the_size_and_the_statistics_of_the_encoder() {
    let recipe = base().assign("encoder.size=64").unwrap().assign("encoder.normalize=imagenet").unwrap().resolve().unwrap();
    for view in [recipe.train_view(), recipe.score_view(), recipe.original_view()] {
        let view = view.unwrap();
        assert_eq!((view.size, [view.mean, view.std]), (64, view::IMAGENET));
    }
    assert_eq!(Normalize::Named("unit").statistics(), view::UNIT);
}

#[test]
fn a_view_can_be_a_table() {
    let own = toml::to_string(&view::policy("simclr", 32).unwrap()).unwrap();
    let text = |own: &str| format!("[encoder]\nnormalize = \"cifar10\"\n[method.view]\n{}", own.replace("\n[", "\n[method.view."));
    let recipe = base().text("t", &text(&own)).unwrap().resolve().unwrap();
    assert_eq!(recipe.method.view, Policy::Own(view::policy("simclr", 32).unwrap()));
    assert_eq!(base().text("t", &recipe.to_toml().unwrap()).unwrap().resolve().unwrap(), recipe);
    let error = refused(base().text("t", &text(&own.replace("flip", "flop"))).unwrap().resolve());
    assert!(error.starts_with("method.view: unknown field `flop`, expected one of `size`"), "{error}");
    let error = refused(base().text("t", &text(&own.replace("size = 32", "size = 64"))).unwrap().resolve());
    assert!(error.starts_with("method.view.size is 64, but 32 belongs there"), "{error}");
    let error = refused(base().text("t", &text(&own).replace("cifar10", "unit")).unwrap().resolve());
    assert!(error.starts_with("method.view and score.view are normalised differently"), "{error}");
    let error = refused(base().text("t", &text(&own.replace("flip = 0.5", "flip = 1.5"))).unwrap().resolve());
    assert!(error.starts_with("method.view: flip is 1.5"), "{error}");
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    for (assignment, expected) in [
        ("train.epoch=3", "--set: unknown key `epoch` in [train]; did you mean `epochs`?"),
        ("trian.epochs=3", "--set: unknown section [trian]; did you mean `train`?"),
        ("epochs=3", "--set: unknown key `epochs`; did you mean `train.epochs`?"),
        ("sed=3", "--set: unknown key `sed`; did you mean `seed`?"),
        ("train=3", "--set: `train` is a section and takes no value; write [train] and its keys below it, or train.name=value"),
        ("train.zzzzzzzz=3", "--set: unknown key `zzzzzzzz` in [train]; choose one of epochs, batch, accumulate"),
        ("train.epochs", "--set train.epochs has no value; write --set section.key=value, as in --set train.epochs=10"),
    ] {
        assert_eq!(refused(base().assign(assignment)), expected);
    }
    assert_eq!(refused(base().text("r.toml", "[train]\nepoch = 3\n")), "r.toml: unknown key `epoch` in [train]; did you mean `epochs`?");
    let error = refused(base().text("r.toml", "seed = 1\n[train\n"));
    assert!(error.starts_with("r.toml, line 2: this is not TOML: "), "{error}");
    assert_eq!(nearest("ResNet18", ["resnet8", "resnet18"].into_iter()), Some("resnet18"));
    assert_eq!(nearest("vit_base", ["resnet8", "resnet18"].into_iter()), None);
}

#[test]
fn what_cannot_work_is_refused_before_it_starts() {
    for (assignments, expected) in [
        (&["train.epochs=x"][..], "train.epochs: invalid type: string \"x\", expected a whole number; see"),
        (&["train.epochs=1.5"], "train.epochs: invalid type: floating point `1.5`, expected a whole number; see"),
        (&["train.epochs=-1"], "train.epochs: invalid value: integer `-1`, expected a whole number; see"),
        (&["encoder.stem=cifa"], "encoder.stem: `cifa` is none of `cifar`, `cifar_wide`, `imagenet`; see"),
        (
            &["split.order=random"],
            "split.order: invalid value: string \"random\", expected \"auto\", \"ordered\", \"stratified\" or a seed",
        ),
        (&["split.shared=1.5"], "split.shared: invalid value: floating point `1.5`, expected a fraction"),
        (&["split.shared=candidates"], "split.shared is \"candidates\", which only split.external can be"),
        (&["split.candidate=0"], "split.candidate is 0, so there is nothing to score"),
        (&["encoder.arch=resnet118"], "encoder.arch: there is no `resnet118`; did you mean `resnet18`?"),
        (&["method.name=simclrr"], "method.name: there is no `simclrr`; did you mean `simclr`?"),
        (&["method.view=simcl"], "method.view: there is no policy `simcl`; did you mean `simclr`?"),
        (&["score.view=qqqqqqqqqq"], "score.view: there is no policy `qqqqqqqqqq`; choose one of original"),
        (&["optim.name=adm"], "optim.name: there is no `adm`; did you mean `adam`?"),
        (&["optim.lr_scaling=lin"], "optim.lr_scaling: there is no `lin`"),
        (&["optim.schedule=cos"], "optim.schedule: there is no `cos`"),
        (&["optim.lr=0"], "optim.lr is 0; choose a number above 0"),
        (&["optim.lr=nan"], "optim.lr is NaN; choose a number above 0"),
        (&["optim.momentum=1"], "optim.momentum is 1; choose a number from 0 to below 1"),
        (&["optim.betas=[0.9, 2]"], "optim.betas is 2;"),
        (&["optim.weight_decay=-1"], "optim.weight_decay is -1; choose 0 or more"),
        (&["optim.warmup_epochs=101"], "optim.warmup_epochs is 101, but train.epochs is 100"),
        (&["method.temperature=0"], "method.temperature is 0; choose a number above 0"),
        (&["pairs=0"], "pairs is 0; choose at least 1"),
        (&["train.epochs=0"], "train.epochs is 0; choose at least 1"),
        (&["train.batch=1"], "train.batch is 1; choose at least 2"),
        (&["encoder.size=0"], "encoder.size is 0; choose at least 1"),
        (&["score.batch=0"], "score.batch is 0; choose at least 1"),
        (&["score.views=1"], "score.views is 1; choose at least 2"),
        (&["score.views=0", "score.pairs=original"], "score.views is 0; choose at least 1"),
    ] {
        let error = wrong(assignments);
        assert!(error.starts_with(expected), "{assignments:?}: {error}");
    }
    base().assign("score.pairs=original").unwrap().assign("score.views=1").unwrap().resolve().unwrap();
}
