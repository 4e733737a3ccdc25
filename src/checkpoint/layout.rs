//! Finds the encoder in a checkpoint: its prefix, the dialect of its names, its architecture. Also classifies every other tensor.

use super::families::{self, Net, Shapes};
use super::pickle::Fault;
use super::settings::{Settings, settings};
use super::translate::{ANCHORS, Dialect, ours};
use super::{Checkpoint, Dtype};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// An encoder found in a foreign file.
pub struct EncoderLayout {
    /// The library that writes such files.
    pub wrapper: &'static str,
    /// Prefix of its tensors' names.
    pub prefix: String,
    pub arch: &'static str,
    /// ResNets: `cifar` or `imagenet`.
    pub stem: Option<&'static str>,
    /// ViTs: side of a patch in pixels.
    pub patch: Option<usize>,
    /// ViTs: `learned` or `sincos`.
    pub positions: Option<&'static str>,
    /// ViTs: side in pixels of the images that the positions were trained for.
    pub trained_size: Option<usize>,
    /// ViTs: attention heads.
    pub heads: Option<usize>,
    /// Settings that no tensor shows, taken from the habits of the library: recipe key and description.
    pub guesses: Vec<(&'static str, String)>,
    /// Settings that no tensor shows and that cannot be guessed: recipe key and reason.
    pub unclear: Vec<(&'static str, String)>,
    /// Our names, and the tensors that each is made of.
    pub sources: BTreeMap<String, Source>,
    /// Tensors that are not of the encoder.
    pub leftovers: Vec<Leftover>,
    /// Our names of tensors that the encoder lacks.
    pub missing: Vec<String>,
}

/// The tensors in the file that one of our tensors is made of.
pub struct Source {
    pub shape: Vec<usize>,
    /// One tensor, or queries, keys and values to concatenate.
    pub parts: Vec<String>,
    /// A layer scale, to be multiplied into the rows.
    pub scale: Option<String>,
}

/// A tensor that is not loaded, and why.
pub struct Leftover {
    pub name: String,
    pub reason: TensorRole,
}

/// Role of a tensor outside the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TensorRole {
    Classifier,
    Projector,
    Decoder,
    /// Momentum encoder, student, or any other encoder than the one taken.
    OtherEncoder,
    Optimizer,
    /// Batch norm's `num_batches_tracked`.
    Counter,
    Loss,
    Other,
}

impl TensorRole {
    pub fn name(self) -> &'static str {
        match self {
            TensorRole::Classifier => "classifier",
            TensorRole::Projector => "projector or predictor",
            TensorRole::Decoder => "decoder or mask token",
            TensorRole::OtherEncoder => "another encoder",
            TensorRole::Optimizer => "optimizer",
            TensorRole::Counter => "batch counters",
            TensorRole::Loss => "loss",
            TensorRole::Other => "other",
        }
    }
}

/// Parts of names that change the network, anywhere in an encoder.
const INSIDE: &[&str] = &["dist_token", "register_tokens", "reg_token", "norm_pre", "fc_norm", "ls1", "ls2"];

struct Candidate {
    prefix: String,
    dialect: Dialect,
}

/// The encoder of a file; `None` if the file has no known one.
///
/// # Errors
/// The encoder's architecture is unknown, or it has tensors that would have to be ignored.
pub fn recognise(file: &Checkpoint, heads: Option<usize>) -> Result<Option<EncoderLayout>> {
    layout(file, heads).map_err(|what| Error::format(file.path(), what))
}

fn layout(file: &Checkpoint, heads: Option<usize>) -> std::result::Result<Option<EncoderLayout>, Fault> {
    let mut candidates = candidates(file);
    candidates.sort_by_key(|c| (rank(&c.prefix), c.prefix.len()));
    let Some(best) = candidates.first() else { return Ok(None) };
    if let Some(other) = candidates.get(1).filter(|c| rank(&c.prefix) == rank(&best.prefix) && !alias(file, best, c)) {
        let what = format!("holds two encoders of equal standing, `{}` and `{}`; save the one that is meant", best.prefix, other.prefix);
        return Err(what);
    }
    if best.dialect == (Dialect::Numbered { first: 2 }) {
        let what = "holds a ResNet in an nn.Sequential without the relu behind its first norm, as lightly's own for CIFAR-10 becomes there";
        return Err(format!("{what}; those here have it, so the features would be others"));
    }
    let mut parts = collect(file, best);
    let shapes: Shapes = parts.iter().map(|(name, source)| (name.clone(), source.shape.clone())).collect();
    let net = families::recognise(&shapes)?;
    let wrapper = wrapper(file, best);
    let (mut sources, mut missing) = (BTreeMap::new(), vec![]);
    for (name, shape) in net.expected() {
        let Some(mut source) = parts.remove(&name) else {
            missing.push(name);
            continue;
        };
        if source.shape != shape {
            return Err(format!("tensor `{}` has shape {:?}, {} needs {shape:?}", source.parts[0], source.shape, net.arch));
        }
        if let Some((block, layer)) = scaled(&name)
            && let Some(gamma) = parts.get(&format!("{block}.{layer}.gamma"))
        {
            if gamma.shape != shape[..1] {
                return Err(format!("tensor `{}` has shape {:?}, {} needs {:?}", gamma.parts[0], gamma.shape, net.arch, &shape[..1]));
            }
            source.scale = Some(gamma.parts[0].clone());
        }
        sources.insert(name, source);
    }
    let leftovers = leftovers(file, best, &sources, &candidates)?;
    let (patch, trained) = (net.grid.map(|g| g.0), net.grid.map(|(patch, grid)| patch * grid));
    let mut hidden = Hidden::of(file, best, &net, wrapper);
    if let Some(heads) = heads.filter(|_| net.heads.is_some()) {
        // Heads given by the file or its config make every guess unnecessary.
        hidden = Hidden { heads: Some(heads), ..Hidden::default() };
    }
    let mut found = EncoderLayout {
        wrapper,
        prefix: best.prefix.clone(),
        arch: net.arch,
        stem: hidden.stem,
        patch,
        positions: None,
        trained_size: trained,
        heads: hidden.heads,
        guesses: hidden.guesses,
        unclear: hidden.unclear,
        sources,
        leftovers,
        missing,
    };
    if let (Some((_, grid)), Some(source)) = (net.grid, found.sources.get("pos_embed")) {
        let width = source.shape[2];
        let fixed = file.values(&source.parts[0]).is_ok_and(|values| families::sine_cosine(&values, width, grid));
        found.positions = Some(if fixed { "sincos" } else { "learned" });
    }
    Ok(Some(found))
}

/// Settings of a network that no shape tells.
#[derive(Default)]
struct Hidden {
    stem: Option<&'static str>,
    heads: Option<usize>,
    guesses: Vec<(&'static str, String)>,
    unclear: Vec<(&'static str, String)>,
}

impl Hidden {
    fn of(file: &Checkpoint, best: &Candidate, net: &Net, wrapper: &str) -> Hidden {
        let mut hidden = Hidden { stem: net.stem.map(|kernel| if kernel == 7 { "imagenet" } else { "cifar" }), ..Hidden::default() };
        hidden.heads = net.heads;
        let held = |word: &str| file.tensors.keys().any(|name| name.contains(word));
        if wrapper == SOLO && hidden.stem == Some("cifar") {
            // solo/methods/base.py: on CIFAR conv1 is 3x3 with padding 2.
            if held("momentum_backbone.") || held("projector.") && held("classifier.") {
                hidden.stem = Some("cifar_wide");
                hidden.guesses.push(("encoder.stem", "the 3x3 stem is padded by 2, as solo-learn builds it for CIFAR".into()));
            } else {
                let what = "may come from solo-learn, which pads the 3x3 stem by 2 (cifar_wide), or not (cifar); no tensor tells";
                hidden.unclear.push(("encoder.stem", what.into()));
            }
        }
        let small = net.heads.is_some_and(|heads| heads < 12);
        if wrapper == MOCO_V3 && net.arch == "vit_small" {
            // vits.py of MoCo v3: its ViT-S has twice the usual heads.
            hidden.heads = Some(12);
            hidden.guesses.push(("encoder.heads", "12 heads, as MoCo v3 builds its ViT-S".into()));
        } else if wrapper == SOLO && small {
            let what =
                "comes from solo-learn by its names, whose ViTs have 12 heads for MoCo v3 and MAE and the usual ones else; no tensor tells";
            hidden.unclear.push(("encoder.heads", what.into()));
        } else if best.dialect == Dialect::HfVit && small {
            let what = "holds a ViT of Hugging Face's without its config.json beside it; no tensor tells how many heads it has";
            hidden.unclear.push(("encoder.heads", what.into()));
        }
        hidden
    }
}

/// The block and the name of the layer scale that follows a layer.
fn scaled(name: &str) -> Option<(&str, &'static str)> {
    [(".attn.proj.", "ls1"), (".mlp.fc2.", "ls2")].iter().find_map(|(layer, scale)| Some((name.split_once(layer)?.0, *scale)))
}

/// Every prefix with the anchor tensors of an encoder.
fn candidates(file: &Checkpoint) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = vec![];
    for name in file.tensors.keys() {
        for (dialect, anchors) in ANCHORS {
            let Some(prefix) = name.strip_suffix(anchors[0]).filter(|p| p.is_empty() || p.ends_with('.')) else { continue };
            let all = anchors.iter().all(|anchor| file.tensors.contains_key(&format!("{prefix}{anchor}")));
            if all && !found.iter().any(|c| c.prefix == prefix) {
                found.push(Candidate { prefix: prefix.to_string(), dialect: *dialect });
            }
        }
        if found.len() == 64 {
            break;
        }
    }
    found
}

/// Rank of a candidate; the lowest is taken. EMA weights come first, as in timm; DINO's teacher comes before its student; the online
/// encoder of other methods comes before its momentum encoder.
fn rank(prefix: &str) -> i32 {
    let one = |part: &str| match part {
        "state_dict_ema" | "model_ema" | "ema" => -1,
        "student" | "student_backbone" => 5,
        "encoder_k" | "backbone_momentum" | "encoder_momentum" => 10,
        _ if part.contains("decoder") || part.contains("predictor") => 20,
        _ if part.starts_with("momentum") || part.starts_with("target") => 10,
        _ => 0,
    };
    prefix.split('.').map(one).sum()
}

/// Whether two candidates are the same storage under two names.
fn alias(file: &Checkpoint, a: &Candidate, b: &Candidate) -> bool {
    let place = |c: &Candidate| {
        let anchor = ANCHORS.iter().find(|(dialect, _)| *dialect == c.dialect)?.1[0];
        Some(&file.tensors.get(&format!("{}{anchor}", c.prefix))?.place)
    };
    place(a) == place(b)
}

/// A candidate's tensors under our names, with queries, keys and values concatenated.
fn collect(file: &Checkpoint, from: &Candidate) -> BTreeMap<String, Source> {
    let mut parts = BTreeMap::<String, Source>::new();
    let mut thirds = BTreeMap::<String, [Option<(&String, &Vec<usize>)>; 3]>::new();
    for (full, tensor) in &file.tensors {
        let Some((name, third)) = full.strip_prefix(&from.prefix).and_then(|name| ours(from.dialect, name)) else { continue };
        match third {
            None => drop(parts.insert(name, Source { shape: tensor.shape.clone(), parts: vec![full.clone()], scale: None })),
            Some(i) => thirds.entry(name).or_default()[i] = Some((full, &tensor.shape)),
        }
    }
    for (name, found) in thirds {
        // If one of the three is absent, the tensor counts as missing.
        let [Some(q), Some(k), Some(v)] = found else { continue };
        let mut shape = q.1.clone();
        if let Some(rows) = shape.first_mut().filter(|_| q.1 == k.1 && q.1 == v.1) {
            *rows = rows.saturating_mul(3);
            parts.insert(name, Source { shape, parts: [q, k, v].map(|part| part.0.clone()).into(), scale: None });
        }
    }
    parts
}

/// Every other tensor with its role. One inside the encoder without a role is an error, because ignoring it would change features silently.
fn leftovers(
    file: &Checkpoint,
    best: &Candidate,
    sources: &BTreeMap<String, Source>,
    candidates: &[Candidate],
) -> std::result::Result<Vec<Leftover>, Fault> {
    let used: BTreeSet<&str> = sources.values().flat_map(|s| s.parts.iter().chain(&s.scale)).map(String::as_str).collect();
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_string();
    let inside: BTreeSet<String> = used.iter().filter_map(|name| name.strip_prefix(&best.prefix)).map(first).collect();
    let mut list = vec![];
    for name in file.tensors.keys().filter(|name| !used.contains(name.as_str())) {
        let reason = reason(name, best, candidates);
        if let Some(rest) = name.strip_prefix(&best.prefix)
            && (reason == TensorRole::Other && inside.contains(&first(rest))
                || INSIDE.iter().any(|part| rest.split('.').any(|p| p == *part)))
        {
            return Err(format!("has a tensor `{name}` that these encoders lack; without it the features would be others"));
        }
        list.push(Leftover { name: name.clone(), reason });
    }
    Ok(list)
}

fn reason(name: &str, best: &Candidate, candidates: &[Candidate]) -> TensorRole {
    let parts: Vec<&str> = name.split('.').collect();
    let any = |words: &[&str]| parts.iter().any(|part| words.contains(part));
    let like = |words: &[&str]| parts.iter().any(|part| words.iter().any(|word| part.contains(word)));
    let below = name.strip_prefix(&best.prefix).unwrap_or_default().split('.').next().unwrap_or_default();
    if any(&["optimizer", "optimizer_states", "optimizers", "optim", "lr_schedulers", "scaler"]) {
        TensorRole::Optimizer
    } else if like(&["decoder"]) || any(&["mask_token"]) {
        TensorRole::Decoder
    } else if candidates.iter().any(|c| c.prefix != best.prefix && c.prefix.len() > best.prefix.len() && name.starts_with(&c.prefix)) {
        TensorRole::OtherEncoder
    } else if ["fc", "linear", "head", "heads", "classifier", "pooler", "pre_logits", "last_linear"].contains(&below) {
        // MoCo and SimSiam replace the classifier of `encoder` by their projector.
        if best.prefix.contains("encoder") { TensorRole::Projector } else { TensorRole::Classifier }
    } else if candidates.iter().any(|c| c.prefix != best.prefix && name.starts_with(&c.prefix)) && !name.starts_with(&best.prefix) {
        TensorRole::OtherEncoder
    } else if like(&["projector", "projection", "predictor", "prototypes"]) || any(&["head", "heads", "queue", "queue_ptr"]) {
        TensorRole::Projector
    } else if like(&["classifier"]) || any(&["fc", "linear"]) && !name.starts_with(&best.prefix) {
        TensorRole::Classifier
    } else if name.ends_with("num_batches_tracked") {
        TensorRole::Counter
    } else if like(&["loss", "center"]) {
        TensorRole::Loss
    } else {
        TensorRole::Other
    }
}

const MOCO_V3: &str = "MoCo v3";
const SOLO: &str = "solo-learn";

/// The library that writes files with such names.
fn wrapper(file: &Checkpoint, best: &Candidate) -> &'static str {
    let prefix: Vec<&str> = best.prefix.split('.').collect();
    let any = |words: &[&str]| prefix.iter().any(|part| words.contains(part));
    let held = |word: &str| file.tensors.keys().any(|name| name.contains(word));
    let lightning = file.keys.iter().any(|key| key.starts_with("pytorch-lightning"));
    match best.dialect {
        Dialect::HfResnet | Dialect::HfVit if held("decoder.decoder_") => "Hugging Face ViTMAE",
        Dialect::HfResnet | Dialect::HfVit => "Hugging Face transformers",
        Dialect::TorchvisionVit => "torchvision",
        _ if any(&["_feature_blocks"]) => "VISSL",
        _ if any(&["encoder_q"]) => "MoCo v1 or v2",
        _ if any(&["base_encoder"]) || held("base_encoder.") => MOCO_V3,
        _ if any(&["teacher", "student"]) => "DINO",
        _ if any(&["net"]) => "DejaVu",
        Dialect::Timm if held("decoder_") => "MAE",
        _ if any(&["encoder"]) && held(".predictor.") => "SimSiam",
        _ if any(&["backbone"]) && lightning && held("momentum_backbone") => SOLO,
        _ if any(&["backbone"]) && lightning && (held("projection_head") || matches!(best.dialect, Dialect::Numbered { .. })) => "lightly",
        _ if any(&["backbone", "encoder"]) && lightning => SOLO,
        _ if any(&["backbone"]) && held(".projector.") && held(".bn.running_mean") => "Barlow Twins",
        _ if any(&["backbone"]) && held(".projector.") => "VICReg",
        _ if any(&["backbone"]) => "lightly",
        Dialect::Numbered { .. } => "a torchvision ResNet in an nn.Sequential",
        Dialect::Timm if any(&["state_dict_ema", "model_ema", "state_dict", "model"]) => "timm or MAE",
        Dialect::Timm => "timm",
        _ if file.metadata.contains_key("sslmem") => "sslmem",
        _ if any(&["state_dict", "model", "module", "_orig_mod"]) => "a state_dict in a wrapper",
        _ => "torchvision",
    }
}

impl EncoderLayout {
    /// The elements of one of [`EncoderLayout::sources`], row by row.
    ///
    /// # Errors
    /// As [`Checkpoint::values`].
    pub fn values(&self, file: &Checkpoint, name: &str) -> Result<Vec<f32>> {
        let Some(source) = self.sources.get(name) else {
            return Err(Error::format(file.path(), format!("has no tensor `{name}`")));
        };
        let mut values = vec![];
        for part in &source.parts {
            values.extend(file.values(part)?);
        }
        if let Some(scale) = &source.scale {
            // x + scale * (W h + b): the same as with scale * W and scale * b.
            let columns = source.shape[1..].iter().product();
            for (row, factor) in values.chunks_exact_mut(columns).zip(file.values(scale)?) {
                row.iter_mut().for_each(|v| *v *= factor);
            }
        }
        Ok(values)
    }

    /// The metadata of our own files for such an encoder.
    pub fn facts(&self) -> BTreeMap<String, String> {
        let text = |value: Option<&str>| value.map(String::from);
        let number = |value: Option<usize>| value.map(|n| n.to_string());
        let facts = [
            ("arch", Some(self.arch.to_string())),
            ("stem", text(self.stem)),
            ("patch", number(self.patch)),
            ("positions", text(self.positions)),
            ("trained_size", number(self.trained_size)),
            ("heads", number(self.heads)),
        ];
        facts.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect()
    }
}

/// Known and unknown settings of a file's encoder.
pub struct Identity {
    /// `None` if the file has no known encoder.
    pub layout: Option<EncoderLayout>,
    /// Settings by name, as in [`crate::weights::Weights::save`]. Later sources win: the tensors, the configs beside the file, its own
    /// metadata.
    pub facts: BTreeMap<String, String>,
    /// Settings taken from the habits of the library that wrote the file: recipe key and description.
    pub guesses: Vec<(&'static str, String)>,
    /// Settings that the user must give: recipe key and reason.
    pub unclear: Vec<(&'static str, String)>,
    /// Unknown keys in the configs beside the file.
    pub unknown: Vec<String>,
}

impl Checkpoint {
    /// The encoder in the file and its settings.
    ///
    /// # Errors
    /// There is no encoder; its architecture is unknown by its tensors or by the configs beside the file; or it has tensors that would have
    /// to be ignored.
    pub fn identify(&self) -> Result<Identity> {
        self.refuse_heads()?;
        let own = self.metadata.contains_key("arch");
        let Settings { encoder, images, refused, unclear, unknown } = if own { Settings::default() } else { settings(&self.path) };
        if let Some(why) = refused {
            return Err(Error::format(&self.path, why));
        }
        let heads = self.metadata.get("heads").or(encoder.get("heads")).and_then(|heads| heads.parse().ok());
        let layout = recognise(self, heads)?;
        if layout.is_none() && !self.is_ours() {
            return Err(self.unknown());
        }
        let mut facts = layout.as_ref().map(EncoderLayout::facts).unwrap_or_default();
        facts.extend(encoder.into_iter().chain(images).map(|(key, value)| (key.to_string(), value)));
        facts.extend(self.metadata.iter().map(|(key, value)| (key.clone(), value.clone())));
        let (guesses, hidden) = layout.as_ref().map(|layout| (layout.guesses.clone(), layout.unclear.clone())).unwrap_or_default();
        let unclear = unclear.map(|why| ("encoder.resize", why)).into_iter().chain(hidden).filter(|_| !own).collect();
        let guesses = if own { vec![] } else { guesses };
        Ok(Identity { layout, facts, guesses, unclear, unknown })
    }

    /// The method whose heads these are; `None` if the file is not of heads.
    pub fn heads(&self) -> Option<&str> {
        self.metadata.get("heads_of").map(String::as_str)
    }

    /// Refuses a file of heads, which has no encoder.
    ///
    /// # Errors
    /// `Format`, if these are heads.
    pub fn refuse_heads(&self) -> Result<()> {
        let Some(method) = self.heads() else { return Ok(()) };
        let encoder = self.metadata.get("encoder").map_or("the file beside it", String::as_str);
        let what = format!("holds the heads that {method} trained, not the encoder below them; name {encoder} instead");
        Err(Error::format(&self.path, what))
    }

    /// The error that the file has no known encoder.
    pub fn unknown(&self) -> Error {
        let first = self.tensors.keys().next().map(|name| format!(", the first `{name}`")).unwrap_or_default();
        let what = format!("holds no encoder that is known here ({} tensors{first}); see `sslmem show encoders`", self.tensors.len());
        Error::format(&self.path, what)
    }

    /// Whether our own training wrote the file. Its tensors have our names already, and some have types that encoders lack (U32, U8).
    pub fn is_ours(&self) -> bool {
        self.metadata.contains_key("identity")
            || self.tensors.values().any(|t| matches!(t.dtype, Dtype::U32 | Dtype::U8)) && self.format == super::Format::Safetensors
    }
}
