//! mdr restores fluorescence micrographs: noisy, blurred, or coarsely sampled along the axis.
//!
//! ```text
//! TIFF/array → Image → normalise → tile → network (tract) → blend → undo normalise → Image → TIFF/array
//! ```
//!
//! One file per arrow; [`restore`](mod@restore) states the order.
//! The modules hold what both front ends and the trainer need; a plain restoration is [`Model`] and [`restore()`].
#![deny(unsafe_code)]

pub mod axial;
pub mod bioimage_io;
pub mod blend;
pub mod error;
pub mod ffi;
pub mod image;
pub mod metrics;
pub mod model;
pub mod models;
pub mod montage;
pub mod network;
pub mod normalize;
mod orient;
pub mod restore;
mod share;
pub mod simulate;
pub mod tiff_io;
pub mod tiling;
mod zeros;

pub use error::{Error, Result};
pub use image::{Axes, Image, ImageInfo, PixelType, PlaneIndex, PlaneSink, PlaneSource, Shape};
pub use model::{Facts, Model, Task};
pub use normalize::Normalization;
pub use restore::{Progress, RestoreOptions, restore};
