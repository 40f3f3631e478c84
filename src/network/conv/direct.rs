//! Convolutions by their definition, for every kernel, stride and dilation: one output row at a time, in two ways.
//!
//! *Spread*: a register tile of pixels by vectors of output channels is kept while all taps and input channels are
//! added to it; each input sample is spread over a vector and meets a vector of weights. *Gathered*: for results of a
//! few channels, which lie in planes, vectors run along the input channels and are summed up at the end. Inputs in
//! planes and results in planes are left to a plain loop: no network has many such.
//!
//! A transposed convolution of stride s is s² ordinary ones, each of which makes every s-th pixel of every s-th row.
//! *Paired*: where the stride is 2 and four columns of taps are gathered, the two that share a row are made together, as
//! their windows share two of three columns of the input.

use super::samples::Samples;
use super::simd::{Isa, Kernel, SUMS, VECTORS, Vector, fetch};
use super::view::{Activation, View};
use std::sync::Arc;

/// A window that slides over an image, along Y and X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Zeros before the first pixel; negative where the first pixels are skipped.
    pub before: [isize; 2],
}

impl Window {
    /// First input position under the window of output `at`.
    pub(super) fn first(&self, axis: usize, at: usize) -> isize {
        (at * self.stride[axis]) as isize - self.before[axis]
    }

    /// Position after the last one under it.
    pub(super) fn end(&self, axis: usize, at: usize) -> isize {
        let last = self.kernel[axis].saturating_sub(1) * self.dilation[axis];
        self.first(axis, at) + last as isize + 1
    }
}

/// Where results go: every `step`-th pixel from `first` on, `count` of them.
#[derive(Clone, Copy)]
pub(super) struct Pixels {
    pub row: usize,
    pub first: usize,
    pub step: usize,
    pub count: usize,
}

/// Weights and bias, packed.
#[derive(Clone, PartialEq)]
pub(super) struct Direct {
    /// That it is packed for.
    isa: Isa,
    pub window: Window,
    /// Channels of each source.
    inputs: Vec<usize>,
    pub outputs: usize,
    /// Whether the result lies in planes.
    gathered: bool,
    /// Whether a window has two results, side by side: the first of its columns 0 and 1, the second of 1 and 2.
    paired: bool,
    /// Spread: [group of up to `VECTORS` vectors of outputs][row][source and its channel][column][output];
    /// gathered: [output][row][source and its block of channels][column][lane]; plain: as gathered, one lane; paired: as
    /// gathered, [result][its column] in the place of columns.
    weights: Arc<Samples>,
    bias: Vec<f32>,
    pub activation: Activation,
}

/// The pixels of a transposed convolution whose position leaves `at` of the stride; where they are paired, all of a row.
#[derive(Clone, PartialEq)]
pub(super) struct Phase {
    pub at: [usize; 2],
    pub direct: Direct,
}

/// Most channels of a tensor that lies in planes.
pub(super) const MOST_PLANES: usize = 4;
/// Most pixels of a register tile: compilers spread the inputs of all before they multiply, which takes a register each.
const MOST_PIXELS: usize = 8;
/// Pixels that are summed up together by gathering.
const GATHERED: usize = SUMS;
/// Columns of a window of two results.
const PAIRED: usize = 3;
/// Most rows under a window, of all sources together.
pub(super) const MOST_ROWS: usize = 128;
/// Pixels whose sums go through the activation together.
const ACTIVATED: usize = 8 * GATHERED;

/// Lanes of a tensor of so many channels.
pub(super) fn lanes_of(isa: Isa, channels: usize) -> usize {
    if channels <= MOST_PLANES { 1 } else { isa.lanes() }
}

impl Direct {
    /// `weights` in the order output, input channel, row, column, the inputs being those of all sources in turn.
    pub(super) fn new(isa: Isa, window: Window, inputs: &[usize], weights: &[f32], bias: &[f32]) -> Self {
        let [height, width] = window.kernel;
        assert!(height * inputs.len() <= MOST_ROWS, "rows under a window");
        let channels: usize = inputs.iter().sum();
        let outputs = bias.len();
        assert_eq!(weights.len(), outputs * channels * height * width, "weights of {outputs} by {channels}");
        let weight = |output: usize, channel: usize, ky: usize, kx: usize| {
            weights[((output * channels + channel) * height + ky) * width + kx]
        };
        let gathered = lanes_of(isa, outputs) == 1;
        let lanes = isa.lanes();
        let mut packed = vec![];
        let mut bias = bias.to_vec();
        if gathered {
            for output in 0..outputs {
                for ky in 0..height {
                    let mut start = 0;
                    for &count in inputs {
                        let lanes = lanes_of(isa, count);
                        for first in (0..count).step_by(lanes) {
                            for kx in 0..width {
                                packed.extend((first..first + lanes).map(|channel| {
                                    if channel < count { weight(output, start + channel, ky, kx) } else { 0.0 }
                                }));
                            }
                        }
                        start += count;
                    }
                }
            }
        } else {
            bias.resize(outputs.next_multiple_of(lanes), 0.0);
            for group in (0..bias.len()).step_by(VECTORS * lanes) {
                let group = group..(group + VECTORS * lanes).min(bias.len());
                for ky in 0..height {
                    for channel in 0..channels {
                        for kx in 0..width {
                            packed.extend(
                                group.clone().map(
                                    |output| {
                                        if output < outputs { weight(output, channel, ky, kx) } else { 0.0 }
                                    },
                                ),
                            );
                        }
                    }
                }
            }
        }
        let inputs = inputs.to_vec();
        let weights = Arc::new(packed.as_slice().into());
        Self { isa, window, inputs, outputs, gathered, paired: false, weights, bias, activation: Activation::None }
    }

    /// Two results of few channels at each window of three columns. `weights` in the order output, input channel, row,
    /// result, its column.
    fn paired(isa: Isa, window: Window, inputs: &[usize], weights: &[f32], bias: &[f32]) -> Self {
        let [height, width] = window.kernel;
        assert_eq!((width, lanes_of(isa, bias.len())), (PAIRED, 1), "columns, and lanes of the result");
        let taps = Window { kernel: [height, 2 * (PAIRED - 1)], ..window };
        Self { window, paired: true, ..Self::new(isa, taps, inputs, weights, bias) }
    }

    /// Results of each window along X.
    pub(super) fn results(&self) -> usize {
        1 + usize::from(self.paired)
    }

    /// Input columns from the first of a row to the last that is read for so many windows, rounded up to whole tiles.
    pub(super) fn reach(&self, count: usize) -> isize {
        let pixels =
            if self.gathered { GATHERED / self.results() } else { self.isa.register_tile().0.min(MOST_PIXELS) };
        self.window.end(1, count.next_multiple_of(pixels).max(1) - 1)
    }

    /// Computes results of the row `y` of windows, from window `start` along X on.
    ///
    /// # Safety
    /// The instructions are there. The views are valid and of the lanes that [`lanes_of`] says; their margins cover what
    /// whole tiles of windows read beyond the image; the rows that the row needs are there.
    pub(super) unsafe fn compute(
        &self,
        sources: &[View],
        to: &View,
        zeros: *const f32,
        y: usize,
        start: usize,
        pixels: Pixels,
    ) {
        let isa = self.isa;
        let (top, lanes) = (self.window.first(0, y), to.lanes);
        // Looked up once: it takes divisions.
        let mut rows = [zeros; MOST_ROWS];
        for (ky, rows) in rows.chunks_exact_mut(sources.len()).take(self.window.kernel[0]).enumerate() {
            for (row, source) in rows.iter_mut().zip(sources) {
                *row = source.row_or(top + (ky * self.window.dilation[0]) as isize, zeros);
            }
        }
        let rows = &rows[..self.window.kernel[0] * sources.len()];
        let row = |output: usize| {
            let out = to.row(pixels.row).wrapping_add(output / lanes * to.block_stride + pixels.first * lanes);
            Row { direct: self, sources, rows, output, start, out, to_block: to.block_stride, pixels }
        };
        // SAFETY: as the caller promises.
        unsafe {
            if self.gathered {
                let vectors = sources.iter().all(|source| source.lanes == isa.lanes());
                // A number of neighbouring taps that is constant makes better code.
                let neighbours = self.window.stride[1] == 1 && self.window.dilation[1] == 1;
                for output in 0..self.outputs {
                    match self.window.kernel[1] {
                        _ if !vectors => isa.run(Plain(row(output))),
                        _ if self.paired => isa.run(Paired(row(output))),
                        2 if neighbours => isa.run(Gathered::<2>(row(output))),
                        3 if neighbours => isa.run(Gathered::<3>(row(output))),
                        5 if neighbours => isa.run(Gathered::<5>(row(output))),
                        7 if neighbours => isa.run(Gathered::<7>(row(output))),
                        _ => isa.run(Gathered::<0>(row(output))),
                    }
                }
                return;
            }
            let mut output = 0;
            while output < self.bias.len() {
                let vectors = ((self.bias.len() - output) / lanes).min(VECTORS);
                match vectors {
                    VECTORS => isa.run(Spread::<VECTORS>(row(output))),
                    _ => isa.run(Spread::<1>(row(output))),
                }
                output += vectors * lanes;
            }
        }
    }
}

/// A transposed convolution; `window.before` pixels of its result are cut off. Output o gets taps k of input i where
/// o = i stride + k − before, so that outputs of one remainder see every stride-th tap, in reverse: an ordinary
/// convolution each. `weights` in the order output, input channel, row, column.
pub(super) fn transposed(isa: Isa, window: Window, inputs: &[usize], weights: &[f32], bias: &[f32]) -> Vec<Phase> {
    let Window { kernel, stride, before, .. } = window;
    // Of each remainder of o + before: first output, inputs before that of its first tap, and taps in the order of
    // their inputs.
    let phases = |axis: usize| {
        let (kernel, stride, before) = (kernel[axis], stride[axis], before[axis].unsigned_abs());
        let phase = |remainder: usize| {
            let taps: Vec<usize> = (remainder..kernel).step_by(stride).rev().collect();
            let first = before.saturating_sub(remainder).div_ceil(stride);
            (first * stride + remainder - before, taps.len() as isize - 1 - first as isize, taps)
        };
        let mut phases: Vec<_> = (0..stride).map(phase).collect();
        phases.sort_unstable();
        phases
    };
    let [rows, mut columns] = [phases(0), phases(1)];
    // With an even number before, both would see the same columns.
    let paired = (stride[1], kernel[1], before[1] % 2) == (2, 4, 1)
        && lanes_of(isa, bias.len()) == 1
        && inputs.iter().all(|&channels| lanes_of(isa, channels) > 1);
    if paired {
        let (_, _, taps) = columns.remove(1);
        columns[0].2.extend(taps);
    }
    let mut list = vec![];
    for (at_y, before_y, rows) in &rows {
        for (at_x, before_x, columns) in &columns {
            let mut part = vec![];
            for weights in weights.chunks(kernel[0] * kernel[1]) {
                for row in rows {
                    part.extend(columns.iter().map(|column| weights[row * kernel[1] + column]));
                }
            }
            let width = if paired { PAIRED } else { columns.len() };
            let window = Window {
                kernel: [rows.len(), width],
                stride: [1, 1],
                dilation: [1, 1],
                before: [*before_y, *before_x],
            };
            let new = if paired { Direct::paired } else { Direct::new };
            list.push(Phase { at: [*at_y, *at_x], direct: new(isa, window, inputs, &part, bias) });
        }
    }
    list
}

/// What a kernel makes: one row of the result, of an output channel or of a group of them.
struct Row<'a> {
    direct: &'a Direct,
    sources: &'a [View],
    /// The input rows under the windows, of each those of all sources.
    rows: &'a [*const f32],
    /// First output channel.
    output: usize,
    /// First window.
    start: usize,
    /// Where its result goes, and samples from one vector of channels to the next.
    out: *mut f32,
    to_block: usize,
    pixels: Pixels,
}

/// By vectors of input channels. `WIDTH` is the number of taps in a row, if these are neighbours and so are the pixels:
/// then compilers load each input once for all of them. Otherwise it is 0.
struct Gathered<'a, const WIDTH: usize>(Row<'a>);

impl<const WIDTH: usize> Kernel for Gathered<'_, WIDTH> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: as the caller of `compute` promises.
        self.0.gather(|done| unsafe { self.sums::<V>(self.0.start + done) });
    }
}

impl Row<'_> {
    /// Writes the results, `GATHERED` at a time: `sums` has so many from a number on.
    #[inline(always)]
    fn gather(&self, sums: impl Fn(usize) -> [f32; GATHERED]) {
        let Row { direct, out, pixels, .. } = *self;
        for done in (0..pixels.count).step_by(ACTIVATED) {
            let count = (pixels.count - done).min(ACTIVATED);
            let mut values = [0.0; ACTIVATED];
            for (group, values) in values.as_chunks_mut().0.iter_mut().enumerate() {
                if group * GATHERED >= count {
                    break;
                }
                *values = sums(done + group * GATHERED);
            }
            direct.activation.apply_all(&mut values);
            for (p, value) in values[..count].iter().enumerate() {
                // SAFETY: as the caller of `compute` promises.
                unsafe { *out.add((done + p) * pixels.step) = *value };
            }
        }
    }
}

impl<const WIDTH: usize> Gathered<'_, WIDTH> {
    /// Sums of `GATHERED` pixels.
    #[inline(always)]
    unsafe fn sums<V: Vector>(&self, x: usize) -> [f32; GATHERED] {
        let Row { direct, sources, rows, output, .. } = self.0;
        let Direct { window, weights, bias, outputs, .. } = direct;
        let left = window.first(1, x);
        let (width, pixel, tap) = match WIDTH {
            0 => (window.kernel[1], window.stride[1] * V::LANES, window.dilation[1] * V::LANES),
            _ => (WIDTH, V::LANES, V::LANES),
        };
        // SAFETY: as the caller of `compute` promises.
        unsafe {
            let mut sums = [V::splat(0.0); GATHERED];
            let mut weights = weights.as_ptr().add(output * (weights.len() / outputs));
            for rows in rows.chunks_exact(sources.len()) {
                for (source, row) in sources.iter().zip(rows) {
                    for block in 0..source.channels.div_ceil(V::LANES) {
                        let samples = row.add(block * source.block_stride).offset(left * V::LANES as isize);
                        for kx in 0..width {
                            let samples = samples.add(kx * tap);
                            let factor = V::load(weights);
                            weights = weights.add(V::LANES);
                            for (p, sum) in sums.iter_mut().enumerate() {
                                *sum = V::load(samples.add(p * pixel)).times_plus(factor, *sum);
                            }
                        }
                    }
                }
            }
            let mut values = V::sums(sums);
            for value in &mut values {
                *value += bias[output];
            }
            values
        }
    }
}

/// By vectors of input channels, two results of each window.
struct Paired<'a>(Row<'a>);

impl Kernel for Paired<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: as the caller of `compute` promises.
        self.0.gather(|done| unsafe { self.sums::<V>(self.0.start + done / 2) });
    }
}

impl Paired<'_> {
    /// Both sums of each of `GATHERED / 2` windows. Every input is loaded once for all that see it.
    #[inline(always)]
    unsafe fn sums<V: Vector>(&self, x: usize) -> [f32; GATHERED] {
        const WINDOWS: usize = GATHERED / 2;
        let Row { direct, sources, rows, output, .. } = self.0;
        let Direct { window, weights, bias, outputs, .. } = direct;
        let left = window.first(1, x);
        // SAFETY: as the caller of `compute` promises.
        unsafe {
            let mut sums = [V::splat(0.0); GATHERED];
            let mut weights = weights.as_ptr().add(output * (weights.len() / outputs));
            for rows in rows.chunks_exact(sources.len()) {
                for (source, row) in sources.iter().zip(rows) {
                    for block in 0..source.channels.div_ceil(V::LANES) {
                        let samples = row.add(block * source.block_stride).offset(left * V::LANES as isize);
                        let mut inputs = [V::splat(0.0); WINDOWS + PAIRED - 1];
                        for (column, input) in inputs.iter_mut().enumerate() {
                            *input = V::load(samples.add(column * V::LANES));
                        }
                        // Those of the next windows, which the second cache has.
                        for column in 0..WINDOWS {
                            fetch(samples.wrapping_add((WINDOWS + PAIRED - 1 + column) * V::LANES));
                        }
                        for result in 0..2 {
                            for kx in 0..PAIRED - 1 {
                                let factor = V::load(weights);
                                weights = weights.add(V::LANES);
                                for p in 0..WINDOWS {
                                    let sum = &mut sums[2 * p + result];
                                    *sum = inputs[p + result + kx].times_plus(factor, *sum);
                                }
                            }
                        }
                    }
                }
            }
            let mut values = V::sums(sums);
            for value in &mut values {
                *value += bias[output];
            }
            values
        }
    }
}

/// Sample by sample, from any lanes.
struct Plain<'a>(Row<'a>);

impl Kernel for Plain<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Row { direct, sources, rows, output, start, out, pixels: Pixels { step, count, .. }, .. } = self.0;
        let Direct { window, weights, bias, activation, outputs, .. } = direct;
        let left = window.first(1, start);
        // SAFETY: as the caller of `compute` promises.
        unsafe {
            for p in 0..count {
                *out.add(p * step) = bias[output];
            }
            let mut weights = weights.as_ptr().add(output * (weights.len() / outputs));
            for rows in rows.chunks_exact(sources.len()) {
                for (source, row) in sources.iter().zip(rows) {
                    for block in 0..source.blocks() {
                        let samples = row.add(block * source.block_stride).offset(left * source.lanes as isize);
                        for kx in 0..window.kernel[1] {
                            let samples = samples.add(kx * window.dilation[1] * source.lanes);
                            for lane in 0..source.lanes.min(source.channels - block * source.lanes) {
                                let weight = *weights.add(lane);
                                let samples = samples.add(lane);
                                let pixel = window.stride[1] * source.lanes;
                                if pixel == 1 && step == 1 {
                                    for p in 0..count {
                                        *out.add(p) += weight * *samples.add(p);
                                    }
                                } else {
                                    for p in 0..count {
                                        *out.add(p * step) += weight * *samples.add(p * pixel);
                                    }
                                }
                            }
                            weights = weights.add(source.lanes);
                        }
                    }
                }
            }
            for p in 0..count {
                activation.apply_all(std::slice::from_mut(&mut *out.add(p * step)));
            }
        }
    }
}

/// By vectors of output channels, so many of them.
struct Spread<'a, const Q: usize>(Row<'a>);

impl<const Q: usize> Kernel for Spread<'_, Q> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Row { start, out, pixels, .. } = self.0;
        let most = V::PIXELS.min(MOST_PIXELS);
        let step = pixels.step * V::LANES;
        for done in (0..pixels.count).step_by(most) {
            let count = (pixels.count - done).min(most);
            // SAFETY: as the caller of `compute` promises.
            unsafe {
                let out = out.add(done * step);
                // A few pixels more than a half are computed as a whole tile.
                if count * 2 > most {
                    self.0.tile_of::<V, 8, 6, 2, Q>(start + done, out, step, count);
                } else {
                    self.0.tile_of::<V, 4, 3, 1, Q>(start + done, out, step, count);
                }
            }
        }
    }
}

impl Row<'_> {
    /// The tile of this processor: P16 pixels with vectors of 16 and many registers, P8 or P2 with fewer.
    #[inline(always)]
    unsafe fn tile_of<V: Vector, const P16: usize, const P8: usize, const P2: usize, const Q: usize>(
        &self,
        x: usize,
        out: *mut f32,
        step: usize,
        count: usize,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            match V::PIXELS {
                14 => self.tile::<V, P16, Q>(x, out, step, count),
                6 => self.tile::<V, P8, Q>(x, out, step, count),
                _ => self.tile::<V, P2, Q>(x, out, step, count),
            }
        }
    }

    /// P pixels by Q vectors of output channels, of which `count` pixels are kept.
    #[expect(clippy::needless_range_loop, reason = "loops over constants alone are unrolled into registers")]
    #[inline(always)]
    unsafe fn tile<V: Vector, const P: usize, const Q: usize>(
        &self,
        x: usize,
        out: *mut f32,
        step: usize,
        count: usize,
    ) {
        // Distances that are constant make better code.
        let distance = |source: &View| self.direct.window.stride[1] * source.lanes;
        let first = self.sources.first().map_or(0, distance);
        // SAFETY: see `Direct::compute`.
        unsafe {
            let sums = match first {
                _ if self.sources.iter().any(|source| distance(source) != first) => self.sums::<V, P, Q, 0>(x),
                1 => self.sums::<V, P, Q, 1>(x),
                2 => self.sums::<V, P, Q, 2>(x),
                8 => self.sums::<V, P, Q, 8>(x),
                16 => self.sums::<V, P, Q, 16>(x),
                _ => self.sums::<V, P, Q, 0>(x),
            };
            for p in 0..P {
                if p < count {
                    for q in 0..Q {
                        let value = self.direct.activation.apply(sums[p][q]);
                        value.store(out.add(q * self.to_block + p * step));
                    }
                }
            }
        }
    }

    /// The sums of all taps and channels, with bias. `STEP` is the distance from one pixel's sample to the next one's; 0:
    /// not constant.
    #[expect(clippy::needless_range_loop, reason = "loops over constants alone are unrolled into registers")]
    #[inline(always)]
    unsafe fn sums<V: Vector, const P: usize, const Q: usize, const STEP: usize>(&self, x: usize) -> [[V; Q]; P] {
        let Direct { window, .. } = *self.direct;
        let [height, width] = window.kernel;
        let left = window.first(1, x);
        let channels: usize = self.direct.inputs.iter().sum();
        // SAFETY: see `Direct::compute`.
        unsafe {
            let mut sums = [[V::splat(0.0); Q]; P];
            for q in 0..Q {
                let bias = V::load(self.direct.bias.as_ptr().add(self.output + q * V::LANES));
                for p in 0..P {
                    sums[p][q] = bias;
                }
            }
            let mut weights = self.direct.weights.as_ptr().add(self.output * channels * height * width);
            for rows in self.rows.chunks_exact(self.sources.len()) {
                for (source, row) in self.sources.iter().zip(rows) {
                    let mut block = row.offset(left * source.lanes as isize);
                    let (pixel, tap) = (window.stride[1] * source.lanes, window.dilation[1] * source.lanes);
                    let mut left_over = source.channels;
                    while left_over > 0 {
                        for lane in 0..source.lanes.min(left_over) {
                            for kx in 0..width {
                                let samples = block.add(lane + kx * tap);
                                let mut factors = [V::splat(0.0); Q];
                                for q in 0..Q {
                                    factors[q] = V::load(weights.add(q * V::LANES));
                                }
                                weights = weights.add(Q * V::LANES);
                                for p in 0..P {
                                    let at = if STEP > 0 { p * STEP } else { p * pixel };
                                    let input = V::splat(*samples.add(at));
                                    for q in 0..Q {
                                        sums[p][q] = input.times_plus(factors[q], sums[p][q]);
                                    }
                                }
                            }
                        }
                        block = block.wrapping_add(source.block_stride);
                        left_over = left_over.saturating_sub(source.lanes);
                    }
                }
            }
            sums
        }
    }
}
