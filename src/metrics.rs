//! Restored and reference plane → PSNR, SSIM, NRMSE, as they are and after CARE's affine match.
//!
//! All arithmetic is f64 and equal to scikit-image's `peak_signal_noise_ratio`, `structural_similarity` and
//! `normalized_root_mse`. Planes are slices of Y·X samples, rows first, of any type that converts to f64 without
//! loss. SSIM filters rows first and keeps only as many filtered rows as the window is high, so its memory grows
//! with the width of the plane, not with its area; it sums each window afresh instead of keeping running sums,
//! whose rounding errors would add up from row to row.

use crate::{Error, Result};
use serde::Serialize;

/// Percentiles of the reference that [`evaluate`] brings to 0 and 1.
pub const REFERENCE_PERCENTILES: (f64, f64) = (0.1, 99.9);

/// Window over which [`ssim`] takes its local statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SsimWindow {
    /// 7×7, all weights equal, sample covariance: scikit-image's default.
    #[default]
    Uniform,
    /// 11×11, Gaussian with a sigma of 1.5 pixels, population covariance: that of Wang et al. 2004
    /// (scikit-image with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`).
    Gaussian,
}

impl SsimWindow {
    /// Smallest side of an image that the window fits into, in pixels.
    pub fn side(self) -> usize {
        match self {
            Self::Uniform => 7,
            Self::Gaussian => 11,
        }
    }

    /// Weights along one axis, and the factor that turns weighted moments into (co)variances.
    fn weights(self) -> (Vec<f64>, f64) {
        let side = self.side();
        match self {
            Self::Uniform => {
                let samples = (side * side) as f64;
                (vec![1.0 / side as f64; side], samples / (samples - 1.0))
            }
            Self::Gaussian => {
                let centre = (side / 2) as f64;
                let weights: Vec<_> = (0..side).map(|i| (-0.5 * ((i as f64 - centre) / 1.5).powi(2)).exp()).collect();
                let sum: f64 = weights.iter().sum();
                (weights.into_iter().map(|w| w / sum).collect(), 1.0)
            }
        }
    }
}

/// How the restored image stands to the scale 0..1 of the reference, for the figures without an affine match.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale<'a, T> {
    /// It is on that scale already: the method returns normalised intensities.
    AsIs,
    /// It has no scale of its own: its own percentiles (0.1, 99.9) become 0 and 1.
    Own,
    /// It is in the units of the degraded image, given here: the percentiles of that one become 0 and 1. The
    /// degraded image may have another size.
    Input(&'a [T]),
    /// It is in the units of the reference: the percentiles of the reference become 0 and 1.
    Reference,
}

/// What [`evaluate`] finds: PSNR in dB, SSIM (at most 1), NRMSE (0 is perfect), without and with affine match.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Scores {
    pub psnr: f64,
    pub ssim: f64,
    pub nrmse: f64,
    pub psnr_affine: f64,
    pub ssim_affine: f64,
    pub nrmse_affine: f64,
}

impl Scores {
    /// Each figure's mean over planes or images, which is how a set is scored; `None` where there are none.
    pub fn mean(all: &[Self]) -> Option<Self> {
        let mean = |figure: fn(&Self) -> f64| all.iter().map(figure).sum::<f64>() / all.len() as f64;
        (!all.is_empty()).then(|| Self {
            psnr: mean(|s| s.psnr),
            ssim: mean(|s| s.ssim),
            nrmse: mean(|s| s.nrmse),
            psnr_affine: mean(|s| s.psnr_affine),
            ssim_affine: mean(|s| s.ssim_affine),
            nrmse_affine: mean(|s| s.nrmse_affine),
        })
    }
}

/// Scores a restored plane of `y` rows and `x` columns against its reference: the 0.1 and 99.9 percentiles of the
/// reference become 0 and 1, nothing is clipped, the data range is 1. The affine figures first fit gain and offset
/// of the restored plane to the reference by least squares, as CARE's authors do; the plain ones only bring it to
/// the same scale, as `scale` says.
///
/// A constant restored plane is scored (its fit has gain 0; its own percentiles scale it to 0).
///
/// ```
/// use mdr::metrics::{Scale, SsimWindow, evaluate};
///
/// let reference: Vec<f32> = (0..256).map(|i| ((i % 16) * (i / 16)) as f32).collect();
/// let restored: Vec<f32> = reference.iter().map(|r| 3.0 * r + 100.0).collect();
/// let scores = evaluate(&restored, &reference, (16, 16), Scale::Own, SsimWindow::Uniform)?;
/// assert!(scores.ssim_affine > 0.999_999 && scores.nrmse < 1e-6);
/// # Ok::<(), mdr::Error>(())
/// ```
///
/// # Errors
/// [`Error::ShapeMismatch`] where the sizes differ or the plane is smaller than the window of SSIM,
/// [`Error::InvalidOption`] where a sample is NaN or infinite, or the percentiles of the reference are equal.
pub fn evaluate<T: Copy + Into<f64>>(
    restored: &[T],
    reference: &[T],
    (y, x): (usize, usize),
    scale: Scale<T>,
    window: SsimWindow,
) -> Result<Scores> {
    check_planes(reference, restored, (y, x), window.side())?;
    let range = range_of(reference);
    if range.0 == range.1 {
        return Err(Error::InvalidOption(format!(
            "the reference cannot be scaled: its {} and {} percentiles are both {}; expected an image with contrast",
            REFERENCE_PERCENTILES.0, REFERENCE_PERCENTILES.1, range.0
        )));
    }
    let reference = scaled(reference, range);
    let plain = match scale {
        Scale::AsIs => scaled(restored, (0.0, 1.0)),
        Scale::Own => scaled(restored, range_of(restored)),
        Scale::Input(degraded) => {
            check_finite("degraded image", degraded)?;
            if degraded.is_empty() {
                return Err(Error::ShapeMismatch { expected: "a degraded image".into(), found: "no sample".into() });
            }
            scaled(restored, range_of(degraded))
        }
        Scale::Reference => scaled(restored, range),
    };
    let matched = affine_match(&plain, &reference)?.apply(&plain);
    Ok(Scores {
        psnr: psnr(&reference, &plain, 1.0)?,
        ssim: ssim(&reference, &plain, (y, x), 1.0, window)?,
        nrmse: nrmse(&reference, &plain)?,
        psnr_affine: psnr(&reference, &matched, 1.0)?,
        ssim_affine: ssim(&reference, &matched, (y, x), 1.0, window)?,
        nrmse_affine: nrmse(&reference, &matched)?,
    })
}

/// Peak signal-to-noise ratio in dB: 10·log₁₀(`data_range`² / mean squared error); infinite for equal images.
///
/// # Errors
/// [`Error::ShapeMismatch`] where the lengths differ or are 0, [`Error::InvalidOption`] where a sample is NaN or
/// infinite, or `data_range` is not above 0.
pub fn psnr<T: Copy + Into<f64>>(reference: &[T], image: &[T], data_range: f64) -> Result<f64> {
    check_data_range(data_range)?;
    Ok(10.0 * (data_range * data_range / mean_squared_error(reference, image)?).log10())
}

/// Root of the mean squared error, divided by the root of the mean square of the reference (scikit-image's
/// `normalization="euclidean"`).
///
/// # Errors
/// [`Error::ShapeMismatch`] where the lengths differ or are 0, [`Error::InvalidOption`] where a sample is NaN or
/// infinite, or the reference is 0 everywhere.
pub fn nrmse<T: Copy + Into<f64>>(reference: &[T], image: &[T]) -> Result<f64> {
    let error = mean_squared_error(reference, image)?;
    let square = reference.iter().map(|&r| r.into().powi(2)).sum::<f64>() / reference.len() as f64;
    if square == 0.0 {
        return Err(Error::InvalidOption("NRMSE is not defined for a reference that is 0 everywhere".into()));
    }
    Ok((error / square).sqrt())
}

/// Mean structural similarity of two planes of `y` rows and `x` columns (Wang et al. 2004, K₁ = 0.01, K₂ = 0.03),
/// over the pixels around which the whole window lies inside the plane.
///
/// # Errors
/// [`Error::ShapeMismatch`] where the lengths are not `y * x` or a side is smaller than the window,
/// [`Error::InvalidOption`] where a sample is NaN or infinite, or `data_range` is not above 0.
pub fn ssim<T: Copy + Into<f64>>(
    reference: &[T],
    image: &[T],
    (y, x): (usize, usize),
    data_range: f64,
    window: SsimWindow,
) -> Result<f64> {
    check_data_range(data_range)?;
    check_planes(reference, image, (y, x), window.side())?;
    let (weights, covariance_factor) = window.weights();
    let side = weights.len();
    let inner = x - side + 1;
    let (c1, c2) = ((0.01 * data_range).powi(2), (0.03 * data_range).powi(2));

    // Each of the five moments (means of a, b, a², b², ab) of the last `side` rows, filtered along X. Row r is in
    // slot r % side.
    let mut recent = vec![vec![0.0; 5 * inner]; side];
    let mut products = vec![0.0; 5 * x];
    let mut moments = vec![0.0; 5 * inner];
    let mut sum = 0.0;
    for row in 0..y {
        let (a_row, b_row) = (&reference[row * x..][..x], &image[row * x..][..x]);
        let [pa, pb, paa, pbb, pab] = fifths(&mut products);
        for (i, (&a, &b)) in a_row.iter().zip(b_row).enumerate() {
            let (a, b) = (a.into(), b.into());
            (pa[i], pb[i], paa[i], pbb[i], pab[i]) = (a, b, a * a, b * b, a * b);
        }
        for (filtered, product) in recent[row % side].chunks_exact_mut(inner).zip(products.chunks_exact(x)) {
            filtered.fill(0.0);
            for (k, &weight) in weights.iter().enumerate() {
                add_weighted(filtered, &product[k..k + inner], weight);
            }
        }
        if row + 1 < side {
            continue;
        }
        moments.fill(0.0);
        for (k, &weight) in weights.iter().enumerate() {
            add_weighted(&mut moments, &recent[(row + 1 + k) % side], weight);
        }
        let [a, b, aa, bb, ab] = fifths(&mut moments);
        for i in 0..inner {
            let (a, b) = (a[i], b[i]);
            let variances = covariance_factor * (aa[i] - a * a + bb[i] - b * b);
            let covariance = covariance_factor * (ab[i] - a * b);
            sum += (2.0 * a * b + c1) * (2.0 * covariance + c2) / ((a * a + b * b + c1) * (variances + c2));
        }
    }
    Ok(sum / (inner * (y - side + 1)) as f64)
}

/// A linear map of intensities, found by [`affine_match`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Factor.
    pub gain: f64,
    /// What is added after the multiplication.
    pub offset: f64,
}

impl Affine {
    /// `gain * sample + offset` for each sample.
    pub fn apply<T: Copy + Into<f64>>(&self, samples: &[T]) -> Vec<f64> {
        samples.iter().map(|&s| self.gain * s.into() + self.offset).collect()
    }
}

/// Gain and offset that bring `image` closest to `reference` in the mean square. A constant image gets gain 0 and
/// the mean of the reference.
///
/// # Errors
/// [`Error::ShapeMismatch`] where the lengths differ or are 0, [`Error::InvalidOption`] where a sample is NaN or
/// infinite.
pub fn affine_match<T: Copy + Into<f64>>(image: &[T], reference: &[T]) -> Result<Affine> {
    check_lengths(reference, image)?;
    let mean = |samples: &[T]| samples.iter().map(|&s| s.into()).sum::<f64>() / samples.len() as f64;
    let (image_mean, reference_mean) = (mean(image), mean(reference));
    let (mut variance, mut covariance) = (0.0, 0.0);
    for (&i, &r) in image.iter().zip(reference) {
        let deviation = i.into() - image_mean;
        variance += deviation * deviation;
        covariance += deviation * (r.into() - reference_mean);
    }
    let gain = if variance > 0.0 { covariance / variance } else { 0.0 };
    Ok(Affine { gain, offset: reference_mean - gain * image_mean })
}

/// The `q`-th percentile (0 to 100), interpolated linearly between samples as numpy does.
///
/// # Errors
/// [`Error::ShapeMismatch`] where there is no sample, [`Error::InvalidOption`] where `q` is outside 0..=100 or a
/// sample is NaN or infinite.
pub fn percentile<T: Copy + Into<f64>>(samples: &[T], q: f64) -> Result<f64> {
    check_lengths(samples, samples)?;
    if !(0.0..=100.0).contains(&q) {
        return Err(Error::InvalidOption(format!("percentile {q}: expected 0 to 100")));
    }
    Ok(percentile_of(&mut to_f64(samples), q))
}

/// As [`percentile`], of finite samples, which it reorders.
fn percentile_of(samples: &mut [f64], q: f64) -> f64 {
    let position = q / 100.0 * (samples.len() - 1) as f64;
    let below = position.floor();
    let (_, &mut low, above) = samples.select_nth_unstable_by(below as usize, f64::total_cmp);
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    let fraction = position - below;
    // numpy's order of operations, so that the last bit agrees too.
    if fraction < 0.5 { low + (high - low) * fraction } else { high - (high - low) * (1.0 - fraction) }
}

fn range_of<T: Copy + Into<f64>>(samples: &[T]) -> (f64, f64) {
    let mut samples = to_f64(samples);
    (percentile_of(&mut samples, REFERENCE_PERCENTILES.0), percentile_of(&mut samples, REFERENCE_PERCENTILES.1))
}

/// `range` becomes 0..1; a range of no width subtracts only.
fn scaled<T: Copy + Into<f64>>(samples: &[T], (low, high): (f64, f64)) -> Vec<f64> {
    let width = if high > low { high - low } else { 1.0 };
    samples.iter().map(|&s| (s.into() - low) / width).collect()
}

fn mean_squared_error<T: Copy + Into<f64>>(reference: &[T], image: &[T]) -> Result<f64> {
    check_lengths(reference, image)?;
    let sum: f64 = reference.iter().zip(image).map(|(&r, &i)| (r.into() - i.into()).powi(2)).sum();
    Ok(sum / reference.len() as f64)
}

fn to_f64<T: Copy + Into<f64>>(samples: &[T]) -> Vec<f64> {
    samples.iter().map(|&s| s.into()).collect()
}

fn add_weighted(sum: &mut [f64], values: &[f64], weight: f64) {
    for (s, v) in sum.iter_mut().zip(values) {
        *s += weight * v;
    }
}

fn fifths(values: &mut [f64]) -> [&mut [f64]; 5] {
    let mut parts = values.chunks_exact_mut(values.len() / 5);
    std::array::from_fn(|_| parts.next().expect("the length is five times that of a row"))
}

fn check_data_range(data_range: f64) -> Result<()> {
    if data_range > 0.0 && data_range.is_finite() {
        return Ok(());
    }
    Err(Error::InvalidOption(format!("data range {data_range}: expected a number above 0")))
}

fn check_planes<T: Copy + Into<f64>>(
    reference: &[T],
    image: &[T],
    (y, x): (usize, usize),
    smallest: usize,
) -> Result<()> {
    if y < smallest || x < smallest {
        return Err(Error::ShapeMismatch {
            expected: format!("an image of {smallest}x{smallest} pixels or more, the window of SSIM"),
            found: format!("{y}x{x}"),
        });
    }
    if y.checked_mul(x) != Some(reference.len()) {
        return Err(Error::ShapeMismatch {
            expected: format!("{y}x{x} samples in the reference"),
            found: reference.len().to_string(),
        });
    }
    check_lengths(reference, image)
}

fn check_lengths<T: Copy + Into<f64>>(reference: &[T], image: &[T]) -> Result<()> {
    if image.len() != reference.len() || reference.is_empty() {
        return Err(Error::ShapeMismatch {
            expected: format!("two images of one size ({} samples in the reference, at least 1)", reference.len()),
            found: format!("{} samples", image.len()),
        });
    }
    check_finite("reference", reference)?;
    check_finite("image", image)
}

fn check_finite<T: Copy + Into<f64>>(name: &str, samples: &[T]) -> Result<()> {
    match samples.iter().filter(|&&s| !s.into().is_finite()).count() {
        0 => Ok(()),
        count => Err(Error::InvalidOption(format!(
            "the {name} has {count} samples that are NaN or infinite; only finite samples can be scored"
        ))),
    }
}
