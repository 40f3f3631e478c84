//! Planes → one 8-bit grey PNG that shows them side by side, such as degraded | restored | reference.
//!
//! Each panel has its own display range, because a fixed one would make a restored image look dim beside its noisy
//! source or hide that both have one scale; the caller decides. Captions are drawn with a built-in 5×7 font
//! (capitals, digits and some signs), so that pictures need no font file.

use crate::{Error, Result};
use std::path::Path;

/// Pixels between panels, and around captions.
const GAP: usize = 4;
const PAPER: u8 = 255;
const INK: u8 = 0;

/// One plane of a montage.
#[derive(Clone, Debug)]
pub struct Panel<'a> {
    /// Y·X samples, rows first.
    pub samples: &'a [f32],
    /// Rows and columns.
    pub shape: (usize, usize),
    /// Samples that are shown black and white; what lies beyond is shown black or white, and NaN black.
    pub display: (f32, f32),
    /// Written above the panel, in capitals, cut off at the panel's width; may be empty.
    pub caption: String,
}

/// Writes panels, in rows from top to bottom and from left to right, to a PNG file. Panels may differ in size. The
/// file appears only when it is complete; an existing one is replaced.
///
/// # Errors
/// [`Error::Io`] where the file cannot be written, [`Error::ShapeMismatch`] where a panel's samples do not fit its
/// shape, [`Error::InvalidOption`] where there is no panel or the picture would be too large for PNG.
pub fn montage(rows: &[&[Panel]], path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let png = encode(rows)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, png).and_then(|()| std::fs::rename(&partial, path)).map_err(|source| {
        // Nothing half-written stays; the first error is the one to tell.
        let _ = std::fs::remove_file(&partial);
        Error::io(path, source)
    })
}

/// The bytes of the PNG file that [`montage`] writes.
///
/// # Errors
/// As [`montage`], but [`Error::Io`].
pub fn encode(rows: &[&[Panel]]) -> Result<Vec<u8>> {
    for panel in rows.iter().copied().flatten() {
        let (y, x) = panel.shape;
        if y.checked_mul(x) != Some(panel.samples.len()) {
            return Err(Error::ShapeMismatch {
                expected: format!("{y}x{x} samples in a panel of the montage"),
                found: panel.samples.len().to_string(),
            });
        }
    }
    let width_of = |row: &[Panel]| row.iter().map(|p| p.shape.1).sum::<usize>() + GAP * row.len().saturating_sub(1);
    let height_of = |row: &[Panel]| strip(row) + row.iter().map(|p| p.shape.0).max().unwrap_or(0);
    let width = rows.iter().map(|row| width_of(row)).max().unwrap_or(0);
    let height = rows.iter().map(|row| height_of(row)).sum::<usize>() + GAP * rows.len().saturating_sub(1);
    let (Ok(png_width @ 1..), Ok(png_height @ 1..)) = (u32::try_from(width), u32::try_from(height)) else {
        return Err(Error::InvalidOption(format!("a montage of {height}x{width} pixels cannot be written")));
    };

    let mut page = Page { width, pixels: vec![PAPER; width * height] };
    let mut top = 0;
    for row in rows {
        let mut left = 0;
        for panel in *row {
            page.write(&panel.caption, (top, left), panel.shape.1, text_scale(row));
            page.show(panel, (top + strip(row), left));
            left += panel.shape.1 + GAP;
        }
        top += height_of(row) + GAP;
    }

    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, png_width, png_height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let unwritable = |e: png::EncodingError| Error::InvalidOption(format!("montage: {e}"));
    let mut writer = encoder.write_header().map_err(unwritable)?;
    writer.write_image_data(&page.pixels).map_err(unwritable)?;
    writer.finish().map_err(unwritable)?;
    Ok(png)
}

/// Height of the captions of a row of panels.
fn strip(row: &[Panel]) -> usize {
    if row.iter().all(|p| p.caption.is_empty()) { 0 } else { 7 * text_scale(row) + 2 * GAP }
}

/// Pixels per dot of the font: larger above larger panels.
fn text_scale(row: &[Panel]) -> usize {
    (row.iter().map(|p| p.shape.1).min().unwrap_or(0) / 192).clamp(1, 4)
}

struct Page {
    width: usize,
    pixels: Vec<u8>,
}

impl Page {
    fn show(&mut self, panel: &Panel, (top, left): (usize, usize)) {
        let (black, white) = panel.display;
        let scale = if white > black { 255.0 / (white - black) } else { 0.0 };
        for (row, samples) in panel.samples.chunks_exact(panel.shape.1.max(1)).enumerate() {
            let start = (top + row) * self.width + left;
            for (pixel, sample) in self.pixels[start..].iter_mut().zip(samples) {
                *pixel = ((sample - black) * scale).round() as u8;
            }
        }
    }

    /// Writes text with its strip's upper left corner here, at most `width` pixels wide.
    fn write(&mut self, text: &str, (top, left): (usize, usize), width: usize, scale: usize) {
        for (place, letter) in text.chars().enumerate() {
            let start = place * 6 * scale;
            if start + 5 * scale > width {
                break;
            }
            for (column, dots) in glyph(letter.to_ascii_uppercase()).into_iter().enumerate() {
                for (y, x) in (0..7 * scale).flat_map(|y| (0..scale).map(move |x| (y, x))) {
                    if dots >> (y / scale) & 1 == 1 {
                        let at = (top + GAP + y) * self.width + left + start + column * scale + x;
                        self.pixels[at] = INK;
                    }
                }
            }
        }
    }
}

/// Five columns of seven dots, the uppermost dot in the lowest bit; a box for what the font lacks.
fn glyph(letter: char) -> [u8; 5] {
    match letter {
        ' ' => [0x00, 0x00, 0x00, 0x00, 0x00],
        '%' => [0x23, 0x13, 0x08, 0x64, 0x62],
        '(' => [0x00, 0x1c, 0x22, 0x41, 0x00],
        ')' => [0x00, 0x41, 0x22, 0x1c, 0x00],
        '+' => [0x08, 0x08, 0x3e, 0x08, 0x08],
        ',' => [0x00, 0x50, 0x30, 0x00, 0x00],
        '-' => [0x08, 0x08, 0x08, 0x08, 0x08],
        '.' => [0x00, 0x60, 0x60, 0x00, 0x00],
        '/' => [0x20, 0x10, 0x08, 0x04, 0x02],
        '0' => [0x3e, 0x51, 0x49, 0x45, 0x3e],
        '1' => [0x00, 0x42, 0x7f, 0x40, 0x00],
        '2' => [0x42, 0x61, 0x51, 0x49, 0x46],
        '3' => [0x21, 0x41, 0x45, 0x4b, 0x31],
        '4' => [0x18, 0x14, 0x12, 0x7f, 0x10],
        '5' => [0x27, 0x45, 0x45, 0x45, 0x39],
        '6' => [0x3c, 0x4a, 0x49, 0x49, 0x30],
        '7' => [0x01, 0x71, 0x09, 0x05, 0x03],
        '8' => [0x36, 0x49, 0x49, 0x49, 0x36],
        '9' => [0x06, 0x49, 0x49, 0x29, 0x1e],
        ':' => [0x00, 0x36, 0x36, 0x00, 0x00],
        '=' => [0x14, 0x14, 0x14, 0x14, 0x14],
        'A' => [0x7e, 0x11, 0x11, 0x11, 0x7e],
        'B' => [0x7f, 0x49, 0x49, 0x49, 0x36],
        'C' => [0x3e, 0x41, 0x41, 0x41, 0x22],
        'D' => [0x7f, 0x41, 0x41, 0x22, 0x1c],
        'E' => [0x7f, 0x49, 0x49, 0x49, 0x41],
        'F' => [0x7f, 0x09, 0x09, 0x09, 0x01],
        'G' => [0x3e, 0x41, 0x49, 0x49, 0x7a],
        'H' => [0x7f, 0x08, 0x08, 0x08, 0x7f],
        'I' => [0x00, 0x41, 0x7f, 0x41, 0x00],
        'J' => [0x20, 0x40, 0x41, 0x3f, 0x01],
        'K' => [0x7f, 0x08, 0x14, 0x22, 0x41],
        'L' => [0x7f, 0x40, 0x40, 0x40, 0x40],
        'M' => [0x7f, 0x02, 0x0c, 0x02, 0x7f],
        'N' => [0x7f, 0x04, 0x08, 0x10, 0x7f],
        'O' => [0x3e, 0x41, 0x41, 0x41, 0x3e],
        'P' => [0x7f, 0x09, 0x09, 0x09, 0x06],
        'Q' => [0x3e, 0x41, 0x51, 0x21, 0x5e],
        'R' => [0x7f, 0x09, 0x19, 0x29, 0x46],
        'S' => [0x46, 0x49, 0x49, 0x49, 0x31],
        'T' => [0x01, 0x01, 0x7f, 0x01, 0x01],
        'U' => [0x3f, 0x40, 0x40, 0x40, 0x3f],
        'V' => [0x1f, 0x20, 0x40, 0x20, 0x1f],
        'W' => [0x3f, 0x40, 0x38, 0x40, 0x3f],
        'X' => [0x63, 0x14, 0x08, 0x14, 0x63],
        'Y' => [0x07, 0x08, 0x70, 0x08, 0x07],
        'Z' => [0x61, 0x51, 0x49, 0x45, 0x43],
        _ => [0x7f, 0x41, 0x41, 0x41, 0x7f],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel<'a>(samples: &'a [f32], shape: (usize, usize), caption: &str) -> Panel<'a> {
        Panel { samples, shape, display: (0.0, 2.0), caption: caption.into() }
    }

    fn decode(png: &[u8]) -> (usize, usize, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Grayscale, png::BitDepth::Eight));
        (info.height as usize, info.width as usize, pixels)
    }

    #[test]
    fn panels_stand_side_by_side_in_their_display_range() {
        let one = [0.0, 1.0, 2.0, -1.0, 9.0, f32::NAN];
        let two = [2.0; 3];
        let (height, width, pixels) = decode(&encode(&[&[panel(&one, (2, 3), ""), panel(&two, (1, 3), "")]]).unwrap());
        assert_eq!((height, width), (2, 6 + GAP));
        assert_eq!(pixels[..3], [0, 128, 255]);
        assert_eq!(pixels[width..width + 3], [0, 255, 0]);
        assert_eq!(pixels[3..3 + GAP], [PAPER; GAP]);
        assert_eq!(pixels[3 + GAP..width], [255; 3]);
    }

    #[test]
    fn captions_take_a_strip_and_stay_within_it() {
        let samples = vec![1.0; 40 * 20];
        let first = [panel(&samples, (20, 40), "T"), panel(&samples, (20, 40), "a caption much too long for it")];
        let second = [panel(&samples, (20, 40), "")];
        let (height, width, pixels) = decode(&encode(&[&first, &second]).unwrap());
        assert_eq!((height, width), (7 + 2 * GAP + 20 + GAP + 20, 80 + GAP));
        // The bar of the T, then the gap between the panels.
        assert_eq!(pixels[GAP * width..][..6], [INK, INK, INK, INK, INK, PAPER]);
        for row in 0..7 + 2 * GAP {
            assert_eq!(pixels[row * width + 40..][..GAP], [PAPER; GAP]);
            assert_eq!(pixels[row * width + width - 4..][..4], [PAPER; 4]);
        }
    }

    #[test]
    fn bad_panels_and_places_give_errors() {
        assert!(matches!(encode(&[]), Err(Error::InvalidOption(_))));
        assert!(matches!(encode(&[&[]]), Err(Error::InvalidOption(_))));
        assert!(matches!(encode(&[&[panel(&[], (0, 0), "")]]), Err(Error::InvalidOption(_))));
        assert!(matches!(encode(&[&[panel(&[1.0], (2, 2), "")]]), Err(Error::ShapeMismatch { .. })));
        assert!(matches!(encode(&[&[panel(&[1.0], (usize::MAX, 2), "")]]), Err(Error::ShapeMismatch { .. })));
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("picture.png");
        montage(&[&[panel(&[1.0], (1, 1), "")]], &inside).unwrap();
        assert_eq!(decode(&std::fs::read(&inside).unwrap()).2, [128]);
        let nowhere = inside.join("picture.png");
        assert!(matches!(montage(&[&[panel(&[1.0], (1, 1), "")]], nowhere), Err(Error::Io { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
