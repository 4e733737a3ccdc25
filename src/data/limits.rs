//! Limits on the size of an image, for every decoder.

/// Bytes that one decoded image may need (height * width * 3), and bytes that its file may have.
pub const LIMIT: u64 = 512 << 20;

/// Most pixels of an image: the limit above which Pillow reports a decompression bomb.
pub const PIXELS: u64 = LIMIT / 3;

/// The error for an image with too many pixels.
pub fn too_many(height: usize, width: usize, most: u64) -> String {
    let memory = if most == PIXELS { format!(" and needs more than {} MiB", LIMIT >> 20) } else { String::new() };
    format!("the image has {width} x {height} pixels, more than data.max_pixels allows ({most}){memory}")
}
