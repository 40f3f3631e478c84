//! Layers that nets share. Weights are f32; a layer casts them to the kind of its input, so that the same weights train
//! in bf16 and are validated in f32 (tch's autocast works on CUDA alone).

use crate::onnx::Graph;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use tch::{Tensor, nn};

/// A convolution with zero padding that keeps the sides ("same"), stride 1.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    bias: Tensor,
    kernel: usize,
}

impl Conv {
    /// Weights as Keras' `glorot_uniform`, which CSBDeep uses, bias 0. Drawn by `rng` and not by torch, so that all
    /// devices start from the same weights.
    pub fn new(path: &nn::Path, [inputs, outputs]: [usize; 2], kernel: usize, rng: &mut Pcg64Mcg) -> Self {
        let area = kernel * kernel;
        let limit = (6.0 / ((inputs + outputs) * area) as f32).sqrt();
        let weights: Vec<f32> = (0..inputs * outputs * area).map(|_| rng.random_range(-limit..=limit)).collect();
        let shape = [outputs, inputs, kernel, kernel].map(|side| side as i64);
        let weight = channels_last(&Tensor::from_slice(&weights).reshape(shape).to_device(path.device()));
        Self { weight: path.add("weight", weight, true), bias: path.zeros("bias", &[outputs as i64]), kernel }
    }

    /// N, C, Y, X; result of the same kind and sides.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let padding = (self.kernel / 2) as i64;
        input.conv2d(&self.weight.to_kind(kind), Some(self.bias.to_kind(kind)), 1, padding, 1, 1)
    }

    /// The same in ONNX.
    pub fn export(&self, graph: &mut Graph, name: &str, input: &str) -> String {
        graph.conv(name, input, &self.weight, &self.bias)
    }
}

/// The same values with channels innermost in memory, which oneDNN and cuDNN prefer (tch has no memory formats, but
/// libtorch recognises the strides).
pub fn channels_last(tensor: &Tensor) -> Tensor {
    tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
