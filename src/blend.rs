//! Outputs of tiles → one array. A [`Canvas`] adds what each tile keeps, weighted where neighbours overlap; the
//! weights sum to 1 ([`AxisTiling::weights`]), so nothing is left to divide.

use crate::tiling::AxisTiling;
use crate::zeros::zeros;
use crate::{Error, Result};

/// The output that tiles are put on: f32 samples in the order C, Z, Y, X.
#[derive(Debug)]
pub struct Canvas {
    /// Empty until the first tile comes.
    samples: Vec<f32>,
    len: usize,
    channels: usize,
    lengths: [usize; 3],
    scale: [usize; 3],
}

impl Canvas {
    /// An empty canvas for an input of `lengths` Z, Y, X pixels on a grid of `scale` output pixels per input pixel.
    pub fn new(channels: usize, lengths: [usize; 3], scale: [usize; 3]) -> Self {
        let lengths = [0, 1, 2].map(|axis| lengths[axis] * scale[axis]);
        let len = channels * lengths.iter().product::<usize>();
        Self { samples: Vec::new(), len, channels, lengths, scale }
    }

    /// Samples it holds.
    #[expect(clippy::len_without_is_empty, reason = "images are never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes the output of the only tile, which covers the whole canvas, for the samples: nothing is copied.
    ///
    /// # Panics
    /// Where its length is not that of the canvas.
    pub fn replace(&mut self, output: Vec<f32>) {
        assert_eq!(output.len(), self.len, "the tile is not the canvas");
        self.samples = output;
    }

    /// Adds the output of the tile `index` (one number per axis Z, Y, X of `tilings`): samples in the order C, Z, Y,
    /// X over the tile's whole read, of which the part to be kept is used.
    ///
    /// # Errors
    /// [`Error::Inference`] where the memory does not hold the canvas.
    pub fn add(&mut self, tilings: &[AxisTiling; 3], index: [usize; 3], output: &[f32]) -> Result<()> {
        let weights = [0, 1, 2].map(|axis| tilings[axis].weights(index[axis], self.scale[axis]));
        let spans = [0, 1, 2].map(|axis| &tilings[axis].spans[index[axis]]);
        let sides = [0, 1, 2].map(|axis| spans[axis].read.len() * self.scale[axis]);
        let write = [0, 1, 2].map(|a| spans[a].write.start * self.scale[a]..spans[a].write.end * self.scale[a]);
        let skip = [0, 1, 2].map(|a| write[a].start - spans[a].read.start * self.scale[a]);
        let plain = weights.iter().all(Option::is_none);
        if self.samples.is_empty() {
            self.samples =
                zeros(self.len).map_err(|_| Error::Inference(format!("no memory for {} samples", self.len)))?;
        }
        let weight = |axis: usize, i: usize| weights[axis].as_ref().map_or(1.0, |weights| weights[i]);
        for channel in 0..self.channels {
            for z in 0..write[0].len() {
                for y in 0..write[1].len() {
                    let from = ((channel * sides[0] + skip[0] + z) * sides[1] + skip[1] + y) * sides[2] + skip[2];
                    let row = (channel * self.lengths[0] + write[0].start + z) * self.lengths[1] + write[1].start + y;
                    let to = row * self.lengths[2] + write[2].start;
                    let source = &output[from..from + write[2].len()];
                    let target = &mut self.samples[to..to + write[2].len()];
                    if plain {
                        target.copy_from_slice(source);
                    } else {
                        let row_weight = weight(0, z) * weight(1, y);
                        for (x, (target, source)) in target.iter_mut().zip(source).enumerate() {
                            *target += row_weight * weight(2, x) * source;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The samples, in the order C, Z, Y, X, once there was a tile.
    pub fn into_samples(self) -> Vec<f32> {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiling::Constraint;

    /// Tiles cut from a known picture and put together again give the picture.
    #[test]
    fn tiles_of_a_picture_give_the_picture() {
        for (overlap, tile, scale) in [(0, 16, 1), (9, 16, 1), (5, 12, 2), (0, 400, 2), (15, 16, 1)] {
            let (y, x) = (37, 53);
            let constraint = Constraint { halo: 2, multiple: 4, fixed: None };
            let tilings = [
                AxisTiling::whole(1, Constraint { halo: 0, multiple: 1, fixed: None }),
                AxisTiling::new(y, tile, overlap, constraint),
                AxisTiling::new(x, tile, overlap, constraint),
            ];
            let value = |c: usize, row: usize, column: usize| (c * 7919 + row * 131 + column * 17) as f32;
            let mut canvas = Canvas::new(2, [1, y, x], [1, scale, scale]);
            for iy in 0..tilings[1].spans.len() {
                for ix in 0..tilings[2].spans.len() {
                    let (ry, rx) = (&tilings[1].spans[iy].read, &tilings[2].spans[ix].read);
                    let mut output = Vec::new();
                    for c in 0..2 {
                        for row in ry.start * scale..ry.end * scale {
                            output.extend((rx.start * scale..rx.end * scale).map(|column| value(c, row, column)));
                        }
                    }
                    canvas.add(&tilings, [0, iy, ix], &output).expect("memory");
                }
            }
            let samples = canvas.into_samples();
            for c in 0..2 {
                for row in 0..y * scale {
                    for column in 0..x * scale {
                        let found = samples[(c * y * scale + row) * x * scale + column];
                        assert!(
                            (found / value(c, row, column).max(1.0) - 1.0).abs() < 1e-5
                                || found == value(c, row, column)
                        );
                    }
                }
            }
        }
    }
}
