//! Fine grid → coarse grid and back: binned pixels, planes left out, linear interpolation. Positions are voxel centres
//! throughout: a bin of n voxels lies (n − 1) / 2 behind the first of them.

use super::Volume;
use crate::{Error, Result};

/// Means over blocks of `factors` voxels along Z, Y and X; what fills no block at the end of an axis is left out. The
/// intensity scale stays: the photons of a binned pixel are to be given as such.
///
/// # Errors
/// [`Error::InvalidOption`] where a factor is 0 or larger than the side.
pub fn bin(volume: &Volume, factors: [usize; 3]) -> Result<Volume> {
    if factors.iter().zip(volume.shape).any(|(&factor, side)| factor == 0 || factor > side) {
        return Err(Error::InvalidOption(format!(
            "bins of {factors:?} voxels (Z, Y, X): expected 1 to the sides of the image, {:?}",
            volume.shape
        )));
    }
    let [_, y, x] = volume.shape;
    let shape: [usize; 3] = std::array::from_fn(|axis| volume.shape[axis] / factors[axis]);
    let mut sums = vec![0.0f64; shape.iter().product()];
    for (row, line) in volume.samples.chunks_exact(x).enumerate() {
        let (to_z, to_y) = (row / y / factors[0], row % y / factors[1]);
        if to_z < shape[0] && to_y < shape[1] {
            let sums = &mut sums[(to_z * shape[1] + to_y) * shape[2]..][..shape[2]];
            for (sum, block) in sums.iter_mut().zip(line.chunks_exact(factors[2])) {
                *sum += block.iter().map(|&s| f64::from(s)).sum::<f64>();
            }
        }
    }
    let count = factors.iter().product::<usize>() as f64;
    Ok(Volume { shape, samples: sums.into_iter().map(|sum| (sum / count) as f32).collect() })
}

/// Every `step`-th plane along Z, from plane `first` on.
///
/// # Errors
/// [`Error::InvalidOption`] where `step` is 0 or there is no plane `first`.
pub fn keep_planes(volume: &Volume, first: usize, step: usize) -> Result<Volume> {
    let [z, y, x] = volume.shape;
    if step == 0 || first >= z {
        return Err(Error::InvalidOption(format!(
            "one plane in {step} from plane {first} on: the image has {z} planes"
        )));
    }
    let planes = volume.samples.chunks_exact(y * x).skip(first).step_by(step);
    let samples: Vec<f32> = planes.flatten().copied().collect();
    Ok(Volume { shape: [samples.len() / (y * x), y, x], samples })
}

/// Linear interpolation along an axis (0, 1, 2: Z, Y, X) to `length` samples, where sample k of `volume` lies at
/// `first + k * step` of the new grid. Beyond the outermost samples their value goes on.
///
/// # Errors
/// [`Error::InvalidOption`] for an axis above 2, a length of 0, or a step that is not above 0.
pub fn interpolate(volume: &Volume, axis: usize, length: usize, first: f64, step: f64) -> Result<Volume> {
    if axis > 2 || length == 0 || !(step > 0.0 && step.is_finite() && first.is_finite()) {
        return Err(Error::InvalidOption(format!(
            "interpolation along axis {axis} to {length} samples, one in {step} from {first} on, makes no sense"
        )));
    }
    let mut shape = volume.shape;
    let from = std::mem::replace(&mut shape[axis], length);
    let inner: usize = shape[axis + 1..].iter().product();
    let mut samples = Vec::with_capacity(shape.iter().product());
    for block in volume.samples.chunks_exact(from * inner) {
        for k in 0..length {
            let position = ((k as f64 - first) / step).clamp(0.0, (from - 1) as f64);
            let below = (position as usize).min(from.saturating_sub(2));
            let part = (position - below as f64) as f32;
            let (low, high) = (&block[below * inner..], &block[(below + 1).min(from - 1) * inner..]);
            samples.extend(low.iter().zip(high).take(inner).map(|(&a, &b)| a + (b - a) * part));
        }
    }
    Ok(Volume { shape, samples })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shape: [usize; 3]) -> Volume {
        let [z, y, x] = shape;
        let value = |i: usize| (100 * (i / (y * x)) + 10 * (i / x % y) + i % x) as f32;
        Volume::new(shape, (0..z * y * x).map(value).collect()).unwrap()
    }

    #[test]
    fn a_bin_is_the_mean_of_its_voxels() {
        let binned = bin(&ramp([4, 5, 7]), [2, 2, 3]).unwrap();
        assert_eq!(binned.shape, [2, 2, 2]);
        // Mean of planes 0 and 1, rows 0 and 1, columns 0 to 2; then three columns, two rows, two planes on.
        assert_eq!(binned.samples, [56.0, 59.0, 76.0, 79.0, 256.0, 259.0, 276.0, 279.0]);
        assert_eq!(bin(&ramp([2, 3, 4]), [1; 3]).unwrap(), ramp([2, 3, 4]));
    }

    #[test]
    fn kept_planes_are_planes_of_the_stack() {
        let kept = keep_planes(&ramp([9, 2, 3]), 2, 4).unwrap();
        assert_eq!((kept.shape, kept.samples[0], kept.samples[6]), ([2, 2, 3], 200.0, 600.0));
    }

    /// A ramp comes back exactly between the outermost samples, from planes that were kept and from bins.
    #[test]
    fn interpolation_undoes_sampling_of_a_ramp() {
        let whole = ramp([12, 6, 8]);
        let kept = interpolate(&keep_planes(&whole, 2, 4).unwrap(), 0, 12, 2.0, 4.0).unwrap();
        let plane = 6 * 8;
        assert_eq!(kept.samples[2 * plane..=10 * plane], whole.samples[2 * plane..=10 * plane]);
        assert_eq!(kept.samples[..plane], whole.samples[2 * plane..3 * plane], "the first kept plane goes on");
        let binned = interpolate(&bin(&whole, [1, 1, 2]).unwrap(), 2, 8, 0.5, 2.0).unwrap();
        for (row, expected) in binned.samples.chunks(8).zip(whole.samples.chunks(8)) {
            assert_eq!(row[1..7], expected[1..7]);
            assert_eq!((row[0], row[7]), (expected[0] + 0.5, expected[7] - 0.5));
        }
        let one = interpolate(&ramp([1, 2, 2]), 0, 3, 0.0, 4.0).unwrap();
        assert_eq!(one.samples, ramp([1, 2, 2]).samples.repeat(3));
    }

    #[test]
    fn nonsense_is_refused() {
        let volume = ramp([2, 3, 4]);
        assert!(bin(&volume, [0, 1, 1]).is_err() && bin(&volume, [3, 1, 1]).is_err());
        assert!(keep_planes(&volume, 2, 1).is_err() && keep_planes(&volume, 0, 0).is_err());
        for (axis, length, first, step) in [(3, 2, 0.0, 1.0), (0, 0, 0.0, 1.0), (0, 2, f64::NAN, 1.0), (0, 2, 0.0, 0.0)]
        {
            assert!(interpolate(&volume, axis, length, first, step).is_err());
        }
        assert!(Volume::new([2, 3, 4], vec![0.0; 23]).is_err() && Volume::new([0, 3, 4], vec![]).is_err());
    }
}
