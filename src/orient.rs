//! A tile → the same in several orientations → the network → the mean of the results, each turned back: the
//! *self-ensemble* of Timofte et al. 2016 ("Seven ways to improve example-based single image super resolution"). A
//! network that was trained on flipped and turned images treats no orientation better than another, but does not make
//! quite the same of each; the mean is nearer to the truth.

use crate::network::{Network, RunOptions, Watch};
use crate::zeros::zeros;
use crate::{Error, Result};

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

    /// Where each sample of a plane of Y, X samples goes: pairs of its place and that in this orientation.
    fn places(self, [y, x]: [usize; 2]) -> impl Iterator<Item = (usize, usize)> {
        let [_, rows, columns] = self.sides([1, y, x]);
        (0..y).flat_map(move |i| {
            (0..x).map(move |j| {
                let [row, column] = if self.exchanged { [j, i] } else { [i, j] };
                let row = if self.upside_down { rows - 1 - row } else { row };
                let column = if self.mirrored { columns - 1 - column } else { column };
                (i * x + j, row * columns + column)
            })
        })
    }
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
    let [_, y, x] = tile;
    let scale = network.field().scale;
    let made = [y * scale[1], x * scale[2]];
    let planes = |len: usize| zeros::<f32>(len).map_err(|_| Error::Inference(format!("no memory for {len} samples")));
    let (mut turned, mut output) = (planes(samples.len())?, Vec::new());
    let mut sum = planes(network.channels().1 * tile[0] * scale[0] * made[0] * made[1])?;
    for orientation in orientations {
        for (from, to) in samples.chunks_exact(y * x).zip(turned.chunks_exact_mut(y * x)) {
            orientation.places([y, x]).for_each(|(at, place)| to[place] = from[at]);
        }
        network.run_into(&turned, orientation.sides(tile), &mut output, options, watch)?;
        if watch.stopped() {
            return Err(Error::Cancelled);
        }
        for (from, to) in output.chunks_exact(made[0] * made[1]).zip(sum.chunks_exact_mut(made[0] * made[1])) {
            orientation.places(made).for_each(|(at, place)| to[at] += from[place]);
        }
    }
    let part = 1.0 / orientations.len() as f32;
    sum.iter_mut().for_each(|sample| *sample *= part);
    Ok(sum)
}
