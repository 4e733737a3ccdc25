//! JPEG as Pillow reads it: libjpeg-turbo's arithmetic (accurate DCT, smooth upsampling), then `convert("RGB")`.

use libjpeg_turbo_rs::{DecodeLimits, Decoder, FrameHeader, JpegError, PixelFormat};

use super::limits::{LIMIT, PIXELS, too_many};
use super::{Image, planes};

/// Most scans of a progressive file. Encoders write about ten, and each takes as long as a whole baseline file.
const SCANS: usize = 500;

/// Most pixels per byte: a Huffman code takes at least one bit for a block of 64. Arithmetic coding may take less for blank images; these
/// are refused together with files of some hundred bytes that would decode to 500 MB.
const DENSEST: u64 = 8 * 64;

/// Whether the bytes begin like a JPEG.
pub fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xFF, 0xD8, 0xFF])
}

/// Height and width from the frame header, which may follow any number of other segments.
pub fn size(bytes: &[u8]) -> Result<(usize, usize), String> {
    frame(bytes).map(|frame| frame.size)
}

/// Most memory of decoding, in bytes per pixel: the components twice (as planes, and upsampled or interleaved), the RGB result, and for a
/// progressive file the coefficients.
pub fn bytes_per_pixel(bytes: &[u8]) -> Result<u64, String> {
    let Frame { marker, components, .. } = frame(bytes)?;
    let coefficients = if matches!(marker, 0xC2 | 0xC6 | 0xCA | 0xCE) { 2 * components } else { 0 };
    Ok(2 * components + 3 + coefficients)
}

/// Contents of the frame header.
struct Frame {
    marker: u8,
    components: u64,
    /// Height and width.
    size: (usize, usize),
}

fn frame(bytes: &[u8]) -> Result<Frame, String> {
    let mut at = 2;
    loop {
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(0xFF), Some(0xFF)) => at += 1,
            (Some(0xFF), Some(0x01 | 0xD0..=0xD8)) => at += 2,
            (Some(0xFF), Some(0xD9 | 0xDA)) => return Err("the JPEG has no frame header".into()),
            (Some(0xFF), Some(&marker)) => {
                let Some(head) = bytes.get(at + 2..at + 10) else { return Err(SHORT.into()) };
                let two = |n: usize| u16::from_be_bytes([head[n], head[n + 1]]) as usize;
                if matches!(marker, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF) {
                    return Ok(Frame { marker, components: head[7].into(), size: acceptable(two(3), two(5))? });
                }
                at += 2 + two(0);
            }
            // Bytes between two segments are skipped, as in libjpeg.
            (Some(_), Some(_)) => at += 1,
            _ => return Err(SHORT.into()),
        }
    }
}

/// The EXIF data without its prefix.
pub fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 2;
    loop {
        match (bytes.get(at)?, bytes.get(at + 1)?) {
            (0xFF, 0x01 | 0xD0..=0xD8) => at += 2,
            (0xFF, 0xD9 | 0xDA) => return None,
            (0xFF, marker) if *marker != 0xFF => {
                let segment = bytes.get(at + 2..at + 2 + u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]) as usize)?;
                match segment.get(2..).and_then(|data| data.strip_prefix(b"Exif\0\0")) {
                    Some(exif) if *marker == 0xE1 => return Some(exif),
                    _ => at += 2 + segment.len(),
                }
            }
            _ => at += 1,
        }
    }
}

const SHORT: &str = "the JPEG is cut short";

fn acceptable(height: usize, width: usize) -> Result<(usize, usize), String> {
    match (height as u64 * width as u64 * 3).cmp(&LIMIT) {
        _ if height == 0 || width == 0 => Err("the image has no pixels".into()),
        std::cmp::Ordering::Greater => Err(too_many(height, width, PIXELS)),
        _ => Ok((height, width)),
    }
}

/// The pixels of a whole file: grey repeated, CMYK and YCCK converted as Pillow does it.
///
/// Pillow fills the missing part of a damaged file with grey and says nothing. Here that is an error, because the grey would be scored as
/// part of the image.
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    let (height, width) = size(bytes)?;
    if !is_whole(bytes) {
        return Err("the JPEG is cut short (no end-of-image marker)".into());
    }
    pixels(bytes, height, width)
}

fn pixels(bytes: &[u8], height: usize, width: usize) -> Result<Image, String> {
    let limits = DecodeLimits {
        max_pixels: LIMIT / 3,
        max_scans: SCANS,
        max_memory: Some(4 * LIMIT), // a progressive file's coefficients are kept, too
        ..DecodeLimits::default()
    };
    let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(plain)?;
    let header = decoder.header().clone();
    if (header.height(), header.width()) != (height, width) {
        return Err("the JPEG has two sizes".into());
    }
    if header.precision != 8 || header.is_lossless {
        return Err(format!("this kind of JPEG is not supported ({} bits a sample)", header.precision));
    }
    if (height * width) as u64 > DENSEST * bytes.len() as u64 {
        return Err(format!("{} bytes cannot hold {width} x {height} pixels", bytes.len()));
    }
    let format = match header.components.len() {
        1 => PixelFormat::Grayscale,
        3 => PixelFormat::Rgb,
        4 => PixelFormat::Cmyk,
        n => return Err(format!("this kind of JPEG is not supported ({n} components)")),
    };
    decoder.set_output_format(format);
    let data = if is_usual(&header) {
        decoder.decode_image().map_err(plain)?.data
    } else {
        let space = decoder.jpeg_color_space();
        planes::pixels(decoder.decode_raw().map_err(plain)?, &header, space)?
    };
    let pixels = match format {
        PixelFormat::Rgb => data,
        PixelFormat::Cmyk => data.chunks_exact(4).flat_map(|p| from_cmyk([p[0], p[1], p[2], p[3]])).collect(),
        _ => data.iter().flat_map(|&v| [v; 3]).collect(),
    };
    if pixels.len() != height * width * 3 {
        return Err("the JPEG has fewer pixels than it announces".into());
    }
    Ok(Image { height, width, pixels })
}

/// Whether the decoder itself upsamples the components as libjpeg does: for one component, or for three where luma is the largest and both
/// chroma are sampled alike.
fn is_usual(header: &FrameHeader) -> bool {
    match &header.components[..] {
        [_] => true,
        [first, second, third] => {
            let [first, second, third] = [first, second, third].map(|c| [c.horizontal_sampling, c.vertical_sampling]);
            second == third && first[0] >= second[0] && first[1] >= second[1]
        }
        _ => false,
    }
}

/// As Pillow: every JPEG of four components is taken for inverted, as Adobe writes them, and converted without a colour profile.
fn from_cmyk(stored: [u8; 4]) -> [u8; 3] {
    let [c, m, y, k] = stored.map(|v| 255 - v as i32);
    let rest = 255 - k;
    [c, m, y].map(|ink| {
        let product = ink * rest + 128;
        (rest - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
    })
}

/// Whether the file has its end-of-image marker. A truncated file has it only by chance.
fn is_whole(bytes: &[u8]) -> bool {
    bytes.ends_with(&[0xFF, 0xD9]) || reaches_its_end(bytes)
}

fn reaches_its_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while at + 1 < bytes.len() {
        match (bytes[at], bytes[at + 1]) {
            (0xFF, 0xD9) => return true,
            // Fill bytes, stuffed zeros, restart markers and markers without a length.
            (0xFF, 0xFF) => at += 1,
            (0xFF, 0x00 | 0x01 | 0xD0..=0xD8) => at += 2,
            (0xFF, _) => match bytes.get(at + 2..at + 4) {
                Some(length) => at += 2 + u16::from_be_bytes([length[0], length[1]]) as usize,
                None => return false,
            },
            // Entropy-coded data.
            _ => at += 1,
        }
    }
    false
}

/// The decoder's reason on one line.
fn plain(error: JpegError) -> String {
    let text = match error {
        JpegError::LimitExceeded { what: "estimated decode memory" | "total pixels", .. } => {
            format!("the image would need more than {} MiB", LIMIT >> 20)
        }
        JpegError::UnexpectedEof => "the JPEG is cut short or damaged (its data ends before its last pixel)".into(),
        other => format!("the JPEG is damaged ({other})"),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
