//! Degraded, restored and reference image → how far the two agree with the reference at each spatial frequency: Fourier
//! ring correlation (Saxton and Baumeister, J. Microsc. 127, 127 (1982); in light microscopy Nieuwenhuizen et al.,
//! Nature Methods 10, 557 (2013)), here of an image with its reference instead of two halves of the data. It says which
//! detail a restoration has right: detail that it makes up has power, but no correlation.

use crate::pairs::Plane;
use crate::transfer::spectrum;
use serde::Serialize;
use std::fmt::Write;
use tch::{Device, Kind, Tensor};

/// Where rings begin, in cycles per pixel; the last one ends at the corners.
const RINGS: [f64; 6] = [0.0, 1.0 / 64.0, 1.0 / 32.0, 1.0 / 16.0, 1.0 / 8.0, 1.0 / 4.0];

/// Power in a ring of frequencies, under Hann's taper, of images that were fitted to the reference in gain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ring {
    /// Of the reference.
    pub reference: f64,
    /// Of the degraded image.
    pub input: f64,
    /// Of the restored image.
    pub restored: f64,
    /// Common to the degraded image and the reference: real part of their cross spectrum.
    pub input_common: f64,
    /// Common to the restored image and the reference.
    pub restored_common: f64,
}

impl Ring {
    /// Power of the difference between the restored image and the reference.
    pub fn error(&self) -> f64 {
        (self.restored + self.reference - 2.0 * self.restored_common).max(0.0)
    }

    fn add(&mut self, other: &Self) {
        self.reference += other.reference;
        self.input += other.input;
        self.restored += other.restored;
        self.input_common += other.input_common;
        self.restored_common += other.restored_common;
    }
}

/// The rings of three planes of one size, all on the scale of the metrics.
pub fn rings([input, restored, reference]: [&Plane; 3]) -> [Ring; 6] {
    let [input, restored, reference] = [input, restored, reference].map(spectrum);
    let axis = |length: i64| Tensor::fft_fftfreq(length, 1.0, (Kind::Double, Device::Cpu)).square();
    let (y, x) = (reference.size()[0], reference.size()[1]);
    let radius = (axis(y).unsqueeze(1) + axis(x).unsqueeze(0)).sqrt();
    let common = |a: &Tensor| a.real() * reference.real() + a.imag() * reference.imag();
    let powers = [common(&reference), input.abs().square(), restored.abs().square(), common(&input), common(&restored)];
    std::array::from_fn(|ring| {
        let end = RINGS.get(ring + 1).copied().unwrap_or(1.0);
        let within = radius.ge(RINGS[ring]).logical_and(&radius.lt(end)).to_kind(Kind::Double);
        let [reference, input, restored, input_common, restored_common] =
            powers.each_ref().map(|power| (power * &within).sum(Kind::Double).double_value(&[]));
        Ring { reference, input, restored, input_common, restored_common }
    })
}

/// The rings of all images together, a line each.
pub fn table<'a>(images: impl Iterator<Item = &'a [Ring; 6]>) -> String {
    let mut sums = [Ring::default(); 6];
    images.for_each(|rings| sums.iter_mut().zip(rings).for_each(|(sum, ring)| sum.add(ring)));
    let error: f64 = sums.iter().map(Ring::error).sum();
    let mut text = String::from(
        "pixels per cycle | correlation with the reference: input  restored | restored: power  error  part of error\n",
    );
    for (ring, sum) in sums.iter().enumerate() {
        let period = |frequency: f64| format!("{:.0}", 1.0 / frequency);
        let span = match ring {
            0 => format!("above {}", period(RINGS[1])),
            5 => format!("below {}", period(RINGS[5])),
            _ => format!("{} to {}", period(RINGS[ring]), period(RINGS[ring + 1])),
        };
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let _ = writeln!(
            text,
            "{span:<16} | {:>37.3} {:>9.3} | {:>15.3} {:>6.3} {:>14.3}",
            ratio(sum.input_common, (sum.input * sum.reference).sqrt()),
            ratio(sum.restored_common, (sum.restored * sum.reference).sqrt()),
            ratio(sum.restored, sum.reference),
            ratio(sum.error(), sum.reference),
            ratio(sum.error(), error),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 256;

    fn plane(value: impl Fn(usize, usize) -> f64) -> Plane {
        let samples = (0..SIDE * SIDE).map(|index| value(index / SIDE, index % SIDE) as f32).collect();
        Plane { y: SIDE, x: SIDE, samples }
    }

    fn wave(period: f64, position: usize) -> f64 {
        (std::f64::consts::TAU * position as f64 / period).sin()
    }

    #[test]
    fn what_is_lost_and_what_is_made_up_shows_in_its_ring() {
        // A coarse wave is kept at half its amplitude, a fine one is lost, and a third one, as strong, is made up.
        let reference = plane(|y, x| wave(SIDE as f64 / 6.0, y) + wave(6.0, x));
        let input = plane(|y, _| wave(SIDE as f64 / 6.0, y));
        let restored = plane(|y, x| 0.5 * wave(SIDE as f64 / 6.0, y) + wave(3.0, x));
        let rings = rings([&input, &restored, &reference]);
        let correlation = |common: f64, a: f64, b: f64| common / (a * b).sqrt();
        let coarse = rings[1];
        assert!((correlation(coarse.restored_common, coarse.restored, coarse.reference) - 1.0).abs() < 1e-3);
        assert!((coarse.restored / coarse.reference - 0.25).abs() < 1e-3);
        assert!((coarse.error() / coarse.reference - 0.25).abs() < 1e-3);
        let fine = rings[4];
        assert!((fine.error() / fine.reference - 1.0).abs() < 1e-3, "{fine:?}");
        assert!(fine.input_common.abs() < 1e-3 * fine.reference);
        let made_up = rings[5];
        assert!(made_up.restored_common.abs() < 1e-3 * made_up.restored && made_up.reference < 1e-3 * made_up.restored);
        let parts: Vec<f64> = rings.iter().map(|ring| ring.error() / fine.reference).collect();
        assert!((parts[1] - 0.25).abs() < 0.01 && (parts[5] - 1.0).abs() < 0.01, "{parts:?}");
    }

    #[test]
    fn an_image_without_anything_gives_zeros() {
        let black = plane(|_, _| 0.0);
        let text = table([rings([&black, &black, &black])].iter());
        assert_eq!(text.lines().count(), 7);
        assert!(!text.contains("NaN"), "{text}");
    }
}
