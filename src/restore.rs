//! The order of restoration. (stub: signatures)
#![allow(unused)]
use crate::{Error, Image, ImageInfo, Model, Normalization, PlaneSink, PlaneSource, Result};
use serde::{Deserialize, Serialize};

/// Options of one restoration; `Default` is right for nearly all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestoreOptions {
    /// Side in pixels of the tiles that the network sees; chosen from the memory limit where `None`.
    pub tile: Option<usize>,
    /// Pixels that neighbouring tiles share; never less than the network's field needs. `None`: just that.
    pub overlap: Option<usize>,
    /// Threads; `None`: as many as there are processors.
    pub threads: Option<usize>,
    /// Bound on the working memory in MB (2^20 bytes); `None`: 2048.
    pub memory_limit_mb: Option<u64>,
    /// Channel to restore, from 0; `None`: all, each on its own.
    pub channel: Option<usize>,
    /// Pixel size in µm that replaces the image's.
    pub pixel_size_um: Option<f64>,
    /// Z step in µm that replaces the image's.
    pub z_step_um: Option<f64>,
    /// Replaces the model's normalisation.
    pub normalization: Option<Normalization>,
}

/// How far a restoration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tiles done.
    pub done: u64,
    /// Tiles in all.
    pub total: u64,
}

/// Called from the calling thread after every tile; returning `false` cancels.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress) -> bool;

/// What the result will be: shape, pixel size, provenance; pixel type F32.
///
/// # Errors
/// Where image, model and options do not fit.
pub fn output_info(model: &Model, input: &ImageInfo, options: &RestoreOptions) -> Result<ImageInfo> {
    todo!()
}

/// Restores plane by plane.
///
/// # Errors
/// Those of source and sink, `Error::Inference`, `Error::Cancelled`, and where image, model and options do not fit.
pub fn restore_planes(
    model: &Model,
    source: &mut dyn PlaneSource,
    sink: &mut dyn PlaneSink,
    options: &RestoreOptions,
    progress: OnProgress,
) -> Result<()> {
    todo!()
}

/// Restores an image in memory.
///
/// # Errors
/// As [`restore_planes`].
pub fn restore(model: &Model, image: &Image, options: &RestoreOptions, progress: OnProgress) -> Result<Image> {
    todo!()
}
