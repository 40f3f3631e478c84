//! Networks. Each describes itself twice, side by side: `forward` in tch, `export` in ONNX.

pub mod blocks;
pub mod cin_generator;
pub mod patch_discriminator;
pub mod resnet_generator;
pub mod unet;
pub mod vgg16;

use crate::onnx::Graph;
use crate::pairs::Plane;
use tch::{Device, Kind, Tensor};

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

/// What `forward` makes of one plane of any size: padded to sides that are a multiple of `multiple`, then cropped.
pub fn on_plane(plane: &Plane, multiple: usize, device: Device, forward: impl FnOnce(&Tensor) -> Tensor) -> Plane {
    let padding = |length: usize| length.next_multiple_of(multiple) - length;
    let (bottom, right) = (padding(plane.y), padding(plane.x));
    let pads = [0, right as i64, 0, bottom as i64];
    let input = Tensor::from_slice(&plane.samples).reshape([1, 1, plane.y as i64, plane.x as i64]).to_device(device);
    // Reflection needs sides longer than the padding; tinier planes repeat their border.
    let input =
        if plane.y > bottom && plane.x > right { input.reflection_pad2d(pads) } else { input.replication_pad2d(pads) };
    let result = forward(&input).narrow(2, 0, plane.y as i64).narrow(3, 0, plane.x as i64);
    let mut samples = vec![0.0; plane.samples.len()];
    result.to_device(Device::Cpu).contiguous().reshape([-1]).copy_data(&mut samples, plane.samples.len());
    Plane { y: plane.y, x: plane.x, samples }
}
