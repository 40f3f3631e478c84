//! Pairs → what makes such a degraded image out of such a reference, for `[simulate]`: a few real pairs say how strong
//! blur, haze and noise are, so that clean images can be degraded as they were. Whether a restorer gains by that is to be
//! measured: training/RESULTS.md.
//!
//! Of each pair, the model degraded ≈ offset + gain·optics(reference) is fitted by least squares. `[simulate.widefield]`:
//! optics = G(sigma) + haze·G(haze_sigma); `[simulate.axial]`: G(sigma·step along Y, lateral_sigma along X) at the rows
//! that are no linear interpolation of others, whose distance is the step (where there are none at whole pixels, the step
//! stays as it was); else the identity. Gain, offset and haze are a linear problem, the sigmas a search around it. What is
//! left is noise, whose variance is a line over the model's intensity (Poisson–Gaussian: Foi et al. 2008):
//! variance = grey·(intensity − black), grey being the grey values of a photon. It is measured on differences of
//! neighbours along X, in which what the model misses of smooth structure drops out; noise that is correlated along X
//! would be taken for weaker than it is.
//!
//! The ranges that are drawn from in training are those found among the pairs.

use crate::config::{Axial, Simulate, Widefield};
use crate::degrade::blur;
use crate::pairs::{Pair, Plane};
use anyhow::{Result, ensure};
use mdr::{Task, metrics::percentile};

/// Photons at the bright end; so many are as good as no noise.
const MOST_PHOTONS: f64 = 5000.0;
const LEAST_PHOTONS: f64 = 0.5;
/// Background photons, as a part of those at the bright end, beyond which noise counts as the camera's.
const MOST_BACKGROUND: f64 = 0.3;
/// Electrons.
const MOST_READ_NOISE: f64 = 1000.0;
/// Sigmas in pixels, and haze, that are looked for.
const LEAST_SIGMA: f64 = 0.1;
const MOST_SIGMA: f64 = 10.0;
const MOST_HAZE_SIGMA: f64 = 64.0;
const MOST_HAZE: f64 = 5.0;
/// Largest distance of kept rows that is looked for.
const MOST_STEP: usize = 10;
/// Curvature of interpolated rows, as a part of that of kept ones: rounding to integers leaves some.
const FLAT: f64 = 0.15;

/// What was found for one pair, in the units of [`Simulate`].
struct Found {
    photons: f64,
    background: f64,
    read_noise: f64,
    /// Of the optics that the config asks for: sigma, haze, haze_sigma or step (0: not found), sigma, lateral_sigma.
    optics: [f64; 3],
}

/// Replaces the ranges of optics and camera by those of these pairs, and gives the task its optics where it has none.
///
/// # Errors
/// Where there is no pair, or its two images have nothing in common.
pub fn calibrate<'a>(simulate: &mut Simulate, task: Task, pairs: impl Iterator<Item = &'a Pair>) -> Result<()> {
    match task {
        Task::Denoise => {}
        Task::Axial => simulate.axial = simulate.axial.or(Some(Axial::default())),
        Task::SuperResolve => simulate.widefield = simulate.widefield.or(Some(Widefield::default())),
    }
    let found = pairs.map(|pair| one(pair, simulate)).collect::<Result<Vec<Found>>>()?;
    ensure!(!found.is_empty(), "simulate.calibrate needs pairs to measure; found none");
    let range = |value: &dyn Fn(&Found) -> f64| {
        let values = found.iter().map(value);
        [values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max)]
    };
    simulate.photons = range(&|found| found.photons);
    simulate.background = range(&|found| found.background);
    simulate.read_noise = range(&|found| found.read_noise);
    // The photons are those that explain the variance, excess noise or not.
    simulate.emccd_probability = 0.0;
    simulate.correlated_probability = 0.0;
    let optics = [0, 1, 2].map(|index| range(&|found| found.optics[index]));
    if let Some(widefield) = &mut simulate.widefield {
        [widefield.sigma, widefield.haze, widefield.haze_sigma] = optics;
    }
    if let Some(axial) = &mut simulate.axial {
        let step = if found.iter().all(|found| found.optics[0] > 0.0) { optics[0] } else { axial.step };
        *axial = Axial { step, sigma: optics[1], lateral_sigma: optics[2] };
    }
    Ok(())
}

fn one(pair: &Pair, simulate: &Simulate) -> Result<Found> {
    let mut reference = pair.target.clone();
    let (low, high) = (percentile(&reference.samples, 0.1)?, percentile(&reference.samples, 99.9)?);
    ensure!(high > low, "{}: a constant reference says nothing of the degradation", pair.name);
    reference.samples.iter_mut().for_each(|sample| *sample = ((f64::from(*sample) - low) / (high - low)) as f32);
    let blurred = |sigmas: [f64; 2]| {
        let mut plane = reference.clone();
        blur(&mut plane, sigmas);
        plane
    };
    let (model, optics, rows);
    if let Some(axial) = simulate.axial {
        let kept = kept_rows(&pair.input);
        rows = kept.unwrap_or(Rows::ALL);
        let step = kept.map_or((axial.step[0] * axial.step[1]).sqrt(), |rows| rows.step as f64);
        let fitted = |sigmas: [f64; 2]| Model::fit(&pair.input, &[blurred(sigmas)], rows);
        let sigmas = search([0.5 * step, 0.8], [4.0 * step, MOST_SIGMA], |sigmas| fitted(sigmas).error);
        model = fitted(sigmas);
        optics = [kept.map_or(0.0, |_| step), sigmas[0] / step, sigmas[1]];
    } else if simulate.widefield.is_some() {
        rows = Rows::ALL;
        let fitted = |[sigma, far]: [f64; 2]| Model::fit(&pair.input, &[blurred([sigma; 2]), blurred([far; 2])], rows);
        let sigmas = search([2.0, 20.0], [MOST_SIGMA, MOST_HAZE_SIGMA], |sigmas| fitted(sigmas).error);
        model = fitted(sigmas);
        optics = [sigmas[0], (model.gains[1] / model.gains[0]).clamp(0.0, MOST_HAZE), sigmas[1]];
    } else {
        rows = Rows::ALL;
        model = Model::fit(&pair.input, &[reference], rows);
        optics = [0.0; 3];
    }
    let gain = model.gains[0];
    ensure!(gain > 0.0, "{}: the degraded image is not brighter where the reference is", pair.name);

    // Of the intensity that the camera sees: 0 where the reference is, and the unit of its range.
    let intensity: Vec<f32> = model.fitted.iter().map(|value| ((value - model.offset) / gain) as f32).collect();
    let (variance, means): (Vec<f64>, Vec<f32>) = (intensity.chunks_exact(pair.input.x))
        .zip(model.residual.chunks_exact(pair.input.x))
        .flat_map(|(intensity, residual)| {
            let pairs = intensity.windows(2).zip(residual.windows(2));
            pairs.map(|(i, r)| (0.5 * (r[1] - r[0]).powi(2), 0.5 * (i[0] + i[1])))
        })
        .unzip();
    let [slope, dark] = line(&means, &variance);
    let photons = if slope > 0.0 { (gain * gain / slope).clamp(LEAST_PHOTONS, MOST_PHOTONS) } else { MOST_PHOTONS };
    let grey = gain / photons;
    // Electrons² of variance where the reference is dark.
    let electrons = dark.max(0.0) / (grey * grey);
    let background = (electrons / photons).min(MOST_BACKGROUND);
    let read_noise = (electrons - background * photons).max(0.0).sqrt().min(MOST_READ_NOISE);
    // With wide-field optics, `degrade` scales what the camera sees to 1 at the bright end.
    let bright = if simulate.widefield.is_some() { percentile(&intensity, 99.9)?.max(0.1) } else { 1.0 };
    Ok(Found { photons: photons * bright, background: background / bright, read_noise, optics })
}

/// Every `step`-th row from `first` on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rows {
    first: usize,
    step: usize,
}

impl Rows {
    const ALL: Self = Self { first: 0, step: 1 };

    fn of<'a>(self, plane: &'a Plane) -> impl Iterator<Item = f64> + 'a {
        let rows = plane.samples.chunks_exact(plane.x).skip(self.first).step_by(self.step);
        rows.flatten().map(|&sample| f64::from(sample))
    }
}

/// The rows, farthest apart, such that those between are linear interpolations of them.
fn kept_rows(image: &Plane) -> Option<Rows> {
    let row = |y: usize| &image.samples[y * image.x..][..image.x];
    let curvature = |y: usize| -> f64 {
        let triples = row(y - 1).iter().zip(row(y)).zip(row(y + 1));
        triples.map(|((a, b), c)| f64::from((a - 2.0 * b + c).abs())).sum::<f64>()
    };
    let curvatures: Vec<f64> = (1..image.y.saturating_sub(1)).map(curvature).collect();
    let mean = |step: usize, first: usize| {
        let rows = curvatures.iter().enumerate().filter(|(index, _)| (index + 1) % step == first);
        let (count, sum) = rows.fold((0, 0.0), |(count, sum), (_, curvature)| (count + 1, sum + curvature));
        sum / f64::from(count.max(1))
    };
    for step in (2..=MOST_STEP.min(image.y / 4)).rev() {
        let means: Vec<f64> = (0..step).map(|first| mean(step, first)).collect();
        let most = means.iter().copied().fold(0.0, f64::max);
        let mut bent = (0..step).filter(|&first| means[first] > FLAT * most);
        if let (Some(first), None) = (bent.next(), bent.next()) {
            return Some(Rows { first, step });
        }
    }
    None
}

/// The degraded image as a linear function of others.
struct Model {
    gains: Vec<f64>,
    offset: f64,
    fitted: Vec<f64>,
    residual: Vec<f64>,
    /// Mean square of the residual.
    error: f64,
}

impl Model {
    fn fit(image: &Plane, parts: &[Plane], rows: Rows) -> Self {
        let image: Vec<f64> = rows.of(image).collect();
        let mut columns: Vec<Vec<f64>> = parts.iter().map(|part| rows.of(part).collect()).collect();
        columns.push(vec![1.0; image.len()]);
        let mut gains = least_squares(&columns, &image);
        let fitted: Vec<f64> =
            (0..image.len()).map(|i| gains.iter().zip(&columns).map(|(gain, column)| gain * column[i]).sum()).collect();
        let residual: Vec<f64> = image.iter().zip(&fitted).map(|(image, fitted)| image - fitted).collect();
        let error = residual.iter().map(|r| r * r).sum::<f64>() / residual.len().max(1) as f64;
        let offset = gains.pop().unwrap_or(0.0);
        Self { gains, offset, fitted, residual, error }
    }
}

/// Slope and height at 0 of `values` over `at`; the few largest values are cut, as hot pixels would decide it.
fn line(at: &[f32], values: &[f64]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let most = sorted.get(sorted.len() * 999 / 1000).copied().unwrap_or(0.0);
    let cut: Vec<f64> = values.iter().map(|value| value.min(most)).collect();
    let found = least_squares(&[at.iter().map(|&at| f64::from(at)).collect(), vec![1.0; at.len()]], &cut);
    [found[0], found[1]]
}

/// Factors of the columns whose sum comes closest to `y`, by the normal equations; a column that adds nothing gets 0.
fn least_squares(columns: &[Vec<f64>], y: &[f64]) -> Vec<f64> {
    let n = columns.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut rows: Vec<Vec<f64>> = (columns.iter())
        .map(|column| columns.iter().map(|other| dot(column, other)).chain([dot(column, y)]).collect())
        .collect();
    let scale: Vec<f64> = (0..n).map(|i| rows[i][i]).collect();
    for pivot in 0..n {
        if rows[pivot][pivot] <= 1e-9 * scale[pivot] {
            rows[pivot].fill(0.0);
            continue;
        }
        let taken = rows[pivot].clone();
        for row in rows.iter_mut().enumerate().filter(|(other, _)| *other != pivot).map(|(_, row)| row) {
            let factor = row[pivot] / taken[pivot];
            row.iter_mut().zip(&taken).for_each(|(sample, taken)| *sample -= factor * taken);
        }
    }
    (0..n).map(|i| if rows[i][i] > 0.0 { rows[i][n] / rows[i][i] } else { 0.0 }).collect()
}

/// A minimum of `f` near `start`, by steps of a factor in each direction that get finer (compass search).
fn search(start: [f64; 2], most: [f64; 2], f: impl Fn([f64; 2]) -> f64) -> [f64; 2] {
    let (mut best, mut at) = (f(start), start);
    let mut factor = 1.6;
    while factor > 1.03 {
        let before = best;
        for axis in [0, 1] {
            for factor in [factor, 1.0 / factor] {
                let mut next = at;
                next[axis] = (next[axis] * factor).clamp(LEAST_SIGMA, most[axis]);
                let value = f(next);
                if value < best {
                    (best, at) = (value, next);
                    break;
                }
            }
        }
        if best >= before {
            factor = factor.sqrt();
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Data;
    use crate::degrade;
    use mdr::simulate::{Phantom, phantom};
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};
    use rand_pcg::Pcg64Mcg;

    /// Ranges found in pairs that `degrade` made with `truth`.
    fn found(truth: &Simulate) -> Simulate {
        let pairs: Vec<Pair> = (0..4)
            .map(|seed| {
                let mut clean = Plane { y: 192, x: 192, samples: phantom(Phantom::ALL[seed], 192, 192, 7).samples };
                // As clean images come to `degrade`.
                let [low, high] = [0.1, 99.9].map(|q| percentile(&clean.samples, q).unwrap() as f32);
                clean.samples.iter_mut().for_each(|sample| *sample = (*sample - low) / (high - low));
                let mut rng = Pcg64Mcg::seed_from_u64(seed as u64);
                let window = degrade::window(|_| Some(&clean), 64, truth, &Data::default(), &mut rng).unwrap();
                Pair { name: String::new(), weight: 1.0, task: 0, input: window.input, target: window.target }
            })
            .collect();
        let mut found = truth.clone();
        calibrate(&mut found, Task::Denoise, pairs.iter()).unwrap();
        found
    }

    fn plain() -> Simulate {
        Simulate {
            window: 192,
            zoom: [1.0, 1.0],
            blur_probability: 0.0,
            gamma: [1.0, 1.0],
            emccd_probability: 0.0,
            correlated_probability: 0.0,
            eight_bit_probability: 0.0,
            clip_probability: 0.0,
            ..Simulate::default()
        }
    }

    /// Both ends of the range within this part of the truth.
    #[track_caller]
    fn near(found: [f64; 2], truth: f64, part: f64) {
        let off = found.map(|value| (value - truth).abs());
        assert!(off.iter().all(|off| *off <= part * truth), "{found:?}, expected {truth}");
    }

    #[test]
    fn photons_and_read_noise_are_found() {
        let truth = Simulate { photons: [20.0; 2], background: [0.1; 2], read_noise: [0.0; 2], ..plain() };
        let measured = found(&truth);
        near(measured.photons, 20.0, 0.2);
        near(measured.background, 0.1, 0.3);
        let truth = Simulate { photons: [50.0; 2], background: [0.0; 2], read_noise: [9.0; 2], ..plain() };
        let measured = found(&truth);
        near(measured.photons, 50.0, 0.3);
        // 81 electrons² in the dark: 15 of them pass for background photons.
        near(measured.read_noise, 66f64.sqrt(), 0.15);
    }

    #[test]
    fn rows_and_sigmas_of_a_coarse_stack_are_found() {
        let clean = Plane { y: 190, x: 192, samples: phantom(Phantom::Mixed, 190, 192, 3).samples };
        for step in [1, 2, 3, 5] {
            let mut degraded = clean.clone();
            blur(&mut degraded, [0.7 * step as f64, 1.0]);
            let mut rng = Pcg64Mcg::seed_from_u64(1);
            for sample in &mut degraded.samples {
                // Poisson–Gaussian, 2000 photons and 20 of background.
                let noise: f32 = StandardNormal.sample(&mut rng);
                *sample += noise * (*sample / 2000.0 + 20.0 / 4e6).sqrt();
            }
            let source = degraded.clone();
            for y in 1..=189 / step * step {
                let (above, part) = (y / step * step, (y % step) as f32 / step as f32);
                for x in 0..192 {
                    let [a, b] = [above, (above + step).min(189)].map(|row| source.samples[row * 192 + x]);
                    degraded.samples[y * 192 + x] = a + (b - a) * part;
                }
            }
            let pair = Pair { name: String::new(), weight: 1.0, task: 0, input: degraded, target: clean.clone() };
            let assumed = Axial { step: [2.0, 2.0], ..Axial::default() };
            let mut measured = Simulate { axial: Some(assumed), ..plain() };
            calibrate(&mut measured, Task::Axial, [pair].iter()).unwrap();
            let axial = measured.axial.unwrap();
            near(axial.step, if step == 1 { 2.0 } else { step as f64 }, 0.0);
            near(axial.sigma.map(|sigma| sigma * axial.step[0]), 0.7 * step as f64, 0.1);
            near(axial.lateral_sigma, 1.0, 0.1);
            near(measured.photons, 2000.0, 0.3);
        }
    }

    #[test]
    fn blur_and_haze_are_found() {
        let widefield = Widefield { sigma: [2.5; 2], haze: [1.0; 2], haze_sigma: [20.0; 2], elsewhere: [0.0; 2] };
        let camera = Simulate { photons: [500.0; 2], background: [0.05; 2], read_noise: [0.0; 2], ..plain() };
        let measured = found(&Simulate { widefield: Some(widefield), ..camera });
        let widefield = measured.widefield.unwrap();
        near(widefield.sigma, 2.5, 0.1);
        near(widefield.haze, 1.0, 0.35);
        near(widefield.haze_sigma, 20.0, 0.35);
        near(measured.photons, 500.0, 0.35);
    }

    #[test]
    fn images_that_have_nothing_in_common_are_refused() {
        let ramp =
            |from: f32, step: f32| Plane { y: 8, x: 8, samples: (0..64).map(|i| from + step * i as f32).collect() };
        let pair = |target: Plane| Pair { name: "a.tif".into(), weight: 1.0, task: 0, input: ramp(0.0, 1.0), target };
        let refused = |pairs: &[Pair]| calibrate(&mut plain(), Task::Denoise, pairs.iter()).unwrap_err().to_string();
        assert!(refused(&[]).contains("found none"));
        assert!(refused(&[pair(ramp(64.0, -1.0))]).starts_with("a.tif: the degraded image is not brighter"));
        assert!(refused(&[pair(ramp(1.0, 0.0))]).starts_with("a.tif: a constant reference"));
    }
}
