//! Losses, in f32. Each names its paper and its formula. Scores of a discriminator are N, 1, Y, X: one for each patch, of
//! which the mean is taken; images are N, C, Y, X.

use tch::{Kind, Tensor};

/// Mean absolute error with a weight per patch, mean(w·|restored − target|): CARE without the probabilistic part
/// (Weigert et al. 2018, eq. 3 with constant scale). `weight` is N, 1, 1, 1.
pub fn l1(restored: &Tensor, target: &Tensor, weight: &Tensor) -> Tensor {
    ((restored - target).abs() * weight).mean(Kind::Float)
}

/// Mean squared error with a weight per patch, mean(w·(restored − target)²); its minimum is the conditional mean, that
/// of [`l1`] the conditional median, which under few photons is darker.
pub fn l2(restored: &Tensor, target: &Tensor, weight: &Tensor) -> Tensor {
    ((restored - target).square() * weight).mean(Kind::Float)
}

/// Mean over patches of the logarithm of their mean squared error, mean(w·ln(mean((restored − target)²) + ε)): PSNR but
/// for sign and factor (Chen et al. 2022, "Simple Baselines for Image Restoration"). A patch counts by the part of its
/// error that goes, so that the few with a large error do not take it all; `EPSILON` keeps empty ones from doing so.
pub fn psnr(restored: &Tensor, target: &Tensor, weight: &Tensor) -> Tensor {
    const EPSILON: f64 = 1e-5;
    let error = (restored - target).square().mean_dim([1, 2, 3].as_slice(), true, Kind::Float);
    ((error + EPSILON).log() * weight).mean(Kind::Float)
}

/// 1 − SSIM (Wang et al. 2004) with a uniform window of 7×7 pixels, weighted per patch; `range` (N, 1, 1, 1) is the data
/// range of each patch.
pub fn ssim(restored: &Tensor, target: &Tensor, range: &Tensor, weight: &Tensor) -> Tensor {
    let mean = |x: &Tensor| x.avg_pool2d([7, 7], [1, 1], [0, 0], false, true, None::<i64>);
    let (c1, c2) = ((range * 0.01).square(), (range * 0.03).square());
    let (a, b) = (mean(restored), mean(target));
    let variances = mean(&restored.square()) - a.square() + mean(&target.square()) - b.square();
    let covariance = mean(&(restored * target)) - &a * &b;
    let ssim = (&a * &b * 2.0 + &c1) * (covariance * 2.0 + &c2) / ((a.square() + b.square() + c1) * (variances + c2));
    ((ssim * -1.0 + 1.0) * weight).mean(Kind::Float)
}

/// mean(|mapped − original|): cycle consistency, where the image went there and back (Zhu et al. 2017, eq. 2, one of its
/// two terms), and identity, where it was already as the generator's results should be (their section 5.2, after Taigman
/// et al. 2017).
pub fn distance(mapped: &Tensor, original: &Tensor) -> Tensor {
    (mapped - original).abs().mean(Kind::Float)
}

/// What generator and discriminator play for; D are the discriminator's scores, without a sigmoid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GanLoss {
    /// Least squares (Mao et al. 2017, eq. 9 without the factors ½): (D(real) − 1)², D(fake)²; G: (D(fake) − 1)².
    Lsgan,
    /// Wasserstein distance (Arjovsky et al. 2017), to be used with [`gradient_penalty`]: −D(real), D(fake); G: −D(fake).
    WganGp,
}

impl GanLoss {
    /// The discriminator's loss on real images.
    pub fn real(self, scores: &Tensor) -> Tensor {
        let losses = match self {
            Self::Lsgan => (scores - 1).square(),
            Self::WganGp => -scores,
        };
        losses.mean(Kind::Float)
    }

    /// The discriminator's loss on generated images.
    pub fn fake(self, scores: &Tensor) -> Tensor {
        let losses = match self {
            Self::Lsgan => scores.square(),
            Self::WganGp => scores.shallow_clone(),
        };
        losses.mean(Kind::Float)
    }

    /// The generator's loss: `scores` are those of its images.
    pub fn generator(self, scores: &Tensor) -> Tensor {
        match self {
            Self::Lsgan => self.real(scores),
            Self::WganGp => -scores.mean(Kind::Float),
        }
    }
}

/// Gradient penalty, mean((‖∇D(x̂)‖₂ − 1)²) at x̂ = ε·real + (1 − ε)·fake (Gulrajani et al. 2017, eq. 3, without λ). The
/// gradient is that of an image's mean score by all its pixels; it can be differentiated again. `mix` holds the ε from 0
/// to 1: N, 1, 1, 1.
pub fn gradient_penalty(critic: impl Fn(&Tensor) -> Tensor, real: &Tensor, fake: &Tensor, mix: &Tensor) -> Tensor {
    let between = (mix * real + (1f64 - mix) * fake).detach().set_requires_grad(true);
    let scores = critic(&between).mean_dim([1, 2, 3].as_slice(), false, Kind::Float);
    // The images are independent: the gradient of the sum is that of each.
    let gradients = Tensor::run_backward(&[scores.sum(Kind::Float)], &[&between], true, true);
    // At a gradient of exactly 0, the derivative of the root would be infinite.
    let norm = (gradients[0].square().sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float) + 1e-12).sqrt();
    (norm - 1).square().mean(Kind::Float)
}

/// Feature matching, Σ mean(|Dᵢ(real) − Dᵢ(fake)|) over the discriminator's layers i (Wang et al. 2018, pix2pixHD, eq. 4,
/// for one discriminator). No gradient reaches what made the real features.
pub fn feature_matching(real: &[Tensor], fake: &[Tensor]) -> Tensor {
    distances(real, fake, Tensor::abs)
}

/// Content, Σ mean((φᵢ(target) − φᵢ(restored))²) over VGG's layers i (Johnson et al. 2016, eq. 2). No gradient reaches the
/// target.
pub fn content(target: &[Tensor], restored: &[Tensor]) -> Tensor {
    distances(target, restored, Tensor::square)
}

fn distances(real: &[Tensor], fake: &[Tensor], distance: impl Fn(&Tensor) -> Tensor) -> Tensor {
    assert!(!real.is_empty() && real.len() == fake.len(), "{} and {} layers", real.len(), fake.len());
    let float = |tensor: &Tensor| tensor.to_kind(Kind::Float);
    let layers = real.iter().zip(fake);
    layers.map(|(real, fake)| distance(&(float(fake) - float(real).detach())).mean(Kind::Float)).sum()
}

/// 1 − r, r the correlation of two images (N, 1, Y, X) after a Gaussian of 2 pixels, image by image: whether structures are
/// where they were, whatever became of fine noise, sharpness, gain and offset. No gradient reaches `original`.
pub fn decorrelation(image: &Tensor, original: &Tensor) -> Tensor {
    const SIGMA: f64 = 2.0;
    const RADIUS: i64 = 6;
    let distance = Tensor::arange_start(-RADIUS, RADIUS + 1, (Kind::Float, image.device()));
    let weights = (distance.square() * (-0.5 / (SIGMA * SIGMA))).exp();
    let weights = &weights / weights.sum(Kind::Float);
    let smooth = |image: &Tensor| {
        let [down, across] = [[1, 1, -1, 1], [1, 1, 1, -1]].map(|shape| weights.reshape(shape));
        // Without padding, in patches that have the room: a border of zeros would be common to both.
        let pads = if image.size()[2].min(image.size()[3]) > 4 * RADIUS { 0 } else { RADIUS };
        let smoothed = image.conv2d(&down, None::<Tensor>, 1, [pads, 0], 1, 1);
        let smoothed = smoothed.conv2d(&across, None::<Tensor>, 1, [0, pads], 1, 1);
        &smoothed - smoothed.mean_dim([2, 3].as_slice(), true, Kind::Float)
    };
    let (a, b) = (smooth(image), smooth(&original.detach()));
    let sum = |product: Tensor| product.sum_dim_intlist([2, 3].as_slice(), true, Kind::Float);
    let r = sum(&a * &b) / ((sum(a.square()) + 1e-6) * (sum(b.square()) + 1e-6)).sqrt();
    1f64 - r.mean(Kind::Float)
}

/// ln(1 − r²), r the correlation of two images (N, 1, Y, X), image by image, times the weight of each (N, 1, 1, 1): the
/// logarithm of the part of `real`'s variance that `image` does not explain by gain and offset. Up to a constant, it is
/// twice the negative logarithm of the likelihood of `image` as mean of `real`, a pixel, under white normal noise of unknown
/// variance. No gradient reaches `real`.
pub fn unexplained(image: &Tensor, real: &Tensor, weight: &Tensor) -> Tensor {
    let centred = |x: &Tensor| x - x.mean_dim([2, 3].as_slice(), true, Kind::Float);
    let (a, b) = (centred(image), centred(&real.detach()));
    let sum = |product: Tensor| product.sum_dim_intlist([2, 3].as_slice(), true, Kind::Float);
    let explained = sum(&a * &b).square() / (sum(a.square()) * sum(b.square()) + 1e-6);
    ((1.0001f64 - explained).log() * weight).mean(Kind::Float)
}

/// How far images are from others of the same kind in what does not depend on where structures are, a sum of five
/// distances, near 0 where each is equal; images are N, 1, Y, X, at least 8 pixels a side, and may show anything:
/// - power: mean |ln P/P′| over blocks of 4×4 spatial frequencies, P the mean over images under a Hann taper. It tells
///   blur, and the strength and colour of noise;
/// - noise: mean |ln V/V′| over ten intensities, V the variance of what a mean of 3×3 pixels takes away where the mean of
///   7×7 is near that intensity, weighted by how often it is. It tells whether noise grows with intensity;
/// - skewness: half the mean |difference| of the skewness of the same. Few photons have a long tail on one side;
/// - exposure: energy distance of the distributions, over images, of the logarithm of the variance of the same. Some images
///   are noisier than others;
/// - intensity: mean |difference| of the sorted samples (Wasserstein distance), and of their means of 7×7.
///
/// No gradient reaches `real`.
pub fn statistics(images: &Tensor, real: &Tensor) -> Tensor {
    let (a, b) = (Moments::of(images), Moments::of(&real.detach()));
    let distance = |a: &Tensor, b: &Tensor| (a - b).abs();
    let often = a.often.minimum(&b.often);
    let by_intensity = |distance: Tensor| (distance * &often).sum(Kind::Float) / (often.sum(Kind::Float) + 1e-6);
    let intensity = a.sorted.iter().zip(&b.sorted).map(|(a, b)| distance(a, b).mean(Kind::Float)).sum::<Tensor>();
    distance(&a.power.log(), &b.power.log()).mean(Kind::Float)
        + by_intensity(distance(&a.variance.log(), &b.variance.log()))
        + by_intensity(distance(&a.skewness, &b.skewness)) * 0.5
        + energy(&a.exposure, &b.exposure)
        + intensity
}

/// Energy distance of the distributions that two samples (N and M numbers) were drawn from, E|x − y| − ½E|x − x′| −
/// ½E|y − y′| (Székely and Rizzo 2013, halved), estimated without bias: below 0 at times, and 0 for fewer than two numbers.
fn energy(a: &Tensor, b: &Tensor) -> Tensor {
    let (n, m) = (a.numel() as f64, b.numel() as f64);
    let distances = |a: &Tensor, b: &Tensor| (a.unsqueeze(1) - b.unsqueeze(0)).abs().sum(Kind::Float);
    if n < 2.0 || m < 2.0 {
        return distances(a, b) * 0.0;
    }
    distances(a, b) / (n * m) - distances(a, a) / (2.0 * n * (n - 1.0)) - distances(b, b) / (2.0 * m * (m - 1.0))
}

/// What [`statistics`] compares.
struct Moments {
    power: Tensor,
    /// Of what a mean of 3×3 takes away, at each of ten intensities.
    variance: Tensor,
    skewness: Tensor,
    /// Logarithm of the variance of the same in each image.
    exposure: Tensor,
    /// Part of the pixels at each intensity.
    often: Tensor,
    /// Samples, and means of 7×7, in ascending order.
    sorted: [Tensor; 2],
}

impl Moments {
    fn of(images: &Tensor) -> Self {
        const EPSILON: f64 = 1e-6;
        let (_, _, height, width) = images.size4().expect("images are N, C, Y, X");
        let taper = |side| Tensor::hann_window(side, (Kind::Float, images.device()));
        let centred = images - images.mean_dim([2, 3].as_slice(), true, Kind::Float);
        let tapered = centred * taper(height).unsqueeze(1) * taper(width);
        let spectrum = tapered.fft_rfft2(None::<&[i64]>, [-2, -1], "ortho");
        let power = (spectrum.real().square() + spectrum.imag().square()).mean_dim([0].as_slice(), true, Kind::Float);
        let power = power.avg_pool2d([4, 4], [4, 4], [0, 0], false, true, None::<i64>) + EPSILON;

        let mean = |side: i64| images.avg_pool2d([side, side], [1, 1], [0, 0], false, true, None::<i64>);
        let around = mean(7);
        // Where a mean of 7×7 has its middle.
        let inner = |image: &Tensor, border: i64| image.narrow(2, border, height - 6).narrow(3, border, width - 6);
        let taken = inner(images, 3) - inner(&mean(3), 2);
        let intensities = (Tensor::arange(10, (Kind::Float, images.device())) + 0.5) / 10.0;
        // Triangles that overlap by half.
        let near = (around.detach() - intensities.reshape([-1, 1, 1, 1, 1])).abs() * 10.0;
        let near = (1f64 - near).relu();
        let over_pixels = |values: Tensor| values.mean_dim([1, 2, 3, 4].as_slice(), false, Kind::Float);
        let often = over_pixels(near.shallow_clone());
        let moment = |power: f64| over_pixels(&near * taken.pow_tensor_scalar(power)) / (&often + 1e-4);
        let variance = moment(2.0) + EPSILON;
        let skewness = moment(3.0) / variance.pow_tensor_scalar(1.5);
        let exposure = taken.square().mean_dim([1, 2, 3].as_slice(), false, Kind::Float) + EPSILON;
        let sorted = [images, &around].map(|samples| samples.reshape([-1]).sort(0, false).0);
        Self { power, variance, skewness, exposure: exposure.log(), often, sorted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};
    use rand_pcg::Pcg64Mcg;
    use tch::Device;

    fn patches(values: [f32; 2]) -> Tensor {
        let ones = Tensor::ones([2, 1, 8, 8], (Kind::Float, Device::Cpu));
        ones * Tensor::from_slice(&values).reshape([2, 1, 1, 1])
    }

    #[test]
    fn psnr_is_the_logarithm_of_each_patchs_error() {
        let (weight, target) = (patches([1.0, 3.0]).narrow(2, 0, 1).narrow(3, 0, 1), patches([0.0, 0.0]));
        let found = psnr(&patches([0.1, 0.2]), &target, &weight).double_value(&[]);
        let expected = 0.5 * ((0.01f64 + 1e-5).ln() + 3.0 * (0.04f64 + 1e-5).ln());
        assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
        // Nothing is gained where nothing is wrong, and no gradient is infinite there.
        let restored = target.copy().set_requires_grad(true);
        psnr(&restored, &target, &weight).backward();
        assert_eq!(restored.grad().abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn statistics_tell_noise_blur_skewness_and_gain_but_not_where_things_are() {
        let waves = (Tensor::arange(64, (Kind::Float, Device::Cpu)) * 0.2).sin() * 0.3 + 0.5;
        let rows = waves.reshape([1, 1, 1, 64]).expand([4, 1, 64, 64], false);
        // The same elsewhere.
        let image = || rows.flip([3]);
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut normal = || {
            let samples: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(4 * 64 * 64).collect();
            Tensor::from_slice(&samples).reshape([4, 1, 64, 64])
        };
        let real = &rows + normal() * 0.1;
        let distance = |images: &Tensor| statistics(images, &real).double_value(&[]);
        let same = distance(&(image() + normal() * 0.1));
        let blurred = (image() + normal() * 0.1).avg_pool2d([3, 3], [1, 1], [1, 1], false, true, None::<i64>);
        // As skewed as four photons, of the same variance.
        let counts = normal();
        let skewed = image() + ((counts.square() - 1) * 0.24 + counts * 0.94) * 0.1;
        assert!(distance(&real).abs() < 0.01, "{}", distance(&real));
        for (what, images, least) in [
            ("noise", image() + normal() * 0.13, 0.5),
            ("blur", blurred, 1.0),
            ("skewness", skewed, 0.15),
            ("gain", (image() - 0.5) * 1.3 + 0.5 + normal() * 0.1, 0.1),
        ] {
            let found = distance(&images);
            assert!(found > same + least, "{what}: {found}, equal statistics {same}");
        }
        let images = (image() + normal() * 0.2).set_requires_grad(true);
        statistics(&images, &real).backward();
        assert!(images.grad().abs().max().double_value(&[]).is_finite());
        // Nowhere anything to be counted.
        assert!(statistics(&images.zeros_like(), &real).double_value(&[]).is_finite());
    }

    #[test]
    fn unexplained_is_the_logarithm_of_what_gain_and_offset_leave() {
        let mut rng = Pcg64Mcg::seed_from_u64(2);
        let mut normal = |deviation: f32| {
            let samples: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(2 * 64 * 64).collect();
            Tensor::from_slice(&samples).reshape([2, 1, 64, 64]) * f64::from(deviation)
        };
        let (image, noise) = (normal(1.0), normal(0.5));
        let real = (&image + noise) * 0.7 - 3.0;
        let weight = |weights: [f32; 2]| Tensor::from_slice(&weights).reshape([2, 1, 1, 1]);
        let found = unexplained(&image, &real, &weight([1.0, 1.0])).double_value(&[]);
        let expected = (0.25f64 / 1.25).ln();
        assert!((found - expected).abs() < 0.05, "{found}, expected {expected}");
        assert_eq!(unexplained(&image, &real, &weight([0.0, 0.0])).double_value(&[]), 0.0);
        // Neither perfect nor empty images have a gradient without bounds.
        for other in [&real, &real.zeros_like()] {
            let image = other.copy().set_requires_grad(true);
            unexplained(&image, &real, &weight([1.0, 1.0])).backward();
            assert!(image.grad().abs().max().double_value(&[]).is_finite());
        }
    }

    #[test]
    fn ssim_falls_with_structure_and_further_where_it_is_reversed() {
        let ramp = (Tensor::arange(256, (Kind::Float, Device::Cpu)) / 255.0).reshape([1, 1, 16, 16]);
        let one = Tensor::ones([1, 1, 1, 1], (Kind::Float, Device::Cpu));
        let loss = |restored: &Tensor| ssim(restored, &ramp, &one, &one).double_value(&[]);
        assert!(loss(&ramp).abs() < 1e-6);
        let (flat, reversed) = (Tensor::full_like(&ramp, 0.5), ramp.flip([2, 3]));
        assert!(loss(&flat) > 0.5 && loss(&reversed) > loss(&flat), "{} {}", loss(&flat), loss(&reversed));
    }
}
