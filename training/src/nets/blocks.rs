//! Layers that nets share. Weights are f32; a layer casts them to the kind of its input, so that the same weights train
//! in bf16 and are validated in f32 (tch's autocast works on CUDA alone).

use crate::onnx::Graph;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use tch::{Tensor, nn};

/// A convolution with zero padding that keeps the sides ("same"), stride 1. Where several tasks share it, each has its
/// own gain γ and offset β per output channel, z = γ_i·conv(x) + β_i: conditional instance normalisation (Dumoulin et al.
/// 2017) without the statistics, which would make the result depend on the tile. It folds into weights and bias.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    bias: Tensor,
    /// γ and β, each tasks × outputs; only where there are several tasks.
    condition: Option<(Tensor, Tensor)>,
    kernel: usize,
}

impl Conv {
    /// Weights as Keras' `glorot_uniform`, which CSBDeep uses, bias 0, γ 1, β 0. Drawn by `rng` and not by torch, so that
    /// all devices start from the same weights.
    pub fn new(
        path: &nn::Path,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        tasks: usize,
        rng: &mut Pcg64Mcg,
    ) -> Self {
        let area = kernel * kernel;
        let limit = (6.0 / ((inputs + outputs) * area) as f32).sqrt();
        let weights: Vec<f32> = (0..inputs * outputs * area).map(|_| rng.random_range(-limit..=limit)).collect();
        let shape = [outputs, inputs, kernel, kernel].map(|side| side as i64);
        let weight = channels_last(&Tensor::from_slice(&weights).reshape(shape).to_device(path.device()));
        let sides = [tasks as i64, outputs as i64];
        let condition = (tasks > 1).then(|| (path.ones("gamma", &sides), path.zeros("beta", &sides)));
        let (weight, bias) = (path.add("weight", weight, true), path.zeros("bias", &[outputs as i64]));
        Self { weight, bias, condition, kernel }
    }

    /// Weights and bias for a task.
    fn folded(&self, task: usize) -> (Tensor, Tensor) {
        match &self.condition {
            None => (self.weight.shallow_clone(), self.bias.shallow_clone()),
            Some((gamma, beta)) => {
                let (gamma, beta) = (gamma.get(task as i64), beta.get(task as i64));
                (&self.weight * gamma.reshape([-1, 1, 1, 1]), &self.bias * gamma + beta)
            }
        }
    }

    /// N, C, Y, X; result of the same kind and sides.
    pub fn forward(&self, input: &Tensor, task: usize) -> Tensor {
        let (kind, padding) = (input.kind(), (self.kernel / 2) as i64);
        let (weight, bias) = self.folded(task);
        input.conv2d(&weight.to_kind(kind), Some(bias.to_kind(kind)), 1, padding, 1, 1)
    }

    /// The same in ONNX.
    pub fn export(&self, graph: &mut Graph, task: usize, name: &str, input: &str) -> String {
        let (weight, bias) = self.folded(task);
        graph.conv(name, input, &weight, &bias)
    }
}

/// The same values with channels innermost in memory, which oneDNN and cuDNN prefer (tch has no memory formats, but
/// libtorch recognises the strides).
pub fn channels_last(tensor: &Tensor) -> Tensor {
    tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
