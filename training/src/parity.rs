//! The same patches through tch and through mdr. Simulated noisy micrographs, so that an export needs no data folder, in
//! several shapes, so that strides and borders count too.

use crate::methods::Method;
use anyhow::{Context, Result};
use mdr::simulate::{Camera, Phantom, phantom};
use mdr::{Image, Model, Normalization};
use serde::Serialize;
use tch::Tensor;

/// Largest difference allowed, as a part of the output's range.
pub const TOLERANCE: f64 = 1e-4;

/// What parity.json holds.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Report {
    pub passed: bool,
    pub tolerance: f64,
    /// Largest difference of all patches, as a part of the output's range.
    pub worst: f64,
    pub patches: Vec<Patch>,
}

/// One patch.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Patch {
    pub y: usize,
    pub x: usize,
    pub max_difference: f64,
    pub output_range: f64,
}

/// Runs the patches through both.
///
/// # Errors
/// Where the engine refuses the model.
pub fn compare(method: &dyn Method, task: usize, onnx: &[u8]) -> Result<Report> {
    let model = Model::from_bytes("exported model", onnx).context("mdr does not accept the exported model")?;
    let multiple = method.generator().tile_multiple();
    let mut patches = Vec::new();
    for (number, (y, x)) in [(64usize, 64usize), (96, 160), (160, 96), (256, 256)].into_iter().enumerate() {
        let (y, x) = (y.next_multiple_of(multiple), x.next_multiple_of(multiple));
        let channels = method.generator().channels();
        let planes = (0..channels).map(|channel| noisy(number + channel, y, x));
        let input = planes.collect::<Result<Vec<_>>>()?.concat();
        let sides = [1, channels, y, x].map(|side| side as i64);
        let expected = method.restore(&Tensor::from_slice(&input).reshape(sides), task);
        let expected = Vec::<f32>::try_from(expected.contiguous().reshape([-1]))?;
        let found = model.network().run(&input, [channels, y, x])?;
        anyhow::ensure!(found.len() == expected.len(), "mdr gave {} samples for {}", found.len(), expected.len());
        let (min, max) = expected.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
        // f64::max would swallow a NaN.
        let difference = expected
            .iter()
            .zip(&found)
            .map(|(a, b)| f64::from((a - b).abs()))
            .fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst });
        patches.push(Patch { y, x, max_difference: difference, output_range: f64::from(max - min) });
    }
    let parts = patches.iter().map(|patch| patch.max_difference / patch.output_range.max(f64::MIN_POSITIVE));
    let worst = parts.fold(0.0, |worst, part| if part > worst || part.is_nan() { part } else { worst });
    Ok(Report { passed: worst <= TOLERANCE, tolerance: TOLERANCE, worst, patches })
}

fn noisy(number: usize, y: usize, x: usize) -> Result<Vec<f32>> {
    let clean = phantom(Phantom::ALL[number % Phantom::ALL.len()], y, x, number as u64);
    let camera = Camera { photons: 20.0, ..Camera::default() };
    let mut image = Image::from_plane(y, x, camera.capture(&clean.samples, number as u64)?)?;
    let percentiles = Normalization::Percentile { low: 2.0, high: 99.8 };
    let fitted = percentiles.fit(&mut image.as_source(), 0, &mut || true)?;
    fitted.apply(&mut image.samples);
    Ok(image.samples)
}
