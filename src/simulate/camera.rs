//! Intensities → grey values: the photons and the electronics, in physical units.

use crate::{Error, Result};
use rand::SeedableRng;
use rand_distr::{Distribution, Gamma, Poisson, StandardNormal};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

/// Mean count from which [`Camera`] draws photons from the normal instead of the Poisson distribution: the
/// skewness, 1/√1000, is 3 % there.
const NORMAL_FROM: f64 = 1000.0;

/// A camera, and how bright the specimen is in its eyes: turns intensities into grey values (ADU).
///
/// A pixel of intensity v receives Poisson(`photons` · v + `background`) detected photons, that is electrons;
/// negative v counts as 0. The electron multiplier, where there is one, makes Gamma(electrons, `em_gain`) of them.
/// Read noise is added, then `offset + gain · electrons` is rounded and limited to 0..2^`bits` − 1.
///
/// ```
/// use mdr::simulate::{Camera, Phantom, phantom};
///
/// let clean = phantom(Phantom::Filaments, 64, 64, 1);
/// let camera = Camera { photons: 30.0, ..Camera::default() };
/// let noisy = camera.capture(&clean.samples, 2)?;
/// assert_eq!(noisy.len(), clean.samples.len());
/// # Ok::<(), mdr::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Camera {
    /// Detected photons (electrons) per pixel where the intensity is 1.
    pub photons: f64,
    /// Photons per pixel that are added everywhere: stray light, autofluorescence, dark current.
    pub background: f64,
    /// Standard deviation of the read noise in electrons; after the multiplier, where there is one.
    pub read_noise_electrons: f64,
    /// Mean factor of the electron multiplier of an EMCCD; it doubles the variance of the photons (excess noise).
    /// `None`: no multiplier (CCD, sCMOS).
    pub em_gain: Option<f64>,
    /// Grey values (ADU) per electron, after the multiplier.
    pub gain: f64,
    /// Grey value of no electron.
    pub offset: f64,
    /// Bits of the converter, 1 to 24: values are rounded, and saturate at 2^bits − 1. `None`: neither.
    pub bits: Option<u32>,
}

impl Default for Camera {
    /// A 16-bit sCMOS camera in dim light: 100 photons, background 5, read noise 1.6 e⁻, 2 ADU per electron over
    /// an offset of 100.
    fn default() -> Self {
        Self {
            photons: 100.0,
            background: 5.0,
            read_noise_electrons: 1.6,
            em_gain: None,
            gain: 2.0,
            offset: 100.0,
            bits: Some(16),
        }
    }
}

impl Camera {
    /// What the camera makes of a plane (or of any number of pixels), in ADU.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where an intensity is NaN or infinite, or the camera makes no sense.
    pub fn capture(&self, intensities: &[f32], seed: u64) -> Result<Vec<f32>> {
        self.check(intensities)?;
        let mut rng = Pcg64::seed_from_u64(seed);
        let capture = |&intensity: &f32| {
            let mut electrons = poisson(self.electrons(intensity), &mut rng);
            if let Some(em_gain) = self.em_gain {
                electrons = Gamma::new(electrons, em_gain).map_or(0.0, |gamma| gamma.sample(&mut rng));
            }
            if self.read_noise_electrons > 0.0 {
                electrons += self.read_noise_electrons * normal(&mut rng);
            }
            self.convert(electrons) as f32
        };
        Ok(intensities.iter().map(capture).collect())
    }

    /// The grey values that [`Camera::capture`] would have on average, without saturation and rounding: the
    /// noise-free reference on the same scale.
    ///
    /// # Errors
    /// As [`Camera::capture`].
    pub fn expected(&self, intensities: &[f32]) -> Result<Vec<f32>> {
        self.check(intensities)?;
        let em_gain = self.em_gain.unwrap_or(1.0);
        let expected = |&intensity: &f32| (self.offset + self.gain * em_gain * self.electrons(intensity)) as f32;
        Ok(intensities.iter().map(expected).collect())
    }

    /// Mean number of electrons at an intensity.
    fn electrons(&self, intensity: f32) -> f64 {
        self.photons * f64::from(intensity.max(0.0)) + self.background
    }

    fn convert(&self, electrons: f64) -> f64 {
        let value = self.offset + self.gain * electrons;
        match self.bits {
            Some(bits) => value.round().clamp(0.0, f64::from((1u32 << bits) - 1)),
            None => value,
        }
    }

    fn check(&self, intensities: &[f32]) -> Result<()> {
        let invalid = |what: &str, value: f64| Err(Error::InvalidOption(format!("camera: {what}, found {value}")));
        for (name, value) in [
            ("photons", self.photons),
            ("background", self.background),
            ("read_noise_electrons", self.read_noise_electrons),
            ("offset", self.offset),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return invalid(&format!("{name} must be 0 or more"), value);
            }
        }
        for (name, value) in [("gain", self.gain), ("em_gain", self.em_gain.unwrap_or(1.0))] {
            if !(value > 0.0 && value.is_finite()) {
                return invalid(&format!("{name} must be above 0"), value);
            }
        }
        if let Some(bits) = self.bits.filter(|bits| !(1..=24).contains(bits)) {
            return invalid("bits must be 1 to 24", bits.into());
        }
        match intensities.iter().find(|v| !v.is_finite()) {
            Some(&v) => invalid("intensities must be finite", v.into()),
            None => Ok(()),
        }
    }
}

/// A count with this mean; exact below [`NORMAL_FROM`].
fn poisson(mean: f64, rng: &mut Pcg64) -> f64 {
    if mean >= NORMAL_FROM {
        return (mean + mean.sqrt() * normal(rng)).round().max(0.0);
    }
    // Refuses only a mean of 0, whose count is 0.
    Poisson::new(mean).map_or(0.0, |poisson| poisson.sample(rng))
}

fn normal(rng: &mut Pcg64) -> f64 {
    StandardNormal.sample(rng)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: usize = 200_000;

    fn mean_and_variance(samples: &[f32]) -> (f64, f64) {
        let mean = samples.iter().map(|&s| f64::from(s)).sum::<f64>() / samples.len() as f64;
        (mean, samples.iter().map(|&s| (f64::from(s) - mean).powi(2)).sum::<f64>() / (samples.len() - 1) as f64)
    }

    /// Mean and variance of a flat field within five standard errors of theory: gain² (λ + σ²), twice λ behind an
    /// electron multiplier. Means on both sides of the switch to the normal distribution.
    #[test]
    fn noise_has_the_mean_and_variance_of_theory() {
        for em_gain in [None, Some(30.0)] {
            for photons in [0.0, 0.3, 9.0, 40.0, 990.0, 1010.0, 30_000.0] {
                let camera = Camera {
                    photons,
                    background: 2.0,
                    read_noise_electrons: 3.0,
                    em_gain,
                    gain: 1.7,
                    offset: 50.0,
                    bits: None,
                };
                let flat = vec![0.5; FLAT];
                let (mean, variance) = mean_and_variance(&camera.capture(&flat, 5).unwrap());
                let electrons = 0.5 * photons + 2.0;
                let (factor, excess) = em_gain.map_or((1.0, 1.0), |g| (g, 2.0));
                let expected_variance = 1.7f64.powi(2) * (excess * factor * factor * electrons + 9.0);
                let expected_mean = 50.0 + 1.7 * factor * electrons;
                assert!((f64::from(camera.expected(&flat).unwrap()[0]) - expected_mean).abs() < 1e-2);
                let error = (expected_variance / FLAT as f64).sqrt();
                assert!((mean - expected_mean).abs() < 5.0 * error, "{camera:?}: mean {mean}, not {expected_mean}");
                // Few photons have a heavier tail than the normal distribution: twice to six times its error.
                let error = expected_variance * (2.0 / FLAT as f64).sqrt() * if electrons < 20.0 { 3.0 } else { 1.0 };
                assert!(
                    (variance - expected_variance).abs() < 5.0 * error,
                    "{camera:?}: variance {variance}, not {expected_variance}"
                );
            }
        }
    }

    /// Shares of 0, 1, 2, … photons at a mean of 1.5 follow e^−λ λ^k / k!.
    #[test]
    fn few_photons_are_poisson_distributed() {
        let camera = Camera {
            photons: 1.5,
            background: 0.0,
            read_noise_electrons: 0.0,
            gain: 1.0,
            offset: 0.0,
            ..Camera::default()
        };
        let counts = camera.capture(&vec![1.0; FLAT], 8).unwrap();
        let mut share = (-1.5f64).exp();
        for k in 0..6 {
            let found = counts.iter().filter(|&&c| c == k as f32).count() as f64 / FLAT as f64;
            assert!((found - share).abs() < 5.0 * (share / FLAT as f64).sqrt(), "{k}: {found}, not {share}");
            share *= 1.5 / f64::from(k + 1);
        }
    }

    #[test]
    fn converter_rounds_and_saturates() {
        let camera = Camera { photons: 100.0, gain: 3.0, bits: Some(8), ..Camera::default() };
        let grey = camera.capture(&(0..4000).map(|i| i as f32 / 2000.0).collect::<Vec<_>>(), 1).unwrap();
        assert!(grey.iter().all(|g| g.fract() == 0.0 && (0.0..=255.0).contains(g)));
        assert!(grey[3000..].iter().all(|&g| g == 255.0) && grey[..10].iter().all(|&g| g < 255.0));
        let dark = Camera { photons: 0.0, background: 0.0, offset: 0.0, ..camera }.capture(&[1.0; 500], 1).unwrap();
        assert!(dark.contains(&0.0) && dark.iter().all(|&g| g >= 0.0), "read noise below 0 is cut off");
    }

    #[test]
    fn nonsense_is_refused() {
        let good = Camera::default();
        for camera in [
            Camera { photons: -1.0, ..good },
            Camera { photons: f64::INFINITY, ..good },
            Camera { background: f64::NAN, ..good },
            Camera { read_noise_electrons: -0.1, ..good },
            Camera { gain: 0.0, ..good },
            Camera { em_gain: Some(0.0), ..good },
            Camera { offset: f64::NAN, ..good },
            Camera { bits: Some(0), ..good },
            Camera { bits: Some(32), ..good },
        ] {
            assert!(matches!(camera.capture(&[0.5], 1), Err(Error::InvalidOption(_))), "{camera:?}");
        }
        assert!(good.capture(&[0.5, f32::NAN], 1).is_err() && good.capture(&[f32::INFINITY], 1).is_err());
        assert!(good.capture(&[], 1).unwrap().is_empty() && good.capture(&[f32::MAX, -5.0], 1).is_ok());
    }
}
