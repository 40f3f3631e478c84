//! Clean image → degraded window and its target, for training without real pairs. A window is degraded and normalised
//! as a whole, by the engine's own normalisation, because percentiles of a noisy image lie wider than those of a clean
//! one and the network must see in training what the engine will feed it; patches are cut from it afterwards.
//!
//! Order, as in a microscope: magnification, band limit, optics (`[simulate.widefield]` blur and haze, `[simulate.axial]`
//! a PSF that is long along Y, which plays the part of Z, and few rows), photons and background (Poisson), excess noise of
//! an EMCCD, read noise, then what software does: resampling, clipping, 8 bit. Where there are optics, the target comes to
//! the scale of the network as that of a real pair does (`data.match_intensity`).

use crate::config::{Axial, Data, Simulate, Widefield};
use crate::pairs::{Plane, match_intensity, normalized};
use anyhow::Result;
use mdr::simulate::{Phantom, phantom};
use mdr::{Image, Task, metrics};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64Mcg;

/// A degraded window and its target, on the scale of the network, with the weight of its patches in the loss.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Window {
    pub input: Plane,
    pub target: Plane,
    pub weight: f32,
}

/// Degrades a random window of one of the clean planes (scale 0..1), chosen by `choose`, or of a phantom. `least` is
/// the smallest side a window may have; planes smaller than the window give smaller windows.
///
/// # Errors
/// Those of the normalisation; none for finite samples.
pub fn window<'a>(
    choose: impl FnOnce(&mut Pcg64Mcg) -> Option<&'a Plane>,
    least: usize,
    settings: &Simulate,
    data: &Data,
    rng: &mut Pcg64Mcg,
) -> Result<Window> {
    let clean = if rng.random_bool(settings.phantoms) { None } else { choose(rng) };
    let mut signal = match clean {
        Some(clean) => {
            let zoom = log_uniform(settings.zoom, rng);
            magnified(clean, zoom, least, settings, rng)
        }
        // Phantoms come in various magnifications by themselves.
        None => {
            let kind = Phantom::ALL[rng.random_range(0..Phantom::ALL.len())];
            let image = phantom(kind, settings.window, settings.window, rng.random());
            let plane = Plane { y: settings.window, x: settings.window, samples: image.samples };
            magnified(&plane, 1.0, least, settings, rng)
        }
    };
    if settings.axial.is_some() && rng.random() {
        signal = signal.transposed();
    }
    let (focused, rows) = optics(&signal, settings, rng)?;
    let exposure = Exposure::draw(settings, rng);
    let mut noisy = exposure.capture(focused, settings, rng);
    let mut clean = signal;
    clean.samples.iter_mut().for_each(|sample| *sample = exposure.expected(*sample));
    process(&mut noisy, &mut clean, settings, rng)?;
    if let Some(rows) = rows {
        noisy = rows.interpolated(&noisy, clean.y);
    }
    let Plane { y, x, .. } = clean;
    let mut image = Image::from_plane(y, x, noisy.samples)?;
    let fitted = data.normalization().fit(&mut image.as_source(), 0, &mut || true)?;
    fitted.apply(&mut image.samples);
    let mut target = clean;
    fitted.apply(&mut target.samples);
    if settings.widefield.is_some() || settings.axial.is_some() {
        let task = if settings.axial.is_some() { Task::Axial } else { Task::SuperResolve };
        if data.matches_intensity(task) {
            match_intensity(&mut target.samples, &image.samples)?;
        } else {
            target = normalized(target, data)?;
        }
    }
    let range = metrics::percentile(&target.samples, 99.9)? - metrics::percentile(&target.samples, 0.1)?;
    let weight = range.max(0.05).powf(-settings.weight_by_range) as f32;
    Ok(Window { input: Plane { y, x, samples: image.samples }, target, weight })
}

/// Crop, zoom, band limit and gamma.
fn magnified(clean: &Plane, zoom: f64, least: usize, settings: &Simulate, rng: &mut Pcg64Mcg) -> Plane {
    let side = |length: usize| {
        let side = settings.window.min((length as f64 * zoom) as usize).max(least);
        (side, ((side as f64 / zoom).ceil() as usize + 1).min(length))
    };
    let ((height, source_height), (width, source_width)) = (side(clean.y), side(clean.x));
    let top = rng.random_range(0..=clean.y - source_height);
    let left = rng.random_range(0..=clean.x - source_width);
    let mut source = clean.crop([top, left], [source_height, source_width]);
    if zoom < 1.0 {
        // Against aliasing: what a pixel of 1/zoom source pixels would gather.
        blur(&mut source, [0.4 * (1.0 / (zoom * zoom) - 1.0).sqrt(); 2]);
    }
    let mut window = resampled(&source, height, width);
    if rng.random_bool(settings.blur_probability) {
        blur(&mut window, [uniform(settings.blur_sigma, rng); 2]);
    }
    let gamma = uniform(settings.gamma, rng) as f32;
    window.samples.iter_mut().for_each(|sample| *sample = sample.max(0.0).powf(gamma));
    window
}

/// What the optics make of the specimen; along Z, which Y stands for, only some rows may be left.
fn optics(signal: &Plane, settings: &Simulate, rng: &mut Pcg64Mcg) -> Result<(Plane, Option<Rows>)> {
    let mut focused = signal.clone();
    if let Some(Widefield { sigma, haze, haze_sigma, elsewhere }) = settings.widefield {
        let part = uniform(haze, rng) as f32;
        let mut far = out_of_focus(signal, uniform(elsewhere, rng) as f32, rng);
        blur(&mut focused, [uniform(sigma, rng); 2]);
        blur(&mut far, [uniform(haze_sigma, rng); 2]);
        focused.samples.iter_mut().zip(far.samples).for_each(|(sample, far)| *sample += part * far);
        let bright = metrics::percentile(&focused.samples, 99.9)? as f32;
        if bright > 0.0 {
            focused.samples.iter_mut().for_each(|sample| *sample /= bright);
        }
    }
    let Some(Axial { step, sigma, lateral_sigma }) = settings.axial else { return Ok((focused, None)) };
    let step = log_uniform(step, rng);
    blur(&mut focused, [uniform(sigma, rng) * step, uniform(lateral_sigma, rng)]);
    let rows = Rows { first: rng.random::<f64>() * step, step };
    let kept = rows.taken(&focused);
    Ok((kept, Some(rows)))
}

/// What sends light from out of focus: the specimen itself, and, with weight `elsewhere`, another place of it, for which
/// stands the window shifted around its borders.
fn out_of_focus(signal: &Plane, elsewhere: f32, rng: &mut Pcg64Mcg) -> Plane {
    let mut far = signal.clone();
    if elsewhere > 0.0 {
        let shift = rng.random_range(0..signal.y) * signal.x + rng.random_range(0..signal.x);
        let other = signal.samples.iter().cycle().skip(shift);
        far.samples.iter_mut().zip(other).for_each(|(sample, other)| *sample += (other - *sample) * elsewhere);
    }
    far
}

/// Rows at `first + k·step`: the planes of a coarse stack, seen from the side.
struct Rows {
    first: f64,
    step: f64,
}

impl Rows {
    fn taken(&self, plane: &Plane) -> Plane {
        let last = (plane.y - 1) as f64;
        let count = (((last - self.first) / self.step).floor().max(1.0) as usize) + 1;
        let at = |index: usize| (self.first + index as f64 * self.step).min(last);
        rows(plane, (0..count).map(at))
    }

    /// Back on a grid of `height` rows by linear interpolation; beyond the outermost rows they are repeated.
    fn interpolated(&self, plane: &Plane, height: usize) -> Plane {
        let last = (plane.y - 1) as f64;
        rows(plane, (0..height).map(|index| ((index as f64 - self.first) / self.step).clamp(0.0, last)))
    }
}

/// Rows at these positions, linearly interpolated.
fn rows(plane: &Plane, positions: impl ExactSizeIterator<Item = f64>) -> Plane {
    let y = positions.len();
    let mut samples = Vec::with_capacity(y * plane.x);
    for position in positions {
        let above = (position as usize).min(plane.y - 1);
        let part = (position - above as f64) as f32;
        let row = |index: usize| &plane.samples[index.min(plane.y - 1) * plane.x..][..plane.x];
        samples.extend(row(above).iter().zip(row(above + 1)).map(|(a, b)| a + (b - a) * part));
    }
    Plane { y, x: plane.x, samples }
}

/// How bright the specimen is in the camera's eyes.
struct Exposure {
    photons: f32,
    background: f32,
    read_noise: f32,
    emccd: bool,
}

impl Exposure {
    fn draw(settings: &Simulate, rng: &mut Pcg64Mcg) -> Self {
        let photons = log_uniform(settings.photons, rng) as f32;
        let background = uniform(settings.background, rng) as f32 * photons;
        let read_noise = uniform(settings.read_noise, rng) as f32;
        Self { photons, background, read_noise, emccd: rng.random_bool(settings.emccd_probability) }
    }

    /// Mean electrons.
    fn expected(&self, intensity: f32) -> f32 {
        intensity * self.photons + self.background
    }

    /// Noisy electrons.
    fn capture(&self, mut signal: Plane, settings: &Simulate, rng: &mut Pcg64Mcg) -> Plane {
        signal.samples.iter_mut().for_each(|sample| *sample = self.expected(*sample));
        let mut noisy = signal.clone();
        for sample in &mut noisy.samples {
            let mut electrons = poisson(*sample, rng);
            if self.emccd && electrons > 0.0 {
                electrons = gamma(electrons, rng);
            }
            *sample = electrons + self.read_noise * normal(rng);
        }
        if rng.random_bool(settings.correlated_probability) {
            let mut noise = noisy.clone();
            noise.samples.iter_mut().zip(&signal.samples).for_each(|(noisy, clean)| *noisy -= clean);
            blur(&mut noise, [uniform(settings.correlated_sigma, rng); 2]);
            for ((noisy, clean), noise) in noisy.samples.iter_mut().zip(&signal.samples).zip(noise.samples) {
                *noisy = clean + noise;
            }
        }
        noisy
    }
}

/// Clipping and 8 bit; the target follows the change of scale, but is neither clipped nor rounded.
fn process(noisy: &mut Plane, clean: &mut Plane, settings: &Simulate, rng: &mut Pcg64Mcg) -> Result<()> {
    if rng.random_bool(settings.clip_probability) {
        let limit = metrics::percentile(&noisy.samples, uniform(settings.clip_percentile, rng))? as f32;
        noisy.samples.iter_mut().for_each(|sample| *sample = sample.min(limit));
    }
    if rng.random_bool(settings.eight_bit_probability) {
        let min = noisy.samples.iter().copied().fold(f32::INFINITY, f32::min);
        let max = noisy.samples.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if max > min {
            let factor = 255.0 / (max - min);
            noisy.samples.iter_mut().for_each(|sample| *sample = ((*sample - min) * factor).round());
            clean.samples.iter_mut().for_each(|sample| *sample = (*sample - min) * factor);
        }
    }
    Ok(())
}

/// A Poisson number. Up to 20 by inversion; above, from a normal one with the skewness put right (Cornish–Fisher),
/// several times faster than an exact method and closer than training could tell.
fn poisson(mean: f32, rng: &mut Pcg64Mcg) -> f32 {
    if mean > 20.0 {
        let z = normal(rng);
        return (mean + mean.sqrt() * z + (z * z - 1.0) / 6.0).round().max(0.0);
    }
    let uniform: f32 = rng.random();
    let mut probability = (-mean).exp();
    let (mut sum, mut count) = (probability, 0.0);
    while uniform > sum && count < 100.0 {
        count += 1.0;
        probability *= mean / count;
        sum += probability;
    }
    count
}

/// A gamma number of this shape and scale 1 (Wilson–Hilferty).
fn gamma(shape: f32, rng: &mut Pcg64Mcg) -> f32 {
    let part = 1.0 / (9.0 * shape);
    (shape * (1.0 - part + normal(rng) * part.sqrt()).powi(3)).max(0.0)
}

fn normal(rng: &mut Pcg64Mcg) -> f32 {
    StandardNormal.sample(rng)
}

fn uniform([low, high]: [f64; 2], rng: &mut Pcg64Mcg) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

fn log_uniform([low, high]: [f64; 2], rng: &mut Pcg64Mcg) -> f64 {
    uniform([low.ln(), high.ln()], rng).exp()
}

/// Bilinear, corners on corners.
fn resampled(source: &Plane, height: usize, width: usize) -> Plane {
    if (source.y, source.x) == (height, width) {
        return source.clone();
    }
    let positions = |from: usize, to: usize| -> Vec<(usize, usize, f32)> {
        let step = (from - 1) as f32 / (to.max(2) - 1) as f32;
        (0..to)
            .map(|index| {
                let position = index as f32 * step;
                let first = (position as usize).min(from - 1);
                (first, (first + 1).min(from - 1), position - first as f32)
            })
            .collect()
    };
    let columns = positions(source.x, width);
    let mut samples = Vec::with_capacity(height * width);
    for (above, below, down) in positions(source.y, height) {
        let (above, below) = (&source.samples[above * source.x..][..source.x], &source.samples[below * source.x..]);
        samples.extend(columns.iter().map(|&(left, right, across)| {
            let top = above[left] + (above[right] - above[left]) * across;
            let bottom = below[left] + (below[right] - below[left]) * across;
            top + (bottom - top) * down
        }));
    }
    Plane { y: height, x: width, samples }
}

/// Gaussian of these sigmas in pixels, along Y and along X, in place; the border is repeated outwards.
pub fn blur(plane: &mut Plane, [down, across]: [f64; 2]) {
    let Plane { y, x, ref mut samples } = *plane;
    if let Some(kernel) = gaussian(across) {
        let radius = kernel.len() - 1;
        let mut padded = vec![0.0; x + 2 * radius];
        for row in samples.chunks_exact_mut(x) {
            padded[radius..radius + x].copy_from_slice(row);
            padded[..radius].fill(row[0]);
            padded[radius + x..].fill(row[x - 1]);
            row.iter_mut().for_each(|sample| *sample *= kernel[0]);
            for (distance, weight) in kernel.iter().enumerate().skip(1) {
                let (before, after) = (&padded[radius - distance..], &padded[radius + distance..]);
                for ((sample, before), after) in row.iter_mut().zip(before).zip(after) {
                    *sample += weight * (before + after);
                }
            }
        }
    }
    if let Some(kernel) = gaussian(down) {
        let source = samples.clone();
        let row = |index: usize| &source[index * x..][..x];
        for (index, result) in samples.chunks_exact_mut(x).enumerate() {
            result.iter_mut().for_each(|sample| *sample *= kernel[0]);
            for (distance, weight) in kernel.iter().enumerate().skip(1) {
                let (before, after) = (row(index.saturating_sub(distance)), row((index + distance).min(y - 1)));
                for ((sample, before), after) in result.iter_mut().zip(before).zip(after) {
                    *sample += weight * (before + after);
                }
            }
        }
    }
}

/// Half of a kernel of sum 1, its middle first, cut at 3 sigma; none where it would change nothing.
fn gaussian(sigma: f64) -> Option<Vec<f32>> {
    let weight = |distance: usize| (-0.5 * (distance as f64 / sigma).powi(2)).exp() as f32;
    let half: Vec<f32> = (0..=(3.0 * sigma).ceil() as usize).map(weight).collect();
    let sum = half[0] + 2.0 * half[1..].iter().sum::<f32>();
    (sigma >= 0.1).then(|| half.iter().map(|weight| weight / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn moments(draws: impl Iterator<Item = f32>) -> (f64, f64, f64) {
        let values: Vec<f64> = draws.map(f64::from).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let central = |power: i32| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>() / count;
        (mean, central(2), central(3))
    }

    #[test]
    fn poisson_has_mean_variance_and_skewness_of_its_rate() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        for rate in [0.0, 0.3, 4.0, 19.9, 20.1, 300.0] {
            let (mean, variance, third) = moments((0..200_000).map(|_| poisson(rate, &mut rng)));
            let rate = f64::from(rate);
            // Standard errors are below 0.5 % of these figures plus a little; the normal approximation rounds, which
            // adds 1/12 to the variance.
            assert!((mean - rate).abs() <= 0.01 * rate + 1e-9, "rate {rate}: mean {mean}");
            assert!((variance - rate).abs() <= 0.02 * rate + 0.1 * f64::from(rate > 20.0), "rate {rate}: {variance}");
            assert!((third - rate).abs() <= 0.15 * rate + 0.03 * rate.powf(1.5), "rate {rate}: third moment {third}");
        }
    }

    #[test]
    fn excess_noise_doubles_the_photon_variance() {
        let mut rng = Pcg64Mcg::seed_from_u64(2);
        let mut electrons = || match poisson(30.0, &mut rng) {
            0.0 => 0.0,
            count => gamma(count, &mut rng),
        };
        let (mean, variance, _) = moments((0..200_000).map(|_| electrons()));
        assert!((mean - 30.0).abs() < 0.2 && (variance - 60.0).abs() < 2.0, "{mean}, {variance}");
    }

    #[test]
    fn blur_keeps_constants_and_spreads_a_point_by_sigma() {
        let mut plane = Plane { y: 9, x: 13, samples: vec![2.5; 9 * 13] };
        blur(&mut plane, [4.0; 2]);
        assert!(plane.samples.iter().all(|sample| (sample - 2.5).abs() < 1e-5));

        let mut point = Plane { y: 41, x: 41, samples: vec![0.0; 41 * 41] };
        point.samples[20 * 41 + 20] = 1.0;
        blur(&mut point, [2.0; 2]);
        let spread = |distance: fn(usize, usize) -> f64| -> f64 {
            let weighted = point.samples.iter().enumerate();
            weighted.map(|(i, &sample)| f64::from(sample) * distance(i / 41, i % 41)).sum()
        };
        assert!((spread(|_, _| 1.0) - 1.0).abs() < 1e-5);
        let down = spread(|y, _| (y as f64 - 20.0).powi(2));
        let across = spread(|_, x| (x as f64 - 20.0).powi(2));
        // A kernel cut at 3 sigma loses 3 % of the variance.
        assert!((down - 4.0).abs() < 0.15 && (across - 4.0).abs() < 0.15, "{down}, {across}");
    }

    #[test]
    fn resampling_keeps_a_ramp() {
        let ramp = Plane { y: 5, x: 7, samples: (0..35).map(|i| (i / 7 * 10 + i % 7) as f32).collect() };
        let large = resampled(&ramp, 9, 13);
        for (index, &sample) in large.samples.iter().enumerate() {
            let (y, x) = (index / 13, index % 13);
            let expected = y as f32 / 2.0 * 10.0 + x as f32 / 2.0;
            assert!((sample - expected).abs() < 1e-4, "({y}, {x}): {sample}, expected {expected}");
        }
    }

    #[test]
    fn haze_comes_from_elsewhere_as_far_as_asked_for() {
        let signal = Plane { y: 64, x: 64, samples: (0..4096).map(|i| (i % 64 * (i / 64)) as f32 / 4096.0).collect() };
        let mut rng = Pcg64Mcg::seed_from_u64(3);
        assert_eq!(out_of_focus(&signal, 0.0, &mut rng).samples, signal.samples);
        let sum = |plane: &Plane| plane.samples.iter().map(|&sample| f64::from(sample)).sum::<f64>();
        let mut moved = 0;
        for _ in 0..20 {
            let same = &mut rng.clone();
            let (half, all) = (out_of_focus(&signal, 0.5, same), out_of_focus(&signal, 1.0, &mut rng));
            // The light is moved, none is lost, and half of it means half the way.
            assert!((sum(&all) / sum(&signal) - 1.0).abs() < 1e-5);
            for ((half, all), sample) in half.samples.iter().zip(&all.samples).zip(&signal.samples) {
                assert!((half - 0.5 * (all + sample)).abs() < 1e-6);
            }
            moved += usize::from(all.samples != signal.samples);
        }
        assert!(moved > 15, "{moved} of 20 moved");
    }

    #[test]
    fn a_window_is_scaled_by_its_noisy_percentiles_and_the_target_with_it() {
        let settings = Simulate { photons: [30.0, 30.0], emccd_probability: 0.0, ..Default::default() };
        let clean = Plane { y: 90, x: 70, samples: (0..6300).map(|i| (i % 70) as f32 / 69.0).collect() };
        for seed in 0..20 {
            let rng = &mut Pcg64Mcg::seed_from_u64(seed);
            let window = window(|_| Some(&clean), 32, &settings, &Data::default(), rng).unwrap();
            let percentile = |q| metrics::percentile(&window.input.samples, q).unwrap();
            assert!(percentile(2.0).abs() < 1e-4 && (percentile(99.8) - 1.0).abs() < 1e-4);
            let mean =
                |plane: &Plane| plane.samples.iter().map(|&s| f64::from(s)).sum::<f64>() / (plane.y * plane.x) as f64;
            // Noise has no bias, but for what clipping takes.
            assert!((mean(&window.input) - mean(&window.target)).abs() < 0.03, "seed {seed}");
            assert!(window.input.y >= 32 && window.input.x >= 32 && window.weight >= 1.0);
        }
    }
}
