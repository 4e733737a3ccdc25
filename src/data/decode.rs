//! From the bytes of an image file to 8-bit RGB, as torchvision's `default_loader` does it.

use std::ffi::OsStr;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use super::{Image, gif, jpeg};

/// Bytes that one decoded image may need (height * width * 3), and bytes that its file may have.
pub const LIMIT: u64 = 512 << 20;

/// Whether the name ends like an image that can be read here.
pub fn is_image(name: &OsStr) -> bool {
    let path = Path::new(name);
    // Python's `mimetypes` has this ending for JPEGs, the crate has not.
    ImageFormat::from_path(path).is_ok_and(|format| format.reading_enabled())
        || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpe"))
}

/// Height and width, from the header alone.
pub fn size(bytes: &[u8], name: &str) -> Result<(usize, usize), String> {
    guarded(|| {
        if jpeg::is_jpeg(bytes) {
            return jpeg::size(bytes);
        }
        if gif::is_gif(bytes) {
            return gif::size(bytes);
        }
        let (width, height) = decoder(bytes, name)?.dimensions();
        Ok((height as usize, width as usize))
    })
}

/// The image as 8-bit RGB. Grey is repeated, alpha is dropped (not blended), of 16 bits the upper eight
/// stay, of an animation the first frame. EXIF orientation and colour profiles are ignored, but see [`Exif`](super::Exif). JPEGs come
/// out as the bytes that Pillow makes of them.
///
/// Differences from Pillow: 16-bit grey, which Pillow clips at 255 instead of scaling; and a damaged JPEG, which is refused.
///
/// # Errors
/// What is wrong with the image, in one sentence without its name.
pub fn decode(bytes: &[u8], name: &str) -> Result<Image, String> {
    guarded(|| match bytes {
        _ if jpeg::is_jpeg(bytes) => jpeg::decode(bytes),
        _ if gif::is_gif(bytes) => gif::decode(bytes),
        _ => other(bytes, name),
    })
}

/// Decoders are the code of others: should one panic at something, that is one bad image, not the end of a run.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| Err("the image is damaged in a way that its decoder cannot bear".into()))
}

/// An image that is no JPEG.
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

/// An image turned as its file says, where that has EXIF data with an orientation.
///
/// # Errors
/// The image has no pixels.
pub fn turned(image: Image, bytes: &[u8], name: &str) -> Result<Image, String> {
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

/// A decoder that has read the header and found its demands acceptable. The format is told by the content
/// where that is possible, else by the ending of the name.
fn decoder<'a>(bytes: &'a [u8], name: &str) -> Result<impl ImageDecoder + 'a, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes));
    if let Ok(format) = ImageFormat::from_path(name) {
        reader.set_format(format);
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(LIMIT);
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    // What is called a JPEG and does not begin like one is none to Pillow either, and the other decoder of JPEGs panics at some of it.
    if reader.format() == Some(ImageFormat::Jpeg) {
        return Err("this does not begin like a JPEG".into());
    }
    let decoder = reader.into_decoder().map_err(plain)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err("the image has no pixels".into());
    }
    if decoder.total_bytes() > LIMIT {
        return Err(format!("the image has {width} x {height} pixels and would need more than {} MiB", LIMIT >> 20));
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

/// The decoder's reason on one line.
fn plain(error: ImageError) -> String {
    let text = match error {
        ImageError::Limits(_) => format!("the image would need more than {} MiB", LIMIT >> 20),
        ImageError::Unsupported(e) => format!("this kind of image is not supported ({e})"),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
