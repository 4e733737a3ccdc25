//! Splits: the members of each subset, reading and writing, and refusal on other data.

use std::collections::HashSet;
use std::fs;

use sslmem::data::{Source, Synthetic};
use sslmem::split::{How, Sizes, Split, Subset, SubsetSize};
use tempfile::TempDir;

fn source(train: usize) -> Synthetic {
    Synthetic::new(train, 0).unwrap()
}

fn counts(shared: usize, candidate: usize, independent: usize, external: usize) -> Sizes {
    Sizes {
        shared: SubsetSize::Count(shared),
        candidate: SubsetSize::Count(candidate),
        independent: SubsetSize::Count(independent),
        external: SubsetSize::Count(external),
    }
}

fn lengths(split: &Split) -> [usize; 4] {
    split.indices.each_ref().map(Vec::len)
}

fn refused(sizes: &Sizes, train: usize) -> String {
    Split::draw(&source(train), sizes, How::Ordered).unwrap_err().to_string()
}

/// A data set without a test part.
struct TrainOnly(Synthetic);

impl Source for TrainOnly {
    fn len(&self) -> usize {
        self.0.train_len()
    }
    fn train_len(&self) -> usize {
        self.0.train_len()
    }
    fn id(&self, index: usize) -> String {
        self.0.id(index)
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.0.label(index)
    }
    fn classes(&self) -> &[String] {
        self.0.classes()
    }
    fn digest(&self) -> &str {
        self.0.digest()
    }
    fn largest(&self) -> usize {
        self.0.largest()
    }
    fn image(&self, index: usize) -> sslmem::Result<sslmem::data::Image> {
        self.0.image(index)
    }
}

#[test]
fn by_order_is_the_papers_split() {
    let split = Split::draw(&source(50_000), &Sizes::default(), How::Ordered).unwrap();
    let ranges = [0..40_000, 40_000..45_000, 45_000..50_000, 50_000..55_000u32];
    for (subset, range) in Subset::ALL.into_iter().zip(ranges) {
        assert_eq!(split.of(range.start), Some(subset));
        assert_eq!(split.subset(subset), range.collect::<Vec<_>>());
    }
    assert_eq!(split.of(55_000), None);
    assert_eq!(split.f_indices(), (0..45_000).collect::<Vec<_>>());
    assert_eq!(split.g_indices(), (0..40_000).chain(45_000..50_000).collect::<Vec<_>>());
    assert_eq!((split.ids[1][0].as_str(), split.ids[3][0].as_str()), ("train/40000", "test/00000"));
    assert_eq!(split.data, "synthetic");
}

#[test]
fn seeded_splits_are_disjoint_and_a_function_of_the_seed() {
    let data = source(3000);
    let draw = |seed| Split::draw(&data, &Sizes::default(), How::Seeded(seed)).unwrap();
    let split = draw(4);
    assert_eq!(lengths(&split), [2400, 300, 300, 300]);
    let all: HashSet<u32> = split.indices.iter().flatten().copied().collect();
    assert_eq!(all.len(), 3300);
    assert!(split.subset(Subset::External).iter().all(|&i| (3000..3600).contains(&i)));
    assert!(split.indices[..3].iter().flatten().all(|&i| i < 3000));
    assert_eq!(split, draw(4));
    assert_ne!(split.indices, draw(5).indices);
    let samples = split.samples();
    assert!(samples.len() == 3300 && samples.windows(2).all(|pair| pair[0].0 < pair[1].0), "rows come in the order of the data");
    assert!(samples.iter().all(|(i, subset)| split.of(*i) == Some(*subset)));
    // A share of every stretch of the data, not the first of it.
    let early = split.subset(Subset::Candidate).iter().filter(|&&i| i < 1500).count();
    assert!((110..190).contains(&early), "{early} of 300 candidates in the first half");
    for (subset, ids) in Subset::ALL.into_iter().zip(&split.ids) {
        assert!(split.subset(subset).iter().zip(ids).all(|(&i, id)| data.id(i as usize) == *id && split.of(i) == Some(subset)));
    }
}

/// Samples of a training part alone, class after class as in a folder.
struct Folders(Vec<Option<u32>>);

impl Source for Folders {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn train_len(&self) -> usize {
        self.0.len()
    }
    fn id(&self, index: usize) -> String {
        format!("{index}.png")
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.0[index]
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn digest(&self) -> &str {
        "0"
    }
    fn largest(&self) -> usize {
        1
    }
    fn image(&self, _: usize) -> sslmem::Result<sslmem::data::Image> {
        unreachable!("a split looks at no image")
    }
}

#[test]
fn each_subset_has_each_classs_share() {
    for (sizes, wanted) in [
        (&[10, 10, 10, 10, 10][..], Sizes::default()),
        (&[500, 300, 7, 1, 192], Sizes::default()),
        (&[97, 3, 40], counts(33, 35, 35, 37)),
        (&[1; 40], counts(10, 10, 10, 10)),
        (&[20, 30, 50], counts(1, 1, 1, 0)),
    ] {
        // The last class has no label.
        let of = |class: usize, n: usize| vec![(class + 1 < sizes.len()).then_some(class as u32 * 3); n];
        let data = Folders(sizes.iter().enumerate().flat_map(|(class, &n)| of(class, n)).collect());
        let draw = |seed| Split::draw(&data, &wanted, How::Stratified(seed)).unwrap();
        let split = draw(4);
        assert_eq!(lengths(&split), wanted.resolve(data.len(), 0).unwrap());
        let all: HashSet<u32> = split.indices.iter().flatten().copied().collect();
        assert_eq!(all.len() + split.left_out(&data), data.len(), "subsets overlap");
        for subset in Subset::ALL {
            let members = split.subset(subset);
            for (class, &n) in sizes.iter().enumerate() {
                let label = of(class, 1)[0];
                let has = members.iter().filter(|&&i| data.label(i as usize) == label).count();
                let share = n as f64 * members.len() as f64 / data.len() as f64;
                assert!((has as f64 - share).abs() < 1.0 + 1e-9, "{} has {has} of class {class}, whose share is {share}", subset.symbol());
            }
        }
        assert_eq!(split, draw(4));
        assert_ne!(split.indices, draw(5).indices);
    }
    // Ten of the same class each: within the class, which ones is random.
    let data = Folders((0..5).flat_map(|class| [Some(class); 10]).collect());
    let split = Split::draw(&data, &Sizes::default(), How::Stratified(0)).unwrap();
    assert_eq!((lengths(&split), split.left_out(&data)), ([36, 4, 4, 4], 2));
    assert_ne!(split.subset(Subset::Shared), (0..36).collect::<Vec<_>>());
    // A test part is dealt by itself.
    let data = source(1000);
    let split = Split::draw(&data, &Sizes::default(), How::Stratified(1)).unwrap();
    let classes = |subset| {
        let mut count = [0; 10];
        split.subset(subset).iter().for_each(|&i| count[data.label(i as usize).unwrap() as usize] += 1);
        count
    };
    assert!(split.subset(Subset::External).iter().all(|&i| i >= 1000));
    let [c, i] = [classes(Subset::Candidate), classes(Subset::Independent)];
    assert!(c.iter().zip(i).all(|(a, b): (&i32, i32)| (a - b).abs() <= 1), "{c:?} {i:?}");
}

#[test]
fn sizes_are_counts_fractions_or_as_many_as_candidates() {
    let data = source(1000);
    let draw = |sizes: &Sizes| lengths(&Split::draw(&data, sizes, How::Ordered).unwrap());
    assert_eq!(draw(&counts(240, 30, 31, 29)), [240, 30, 31, 29]);
    assert_eq!(draw(&counts(0, 500, 500, 0)), [0, 500, 500, 0]);
    // Fractions are rounded down, so that S_C and S_I have the same size.
    assert_eq!(lengths(&Split::draw(&source(15), &Sizes::default(), How::Ordered).unwrap()), [12, 1, 1, 1]);
    let mixed = Sizes {
        shared: SubsetSize::Count(100),
        external: SubsetSize::Fraction(0.5),
        independent: SubsetSize::Candidates,
        ..Sizes::default()
    };
    assert_eq!(draw(&mixed), [100, 100, 100, 100]);
    // The test part has 200: fewer than the candidates.
    assert_eq!(draw(&Sizes { external: SubsetSize::Candidates, ..counts(0, 400, 400, 0) }), [0, 400, 400, 200]);

    let alone = TrainOnly(source(1100));
    assert_eq!(lengths(&Split::draw(&alone, &Sizes::default(), How::Seeded(1)).unwrap()), [800, 100, 100, 100]);
    let split = Split::draw(&alone, &counts(800, 100, 100, 50), How::Ordered).unwrap();
    assert_eq!(split.subset(Subset::External), (1000..1050).collect::<Vec<_>>());
}

#[test]
fn sizes_are_read_from_text_and_toml() {
    assert_eq!("0.8".parse::<SubsetSize>().unwrap(), SubsetSize::Fraction(0.8));
    assert_eq!("40000".parse::<SubsetSize>().unwrap(), SubsetSize::Count(40_000));
    assert_eq!("1".parse::<SubsetSize>().unwrap(), SubsetSize::Count(1));
    assert_eq!("1.0".parse::<SubsetSize>().unwrap(), SubsetSize::Fraction(1.0));
    for text in ["1.5", "-1", "-0.1", "nan", "inf", "", "many"] {
        assert!(text.parse::<SubsetSize>().unwrap_err().to_string().contains("is no size"), "{text}");
    }
    let sizes: Sizes = toml::from_str("shared = 0.5\ncandidate = 300\nindependent = \"300\"").unwrap();
    assert_eq!(sizes, Sizes { shared: SubsetSize::Fraction(0.5), external: SubsetSize::Candidates, ..counts(0, 300, 300, 0) });
    let text = toml::to_string(&sizes).unwrap();
    assert_eq!(toml::from_str::<Sizes>(&text).unwrap(), sizes, "{text}");
    for wrong in ["shared = 1.5", "shared = -3", "shared = true", "sharde = 0.8"] {
        assert!(toml::from_str::<Sizes>(wrong).is_err(), "{wrong}");
    }
    for size in [SubsetSize::Fraction(1.0), SubsetSize::Count(7), SubsetSize::Candidates] {
        assert_eq!(size.to_string().parse::<SubsetSize>().unwrap(), size);
    }
}

#[test]
fn sizes_beyond_the_data_are_refused() {
    let error = refused(&counts(900, 100, 100, 10), 1000);
    assert!(error.contains("900 + 100 + 100") && error.contains("has 1000"), "{error}");
    let error = refused(&counts(10, 10, 10, 201), 1000);
    assert!(error.contains("S_E asks for 201") && error.contains("has 200"), "{error}");
    let error = refused(&counts(10, 0, 10, 10), 1000);
    assert!(error.contains("candidate"), "{error}");
    assert!(refused(&Sizes::default(), 9).contains("candidate"));
    assert!(refused(&counts(usize::MAX, 2, 2, 0), 1000).contains("has 1000"));
    let over = Sizes { shared: SubsetSize::Fraction(0.9), ..Sizes::default() };
    assert!(refused(&over, 1000).contains("1100 samples"));
    let error = Split::draw(&TrainOnly(source(1000)), &over, How::Ordered).unwrap_err().to_string();
    assert!(error.contains("no test part") && error.contains("1200 samples"), "{error}");
}

#[test]
fn a_file_gives_back_the_split() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("split.json");
    for how in [How::Ordered, How::Seeded(u64::MAX), How::Stratified(3)] {
        let split = Split::draw(&source(100), &Sizes::default(), how).unwrap();
        split.write(&path).unwrap();
        assert_eq!(Split::read(&path).unwrap(), split);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = Split::draw(&source(100), &Sizes::default(), How::Ordered).unwrap().write(folder.path().join("no/split.json"));
    assert!(error.unwrap_err().to_string().contains("cannot write"));
    fs::create_dir(folder.path().join("taken")).unwrap();
    assert!(Split::read(&path).unwrap().write(folder.path().join("taken")).is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_split_of_other_data_is_refused() {
    let split = Split::draw(&source(100), &Sizes::default(), How::Ordered).unwrap();
    split.check(&source(100)).unwrap();
    for other in [source(101), Synthetic::new(100, 1).unwrap()] {
        let error = split.check(&other).unwrap_err();
        assert!(error.to_string().contains("drawn from other data"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
    let mut renamed = split.clone();
    renamed.ids[0][5] = "train/00006".into();
    assert!(renamed.check(&source(100)).unwrap_err().to_string().contains("sample 5"));
    let mut beyond = split;
    beyond.indices[3][0] = 120;
    assert!(beyond.check(&source(100)).unwrap_err().to_string().contains("has 120"));
}

#[test]
fn damaged_split_files_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("split.json");
    Split::draw(&source(40), &Sizes::default(), How::Ordered).unwrap().write(&path).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    let refuse = |text: &str, word: &str| {
        fs::write(&path, text).unwrap();
        let error = Split::read(&path).unwrap_err().to_string();
        assert!(error.contains("split.json") && error.contains(word), "{error}");
    };
    refuse(&whole[..whole.len() / 2], "is not a split");
    refuse("", "is not a split");
    refuse(&whole.replace("sslmem split 1", "sslmem split 9"), "sslmem split 9");
    refuse(&whole.replace("[32,33,34,35]", "[32,33,34,31]"), "sample 31 twice");
    refuse(&whole.replace("[32,33,34,35]", "[33,32,34,35]"), "do not ascend");
    refuse(&whole.replace("[32,33,34,35]", "[32,33,34]"), "3 indices but 4 ids");
    refuse(&whole.replace("\"how\":\"ordered\"", "\"how\":\"ordered\",\"hwo\":1"), "hwo");
    let empty = whole.replace("[32,33,34,35]", "[]").replace("[\"train/00032\",\"train/00033\",\"train/00034\",\"train/00035\"]", "[]");
    refuse(&empty, "no candidates");
    fs::remove_file(&path).unwrap();
    assert!(Split::read(&path).unwrap_err().to_string().contains("no such file"));
}
