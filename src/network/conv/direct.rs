//! A convolution of stride 1 by its definition: C, Y, X in, C, Y, X out, all f32. The input rows under the kernel are
//! copied, with zeros around them, into a ring of rows in which all channels of a row lie together; the arithmetic
//! (`simd`) then meets no border, and reads a small piece of memory over and over instead of planes far apart. Wide
//! images are done in strips, so that the ring stays in the cache.

use super::simd::{Isa, MAX_LANES, Row};
use std::cell::RefCell;

/// Longest side of a kernel.
pub(super) const MAX_KERNEL: usize = 15;
/// Samples in the ring that leave a cache of 512 KiB room for the weights.
const RING_SAMPLES: usize = 1 << 16;
/// Narrowest strip: three vectors.
const MIN_STRIP: usize = 3 * MAX_LANES;

thread_local! {
    /// The ring, kept from one convolution to the next.
    static RING: RefCell<Vec<f32>> = const { RefCell::new(vec![]) };
}

/// Weights and bias, ready for one [`Isa`].
pub(super) struct Direct {
    isa: Isa,
    inputs: usize,
    /// Rows and columns of the kernel.
    kernel: [usize; 2],
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// Where a convolution's input and output lie relative to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Rows and columns.
    pub input: [usize; 2],
    /// Rows of zeros above the input, columns to its left.
    pub before: [usize; 2],
    /// Rows and columns; whatever the kernel then covers beyond the input is 0.
    pub output: [usize; 2],
}

impl Direct {
    /// `weights` in the order output channel, input channel, row, column.
    ///
    /// # Panics
    /// Where the lengths do not fit, or the kernel is longer than [`MAX_KERNEL`].
    pub(super) fn new(isa: Isa, inputs: usize, kernel: [usize; 2], weights: &[f32], bias: &[f32]) -> Self {
        let taps = inputs * kernel[0] * kernel[1];
        assert!(kernel.iter().all(|side| (1..=MAX_KERNEL).contains(side)), "kernel of {kernel:?}");
        assert_eq!(weights.len(), taps * bias.len(), "weights of {} channels", bias.len());
        let mut packed = Vec::with_capacity(weights.len());
        let mut channel = 0;
        while channel < bias.len() {
            let block = isa.block(bias.len() - channel);
            for tap in 0..taps {
                packed.extend((channel..channel + block).map(|channel| weights[channel * taps + tap]));
            }
            channel += block;
        }
        Self { isa, inputs, kernel, weights: packed, bias: bias.to_vec() }
    }

    pub(super) fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Convolves one image; every sample of `output` is written.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub(super) fn run(&self, geometry: Geometry, input: &[f32], output: &mut [f32], relu: bool) {
        let Geometry { input: [rows, columns], before: [above, left], output: [out_rows, out_columns] } = geometry;
        let [kernel_height, kernel_width] = self.kernel;
        assert_eq!(input.len(), self.inputs * rows * columns, "samples of {geometry:?}");
        assert_eq!(output.len(), self.outputs() * out_rows * out_columns, "results of {geometry:?}");
        if output.is_empty() {
            return;
        }
        let strip = strip(self.inputs, self.kernel, out_columns);
        let pitch = Row::pitch(strip, kernel_width);
        let slot = self.inputs * pitch;
        RING.with_borrow_mut(|ring| {
            let needed = ring_samples(self.inputs, self.kernel, out_columns);
            if ring.len() < needed {
                // Not `resize`: what was there need not be copied.
                *ring = Vec::new();
                *ring = vec![0.0; needed];
            }
            // Vectors of the first tap then lie in one line of the cache each.
            let skipped = ring.as_ptr().align_offset(4 * MAX_LANES).min(MAX_LANES);
            let ring = &mut ring[skipped..];
            for start in (0..out_columns).step_by(strip) {
                // Row r of the padded input is kept in slot r modulo the kernel's height.
                let load = |ring: &mut [f32], padded: usize| {
                    let into = &mut ring[padded % kernel_height * slot..][..slot];
                    match padded.checked_sub(above).filter(|&row| row < rows) {
                        Some(row) => {
                            for (channel, into) in into.chunks_exact_mut(pitch).enumerate() {
                                let from = &input[(channel * rows + row) * columns..][..columns];
                                copy_padded(from, start, left, into);
                            }
                        }
                        None => into.fill(0.0),
                    }
                };
                for padded in 0..kernel_height - 1 {
                    load(ring, padded);
                }
                for y in 0..out_rows {
                    load(ring, y + kernel_height - 1);
                    let mut under = [&[] as &[f32]; MAX_KERNEL];
                    for (k, row) in under[..kernel_height].iter_mut().enumerate() {
                        *row = &ring[(y + k) % kernel_height * slot..][..slot];
                    }
                    Row {
                        isa: self.isa,
                        rows: &under[..kernel_height],
                        channels: self.inputs,
                        pitch,
                        kernel_width,
                        weights: &self.weights,
                        bias: &self.bias,
                        relu,
                        columns: strip.min(out_columns - start),
                        plane: out_rows * out_columns,
                    }
                    .compute(&mut output[y * out_columns + start..]);
                }
            }
        });
    }
}

/// Columns done at once.
fn strip(inputs: usize, kernel: [usize; 2], columns: usize) -> usize {
    let most = (RING_SAMPLES / (inputs * kernel[0]).max(1)).max(MIN_STRIP);
    let strips = columns.div_ceil(most).max(1);
    columns.div_ceil(strips).next_multiple_of(MIN_STRIP)
}

/// Samples of the ring for an output of so many columns.
fn ring_samples(inputs: usize, kernel: [usize; 2], columns: usize) -> usize {
    let slot = inputs.saturating_mul(Row::pitch(strip(inputs, kernel, columns), kernel[1]));
    kernel[0].saturating_mul(slot).saturating_add(MAX_LANES)
}

/// Bytes that a thread keeps for such a convolution, beside input and output.
pub(super) fn scratch_bytes(inputs: usize, kernel: [usize; 2], columns: usize) -> u64 {
    4 * ring_samples(inputs, kernel, columns) as u64
}

/// Fills `into` with `from` after `left` zeros, from column `start` of that on, and with zeros after it.
fn copy_padded(from: &[f32], start: usize, left: usize, into: &mut [f32]) {
    let zeros = left.saturating_sub(start).min(into.len());
    let first = start.saturating_sub(left).min(from.len());
    let (before, rest) = into.split_at_mut(zeros);
    let copied = rest.len().min(from.len() - first);
    before.fill(0.0);
    rest[..copied].copy_from_slice(&from[first..][..copied]);
    rest[copied..].fill(0.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    /// What a convolution is, sample by sample.
    fn oracle(
        geometry: Geometry,
        kernel: [usize; 2],
        input: &[f32],
        weights: &[f32],
        bias: &[f32],
        relu: bool,
    ) -> Vec<f64> {
        let Geometry { input: [rows, columns], before, output: [out_rows, out_columns] } = geometry;
        let inputs = input.len() / (rows * columns);
        let mut result = vec![];
        for (o, bias) in bias.iter().enumerate() {
            for y in 0..out_rows {
                for x in 0..out_columns {
                    let mut sum = f64::from(*bias);
                    for i in 0..inputs {
                        for (ky, kx) in (0..kernel[0]).flat_map(|ky| (0..kernel[1]).map(move |kx| (ky, kx))) {
                            let (row, column) = ((y + ky).wrapping_sub(before[0]), (x + kx).wrapping_sub(before[1]));
                            if row < rows && column < columns {
                                let weight = weights[((o * inputs + i) * kernel[0] + ky) * kernel[1] + kx];
                                sum += f64::from(weight) * f64::from(input[(i * rows + row) * columns + column]);
                            }
                        }
                    }
                    result.push(if relu { sum.max(0.0) } else { sum });
                }
            }
        }
        result
    }

    fn check(random: &mut Pcg64, geometry: Geometry, inputs: usize, outputs: usize, kernel: [usize; 2], relu: bool) {
        let mut noise = |n: usize| (0..n).map(|_| random.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let input = noise(inputs * geometry.input[0] * geometry.input[1]);
        let (weights, bias) = (noise(outputs * inputs * kernel[0] * kernel[1]), noise(outputs));
        let expected = oracle(geometry, kernel, &input, &weights, &bias, relu);
        let range = expected.iter().fold(1.0_f64, |range, x| range.max(x.abs()));
        // Rounding errors of a sum add up like a random walk.
        let tolerance = 2e-7 * range * ((inputs * kernel[0] * kernel[1]) as f64).sqrt();
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_here()) {
            let direct = Direct::new(isa, inputs, kernel, &weights, &bias);
            // What is not written stays NaN.
            let mut found = vec![f32::NAN; expected.len()];
            direct.run(geometry, &input, &mut found, relu);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let close = (f64::from(*found) - expected).abs() <= tolerance;
                assert!(
                    close,
                    "{isa:?}, {inputs} to {outputs} channels, {kernel:?}, {geometry:?}, sample {i}: {found}, expected \
                     {expected}"
                );
            }
        }
    }

    #[test]
    fn random_shapes_agree_with_the_definition() {
        let mut random = Pcg64::seed_from_u64(4);
        for case in 0..150 {
            let kernel = match case % 5 {
                0..=2 => [3, 3],
                3 => [1, 1],
                _ => [random.random_range(1..=7), random.random_range(1..=7)],
            };
            let channels = |random: &mut Pcg64| {
                let most = if random.random_range(0..4) == 0 { 67 } else { 13 };
                random.random_range(1..=most)
            };
            let (inputs, outputs) = (channels(&mut random), channels(&mut random));
            let input = [random.random_range(1..=9), random.random_range(1..=if case % 10 == 0 { 150 } else { 30 })];
            let mut geometry = Geometry { input, before: kernel.map(|side| (side - 1) / 2), output: input };
            if case % 4 == 3 {
                // Any padding, also more of it than the kernel is long.
                geometry.before = [random.random_range(0..6), random.random_range(0..6)];
                let after: [usize; 2] = [random.random_range(0..6), random.random_range(0..6)];
                geometry.output = [0, 1]
                    .map(|axis| (input[axis] + geometry.before[axis] + after[axis] + 1).saturating_sub(kernel[axis]));
            }
            check(&mut random, geometry, inputs, outputs, kernel, case % 2 == 0);
        }
    }

    #[test]
    fn strips_join_without_a_seam() {
        let mut random = Pcg64::seed_from_u64(5);
        for (inputs, columns) in [(400, 200), (1500, 97), (64, 700)] {
            let geometry = Geometry { input: [3, columns], before: [1, 1], output: [3, columns] };
            assert!(strip(inputs, [3, 3], columns) < columns, "one strip only");
            check(&mut random, geometry, inputs, 3, [3, 3], false);
        }
    }

    #[test]
    fn one_pixel() {
        let mut random = Pcg64::seed_from_u64(6);
        for kernel in [[1, 1], [3, 3], [15, 15]] {
            let geometry = Geometry { input: [1, 1], before: kernel.map(|side| side / 2), output: [1, 1] };
            check(&mut random, geometry, 67, 67, kernel, true);
        }
    }

    #[test]
    fn nan_stays_nan() {
        let geometry = Geometry { input: [1, 5], before: [0, 0], output: [1, 5] };
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_here()) {
            let mut found = [0.0; 5];
            Direct::new(isa, 1, [1, 1], &[1.0], &[0.0]).run(
                geometry,
                &[1.0, f32::NAN, -1.0, f32::INFINITY, f32::NEG_INFINITY],
                &mut found,
                true,
            );
            assert!(found[1].is_nan(), "{isa:?}: {found:?}");
            assert_eq!([found[0], found[2], found[3], found[4]], [1.0, 0.0, f32::INFINITY, 0.0], "{isa:?}");
        }
    }
}
