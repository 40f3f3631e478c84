//! The ResNet generator of Johnson et al. (2016) as CycleGAN (Zhu et al. 2017) and DeblurGAN (Kupyn et al. 2018) use it, in
//! their words c7s1-F, d2F, d4F, n × R4F, u2F, uF, c7s1-1: a 7×7 convolution, two with stride 2, residual blocks of two
//! 3×3 convolutions, two transposed convolutions, a last 7×7 one. Mirrored borders at stride 1, a norm and ReLU after each
//! convolution but the last (no ReLU at the end of a block). Variables are named as in the authors' PyTorch code
//! (`model.10.conv_block.1.weight`). With instance normalisation the result depends on the whole image: the engine
//! recognises such a model and does not tile it.

use super::Net;
use super::blocks::{GanConv, GanConvTranspose, Norm, channels_last};
use crate::onnx::Graph;
use rand::Rng;
use rand_pcg::Pcg64Mcg;
use tch::{Kind, Tensor, nn};

/// Places in the authors' `nn.Sequential`, where activations and paddings count.
const DOWN: [usize; 2] = [4, 7];
const FIRST_BLOCK: usize = 10;

/// Shape of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Channels of the input; the output has one.
    pub inputs: usize,
    /// Features at full size; twice and four times as many at half and quarter size.
    pub features: usize,
    /// Residual blocks at quarter size.
    pub blocks: usize,
    /// After each convolution but the last.
    pub norm: Norm,
    /// Whether the network predicts what is to be added to its (single) input.
    pub residual: bool,
    /// Whether the last convolution is followed by tanh, before the input is added.
    pub tanh: bool,
    /// Part of the features that is set to 0 in the middle of each block while training.
    pub dropout: f64,
}

/// Two convolutions whose result is added to their input.
#[derive(Debug)]
struct Block {
    name: String,
    convs: [(usize, GanConv); 2],
}

/// One channel out, on the same grid.
#[derive(Debug)]
pub struct ResnetGenerator {
    first: GanConv,
    down: Vec<(usize, GanConv)>,
    blocks: Vec<Block>,
    up: Vec<(usize, GanConvTranspose)>,
    last: (usize, GanConv),
    settings: Settings,
}

impl ResnetGenerator {
    /// Adds its variables to `path`.
    pub fn new(path: &nn::Path, settings: &Settings, rng: &mut Pcg64Mcg) -> Self {
        let path = path / "model";
        let Settings { inputs, features, blocks, dropout, .. } = *settings;
        let first = GanConv::new(&(&path / 1), [inputs, features], 7, [1, 0], rng);
        let half = |level: usize| [features << level, features << (level + 1)];
        let down = DOWN.iter().enumerate();
        let down = down.map(|(level, &at)| (at, GanConv::new(&(&path / at), half(level), 3, [2, 1], rng))).collect();
        let width = features << DOWN.len();
        // Padding, convolution, norm, ReLU, (dropout), padding, convolution, norm.
        let places = [1, if dropout > 0.0 { 6 } else { 5 }];
        let blocks: Vec<Block> = (FIRST_BLOCK..FIRST_BLOCK + blocks)
            .map(|at| {
                let path = &path / at / "conv_block";
                let convs = places.map(|at| (at, GanConv::new(&(&path / at), [width; 2], 3, [1, 0], rng)));
                Block { name: format!("model.{at}.conv_block"), convs }
            })
            .collect();
        let after = FIRST_BLOCK + blocks.len();
        let up = (0..DOWN.len()).map(|step| {
            let at = after + 3 * step;
            let [outputs, inputs] = half(DOWN.len() - 1 - step);
            (at, GanConvTranspose::new(&(&path / at), [inputs, outputs], rng))
        });
        let up = up.collect();
        let at = after + 3 * DOWN.len() + 1;
        let last = (at, GanConv::new(&(&path / at), [features, 1], 7, [1, 0], rng));
        Self { first, down, blocks, up, last, settings: settings.clone() }
    }

    /// As [`Net::forward`]; with `dropout`, which draws what is dropped, as in training.
    pub fn run(&self, input: &Tensor, kind: Kind, mut dropout: Option<&mut Pcg64Mcg>) -> Tensor {
        let norm = self.settings.norm;
        let pad = |x: &Tensor, side: i64| x.reflection_pad2d([side; 4]);
        let mut x = channels_last(input).to_kind(kind);
        x = norm.forward(self.first.forward(&pad(&x, 3))).relu();
        for (_, conv) in &self.down {
            x = norm.forward(conv.forward(&x)).relu();
        }
        for Block { convs: [(_, a), (_, b)], .. } in &self.blocks {
            let mut y = norm.forward(a.forward(&pad(&x, 1))).relu();
            if let Some(rng) = dropout.as_deref_mut() {
                y = drop(&y, self.settings.dropout, rng);
            }
            // Not `+=`, which would overwrite what the gradient needs.
            x = norm.forward(b.forward(&pad(&y, 1))) + x;
        }
        for (_, conv) in &self.up {
            x = norm.forward(conv.forward(&x)).relu();
        }
        x = self.last.1.forward(&pad(&x, 3)).to_kind(Kind::Float);
        if self.settings.tanh {
            x = x.tanh();
        }
        if self.settings.residual { x + input } else { x }
    }
}

/// Sets this part of the values to 0 and enlarges the others to make up for it (Srivastava et al. 2014). One random byte
/// decides for each value. Drawn by `rng` and not by torch, whose generator is shared by all threads and is no part of a
/// checkpoint.
fn drop(x: &Tensor, part: f64, rng: &mut Pcg64Mcg) -> Tensor {
    let dropped = (part * 256.0).round();
    if dropped == 0.0 {
        return x.shallow_clone();
    }
    let mut bytes = vec![0u8; x.numel()];
    rng.fill_bytes(&mut bytes);
    let kept = Tensor::from_slice(&bytes).reshape(x.size()).to_device(x.device()).ge(dropped);
    x * kept.to_kind(x.kind()) * (256.0 / (256.0 - dropped))
}

impl Net for ResnetGenerator {
    fn forward(&self, input: &Tensor, _task: usize, kind: Kind) -> Tensor {
        self.run(input, kind, None)
    }

    fn export(&self, graph: &mut Graph, _task: usize, input: &str) -> String {
        let Settings { features, norm, .. } = self.settings;
        let normalised = |graph: &mut Graph, name: &str, x: &str, level: usize| {
            norm.export(graph, &format!("{name}.norm"), x, (features << level) as i64)
        };
        let pad_conv = |graph: &mut Graph, name: &str, conv: &GanConv, x: &str, side| {
            let x = graph.reflection_pad(x, side);
            conv.export(graph, name, &x)
        };
        let mut x = pad_conv(graph, "model.1", &self.first, input, 3);
        x = normalised(graph, "model.1", &x, 0);
        x = graph.relu(&x);
        for (level, (at, conv)) in self.down.iter().enumerate() {
            let name = format!("model.{at}");
            x = conv.export(graph, &name, &x);
            x = normalised(graph, &name, &x, level + 1);
            x = graph.relu(&x);
        }
        let levels = self.down.len();
        for Block { name, convs: [(at_a, a), (at_b, b)] } in &self.blocks {
            let name = |at| format!("{name}.{at}");
            let mut y = pad_conv(graph, &name(at_a), a, &x, 1);
            y = normalised(graph, &name(at_a), &y, levels);
            y = graph.relu(&y);
            y = pad_conv(graph, &name(at_b), b, &y, 1);
            y = normalised(graph, &name(at_b), &y, levels);
            x = graph.add(&x, &y);
        }
        for (step, (at, conv)) in self.up.iter().enumerate() {
            let name = format!("model.{at}");
            x = conv.export(graph, &name, &x);
            x = normalised(graph, &name, &x, levels - 1 - step);
            x = graph.relu(&x);
        }
        x = pad_conv(graph, &format!("model.{}", self.last.0), &self.last.1, &x, 3);
        if self.settings.tanh {
            x = graph.tanh(&x);
        }
        if self.settings.residual { graph.add(&x, input) } else { x }
    }

    fn channels(&self) -> usize {
        self.settings.inputs
    }

    /// Twice what the strides ask for: at quarter size, mirroring one pixel takes two.
    fn tile_multiple(&self) -> usize {
        2 << self.down.len()
    }
}
