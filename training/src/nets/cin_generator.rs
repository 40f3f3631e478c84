//! The generator of CIN-GAN (Razdaibiedina et al. 2019): clean image and noise → degraded image, one network for all
//! tasks. A ResNet (c3s1-F, d2F, n × R2F, uF) whose normalisations are conditional: z = γ_i·(x − μ)/σ + β_i, with γ_i and
//! β_i of task i and all else shared (their equation 1, after Dumoulin et al. 2017).
//!
//! Where the paper is silent: a network without a noise input gives one image the same defects every time, and cannot make
//! noise at all. Here the second input channel is white noise n, and the last layer gives for every pixel an offset a and
//! an amplitude s: result = clean + a + s·(k_i ∗ n), k_i a 7×7 kernel of the task that colours the noise. The layers before
//! see the noise too, for what is not additive. Input N, 2, Y, X; result N, 1, Y, X; sides a multiple of 2.

use super::{Net, blocks::GanConv, blocks::Norm, blocks::channels_last};
use crate::onnx::Graph;
use rand_pcg::Pcg64Mcg;
use tch::{Kind, Tensor, nn};

/// Side of the kernel that colours the noise.
const COLOUR: i64 = 7;

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
    first: Layer,
    down: Layer,
    blocks: Vec<[Layer; 2]>,
    up: Layer,
    last: GanConv,
    /// Tasks × 1 × 7 × 7.
    colour: Tensor,
}

impl CinGenerator {
    /// Adds its variables to `path`.
    pub fn new(path: &nn::Path, features: usize, blocks: usize, tasks: usize, rng: &mut Pcg64Mcg) -> Self {
        let wide = 2 * features;
        let mut layer = |name: &str, shape, stride| Layer::new(path, name, shape, stride, tasks, rng);
        let first = layer("first", [2, features], 1);
        let down = layer("down", [features, wide], 2);
        let blocks = (0..blocks).map(|block| [0, 1].map(|half| layer(&format!("block_{block}_{half}"), [wide; 2], 1)));
        let blocks = blocks.collect();
        let up = layer("up", [wide, features], 1);
        let last = GanConv::new(&(path / "last"), [2 * features, 2], 3, [1, 1], rng);
        // White noise to begin with.
        let sides = [tasks as i64, 1, COLOUR, COLOUR];
        let mut white = vec![0f32; tasks * (COLOUR * COLOUR) as usize];
        let middle = (COLOUR * COLOUR / 2) as usize;
        white.iter_mut().skip(middle).step_by((COLOUR * COLOUR) as usize).for_each(|weight| *weight = 1.0);
        let white = Tensor::from_slice(&white).reshape(sides).to_device(path.device());
        Self { first, down, blocks, up, last, colour: path.add("colour", white, true) }
    }
}

impl Net for CinGenerator {
    fn forward(&self, input: &Tensor, task: usize, kind: Kind) -> Tensor {
        let x = channels_last(input).to_kind(kind);
        let first = self.first.forward(&x, task).relu();
        let mut x = self.down.forward(&first, task).relu();
        for [one, two] in &self.blocks {
            x = &x + two.forward(&one.forward(&x, task).relu(), task);
        }
        let (_, _, height, width) = first.size4().expect("features are N, C, Y, X");
        x = self.up.forward(&x.upsample_nearest2d([height, width], 2.0, 2.0), task).relu();
        let head = self.last.forward(&Tensor::cat(&[x, first], 1)).to_kind(Kind::Float);
        let (clean, noise) = (input.narrow(1, 0, 1), input.narrow(1, 1, 1));
        let kernel = self.colour.narrow(0, task as i64, 1);
        let coloured = noise.conv2d(&kernel, None::<Tensor>, 1, COLOUR / 2, 1, 1);
        clean + head.narrow(1, 0, 1) + head.narrow(1, 1, 1) * coloured
    }

    fn export(&self, graph: &mut Graph, task: usize, input: &str) -> String {
        let relu = |graph: &mut Graph, layer: &Layer, x: &str| {
            let x = layer.export(graph, task, x);
            graph.relu(&x)
        };
        let first = relu(graph, &self.first, input);
        let mut x = relu(graph, &self.down, &first);
        for [one, two] in &self.blocks {
            let inner = relu(graph, one, &x);
            let inner = two.export(graph, task, &inner);
            x = graph.add(&x, &inner);
        }
        let enlarged = graph.upsample_nearest(&x, 2);
        x = relu(graph, &self.up, &enlarged);
        let joined = graph.concat(&[x, first]);
        let head = self.last.export(graph, "last", &joined);
        // A channel is picked by a 1×1 convolution; ONNX's Slice would need three more tensors.
        let zero = Tensor::zeros([1], (Kind::Float, tch::Device::Cpu));
        let pick = |graph: &mut Graph, name: &str, x: &str, channel: usize| {
            let mut weights = [0f32; 2];
            weights[channel] = 1.0;
            graph.conv(name, x, &Tensor::from_slice(&weights).reshape([1, 2, 1, 1]), &zero)
        };
        let [clean, noise] = [("clean", 0), ("noise", 1)].map(|(name, channel)| pick(graph, name, input, channel));
        let [offset, amplitude] =
            [("offset", 0), ("amplitude", 1)].map(|(name, channel)| pick(graph, name, &head, channel));
        let coloured = graph.conv("colour", &noise, &self.colour.narrow(0, task as i64, 1), &zero);
        let noise = graph.multiply(&amplitude, &coloured);
        let shifted = graph.add(&clean, &offset);
        graph.add(&shifted, &noise)
    }

    fn channels(&self) -> usize {
        2
    }

    fn tile_multiple(&self) -> usize {
        2
    }
}
