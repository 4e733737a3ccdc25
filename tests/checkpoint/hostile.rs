//! Hostile files of weights: nothing is run, memory stays bounded, and each gives an error of one sentence.

use sslmem::checkpoint::{Checkpoint, Format};
use std::path::Path;

/// Everything that is done with a file: its encoder, and the numbers of its smaller tensors.
fn use_all(bytes: Vec<u8>) -> Result<usize, String> {
    let file = Checkpoint::from_bytes(Path::new("nowhere/x.pt"), bytes).map_err(|e| e.to_string())?;
    let mut read = 0;
    for (name, tensor) in file.tensors.iter().filter(|(_, t)| t.len() < 5000) {
        read += file.values(name).map_err(|e| e.to_string())?.len();
        assert_eq!(file.bytes(name).unwrap().len(), tensor.len() * tensor.dtype.bytes());
    }
    match file.identify() {
        // Its tensors were read all the same.
        Err(error) if file.format == Format::Safetensors && error.to_string().contains("holds no encoder that is known here") => Ok(read),
        Err(error) => Err(error.to_string()),
        Ok(_) => Ok(read),
    }
}

/// What torch.save wrote before 1.6, of one pickled object without tensors.
fn legacy(object: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    [&magic[..], b"\x80\x02", object, b"\x80\x02]."].concat()
}

fn refused(object: &[u8]) -> String {
    use_all(legacy(object)).unwrap_err()
}

#[test]
fn nothing_in_a_pickle_is_run() {
    for call in [
        &b"cos\nsystem\n(S'touch pwned'\ntR."[..],
        b"(S'touch pwned'\nios\nsystem\n.",
        b"\x8c\x02os\x8c\x06system\x93\x8c\x0btouch pwned\x85R.",
    ] {
        let said = refused(call);
        assert!(said.contains("holds no encoder that is known here (0 tensors)"), "{said}");
    }
    assert!(!Path::new("pwned").exists());
}

#[test]
fn what_refers_to_itself_or_lies_about_its_size_is_refused() {
    assert!(refused(b"}q\x00X\x01\0\0\0ah\x00s.").contains("nests too deep"));
    // A list of two lists of two lists ...
    let mut laughs = b"]q\x00".to_vec();
    for level in 0..40u8 {
        laughs.extend([b']', b'q', level + 1, b'(', b'h', level, b'h', level, b'e']);
    }
    laughs.push(b'.');
    assert!(refused(&laughs).contains("over and over"));
    assert!(refused(b"X\xff\xff\xff\x7fabc.").contains("ends early"));
    assert!(refused(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.").contains("broken pickle"));
    assert!(refused(b"R.").contains("takes what is not there"));
    assert!(refused(b"h\x07.").contains("recalls what it has not seen"));
    assert!(refused(b"\x99.").contains("0x99 is no instruction"));
    assert!(refused(b"t.").contains("a mark is missing"));
    let tensor = |sizes: &[u8]| {
        let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQK\x00";
        [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], storage, sizes, b"\x89)tR."].concat()
    };
    // The object's storage is not in the list of storages, or the tensor does not fit the pattern.
    assert!(refused(&tensor(b"K\x01\x85K\x01\x85")).contains("lacks the numbers of tensor"));
    assert!(refused(&tensor(b"K\x01\x85)")).contains("not described as such"));
}

#[test]
fn a_tensor_that_reaches_beyond_its_file_is_refused() {
    let head = |text: &str, data: usize| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &vec![0; data]].concat();
    let one = |entry: &str, data| use_all(head(&format!(r#"{{"a":{entry}}}"#), data));
    assert_eq!(one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 8), Ok(2));
    for (entry, data) in [
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 7),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 9),
        (r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#, 8),
        (r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#, 8),
        (r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#, 8),
        (r#"{"dtype":"F32","shape":2,"data_offsets":[0,8]}"#, 8),
        (r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#, 8),
        (r#"7"#, 8),
    ] {
        let said = one(entry, data).unwrap_err();
        assert!(said.contains("is not a whole safetensors file"), "{entry}: {said}");
    }
    let mut far = head("{}", 0);
    far[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(use_all(far).unwrap_err().contains("is not a whole safetensors file"));
}
