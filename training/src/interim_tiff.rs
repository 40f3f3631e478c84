//! Reads TIFF until the engine's reader is there; then this file goes.
use anyhow::{Context, Result};
use std::path::Path;
pub fn read_tiff(path: &Path) -> Result<mdr::Image> {
    use tiff::decoder::DecodingResult as R;
    let context = || path.display().to_string();
    let file = std::fs::File::open(path).with_context(context)?;
    let mut decoder = tiff::decoder::Decoder::new(std::io::BufReader::new(file)).with_context(context)?;
    let (mut samples, mut z) = (Vec::<f32>::new(), 0);
    let (x, y) = decoder.dimensions()?;
    loop {
        match decoder.read_image().with_context(context)? {
            R::U8(v) => samples.extend(v.into_iter().map(f32::from)),
            R::U16(v) => samples.extend(v.into_iter().map(f32::from)),
            R::F32(v) => samples.extend(v),
            _ => anyhow::bail!("{}: sample type", path.display()),
        }
        z += 1;
        if !decoder.more_images() {
            break;
        }
        decoder.next_image()?;
    }
    let shape = mdr::Shape { t: 1, c: 1, z, y: y as usize, x: x as usize };
    Ok(mdr::Image::new(mdr::ImageInfo::new(shape, mdr::PixelType::F32), samples)?)
}
