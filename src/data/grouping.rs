//! Groups the members of a tar file into samples.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Read;

use serde::{Deserialize, Serialize};

use super::labels::Label;
use super::left_out::LeftOut;
use super::tar::Member;
use super::{decode, json};

/// Largest member with a label, in bytes.
const LABEL: u64 = 1 << 20;

/// An image in a tar file: its location and label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub key: String,
    pub ending: String,
    pub offset: u64,
    pub size: u64,
    /// Checksum of its header, see [`Member::check`].
    pub check: u64,
    pub label: Option<Label>,
}

/// The samples so far, and the members of the open one.
#[derive(Default)]
pub struct Grouping {
    pub digest: blake3::Hasher,
    pub samples: Vec<Sample>,
    pub left_out: LeftOut,
    key: String,
    endings: HashSet<String>,
    images: Vec<(String, Member)>,              // the part of the name between the key and the last ending
    labels: Vec<(String, Option<Label>, bool)>, // the same; whether it is from `.cls`, which wins over `.json`
}

impl Grouping {
    /// # Errors
    /// The sample has two members of this name.
    pub fn add(&mut self, reader: &mut impl Read, member: Member) -> Result<(), String> {
        let base = member.name.rfind('/').map_or(0, |slash| slash + 1);
        let dot = member.name[base..].find('.').filter(|&dot| dot > 0).map(|dot| base + dot);
        if member.link {
            if decode::is_image(OsStr::new(&member.name)) {
                let reason = "this is a link inside the tar file; pack it with --hard-dereference and --dereference to have a copy there";
                self.left_out.add(member.name, reason);
            }
            return Ok(());
        }
        self.digest.update(&(member.name.len() as u64).to_le_bytes()).update(member.name.as_bytes());
        self.digest.update(&member.size.to_le_bytes()).update(&member.offset.to_le_bytes());
        let Some(dot) = dot.filter(|_| !is_about_the_shard(&member.name)) else { return Ok(()) };
        let (key, ending) = (&member.name[..dot], member.name[dot + 1..].to_lowercase());
        if key != self.key {
            self.close();
            self.key = key.to_string();
        }
        if !self.endings.insert(ending.clone()) {
            let at = member.offset;
            return Err(format!("the sample `{}` has two members that end in .{ending} (the second lies at offset {at})", self.key));
        }
        // Not in lower case, because it becomes part of a key.
        let behind = &member.name[dot + 1..];
        let (between, last) = behind.rsplit_once('.').unwrap_or(("", behind));
        let (between, last) = (between.to_string(), last.to_lowercase());
        if last == "cls" || last == "json" {
            let label = read_label(reader, &member, last == "cls").unwrap_or_else(|what| {
                self.left_out.add(&member.name, format!("the sample has no label: {what}"));
                None
            });
            Label::digest(&label, &mut self.digest);
            self.labels.push((between, label, last == "cls"));
        } else if decode::is_image(OsStr::new(&member.name)) {
            self.images.push((between, member));
        }
        Ok(())
    }

    /// Ends the open sample.
    pub fn close(&mut self) {
        let (key, images) = (std::mem::take(&mut self.key), std::mem::take(&mut self.images));
        let plain = images.iter().position(|(between, _)| between.is_empty());
        let taken = plain.map(|at| images[at].1.name.clone());
        for (at, (between, image)) in images.into_iter().enumerate() {
            if let Some(taken) = &taken
                && plain != Some(at)
            {
                self.left_out.add(image.name, format!("the sample has another image, {taken}, which is taken"));
                continue;
            }
            // The label of this image, or that of the whole sample.
            let of = |name: &str| {
                let own = self.labels.iter().filter(|(between, ..)| between == name);
                own.max_by_key(|(_, _, certain)| *certain).map(|(_, label, _)| label.clone())
            };
            let label = of(&between).or_else(|| of("")).flatten();
            let key = if between.is_empty() { key.clone() } else { format!("{key}.{between}") };
            let ending = image.name[key.len() + 1..].to_lowercase();
            self.samples.push(Sample { key, ending, offset: image.offset, size: image.size, check: image.check, label });
        }
        self.labels.clear();
        self.endings.clear();
    }
}

/// Whether the first part of the path is `__like_this__`, which WebDataset reserves for facts about the shard.
fn is_about_the_shard(name: &str) -> bool {
    let first = name.split('/').next().unwrap_or_default();
    first.len() > 4 && first.starts_with("__") && first.ends_with("__")
}

fn read_label(reader: &mut impl Read, member: &Member, is_text: bool) -> Result<Option<Label>, String> {
    if member.size > LABEL {
        return Err(format!("{} bytes are too many for one", member.size));
    }
    let mut bytes = vec![0; member.size as usize];
    reader.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    match is_text {
        true => Label::text(std::str::from_utf8(&bytes).map_err(|_| "this is not text (UTF-8)")?),
        false => json::label(&bytes),
    }
}
