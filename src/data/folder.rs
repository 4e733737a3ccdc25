//! A folder of image files, ordered and labelled as torchvision's `ImageFolder` does it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::error::{Error, Result};

use super::decode;
use super::section::{self, Section};
use super::{Image, Source};

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
    largest: OnceLock<usize>,
}

/// An image file that was listed.
struct File {
    /// Path below the root, with `/`.
    id: String,
    label: Option<u32>,
    length: u64,
}

impl Folder {
    /// Lists the folders and asks for the length of every file, in parallel; no file is read, so the digest covers ids, lengths and
    /// classes, not the content.
    ///
    /// # Errors
    /// No such folder, no image in it, images beside class folders, names that are not UTF-8, a file that is there in name only.
    pub fn open(root: impl AsRef<Path>) -> Result<Folder> {
        let root = root.as_ref();
        let listed = list(root)?;
        let has = |name: &str| listed.folders.iter().any(|f| f == name);
        let test = ["test", "val", "validation"].into_iter().find(|name| has(name));
        let parts = match test {
            Some(test) if has("train") => vec![part(root, "train")?, part(root, test)?],
            None if listed.files.is_empty() && listed.folders.len() == 1 && has("train") => vec![part(root, "train")?],
            _ => vec![part(root, "")?],
        };
        // A class folder without an image is no class.
        let with_images = parts.iter().flatten().filter(|(_, files)| !files.is_empty());
        let mut classes: Vec<String> = with_images.filter_map(|(class, _)| class.clone()).collect();
        classes.sort_unstable();
        classes.dedup();
        let train = parts[0].iter().map(|(_, files)| files.len()).sum();
        if train == 0 {
            return Err(Error::format(root, "has no image for training in it"));
        }
        let label = |class: Option<String>| class.and_then(|class| classes.binary_search(&class).ok()).map(|at| at as u32);
        let of_class = |(class, files): (Option<String>, Vec<File>)| {
            let label = label(class);
            files.into_iter().map(move |file| File { label, ..file })
        };
        let files: Vec<File> = parts.into_iter().flatten().flat_map(of_class).collect();
        let digest = section::digest("folder", train, &classes, files.iter().map(|f| (&f.id[..], f.length, f.label)));
        Ok(Folder { root: root.to_path_buf(), files, train, classes, digest, largest: OnceLock::new() })
    }

    fn section(&self, index: usize) -> Section {
        let File { id, length, .. } = &self.files[index];
        Section::whole(self.root.join(id), *length)
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
    /// Asked for the first time, it reads the beginning of every file.
    fn largest(&self) -> usize {
        *self.largest.get_or_init(|| section::largest(self.files.len(), |index| (self.section(index), self.files[index].id.clone())))
    }
    fn image(&self, index: usize) -> Result<Image> {
        Ok(self.image_and_content(index)?.0)
    }
    fn image_and_content(&self, index: usize) -> Result<(Image, Option<blake3::Hash>)> {
        let (image, content) = self.section(index).image_and_content(&self.files[index].id)?;
        if self.largest.get().is_some_and(|&largest| image.pixels.len() > largest) {
            return Err(Error::format(self.root.join(&self.files[index].id), "the file was exchanged while it was in use"));
        }
        Ok((image, content))
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.section(index).read().map(Some)
    }
}

/// The files of one part: by class, or of no class, in torchvision's order.
type Groups = Vec<(Option<String>, Vec<File>)>;

fn part(root: &Path, name: &str) -> Result<Groups> {
    let folder = root.join(name);
    let Listed { folders, files } = list(&folder)?;
    let of_class = |class: OsString| {
        let class = utf8(&folder, class)?;
        let mut files = Vec::new();
        walk(root, &join(name, &class), DEPTH, &mut files)?;
        // os.walk's folders sort as whole strings, then the names within each.
        files.sort_unstable_by(|a, b| a.id.rsplit_once('/').cmp(&b.id.rsplit_once('/')));
        Ok((Some(class), files))
    };
    let in_classes: Vec<Result<_>> = folders.into_par_iter().map(of_class).collect();
    let in_classes = in_classes.into_iter().collect::<Result<Groups>>()?;
    let loose = files.into_iter().map(|(file, length)| Ok(File { id: join(name, &utf8(&folder, file)?), label: None, length }));
    let loose = loose.collect::<Result<Vec<_>>>()?;
    match (loose.first(), in_classes.iter().all(|(_, files)| files.is_empty())) {
        (None, _) => Ok(in_classes),
        (_, true) => Ok(vec![(None, loose)]),
        (Some(first), _) => {
            let what = format!("has images ({}) beside folders of images; put them into a folder or take them out", first.id);
            Err(Error::format(folder, what))
        }
    }
}

/// Every image below `folder`, at any depth.
fn walk(root: &Path, folder: &str, depth: usize, to: &mut Vec<File>) -> Result<()> {
    let path = root.join(folder);
    if depth == 0 {
        return Err(Error::format(path, format!("lies more than {DEPTH} folders deep; is there a link to a folder above?")));
    }
    let Listed { folders, files } = list(&path)?;
    for name in folders {
        walk(root, &join(folder, &utf8(&path, name)?), depth - 1, to)?;
    }
    for (name, length) in files {
        to.push(File { id: join(folder, &utf8(&path, name)?), label: None, length });
    }
    Ok(())
}

/// What a folder holds: names of the sub-folders, names and lengths of the image files, each sorted bytewise.
#[derive(Default)]
struct Listed {
    folders: Vec<OsString>,
    files: Vec<(OsString, u64)>,
}

/// Links are followed.
fn list(folder: &Path) -> Result<Listed> {
    let mut listed = Listed::default();
    for entry in fs::read_dir(folder).map_err(Error::io("open the folder", folder))? {
        let name = entry.map_err(Error::io("list the folder", folder))?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = folder.join(&name);
        match fs::metadata(&path) {
            Ok(kind) if kind.is_dir() => listed.folders.push(name),
            // Reading a pipe would wait for ever.
            Ok(kind) if !kind.is_file() => {}
            kind if decode::is_image(&name) => listed.files.push((name, kind.map_err(Error::io("read", &path))?.len())),
            _ => {}
        }
    }
    listed.folders.sort_unstable();
    listed.files.sort_unstable();
    Ok(listed)
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") }
}

/// Ids are text, so a name must be text.
fn utf8(folder: &Path, name: OsString) -> Result<String> {
    name.into_string().map_err(|name| Error::format(folder.join(name), "the name is not UTF-8; rename it"))
}
