//! Validation: whole planes through the network in f32, scored under the protocol of `mdr evaluate`. The same planes at
//! every step, so that figures and pictures are comparable; they never reach training.

use crate::config::Config;
use crate::degrade;
use crate::methods::Method;
use crate::pairs::{Images, Pair, Plane};
use anyhow::{Context, Result};
use mdr::metrics::{self, Scale, Scores, SsimWindow};
use mdr::montage::{Panel, montage};
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

    /// Writes a sheet of pictures, each row degraded | restored | reference, each scaled by its own percentiles; none
    /// where there are no planes.
    ///
    /// # Errors
    /// Where a sample is not finite, or the file cannot be written.
    pub fn write_pictures(&self, path: &Path, restored: &[Plane]) -> Result<()> {
        let rows: Vec<[Plane; 3]> = (self.pairs.iter().zip(restored).take(PICTURES))
            .map(|(pair, restored)| {
                let sides = [pair.input.y.min(PICTURE_SIDE), pair.input.x.min(PICTURE_SIDE)];
                let corner = [(pair.input.y - sides[0]) / 2, (pair.input.x - sides[1]) / 2];
                [&pair.input, restored, &pair.target].map(|plane| plane.crop(corner, sides))
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let panels = rows.iter().enumerate().map(|(number, row)| {
            // One caption a column is enough.
            let captions = if number == 0 { ["degraded", "restored", "reference"] } else { [""; 3] };
            row.iter().zip(captions).map(|(plane, caption)| panel(plane, caption)).collect()
        });
        let panels: Vec<Vec<Panel>> = panels.collect::<Result<_>>()?;
        Ok(montage(&panels.iter().map(Vec::as_slice).collect::<Vec<_>>(), path)?)
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

/// The target is the reference up to gain and offset, which the protocol takes out; restored and target are on one
/// scale.
fn score(restored: &Plane, pair: &Pair) -> Result<Scores> {
    let (target, sides) = (&pair.target.samples, (pair.target.y, pair.target.x));
    Ok(metrics::evaluate(&restored.samples, target, sides, Scale::Reference, SsimWindow::Uniform)?)
}

/// Shown between its own 0.1 and 99.9 percentile.
fn panel<'a>(plane: &'a Plane, caption: &str) -> Result<Panel<'a>> {
    let percentile = |q| metrics::percentile(&plane.samples, q).map(|value| value as f32);
    let display = (percentile(0.1)?, percentile(99.9)?);
    Ok(Panel { samples: &plane.samples, shape: (plane.y, plane.x), display, caption: caption.into() })
}
