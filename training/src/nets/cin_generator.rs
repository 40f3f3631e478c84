//! The generator of CIN-GAN (Razdaibiedina et al. 2019): clean image and noise → degraded image, one network for all
//! tasks. A ResNet (c3s1-F, d2F, n × R2F, uF) whose normalisations are conditional: z = γ_i·(x − μ)/σ + β_i, with γ_i and
//! β_i of task i and all else shared (their equation 1, after Dumoulin et al. 2017).
//!
//! Where the paper is silent: a network without a noise input gives one image the same defects every time, and cannot make
//! noise at all; and one that may draw what it likes draws textures that fool a discriminator and that no microscope makes,
//! which a restorer then learns to take away from real images. So what the network draws is put together as an image is
//! taken, optics, background, camera:
//!
//! blurred = Σ_j w_ij·G(σ_ij) ∗ clean, result = blurred + G(8 pixels) ∗ (a + b·n) + Σ_m c_m·He_m(k_i ∗ n)
//!
//! - three Gaussians G of each task, their deviations along Y and X and their weights trained: none is negative, so
//!   that nothing can be sharpened;
//! - n, the second input channel: white noise; a and b: what the ResNet, which sees the blurred image, adds as background,
//!   foreseen and not;
//! - k_i: a 7×7 kernel of the task, none of it negative, of norm 1, that colours n as interpolation and binning do. He_m:
//!   Hermite's polynomials x, x² − 1, x³ − 3x, whose mean is 0 whatever their coefficients: c_m makes noise of any
//!   strength, skewness and tails, and nothing else (but for three pixels at the border, where less of n is under k_i).
//!   c_m belongs to each pixel: 1×1 convolutions of what the ResNet says of it and of e, the third input channel, a normal
//!   number that all pixels of an image have in common, for what differs from exposure to exposure.
//!
//! The last layers see features beside the image itself, as what is normalised no longer tells the intensity that noise
//! depends on; their γ_i and β_i act without statistics. Input N, 3, Y, X; result N, 1, Y, X; sides a multiple of 2.

use super::{Net, blocks::Conv, blocks::GanConv, blocks::Norm, blocks::channels_last};
use crate::onnx::Graph;
use rand_pcg::Pcg64Mcg;
use tch::{Kind, Tensor, nn};

/// Side of the kernel that colours the noise.
const COLOUR: i64 = 7;
/// Features of a pixel that its noise depends on.
const CONTEXT: usize = 16;
/// Pixels that a blur reaches to each side.
const REACH: i64 = 20;
/// Shape of a kernel that blurs.
const KERNEL: [i64; 4] = [1, 1, 2 * REACH + 1, 2 * REACH + 1];
/// Deviations and weights of a task's Gaussians to begin with.
const GAUSSIANS: [[f32; 3]; 3] = [[0.7, 0.7, 0.6], [2.0, 2.0, 0.2], [6.0, 6.0, 0.2]];
/// Their logarithms, and the kernel that colours the noise, are trained at so many times the learning rate: of a network's
/// many weights each moves little.
const PACE: f64 = 20.0;
/// Deviation of the Gaussian that keeps structures out of the background.
const BACKGROUND: f64 = 8.0;
/// Makes the blurred noise of the background as strong as noise: 1 / the norm of that Gaussian, 2√π·σ.
const UNEVEN: f64 = 4.0 / std::f64::consts::FRAC_2_SQRT_PI * BACKGROUND;
/// Deviation of the noise to begin with, and the unit of what the network adds to it and as background.
const UNIT: f64 = 0.1;
/// Where exported constants are made.
const CPU: (Kind, tch::Device) = (Kind::Float, tch::Device::Cpu);

/// A convolution, and γ and β of its normalisation, each tasks × features.
#[derive(Debug)]
struct Layer {
    name: String,
    conv: GanConv,
    gamma: Tensor,
    beta: Tensor,
}

impl Layer {
    fn new(path: &nn::Path, name: &str, shape: [usize; 2], stride: i64, tasks: usize, rng: &mut Pcg64Mcg) -> Self {
        let path = path / name;
        let sides = [tasks as i64, shape[1] as i64];
        let conv = GanConv::new(&path, shape, 3, [stride, 1], rng);
        Self { name: name.to_owned(), conv, gamma: path.ones("gamma", &sides), beta: path.zeros("beta", &sides) }
    }

    /// Convolution and conditional instance normalisation.
    fn forward(&self, x: &Tensor, task: usize) -> Tensor {
        let normalised = Norm::Instance.forward(self.conv.forward(x));
        let of_task = |tensor: &Tensor| tensor.get(task as i64).reshape([1, -1, 1, 1]).to_kind(normalised.kind());
        &normalised * of_task(&self.gamma) + of_task(&self.beta)
    }

    fn export(&self, graph: &mut Graph, task: usize, x: &str) -> String {
        let x = self.conv.export(graph, &self.name, x);
        let [gamma, beta] = [&self.gamma, &self.beta].map(|tensor| tensor.get(task as i64));
        graph.instance_normalization(&format!("{}.norm", self.name), &x, &gamma, &beta, Norm::EPSILON as f32)
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct CinGenerator {
    /// ln σ_y, ln σ_x and ln w, over [`PACE`]; tasks × Gaussians × 3.
    optics: Tensor,
    first: Layer,
    down: Layer,
    blocks: Vec<[Layer; 2]>,
    up: Layer,
    last: Conv,
    /// c, of each pixel's features.
    law: [Conv; 2],
    /// Roots of k; tasks × 1 × 7 × 7.
    colour: Tensor,
}

impl CinGenerator {
    /// Adds its variables to `path`.
    pub fn new(path: &nn::Path, features: usize, blocks: usize, tasks: usize, rng: &mut Pcg64Mcg) -> Self {
        let optics = GAUSSIANS.as_flattened().iter().map(|value| value.ln() / PACE as f32).collect::<Vec<_>>();
        let optics = Tensor::from_slice(&optics.repeat(tasks)).reshape([tasks as i64, GAUSSIANS.len() as i64, 3]);
        let optics = path.add("optics", optics.to_device(path.device()), true);
        let wide = 2 * features;
        let mut layer = |name: &str, shape, stride| Layer::new(path, name, shape, stride, tasks, rng);
        let first = layer("first", [1, features], 1);
        let down = layer("down", [features, wide], 2);
        let blocks = (0..blocks).map(|block| [0, 1].map(|half| layer(&format!("block_{block}_{half}"), [wide; 2], 1)));
        let blocks = blocks.collect();
        let up = layer("up", [wide, features], 1);
        let last = Conv::new(&(path / "last"), [2 * features + 1, 2 + CONTEXT], 3, tasks, rng);
        let law = [("law_0", [CONTEXT + 1, CONTEXT]), ("law_1", [CONTEXT, 3])];
        let law = law.map(|(name, shape)| Conv::new(&(path / name), shape, 1, tasks, rng));
        // Nearly white noise to begin with; the norm makes no difference.
        let sides = [tasks as i64, 1, COLOUR, COLOUR];
        let mut white = vec![0.03 / PACE as f32; tasks * (COLOUR * COLOUR) as usize];
        let middle = (COLOUR * COLOUR / 2) as usize;
        white
            .iter_mut()
            .skip(middle)
            .step_by((COLOUR * COLOUR) as usize)
            .for_each(|weight| *weight = 1.0 / PACE as f32);
        let white = Tensor::from_slice(&white).reshape(sides).to_device(path.device());
        let colour = path.add("colour", white, true);
        Self { optics, first, down, blocks, up, last, law, colour }
    }

    /// The kernel of a task's optics: 1, 1, Y, X.
    fn optics(&self, task: usize) -> Tensor {
        let [down, across, weight] =
            [0, 1, 2].map(|column| (self.optics.get(task as i64).select(1, column) * PACE).exp());
        let gaussians = gaussian(&down).unsqueeze(2) * gaussian(&across).unsqueeze(1);
        (gaussians * weight.reshape([-1, 1, 1])).sum_dim_intlist([0].as_slice(), false, Kind::Float).reshape(KERNEL)
    }

    /// The kernel that the background is blurred by: 1, 1, Y, X.
    fn background(&self) -> Tensor {
        let profile = gaussian(&Tensor::full([1], BACKGROUND, (Kind::Float, self.optics.device())));
        (profile.reshape([-1, 1]) * &profile).reshape(KERNEL)
    }

    /// The kernel that colours a task's noise.
    fn colour(&self, task: usize) -> Tensor {
        let kernel = self.colour.narrow(0, task as i64, 1).square();
        &kernel / kernel.square().sum(Kind::Float).sqrt()
    }
}

/// Gaussians of these deviations, a row each, of sum 1.
fn gaussian(deviations: &Tensor) -> Tensor {
    let distance = Tensor::arange_start(-REACH, REACH + 1, (Kind::Float, deviations.device()));
    (-(distance / deviations.unsqueeze(1)).square() * 0.5).softmax(1, Kind::Float)
}

/// Convolution with a symmetric kernel; N, 1, Y, X. Beyond its border, an image goes on as it ends. By Fourier's transform,
/// as a convolution with so large a kernel would take most of a step on a CPU.
fn blur(image: &Tensor, kernel: &Tensor) -> Tensor {
    let (_, _, height, width) = image.size4().expect("images are N, C, Y, X");
    let padded = image.replication_pad2d([REACH; 4]);
    let sides = [height + 2 * REACH, width + 2 * REACH];
    let spectrum = |x: &Tensor| x.fft_rfft2(sides.as_slice(), [-2, -1], "backward");
    let product = spectrum(&padded) * spectrum(kernel);
    let blurred = product.fft_irfft2(sides.as_slice(), [-2, -1], "backward");
    // The kernel's middle is at REACH, and not at 0.
    blurred.narrow(2, 2 * REACH, height).narrow(3, 2 * REACH, width)
}

impl CinGenerator {
    /// What can be foreseen of a degraded image, and the rest, whose mean over the noise is 0; [`Net::forward`] gives their sum.
    pub fn parts(&self, input: &Tensor, task: usize, kind: Kind) -> [Tensor; 2] {
        let [clean, noise, exposure] = [0, 1, 2].map(|channel| input.narrow(1, channel, 1));
        let blurred = blur(&clean, &self.optics(task));
        let image = channels_last(&blurred).to_kind(kind);
        let first = self.first.forward(&image, task).relu();
        let mut x = self.down.forward(&first, task).relu();
        for [one, two] in &self.blocks {
            x = &x + two.forward(&one.forward(&x, task).relu(), task);
        }
        let (_, _, height, width) = first.size4().expect("features are N, C, Y, X");
        x = self.up.forward(&x.upsample_nearest2d([height, width], 2.0, 2.0), task).relu();
        let head = self.last.forward(&Tensor::cat(&[x, first, image], 1), task).to_kind(Kind::Float);
        let wide = self.background();
        let foreseen = blurred + blur(&(head.narrow(1, 0, 1) * UNIT), &wide);
        let uneven = blur(&(head.narrow(1, 1, 1) * &noise * (UNIT * UNEVEN)), &wide);
        let context = Tensor::cat(&[head.narrow(1, 2, CONTEXT as i64).relu(), exposure], 1);
        let c = self.law[1].forward(&self.law[0].forward(&context, task).relu(), task);
        let x = noise.conv2d(&self.colour(task), None::<Tensor>, 1, COLOUR / 2, 1, 1);
        let square = x.square();
        let hermite = [x.shallow_clone(), &square - 1, &x * (&square - 3)];
        let terms: Tensor = (0..).zip(hermite).map(|(m, hermite)| c.narrow(1, m, 1) * hermite).sum();
        [foreseen, uneven + (terms + x) * UNIT]
    }
}

impl Net for CinGenerator {
    fn forward(&self, input: &Tensor, task: usize, kind: Kind) -> Tensor {
        let [foreseen, rest] = self.parts(input, task, kind);
        foreseen + rest
    }

    fn export(&self, graph: &mut Graph, task: usize, input: &str) -> String {
        let relu = |graph: &mut Graph, layer: &Layer, x: &str| {
            let x = layer.export(graph, task, x);
            graph.relu(&x)
        };
        let zeros = |side: i64| Tensor::zeros([side], CPU);
        // Channels are picked by a 1×1 convolution; ONNX's Slice would need three more tensors.
        let pick = |graph: &mut Graph, name: &str, x: &str, [channels, from, count]: [usize; 3]| {
            let identity = Tensor::eye(channels as i64, CPU);
            let weights = identity.narrow(0, from as i64, count as i64).reshape([count as i64, channels as i64, 1, 1]);
            graph.conv(name, x, &weights, &zeros(count as i64))
        };
        let blur = |graph: &mut Graph, name: &str, x: &str, kernel: &Tensor| {
            let x = graph.edge_pad(x, REACH);
            graph.strided_conv(name, &x, kernel, &zeros(1), 1, 0)
        };
        let [clean, noise, exposure] = [("clean", 0), ("noise", 1), ("exposure", 2)]
            .map(|(name, channel)| pick(graph, name, input, [3, channel, 1]));
        let blurred = blur(graph, "optics", &clean, &self.optics(task));
        let first = relu(graph, &self.first, &blurred);
        let mut x = relu(graph, &self.down, &first);
        for [one, two] in &self.blocks {
            let inner = relu(graph, one, &x);
            let inner = two.export(graph, task, &inner);
            x = graph.add(&x, &inner);
        }
        let enlarged = graph.upsample_nearest(&x, 2);
        x = relu(graph, &self.up, &enlarged);
        let joined = graph.concat(&[x, first, blurred.clone()]);
        let head = self.last.export(graph, task, "last", &joined);
        let [foreseen, spread] =
            [("foreseen", 0), ("spread", 1)].map(|(name, channel)| pick(graph, name, &head, [2 + CONTEXT, channel, 1]));
        let strong = graph.conv("strong", &noise, &Tensor::full([1, 1, 1, 1], UNEVEN, CPU), &zeros(1));
        let uneven = graph.multiply(&spread, &strong);
        let background = graph.add(&foreseen, &uneven);
        let background = blur(graph, "background", &background, &(self.background() * UNIT));
        let context = pick(graph, "context", &head, [2 + CONTEXT, 2, CONTEXT]);
        let context = graph.relu(&context);
        let context = graph.concat(&[context, exposure]);
        let law = self.law[0].export(graph, task, "law_0", &context);
        let law = graph.relu(&law);
        let law = self.law[1].export(graph, task, "law_1", &law);
        // Of x, x² and x³, by the coefficients of Hermite's polynomials.
        let x = graph.conv("colour", &noise, &self.colour(task), &zeros(1));
        let square = graph.multiply(&x, &x);
        let cube = graph.multiply(&square, &x);
        let powers = graph.concat(&[x, square, cube]);
        let coefficients = Tensor::from_slice(&[1f32, 0.0, 0.0, 0.0, 1.0, 0.0, -3.0, 0.0, 1.0]).reshape([3, 3, 1, 1]);
        let hermite = graph.conv("hermite", &powers, &coefficients, &Tensor::from_slice(&[0f32, -1.0, 0.0]));
        let scaled = Tensor::eye(3, CPU).reshape([3, 3, 1, 1]) * UNIT;
        let law = graph.conv("law_2", &law, &scaled, &Tensor::from_slice(&[UNIT as f32, 0.0, 0.0]));
        let terms = graph.multiply(&law, &hermite);
        let noise = graph.conv("terms", &terms, &Tensor::ones([1, 3, 1, 1], CPU), &zeros(1));
        let image = graph.add(&blurred, &background);
        graph.add(&image, &noise)
    }

    fn channels(&self) -> usize {
        3
    }

    fn tile_multiple(&self) -> usize {
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::cin_gan::with_noise;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeMap;
    use tch::{Device, no_grad};

    /// A generator for two tasks whose weights have been shaken, so that nothing is as it is to begin with.
    fn shaken(variables: &nn::VarStore) -> CinGenerator {
        let mut rng = Pcg64Mcg::seed_from_u64(7);
        let net = CinGenerator::new(&variables.root(), 4, 1, 2, &mut rng);
        for (_, mut variable) in variables.variables().into_iter().collect::<BTreeMap<_, _>>() {
            let shakes: Vec<f32> = (0..variable.numel()).map(|_| rng.random_range(-0.05..0.05)).collect();
            let shakes = Tensor::from_slice(&shakes).reshape(variable.size());
            no_grad(|| variable.copy_(&(&variable + shakes)));
        }
        net
    }

    #[test]
    fn optics_let_no_frequency_pass_better_than_the_lowest() {
        let variables = nn::VarStore::new(Device::Cpu);
        let net = shaken(&variables);
        for task in 0..2 {
            let kernel = net.optics(task);
            let passed = kernel.fft_rfft2(None::<&[i64]>, [-2, -1], "backward").abs();
            let lowest = passed.double_value(&[0, 0, 0, 0]);
            assert!(kernel.min().double_value(&[]) >= 0.0);
            assert!((passed.max().double_value(&[]) - lowest).abs() < 1e-5 * lowest);
            assert!(passed.min().double_value(&[]) < 0.9 * lowest, "nothing is blurred");
        }
        assert!(!net.optics(0).allclose(&net.optics(0).transpose(2, 3), 1e-5, 1e-8, false), "Y and X have one blur");
    }

    #[test]
    fn a_blur_by_fourier_is_a_convolution_with_repeated_borders() {
        let variables = nn::VarStore::new(Device::Cpu);
        let kernel = shaken(&variables).optics(1);
        let image = (Tensor::arange(2 * 30 * 51, (Kind::Float, Device::Cpu)) * 0.37).sin().reshape([2, 1, 30, 51]);
        let expected = image.replication_pad2d([REACH; 4]).conv2d(&kernel, None::<Tensor>, 1, 0, 1, 1);
        let difference = (blur(&image, &kernel) - &expected).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn what_is_not_foreseen_has_no_mean() {
        let variables = nn::VarStore::new(Device::Cpu);
        let net = shaken(&variables);
        let clean = (Tensor::arange(24 * 24, (Kind::Float, Device::Cpu)) * 0.2).sin().reshape([1, 1, 24, 24]);
        let mut rng = Pcg64Mcg::seed_from_u64(8);
        let input = with_noise(&clean.repeat([1600, 1, 1, 1]), &mut rng);
        let [foreseen, rest] = no_grad(|| net.parts(&input, 0, Kind::Float));
        assert!((&foreseen - foreseen.narrow(0, 0, 1)).abs().max().double_value(&[]) < 1e-5);
        // At the border, less noise is under the kernel that colours it.
        let rest = rest.narrow(2, COLOUR / 2, 18).narrow(3, COLOUR / 2, 18);
        let deviation = rest.std(true).double_value(&[]);
        let mean = rest.mean_dim([0].as_slice(), false, Kind::Float);
        // 1600 draws leave a fortieth of the deviation, more where few pixels have noise of their own.
        let left = mean.square().mean(Kind::Float).sqrt().double_value(&[]);
        assert!(deviation > 0.05 && left < 0.06 * deviation, "{left} of {deviation}");
    }
}
