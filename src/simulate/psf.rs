//! Microscope → point spread function → blurred volume.
//!
//! The physical models are the scalar diffraction integral over the pupil, with the exact phase of defocus and no
//! aberration (immersion and specimen of one refractive index):
//!
//! ```text
//! h(r, z) = | ∫₀¹ J₀(k NA r ρ) exp(i k z √(n² − NA² ρ²)) ρ dρ |²,    k = 2π / λ
//! ```
//!
//! M. Born, E. Wolf, *Principles of Optics*, §8.8, where the phase is its parabola; with the root it is the integral of
//! S. F. Gibson and F. Lanni, J. Opt. Soc. Am. A 8, 1601 (1991), without its aberrations. Polarisation and apodisation
//! (B. Richards, E. Wolf, Proc. R. Soc. A 253, 358 (1959)) are left out: the Airy pattern in focus is exact, and at
//! NA 1.4 a vectorial one is wider by some percent. A confocal microscope's is excitation times emission, the latter
//! averaged over the pinhole (T. Wilson, C. Sheppard, *Theory and Practice of Scanning Optical Microscopy*, 1984).
//!
//! The blur is one FFT over an image continued by its mirror, as [`gaussian_blur`](super::gaussian_blur) has it: as a
//! PSF has the same symmetry, no light is lost at the borders.

use super::Volume;
use super::blur::{gauss, mirrored};
use crate::{Error, Result};
use rustfft::{Fft, FftPlanner, num_complex::Complex32};
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use std::sync::Arc;

/// Most voxels of the extended image, or of a PSF, 8 bytes each twice over: 4 GB.
const MOST_VOXELS: usize = 1 << 28;
/// Radial samples of a physical PSF per λ/NA.
const RADIAL_SAMPLES: f64 = 40.0;
/// How far the PSF reaches beyond the cone of light, in λ/NA: 1 % of an Airy pattern's light lies beyond.
const TAIL: f64 = 10.0;
/// Most evaluations of the integrand: some minutes.
const MOST_WORK: f64 = 1e11;
/// How far a confocal PSF reaches along Z, in widefield axial widths.
const CONFOCAL_REACH: f64 = 6.0;

/// Distance of neighbouring voxels in µm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Voxel {
    /// Along Z.
    pub z_um: f64,
    /// Along Y and X.
    pub xy_um: f64,
}

/// What a microscope makes of a point.
///
/// ```
/// use mdr::simulate::{PsfModel, Volume, Voxel};
///
/// let widefield = PsfModel::Widefield { na: 1.4, emission_nm: 520.0, refractive_index: 1.518 };
/// let voxel = Voxel { z_um: 0.2, xy_um: 0.1 };
/// let clean = Volume::new([8, 16, 16], vec![1.0; 8 * 16 * 16])?;
/// let psf = widefield.psf(clean.shape, voxel)?;
/// let blurred = clean.blurred(&psf)?;
/// assert!(blurred.samples.iter().all(|sample| (sample - 1.0).abs() < 1e-5));
/// # Ok::<(), mdr::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PsfModel {
    /// A Gaussian of this standard deviation, cut at 4 of them.
    Gaussian {
        /// Along Y and X, in µm.
        sigma_um: f64,
        /// Along Z, in µm.
        #[serde(default)]
        sigma_z_um: f64,
    },
    /// The same in pixels, for images of unknown pixel size.
    GaussianPx {
        /// Along Y and X, in pixels.
        sigma_px: f64,
        /// Along Z, in planes.
        #[serde(default)]
        sigma_z_px: f64,
    },
    /// A widefield fluorescence microscope.
    Widefield {
        /// Numerical aperture of the objective.
        na: f64,
        /// Wavelength of the emitted light in vacuum, in nm.
        emission_nm: f64,
        /// Refractive index of immersion and specimen: 1.0 air, 1.33 water, 1.518 oil.
        refractive_index: f64,
    },
    /// A confocal laser-scanning or spinning-disk microscope.
    Confocal {
        /// Numerical aperture of the objective.
        na: f64,
        /// Wavelength of the emitted light in vacuum, in nm.
        emission_nm: f64,
        /// Wavelength of the laser in vacuum, in nm.
        excitation_nm: f64,
        /// Refractive index of immersion and specimen.
        refractive_index: f64,
        /// Diameter of the pinhole in Airy units, 1.22 λ/NA of the emission; 0 is the ideal point.
        #[serde(default)]
        pinhole_au: f64,
    },
}

impl PsfModel {
    /// The PSF on a grid of such voxels, for images of this shape (Z, Y, X): sides are odd, the centre voxel is the
    /// focus, the sum is 1. It reaches no farther than the image, and a plane gets the PSF in focus. Voxels coarser than
    /// the pattern take the mean over their Y–X area. Planes of a widefield PSF all hold the same light.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a microscope that cannot be, or a PSF of more than 2²⁸ voxels.
    pub fn psf(&self, image: [usize; 3], voxel: Voxel) -> Result<Volume> {
        self.check(voxel)?;
        let limit = |reach: f64, side: usize| (reach.ceil() as usize).min(side.saturating_sub(1));
        let (z_um, xy_um) = (voxel.z_um, voxel.xy_um);
        let shape = |[z, y, x]: [usize; 3]| [2 * z + 1, 2 * y + 1, 2 * x + 1];
        match *self {
            Self::Gaussian { sigma_um, sigma_z_um } => {
                Self::GaussianPx { sigma_px: sigma_um / xy_um, sigma_z_px: sigma_z_um / z_um }.psf(image, voxel)
            }
            Self::GaussianPx { sigma_px, sigma_z_px } => {
                let reach = |sigma: f64, side| limit((4.0 * sigma + 0.5).floor(), side);
                let radius = [reach(sigma_z_px, image[0]), reach(sigma_px, image[1]), reach(sigma_px, image[2])];
                filled(shape(radius), |[z, y, x]| {
                    gauss(z, sigma_z_px.max(1e-9)) * gauss(y, sigma_px.max(1e-9)) * gauss(x, sigma_px.max(1e-9))
                })
            }
            Self::Widefield { na, emission_nm, refractive_index }
            | Self::Confocal { na, emission_nm, refractive_index, .. } => {
                let pupil = Pupil { na, wavelength_um: emission_nm / 1000.0, refractive_index };
                let confocal = matches!(self, Self::Confocal { .. });
                let reach = if confocal { CONFOCAL_REACH * pupil.axial_width() / z_um } else { f64::INFINITY };
                let depth = limit(reach.min(1e9), image[0]);
                let lateral = (pupil.cone(depth as f64 * z_um) + TAIL * pupil.wavelength_um / na) / xy_um;
                let radius = [depth, limit(lateral, image[1]), limit(lateral, image[2])];
                let largest = (radius[1] as f64 + 1.0).hypot(radius[2] as f64 + 1.0) * xy_um;
                let work = (largest * na / pupil.wavelength_um * RADIAL_SAMPLES)
                    * pupil.intervals(largest, depth as f64 * z_um)
                    * (depth + 1) as f64;
                if work > MOST_WORK {
                    return Err(Error::InvalidOption(format!(
                        "PSF: an image of {image:?} voxels (Z, Y, X) of {z_um} x {xy_um} µm is too large for a PSF in \
                         one piece; crop it"
                    )));
                }
                let planes = self.radial(largest, depth + 1, z_um);
                let step = pupil.wavelength_um / na / RADIAL_SAMPLES;
                // An odd number of points across the pixel, so that fine pixels take their centre alone.
                let points = ((xy_um / (8.0 * step)).ceil() as i32 / 2 * 2 + 1).min(15);
                let mean = |[z, y, x]: [f64; 3]| {
                    let plane = &planes[z.abs() as usize];
                    let offsets = || (-points / 2..=points / 2).map(|i| f64::from(i) / f64::from(points));
                    let sum: f64 = offsets()
                        .flat_map(|dy| offsets().map(move |dx| (dy, dx)))
                        .map(|(dy, dx)| at(plane, (y + dy).hypot(x + dx) * xy_um / step))
                        .sum();
                    sum / f64::from(points * points)
                };
                let mut psf = filled(shape(radius), mean)?;
                if !confocal {
                    let plane = psf.shape[1] * psf.shape[2];
                    let each = 1.0 / psf.shape[0] as f64;
                    psf.samples.chunks_exact_mut(plane).for_each(|plane| scale_sum(plane, each));
                }
                Ok(psf)
            }
        }
    }

    /// Profiles from the axis to `largest` µm, one for each of `planes` from the focus on.
    fn radial(&self, largest: f64, planes: usize, z_um: f64) -> Vec<Vec<f64>> {
        match *self {
            Self::Confocal { na, emission_nm, excitation_nm, refractive_index, pinhole_au } => {
                let emission = Pupil { na, wavelength_um: emission_nm / 1000.0, refractive_index };
                let excitation = Pupil { na, wavelength_um: excitation_nm / 1000.0, refractive_index };
                let step = emission.wavelength_um / na / RADIAL_SAMPLES;
                let hole = 0.5 * pinhole_au * 1.22 * emission.wavelength_um / na / step;
                let seen = emission.radial(step, largest + hole * step, planes, z_um);
                let lit = excitation.radial(step, largest, planes, z_um);
                let seen = through_hole(&seen, lit[0].len(), hole);
                let product = |(seen, lit): (Vec<f64>, Vec<f64>)| seen.iter().zip(lit).map(|(s, l)| s * l).collect();
                seen.into_iter().zip(lit).map(product).collect()
            }
            Self::Widefield { na, emission_nm, refractive_index } => {
                let pupil = Pupil { na, wavelength_um: emission_nm / 1000.0, refractive_index };
                pupil.radial(pupil.wavelength_um / na / RADIAL_SAMPLES, largest, planes, z_um)
            }
            Self::Gaussian { .. } | Self::GaussianPx { .. } => Vec::new(),
        }
    }

    fn check(&self, voxel: Voxel) -> Result<()> {
        let within = |name: &str, value: f64, least: f64, most: f64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::InvalidOption(format!("PSF: {name} = {value}: expected {least} to {most}")))
        };
        within("pixel size in µm", voxel.xy_um, 1e-4, 1e4)?;
        within("z step in µm", voxel.z_um, 1e-4, 1e4)?;
        match *self {
            Self::Gaussian { sigma_um, sigma_z_um } => {
                within("sigma_um", sigma_um, 0.0, 1000.0 * voxel.xy_um)?;
                within("sigma_z_um", sigma_z_um, 0.0, 1000.0 * voxel.z_um)
            }
            Self::GaussianPx { sigma_px, sigma_z_px } => {
                within("sigma_px", sigma_px, 0.0, 1000.0)?;
                within("sigma_z_px", sigma_z_px, 0.0, 1000.0)
            }
            Self::Widefield { na, emission_nm, refractive_index }
            | Self::Confocal { na, emission_nm, refractive_index, .. } => {
                within("refractive_index", refractive_index, 1.0, 2.5)?;
                within("na", na, 0.01, 0.995 * refractive_index)?;
                within("emission_nm", emission_nm, 200.0, 2000.0)?;
                let pupil = Pupil { na, wavelength_um: emission_nm / 1000.0, refractive_index };
                // Coarser voxels would not see the PSF.
                within("pixel size in µm", voxel.xy_um, 1e-4, 4.0 * pupil.wavelength_um / na)?;
                within("z step in µm", voxel.z_um, 1e-4, 10.0 * pupil.axial_width())?;
                if let Self::Confocal { excitation_nm, pinhole_au, .. } = *self {
                    within("excitation_nm", excitation_nm, 200.0, 2000.0)?;
                    within("pinhole_au", pinhole_au, 0.0, 100.0)?;
                }
                Ok(())
            }
        }
    }
}

/// The pupil of an objective, filled with light of one wavelength.
struct Pupil {
    na: f64,
    wavelength_um: f64,
    refractive_index: f64,
}

impl Pupil {
    /// Full width at half maximum along Z, about: 0.88 λ / (n − √(n² − NA²)).
    fn axial_width(&self) -> f64 {
        0.88 * self.wavelength_um / (self.refractive_index - (self.refractive_index.powi(2) - self.na.powi(2)).sqrt())
    }

    /// Radius of the cone of light at a distance from the focus.
    fn cone(&self, z_um: f64) -> f64 {
        z_um * self.na / (self.refractive_index.powi(2) - self.na.powi(2)).sqrt()
    }

    /// Intervals for Simpson's rule, an even number: two per radian of the fastest oscillation.
    fn intervals(&self, largest: f64, depth: f64) -> f64 {
        let defocus = self.refractive_index - (self.refractive_index.powi(2) - self.na.powi(2)).sqrt();
        2.0 * ((TAU / self.wavelength_um * (self.na * largest + depth * defocus)).ceil() + 32.0)
    }

    /// |h(r, z)|² at r = 0, `step`, 2 `step`, … to beyond `largest`, and z = 0, `z_um`, 2 `z_um`, …; all in µm.
    fn radial(&self, step: f64, largest: f64, planes: usize, z_um: f64) -> Vec<Vec<f64>> {
        let k = TAU / self.wavelength_um;
        let defocus =
            |rho: f64| (self.refractive_index.powi(2) - (self.na * rho).powi(2)).sqrt() - self.refractive_index;
        let depth = planes.saturating_sub(1) as f64 * z_um;
        let intervals = self.intervals(largest, depth) as usize;
        let nodes: Vec<(f64, f64)> = (0..=intervals)
            .map(|i| {
                let rho = i as f64 / intervals as f64;
                let weight = if i == 0 || i == intervals { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
                (rho, weight * rho / (3.0 * intervals as f64))
            })
            .collect();
        let radii = (largest / step).ceil() as usize + 2;
        let waves: Vec<Vec<(f64, f64)>> = (0..planes)
            .map(|plane| {
                let wave = |&(rho, weight): &(f64, f64)| {
                    let (sin, cos) = (k * plane as f64 * z_um * defocus(rho)).sin_cos();
                    (weight * cos, weight * sin)
                };
                nodes.iter().map(wave).collect()
            })
            .collect();
        let mut profiles = vec![Vec::with_capacity(radii); planes];
        for r in 0..radii {
            let bessel: Vec<f64> = nodes.iter().map(|(rho, _)| libm::j0(k * self.na * r as f64 * step * rho)).collect();
            for (profile, wave) in profiles.iter_mut().zip(&waves) {
                let (mut re, mut im) = (0.0, 0.0);
                for (bessel, (cos, sin)) in bessel.iter().zip(wave) {
                    re += bessel * cos;
                    im += bessel * sin;
                }
                profile.push(re * re + im * im);
            }
        }
        profiles
    }
}

/// A profile at a position between its samples, by linear interpolation; 0 beyond the last.
fn at(profile: &[f64], position: f64) -> f64 {
    let below = position as usize;
    match profile.get(below..below + 2) {
        Some(&[a, b]) => a + (b - a) * (position - below as f64),
        _ => 0.0,
    }
}

/// Means of radial profiles over a disk of radius `hole` whose centre is 0, 1, … `count` − 1 samples from the axis: each
/// circle around the axis counts by the arc of it that lies within the disk.
fn through_hole(profiles: &[Vec<f64>], count: usize, hole: f64) -> Vec<Vec<f64>> {
    if hole < 1.0 {
        return profiles.iter().map(|profile| profile[..count].to_vec()).collect();
    }
    let mut means = vec![Vec::with_capacity(count); profiles.len()];
    for r in (0..count).map(|r| r as f64) {
        let circles = (r - hole).max(0.0) as usize..(r + hole).ceil() as usize + 1;
        let arc = |s: usize| {
            let s = s as f64;
            let cosine = (r * r + s * s - hole * hole) / (2.0 * r * s).max(1e-9);
            s * cosine.clamp(-1.0, 1.0).acos()
        };
        let arcs: Vec<f64> = circles.clone().map(arc).collect();
        for (mean, profile) in means.iter_mut().zip(profiles) {
            let light = profile.iter().skip(circles.start).zip(&arcs).map(|(p, arc)| p * arc).sum::<f64>();
            mean.push(light / arcs.iter().sum::<f64>());
        }
    }
    means
}

/// A volume of odd sides and sum 1 from a function of the offset from its centre that is even along each axis.
fn filled(shape: [usize; 3], mut value: impl FnMut([f64; 3]) -> f64) -> Result<Volume> {
    checked_len(shape)?;
    let [z, y, x] = shape;
    let (rz, ry, rx) = (z / 2, y / 2, x / 2);
    let mut octant = Vec::with_capacity((rz + 1) * (ry + 1) * (rx + 1));
    for dz in 0..=rz {
        for dy in 0..=ry {
            octant.extend((0..=rx).map(|dx| value([dz as f64, dy as f64, dx as f64]) as f32));
        }
    }
    let mut samples = Vec::with_capacity(z * y * x);
    for i in 0..z {
        for j in 0..y {
            let row = &octant[(i.abs_diff(rz) * (ry + 1) + j.abs_diff(ry)) * (rx + 1)..][..rx + 1];
            samples.extend((0..x).map(|k| row[k.abs_diff(rx)]));
        }
    }
    scale_sum(&mut samples, 1.0);
    Ok(Volume { shape, samples })
}

fn scale_sum(samples: &mut [f32], sum: f64) {
    let factor = sum / samples.iter().map(|&s| f64::from(s)).sum::<f64>();
    samples.iter_mut().for_each(|s| *s = (f64::from(*s) * factor) as f32);
}

fn checked_len(shape: [usize; 3]) -> Result<usize> {
    let len = shape.iter().try_fold(1usize, |len, &side| len.checked_mul(side)).filter(|&len| len <= MOST_VOXELS);
    len.ok_or_else(|| {
        Error::InvalidOption(format!(
            "the blur needs {shape:?} voxels (Z, Y, X), and may have {MOST_VOXELS}; crop the image"
        ))
    })
}

impl Volume {
    /// Convolves with a point spread function of odd sides, which must be symmetric (as those of [`PsfModel`] are) for
    /// the light to be kept. Beyond its borders the volume goes on as its mirror image.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where a side of the PSF is even, or both together need more than 4 GB.
    pub fn blurred(&self, psf: &Self) -> Result<Self> {
        if psf.shape.iter().any(|side| side % 2 == 0) {
            return Err(Error::InvalidOption(format!("a PSF has odd sides, found {:?}", psf.shape)));
        }
        // The mirrored image has a period of twice its side: a circle of that length is as good as endless borders.
        let lengths: [usize; 3] = std::array::from_fn(|axis| {
            let (side, radius) = (self.shape[axis], psf.shape[axis] / 2);
            if 2 * radius >= side { 2 * side } else { smooth_length(side + 2 * radius) }
        });
        let count = checked_len(lengths)?;
        let index = |i: usize, side: usize, radius: usize, length: usize| {
            if i < side + radius { mirrored(i, 0, side) } else { mirrored(i, length, side) }
        };
        let along = |axis: usize| -> Vec<usize> {
            let (side, radius) = (self.shape[axis], psf.shape[axis] / 2);
            (0..lengths[axis]).map(|i| index(i, side, radius, lengths[axis])).collect()
        };
        let [from_z, from_y, from_x] = [along(0), along(1), along(2)];
        let mut image = Vec::with_capacity(count);
        for &z in &from_z {
            for &y in &from_y {
                let row = &self.samples[(z * self.shape[1] + y) * self.shape[2]..][..self.shape[2]];
                image.extend(from_x.iter().map(|&x| Complex32::new(row[x], 0.0)));
            }
        }
        let mut kernel = vec![Complex32::default(); count];
        let wrap =
            |i: usize, axis: usize| (i as i64 - (psf.shape[axis] / 2) as i64).rem_euclid(lengths[axis] as i64) as usize;
        for (row, line) in psf.samples.chunks_exact(psf.shape[2]).enumerate() {
            let start = (wrap(row / psf.shape[1], 0) * lengths[1] + wrap(row % psf.shape[1], 1)) * lengths[2];
            for (x, sample) in line.iter().enumerate() {
                kernel[start + wrap(x, 2)].re += sample;
            }
        }
        let mut planner = FftPlanner::new();
        let forward = lengths.map(|length| planner.plan_fft_forward(length));
        transform(&mut kernel, lengths, &forward);
        transform(&mut image, lengths, &forward);
        let scale = 1.0 / count as f32;
        image.iter_mut().zip(&kernel).for_each(|(image, kernel)| *image *= kernel * scale);
        drop(kernel);
        transform(&mut image, lengths, &lengths.map(|length| planner.plan_fft_inverse(length)));
        let [z, y, x] = self.shape;
        let mut samples = Vec::with_capacity(self.samples.len());
        for plane in 0..z {
            for row in 0..y {
                let line = &image[(plane * lengths[1] + row) * lengths[2]..][..x];
                samples.extend(line.iter().map(|value| value.re));
            }
        }
        Ok(Self { shape: self.shape, samples })
    }
}

/// Transforms along X, Y and Z in place.
fn transform(data: &mut [Complex32], [z, y, x]: [usize; 3], plans: &[Arc<dyn Fft<f32>>; 3]) {
    plans[2].process(data);
    for plane in data.chunks_exact_mut(y * x) {
        columns(plane, y, x, &*plans[1]);
    }
    columns(data, z, y * x, &*plans[0]);
}

/// Transforms each of `width` columns of length `length`, a block of them at a time, so that memory is read in runs.
fn columns(data: &mut [Complex32], length: usize, width: usize, plan: &dyn Fft<f32>) {
    if length == 1 {
        return;
    }
    const BLOCK: usize = 16;
    let mut block = vec![Complex32::default(); BLOCK * length];
    for left in (0..width).step_by(BLOCK) {
        let count = BLOCK.min(width - left);
        for row in 0..length {
            for column in 0..count {
                block[column * length + row] = data[row * width + left + column];
            }
        }
        plan.process(&mut block[..count * length]);
        for row in 0..length {
            for column in 0..count {
                data[row * width + left + column] = block[column * length + row];
            }
        }
    }
}

/// The next number with no prime factor above 5, for which the FFT is fast.
fn smooth_length(least: usize) -> usize {
    let smooth = |&n: &usize| {
        let mut n = n;
        for factor in [2, 3, 5] {
            while n.is_multiple_of(factor) {
                n /= factor;
            }
        }
        n == 1
    };
    (least.max(1)..).find(smooth).expect("powers of two never end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::gaussian_blur;

    const EMISSION: f64 = 0.52;

    fn widefield(na: f64, refractive_index: f64) -> PsfModel {
        PsfModel::Widefield { na, emission_nm: 1000.0 * EMISSION, refractive_index }
    }

    fn confocal(na: f64, refractive_index: f64, pinhole_au: f64) -> PsfModel {
        PsfModel::Confocal { na, emission_nm: 1000.0 * EMISSION, excitation_nm: 488.0, refractive_index, pinhole_au }
    }

    /// Full width at half maximum of a profile that starts at its maximum, in samples.
    fn full_width(profile: &[f64]) -> f64 {
        let half = profile[0] / 2.0;
        let after = profile.iter().position(|&p| p < half).expect("the profile falls to its half");
        let (a, b) = (profile[after - 1], profile[after]);
        2.0 * ((after - 1) as f64 + (a - half) / (a - b))
    }

    fn half_line(psf: &Volume) -> Vec<f64> {
        psf.samples[psf.samples.len() / 2..].iter().map(|&s| s.into()).collect()
    }

    const OBJECTIVES: [(f64, f64); 4] = [(0.3, 1.0), (0.8, 1.0), (1.2, 1.33), (1.4, 1.518)];

    /// FWHM 0.51 λ/NA, first zero 0.61 λ/NA: the Airy pattern.
    #[test]
    fn widefield_in_focus_is_the_airy_pattern() {
        for (na, index) in OBJECTIVES {
            let step = EMISSION / na / 100.0;
            let psf = widefield(na, index).psf([1, 1, 201], Voxel { z_um: 0.1, xy_um: step }).unwrap();
            let line = half_line(&psf);
            let width = full_width(&line) / 100.0;
            assert!((width - 0.5145).abs() < 0.005, "NA {na}: FWHM {width} λ/NA");
            let zero = (1..line.len()).find(|&i| line[i] < line[i + 1]).unwrap() as f64 / 100.0;
            assert!((zero - 0.6098).abs() < 0.011, "NA {na}: first zero at {zero} λ/NA");
            // What linear interpolation of the profile leaves.
            assert!(line[61] < 5e-4 * line[0], "NA {na}: {} there", line[61] / line[0]);
        }
    }

    /// FWHM 0.88 λ / (n − √(n² − NA²)) along the axis; exact for a pupil whose intensity is even in the solid angle, and
    /// a few percent more for one that is even in the plane of the pupil.
    #[test]
    fn widefield_has_the_axial_width_of_theory() {
        for (na, wavelength_um, refractive_index) in OBJECTIVES.map(|(na, index)| (na, EMISSION, index)) {
            let pupil = Pupil { na, wavelength_um, refractive_index };
            let step = pupil.axial_width() / 50.0;
            let axis: Vec<f64> = pupil.radial(0.01, 0.0, 100, step).iter().map(|profile| profile[0]).collect();
            let ratio = full_width(&axis) / 50.0;
            assert!((0.99..1.06).contains(&ratio), "NA {na}: {ratio} of the expected width");
        }
    }

    /// Every plane holds the same light, by the integral itself: ∫ |h|² r dr does not depend on z.
    #[test]
    fn defocus_moves_light_and_loses_none() {
        let pupil = Pupil { na: 1.2, wavelength_um: EMISSION, refractive_index: 1.33 };
        let light: Vec<f64> = pupil
            .radial(0.01, 12.0, 4, 0.8)
            .iter()
            .map(|profile| profile.iter().enumerate().map(|(r, p)| r as f64 * p).sum())
            .collect();
        for plane in &light {
            assert!((plane / light[0] - 1.0).abs() < 0.02, "{light:?}");
        }
    }

    #[test]
    fn psfs_are_symmetric_and_sum_to_one() {
        let voxel = Voxel { z_um: 0.25, xy_um: 0.1 };
        for model in [
            widefield(1.4, 1.518),
            confocal(1.4, 1.518, 1.0),
            PsfModel::Gaussian { sigma_um: 0.2, sigma_z_um: 0.5 },
            PsfModel::GaussianPx { sigma_px: 0.0, sigma_z_px: 0.0 },
        ] {
            let psf = model.psf([7, 20, 31], voxel).unwrap();
            assert!(psf.shape.iter().all(|side| side % 2 == 1), "{model:?}: {:?}", psf.shape);
            let sum: f64 = psf.samples.iter().map(|&s| f64::from(s)).sum();
            assert!((sum - 1.0).abs() < 1e-5, "{model:?}: sum {sum}");
            let [z, y, x] = psf.shape;
            let at = |i: usize, j: usize, k: usize| psf.samples[(i * y + j) * x + k];
            let peak = at(z / 2, y / 2, x / 2);
            for (i, j, k) in (0..z).flat_map(|i| (0..y).flat_map(move |j| (0..x).map(move |k| (i, j, k)))) {
                assert!((0.0..=peak).contains(&at(i, j, k)));
                let mirrored = [at(z - 1 - i, j, k), at(i, y - 1 - j, k), at(i, j, x - 1 - k)];
                assert!(mirrored.iter().all(|&m| m == at(i, j, k)), "{model:?}: ({i}, {j}, {k})");
            }
        }
    }

    /// Along both axes; a pinhole that is opened leads from the ideal confocal to the width of the excitation spot. The
    /// width in Z shows through the sum over planes: a plane of widefield light is as bright however far from focus.
    #[test]
    fn confocal_is_narrower_than_widefield() {
        let voxel = Voxel { z_um: 0.05, xy_um: 0.01 };
        let lateral = |model: PsfModel| full_width(&half_line(&model.psf([1, 1, 101], voxel).unwrap()));
        let pinholes = [0.0, 0.5, 1.0, 20.0];
        let widths: Vec<f64> = pinholes.iter().map(|&au| lateral(confocal(1.2, 1.33, au))).collect();
        assert!(widths.windows(2).all(|w| w[0] < w[1]), "{widths:?}");
        let wide = lateral(widefield(1.2, 1.33));
        let excitation = wide * 488.0 / 520.0;
        assert!(widths[0] < 0.75 * wide && (widths[3] / excitation - 1.0).abs() < 0.02, "{widths:?}, {wide}");
        // Light of each plane of a stack, as share of that in focus.
        let voxel = Voxel { z_um: 0.25, xy_um: 0.1 };
        let out_of_focus = |model: PsfModel| {
            let psf = model.psf([9, 61, 61], voxel).unwrap();
            let plane = psf.shape[1] * psf.shape[2];
            let light: Vec<f32> = psf.samples.chunks(plane).map(|plane| plane.iter().sum()).collect();
            light[light.len() / 2 - 4] / light[light.len() / 2]
        };
        assert!((out_of_focus(widefield(1.2, 1.33)) - 1.0).abs() < 1e-4);
        assert!(out_of_focus(confocal(1.2, 1.33, 1.0)) < 0.1);
    }

    /// Pixels twice as wide see the mean over what four fine ones saw.
    #[test]
    fn coarse_pixels_take_the_mean_over_their_area() {
        let share = |side: usize, xy_um: f64| {
            let psf = widefield(1.2, 1.33).psf([1, side, side], Voxel { z_um: 1.0, xy_um }).unwrap();
            let [_, y, x] = psf.shape;
            let reach = (0.3 / xy_um) as usize / 2; // of the central 0.3 µm
            let rows = psf.samples.chunks(x).skip(y / 2 - reach).take(2 * reach + 1);
            rows.flat_map(|row| &row[x / 2 - reach..=x / 2 + reach]).map(|&s| f64::from(s)).sum::<f64>()
        };
        let (fine, coarse) = (share(301, 0.0201), share(21, 0.3));
        assert!((fine / coarse - 1.0).abs() < 0.06, "{fine} and {coarse} of the light in the centre");
    }

    /// The oracle is the two-pass blur of the same Gaussian, borders included, for images smaller than the PSF too.
    #[test]
    fn blur_agrees_with_the_gaussian_one() {
        for (y, x) in [(1, 1), (1, 9), (7, 5), (33, 40), (64, 21)] {
            let plane: Vec<f32> = (0..y * x).map(|i| (i * 37 % 11) as f32).collect();
            let sigma = 2.3;
            // A PSF that is not cut to the image, as `psf` would.
            let psf = PsfModel::GaussianPx { sigma_px: sigma, sigma_z_px: 0.0 };
            let psf = psf.psf([1, 100, 100], Voxel { z_um: 1.0, xy_um: 1.0 }).unwrap();
            let blurred = Volume::new([1, y, x], plane.clone()).unwrap().blurred(&psf).unwrap();
            let expected = gaussian_blur(&plane, (y, x), (sigma, sigma)).unwrap();
            for (found, expected) in blurred.samples.iter().zip(&expected) {
                assert!((found - expected).abs() < 2e-5, "{y}x{x}: {found}, not {expected}");
            }
        }
    }

    /// Three dimensions against the sum written out.
    #[test]
    fn blur_of_a_stack_agrees_with_the_plain_sum() {
        let shape = [4, 5, 6];
        let volume = Volume::new(shape, (0..120).map(|i| (i * 53 % 17) as f32).collect()).unwrap();
        let psf = confocal(0.8, 1.0, 1.0).psf(shape, Voxel { z_um: 0.5, xy_um: 0.2 }).unwrap();
        let blurred = volume.blurred(&psf).unwrap();
        let [pz, py, px] = psf.shape;
        for (i, found) in blurred.samples.iter().enumerate() {
            let mut sum = 0.0;
            for (k, weight) in psf.samples.iter().enumerate() {
                let z = mirrored(i / 30 + k / (py * px), pz / 2, 4);
                let y = mirrored(i / 6 % 5 + k / px % py, py / 2, 5);
                let x = mirrored(i % 6 + k % px, px / 2, 6);
                sum += weight * volume.samples[(z * 5 + y) * 6 + x];
            }
            assert!((found - sum).abs() < 1e-4, "sample {i}: {found}, not {sum}");
        }
        let light = |volume: &Volume| volume.samples.iter().map(|&s| f64::from(s)).sum::<f64>();
        assert!((light(&blurred) / light(&volume) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn nonsense_is_refused() {
        let voxel = Voxel { z_um: 0.3, xy_um: 0.1 };
        for (model, voxel) in [
            (widefield(1.4, 1.33), voxel),
            (widefield(0.0, 1.0), voxel),
            (widefield(f64::NAN, 1.0), voxel),
            (widefield(1.2, 1.33), Voxel { xy_um: 0.0, ..voxel }),
            (widefield(1.2, 1.33), Voxel { xy_um: 50.0, ..voxel }),
            (widefield(1.2, 1.33), Voxel { z_um: f64::INFINITY, ..voxel }),
            (confocal(1.2, 1.33, -1.0), voxel),
            (PsfModel::Gaussian { sigma_um: -0.1, sigma_z_um: 0.0 }, voxel),
            (PsfModel::GaussianPx { sigma_px: 1.0, sigma_z_px: 1e9 }, voxel),
        ] {
            assert!(matches!(model.psf([3, 9, 9], voxel), Err(Error::InvalidOption(_))), "{model:?} {voxel:?}");
        }
        let huge = Voxel { z_um: 1.0, xy_um: 0.1 };
        assert!(widefield(1.2, 1.33).psf([100_000, 9000, 9000], huge).is_err());
        let even = Volume::new([1, 2, 2], vec![0.25; 4]).unwrap();
        assert!(even.blurred(&even).is_err());
    }
}
