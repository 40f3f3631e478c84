//! Validation: whole planes through the network in f32, scored under the protocol of `mdr evaluate`. The same planes at
//! every step, so that figures and pictures are comparable; they never reach training.

use crate::config::Config;
use crate::degrade;
use crate::methods::Method;
use crate::pairs::{Images, Pair, Plane};
use anyhow::{Context, Result};
use mdr::metrics::{self, Scale, Scores, SsimWindow};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use std::path::Path;
use tch::{Device, Tensor};

/// Larger planes are cropped around their middle to this side, in pixels.
const LARGEST_SIDE: usize = 512;
/// Pictures in a sample sheet, and their largest side.
const PICTURES: usize = 4;
const PICTURE_SIDE: usize = 256;

/// Planes to validate on.
#[derive(Debug)]
pub struct Validation {
    pairs: Vec<Pair>,
}

impl Validation {
    /// Real pairs as they are; of clean images, windows degraded by a fixed seed. References without any contrast,
    /// which have no PSNR, are left out.
    ///
    /// # Errors
    /// Those of the simulation.
    pub fn new(config: &Config, images: Images) -> Result<Self> {
        let mut pairs = Vec::new();
        for pair in images.pairs {
            let sides = [pair.input.y.min(LARGEST_SIDE), pair.input.x.min(LARGEST_SIDE)];
            let corner = [(pair.input.y - sides[0]) / 2, (pair.input.x - sides[1]) / 2];
            let (input, target) = (pair.input.crop(corner, sides), pair.target.crop(corner, sides));
            pairs.push(Pair { input, target, ..pair });
        }
        if let Some(simulate) = config.simulate.as_ref().filter(|simulate| simulate.fraction > 0.0) {
            for number in 0..simulate.validation_windows {
                let clean = images.clean.get(number % images.clean.len().max(1));
                let choose = |_: &mut Pcg64Mcg| clean.map(|clean| &clean.plane);
                let mut rng = Pcg64Mcg::seed_from_u64(u64::MAX - number as u64);
                let window = degrade::window(choose, config.patches.size, simulate, &config.data, &mut rng)?;
                let name = format!("simulated window {number}");
                pairs.push(Pair { name, weight: 1.0, input: window.input, target: window.target });
            }
        }
        let mut kept = Vec::new();
        for pair in pairs {
            let percentile = |q| metrics::percentile(&pair.target.samples, q);
            if percentile(99.9)? > percentile(0.1)? {
                kept.push(pair);
            }
        }
        Ok(Self { pairs: kept })
    }

    /// The planes.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Restores every plane.
    pub fn restore(&self, method: &dyn Method, device: Device) -> Vec<Plane> {
        self.pairs.iter().map(|pair| restore(method, &pair.input, device)).collect()
    }

    /// Scores of restored planes, in the order of [`Validation::pairs`].
    ///
    /// # Errors
    /// Where a restored sample is not finite; the message names the image.
    pub fn scores(&self, restored: &[Plane]) -> Result<Vec<Scores>> {
        let pairs = self.pairs.iter().zip(restored);
        pairs.map(|(pair, restored)| score(restored, pair).with_context(|| pair.name.clone())).collect()
    }

    /// Scores of the degraded planes themselves.
    ///
    /// # Errors
    /// As [`Validation::scores`].
    pub fn input_scores(&self) -> Result<Vec<Scores>> {
        self.pairs.iter().map(|pair| score(&pair.input, pair).with_context(|| pair.name.clone())).collect()
    }

    /// Writes a sheet of pictures, each row degraded | restored | reference, each scaled by its own percentiles.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write_pictures(&self, path: &Path, restored: &[Plane]) -> Result<()> {
        let rows: Vec<[Plane; 3]> = (self.pairs.iter().zip(restored).take(PICTURES))
            .map(|(pair, restored)| {
                let sides = [pair.input.y.min(PICTURE_SIDE), pair.input.x.min(PICTURE_SIDE)];
                let corner = [(pair.input.y - sides[0]) / 2, (pair.input.x - sides[1]) / 2];
                [&pair.input, restored, &pair.target].map(|plane| plane.crop(corner, sides))
            })
            .collect();
        let height: usize = rows.iter().map(|row| row[0].y).sum();
        let width = rows.iter().map(|row| 3 * row[0].x).max().unwrap_or(0);
        if height == 0 {
            return Ok(());
        }
        let mut sheet = vec![0u8; height * width];
        let mut top = 0;
        for row in &rows {
            for (column, plane) in row.iter().enumerate() {
                for (line, grey) in grey(plane)?.chunks_exact(plane.x).enumerate() {
                    sheet[(top + line) * width + column * plane.x..][..plane.x].copy_from_slice(grey);
                }
            }
            top += row[0].y;
        }
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.write_header()?.write_image_data(&sheet)?;
        std::fs::write(path, bytes).with_context(|| path.display().to_string())
    }
}

/// Restores one normalised plane of any size: padded by reflection to sides that the network accepts, then cropped.
pub fn restore(method: &dyn Method, plane: &Plane, device: Device) -> Plane {
    let multiple = method.generator().tile_multiple();
    let padded = |length: usize| length.next_multiple_of(multiple) - length;
    let (bottom, right) = (padded(plane.y), padded(plane.x));
    let input = Tensor::from_slice(&plane.samples).reshape([1, 1, plane.y as i64, plane.x as i64]).to_device(device);
    let pads = [0, right as i64, 0, bottom as i64];
    // Reflection needs sides longer than the padding; tinier planes repeat their border.
    let input =
        if plane.y > bottom && plane.x > right { input.reflection_pad2d(pads) } else { input.replication_pad2d(pads) };
    let restored = method.restore(&input).slice(2, 0, plane.y as i64, 1).slice(3, 0, plane.x as i64, 1);
    let mut samples = vec![0.0; plane.samples.len()];
    restored.to_device(Device::Cpu).contiguous().reshape([-1]).copy_data(&mut samples, plane.samples.len());
    Plane { y: plane.y, x: plane.x, samples }
}

/// The target is the reference up to gain and offset, which the protocol takes out.
fn score(restored: &Plane, pair: &Pair) -> Result<Scores> {
    let reference = &pair.target;
    let (low, high) = (metrics::percentile(&reference.samples, 0.1)?, metrics::percentile(&reference.samples, 99.9)?);
    // Restored and target are on one scale, so the target's percentiles bring the restored plane to 0..1.
    let scaled: Vec<f32> =
        restored.samples.iter().map(|&sample| ((f64::from(sample) - low) / (high - low)) as f32).collect();
    let sides = (reference.y, reference.x);
    Ok(metrics::evaluate(&scaled, &reference.samples, sides, Scale::AsIs, SsimWindow::Uniform)?)
}

/// 8-bit grey between the 0.1 and 99.9 percentile.
fn grey(plane: &Plane) -> Result<Vec<u8>> {
    let (low, high) = (metrics::percentile(&plane.samples, 0.1)?, metrics::percentile(&plane.samples, 99.9)?);
    let range = if high > low { high - low } else { 1.0 };
    let grey = |&sample: &f32| ((f64::from(sample) - low) / range * 255.0).round().clamp(0.0, 255.0) as u8;
    Ok(plane.samples.iter().map(grey).collect())
}
