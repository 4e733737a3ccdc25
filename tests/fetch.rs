//! Downloads from a local server that drops connections, answers nonsense and sends wrong bytes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};
use sslmem::fetch::{Archive, Remote, Set, fetch, find};
use sslmem::progress::Silent;
use tempfile::TempDir;

/// How the server treats one request; the last one in a list stands for all that follow.
#[derive(Clone, Copy)]
enum Reply {
    /// As asked for, with Range.
    Good,
    /// As asked for, but only this many bytes of it before the connection ends.
    Cut(usize),
    /// As asked for, a little at a time.
    Slow,
    /// All of the file, whatever was asked for.
    Whole,
    /// Another piece than was asked for.
    Elsewhere,
    /// This length is announced.
    Announce(usize),
    /// Without an announced length, twice the file.
    Endless,
    Status(u16),
}

/// A server of one file; what `Range` each request asked for.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Option<u64>>>>,
}

impl Server {
    fn new(content: Vec<u8>, replies: &[Reply]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let (log, replies) = (asked.clone(), replies.to_vec());
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let reply = replies[number.min(replies.len() - 1)];
                // A client that went away is what some tests are about.
                let _ = answer(stream.unwrap(), &content, reply, &log);
            }
        });
        Server { url, asked }
    }

    fn asked(&self) -> Vec<Option<u64>> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, content: &[u8], reply: Reply, log: &Mutex<Vec<Option<u64>>>) -> std::io::Result<()> {
    let mut range = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_lowercase();
        if let Some(from) = line.strip_prefix("range: bytes=") {
            range = Some(from.trim_end_matches('-').parse().unwrap());
        }
        if line.is_empty() {
            break;
        }
    }
    log.lock().unwrap().push(range);
    let range = if let Reply::Whole = reply { None } else { range };
    let from = range.unwrap_or(0) as usize;
    let (total, body) = (content.len(), &content[from.min(content.len())..]);
    let mut head = match range {
        Some(from) => format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}\r\n", total - 1),
        None => "HTTP/1.1 200 OK\r\n".to_string(),
    };
    let mut length = body.len();
    match reply {
        Reply::Status(status) => head = format!("HTTP/1.1 {status} No\r\n"),
        Reply::Announce(bytes) => length = bytes,
        Reply::Elsewhere => head = format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-{}/{total}\r\n", total - 1),
        _ => {}
    }
    if !matches!(reply, Reply::Endless) {
        head += &format!("Content-Length: {length}\r\n");
    }
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    match reply {
        Reply::Cut(bytes) => stream.write_all(&body[..bytes.min(body.len())]),
        Reply::Slow => body.chunks(4096).try_for_each(|piece| {
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(piece)
        }),
        Reply::Endless => stream.write_all(&content.repeat(2)),
        _ => stream.write_all(body),
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * i / 7 % 251) as u8).collect()
}

fn md5(bytes: &[u8]) -> &'static str {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>().leak()
}

/// A set of one file.
fn set(bytes: &[u8], archive: Option<Archive>) -> Set {
    let remote = Remote { base: "http://nowhere.invalid/", name: "file", bytes: bytes.len() as u64, md5: md5(bytes), archive };
    Set { name: "test", about: "", folder: "test", spec: ["test:", ""], files: vec![remote].leak() }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Fetch `bytes` from a server that has them and replies so.
fn run(bytes: &[u8], replies: &[Reply], folder: &Path) -> (Result<(), String>, Vec<Option<u64>>) {
    let server = Server::new(bytes.to_vec(), replies);
    let result = fetch(&set(bytes, None), Some(&server.url), folder, &mut Silent).map_err(|e| e.to_string());
    (result, server.asked())
}

#[test]
fn a_dropped_connection_is_taken_up_where_it_ended() {
    let (folder, bytes) = (TempDir::new().unwrap(), content(300_000));
    let (result, asked) = run(&bytes, &[Reply::Cut(100_000), Reply::Cut(50_000), Reply::Good], folder.path());
    result.unwrap();
    assert_eq!(asked, [None, Some(100_000), Some(150_000)]);
    assert!(fs::read(folder.path().join("file")).unwrap() == bytes);
    assert_eq!(names(folder.path()), ["file"]);
    // What is there is not asked for again.
    let (result, asked) = run(&bytes, &[Reply::Status(500)], folder.path());
    assert_eq!((result, asked), (Ok(()), vec![]));
}

#[test]
fn a_part_from_before_is_taken_up() {
    let (folder, bytes) = (TempDir::new().unwrap(), content(200_000));
    let part = folder.path().join("file.part");
    fs::write(&part, &bytes[..123_456]).unwrap();
    let (result, asked) = run(&bytes, &[Reply::Good], folder.path());
    assert_eq!((result, asked), (Ok(()), vec![Some(123_456)]));
    assert_eq!(names(folder.path()), ["file"]);

    // A server without Range sends everything again, which replaces the part.
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file.part"), [1; 1000]).unwrap();
    let (result, _) = run(&bytes, &[Reply::Whole], folder.path());
    result.unwrap();
    assert!(fs::read(folder.path().join("file")).unwrap() == bytes);

    // A part that is all there needs no server.
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file.part"), &bytes).unwrap();
    let (result, asked) = run(&bytes, &[Reply::Status(404)], folder.path());
    assert_eq!((result, asked), (Ok(()), vec![]));
}

#[test]
fn wrong_bytes_are_not_kept() {
    let (folder, bytes) = (TempDir::new().unwrap(), content(5_000));
    let mut wrong = bytes.clone();
    wrong[4_000] ^= 1;
    let server = Server::new(wrong, &[Reply::Good]);
    let error = fetch(&set(&bytes, None), Some(&server.url), folder.path(), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("/file: has the MD5 ") && error.contains(md5(&bytes)) && !error.contains('\n'), "{error}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn every_failure_is_a_sentence_and_leaves_what_came() {
    let bytes = content(20_000);
    let cases: [(&[Reply], &str, usize); 8] = [
        (&[Reply::Status(404)], "cannot be downloaded (the server answers 404); try another server", 0),
        (&[Reply::Status(503)], "cannot be downloaded (the server answers 503); run the same command again", 0),
        (&[Reply::Cut(7_000), Reply::Cut(0)], "run the same command again to go on where it stopped", 7_000),
        (&[Reply::Cut(7_000), Reply::Elsewhere], "the server sends another piece than was asked for", 7_000),
        (&[Reply::Announce(20_001)], "is another file here (20001 bytes where 20000 belong)", 0),
        (&[Reply::Endless], "sends more than the 20000 bytes", 0),
        (&[Reply::Cut(7_000), Reply::Status(416)], "the server answers 416", 7_000),
        (&[Reply::Whole, Reply::Whole], "", 20_000),
    ];
    for (replies, want, left) in cases {
        let folder = TempDir::new().unwrap();
        let (result, _) = run(&bytes, replies, folder.path());
        let Err(error) = result else {
            assert!(want.is_empty(), "{want}");
            continue;
        };
        assert!(!want.is_empty() && error.contains(want) && error.starts_with("http://127.0.0.1") && !error.contains('\n'), "{error}");
        let part = fs::metadata(folder.path().join("file.part")).unwrap().len();
        assert!(part == left as u64 || want.starts_with("sends more"), "{want}: {part} bytes are left");
        assert!(!folder.path().join("file").exists());
    }
}

#[test]
fn without_a_network_or_through_a_link() {
    let (folder, bytes) = (TempDir::new().unwrap(), content(10));
    // A port that nobody listens at.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = fetch(&set(&bytes, None), Some(&format!("http://{port}")), folder.path(), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("/file: cannot be downloaded (connection refused); run the same command again"), "{error}");

    // Not through a link, wherever that leads.
    let folder = TempDir::new().unwrap();
    let victim = folder.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    let server = Server::new(bytes.clone(), &[Reply::Good]);
    for name in ["file.part", "file"] {
        let link = folder.path().join(name);
        for to in [&victim, &folder.path().join("nothing"), folder.path()] {
            std::os::unix::fs::symlink(to, &link).unwrap();
            let error = fetch(&set(&bytes, None), Some(&server.url), folder.path(), &mut Silent).unwrap_err().to_string();
            assert!(error.starts_with("cannot write ") && error.ends_with(&format!("/{name}: it is a link; move it away")), "{error}");
            assert_eq!(fs::read_link(&link).unwrap(), *to);
            fs::remove_file(link.as_path()).unwrap();
        }
    }
    assert_eq!(fs::read(&victim).unwrap(), b"mine");
    assert_eq!((names(folder.path()), server.asked()), (vec!["victim".to_string()], vec![]));
}

/// What is there already is checked like what comes.
#[test]
fn files_that_are_there_are_not_believed() {
    let (folder, bytes) = (TempDir::new().unwrap(), content(300));
    let at = |name: &str| folder.path().join(name);
    let server = Server::new(bytes.clone(), &[Reply::Good]);
    let fetched = |archive| fetch(&set(&bytes, archive), Some(&server.url), folder.path(), &mut Silent).map_err(|e| e.to_string());
    for wrong in [&b""[..], &[0; 300], &bytes[..299]] {
        for archive in [None, Some(MEMBERS)] {
            fs::write(at("file"), wrong).unwrap();
            let error = fetched(archive).unwrap_err();
            assert!(
                error.contains("file: is not what belongs there") && error.contains("delete it and run the same command again"),
                "{error}"
            );
            assert_eq!(fs::read(at("file")).unwrap(), wrong, "it is not ours to remove");
        }
    }
    fs::write(at("file"), &bytes).unwrap();
    fetched(None).unwrap();
    assert_eq!(server.asked().len(), 0);
    // Members of another length are unpacked again.
    let good = archive(&[("inner/a.bin", tar::EntryType::Regular, b"0123456789"), ("inner/b.txt", tar::EntryType::Regular, b"text")]);
    let server = Server::new(good.clone(), &[Reply::Good]);
    fs::remove_file(at("file")).unwrap();
    for (a, b, asked) in [(&b"012345678"[..], &b"text"[..], 1), (b"0123456789", b"", 2), (b"0123456789", b"other", 2)] {
        fs::write(at("a.bin"), a).unwrap();
        fs::write(at("b.txt"), b).unwrap();
        fetch(&set(&good, Some(MEMBERS)), Some(&server.url), folder.path(), &mut Silent).unwrap();
        assert_eq!(server.asked().len(), asked);
        assert_eq!(fs::read(at("a.bin")).unwrap(), b"0123456789");
    }
}

/// A tar.gz of these entries: name, kind, content.
fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(vec![], Compression::fast()));
    for (name, kind, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        // Past the checks of the builder, which would not write what an attacker writes.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        if !kind.is_file() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

const MEMBERS: Archive = Archive { folder: "inner", members: &[("a.bin", 10), ("b.txt", 100)] };

/// Fetch an archive of these entries; the message, and what is in the folder afterwards.
fn unpacked(entries: &[(&str, tar::EntryType, &[u8])]) -> (Option<String>, Vec<String>, TempDir) {
    let (parent, bytes) = (TempDir::new().unwrap(), archive(entries));
    let folder = parent.path().join("to");
    let server = Server::new(bytes.clone(), &[Reply::Good]);
    let error = fetch(&set(&bytes, Some(MEMBERS)), Some(&server.url), &folder, &mut Silent).err().map(|e| e.to_string());
    assert_eq!(names(parent.path()), ["to"], "nothing beside the folder");
    (error, names(&folder), parent)
}

#[test]
fn only_the_members_that_belong_are_unpacked() {
    use tar::EntryType::{Link, Regular, Symlink};
    let good: [(&str, tar::EntryType, &[u8]); 2] = [("inner/a.bin", Regular, b"0123456789"), ("./inner/b.txt", Regular, b"text")];
    let hostile: [(&str, tar::EntryType, &[u8]); 4] = [
        ("../evil", Regular, b"evil"),
        ("inner/../../evil", Regular, b"evil"),
        ("/inner/evil", Regular, b"evil"),
        ("inner/readme.html", Symlink, b""),
    ];
    let (error, files, parent) = unpacked(&[&hostile[..], &good[..]].concat());
    assert_eq!((error, files), (None, vec!["a.bin".into(), "b.txt".into()]));
    assert_eq!(fs::read(parent.path().join("to/a.bin")).unwrap(), b"0123456789");

    for (at, bad) in [
        ("no plain file of at most 10 bytes", ("inner/a.bin", Regular, &[0; 11][..])),
        ("no plain file", ("inner/a.bin", Symlink, b"")),
        ("no plain file", ("inner/a.bin", Link, b"")),
        ("lacks `a.bin`", ("inner/other", Regular, b"")),
    ] {
        let (error, files, _parent) = unpacked(&[bad, good[1]]);
        let error = error.unwrap();
        assert!(error.contains(at) && error.contains("delete it and run the same command again"), "{error}");
        assert!(!files.contains(&"a.bin".to_string()) && files.contains(&"file".to_string()), "{files:?}");
    }
}

#[test]
fn an_archive_that_is_a_bomb_or_none_is_refused() {
    use tar::EntryType::Regular;
    let (error, files, _parent) = unpacked(&[("inner/readme", Regular, &vec![0; 64 << 20]), ("inner/a.bin", Regular, b"1")]);
    assert!(error.unwrap().contains("cannot be unpacked"), "the members may have 110 bytes");
    assert_eq!(files, ["file"]);

    let folder = TempDir::new().unwrap();
    let bytes = content(3_000);
    let server = Server::new(bytes.clone(), &[Reply::Good]);
    let error = fetch(&set(&bytes, Some(MEMBERS)), Some(&server.url), folder.path(), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("file: cannot be unpacked (") && !error.contains('\n'), "{error}");
}

#[test]
fn names_are_known_or_explained() {
    assert_eq!(find("stl10").unwrap().files[0].bytes, 2_640_397_119);
    for (name, want) in [("cifr10", "did you mean `cifar10`?"), ("imagenet", "image-net.org"), ("coco2017", "choose one of cifar10, ")] {
        let error = find(name).err().unwrap();
        assert!(error.to_string().contains(want) && error.exit_code() == 2, "{error}");
    }
}

/// Stopped with Ctrl-C the program leaves a part that the next call takes up.
#[test]
fn ctrl_c_leaves_a_part_that_is_taken_up() {
    let folder = TempDir::new().unwrap();
    let server = Server::new(content(9_912_422), &[Reply::Slow, Reply::Good]);
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
        command.args(["fetch", "mnist", "--to", "mnist", "--quiet", "--mirror", &server.url]).current_dir(folder.path());
        ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].iter().for_each(|name| {
            command.env_remove(name);
        });
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let mut child = command().spawn().unwrap();
    let part = folder.path().join("mnist/train-images-idx3-ubyte.gz.part");
    let length = || fs::metadata(&part).map_or(0, |m| m.len());
    let start = Instant::now();
    while length() < 50_000 && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(killed.success() && child.wait().unwrap().code() == Some(130), "{said}");
    let kept = "of 9.9 MB are kept in mnist/train-images-idx3-ubyte.gz.part; the same command goes on from there\n";
    assert!(said.starts_with("stopped: ") && said.ends_with(kept) && said.lines().count() == 1, "{said}");
    let left = length();
    assert!((50_000..9_912_422).contains(&left), "{left} bytes are left");

    let mut child = command().spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(server.asked(), [None, Some(left)]);
    // The bytes are not MNIST's, and they are known by their checksum.
    assert!(said.contains("/train-images-idx3-ubyte.gz: has the MD5 ") && said.trim_end().lines().count() == 1, "{said}");
    assert_eq!(names(&folder.path().join("mnist")), [""; 0]);
}
