//! A tile → the same in several orientations → the network → the mean of the results, each turned back: the
//! *self-ensemble* of Timofte et al. 2016 ("Seven ways to improve example-based single image super resolution"). A
//! network that was trained on flipped and turned images treats no orientation better than another, but does not make
//! quite the same of each; the mean is nearer to the truth.

use crate::network::{Network, RunOptions, Watch};
use crate::share::{PIECE, share};
use crate::zeros::zeros;
use crate::{Error, Result};
use ndarray::{ArrayView3, ArrayViewMut3, Axis};

/// Side of the blocks in which planes are turned: one of both lies column by column in memory.
const BLOCK: usize = 16;

/// What is done to rows and columns: first they may be exchanged, then reversed.
#[derive(Clone, Copy)]
pub(crate) struct Orientation {
    exchanged: bool,
    upside_down: bool,
    mirrored: bool,
}

const fn orientation(exchanged: bool, upside_down: bool, mirrored: bool) -> Orientation {
    Orientation { exchanged, upside_down, mirrored }
}

/// The image as it is, its flips, and those of the image with rows and columns exchanged.
const ALL: [Orientation; 8] = [
    orientation(false, false, false),
    orientation(false, false, true),
    orientation(false, true, false),
    orientation(false, true, true),
    orientation(true, false, false),
    orientation(true, false, true),
    orientation(true, true, false),
    orientation(true, true, true),
];

/// The image as it is.
pub(crate) const ONE: &[Orientation] = ALL.first_chunk::<1>().expect("there are eight");
/// Flips, for images whose rows and columns are not alike.
pub(crate) const FLIPS: &[Orientation] = ALL.first_chunk::<4>().expect("there are eight");
/// Flips and quarter turns.
pub(crate) const FLIPS_AND_TURNS: &[Orientation] = &ALL;

impl Orientation {
    /// Sides Z, Y, X of what has these sides.
    pub(crate) fn sides(self, [z, y, x]: [usize; 3]) -> [usize; 3] {
        if self.exchanged { [z, x, y] } else { [z, y, x] }
    }

    /// Planes, C·Z, Y, X, seen in this orientation.
    fn turned(self, mut planes: ArrayView3<'_, f32>) -> ArrayView3<'_, f32> {
        if self.exchanged {
            planes.swap_axes(1, 2);
        }
        self.reversed(planes)
    }

    /// What is in this orientation, seen as it was.
    fn turned_back(self, planes: ArrayView3<'_, f32>) -> ArrayView3<'_, f32> {
        let mut planes = self.reversed(planes);
        if self.exchanged {
            planes.swap_axes(1, 2);
        }
        planes
    }

    fn reversed(self, mut planes: ArrayView3<'_, f32>) -> ArrayView3<'_, f32> {
        for (reversed, axis) in [(self.upside_down, Axis(1)), (self.mirrored, Axis(2))] {
            if reversed {
                planes.invert_axis(axis);
            }
        }
        planes
    }
}

/// All planes of samples, C, Z, Y, X.
fn planes(samples: &[f32], [_, y, x]: [usize; 3]) -> ArrayView3<'_, f32> {
    ArrayView3::from_shape((samples.len() / (y * x), y, x), samples).expect("whole planes")
}

fn planes_mut(samples: &mut [f32], [_, y, x]: [usize; 3]) -> ArrayViewMut3<'_, f32> {
    ArrayViewMut3::from_shape((samples.len() / (y * x), y, x), samples).expect("whole planes")
}

/// Does `put` to each sample and the one at its place in `from`.
fn each(mut to: ArrayViewMut3<'_, f32>, from: ArrayView3<'_, f32>, threads: usize, put: fn(&mut f32, &f32)) {
    let threads = threads.min(to.len() / PIECE).max(1);
    let bands = to.axis_chunks_iter_mut(Axis(1), BLOCK).zip(from.axis_chunks_iter(Axis(1), BLOCK));
    share(bands, threads, |next| {
        while let Some((mut to, from)) = next() {
            let blocks = to.axis_chunks_iter_mut(Axis(2), BLOCK).zip(from.axis_chunks_iter(Axis(2), BLOCK));
            blocks.for_each(|(mut to, from)| to.zip_mut_with(&from, put));
        }
    });
}

/// Runs a tile, C, Z, Y, X, in each of these orientations, and returns the mean, whose sides are `scale` times the tile's.
///
/// # Errors
/// Those of [`Network::run_into`].
pub(crate) fn mean(
    network: &Network,
    orientations: &[Orientation],
    samples: &[f32],
    tile: [usize; 3],
    options: RunOptions,
    watch: &Watch,
) -> Result<Vec<f32>> {
    let scale = network.field().scale;
    let made = [0, 1, 2].map(|axis| tile[axis] * scale[axis]);
    let memory = |len: usize| zeros::<f32>(len).map_err(|_| Error::Inference(format!("no memory for {len} samples")));
    let (mut turned, mut output) = (memory(samples.len())?, Vec::new());
    let mut sum = memory(network.channels().1 * made.iter().product::<usize>())?;
    for orientation in orientations {
        let [there, made_there] = [tile, made].map(|sides| orientation.sides(sides));
        let from = orientation.turned(planes(samples, tile));
        each(planes_mut(&mut turned, there), from, options.threads, |to, from| *to = *from);
        network.run_into(&turned, there, &mut output, options, watch)?;
        if watch.stopped() {
            return Err(Error::Cancelled);
        }
        let from = orientation.turned_back(planes(&output, made_there));
        each(planes_mut(&mut sum, made), from, options.threads, |to, from| *to += *from);
    }
    let part = 1.0 / orientations.len() as f32;
    sum.iter_mut().for_each(|sample| *sample *= part);
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_turned_by_several_threads_can_be_turned_back() {
        let sides = [1, PIECE / 200, 2 * 200 + 1];
        let samples: Vec<f32> = (0..sides[1] * sides[2]).map(|index| index as f32).collect();
        let mut seen = Vec::new();
        for orientation in ALL {
            let there = orientation.sides(sides);
            let (mut turned, mut back) = (vec![0.0; samples.len()], vec![1.0; samples.len()]);
            let from = orientation.turned(planes(&samples, sides));
            each(planes_mut(&mut turned, there), from, 3, |to, from| *to = *from);
            let from = orientation.turned_back(planes(&turned, there));
            each(planes_mut(&mut back, sides), from, 3, |to, from| *to += *from - 1.0);
            assert!(back == samples, "{there:?}");
            assert!(!seen.contains(&turned), "the same as another");
            seen.push(turned);
        }
    }
}
