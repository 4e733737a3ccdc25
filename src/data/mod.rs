//! Data sets: decoded 8-bit images by index, from many threads, with labels and ids.

mod bad;
mod budget;
mod cifar;
mod columns;
mod content;
mod decodable;
mod decode;
mod folder;
mod gif;
mod grouping;
mod jpeg;
mod json;
mod labels;
mod left_out;
mod limits;
mod list;
mod matlab;
mod mnist;
pub mod pack;
mod packed;
mod parquet;
mod pattern;
mod planes;
mod read;
mod reading;
mod section;
mod shards;
mod source;
mod stl10;
mod svhn;
mod synthetic;
mod tar;
mod webdataset;

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

pub use bad::few_bad;
pub use budget::{Budget, DECODING, Loan, reserve};
pub use cifar::Cifar;
pub use content::Content;
pub use decodable::decodable_digest;
pub use decode::decode;
pub use folder::Folder;
pub use limits::{LIMIT, PIXELS};
pub use list::List;
pub use pack::Pack;
pub use parquet::Parquet;
pub use reading::{Exif, Reading};
pub use source::{Image, SampleKind, Source, class_count};
pub use stl10::Stl10;
pub use synthetic::Synthetic;
pub use webdataset::WebDataset;

/// Treatment of an image that cannot be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadImage {
    /// Stop at the image with an error that names the file.
    #[default]
    Fail,
    /// Decode every image on opening and leave the bad ones out; see [`Source::skipped`].
    Skip,
}

impl FromStr for OnBadImage {
    type Err = Error;
    fn from_str(text: &str) -> Result<OnBadImage> {
        match text {
            "fail" => Ok(OnBadImage::Fail),
            "skip" => Ok(OnBadImage::Skip),
            _ => Err(Error::config(format!("`{text}` is no way to treat a bad image"), "use `fail` or `skip`")),
        }
    }
}

/// A kind of data set: its syntax, and the function that opens it.
pub struct Dataset {
    pub name: &'static str,
    pub about: &'static str,
    pub example: &'static str,
    /// Whether its images are files, which can be bad individually.
    of_files: bool,
    /// Opens a data set from the REST of `NAME:REST`.
    open: fn(&str) -> Result<Box<dyn Source>>,
}

/// Every kind of data set.
pub static DATASETS: [Dataset; 11] = [
    Dataset {
        name: "cifar10",
        about: "CIFAR-10, the folder with the official binary version (data_batch_1.bin ... test_batch.bin)",
        example: "cifar10:data/cifar10",
        of_files: false,
        open: |rest| Ok(Box::new(Cifar::cifar10(rest)?)),
    },
    Dataset {
        name: "cifar100",
        about: "CIFAR-100 with fine labels, the folder with the official binary version (train.bin, test.bin)",
        example: "cifar100:data/cifar100",
        of_files: false,
        open: |rest| Ok(Box::new(Cifar::cifar100(rest)?)),
    },
    Dataset {
        name: "svhn",
        about: "SVHN, the folder with train_32x32.mat and test_32x32.mat; `+extra` adds extra_32x32.mat to the training part",
        example: "svhn:data/svhn",
        of_files: false,
        open: |rest| Ok(Box::new(svhn::open(rest)?)),
    },
    Dataset {
        name: "stl10",
        about: "STL-10, the folder with the official binary version (train_X.bin ... unlabeled_X.bin, whose images have no label)",
        example: "stl10:data/stl10",
        of_files: false,
        open: |rest| Ok(Box::new(Stl10::open(rest)?)),
    },
    Dataset {
        name: "mnist",
        about: "MNIST, the folder with the four IDX files, plain or .gz, grey in three equal channels",
        example: "mnist:data/mnist",
        of_files: false,
        open: |rest| Ok(Box::new(mnist::open(rest)?)),
    },
    Dataset {
        name: "folder",
        about: "a folder of images (torchvision's endings), flat or with a sub-folder per class, optionally below train and test (or val)",
        example: "folder:data/photos",
        of_files: true,
        open: |rest| Ok(Box::new(Folder::open(rest)?)),
    },
    Dataset {
        name: "list",
        about: "a text file with one image path per line, from its folder on, and behind it a label: a number after a tab or a comma, or a class after a tab",
        example: "list:data/candidates.txt",
        of_files: true,
        open: |rest| Ok(Box::new(List::open(rest)?)),
    },
    Dataset {
        name: "webdataset",
        about: "tar files whose members of one name are a sample: {000..146}, a,b, * and ? name several, a folder means all its .tar",
        example: "webdataset:data/imagenet-train-{000000..000146}.tar",
        of_files: true,
        open: |rest| {
            let cache = files::cache_folder(|name| std::env::var(name).ok());
            Ok(Box::new(WebDataset::open(rest, cache.as_deref())?))
        },
    },
    Dataset {
        name: "parquet",
        about: "Parquet files as on Hugging Face, `image` with bytes and `label`; patterns as for webdataset, a folder means all its .parquet",
        example: "parquet:data/imagenet-1k/train-*.parquet",
        of_files: true,
        open: |rest| Ok(Box::new(Parquet::open(rest)?)),
    },
    Dataset {
        name: "packed",
        about: "one file that `sslmem pack` made of any of these: nothing left to decode, or the image files themselves",
        example: "packed:data/imagenet256.pack",
        of_files: true,
        open: |rest| Ok(Box::new(Pack::open(rest)?)),
    },
    Dataset {
        name: "synthetic",
        about: "N procedural training images (and N/5 test images) with planted rare and atypical ones, from a seed",
        example: "synthetic:1000@7",
        of_files: false,
        open: |rest| Ok(Box::new(Synthetic::parse(rest)?)),
    },
];

/// Opens a data set by its specification `NAME:REST`, with the default [`Reading`].
///
/// # Errors
/// As [`Reading::open`].
pub fn open(spec: &str, on_bad: OnBadImage) -> Result<Box<dyn Source>> {
    Exif::Ignore.open(spec, on_bad)
}

/// The kind of data set in a specification, and the text after the colon.
fn find(spec: &str) -> Result<(&'static Dataset, &str)> {
    let (name, rest) = spec.split_once(':').unwrap_or((spec, ""));
    let Some(dataset) = DATASETS.iter().find(|d| d.name == name) else {
        return Err(Error::config(format!("`{spec}` names no data set"), remedy(spec, name)));
    };
    if rest.is_empty() {
        let remedy = format!("write it like `{}` ({})", dataset.example, dataset.about);
        return Err(Error::config(format!("`{spec}` does not say which data to open"), remedy));
    }
    Ok((dataset, rest))
}

/// Advice for a kind that does not exist.
fn remedy(spec: &str, name: &str) -> String {
    if Path::new(spec).is_dir() {
        return format!("for a folder of images write `folder:{spec}`");
    }
    let nearest = DATASETS.iter().map(|d| (strsim::damerau_levenshtein(d.name, &name.to_lowercase()), d)).min_by_key(|(far, _)| *far);
    match nearest {
        Some((far, d)) if far <= 3 => format!("did you mean `{}`, as in `{}`?", d.name, d.example),
        _ => format!("use one of {}", DATASETS.iter().map(|d| format!("`{}`", d.example)).collect::<Vec<_>>().join(", ")),
    }
}
