//! The Gaussian blur of a plane, in two passes, and what all blurs share: where the mirror image beyond a border is.

use crate::{Error, Result};

/// Convolves a plane of `y` rows and `x` columns with a Gaussian, such as the centre of a point spread function;
/// `sigma_px` is its standard deviation along Y and X in pixels, 0 for none. The Gaussian is cut at 4 sigma; beyond
/// its border the plane goes on as its mirror image (scipy's `gaussian_filter` with its defaults).
///
/// # Errors
/// [`Error::ShapeMismatch`] where there are not `y * x` samples, [`Error::InvalidOption`] where a sigma is not in
/// 0..=1000.
pub fn gaussian_blur(plane: &[f32], (y, x): (usize, usize), sigma_px: (f64, f64)) -> Result<Vec<f32>> {
    if y.checked_mul(x) != Some(plane.len()) {
        return Err(Error::ShapeMismatch { expected: format!("{y}x{x} samples"), found: plane.len().to_string() });
    }
    for sigma in [sigma_px.0, sigma_px.1] {
        if !(0.0..=1000.0).contains(&sigma) {
            return Err(Error::InvalidOption(format!("blur: expected a sigma of 0 to 1000 pixels, found {sigma}")));
        }
    }
    if plane.is_empty() {
        return Ok(Vec::new());
    }
    let (along_y, along_x) = (gaussian_weights(sigma_px.0), gaussian_weights(sigma_px.1));
    let radius = along_x.len() / 2;
    let mut rows = vec![0.0; plane.len()];
    let mut padded = vec![0.0; x + 2 * radius];
    for (row, out) in plane.chunks_exact(x).zip(rows.chunks_exact_mut(x)) {
        for (i, p) in padded.iter_mut().enumerate() {
            *p = row[mirrored(i, radius, x)];
        }
        for (k, &weight) in along_x.iter().enumerate() {
            add_weighted(out, &padded[k..k + x], weight);
        }
    }
    let mut blurred = vec![0.0; plane.len()];
    for (row, out) in blurred.chunks_exact_mut(x).enumerate() {
        for (k, &weight) in along_y.iter().enumerate() {
            let from = mirrored(row + k, along_y.len() / 2, y);
            add_weighted(out, &rows[from * x..][..x], weight);
        }
    }
    Ok(blurred)
}

fn gaussian_weights(sigma: f64) -> Vec<f32> {
    let radius = (4.0 * sigma + 0.5) as i32;
    let weights: Vec<f64> = (-radius..=radius).map(|i| gauss(f64::from(i), sigma.max(1e-9))).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| (w / sum) as f32).collect()
}

pub(super) fn gauss(distance: f64, sigma: f64) -> f64 {
    (-0.5 * (distance / sigma).powi(2)).exp()
}

/// Where sample `i - radius` of an axis of `length` samples is found, mirrored at both borders as often as needed.
pub(super) fn mirrored(i: usize, radius: usize, length: usize) -> usize {
    let around = (i as i64 - radius as i64).rem_euclid(2 * length as i64) as usize;
    around.min(2 * length - 1 - around)
}

pub(super) fn add_weighted(sum: &mut [f32], values: &[f32], weight: f32) {
    for (s, v) in sum.iter_mut().zip(values) {
        *s += weight * v;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    #[test]
    fn blur_of_a_point_is_a_gaussian() {
        let (y, x) = (41, 37);
        let mut point = vec![0.0; y * x];
        point[20 * x + 18] = 1.0;
        let blurred = gaussian_blur(&point, (y, x), (2.0, 1.25)).unwrap();
        for (i, &found) in blurred.iter().enumerate() {
            let (dy, dx) = ((i / x) as f64 - 20.0, (i % x) as f64 - 18.0);
            let expected = gauss(dy, 2.0) * gauss(dx, 1.25) / (TAU * 2.0 * 1.25);
            assert!((f64::from(found) - expected).abs() < 1e-4 * 0.07, "{dy} {dx}: {found}, not {expected}");
        }
        assert_eq!(gaussian_blur(&point, (y, x), (0.0, 0.0)).unwrap(), point);
    }

    /// Mirrored borders keep the sum of any plane, however narrow.
    #[test]
    fn blur_keeps_the_light() {
        for (y, x) in [(1, 1), (1, 9), (2, 3), (5, 1), (16, 11)] {
            let plane: Vec<f32> = (0..y * x).map(|i| (i * 37 % 11) as f32).collect();
            let blurred = gaussian_blur(&plane, (y, x), (3.0, 6.0)).unwrap();
            let (before, after) = (plane.iter().sum::<f32>(), blurred.iter().sum::<f32>());
            assert!((before - after).abs() <= 1e-4 * before, "{y}x{x}: {before}, {after}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(gaussian_blur(&[1.0; 6], (2, 2), (1.0, 1.0)).is_err());
        assert!(gaussian_blur(&[1.0; 6], (2, 3), (f64::NAN, 1.0)).is_err());
        assert!(gaussian_blur(&[1.0; 6], (2, 3), (1.0, 1e9)).is_err());
        assert!(gaussian_blur(&[], (0, 3), (1.0, 1.0)).unwrap().is_empty());
    }
}
