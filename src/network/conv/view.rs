//! Where the samples of a tensor lie while a program runs, and the simple operators on them: copies, pooling,
//! enlarging, sums and activations, one row at a time.
//!
//! A row holds all channels of the pixels of one image row: blocks of `lanes` channels; in a block pixel after pixel,
//! and of each pixel its `lanes` channels side by side. With one lane that is one plane row after the other. Lanes
//! beyond the last channel hold zeros or rubbish that meets weights of zero. On either side of a row lies a margin of
//! zeros, so that windows meet no border. Of a tensor inside a program only as many rows are kept as are needed at
//! once: row y lies in slot y modulo `slots`.

use super::simd::{Kernel, Vector};
use std::ops::Range;

/// A tensor in memory.
#[derive(Clone, Copy)]
pub(super) struct View {
    /// Row 0, block 0, first pixel behind the margin.
    pub base: *mut f32,
    pub slots: usize,
    /// Rows and columns of the whole tensor.
    pub size: [usize; 2],
    pub channels: usize,
    pub lanes: usize,
    /// Samples from one slot to the next.
    pub row_stride: usize,
    /// Samples from one block of channels to the next.
    pub block_stride: usize,
}

impl View {
    pub(super) fn blocks(&self) -> usize {
        self.channels.div_ceil(self.lanes)
    }

    /// First pixel of a row of the tensor.
    #[inline(always)]
    pub(super) fn row(&self, y: usize) -> *mut f32 {
        self.base.wrapping_add(y % self.slots * self.row_stride)
    }

    /// The same, and zeros beyond the first and last row.
    #[inline(always)]
    pub(super) fn row_or(&self, y: isize, zeros: *const f32) -> *const f32 {
        match usize::try_from(y) {
            Ok(y) if y < self.size[0] => self.row(y),
            _ => zeros,
        }
    }
}

/// What follows the sum of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    None,
    Relu,
    /// Negative values times this.
    Leaky(f32),
    Tanh,
    Sigmoid,
}

impl Activation {
    /// Whether a kernel may apply it to its sums.
    pub(super) fn is_simple(self) -> bool {
        matches!(self, Self::None | Self::Relu | Self::Leaky(_))
    }

    /// Of a vector, for the simple ones.
    ///
    /// # Safety
    /// The contract of [`Vector`].
    #[inline(always)]
    pub(super) unsafe fn apply<V: Vector>(self, value: V) -> V {
        // SAFETY: as the caller promises.
        unsafe {
            match self {
                Self::Relu => value.max(V::splat(0.0)),
                Self::Leaky(slope) => {
                    let zero = V::splat(0.0);
                    value.min(zero).times_plus(V::splat(slope), value.max(zero))
                }
                _ => value,
            }
        }
    }

    /// Of many samples; a loop for each kind, as compilers make vectors of such.
    #[inline(always)]
    pub(super) fn apply_all(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Relu => values.iter_mut().for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value }),
            Self::Leaky(slope) => {
                values.iter_mut().for_each(|value| *value = if *value < 0.0 { *value * slope } else { *value });
            }
            Self::Tanh => values.iter_mut().for_each(|value| *value = tanh(*value)),
            Self::Sigmoid => values.iter_mut().for_each(|value| *value = sigmoid(*value)),
        }
    }
}

/// e to the power of a number that is not positive, or NaN: 2ⁿ eʳ with |r| ≤ ln 2 / 2 and a series for eʳ. Without calls
/// and branches, so that compilers make vectors of it.
#[inline(always)]
fn decay(x: f32) -> f32 {
    /// What is added to a small number leaves its whole part in the last bits.
    const WHOLE: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which whole multiples of the first are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Below this a number would no longer be normal; NaN stays what it is.
    let x = if x < -87.0 { -87.0 } else { x };
    let n = x * std::f32::consts::LOG2_E + WHOLE;
    let power = f32::from_bits((n.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let n = n - WHOLE;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let mut sum = 1.0;
    for k in [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0] {
        sum = sum * r * (1.0 / k) + 1.0;
    }
    sum * power
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    let t = decay(-2.0 * x.abs());
    ((1.0 - t) / (1.0 + t)).copysign(x)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let t = decay(-x.abs());
    let part = 1.0 / (1.0 + t);
    if x < 0.0 { t * part } else { part }
}

/// Copies columns of row `y`, from whatever lanes to whatever lanes.
///
/// # Safety
/// Both views are valid and of the same size and channels.
pub(super) unsafe fn copy_row(from: &View, to: &View, y: usize, columns: Range<usize>, first: usize) {
    // SAFETY: all samples lie within row y of their views.
    unsafe {
        for channel in 0..from.channels {
            let into = channel + first;
            let source = from.row(y).add(channel / from.lanes * from.block_stride + channel % from.lanes);
            let target = to.row(y).add(into / to.lanes * to.block_stride + into % to.lanes);
            if from.lanes == 1 && to.lanes == 1 {
                source.add(columns.start).copy_to_nonoverlapping(target.add(columns.start), columns.len());
                continue;
            }
            for x in columns.clone() {
                *target.add(x * to.lanes) = *source.add(x * from.lanes);
            }
        }
    }
}

/// The largest of each 2 by 2 pixels of one or two planes. All views are valid, of the same channels and lanes, `planes`
/// of twice the size at least.
pub(super) struct HalveRow<'a> {
    pub planes: &'a [View],
    pub to: &'a View,
    pub y: usize,
    pub columns: Range<usize>,
}

impl Kernel for HalveRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { planes, to, y, columns } = self;
        // SAFETY: rows 2y and 2y + 1 and columns to twice the result's are there.
        unsafe {
            for block in 0..to.blocks() {
                let target = to.row(y).add(block * to.block_stride);
                let mut rows = [[target; 2]; 2];
                for (rows, from) in rows.iter_mut().zip(planes) {
                    *rows = [2 * y, 2 * y + 1].map(|y| from.row(y).wrapping_add(block * from.block_stride));
                }
                let rows = &rows.as_flattened()[..2 * planes.len()];
                for x in columns.clone() {
                    let (left, right) = (2 * x * to.lanes, (2 * x + 1) * to.lanes);
                    if to.lanes == V::LANES {
                        let mut most = V::load(rows[0].add(left));
                        for row in rows {
                            most = V::load(row.add(left)).max(most).max(V::load(row.add(right)));
                        }
                        most.store(target.add(x * V::LANES));
                    } else {
                        let mut most = *rows[0].add(left);
                        for row in rows {
                            most = most.max(*row.add(left)).max(*row.add(right));
                        }
                        *target.add(x) = most;
                    }
                }
            }
        }
    }
}

/// Every pixel becomes 2 by 2; `columns` are those of the result. Both views are valid, of the same channels and lanes,
/// `to` of twice the size.
pub(super) struct DoubleRow<'a> {
    pub from: &'a View,
    pub to: &'a View,
    pub y: usize,
    pub columns: Range<usize>,
}

impl Kernel for DoubleRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { from, to, y, columns } = self;
        // SAFETY: row y / 2 is there, and each of its pixels has room twice.
        unsafe {
            for block in 0..from.blocks() {
                let source = from.row(y / 2).add(block * from.block_stride);
                let target = to.row(y).add(block * to.block_stride);
                for x in columns.clone() {
                    if to.lanes == V::LANES {
                        V::load(source.add(x / 2 * V::LANES)).store(target.add(x * V::LANES));
                    } else {
                        *target.add(x) = *source.add(x / 2);
                    }
                }
            }
        }
    }
}

/// The sum of two tensors, or one alone, with an activation. All views are valid, of the same size, channels and lanes.
pub(super) struct MapRow<'a> {
    pub from: &'a [View],
    pub to: &'a View,
    pub y: usize,
    pub columns: Range<usize>,
    pub activation: Activation,
}

impl Kernel for MapRow<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { from, to, y, columns, activation } = self;
        let (a, b) = (&from[0], from.get(1));
        // SAFETY: all samples lie within row y of their views.
        unsafe {
            for block in 0..to.blocks() {
                let first = a.row(y).add(block * a.block_stride);
                let second = b.map(|b| b.row(y).add(block * b.block_stride));
                let target = to.row(y).add(block * to.block_stride);
                let samples = columns.end * to.lanes;
                let mut i = columns.start * to.lanes;
                while activation.is_simple() && i + V::LANES <= samples {
                    let mut value = V::load(first.add(i));
                    if let Some(second) = second {
                        value = value.plus(V::load(second.add(i)));
                    }
                    activation.apply(value).store(target.add(i));
                    i += V::LANES;
                }
                for rest in i..samples {
                    *target.add(rest) = *first.add(rest) + second.map_or(0.0, |second| *second.add(rest));
                }
                activation.apply_all(std::slice::from_raw_parts_mut(target.add(i), samples - i));
            }
        }
    }
}

/// The tensor with its border rows and columns reflected outward.
///
/// # Safety
/// Both views are valid, of the same channels and lanes; `to` is larger by the padding, of which there are at most as
/// many pixels as `from` has beside its border.
pub(super) unsafe fn reflect_row(from: &View, to: &View, y: usize, columns: Range<usize>, before: [usize; 2]) {
    let row = reflected(y, before[0], from.size[0]);
    // SAFETY: reflected positions lie inside `from`.
    unsafe {
        for block in 0..from.blocks() {
            let source = from.row(row).add(block * from.block_stride);
            let target = to.row(y).add(block * to.block_stride);
            for x in columns.clone() {
                let column = reflected(x, before[1], from.size[1]);
                source.add(column * from.lanes).copy_to_nonoverlapping(target.add(x * to.lanes), to.lanes);
            }
        }
    }
}

/// Which position of an axis stands at `at` of the padded axis.
pub(super) fn reflected(at: usize, before: usize, length: usize) -> usize {
    let inside = at.abs_diff(before);
    inside.min((2 * (length - 1)).saturating_sub(inside))
}
