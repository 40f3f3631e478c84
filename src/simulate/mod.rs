//! Nothing → phantom, and phantom or clean image → degraded image: for `mdr demo`, for tests, and for training material.
//!
//! ```text
//! phantom, phantom_stack   nothing → clean image       psf        microscope → point spread function, and its blur
//! blur                     the Gaussian of a plane     sampling   binning, planes left out, interpolation
//! camera                   photons, noise, grey values                sample     a degraded image for each task
//! ```
//!
//! [`phantom()`] draws pictures that look like fluorescence micrographs; [`PsfModel`] and [`gaussian_blur`] are the
//! optics, [`Camera`] the photons and the electronics, in physical units. Everything is drawn from a seeded PCG
//! generator: one seed gives one picture on one platform; between platforms the last bit of `exp`, `ln` or `sin` may
//! differ, and with it a picture. Structures are drawn in pixels, not in µm, at about the sampling that optics demand
//! (nothing is sharper than a Gaussian of about one pixel), since networks see pixels.

mod blur;
mod camera;
mod phantom;
mod phantom_stack;
mod psf;
mod sample;
mod sampling;

pub use blur::gaussian_blur;
pub use camera::Camera;
pub use phantom::{Phantom, phantom};
pub use phantom_stack::phantom_stack;
pub use psf::{PsfModel, Voxel};
pub use sample::{sample, sample_info};
pub use sampling::{bin, interpolate, keep_planes};

use crate::{Error, Result};

/// Intensities on a grid with the axes Z, Y, X; a plane has one Z. A point spread function is one too.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Lengths along Z, Y and X.
    pub shape: [usize; 3],
    /// Z·Y·X values, X running fastest.
    pub samples: Vec<f32>,
}

impl Volume {
    /// Joins samples with their shape.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where there are not as many samples as the shape says, or a side is 0.
    pub fn new(shape: [usize; 3], samples: Vec<f32>) -> Result<Self> {
        let count = shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side));
        if count != Some(samples.len()) || samples.is_empty() {
            return Err(Error::ShapeMismatch {
                expected: format!("samples for a volume of {shape:?} (Z, Y, X), each side above 0"),
                found: samples.len().to_string(),
            });
        }
        Ok(Self { shape, samples })
    }
}
