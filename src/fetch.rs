//! Downloads of data sets: resumable, checked against the published checksums, unpacked member by member.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use flate2::read::GzDecoder;
use md5::{Digest, Md5};

use crate::error::{Error, Result};
use crate::files::{self, Writer};
use crate::progress::Progress;

/// A data set that can be downloaded.
pub struct Set {
    pub name: &'static str,
    pub about: &'static str,
    /// Its folder below `data`.
    pub folder: &'static str,
    /// Prefix and suffix of the folder in `--data`.
    pub spec: [&'static str; 2],
    pub files: &'static [Remote],
}

/// One file of it.
pub struct Remote {
    /// The address up to the file's name.
    pub base: &'static str,
    pub name: &'static str,
    pub bytes: u64,
    /// Checksum, as its authors or torchvision publish it.
    pub md5: &'static str,
    pub archive: Option<Archive>,
}

/// The members to unpack of a tar.gz: the folder, names and largest size of each.
pub struct Archive {
    pub folder: &'static str,
    pub members: &'static [(&'static str, u64)],
}

/// Largest text file in an archive, in bytes.
const TEXT: u64 = 64 << 10;
/// Bytes that an archive may hold beside the members.
const BESIDE: u64 = 16 << 20;

const TORONTO: &str = "https://www.cs.toronto.edu/~kriz/";
const HOUSENUMBERS: &str = "http://ufldl.stanford.edu/housenumbers/";
const MNIST: &str = "https://ossci-datasets.s3.amazonaws.com/mnist/";

const fn plain(base: &'static str, name: &'static str, bytes: u64, md5: &'static str) -> Remote {
    Remote { base, name, bytes, md5, archive: None }
}

const SVHN_TRAIN: Remote = plain(HOUSENUMBERS, "train_32x32.mat", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373");
const SVHN_TEST: Remote = plain(HOUSENUMBERS, "test_32x32.mat", 64_275_384, "eb5a983be6a315427106f1b164d9cef3");
const SVHN_EXTRA: Remote = plain(HOUSENUMBERS, "extra_32x32.mat", 1_329_278_602, "a93ce644f1a588dc4d68dda5feec44a7");

/// Every data set that can be downloaded.
pub const SETS: [Set; 6] = [
    Set {
        name: "cifar10",
        about: "CIFAR-10, binary version (170 MB)",
        folder: "cifar10",
        spec: ["cifar10:", ""],
        files: &[Remote {
            base: TORONTO,
            name: "cifar-10-binary.tar.gz",
            bytes: 170_052_171,
            md5: "c32a1d4ab5d03f1284b67883e8d87530",
            archive: Some(Archive {
                folder: "cifar-10-batches-bin",
                members: &[
                    ("batches.meta.txt", TEXT),
                    ("data_batch_1.bin", 30_730_000),
                    ("data_batch_2.bin", 30_730_000),
                    ("data_batch_3.bin", 30_730_000),
                    ("data_batch_4.bin", 30_730_000),
                    ("data_batch_5.bin", 30_730_000),
                    ("test_batch.bin", 30_730_000),
                ],
            }),
        }],
    },
    Set {
        name: "cifar100",
        about: "CIFAR-100, binary version (169 MB)",
        folder: "cifar100",
        spec: ["cifar100:", ""],
        files: &[Remote {
            base: TORONTO,
            name: "cifar-100-binary.tar.gz",
            bytes: 168_513_733,
            md5: "03b5dce01913d631647c71ecec9e9cb8",
            archive: Some(Archive {
                folder: "cifar-100-binary",
                members: &[("fine_label_names.txt", TEXT), ("train.bin", 153_700_000), ("test.bin", 30_740_000)],
            }),
        }],
    },
    Set {
        name: "svhn",
        about: "SVHN, cropped digits, training and test part (246 MB)",
        folder: "svhn",
        spec: ["svhn:", ""],
        files: &[SVHN_TRAIN, SVHN_TEST],
    },
    Set {
        name: "svhn-extra",
        about: "SVHN with its extra training part (1.6 GB)",
        folder: "svhn",
        spec: ["svhn:", "+extra"],
        files: &[SVHN_TRAIN, SVHN_TEST, SVHN_EXTRA],
    },
    Set {
        name: "stl10",
        about: "STL-10, binary version with the unlabelled part (2.6 GB)",
        folder: "stl10",
        spec: ["stl10:", ""],
        files: &[Remote {
            base: "http://ai.stanford.edu/~acoates/stl10/",
            name: "stl10_binary.tar.gz",
            bytes: 2_640_397_119,
            md5: "91f7769df0f17e558f3565bffb0c7dfb",
            archive: Some(Archive {
                folder: "stl10_binary",
                members: &[
                    ("train_X.bin", 138_240_000),
                    ("train_y.bin", 5_000),
                    ("test_X.bin", 221_184_000),
                    ("test_y.bin", 8_000),
                    ("unlabeled_X.bin", 2_764_800_000),
                ],
            }),
        }],
    },
    Set {
        name: "mnist",
        about: "MNIST (12 MB)",
        folder: "mnist",
        spec: ["mnist:", ""],
        files: &[
            plain(MNIST, "train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            plain(MNIST, "train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            plain(MNIST, "t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            plain(MNIST, "t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ],
    },
];

/// The set of this name.
///
/// # Errors
/// There is none; the error names the nearest or the way to get it.
pub fn find(name: &str) -> Result<&'static Set> {
    if let Some(set) = SETS.iter().find(|set| set.name == name) {
        return Ok(set);
    }
    if name.starts_with("imagenet") {
        let remedy = "get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org, unpack them to one folder per class below \
                      train and val, and use `folder:DIR`";
        return Err(Error::config("ImageNet cannot be downloaded without an account there", remedy));
    }
    let names = SETS.map(|set| set.name);
    let nearest = names.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, &name.to_lowercase()));
    let remedy = match nearest {
        Some(known) if strsim::damerau_levenshtein(known, &name.to_lowercase()) <= 2 => format!("did you mean `{known}`?"),
        _ => format!("choose one of {}", names.join(", ")),
    };
    Err(Error::config(format!("there is no download called `{name}`"), remedy))
}

/// Downloads the missing files of a set into `to`. `mirror` replaces the address up to the file's name. A stopped download resumes. An
/// existing file is checked like a new one. Unpacked members are checked by length, because nobody publishes their checksums.
///
/// # Errors
/// The network or the disk fails, or the server has another file; the received bytes stay in `NAME.part`, unless the checksum is wrong. An
/// existing file has another checksum or is a link. [`Error::Stopped`], with the received bytes kept.
pub fn fetch(set: &Set, mirror: Option<&str>, to: &Path, progress: &mut dyn Progress) -> Result<()> {
    files::create_dir(to)?;
    for remote in set.files {
        if remote.archive.as_ref().is_some_and(|archive| archive.members.iter().all(|member| is_unpacked(to, member))) {
            continue;
        }
        let path = to.join(remote.name);
        let part = to.join(format!("{}.part", remote.name));
        [&path, &part].into_iter().try_for_each(|path| files::check_own(path))?;
        if path.is_file() {
            let length = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
            let found = if length == remote.bytes { md5(remote, &path, progress)? } else { format!("{length} bytes") };
            if found != remote.md5 {
                let what = format!("is not what belongs there ({found}, not {} bytes with the MD5 {})", remote.bytes, remote.md5);
                return Err(Error::format(&path, format!("{what}; delete it and run the same command again")));
            }
        } else {
            let url = match mirror {
                Some(base) => format!("{}/{}", base.trim_end_matches('/'), remote.name),
                None => format!("{}{}", remote.base, remote.name),
            };
            download(&url, remote, &part, progress)?;
            check(&url, remote, &part, progress)?;
            files::check_own(&path)?;
            fs::rename(&part, &path).map_err(Error::io("write", &path))?;
        }
        if let Some(archive) = &remote.archive {
            progress.start(&format!("unpack {}", remote.name), archive.members.len() as u64, "file");
            unpack(archive, &path, to, progress)?;
            progress.done();
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Failures in a row without progress before the download is given up.
const TRIES: u32 = 4;
/// Time limit of a connection: after it a stalled download resumes on a new one.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reason why a connection ended early.
enum Stop {
    /// Asking again may help.
    Broken(String),
    /// Asking again will not help.
    Refused(Error),
}

/// Downloads the rest of `part`, over as many connections as it takes.
fn download(url: &str, remote: &Remote, part: &Path, progress: &mut dyn Progress) -> Result<()> {
    let config = ureq::Agent::config_builder().http_status_as_error(false).user_agent(concat!("sslmem/", env!("CARGO_PKG_VERSION")));
    let config = config.timeout_connect(Some(PATIENCE)).timeout_recv_response(Some(PATIENCE)).timeout_recv_body(Some(PATIENCE));
    let agent = config.build().new_agent();
    let mut file = File::options().create(true).append(true).open(part).map_err(Error::io("write", part))?;
    let mut length = file.metadata().map_err(Error::io("write", part))?.len();
    if length > remote.bytes {
        file.set_len(0).map_err(Error::io("write", part))?;
        length = 0;
    }
    let (mut furthest, mut failures) = (length, 0);
    progress.start(remote.name, remote.bytes.div_ceil(1000), "kilobyte");
    progress.advance(length / 1000, "");
    while length != remote.bytes {
        match attempt(&agent, url, remote, part, &mut file, &mut length, progress) {
            Ok(()) => {}
            Err(Stop::Refused(error)) => return Err(error),
            Err(Stop::Broken(reason)) => {
                failures = if length > furthest { 1 } else { failures + 1 };
                furthest = furthest.max(length);
                if failures == TRIES {
                    let what = format!("cannot be downloaded ({reason}); run the same command again to go on where it stopped");
                    return Err(Error::format(url, what));
                }
                sleep(Duration::from_millis(200) * failures);
            }
        }
    }
    file.sync_all().map_err(Error::io("write", part))?;
    progress.done();
    Ok(())
}

/// One request for the missing bytes.
fn attempt(
    agent: &ureq::Agent,
    url: &str,
    remote: &Remote,
    part: &Path,
    file: &mut File,
    length: &mut u64,
    progress: &mut dyn Progress,
) -> std::result::Result<(), Stop> {
    let refused = |what: String| Err(Stop::Refused(Error::format(url, what)));
    let write = |e| Stop::Refused(Error::io("write", part)(e));
    let mut request = agent.get(url);
    if *length > 0 {
        request = request.header("Range", format!("bytes={length}-"));
    }
    let response = request.call().map_err(|e| Stop::Broken(reason(&e.to_string())))?;
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(String::from);
    let total = match response.status().as_u16() {
        200 => {
            // The server ignores ranges and sends the whole file.
            if *length > 0 {
                file.set_len(0).map_err(write)?;
                *length = 0;
            }
            header("content-length").and_then(|text| text.parse::<u64>().ok())
        }
        206 => match header("content-range").as_deref().and_then(|text| text.strip_prefix("bytes ")?.split_once('-')) {
            Some((first, rest)) if first.parse() == Ok(*length) => rest.split_once('/').and_then(|(_, total)| total.parse().ok()),
            _ => return refused("cannot be taken up (the server sends another piece than was asked for); delete the .part file".into()),
        },
        status @ (408 | 429 | 500..=599) => return Err(Stop::Broken(format!("the server answers {status}"))),
        status => return refused(format!("cannot be downloaded (the server answers {status}); try another server with --mirror URL")),
    };
    if let Some(total) = total.filter(|total| *total != remote.bytes) {
        let what = format!("is another file here ({total} bytes where {} belong); try another server with --mirror URL", remote.bytes);
        return refused(what);
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match body.read(&mut buffer) {
            Ok(0) if *length < remote.bytes => return Err(Stop::Broken("the connection ended early".into())),
            Ok(0) => return Ok(()),
            Ok(n) if *length + n as u64 > remote.bytes => {
                return refused(format!("sends more than the {} bytes that belong; try another server with --mirror URL", remote.bytes));
            }
            Ok(n) => {
                file.write_all(&buffer[..n]).map_err(write)?;
                progress.advance((*length + n as u64) / 1000 - *length / 1000, "");
                *length += n as u64;
                if progress.stopped() {
                    let [came, all] = [*length, remote.bytes].map(|bytes| bytes as f64 / 1e6);
                    let what = format!("{came:.1} of {all:.1} MB are kept in {}; the same command goes on from there", part.display());
                    return Err(Stop::Refused(Error::stopped(what)));
                }
            }
            Err(e) => return Err(Stop::Broken(reason(&e.to_string()))),
        }
    }
}

/// A reason on one line, without the prefix of its library.
fn reason(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.strip_prefix("io: ").unwrap_or(&text).split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Whether a member exists with its known length; a text may be shorter.
fn is_unpacked(to: &Path, (name, most): &(&str, u64)) -> bool {
    let length = fs::metadata(to.join(name)).ok().filter(|kind| kind.is_file()).map_or(0, |kind| kind.len());
    if name.ends_with(".bin") { length == *most } else { (1..=*most).contains(&length) }
}

/// Refuses and removes a download whose checksum is not the published one.
fn check(url: &str, remote: &Remote, part: &Path, progress: &mut dyn Progress) -> Result<()> {
    let found = md5(remote, part, progress)?;
    if found != remote.md5 {
        fs::remove_file(part).map_err(Error::io("remove", part))?;
        let what = format!("has the MD5 {found} where {} belongs, so it was not kept; run the same command again", remote.md5);
        return Err(Error::format(url, what));
    }
    Ok(())
}

/// An error if the user asked to stop: checking and unpacking end early, and the download stays.
fn go_on(path: &Path, progress: &dyn Progress) -> Result<()> {
    if !progress.stopped() {
        return Ok(());
    }
    Err(Error::stopped(format!("{} is kept, but was not checked and unpacked; the same command goes on with it", path.display())))
}

/// The MD5 of a file, hexadecimal.
fn md5(remote: &Remote, path: &Path, progress: &mut dyn Progress) -> Result<String> {
    progress.start(&format!("check {}", remote.name), remote.bytes.div_ceil(1000), "kilobyte");
    let mut file = files::open(path)?;
    let (mut digest, mut buffer) = (Md5::new(), vec![0; 1000 << 10]);
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            break;
        }
        digest.update(&buffer[..n]);
        progress.advance(n as u64 / 1000, "");
        go_on(path, progress)?;
    }
    progress.done();
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes the listed members of an archive into `to`: only plain files, none above its size limit.
fn unpack(archive: &Archive, path: &Path, to: &Path, progress: &mut dyn Progress) -> Result<()> {
    let broken = |e: io::Error| Error::format(path, format!("cannot be unpacked ({e}); delete it and run the same command again"));
    let file = files::open(path)?;
    let most = archive.members.iter().map(|(_, most)| most).sum::<u64>() + BESIDE;
    let mut tar = tar::Archive::new(GzDecoder::new(BufReader::new(file)).take(most));
    let mut missing: Vec<&str> = archive.members.iter().map(|(name, _)| *name).collect();
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let inside = name.trim_start_matches("./").strip_prefix(archive.folder).and_then(|name| name.strip_prefix('/'));
        let Some(&(name, most)) = archive.members.iter().find(|(name, _)| Some(*name) == inside) else { continue };
        if !entry.header().entry_type().is_file() || entry.size() > most {
            let what =
                format!("has a member `{name}` that is no plain file of at most {most} bytes; delete it and run the same command again");
            return Err(Error::format(path, what));
        }
        let mut out = Writer::create(to.join(name))?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match entry.read(&mut buffer).map_err(broken)? {
                0 => break,
                n => out.write_all(&buffer[..n]).map_err(Error::io("write", to.join(name)))?,
            }
            go_on(path, progress)?;
        }
        out.commit()?;
        missing.retain(|other| *other != name);
        progress.advance(1, "");
    }
    match missing.first() {
        Some(name) => Err(Error::format(path, format!("lacks `{name}`; delete it and run the same command again"))),
        None => Ok(()),
    }
}
