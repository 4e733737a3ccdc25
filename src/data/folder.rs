//! A folder of image files, ordered and labelled as torchvision's `ImageFolder` does it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::files;

use super::left_out::LeftOut;
use super::section::{self, Section};
use super::{Image, Source, decode};

/// torchvision's `IMG_EXTENSIONS`, in upper or lower case. Further endings would change rows and class numbers.
const ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// Deepest nesting of folders.
const DEPTH: usize = 32;

/// Most folders reached through links. A few folders that link to each other have exponentially many paths.
const LINKED: usize = 1 << 16;

/// Images in class sub-folders or flat; only paths, sizes and labels are in memory.
///
/// Sub-folders `train` and `test` (or `val`, or `validation`: the first that exists) are the two parts, and nothing else is read. Without
/// them everything is the training part. A part is either flat (no labels) or has one sub-folder per class, with images at any depth.
/// Labels number the class names of both parts in bytewise order. Names that begin with a dot and files without an ending of `ImageFolder`
/// are skipped; those with the ending of another image format are listed in [`Source::left_out`]. Links are followed; a broken link is an
/// image that cannot be read. EXIF orientation is not applied.
pub struct Folder {
    root: PathBuf,
    files: Vec<File>,
    train: usize,
    classes: Vec<String>,
    left_out: Vec<(String, String)>,
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
    /// Lists the folders and file lengths in parallel. No file is read, so the digest covers ids, lengths and classes, not the content.
    ///
    /// # Errors
    /// No such folder, no image in it, images beside class folders, names that are not UTF-8, links that lead back to a folder above.
    pub fn open(root: impl AsRef<Path>) -> Result<Folder> {
        let root = root.as_ref();
        let listed = list(root)?;
        let walk = Walk { root, linked: AtomicUsize::new(0) };
        let has = |name: &str| listed.folders.iter().any(|(folder, _)| folder == name);
        let test = ["test", "val", "validation"].into_iter().find(|name| has(name));
        let parts = match test {
            Some(test) if has("train") => vec![walk.part("train")?, walk.part(test)?],
            None if listed.files.is_empty() && listed.folders.len() == 1 && has("train") => vec![walk.part("train")?],
            _ => vec![walk.part("")?],
        };
        let mut left_out = LeftOut::default();
        for id in parts.iter().flat_map(|(_, others)| others) {
            left_out.add(id, "ImageFolder does not read images with this ending; a `list:` can name them");
        }
        let others = parts.iter().map(|(_, others)| others.len()).sum::<usize>();
        let parts: Vec<Groups> = parts.into_iter().map(|(groups, _)| groups).collect();
        // A class folder without an image is no class.
        let with_images = parts.iter().flatten().filter(|(_, files)| !files.is_empty());
        let mut classes: Vec<String> = with_images.filter_map(|(class, _)| class.clone()).collect();
        classes.sort_unstable();
        classes.dedup();
        let train = parts[0].iter().map(|(_, files)| files.len()).sum();
        if train == 0 {
            let endings = ENDINGS.map(|ending| format!(".{ending}")).join(" ");
            let more =
                if others > 0 { format!("; {others} files have endings of other images, which a `list:` can name") } else { String::new() };
            return Err(Error::format(root, format!("has no image for training in it, no file that ends in {endings}{more}")));
        }
        let label = |class: Option<String>| class.and_then(|class| classes.binary_search(&class).ok()).map(|at| at as u32);
        let of_class = |(class, files): (Option<String>, Vec<File>)| {
            let label = label(class);
            files.into_iter().map(move |file| File { label, ..file })
        };
        let files: Vec<File> = parts.into_iter().flatten().flat_map(of_class).collect();
        let digest = section::digest("folder", train, &classes, files.iter().map(|f| (&f.id[..], f.length, f.label)));
        let left_out = left_out.list("other files");
        Ok(Folder { root: root.to_path_buf(), files, train, classes, left_out, digest, largest: OnceLock::new() })
    }

    fn section(&self, index: usize) -> Section {
        let File { id, length, .. } = &self.files[index];
        Section::whole(self.root.join(id), *length)
    }

    /// An error if the image exceeds the source's largest size, once that is known: the file was exchanged, and a batch has no room for it.
    fn unchanged(&self, index: usize, image: Image) -> Result<Image> {
        if self.largest.get().is_some_and(|&largest| image.pixels.len() > largest) {
            return Err(Error::format(self.root.join(&self.files[index].id), "the file was exchanged while it was in use"));
        }
        Ok(image)
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
    /// The first call reads the header of every file.
    fn largest(&self) -> usize {
        *self.largest.get_or_init(|| section::largest(self.files.len(), |index| (self.section(index), self.files[index].id.clone())))
    }
    fn image(&self, index: usize) -> Result<Image> {
        self.unchanged(index, self.section(index).image(&self.files[index].id)?)
    }
    fn image_within(&self, index: usize, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        let image = self.section(index).image_within(&self.files[index].id, admit)?;
        image.map(|(image, content)| Ok((self.unchanged(index, image)?, content))).transpose()
    }
    fn file(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.section(index).read().map(Some)
    }
    fn left_out(&self) -> &[(String, String)] {
        &self.left_out
    }
}

/// The files of one part: by class, or of no class, in torchvision's order.
type Groups = Vec<(Option<String>, Vec<File>)>;

/// State of a walk through the folders below one.
struct Walk<'a> {
    root: &'a Path,
    /// Folders reached through links so far.
    linked: AtomicUsize,
}

/// Contents below a folder: images, and the ids of images with other endings.
#[derive(Default)]
struct Found {
    files: Vec<File>,
    others: Vec<String>,
}

impl Walk<'_> {
    /// The classes of a part, and the ids of images with other endings.
    fn part(&self, name: &str) -> Result<(Groups, Vec<String>)> {
        let folder = self.root.join(name);
        let Listed { folders, files, others } = list(&folder)?;
        let of_class = |(class, link): (OsString, bool)| {
            let class = utf8(&folder, class)?;
            let mut found = Found::default();
            self.below(&join(name, &class), link, DEPTH, &mut found)?;
            // os.walk's folders sort as whole strings, then the names within each.
            found.files.sort_unstable_by(|a, b| a.id.rsplit_once('/').cmp(&b.id.rsplit_once('/')));
            Ok((class, found))
        };
        let in_classes: Vec<Result<_>> = folders.into_par_iter().map(of_class).collect();
        let id = |file| Ok(join(name, &utf8(&folder, file)?));
        let mut others = others.into_iter().map(id).collect::<Result<Vec<_>>>()?;
        let mut classes = Groups::new();
        for class in in_classes {
            let (class, found) = class?;
            others.extend(found.others);
            classes.push((Some(class), found.files));
        }
        let loose = files.into_iter().map(|(file, length)| Ok(File { id: id(file)?, label: None, length }));
        let loose = loose.collect::<Result<Vec<_>>>()?;
        match (loose.first(), classes.iter().all(|(_, files)| files.is_empty())) {
            (None, _) => Ok((classes, others)),
            (_, true) => Ok((vec![(None, loose)], others)),
            (Some(first), _) => {
                let what = format!("has images ({}) beside folders of images; put them into a folder or take them out", first.id);
                Err(Error::format(folder, what))
            }
        }
    }

    /// Every image below `folder`, at any depth. `linked` if a link leads there.
    fn below(&self, folder: &str, linked: bool, depth: usize, to: &mut Found) -> Result<()> {
        let path = self.root.join(folder);
        if depth == 0 {
            return Err(Error::format(path, format!("lies more than {DEPTH} folders deep")));
        }
        if linked && self.linked.fetch_add(1, Ordering::Relaxed) >= LINKED {
            return Err(Error::format(
                path,
                format!("is one of more than {LINKED} folders that are reached through links; do links lead in circles?"),
            ));
        }
        let Listed { folders, files, others } = list(&path)?;
        for (name, link) in folders {
            let name = utf8(&path, name)?;
            if link && leads_back(&path, &name) {
                return Err(Error::format(path.join(name), "is a link to a folder above it; remove it"));
            }
            self.below(&join(folder, &name), linked || link, depth - 1, to)?;
        }
        for (name, length) in files {
            to.files.push(File { id: join(folder, &utf8(&path, name)?), label: None, length });
        }
        for name in others {
            to.others.push(join(folder, &utf8(&path, name)?));
        }
        Ok(())
    }
}

/// Whether a link in `folder` leads to it or to one above.
fn leads_back(folder: &Path, link: &str) -> bool {
    let (here, there) = (fs::canonicalize(folder), fs::canonicalize(folder.join(link)));
    here.is_ok_and(|here| there.is_ok_and(|there| here.starts_with(there)))
}

/// Entries of a folder, each list sorted bytewise.
#[derive(Default)]
struct Listed {
    /// Names of folders, and whether they are links.
    folders: Vec<(OsString, bool)>,
    /// Names of images and their lengths; 0 for a broken link, which is an error when it is read.
    files: Vec<(OsString, u64)>,
    /// Names of images that `ImageFolder` skips.
    others: Vec<OsString>,
}

/// Links are followed.
fn list(folder: &Path) -> Result<Listed> {
    let mut listed = Listed::default();
    for entry in fs::read_dir(folder).map_err(Error::io("open the folder", folder))? {
        let entry = entry.map_err(Error::io("list the folder", folder))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = folder.join(&name);
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match files::found(&path)? {
            Some(kind) if kind.is_dir() => listed.folders.push((name, entry.file_type().is_ok_and(|kind| kind.is_symlink()))),
            // A pipe is skipped, because reading one may wait for ever.
            Some(kind) if !kind.is_file() => {}
            kind if ENDINGS.contains(&&ending[..]) => listed.files.push((name, kind.map_or(0, |kind| kind.len()))),
            Some(_) if decode::is_image(&name) => listed.others.push(name),
            _ => {}
        }
    }
    listed.folders.sort_unstable();
    listed.files.sort_unstable();
    listed.others.sort_unstable();
    Ok(listed)
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") }
}

/// A name as text; ids are text, so other names are an error.
fn utf8(folder: &Path, name: OsString) -> Result<String> {
    name.into_string().map_err(|name| Error::format(folder.join(name), "the name is not UTF-8; rename it"))
}
