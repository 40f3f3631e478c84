//! Pairs → what their defect does to each spatial frequency: which part of it passes, H = S_xy/S_xx, and the power of what
//! is left of the degraded image beside, S_yy − |H|²·S_xx, with the clean image's spectrum S_xx, the degraded one's S_yy and
//! the cross spectrum S_xy (Bendat and Piersol, Random Data, chapter 6). It tells blur from noise, which no spectrum of
//! degraded images alone does.

use crate::pairs::Plane;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

/// Side of the windows that are transformed.
const SIDE: usize = 128;
/// Cycles per window that share a bin.
const BIN: usize = 4;

/// Of frequencies in bins of 1/32 cycles per pixel from 0 to 1/2, along one axis and below 1/32 along the other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Transfer {
    /// H, mean over images; real, as what does not shift an image has no phase.
    pub passed: Vec<f64>,
    /// Power of what is left, median over images; white noise of variance 1 has 9/64 (Hann's taper).
    pub left: Vec<f64>,
}

/// Of images (clean, degraded) on the same grid, along Y and along X; none where all are smaller than 128×128 pixels.
pub fn transfer(pairs: &[(&Plane, &Plane)]) -> Option<[Transfer; 2]> {
    let (mut passed, mut left) = ([vec![], vec![]], [vec![], vec![]]);
    for (clean, degraded) in pairs {
        let Some(spectra) = spectra(clean, degraded) else { continue };
        for axis in 0..2 {
            let [clean, degraded, cross] = [0, 1, 2].map(|which| along(&spectra[which], axis));
            let h: Vec<f64> =
                cross.iter().zip(&clean).map(|(cross, clean)| cross / clean.max(f64::MIN_POSITIVE)).collect();
            left[axis].push((0..h.len()).map(|bin| degraded[bin] - h[bin].powi(2) * clean[bin]).collect());
            passed[axis].push(h);
        }
    }
    let over_images = |images: &[Vec<f64>], of: fn(&mut [f64]) -> f64| -> Vec<f64> {
        (0..SIDE / 2 / BIN).map(|bin| of(&mut images.iter().map(|bins| bins[bin]).collect::<Vec<_>>())).collect()
    };
    let of_axis = |axis: usize| Transfer {
        passed: over_images(&passed[axis], |values| values.iter().sum::<f64>() / values.len() as f64),
        left: over_images(&left[axis], |values| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        }),
    };
    (!passed[0].is_empty()).then(|| [0, 1].map(of_axis))
}

/// S_xx, S_yy and the real part of S_xy, mean over windows that overlap by half; Y, X.
fn spectra(clean: &Plane, degraded: &Plane) -> Option<[Tensor; 3]> {
    if (clean.y, clean.x) != (degraded.y, degraded.x) || clean.y < SIDE || clean.x < SIDE {
        return None;
    }
    let starts = |length: usize| (0..=length - SIDE).step_by(SIDE / 2);
    let mut sums: Option<[Tensor; 3]> = None;
    let mut windows = 0.0;
    for corner in starts(clean.y).flat_map(|y| starts(clean.x).map(move |x| [y, x])) {
        let [a, b] = [clean, degraded].map(|plane| spectrum(&plane.crop(corner, [SIDE; 2])));
        let cross = a.real() * b.real() + a.imag() * b.imag();
        let spectra = [a.abs().square(), b.abs().square(), cross];
        sums = Some(match sums {
            Some(sums) => [0, 1, 2].map(|which| &sums[which] + &spectra[which]),
            None => spectra,
        });
        windows += 1.0;
    }
    sums.map(|sums| sums.map(|sum| sum / windows))
}

/// Of a window under a Hann taper, without its mean.
pub fn spectrum(window: &Plane) -> Tensor {
    let [y, x] = [window.y, window.x].map(|side| side as i64);
    let image = Tensor::from_slice(&window.samples).reshape([y, x]).to_kind(Kind::Double);
    let taper = |side: i64| Tensor::hann_window(side, (Kind::Double, Device::Cpu));
    let image = (&image - image.mean(Kind::Double)) * taper(x).unsqueeze(0) * taper(y).unsqueeze(1);
    image.fft_fft2(None::<&[i64]>, [-2, -1], "ortho")
}

/// Mean of each bin along an axis (0: Y), and of the lowest along the other.
fn along(spectrum: &Tensor, axis: usize) -> Vec<f64> {
    let values = Vec::<f64>::try_from(spectrum.reshape([-1])).unwrap_or_default();
    let cycles = |index: usize| index.min(SIDE - index);
    let mut bins = vec![(0.0, 0.0); SIDE / 2 / BIN];
    for (index, value) in values.iter().enumerate() {
        let (down, across) = (cycles(index / SIDE), cycles(index % SIDE));
        let (this, other) = if axis == 0 { (down, across) } else { (across, down) };
        // Not the mean.
        if this + other > 0 && other < BIN && this < SIDE / 2 {
            bins[this / BIN].0 += value;
            bins[this / BIN].1 += 1.0;
        }
    }
    bins.into_iter().map(|(sum, count)| sum / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};
    use rand_pcg::Pcg64Mcg;

    #[test]
    fn blur_along_one_axis_and_noise_are_told_apart() {
        let side = 256;
        let mut rng = Pcg64Mcg::seed_from_u64(3);
        let mut normal = || -> Vec<f32> { StandardNormal.sample_iter(&mut rng).take(side * side).collect() };
        let (clean, noise) = (Plane { y: side, x: side, samples: normal() }, normal());
        // A mean of 0.25, 0.5, 0.25 along Y passes ½ + ½·cos(2πf).
        let at = |y: usize, x: usize| f64::from(clean.samples[(y % side) * side + x]);
        let blurred = |y: usize, x: usize| 0.5 * at(y, x) + 0.25 * (at(y + 1, x) + at(y + side - 1, x));
        let samples = (0..side * side)
            .map(|index| (3.0 * blurred(index / side, index % side) + 0.5 * f64::from(noise[index])) as f32);
        let degraded = Plane { y: side, x: side, samples: samples.collect() };
        let [down, across] = transfer(&[(&clean, &degraded)]).unwrap();
        for bin in 0..16 {
            let frequency = (bin as f64 * 4.0 + 1.5) / 128.0;
            let expected = 1.5 * (1.0 + (2.0 * std::f64::consts::PI * frequency).cos());
            assert!((down.passed[bin] - expected).abs() < 0.2, "{bin}: {}, expected {expected}", down.passed[bin]);
            assert!((across.passed[bin] - 3.0).abs() < 0.2, "{bin}: {}", across.passed[bin]);
        }
        let mean = |left: &[f64]| left.iter().sum::<f64>() / left.len() as f64 / (0.25 * 9.0 / 64.0);
        let found = [mean(&down.left), mean(&across.left)];
        assert!(found.iter().all(|ratio| (0.8..1.2).contains(ratio)), "{found:?}");
    }

    #[test]
    fn small_or_unequal_planes_have_none() {
        let plane = |side: usize| Plane { y: side, x: side, samples: vec![0.0; side * side] };
        assert!(transfer(&[(&plane(64), &plane(64)), (&plane(128), &plane(256))]).is_none());
        let [down, _] = transfer(&[(&plane(128), &plane(128))]).unwrap();
        assert!(down.passed.iter().chain(&down.left).all(|value| *value == 0.0), "{down:?}");
    }
}
