//! Layers that nets share. Weights are f32; a layer casts them to the kind of its input, so that the same weights train
//! in bf16 and are validated in f32 (tch's autocast works on CUDA alone).

use crate::onnx::Graph;
use rand::RngExt;
use rand_distr::{Distribution, Normal};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

/// Deviation of the initial weights in pix2pix, CycleGAN and DeblurGAN.
const GAN_DEVIATION: f32 = 0.02;
/// Slope of their LeakyReLU below 0.
const LEAK: f64 = 0.2;

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

/// A convolution of a GAN's network: any stride, zero-padded on all sides, bias 0.
#[derive(Debug)]
pub struct GanConv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
}

impl GanConv {
    /// Weights from N(0, 0.02²), for what is normalised afterwards.
    pub fn new(path: &nn::Path, sides: [usize; 2], kernel: usize, strides: [i64; 2], rng: &mut Pcg64Mcg) -> Self {
        Self::with_deviation(path, sides, kernel, strides, GAN_DEVIATION, rng)
    }

    /// Weights whose results are as large as what comes in through a leaky rectifier (He et al. 2015), for what nothing
    /// normalises: there, those of [`GanConv::new`] would make less and less of their input from layer to layer.
    pub fn he(path: &nn::Path, sides: [usize; 2], kernel: usize, strides: [i64; 2], rng: &mut Pcg64Mcg) -> Self {
        let fan_in = (sides[0] * kernel * kernel) as f64;
        let deviation = (2.0 / ((1.0 + LEAK * LEAK) * fan_in)).sqrt();
        Self::with_deviation(path, sides, kernel, strides, deviation as f32, rng)
    }

    fn with_deviation(
        path: &nn::Path,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        [stride, padding]: [i64; 2],
        deviation: f32,
        rng: &mut Pcg64Mcg,
    ) -> Self {
        let (weight, bias) = gan_weights(path, [outputs, inputs, kernel, kernel], outputs, deviation, rng);
        Self { weight, bias, stride, padding }
    }

    /// N, C, Y, X; result of the same kind.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        input.conv2d(&self.weight.to_kind(kind), Some(self.bias.to_kind(kind)), self.stride, self.padding, 1, 1)
    }

    /// The same in ONNX.
    pub fn export(&self, graph: &mut Graph, name: &str, input: &str) -> String {
        graph.strided_conv(name, input, &self.weight, &self.bias, self.stride, self.padding)
    }
}

/// A transposed 3×3 convolution that doubles the sides, as in CycleGAN's generator; weights from N(0, 0.02²), bias 0.
#[derive(Debug)]
pub struct GanConvTranspose {
    weight: Tensor,
    bias: Tensor,
}

impl GanConvTranspose {
    const STRIDE: i64 = 2;
    const PADDING: i64 = 1;
    const OUTPUT_PADDING: i64 = 1;

    /// Fresh weights.
    pub fn new(path: &nn::Path, [inputs, outputs]: [usize; 2], rng: &mut Pcg64Mcg) -> Self {
        let (weight, bias) = gan_weights(path, [inputs, outputs, 3, 3], outputs, GAN_DEVIATION, rng);
        Self { weight, bias }
    }

    /// N, C, Y, X; result of the same kind.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        let (kind, pad) = (input.kind(), Self::OUTPUT_PADDING);
        let (weight, bias) = (self.weight.to_kind(kind), self.bias.to_kind(kind));
        input.conv_transpose2d(&weight, Some(bias), Self::STRIDE, Self::PADDING, pad, 1, 1)
    }

    /// The same in ONNX.
    pub fn export(&self, graph: &mut Graph, name: &str, input: &str) -> String {
        let (stride, padding, output_padding) = (Self::STRIDE, Self::PADDING, Self::OUTPUT_PADDING);
        graph.conv_transpose(name, input, &self.weight, &self.bias, stride, padding, output_padding)
    }
}

fn gan_weights(
    path: &nn::Path,
    shape: [usize; 4],
    outputs: usize,
    deviation: f32,
    rng: &mut Pcg64Mcg,
) -> (Tensor, Tensor) {
    let normal = Normal::new(0.0, deviation).expect("the deviation is finite");
    let weights: Vec<f32> = normal.sample_iter(rng).take(shape.iter().product()).collect();
    let weight = Tensor::from_slice(&weights).reshape(shape.map(|side| side as i64)).to_device(path.device());
    (path.add("weight", channels_last(&weight), true), path.zeros("bias", &[outputs as i64]))
}

/// What follows the convolutions of a network before their ReLU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// Nothing.
    None,
    /// (x − μ) / σ with mean and deviation of each channel of each image (Ulyanov et al. 2016), without trained factors,
    /// as in pix2pix, CycleGAN and DeblurGAN. What it makes of a pixel depends on the whole image.
    #[default]
    Instance,
}

impl Norm {
    /// Added to the variance, as PyTorch does.
    pub const EPSILON: f64 = 1e-5;

    /// N, C, Y, X; result of the same kind.
    pub fn forward(self, input: Tensor) -> Tensor {
        let no = None::<Tensor>;
        match self {
            Self::None => input,
            Self::Instance => {
                input.instance_norm(no.as_ref(), no.as_ref(), no.as_ref(), no.as_ref(), true, 0.0, Self::EPSILON, true)
            }
        }
    }

    /// The same in ONNX, for so many channels.
    pub fn export(self, graph: &mut Graph, name: &str, input: &str, channels: i64) -> String {
        match self {
            Self::None => input.to_owned(),
            Self::Instance => {
                let one = Tensor::ones([channels], (Kind::Float, tch::Device::Cpu));
                graph.instance_normalization(name, input, &one, &one.zeros_like(), Self::EPSILON as f32)
            }
        }
    }
}

/// LeakyReLU with slope 0.2 below 0, which the discriminators have. tch's own knows no slope but 0.01.
pub fn leaky_relu(input: &Tensor) -> Tensor {
    input.prelu(&Tensor::full([1], LEAK, (input.kind(), input.device())))
}
