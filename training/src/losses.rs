//! Losses, in f32. Each names its paper and its formula.

use tch::{Kind, Tensor};

/// Mean absolute error with a weight per patch, mean(w·|restored − target|): CARE without the probabilistic part
/// (Weigert et al. 2018, eq. 3 with constant scale). `weight` is N, 1, 1, 1.
pub fn l1(restored: &Tensor, target: &Tensor, weight: &Tensor) -> Tensor {
    ((restored - target).abs() * weight).mean(Kind::Float)
}
