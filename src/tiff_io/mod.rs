//! TIFF file ⇄ planes: the first and the last arrow of a restoration. A plane is Y·X f32 samples, rows first;
//! the planes of a file are numbered by T, C and Z, whatever the order of its pages.
//!
//! ```text
//! directory   bytes → directories (tags), every offset and count checked against the length of the file
//! page        directory → one page: size, sample type, chunks → samples
//! read        pages + metadata → planes          write   planes → pages + metadata
//! imagej, ome ImageJ's and OME's metadata, both ways
//! ```
//!
//! The `tiff` crate expands compressed strips and tiles; walking the file is done here. The crate must see a whole
//! valid page before it hands out anything, gives up on what ImageJ leaves out (a single directory for gigabytes of
//! contiguous planes), and does not tie the claimed number of pixels to the bytes there are; all three matter here.
//!
//! What is read: 8, 16 and 32-bit integers, signed and unsigned, 32 and 64-bit floats; one sample per pixel; strips
//! and tiles; uncompressed, LZW, deflate, PackBits, zstd; horizontal and floating-point predictor; BigTIFF; both
//! byte orders; sparse files; MetaMorph stacks of a single directory. Samples are the numbers that are stored:
//! `WhiteIsZero` and, in ImageJ's files, lookup tables change how an image is shown, not what was measured (ImageJ and
//! tifffile do the same), and are kept.

mod directory;
mod imagej;
mod ome;
mod page;
mod read;
mod write;

pub(crate) use imagej::{keep_channel, rescale};
pub use read::TiffReader;
pub use write::TiffWriter;

use crate::zeros::zeros;
use crate::{Error, Image, PlaneIndex, PlaneSink, PlaneSource, Result};
use std::path::Path;

/// Reads a whole TIFF.
///
/// # Errors
/// Those of [`TiffReader`].
pub fn read_tiff(path: impl AsRef<Path>) -> Result<Image> {
    Image::read(&mut TiffReader::open(path.as_ref(), None)?)
}

/// Reads every plane and keeps none: for programs whose own readers take a file that is cut off or damaged for a whole
/// one. A TIFF of a kind that mdr does not read passes.
///
/// # Errors
/// Those of [`TiffReader`], but [`Error::UnsupportedTiff`].
pub fn check_tiff(path: impl AsRef<Path>) -> Result<()> {
    let read = || {
        let mut file = TiffReader::open(path.as_ref(), None)?;
        let shape = file.info().shape;
        let no_memory = |_| Error::io(path.as_ref(), std::io::ErrorKind::OutOfMemory.into());
        let mut samples = zeros(shape.plane_len()).map_err(no_memory)?;
        for plane in 0..shape.t * shape.c * shape.z {
            let (c, z) = (plane / shape.z % shape.c, plane % shape.z);
            file.read_plane(PlaneIndex { t: plane / shape.z / shape.c, c, z }, &mut samples)?;
        }
        Ok(())
    };
    match read() {
        Err(Error::UnsupportedTiff { .. }) => Ok(()),
        outcome => outcome,
    }
}

/// Writes a whole image; `force` replaces a file that is there.
///
/// # Errors
/// Those of [`TiffWriter`].
pub fn write_tiff(path: impl AsRef<Path>, image: &Image, force: bool) -> Result<()> {
    let mut writer = TiffWriter::create(path.as_ref(), &image.info, force)?;
    let shape = image.info.shape;
    for t in 0..shape.t {
        for z in 0..shape.z {
            for c in 0..shape.c {
                let index = PlaneIndex { t, c, z };
                writer.write_plane(index, image.plane(index))?;
            }
        }
    }
    writer.finish()
}
