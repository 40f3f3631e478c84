//! CARE's U-Net (Weigert et al. 2018), as CSBDeep 0.8 builds it in two dimensions (`unet_block`): on every level two
//! convolutions with ReLU and a 2×2 maximum; below, two more; upwards, nearest-neighbour enlargement by 2, the level's
//! features beside it, two convolutions; last a linear 1×1 convolution, whose result is added to the input. Variables
//! are named as CSBDeep's layers. No layer takes statistics of the image, so the result does not depend on tiling.

use super::{Net, blocks::Conv, blocks::channels_last};
use crate::config;
use crate::onnx::Graph;
use rand_pcg::Pcg64Mcg;
use tch::{Kind, Tensor, nn};

/// A named convolution followed by ReLU.
type Layer = (String, Conv);

/// One channel in, one out, on the same grid.
#[derive(Debug)]
pub struct UNet {
    /// Two convolutions per level, the finest level first.
    down: Vec<[Layer; 2]>,
    middle: [Layer; 2],
    /// The coarsest level first.
    up: Vec<[Layer; 2]>,
    last: Conv,
    residual: bool,
}

impl UNet {
    /// Adds its variables to `path`; with several tasks, every convolution but the last has a gain and an offset for each.
    pub fn new(path: &nn::Path, settings: &config::Net, tasks: usize, rng: &mut Pcg64Mcg) -> Self {
        let config::Net { depth, features, widest, kernel, residual } = *settings;
        let width = |level: usize| (features << level).min(widest.unwrap_or(usize::MAX));
        let mut layer = |name: String, inputs, outputs| {
            let conv = Conv::new(&(path / &name), [inputs, outputs], kernel, tasks, rng);
            (name, conv)
        };
        let mut channels = 1;
        let mut pair = |[first, second]: [String; 2], extra: usize, outputs: [usize; 2]| {
            let pair = [layer(first, channels + extra, outputs[0]), layer(second, outputs[0], outputs[1])];
            channels = outputs[1];
            pair
        };
        let name = |part: &str, level| [0, 1].map(|number| format!("{part}_level_{level}_no_{number}"));
        let down = (0..depth).map(|level| pair(name("down", level), 0, [width(level); 2])).collect();
        let middle = pair(["middle_0".into(), "middle_1".into()], 0, [width(depth), width(depth - 1)]);
        let up = (0..depth)
            .rev()
            .map(|level| pair(name("up", level), width(level), [width(level), width(level.saturating_sub(1))]))
            .collect();
        let last = Conv::new(&(path / "last"), [channels, 1], 1, 1, rng);
        Self { down, middle, up, last, residual }
    }
}

impl Net for UNet {
    fn forward(&self, input: &Tensor, task: usize, kind: Kind) -> Tensor {
        let pair = |layers: &[Layer; 2], x: Tensor| layers.iter().fold(x, |x, (_, conv)| conv.forward(&x, task).relu());
        let mut skipped = Vec::new();
        let mut x = channels_last(input).to_kind(kind);
        for level in &self.down {
            x = pair(level, x);
            skipped.push(x.shallow_clone());
            x = x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false);
        }
        x = pair(&self.middle, x);
        for level in &self.up {
            let skip = skipped.pop().expect("as many levels up as down");
            let (_, _, height, width) = skip.size4().expect("features are N, C, Y, X");
            x = pair(level, Tensor::cat(&[x.upsample_nearest2d([height, width], 2.0, 2.0), skip], 1));
        }
        let output = self.last.forward(&x, task).to_kind(Kind::Float);
        if self.residual { output + input } else { output }
    }

    fn export(&self, graph: &mut Graph, task: usize, input: &str) -> String {
        let pair = |graph: &mut Graph, layers: &[Layer; 2], x: String| {
            layers.iter().fold(x, |x, (name, conv)| {
                let x = conv.export(graph, task, name, &x);
                graph.relu(&x)
            })
        };
        let mut skipped = Vec::new();
        let mut x = input.to_owned();
        for level in &self.down {
            x = pair(graph, level, x);
            skipped.push(x.clone());
            x = graph.max_pool(&x, 2);
        }
        x = pair(graph, &self.middle, x);
        for level in &self.up {
            let enlarged = graph.upsample_nearest(&x, 2);
            x = graph.concat(&[enlarged, skipped.pop().expect("as many levels up as down")]);
            x = pair(graph, level, x);
        }
        let output = self.last.export(graph, task, "last", &x);
        if self.residual { graph.add(&output, input) } else { output }
    }

    fn tile_multiple(&self) -> usize {
        1 << self.down.len()
    }
}
