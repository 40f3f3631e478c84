//! Networks. Each describes itself twice, side by side: `forward` in tch, `export` in ONNX.

pub mod blocks;
pub mod cin_generator;
pub mod patch_discriminator;
pub mod resnet_generator;
pub mod unet;
pub mod vgg16;

use crate::onnx::Graph;
use tch::{Kind, Tensor};

/// A network that maps an image to an image on the same grid. Several tasks may share it; `task` is an index among the
/// config's tasks, and a network of one task does not look at it.
pub trait Net {
    /// `input`: f32, N, C, Y, X, sides a multiple of [`Net::tile_multiple`]; convolutions run in `kind`; result f32,
    /// N, 1, Y, X.
    fn forward(&self, input: &Tensor, task: usize, kind: Kind) -> Tensor;

    /// Appends the network, as it is for this task, to a graph; `input` and the result are names of tensors in it.
    fn export(&self, graph: &mut Graph, task: usize, input: &str) -> String;

    /// Channels of the input.
    fn channels(&self) -> usize {
        1
    }

    /// Sides of the input must be a multiple of this.
    fn tile_multiple(&self) -> usize;
}
