//! PatchGAN, the discriminator of pix2pix (Isola et al. 2017), CycleGAN and DeblurGAN: 4×4 convolutions, the first ones
//! with stride 2, LeakyReLU with slope 0.2, and last one score for each overlapping patch (70×70 pixels with three
//! layers). Takes N, C, Y, X; gives a map of scores, without a sigmoid, which belongs to the loss. Variables are named as
//! in the authors' PyTorch code (`model.0.weight`); its numbering has a place for a norm even where there is none.

use super::blocks::{GanConv, Norm, channels_last, leaky_relu};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

/// Shape of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Convolutions with stride 2. The view of a score is 16, 34, 70, 142 pixels for 1, 2, 3, 4.
    pub layers: usize,
    /// Features of the first; they double with each next layer, three times at most.
    pub features: usize,
    /// What follows all convolutions but the first and the last.
    pub norm: Norm,
}

impl Default for Settings {
    fn default() -> Self {
        Self { layers: 3, features: 64, norm: Norm::Instance }
    }
}

impl Settings {
    /// The smallest side of an image that leaves a few scores.
    pub fn least_side(&self) -> usize {
        // Each of the last two convolutions takes one pixel off four, and a norm over a single pixel would be 0.
        4 << self.layers
    }
}

/// What a discriminator makes of an image.
#[derive(Debug)]
pub struct Judged {
    /// One score per patch, f32; N, 1, Y, X.
    pub scores: Tensor,
    /// What each layer but the last gives, in the kind of the convolutions: for feature matching.
    pub features: Vec<Tensor>,
}

/// A stack of convolutions.
#[derive(Debug)]
pub struct PatchDiscriminator {
    /// With the norm that follows each.
    layers: Vec<(GanConv, Norm)>,
    last: GanConv,
}

impl PatchDiscriminator {
    /// Adds its variables to `path`. `inputs`: channels; a condition is given as further channels.
    pub fn new(path: &nn::Path, inputs: usize, settings: &Settings, rng: &mut Pcg64Mcg) -> Self {
        let path = path / "model";
        let mut channels = inputs;
        let mut index = 0;
        let mut layers = Vec::new();
        for layer in 0..=settings.layers {
            let outputs = settings.features << layer.min(3);
            let stride = if layer < settings.layers { 2 } else { 1 };
            let norm = if layer == 0 { Norm::None } else { settings.norm };
            let fresh = if settings.norm == Norm::None { GanConv::he } else { GanConv::new };
            layers.push((fresh(&(&path / index), [channels, outputs], 4, [stride, 1], rng), norm));
            channels = outputs;
            // Convolution and LeakyReLU; from the second layer on with a norm between them.
            index += if layer == 0 { 2 } else { 3 };
        }
        Self { layers, last: GanConv::new(&(&path / index), [channels, 1], 4, [1, 1], rng) }
    }

    /// `input`: N, C, Y, X; convolutions run in `kind`, but on a CPU in f32: for 4×4 kernels on small maps, bf16
    /// was slower there, backwards several times so (oneDNN of torch 2.11, Xeon with AMX).
    pub fn forward(&self, input: &Tensor, kind: Kind) -> Judged {
        let kind = if input.device() == tch::Device::Cpu { Kind::Float } else { kind };
        let mut x = channels_last(input).to_kind(kind);
        let mut features = Vec::new();
        for (conv, norm) in &self.layers {
            x = leaky_relu(&norm.forward(conv.forward(&x)));
            features.push(x.shallow_clone());
        }
        Judged { scores: self.last.forward(&x).to_kind(Kind::Float), features }
    }
}
