//! The first frame of a GIF on its canvas, as Pillow composes it.

use gif::{ColorOutput, DecodeOptions, Frame, MemoryLimit};

use super::Image;
use super::limits::{LIMIT, PIXELS, too_many};

/// Whether the bytes begin like a GIF.
pub fn is_gif(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GIF8")
}

/// Height and width of the canvas, enlarged if the first frame reaches beyond it.
pub fn size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let mut decoder = open(bytes)?;
    let canvas = [decoder.height(), decoder.width()].map(usize::from);
    let frame = decoder.next_frame_info().map_err(plain)?.ok_or("the GIF has no image")?;
    match extent(canvas, frame) {
        (0, _) | (_, 0) => Err("the image has no pixels".into()),
        (height, width) if (height * width) as u64 > PIXELS => Err(too_many(height, width, PIXELS)),
        size => Ok(size),
    }
}

/// Around the frame lies the transparent colour if there is one, else the first of the palette, as in Pillow. Transparency itself is
/// dropped.
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    let mut decoder = open(bytes)?;
    let canvas = [decoder.height(), decoder.width()].map(usize::from);
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame().map_err(plain)?.ok_or("the GIF has no image")?;
    let (height, width) = extent(canvas, frame); // the caller asked the budget for this size
    let colours = colours(frame.palette.as_deref().or(global.as_deref()));
    let outside = frame.transparent.unwrap_or(0);
    let mut pixels = colours[usize::from(outside)].repeat(height * width);
    let [left, top, across] = [frame.left, frame.top, frame.width].map(usize::from);
    for (y, row) in frame.buffer.chunks_exact(across.max(1)).enumerate() {
        let to = &mut pixels[((top + y) * width + left) * 3..][..across * 3];
        to.chunks_exact_mut(3).zip(row).for_each(|(pixel, &index)| pixel.copy_from_slice(&colours[usize::from(index)]));
    }
    Ok(Image { height, width, pixels })
}

fn open(bytes: &[u8]) -> Result<gif::Decoder<&[u8]>, String> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(LIMIT.try_into().map_err(|_| "the limit is 0")?));
    options.read_info(bytes).map_err(plain)
}

fn extent(canvas: [usize; 2], frame: &Frame) -> (usize, usize) {
    let far = |at: u16, size: u16| usize::from(at) + usize::from(size);
    (canvas[0].max(far(frame.top, frame.height)), canvas[1].max(far(frame.left, frame.width)))
}

/// The colour of every index. Without a palette, or with a grey ramp for one, the index is the grey value; indices beyond the palette are
/// black.
fn colours(palette: Option<&[u8]>) -> [[u8; 3]; 256] {
    let mut colours = std::array::from_fn(|at| [at as u8; 3]);
    let palette = palette.unwrap_or_default();
    if palette.chunks_exact(3).zip(&colours).any(|(said, grey)| said != grey) {
        let mut said = palette.chunks_exact(3);
        colours = std::array::from_fn(|_| said.next().map_or([0; 3], |colour| [colour[0], colour[1], colour[2]]));
    }
    colours
}

fn plain(error: gif::DecodingError) -> String {
    format!("the GIF is damaged ({error})").split_whitespace().collect::<Vec<_>>().join(" ")
}
