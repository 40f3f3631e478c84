//! Nothing → phantom stack: filaments, spots and nuclei in three dimensions, on isotropic voxels.

use super::Volume;
use super::phantom::{gaussian, lognormal, uniform};
use super::psf::PsfModel;
use crate::Result;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::f32::consts::TAU;

/// Draws a stack without noise, of isotropic voxels with the axes Z, Y, X, from 0 to 1 (1 is reached, unless it is so
/// small that it shows nothing): nuclei with bright spots, filaments and vesicles, nothing sharper than a Gaussian of
/// about one voxel in any direction.
///
/// # Errors
/// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) where a side is 0.
pub fn phantom_stack(shape: [usize; 3], seed: u64) -> Result<Volume> {
    let rng = &mut Pcg64::seed_from_u64(seed);
    let mut volume = Volume::new(shape, vec![0.0; shape.iter().product()])?;
    let sides = shape.map(|side| side as f32);
    let voxels: f32 = sides.iter().product();
    let scale = uniform(rng, 0.8, 1.4);
    // Shares of the three kinds differ, and one in four is left out.
    let mut light = [0.0; 3].map(|_: f32| if rng.random_bool(0.25) { 0.0 } else { uniform(rng, 0.3, 1.0) });
    light[rng.random_range(0..3)] = 1.0;
    let number = |side: f32| (voxels / (side * scale).powi(3)).ceil() as usize;
    let place = |rng: &mut Pcg64| sides.map(|side| uniform(rng, 0.0, side));

    for _ in 0..number(60.0) {
        let (centre, radius) = (place(rng), [14.0, 16.0, 20.0].map(|r: f32| r * scale * uniform(rng, 0.8, 1.2)));
        let spots: Vec<_> = (0..12).map(|_| radius.map(|r| 0.5 * r * gaussian(rng))).collect();
        let (brightness, grain) = (light[0] * lognormal(rng, 0.3), 2.5 * scale);
        volume.around(centre, radius, |sample, offset| {
            let share = (0..3).map(|axis| (offset[axis] / radius[axis]).powi(2)).sum::<f32>();
            let body = ((1.0 - share) * 3.0).clamp(0.0, 1.0);
            let spot = |spot: &[f32; 3]| (-0.5 * distance2(offset, *spot) / (grain * grain)).exp();
            *sample += brightness * body * (0.25 + 0.6 * spots.iter().map(spot).sum::<f32>());
        });
    }
    for _ in 0..number(28.0) {
        let (mut at, glow) = (place(rng), 0.5 * light[1] * lognormal(rng, 0.4));
        let (height, angle) = (uniform(rng, -1.0, 1.0), uniform(rng, 0.0, TAU));
        let flat = (1.0 - height * height).sqrt();
        let (mut heading, mut turn) = ([height, flat * angle.sin(), flat * angle.cos()], [0.0; 3]);
        for _ in 0..(2.0 * scale * uniform(rng, 40.0, 160.0)) as usize {
            turn = turn.map(|t: f32| 0.97 * t + 0.006 / scale * gaussian(rng));
            let bent: [f32; 3] = std::array::from_fn(|axis| heading[axis] + 0.5 * turn[axis]);
            let norm = distance2(bent, [0.0; 3]).sqrt().max(1e-3);
            heading = bent.map(|h| h / norm);
            at = std::array::from_fn(|axis| at[axis] + 0.5 * heading[axis]);
            volume.point(at, glow);
        }
    }
    for _ in 0..number(16.0) {
        let (centre, sigma) = (place(rng), uniform(rng, 0.8, 1.8));
        let peak = 0.5 * light[2] * lognormal(rng, 0.6);
        volume.around(centre, [3.5 * sigma; 3], |sample, offset| {
            *sample += peak * (-0.5 * distance2(offset, [0.0; 3]) / (sigma * sigma)).exp();
        });
    }
    let sigma = f64::from(uniform(rng, 0.9, 1.3));
    let psf = PsfModel::GaussianPx { sigma_px: sigma, sigma_z_px: sigma };
    let psf = psf.psf(shape, super::Voxel { z_um: 1.0, xy_um: 1.0 })?;
    volume = volume.blurred(&psf)?;
    // As in a plane: the brightest places are tamed, where structures pile up.
    let strength = uniform(rng, 1.0, 3.0);
    for tame in [true, false] {
        let maximum = volume.samples.iter().copied().fold(0.0, f32::max);
        if maximum > 0.0 {
            volume.samples.iter_mut().for_each(|s| {
                let share = (*s / maximum).max(0.0);
                *s = if tame { 1.0 - (-strength * share).exp() } else { share };
            });
        }
    }
    Ok(volume)
}

fn distance2(a: [f32; 3], b: [f32; 3]) -> f32 {
    (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum()
}

impl Volume {
    /// Calls `change` for each voxel within `reach` of `centre` along each axis, with its offset from there.
    fn around(&mut self, centre: [f32; 3], reach: [f32; 3], mut change: impl FnMut(&mut f32, [f32; 3])) {
        let [z, y, x]: [_; 3] = std::array::from_fn(|axis| {
            let end = (centre[axis] + reach[axis]).floor() + 1.0;
            (centre[axis] - reach[axis]).ceil().max(0.0) as usize..end.clamp(0.0, self.shape[axis] as f32) as usize
        });
        for plane in z {
            for row in y.clone() {
                for column in x.clone() {
                    let sample = &mut self.samples[(plane * self.shape[1] + row) * self.shape[2] + column];
                    let place = [plane, row, column].map(|i| i as f32);
                    change(sample, std::array::from_fn(|axis| place[axis] - centre[axis]));
                }
            }
        }
    }

    /// Adds a point of light, shared between the eight nearest voxels.
    fn point(&mut self, place: [f32; 3], light: f32) {
        self.around(place, [1.0; 3], |sample, offset| {
            *sample += light * offset.iter().map(|o| 1.0 - o.abs()).product::<f32>();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_of_any_size_are_within_range_and_repeat() {
        for shape in [[1, 1, 1], [1, 9, 30], [17, 1, 5], [24, 40, 33]] {
            for seed in 0..3 {
                let volume = phantom_stack(shape, seed).unwrap();
                assert_eq!(volume, phantom_stack(shape, seed).unwrap());
                assert!(volume.samples.iter().all(|s| (0.0..=1.0).contains(s)), "{shape:?}");
                if shape[0] == 24 {
                    assert_eq!(volume.samples.iter().copied().fold(0.0, f32::max), 1.0);
                    assert_ne!(volume, phantom_stack(shape, seed + 1).unwrap());
                }
            }
        }
        assert!(phantom_stack([0, 5, 5], 1).is_err());
    }
}
