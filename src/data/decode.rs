//! From the bytes of an image file to 8-bit RGB, as torchvision's `default_loader` does it.

use std::ffi::OsStr;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use super::budget::{DECODING, Pledge};
use super::limits::{LIMIT, PIXELS, too_many};
use super::reading::{Exif, Reading};
use super::{Image, gif, jpeg};

/// Smaller images are decoded without asking the budget, because few threads decode at once.
const SMALL: u64 = 16 << 20;

/// Fixed memory of a decoder in bytes: tables and input buffers.
const BESIDE: u64 = 1 << 20;

/// Images from this size on, in bytes, are held to [`DENSEST`].
const LARGE: u64 = 64 << 20;

/// Most pixels per byte of a file. Deflate and LZW stay below it even for an empty image. WebP can code any number of pixels of one colour
/// in 34 bytes, which could fill the memory.
const DENSEST: u64 = 1 << 14;

/// Whether the name has the ending of an image format with a decoder here.
pub fn is_image(name: &OsStr) -> bool {
    let path = Path::new(name);
    // JPEGs do not go through the `image` crate. It lacks the last of these endings, which Python's `mimetypes` has.
    ImageFormat::from_path(path).is_ok_and(|format| format == ImageFormat::Jpeg || format.reading_enabled())
        || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpe"))
}

/// Height and width, from the header alone.
pub fn size(bytes: &[u8], name: &str) -> Result<(usize, usize), String> {
    demands(bytes, name).map(|demands| (demands.height, demands.width))
}

/// Contents of a header.
struct Demands {
    height: usize,
    width: usize,
    /// Most memory while the image is decoded, in bytes, with its pixels.
    memory: u64,
}

fn demands(bytes: &[u8], name: &str) -> Result<Demands, String> {
    let Some(_pledge) = Pledge::of(BESIDE) else {
        return Err(format!("reading its header needs {} MiB of memory, which cannot be had", BESIDE >> 20));
    };
    guarded(|| {
        let of = |(height, width): (usize, usize), each: u64| Demands { height, width, memory: (height * width) as u64 * each + BESIDE };
        if jpeg::is_jpeg(bytes) {
            return Ok(of(jpeg::size(bytes)?, jpeg::bytes_per_pixel(bytes)?));
        }
        if gif::is_gif(bytes) {
            return Ok(of(gif::size(bytes)?, 4));
        }
        let decoder = decoder(bytes, name)?;
        let (width, height) = decoder.dimensions();
        let (colour, pixels) = (decoder.color_type(), u64::from(width) * u64::from(height));
        let is = |mark: &[u8], at: usize| bytes.get(at..).is_some_and(|rest| rest.starts_with(mark));
        let inner = match bytes {
            // A frame and its canvas, with four channels.
            _ if is(b"WEBP", 8) => 8 * pixels,
            // The stored samples, which may have four channels (CMYK).
            _ if is(b"II", 0) || is(b"MM", 0) => decoder.total_bytes() + 2 * pixels,
            _ => 0,
        };
        // Other types than 8-bit RGB are converted into a second buffer.
        let anew = if colour == ColorType::Rgb8 { 0 } else { 3 * pixels };
        let memory = decoder.total_bytes() + inner + anew + bytes.len() as u64 + BESIDE;
        Ok(Demands { height: height as usize, width: width as usize, memory })
    })
}

/// The image as 8-bit RGB. Grey is repeated, alpha is dropped (not blended), 16 bits keep the upper eight, an animation gives its first
/// frame. EXIF orientation and colour profiles are ignored, but see [`Exif`](super::Exif). JPEGs have Pillow's bytes.
///
/// Differences from Pillow: 16-bit grey, which Pillow clips at 255 instead of scaling; a damaged JPEG, which is refused; a GIF without any
/// palette, which is refused; a large image of one colour in a file that is too small for its size.
///
/// A large image waits until the budget [`DECODING`] has room for it.
///
/// # Errors
/// The image is damaged or refused (one sentence without its name), or there is no memory for it.
pub fn decode(bytes: &[u8], name: &str) -> Result<Image, String> {
    lent(|admit| decode_within(bytes, name, Reading::USUAL, admit))
}

/// Runs `work`, which decodes, and waits until the budget has the memory that it asks for.
pub fn lent<T, E>(work: impl FnOnce(&mut dyn FnMut(u64) -> bool) -> Result<Option<T>, E>) -> Result<T, E> {
    let mut loan = None;
    let decoded = work(&mut |memory| {
        loan = (memory > SMALL).then(|| DECODING.wait(memory));
        true
    });
    Ok(decoded?.expect("memory was lent, so it was decoded"))
}

/// As [`decode`] with the settings `reading`, if `admit` grants the bytes of memory.
///
/// # Errors
/// As [`decode`].
pub fn decode_within(bytes: &[u8], name: &str, reading: Reading, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<Image>, String> {
    let Demands { height, width, memory } = demands(bytes, name)?;
    let (pixels, most) = ((height * width) as u64, reading.max_pixels);
    // Turning needs a second copy of the image.
    let memory = if reading.exif == Exif::Turn { memory.max(6 * pixels + BESIDE) } else { memory };
    if pixels > most {
        return Err(too_many(height, width, most));
    }
    if pixels * 3 > LARGE && pixels / DENSEST > bytes.len() as u64 {
        return Err(format!("{} bytes cannot hold {width} x {height} pixels of a picture", bytes.len()));
    }
    if !admit(memory) {
        return Ok(None);
    }
    let Some(_pledge) = Pledge::of(memory) else {
        return Err(format!("decoding {width} x {height} pixels needs {} MiB of memory, which cannot be had", memory.div_ceil(1 << 20)));
    };
    let image = guarded(|| match bytes {
        _ if jpeg::is_jpeg(bytes) => jpeg::decode(bytes),
        _ if gif::is_gif(bytes) => gif::decode(bytes),
        _ => other(bytes, name),
    })?;
    // The header's size was admitted, so the image must have that size.
    if (image.height, image.width) != (height, width) {
        return Err("the image has another size than its header says".into());
    }
    Ok(Some(if reading.exif == Exif::Turn { exif_upright(image, bytes, name)? } else { image }))
}

/// Decoders are third-party code: a panic in one must be one bad image, not the end of a run.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err("the image is damaged in a way that its decoder cannot bear".into()))
}

/// Decodes any format but JPEG.
fn other(bytes: &[u8], name: &str) -> Result<Image, String> {
    let decoder = decoder(bytes, name)?;
    let image = DynamicImage::from_decoder(decoder).map_err(plain)?;
    let (height, width) = (image.height() as usize, image.width() as usize);
    let (channels, pixels) = eight_bits(image).ok_or("the pixel format is not known")?;
    let pixels = match channels {
        3 => pixels,
        4 => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        _ => pixels.chunks_exact(channels).flat_map(|p| [p[0]; 3]).collect(),
    };
    Ok(Image { height, width, pixels })
}

/// An image with its EXIF orientation applied, if its file has one.
///
/// # Errors
/// The image has no pixels.
fn exif_upright(image: Image, bytes: &[u8], name: &str) -> Result<Image, String> {
    let orientation = if jpeg::is_jpeg(bytes) {
        jpeg::exif(bytes).and_then(Orientation::from_exif_chunk)
    } else {
        decoder(bytes, name).ok().and_then(|mut decoder| decoder.orientation().ok())
    };
    let Some(orientation) = orientation.filter(|o| *o != Orientation::NoTransforms) else { return Ok(image) };
    let picture = RgbImage::from_raw(image.width as u32, image.height as u32, image.pixels).ok_or("the image has no pixels")?;
    let mut picture = DynamicImage::ImageRgb8(picture);
    picture.apply_orientation(orientation);
    let (height, width) = (picture.height() as usize, picture.width() as usize);
    Ok(Image { height, width, pixels: picture.into_rgb8().into_raw() })
}

/// A decoder that has read the header and accepted its sizes. The format is that of the content if it shows, else that of the ending.
fn decoder<'a>(bytes: &'a [u8], name: &str) -> Result<impl ImageDecoder + 'a, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes));
    if let Ok(format) = ImageFormat::from_path(name) {
        reader.set_format(format);
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(LIMIT);
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    // A file named as a JPEG that does not begin like one is refused, as in Pillow. The crate's JPEG decoder panics on some such files.
    if reader.format() == Some(ImageFormat::Jpeg) {
        return Err("this does not begin like a JPEG".into());
    }
    let decoder = reader.into_decoder().map_err(plain)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err("the image has no pixels".into());
    }
    if decoder.total_bytes() > LIMIT {
        return Err(too_many(height as usize, width as usize, PIXELS));
    }
    Ok(decoder)
}

/// Channels per pixel and their 8-bit values.
fn eight_bits(image: DynamicImage) -> Option<(usize, Vec<u8>)> {
    let upper = |values: &[u16]| values.iter().map(|v| (v >> 8) as u8).collect();
    let unit = |values: &[f32]| values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    Some(match image {
        DynamicImage::ImageLuma8(i) => (1, i.into_raw()),
        DynamicImage::ImageLumaA8(i) => (2, i.into_raw()),
        DynamicImage::ImageRgb8(i) => (3, i.into_raw()),
        DynamicImage::ImageRgba8(i) => (4, i.into_raw()),
        DynamicImage::ImageLuma16(i) => (1, upper(i.as_raw())),
        DynamicImage::ImageLumaA16(i) => (2, upper(i.as_raw())),
        DynamicImage::ImageRgb16(i) => (3, upper(i.as_raw())),
        DynamicImage::ImageRgba16(i) => (4, upper(i.as_raw())),
        DynamicImage::ImageRgb32F(i) => (3, unit(i.as_raw())),
        DynamicImage::ImageRgba32F(i) => (4, unit(i.as_raw())),
        _ => return None,
    })
}

/// The decoder's error on one line.
fn plain(error: ImageError) -> String {
    let text = match error {
        ImageError::Limits(_) => format!("the image would need more than {} MiB", LIMIT >> 20),
        ImageError::Unsupported(e) => format!("this kind of image is not supported ({e})"),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
