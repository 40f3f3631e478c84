//! The generator of CIN-GAN (Razdaibiedina et al. 2019): clean image and noise → degraded image, one network for all
//! tasks. A ResNet (c3s1-F, d2F, n × R2F, uF) whose normalisations are conditional: z = γ_i·(x − μ)/σ + β_i, with γ_i and
//! β_i of task i and all else shared (their equation 1, after Dumoulin et al. 2017).
//!
//! Where the paper is silent: a network without a noise input gives one image the same defects every time, and cannot make
//! noise at all. Here the second input channel is white noise n, the third a normal number e that all pixels of an image
//! have in common, for what differs from exposure to exposure, and
//!
//! result = clean + a + P_i(h, k_i ∗ n, e)
//!
//! with a (an offset) and h (features) of each pixel, k_i a 7×7 kernel of the task that colours the noise, and P three 1×1
//! convolutions with ReLU, the first with a bias of each task: at every pixel they turn normal numbers into any
//! distribution, which may depend on what is there. Nothing that sees the noise sees more than one pixel of it; where the
//! layers before did, they drew wavy textures out of it. a and h are made of the features beside the clean image itself, as
//! what is normalised no longer tells the intensity that noise depends on. Input N, 3, Y, X; result N, 1, Y, X; sides a
//! multiple of 2.

use super::{Net, blocks::GanConv, blocks::Norm, blocks::channels_last};
use crate::onnx::Graph;
use rand_pcg::Pcg64Mcg;
use tch::{Kind, Tensor, nn};

/// Side of the kernel that colours the noise.
const COLOUR: i64 = 7;
/// Features of a pixel that its noise depends on.
const CONTEXT: usize = 16;

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
    /// k; tasks × 1 × 7 × 7.
    colour: Tensor,
    /// P.
    pixel: [GanConv; 3],
    /// Bias of P's first layer: tasks × features.
    pixel_bias: Tensor,
}

impl CinGenerator {
    /// Adds its variables to `path`.
    pub fn new(path: &nn::Path, features: usize, blocks: usize, tasks: usize, rng: &mut Pcg64Mcg) -> Self {
        let wide = 2 * features;
        let mut layer = |name: &str, shape, stride| Layer::new(path, name, shape, stride, tasks, rng);
        let first = layer("first", [1, features], 1);
        let down = layer("down", [features, wide], 2);
        let blocks = (0..blocks).map(|block| [0, 1].map(|half| layer(&format!("block_{block}_{half}"), [wide; 2], 1)));
        let blocks = blocks.collect();
        let up = layer("up", [wide, features], 1);
        let last = GanConv::new(&(path / "last"), [2 * features + 1, 1 + CONTEXT], 3, [1, 1], rng);
        let mut pixel = |name: &str, inputs| GanConv::he(&(path / name), [inputs, CONTEXT], 1, [1, 0], rng);
        let (pixel_0, pixel_1) = (pixel("pixel_0", CONTEXT + 2), pixel("pixel_1", CONTEXT));
        // Little noise to begin with.
        let pixel = [pixel_0, pixel_1, GanConv::new(&(path / "pixel_2"), [CONTEXT, 1], 1, [1, 0], rng)];
        let pixel_bias = path.zeros("pixel_bias", &[tasks as i64, CONTEXT as i64]);
        // White noise to begin with.
        let sides = [tasks as i64, 1, COLOUR, COLOUR];
        let mut white = vec![0f32; tasks * (COLOUR * COLOUR) as usize];
        let middle = (COLOUR * COLOUR / 2) as usize;
        white.iter_mut().skip(middle).step_by((COLOUR * COLOUR) as usize).for_each(|weight| *weight = 1.0);
        let white = Tensor::from_slice(&white).reshape(sides).to_device(path.device());
        let colour = path.add("colour", white, true);
        Self { first, down, blocks, up, last, colour, pixel, pixel_bias }
    }
}

impl Net for CinGenerator {
    fn forward(&self, input: &Tensor, task: usize, kind: Kind) -> Tensor {
        let [clean, noise, exposure] = [0, 1, 2].map(|channel| input.narrow(1, channel, 1));
        let image = channels_last(&clean).to_kind(kind);
        let first = self.first.forward(&image, task).relu();
        let mut x = self.down.forward(&first, task).relu();
        for [one, two] in &self.blocks {
            x = &x + two.forward(&one.forward(&x, task).relu(), task);
        }
        let (_, _, height, width) = first.size4().expect("features are N, C, Y, X");
        x = self.up.forward(&x.upsample_nearest2d([height, width], 2.0, 2.0), task).relu();
        let head = self.last.forward(&Tensor::cat(&[x, first, image], 1)).to_kind(Kind::Float);
        let kernel = self.colour.narrow(0, task as i64, 1);
        let coloured = noise.conv2d(&kernel, None::<Tensor>, 1, COLOUR / 2, 1, 1);
        let x = Tensor::cat(&[head.narrow(1, 1, CONTEXT as i64), coloured, exposure], 1);
        let x = self.pixel[0].forward(&x) + self.pixel_bias.get(task as i64).reshape([1, -1, 1, 1]);
        let x = self.pixel[1].forward(&x.relu()).relu();
        clean + head.narrow(1, 0, 1) + self.pixel[2].forward(&x)
    }

    fn export(&self, graph: &mut Graph, task: usize, input: &str) -> String {
        let relu = |graph: &mut Graph, layer: &Layer, x: &str| {
            let x = layer.export(graph, task, x);
            graph.relu(&x)
        };
        // Channels are picked by a 1×1 convolution; ONNX's Slice would need three more tensors.
        let zeros = |side: usize| Tensor::zeros([side as i64], (Kind::Float, tch::Device::Cpu));
        let pick = |graph: &mut Graph, name: &str, x: &str, [channels, from, count]: [usize; 3]| {
            let identity = Tensor::eye(channels as i64, (Kind::Float, tch::Device::Cpu));
            let weights = identity.narrow(0, from as i64, count as i64).reshape([count as i64, channels as i64, 1, 1]);
            graph.conv(name, x, &weights, &zeros(count))
        };
        let [clean, noise, exposure] = [("clean", 0), ("noise", 1), ("exposure", 2)]
            .map(|(name, channel)| pick(graph, name, input, [3, channel, 1]));
        let first = relu(graph, &self.first, &clean);
        let mut x = relu(graph, &self.down, &first);
        for [one, two] in &self.blocks {
            let inner = relu(graph, one, &x);
            let inner = two.export(graph, task, &inner);
            x = graph.add(&x, &inner);
        }
        let enlarged = graph.upsample_nearest(&x, 2);
        x = relu(graph, &self.up, &enlarged);
        let joined = graph.concat(&[x, first, clean.clone()]);
        let head = self.last.export(graph, "last", &joined);
        let offset = pick(graph, "offset", &head, [1 + CONTEXT, 0, 1]);
        let context = pick(graph, "context", &head, [1 + CONTEXT, 1, CONTEXT]);
        let coloured = graph.conv("colour", &noise, &self.colour.narrow(0, task as i64, 1), &zeros(1));
        let mut x = graph.concat(&[context, coloured, exposure]);
        let [pixel_0, pixel_1, pixel_2] = &self.pixel;
        x = graph.conv("pixel_0", &x, pixel_0.weight(), &(pixel_0.bias() + self.pixel_bias.get(task as i64)));
        x = graph.relu(&x);
        x = pixel_1.export(graph, "pixel_1", &x);
        x = graph.relu(&x);
        x = pixel_2.export(graph, "pixel_2", &x);
        let shifted = graph.add(&clean, &offset);
        graph.add(&shifted, &x)
    }

    fn channels(&self) -> usize {
        3
    }

    fn tile_multiple(&self) -> usize {
        2
    }
}
