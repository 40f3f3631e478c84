//! TIFF file ⇄ planes. (stub: signatures)
#![allow(unused)]
use crate::{Axes, Image, ImageInfo, PixelType, PlaneIndex, PlaneSink, PlaneSource, Result};
use std::path::Path;

/// A TIFF file whose planes are read as they are asked for.
pub struct TiffReader {
    info: ImageInfo,
}

impl TiffReader {
    /// Opens; reads the header and metadata alone. `axes` says what the pages are where the file does not.
    pub fn open(path: &Path, axes: Option<&Axes>) -> Result<Self> {
        todo!()
    }
}

impl PlaneSource for TiffReader {
    fn info(&self) -> &ImageInfo {
        &self.info
    }
    fn read_plane(&mut self, index: PlaneIndex, samples: &mut [f32]) -> Result<()> {
        todo!()
    }
}

/// Writes planes into a temporary file beside `path`; `finish` gives it its name.
pub struct TiffWriter {}

impl TiffWriter {
    /// `info.pixel_type` is the type written: F32, or an integer type (rounded and clamped).
    pub fn create(path: &Path, info: &ImageInfo, force: bool) -> Result<Self> {
        todo!()
    }
    /// Completes the file and renames it to its final name.
    pub fn finish(self) -> Result<()> {
        todo!()
    }
}

impl PlaneSink for TiffWriter {
    fn write_plane(&mut self, index: PlaneIndex, samples: &[f32]) -> Result<()> {
        todo!()
    }
}

/// Reads a whole TIFF.
pub fn read_tiff(path: impl AsRef<Path>) -> Result<Image> {
    todo!()
}

/// Writes a whole image.
pub fn write_tiff(path: impl AsRef<Path>, image: &Image, force: bool) -> Result<()> {
    todo!()
}
