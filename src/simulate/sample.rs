//! Nothing → a degraded image for each task, on which whoever has none of their own tries a model.

use super::{Camera, Phantom, PsfModel, Volume, Voxel, gaussian_blur, keep_planes, phantom, phantom_stack};
use crate::{Image, ImageInfo, PixelType, Result, Shape, Task};

/// Distance of neighbouring pixels in µm.
const PIXEL_UM: f64 = 0.1;
/// Of so many planes of the isotropic stack, one is taken.
const Z_STEP: usize = 4;

/// What [`sample`] gives for a task: 16-bit, with a pixel size, in photons of a simulated camera.
pub fn sample_info(task: Task) -> ImageInfo {
    let shape = match task {
        Task::Denoise | Task::SuperResolve => Shape { t: 1, c: 1, z: 1, y: 512, x: 512 },
        Task::Axial => Shape { t: 1, c: 1, z: 24, y: 160, x: 160 },
    };
    let z_step_um = matches!(task, Task::Axial).then_some(PIXEL_UM * Z_STEP as f64);
    ImageInfo { pixel_size_um: Some(PIXEL_UM), z_step_um, ..ImageInfo::new(shape, PixelType::U16) }
}

/// Simulates an image with the defect that a task restores: a noisy plane for denoise, a stack of blurred and few planes
/// for axial, a blurred plane for super-resolve. The same on every call.
///
/// # Errors
/// None is expected; those of the simulation.
pub fn sample(task: Task) -> Result<Image> {
    let info = sample_info(task);
    let Shape { z, y, x, .. } = info.shape;
    let (intensities, photons) = match task {
        Task::Denoise => (phantom(Phantom::Mixed, y, x, 7).samples, 25.0),
        Task::SuperResolve => (gaussian_blur(&phantom(Phantom::Mixed, y, x, 8).samples, (y, x), (2.0, 2.0))?, 400.0),
        Task::Axial => {
            let clean = phantom_stack([z * Z_STEP, y, x], 3)?;
            let optics = PsfModel::GaussianPx { sigma_px: 1.0, sigma_z_px: Z_STEP as f64 };
            let voxel = Voxel { z_um: PIXEL_UM, xy_um: PIXEL_UM };
            let blurred: Volume = clean.blurred(&optics.psf(clean.shape, voxel)?)?;
            (keep_planes(&blurred, 0, Z_STEP)?.samples, 200.0)
        }
    };
    let camera = Camera { photons, background: 2.0, ..Camera::default() };
    Image::new(info, camera.capture(&intensities, 7)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_16_bit_images_with_something_on_them() {
        for task in Task::ALL {
            let image = sample(task).unwrap();
            assert_eq!(image.info, sample_info(task));
            let brightest = image.samples.iter().copied().fold(0.0, f32::max);
            assert!(brightest > 120.0 && brightest <= 65535.0, "{task}: {brightest}");
            assert!(image.samples.iter().all(|sample| sample.fract() == 0.0 && *sample >= 0.0), "{task}");
        }
    }
}
