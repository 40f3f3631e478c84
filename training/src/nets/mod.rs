//! Networks. Each describes itself twice, side by side: `forward` in tch, `export` in ONNX.

pub mod blocks;
pub mod patch_discriminator;
pub mod resnet_generator;
pub mod unet;
pub mod vgg16;

use crate::onnx::Graph;
use tch::{Kind, Tensor};

/// A network that maps an image to an image on the same grid.
pub trait Net {
    /// `input`: f32, N, C, Y, X, sides a multiple of [`Net::tile_multiple`]; convolutions run in `kind`; result f32.
    fn forward(&self, input: &Tensor, kind: Kind) -> Tensor;

    /// Appends the network to a graph; `input` and the result are names of tensors in it.
    fn export(&self, graph: &mut Graph, input: &str) -> String;

    /// Sides of the input must be a multiple of this.
    fn tile_multiple(&self) -> usize;
}
