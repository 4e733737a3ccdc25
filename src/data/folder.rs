//! A folder of image files, ordered and labelled as torchvision's `ImageFolder` does it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};

use super::decode::{self, LIMIT};
use super::{Image, OnBadImage, Source};

/// Folders below folders; more than this is a link to a parent.
const DEPTH: usize = 32;

/// Images in class sub-folders or flat; only paths, sizes and labels are in memory.
///
/// With sub-folders `train` and `test` (or `val`, or `validation`: the first of these that exists) these
/// are the two parts and nothing else is read; without them everything is the training part. Each part is either flat (no labels) or has
/// one sub-folder per class, in which images may lie at any depth. Labels number the class names of both
/// parts in bytewise order. Names that begin with a dot and files that do not end like an image are
/// passed over. EXIF orientation is not applied.
pub struct Folder {
    root: PathBuf,
    files: Vec<File>,
    train: usize,
    classes: Vec<String>,
    digest: String,
    largest: usize,
    skipped: Vec<(String, String)>,
}

struct File {
    /// Path below the root, with `/`.
    id: String,
    label: Option<u32>,
}

/// What a first look at a file's content tells.
struct Look {
    bytes: usize,
    length: u64,
    hash: blake3::Hash,
}

impl Folder {
    /// Reads every file once, in parallel, because the digest covers all of their content: opening takes as
    /// long as the disk needs for that. With `Skip` every image is decoded as well.
    ///
    /// # Errors
    /// No such folder, no image in it, images beside class folders, names that are not UTF-8; with `Fail`
    /// the first file whose header cannot be read.
    pub fn open(root: impl AsRef<Path>, on_bad: OnBadImage) -> Result<Folder> {
        let root = root.as_ref();
        let (folders, files) = list(root)?;
        let has = |name: &str| folders.iter().any(|f| f == name);
        let test = ["test", "val", "validation"].into_iter().find(|name| has(name));
        let parts = match test {
            Some(test) if has("train") => vec![part(root, "train")?, part(root, test)?],
            None if files.is_empty() && folders.len() == 1 && has("train") => vec![part(root, "train")?],
            _ => vec![part(root, "")?],
        };
        let mut classes: Vec<String> = parts.iter().flatten().filter_map(|(_, class)| class.clone()).collect();
        classes.sort_unstable();
        classes.dedup();
        let label = |class: Option<String>| class.and_then(|c| classes.binary_search(&c).ok()).map(|at| at as u32);

        let mut source = Folder {
            root: root.to_path_buf(),
            files: Vec::new(),
            train: 0,
            classes: Vec::new(),
            digest: String::new(),
            largest: 0,
            skipped: Vec::new(),
        };
        let mut digest = blake3::Hasher::new();
        for (number, paths) in parts.into_iter().enumerate() {
            let looks: Vec<Result<Look>> = paths.par_iter().map(|(id, _)| look(root, id, on_bad)).collect();
            for ((id, class), look) in paths.into_iter().zip(looks) {
                match (look, on_bad) {
                    (Ok(look), _) => {
                        source.largest = source.largest.max(look.bytes);
                        digest.update(&(id.len() as u64).to_le_bytes()).update(id.as_bytes());
                        digest.update(&look.length.to_le_bytes()).update(look.hash.as_bytes());
                        source.files.push(File { id, label: label(class) });
                    }
                    (Err(error), OnBadImage::Fail) => return Err(error),
                    (Err(Error::Format { what, .. }), OnBadImage::Skip) => source.skipped.push((id, what)),
                    (Err(error), OnBadImage::Skip) => source.skipped.push((id, error.to_string())),
                }
            }
            if number == 0 {
                source.train = source.files.len();
            }
        }
        if source.train == 0 {
            let what = match source.skipped.len() {
                0 => "has no image for training in it".to_string(),
                bad => format!("has no image for training that can be decoded ({bad} cannot)"),
            };
            return Err(Error::format(root, what));
        }
        digest.update(&(source.train as u64).to_le_bytes());
        source.digest = digest.finalize().to_hex().to_string();
        source.classes = classes;
        Ok(source)
    }
}

impl Source for Folder {
    fn name(&self) -> &str {
        "folder"
    }
    fn len(&self) -> usize {
        self.files.len()
    }
    fn train_len(&self) -> usize {
        self.train
    }
    fn id(&self, index: usize) -> String {
        self.files[index].id.clone()
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.files[index].label
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn digest(&self) -> &str {
        &self.digest
    }
    fn largest(&self) -> usize {
        self.largest
    }
    /// # Errors
    /// The file cannot be read, is not an image, or grew since the folder was opened; the error names it.
    fn image(&self, index: usize) -> Result<Image> {
        let path = self.root.join(&self.files[index].id);
        let image = decode::decode(&read(&path)?, &self.files[index].id).map_err(|what| Error::format(&path, what))?;
        if image.pixels.len() > self.largest {
            return Err(Error::format(&path, "the file was exchanged while it was in use"));
        }
        Ok(image)
    }
    fn skipped(&self) -> &[(String, String)] {
        &self.skipped
    }
}

/// Read one file, for its size and digest and, where bad ones are to be skipped, for whether it decodes.
fn look(root: &Path, id: &str, on_bad: OnBadImage) -> Result<Look> {
    let path = root.join(id);
    let content = read(&path)?;
    let size = match on_bad {
        OnBadImage::Fail => decode::size(&content, id),
        OnBadImage::Skip => decode::decode(&content, id).map(|image| (image.height, image.width)),
    };
    let (height, width) = size.map_err(|what| Error::format(&path, what))?;
    Ok(Look { bytes: height * width * 3, length: content.len() as u64, hash: blake3::hash(&content) })
}

/// A whole file, unless it is too large to be an image.
fn read(path: &Path) -> Result<Vec<u8>> {
    let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
    if length > LIMIT {
        return Err(Error::format(path, format!("has {length} bytes, more than the {} MiB that an image may have", LIMIT >> 20)));
    }
    fs::read(path).map_err(Error::io("read", path))
}

/// The images of one part: (path below the root, class), in torchvision's order.
fn part(root: &Path, name: &str) -> Result<Vec<(String, Option<String>)>> {
    let folder = root.join(name);
    let (folders, files) = list(&folder)?;
    let mut images = Vec::new();
    let mut in_classes = Vec::new();
    for class in folders {
        let class = utf8(&folder, class)?;
        let mut paths = Vec::new();
        walk(root, &join(name, &class), DEPTH, &mut paths)?;
        // os.walk's folders sort as whole strings, then the names within each.
        paths.sort_unstable_by(|a, b| a.rsplit_once('/').cmp(&b.rsplit_once('/')));
        in_classes.extend(paths.into_iter().map(|path| (path, Some(class.clone()))));
    }
    for file in files {
        images.push((join(name, &utf8(&folder, file)?), None));
    }
    match (images.is_empty(), in_classes.is_empty()) {
        (true, _) => Ok(in_classes),
        (_, true) => Ok(images),
        _ => {
            let what = format!("has images ({}) beside folders of images; put them into a folder or take them out", images[0].0);
            Err(Error::format(folder, what))
        }
    }
}

/// Every image below `folder`, at any depth.
fn walk(root: &Path, folder: &str, depth: usize, to: &mut Vec<String>) -> Result<()> {
    let path = root.join(folder);
    if depth == 0 {
        return Err(Error::format(path, format!("lies more than {DEPTH} folders deep; is there a link to a folder above?")));
    }
    let (folders, files) = list(&path)?;
    for name in folders {
        walk(root, &join(folder, &utf8(&path, name)?), depth - 1, to)?;
    }
    for name in files {
        to.push(join(folder, &utf8(&path, name)?));
    }
    Ok(())
}

/// Names of the sub-folders and of the image files, links followed, each sorted bytewise.
fn list(folder: &Path) -> Result<(Vec<OsString>, Vec<OsString>)> {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(Error::io("open the folder", folder))? {
        let name = entry.map_err(Error::io("list the folder", folder))?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match fs::metadata(folder.join(&name)) {
            Ok(kind) if kind.is_dir() => folders.push(name),
            // Reading a pipe would wait for ever.
            Ok(kind) if !kind.is_file() => {}
            _ if decode::is_image(&name) => files.push(name),
            _ => {}
        }
    }
    folders.sort_unstable();
    files.sort_unstable();
    Ok((folders, files))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") }
}

/// Ids are text, so a name must be text.
fn utf8(folder: &Path, name: OsString) -> Result<String> {
    name.into_string().map_err(|name| Error::format(folder.join(name), "the name is not UTF-8; rename it"))
}
