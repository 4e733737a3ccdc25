//! Views: equal to torchvision's, drawn as documented, and a function of (seed, purpose, epoch, sample, view) alone.

use std::collections::HashMap;
use std::path::Path;

use safetensors::SafeTensors;
use serde::Deserialize;
use sslmem::Result;
use sslmem::data::{Image, Source};
use sslmem::random::{Purpose, Stream};
use sslmem::view::{Blur, Crop, Drawn, Jitter, POLICIES, Scratch, View, WORDS, policy, render, sheet};

fn stream(sample: u32, view: u32) -> Stream {
    Stream::new(7, Purpose::Train, 3, sample, view)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[derive(Deserialize)]
struct Case {
    name: String,
    image: usize,
    view: View,
    drawn: Drawn,
}

#[test]
fn equals_torchvision() {
    let bytes = include_bytes!("golden/augment.safetensors");
    let file = SafeTensors::deserialize(bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let cases = &header.metadata().as_ref().unwrap()["cases"];
    let cases: Vec<Case> = serde_json::from_str(cases).unwrap();
    assert!(cases.len() > 24);
    let mut scratch = Scratch::default();
    for (i, case) in cases.iter().enumerate() {
        case.view.validate().unwrap();
        let image = file.tensor(&format!("image_{}", case.image)).unwrap();
        let expected = floats(file.tensor(&format!("case_{i}")).unwrap().data());
        let mut out = vec![f32::NAN; case.view.len()];
        let (height, width) = (image.shape()[0], image.shape()[1]);
        render(&case.view, &case.drawn, image.data(), height, width, &mut out, &mut scratch);
        let worst = out.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // In units of the image's range; a missing value (NaN) fails too.
        let worst = worst * case.view.std.iter().fold(0.0, |a: f32, b| a.max(*b));
        assert!(out.iter().all(|v| v.is_finite()), "{}: not finite", case.name);
        assert!(worst < 1e-5, "{}: differs by {worst}", case.name);
    }
}

/// Waves and noise; every size gives another image.
pub fn picture(height: usize, width: usize) -> Vec<u8> {
    let mut noise = Stream::new(1, Purpose::Synthetic, height as u32, width as u32, 0);
    let value = |i: usize| ((i / 3 % width * 5 + i / 3 / width * 3 + i % 3 * 80) % 200) as u32;
    (0..height * width * 3).map(|i| (value(i) + noise.below(56)) as u8).collect()
}

fn busy(size: usize) -> View {
    let mut view = policy("simclr_imagenet", size).unwrap();
    view.solarize = Some(sslmem::view::Solarize { threshold: 0.5, p: 0.5 });
    view
}

#[test]
fn a_view_is_a_function_of_its_numbers() {
    let view = busy(24);
    let (height, width) = (40, 33);
    let pixels = picture(height, width);
    let make = |sample, v, scratch: &mut Scratch| {
        let mut out = vec![0.0; view.len()];
        let drawn = view.draw(&mut stream(sample, v), height, width);
        render(&view, &drawn, &pixels, height, width, &mut out, scratch);
        (drawn, out)
    };
    let alone = make(5, 2, &mut Scratch::default());
    let mut used = Scratch::default();
    for v in 0..20 {
        make(v, 19 - v, &mut used);
    }
    let large = policy("simclr_imagenet", 64).unwrap();
    let drawn = large.draw(&mut stream(0, 0), height, width);
    render(&large, &drawn, &pixels, height, width, &mut vec![0.0; large.len()], &mut used);
    assert_eq!(alone, make(5, 2, &mut used));
    assert_ne!(alone.0, make(5, 1, &mut used).0);
    assert_ne!(alone.0, make(4, 2, &mut used).0);
}

#[test]
fn every_draw_takes_the_same_words() {
    let mut reference = stream(1, 1);
    for _ in 0..WORDS {
        reference.bits();
    }
    let next = reference.bits();
    for (name, make) in POLICIES {
        let view = make(32);
        for (height, width) in [(32, 32), (1, 1), (3, 500), (500, 3), (224, 224)] {
            let mut stream = stream(1, 1);
            view.draw(&mut stream, height, width);
            assert_eq!(stream.bits(), next, "{name} on {height} x {width}");
        }
    }
    // The table of `View::draw`: the flip is word 40, so it stays when the crop has another meaning.
    let view = policy("simclr", 32).unwrap();
    let whole = View { crop: Crop::Whole, ..view };
    for v in 0..50 {
        let (a, b) = (view.draw(&mut stream(0, v), 32, 32), whole.draw(&mut stream(0, v), 9, 70));
        assert_eq!(Drawn { top: 0, left: 0, height: 9, width: 70, ..a }, b);
        let mut words = stream(0, v);
        (0..40).for_each(|_| _ = words.bits());
        assert_eq!(a.flip, words.uniform() < 0.5);
    }
}

#[test]
fn draws_have_the_policy_s_distribution() {
    let view = busy(32);
    let (height, width) = (300, 400);
    let n = 20_000;
    let drawn: Vec<Drawn> = (0..n).map(|v| view.draw(&mut stream(0, v), height, width)).collect();
    let share = |of: &dyn Fn(&Drawn) -> bool| drawn.iter().filter(|d| of(d)).count() as f64 / n as f64;
    let near = |value: f64, expected: f64, what: &str| {
        // Six standard errors of a share, whose deviation is at most a half.
        assert!((value - expected).abs() < 6.0 * 0.5 / (n as f64).sqrt(), "{what}: {value} for {expected}");
    };
    near(share(&|d| d.flip), 0.5, "flip");
    near(share(&|d| d.jitter), 0.8, "jitter");
    near(share(&|d| d.gray), 0.2, "gray");
    near(share(&|d| d.sigma > 0.0), 0.5, "blur");
    near(share(&|d| d.solarize), 0.5, "solarize");
    near(share(&|d| d.brightness < 1.0), 0.5, "brightness");
    near(share(&|d| d.contrast < 0.6), 0.25, "contrast");
    near(share(&|d| d.saturation > 1.4), 0.25, "saturation");
    near(share(&|d| d.hue > 0.1), 0.25, "hue");
    for d in &drawn {
        assert!(d.top + d.height <= height as u32 && d.left + d.width <= width as u32);
        let area = (d.height * d.width) as f64 / (height * width) as f64;
        assert!((0.079..=1.0).contains(&area), "area {area}");
        let ratio = d.width as f64 / d.height as f64;
        assert!((0.74..=1.35).contains(&ratio), "ratio {ratio}");
        assert!((0.2..1.8).contains(&d.brightness) && (-0.2..0.2).contains(&d.hue));
        assert!(d.sigma == 0.0 || (0.1..2.0).contains(&d.sigma));
    }
    // Small boxes nearly always fit at once, so their areas and logarithmic ratios are uniform.
    let small = View { crop: Crop::Random { scale: [0.1, 0.2], ratio: [0.5, 2.0] }, ..view };
    let boxes: Vec<Drawn> = (0..n).map(|v| small.draw(&mut stream(1, v), 800, 800)).collect();
    let share = |of: &dyn Fn(&Drawn) -> bool| boxes.iter().filter(|d| of(d)).count() as f64 / n as f64;
    near(share(&|d| ((d.height * d.width) as f64) < 0.15 * 640_000.0), 0.5, "area");
    near(share(&|d| d.width < d.height), 0.5, "ratio");
    near(share(&|d| (d.width as f64) < d.height as f64 * 0.5f64.sqrt()), 0.25, "logarithmic ratio");
    near(share(&|d| 2 * d.top < 800 - d.height), 0.5, "top");
    near(share(&|d| 2 * d.left < 800 - d.width), 0.5, "left");
    let mut orders = HashMap::new();
    drawn.iter().for_each(|d| *orders.entry(d.order).or_insert(0) += 1);
    assert_eq!(orders.len(), 24);
    orders.values().for_each(|count| near(*count as f64 / n as f64, 1.0 / 24.0, "order"));
}

#[test]
fn a_crop_that_never_fits_falls_back_to_the_middle() {
    let view = policy("simclr", 32).unwrap();
    let large = View { crop: Crop::Random { scale: [1.0, 1.0], ratio: [0.75, 4.0 / 3.0] }, ..view };
    let corner = |height, width| {
        let d = large.draw(&mut stream(0, 0), height, width);
        (d.top, d.left, d.height, d.width)
    };
    // torchvision: width 200, height round(200 / 0.75) = 267, or the other way round.
    assert_eq!(corner(1000, 200), (366, 0, 267, 200));
    assert_eq!(corner(200, 1000), (0, 366, 200, 267));
    let narrow = View { crop: Crop::Random { scale: [0.5, 0.5], ratio: [100.0, 200.0] }, ..large };
    let d = narrow.draw(&mut stream(0, 0), 40, 40);
    assert_eq!((d.top, d.left, d.height, d.width), (19, 0, 1, 40));
}

#[test]
fn an_original_of_the_right_size_keeps_its_pixels() {
    let pixels = picture(32, 32);
    let view = policy("original", 32).unwrap().normalized([0.0; 3], [1.0; 3]);
    let drawn = view.draw(&mut stream(0, 0), 32, 32);
    let mut out = vec![0.0; view.len()];
    render(&view, &drawn, &pixels, 32, 32, &mut out, &mut Scratch::default());
    assert!(out.iter().zip(&pixels).all(|(a, b)| *a == *b as f32 * (1.0 / 255.0)));
}

#[test]
fn a_flat_image_stays_flat() {
    let view = View { solarize: None, ..busy(33) }.normalized([0.0; 3], [1.0; 3]);
    let pixels = vec![128; 61 * 47 * 3];
    for v in 0..50 {
        let drawn = Drawn { jitter: false, ..view.draw(&mut stream(0, v), 61, 47) };
        let mut out = vec![0.0; view.len()];
        render(&view, &drawn, &pixels, 61, 47, &mut out, &mut Scratch::default());
        let gray = 128.0 / 255.0 * if drawn.gray { 0.9999 } else { 1.0 };
        assert!(out.iter().all(|x| (x - gray).abs() < 1e-5), "{drawn:?}");
    }
}

/// Bicubic resizing leaves red below zero beside green and blue of exactly zero: torchvision's hue
/// divides by zero there.
#[test]
fn a_hue_of_undershoot_is_a_number() {
    let view = busy(64);
    let pixels: Vec<u8> = (0..16 * 16 * 3).map(|i| if i % 3 == 0 && i / 12 % 2 == 0 { 255 } else { 0 }).collect();
    let drawn = (0..).map(|v| view.draw(&mut stream(0, v), 16, 16)).find(|d| d.jitter && d.order[0] == 3);
    let drawn = Drawn { top: 0, left: 0, height: 16, width: 16, ..drawn.unwrap() };
    let mut out = vec![f32::NAN; view.len()];
    render(&view, &drawn, &pixels, 16, 16, &mut out, &mut Scratch::default());
    assert!(out.iter().all(|v| v.is_finite()));
}

#[test]
fn policies_survive_toml_and_json() {
    for (name, make) in POLICIES {
        let view = make(224);
        view.validate().unwrap();
        let text = toml::to_string(&view).unwrap();
        assert!(!text.contains("00000"), "{name} is not readable: {text}");
        assert_eq!(toml::from_str::<View>(&text).unwrap(), view, "{text}");
        assert_eq!(serde_json::from_str::<View>(&serde_json::to_string(&view).unwrap()).unwrap(), view);
        let mut sizes = [8, 32, 96].map(make);
        sizes.iter_mut().for_each(|v| v.blur = None);
        sizes.iter().for_each(|v| v.validate().unwrap());
    }
    let wrong = toml::to_string(&policy("score", 32).unwrap()).unwrap() + "\n[blurr]\np = 1.0\n";
    assert!(toml::from_str::<View>(&wrong).unwrap_err().to_string().contains("blurr"));
}

#[test]
fn impossible_policies_are_refused() {
    let good = || policy("simclr_imagenet", 224).unwrap();
    let blur = |sigma, kernel| Some(Blur { sigma, kernel, p: 0.5 });
    let jitter = |brightness, hue, p| Some(Jitter { brightness, contrast: 0.1, saturation: 0.1, hue, p });
    let cases = [
        (View { size: 0, ..good() }, "size 0"),
        (View { flip: 1.5, ..good() }, "flip is 1.5"),
        (View { gray: f32::NAN, ..good() }, "gray is NaN"),
        (View { std: [1.0, 0.0, 1.0], ..good() }, "std is"),
        (View { mean: [f32::INFINITY; 3], ..good() }, "mean is"),
        (View { crop: Crop::Random { scale: [0.5, 0.1], ratio: [1.0; 2] }, ..good() }, "crop.random.scale is [0.5, 0.1]"),
        (View { crop: Crop::Random { scale: [0.5, 1.0], ratio: [0.0, 1.0] }, ..good() }, "crop.random.ratio"),
        (View { crop: Crop::Center { resize: 100 }, ..good() }, "fewer than the view's size 224"),
        (View { blur: blur([0.1, 2.0], Some(8)), ..good() }, "blur.kernel is 8"),
        (View { blur: blur([0.0, 2.0], None), ..good() }, "blur.sigma"),
        (View { size: 6, blur: blur([0.1, 2.0], None), ..good() }, "a blur of 13 pixels"),
        (View { jitter: jitter(-0.1, 0.1, 0.5), ..good() }, "jitter.brightness is -0.1"),
        (View { jitter: jitter(0.1, 0.6, 0.5), ..good() }, "jitter.hue is 0.6"),
        (View { jitter: jitter(0.1, 0.1, 2.0), ..good() }, "jitter.p is 2"),
    ];
    for (view, message) in cases {
        let error = view.validate().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(message), "{error}");
    }
    good().validate().unwrap();
}

struct Pictures;

impl Source for Pictures {
    fn len(&self) -> usize {
        9
    }
    fn train_len(&self) -> usize {
        9
    }
    fn id(&self, index: usize) -> String {
        format!("train/{index}")
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn digest(&self) -> &str {
        ""
    }
    fn largest(&self) -> usize {
        40 * 50 * 3
    }
    fn image(&self, index: usize) -> Result<Image> {
        let (height, width) = (30 + index, 40 + index);
        Ok(Image { height, width, pixels: picture(height, width) })
    }
}

#[test]
fn the_sheet_has_a_row_for_each_sample() {
    let view = policy("score", 32).unwrap();
    let image = sheet::draw(&Pictures, &view, &[4, 0], 3, 0).unwrap();
    assert_eq!(image.dimensions(), (4 * 100 + 4, 2 * 100 + 4));
    assert_eq!(image, sheet::draw(&Pictures, &view, &[4, 0], 3, 0).unwrap());
    let swapped = sheet::draw(&Pictures, &view, &[0, 4], 3, 0).unwrap();
    assert!((0..404).all(|x| (4..100).all(|y| image.get_pixel(x, y) == swapped.get_pixel(x, y + 100))));
    for (samples, views) in [(&[][..], 3), (&[0][..], 0), (&[9][..], 1)] {
        assert_eq!(sheet::draw(&Pictures, &view, samples, views, 0).unwrap_err().exit_code(), 2);
    }
}

#[test]
fn exported_views_can_be_rendered_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("views.safetensors");
    let view = policy("score", 16).unwrap();
    let samples: Vec<usize> = (0..70).map(|i| i * 5 % 9).collect();
    sheet::export(&Pictures, &view, &samples, 2, 11, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!(metadata["seed"], "11");
    assert_eq!(serde_json::from_str::<View>(&metadata["policy"]).unwrap(), view);

    let values = floats(file.tensor("views").unwrap().data());
    assert_eq!(file.tensor("views").unwrap().shape(), [70, 2, 16, 16, 3]);
    let words = |name| -> Vec<u32> {
        let data = file.tensor(name).unwrap().data();
        data.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let (crop, exported) = (words("crop"), words("samples"));
    let (factors, sigma) = (floats(file.tensor("factors").unwrap().data()), floats(file.tensor("sigma").unwrap().data()));
    let bytes_of = |name| file.tensor(name).unwrap().data();
    for place in 0..140 {
        let [top, left, height, width] = std::array::from_fn(|i| crop[place * 4 + i]);
        let [brightness, contrast, saturation, hue] = std::array::from_fn(|i| factors[place * 4 + i]);
        let flag = |name| bytes_of(name)[place] == 1;
        let drawn = Drawn {
            top,
            left,
            height,
            width,
            flip: flag("flip"),
            jitter: flag("jitter"),
            order: std::array::from_fn(|i| bytes_of("order")[place * 4 + i]),
            brightness,
            contrast,
            saturation,
            hue,
            gray: flag("gray"),
            sigma: sigma[place],
            solarize: flag("solarize"),
        };
        let sample = samples[place / 2];
        assert_eq!(exported[place / 2] as usize, sample);
        let image = Pictures.image(sample).unwrap();
        let mut stream = Stream::new(11, Purpose::Score, 0, sample as u32, place as u32 % 2);
        assert_eq!(drawn, view.draw(&mut stream, image.height, image.width));
        let mut out = vec![0.0; view.len()];
        render(&view, &drawn, &image.pixels, image.height, image.width, &mut out, &mut Scratch::default());
        assert_eq!(out, values[place * view.len()..(place + 1) * view.len()]);
    }
    let again = folder.path().join("again.safetensors");
    sheet::export(&Pictures, &view, &samples, 2, 11, &again).unwrap();
    assert_eq!(bytes, std::fs::read(again).unwrap());

    let nowhere = sheet::export(&Pictures, &view, &samples, 2, 11, Path::new("no/such/folder/views.safetensors"));
    assert!(nowhere.unwrap_err().to_string().starts_with("cannot write"));
    let refused = folder.path().join("refused.safetensors");
    assert!(sheet::export(&Pictures, &view, &[99], 2, 11, &refused).is_err());
    assert!(!refused.exists());
}
