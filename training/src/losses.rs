//! Losses, in f32. Each names its paper and its formula.

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
