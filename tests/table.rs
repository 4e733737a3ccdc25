//! Score tables: derived columns against hand-computed values, write and read, broken files.

use std::fs;
use std::io::{Seek, SeekFrom, Write};

use parquet::file::reader::{FileReader, SerializedFileReader};
use sslmem::random::{Purpose, Stream};
use sslmem::split::Subset;
use sslmem::table::{self, More, Row};

fn row(index: u32, subset: Subset, align_f: f64, align_g: f64) -> Row {
    let (delta, score, relative, calibrated, stderr) = (0.0, 0.0, 0.0, f64::NAN, f64::NAN);
    let id = format!("train/{index:05}");
    Row { index, id, label: None, subset, align_f, align_g, delta, score, relative, calibrated, stderr, more: vec![] }
}

fn many(n: u32) -> Vec<Row> {
    let mut rows: Vec<Row> = (0..n)
        .map(|i| {
            let mut stream = Stream::new(1, Purpose::Synthetic, 0, i, 0);
            let subset = Subset::ALL[stream.below(4) as usize];
            let mut row = row(i, subset, stream.uniform() as f64, stream.uniform() as f64 / 3.0);
            row.label = (i % 3 != 0).then_some(i % 10);
            row.stderr = stream.uniform() as f64 / 7.0;
            row
        })
        .collect();
    table::finish(&mut rows);
    rows
}

/// Equal, where NaN equals NaN.
fn same(a: &[Row], b: &[Row]) -> bool {
    let bits = |row: &Row| row.numbers().map(|v| if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() });
    let more = |row: &Row| row.more.iter().map(|(m, v)| (*m, v.to_bits())).collect::<Vec<_>>();
    let words = |row: &Row| (row.index, row.id.clone(), row.label, row.subset, more(row));
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| words(a) == words(b) && bits(a) == bits(b))
}

#[test]
fn derived_columns_are_those_computed_by_hand() {
    use Subset::*;
    let mut rows = vec![
        row(0, Candidate, 0.25, 0.75), // delta .5
        row(1, Candidate, 0.5, 0.25),  // delta -.25, so the range is .75
        row(2, Shared, 0.0, 0.0),
        row(3, Independent, 0.75, 0.25),
        row(4, External, 0.25, 0.5),
        row(5, External, 0.5, 0.625),
    ];
    table::finish(&mut rows);
    let column = |pick: fn(&Row) -> f64| rows.iter().map(pick).collect::<Vec<_>>();
    assert_eq!(column(|r| r.delta), [0.5, -0.25, 0.0, -0.5, 0.25, 0.125]);
    assert_eq!(table::range(&rows), 0.75);
    assert_eq!(column(|r| r.score), [0.5 / 0.75, -0.25 / 0.75, 0.0, -0.5 / 0.75, 0.25 / 0.75, 0.125 / 0.75]);
    assert_eq!(column(|r| r.relative), [0.5, -0.25 / 0.75, 0.0, -0.5, 0.25 / 0.75, 0.125 / 1.125]);
    assert_eq!(column(|r| r.calibrated), [0.3125, -0.4375, -0.1875, -0.6875, 0.0625, -0.0625]);
}

#[test]
fn what_cannot_be_known_is_not_made_up() {
    let mut one = vec![row(0, Subset::Candidate, 0.25, 0.75), row(1, Subset::Shared, 0.5, 0.25)];
    table::finish(&mut one);
    assert_eq!(one[0].score, 0.0, "a range of 0 divides nothing");
    assert!(one[0].calibrated.is_nan(), "no external samples");
    let mut none = vec![row(0, Subset::Shared, 0.25, 0.75)];
    table::finish(&mut none);
    assert!(none[0].score.is_nan(), "no candidates");
    table::finish(&mut []);
}

#[test]
fn pairs_average_to_mean_and_standard_error() {
    let tables: Vec<Vec<Row>> = [(0.25, 0.75), (0.5, 0.5), (0.0, 1.0)] // delta .5, 0, 1
        .map(|(f, g)| {
            let mut rows = vec![row(7, Subset::Candidate, f, g), row(3, Subset::External, 0.0, 0.5)];
            table::finish(&mut rows);
            rows
        })
        .to_vec();
    let mut shuffled = tables.clone();
    shuffled[1].reverse();
    for tables in [&tables, &shuffled] {
        let mean = table::aggregate(tables).unwrap();
        assert_eq!((mean[0].index, mean[1].index), (7, 3), "the order of the first table");
        assert_eq!((mean[0].align_f, mean[0].align_g, mean[0].delta), (0.25, 0.75, 0.5));
        assert_eq!(mean[0].calibrated, 0.0);
        assert!((mean[0].stderr - 0.5 / 3f64.sqrt()).abs() < 1e-15, "sample deviation of 0, .5, 1 is .5");
        assert_eq!(mean[1].stderr, 0.0);
    }
    assert!(same(&table::aggregate(&tables[..1]).unwrap(), &tables[0]));
}

#[test]
fn tables_of_different_samples_do_not_average() {
    let a = many(5);
    let mut b = many(5);
    b[2].subset = if b[2].subset == Subset::Shared { Subset::External } else { Subset::Shared };
    for (tables, text) in [
        (vec![a.clone(), a[..4].to_vec()], "table 2 of the 2 to average is not of the same samples"),
        (vec![a.clone(), a.clone(), b], "table 3 of the 3"),
        (vec![], "there is no score table"),
    ] {
        let error = table::aggregate(&tables).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn files_come_back_exactly_and_are_the_same_bytes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = many(70_000); // two row groups
    rows[1].id = "a,\"b\"\nc/é.png".into();
    rows[2].align_f = 1e-300;
    rows[3].align_f = f64::MIN_POSITIVE / 8.0;
    let metadata = [("recipe".to_string(), "seed = 0".to_string())];
    for name in ["a.parquet", "a.csv", "b.PARQUET"] {
        let path = folder.path().join(name);
        table::write(&path, &rows, &metadata).unwrap();
        assert!(same(&table::read(&path).unwrap(), &rows), "{name}");
        let first = fs::read(&path).unwrap();
        table::write(&path, &rows, &metadata).unwrap();
        assert!(first == fs::read(&path).unwrap(), "{name}");
        table::write(&path, &[], &[]).unwrap();
        assert_eq!(table::read(&path).unwrap(), []);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside the files");
}

/// Columns that not every table has come back as they were, of all pairs of encoders as means, and only where all tables have them.
#[test]
fn measures_beside_the_alignment_are_columns_like_the_others() {
    let mut rows = many(50);
    for (i, row) in rows.iter_mut().enumerate() {
        row.more = vec![(More::ConfidenceF, if i % 5 == 0 { f64::NAN } else { i as f64 / 50.0 }), (More::ConfidenceG, 0.25)];
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["s.parquet", "s.csv"] {
        let path = folder.path().join(name);
        table::write(&path, &rows, &[]).unwrap();
        assert!(same(&table::read(&path).unwrap(), &rows), "{name}");
    }
    let csv = fs::read_to_string(folder.path().join("s.csv")).unwrap();
    assert!(csv.lines().next().unwrap().ends_with(",stderr,confidence_f,confidence_g") && csv.lines().nth(1).unwrap().ends_with(",,0.25"));
    let npy = folder.path().join("s.npy");
    table::write(&npy, &rows, &[]).unwrap();
    assert!(fs::read(&npy).unwrap()[..700].windows(22).any(|part| part == b"('confidence_g', '<f8'"), "the head names its fields");

    let mut other = rows.clone();
    other.iter_mut().for_each(|row| row.more[1].1 = 0.75);
    let mean = table::aggregate(&[rows.clone(), other.clone()]).unwrap();
    assert!(
        mean[7].get(More::ConfidenceG) == 0.5 && mean[7].get(More::ConfidenceF) == 7.0 / 50.0 && mean[5].get(More::ConfidenceF).is_nan()
    );
    other[3].more.pop();
    assert!(table::aggregate(&[rows.clone(), other]).unwrap_err().to_string().contains("not of the same samples and measures"));
    rows[9].more[0].1 = f64::INFINITY;
    assert!(table::write(&npy, &rows, &[]).unwrap_err().to_string().contains("confidence_f is inf"));
}

/// Whoever opens a table elsewhere finds in it what its columns are.
#[test]
fn parquet_says_what_its_columns_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.parquet");
    table::write(&path, &many(3), &[("recipe".into(), "seed = 0".into())]).unwrap();
    let file = SerializedFileReader::new(fs::File::open(&path).unwrap()).unwrap();
    let pairs = file.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let of = |key: &str| pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone());
    assert_eq!(of("recipe").as_deref(), Some("seed = 0"));
    for (name, meaning) in table::COLUMNS.iter().zip(table::MEANINGS) {
        assert_eq!(of(&format!("sslmem.column.{name}")).as_deref(), Some(meaning));
    }
}

#[test]
fn csv_is_what_people_expect() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.csv");
    let mut rows = vec![row(3, Subset::Candidate, 0.1, 0.3)];
    rows[0].label = Some(7);
    table::finish(&mut rows);
    table::write(&path, &rows, &[]).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let expected = "index,id,label,subset,align_f,align_g,delta,score,relative,calibrated,stderr\n\
                    3,train/00003,7,S_C,0.1,0.3,0.19999999999999998,0.0,0.49999999999999994,,\n";
    assert_eq!(text, expected);
    // Spreadsheets change line ends, add a byte order mark, a column, another order, and decimals to labels.
    let other = "\u{feff}note,id,index,label,subset,align_f,align_g,delta,score,relative,calibrated,stderr\r\n\
                 \"x, y\",train/00003,3,7.0,S_C,0.1,0.3,0.19999999999999998,0.0,0.49999999999999994,,\r\n";
    fs::write(&path, other).unwrap();
    assert!(same(&table::read(&path).unwrap(), &rows));
}

#[test]
fn wrong_tables_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let head = "index,id,label,subset,align_f,align_g,delta,score,relative,calibrated,stderr\n";
    let good = "3,a,,S_C,0.1,0.3,0.2,0,0.5,,\n";
    for (text, expected) in [
        (String::new(), "the file is empty"),
        ("index,id\n1,a\n".into(), "there is no column `label`"),
        (format!("{head}3,a\n"), "line 2: 2 fields where the first line has 11"),
        (format!("{head}{good}{good}"), "sample 3 occurs twice"),
        (format!("{head}-1{}", &good[1..]), "line 2: index is `-1`, not a whole number"),
        (format!("{head}x{}", &good[1..]), "line 2: index is `x`, not a number"),
        (format!("{head}3,a,,S_X,0.1,0.3,0.2,0,0.5,,\n"), "subset is `S_X`, not S_S, S_C, S_I or S_E"),
        (format!("{head}3,a,,S_C,,0.3,0.2,0,0.5,,\n"), "row 1: align_f is NaN, not a finite number"),
        (format!("{head}3,a,,S_C,0.1,inf,0.2,0,0.5,,\n"), "row 1: align_g is inf, not a finite number"),
        (format!("{head}3,\"a,,S_C\n"), "line 2: a quoted field has no end"),
        (format!("{head}3,\"a\"b,,S_C\n"), "line 2: text follows the end of a field"),
    ] {
        let path = folder.path().join("s.csv");
        fs::write(&path, text).unwrap();
        let error = table::read(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = table::read(folder.path().join("no.parquet")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && error.ends_with("no such file or directory"), "{error}");
    let error = table::read("s.json").unwrap_err();
    assert!(error.to_string().contains(".json is not a kind of score table"), "{error}");
    assert_eq!(error.exit_code(), 2);
    for name in ["s", "-"] {
        let error = table::write(name, &many(3), &[]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name} has no ending that says which kind of score table it is; use a name")), "{error}");
    }
    let mut rows = many(3);
    rows[1].align_g = f64::NAN;
    let path = folder.path().join("nan.parquet");
    let error = table::write(&path, &rows, &[]).unwrap_err().to_string();
    assert!(error.contains("sample 1 (train/00001): align_g is NaN"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_broken_parquet_file_is_an_error_and_nothing_worse() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.parquet");
    table::write(&path, &many(40), &[]).unwrap();
    let whole = fs::read(&path).unwrap();
    let attempt = || table::read(&path).err().map(|error| error.to_string());
    // A changed byte may change a value, so it need not be an error; it must not be a panic.
    let file = fs::File::options().write(true).open(&path).unwrap();
    let change = |place: usize, byte: u8| {
        (&file).seek(SeekFrom::Start(place as u64)).unwrap();
        (&file).write_all(&[byte]).unwrap();
    };
    for (place, &byte) in whole.iter().enumerate() {
        for flip in [0x01, 0x80, 0xFF] {
            change(place, byte ^ flip);
            attempt();
        }
        change(place, byte);
    }
    assert_eq!(attempt(), None);
    for length in (0..whole.len()).rev().step_by(7) {
        file.set_len(length as u64).unwrap();
        let error = attempt().expect("a file that ends early is an error");
        assert!(!error.contains('\n') && error.contains("s.parquet"), "{error}");
    }
}
