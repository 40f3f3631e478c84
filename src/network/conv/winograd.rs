//! Square convolutions by Winograd's method (`transform`) in two dimensions: M by M output pixels of a channel need
//! (M + R − 1)² multiplications per input channel instead of M² R², 36 instead of 144 for F(4, 3).
//!
//! # Strides
//! Of a convolution of stride 2, result o has tap k at 2 o + k − before. With k = 2 t + p that is tap t of an ordinary
//! convolution of every second pixel from p − before on. So the four sorts of pixels (p along Y and along X) count as
//! input channels of their own, and the taps are ⌈K / 2⌉; those beyond the kernel are zero.
//!
//! A transposed convolution of stride 2 adds input i, times tap k, to result 2 i + k − before. Result 2 n + p − before
//! sees tap p + 2 t at input n − t: for each p an ordinary convolution with every second tap, in reverse. So the four
//! sorts of results count as output channels of their own.
//!
//! # The work
//! For a run of tiles in a row of tiles: the input transform, all channels of a vector at once, into panels
//! [position][block of channels][tile][lane]; for each position the product with the weights [channel][output], a
//! register tile of pixels by vectors of output channels; and the output transform with bias and activation. Inputs
//! may be several tensors, one after the other along the channels, and each may count as enlarged twofold by
//! repeating pixels: neither joined nor enlarged tensors are ever written.
#![expect(clippy::needless_range_loop, reason = "loops over constants alone are unrolled into registers")]

use super::direct::Window;
use super::simd::{Isa, VECTORS, Vector};
use super::transform::{Factors, MINUS_A, MOST_SIDE, MOST_TILE, Method};
use super::view::{Activation, View};
use std::ops::Range;
use std::sync::Arc;

/// A convolution.
#[derive(Clone, PartialEq)]
pub(super) struct Winograd {
    pub method: Method,
    /// Pixels from one input of a tile to the next: 1 or 2.
    stride: usize,
    /// Pixels from one result of a tile to the next, of a transposed convolution 2.
    spread: usize,
    /// First input pixel under the first tile, along Y and X.
    origin: [isize; 2],
    /// Pixels of the first tile that lie before the first one of the result.
    shift: [usize; 2],
    /// Of each source its channels, and whether it is enlarged.
    sources: Vec<(usize, bool)>,
    /// The same for each sort of pixels of each source.
    parts: Vec<(usize, bool)>,
    /// [position][group of up to `VECTORS` vectors of outputs][input channel][output]; inputs by source, sort and
    /// channel, outputs by sort and channel, of each sort whole vectors.
    weights: Arc<[f32]>,
    bias: Vec<f32>,
    pub activation: Activation,
    lanes: usize,
    /// Most tiles that are transformed together.
    run: usize,
}

/// Transformed panels of a run of tiles together take about so many samples: they stay in the second cache.
const PANEL_SAMPLES: usize = 96 << 10;
/// More weights than these do not stay there too: they are read anew for every run, so that longer runs pay …
const KEPT_WEIGHTS: usize = 256 << 10;
/// … up to these, of which a part may leave the cache.
const MOST_PANEL_SAMPLES: usize = 384 << 10;

impl Winograd {
    /// The method for a convolution or a transposed one, whose inputs may count as enlarged, if there is one.
    pub(super) fn method(window: Window, doubled: bool, precise: bool) -> Option<Method> {
        let (side, stride) = (window.kernel[0], window.stride[0]);
        let square = window.kernel == [side; 2] && window.stride == [stride; 2] && window.dilation == [1, 1];
        if !square || stride > 2 || stride > 1 && doubled {
            return None;
        }
        Method::new(side.div_ceil(stride), doubled, precise)
    }

    /// An ordinary convolution. `weights` in the order output, input channel, row, column, the inputs being those of
    /// all sources in turn.
    pub(super) fn convolution(
        isa: Isa,
        method: Method,
        window: Window,
        sources: &[(usize, bool)],
        weights: &[f32],
        bias: &[f32],
    ) -> Self {
        let (side, stride) = (window.kernel[0], window.stride[0]);
        let doubled = sources.iter().any(|source| source.1);
        // Tiles of what is enlarged begin at odd pixels.
        let shift = window.before.map(|before| usize::from(doubled && before % 2 == 0));
        let origin = [0, 1].map(|axis| -window.before[axis] - shift[axis] as isize);
        let empty = Self::empty(isa, method, sources, [stride, 1], origin, shift);
        empty.with_weights(side, weights, bias, |phase, tap| stride * tap + phase)
    }

    /// A transposed convolution of stride 2, likewise; `window.before` pixels of its result are cut off.
    pub(super) fn transposed(
        isa: Isa,
        method: Method,
        window: Window,
        sources: &[(usize, bool)],
        weights: &[f32],
        bias: &[f32],
    ) -> Self {
        let taps = method.taps();
        let origin = window.before.map(|before| before / 2 + 1 - taps as isize);
        let shift = window.before.map(|before| before as usize % 2);
        let empty = Self::empty(isa, method, sources, [1, 2], origin, shift);
        empty.with_weights(window.kernel[0], weights, bias, |phase, tap| phase + 2 * (taps - 1 - tap))
    }

    fn empty(
        isa: Isa,
        method: Method,
        sources: &[(usize, bool)],
        [stride, spread]: [usize; 2],
        origin: [isize; 2],
        shift: [usize; 2],
    ) -> Self {
        let sorts = stride * stride;
        let parts = sources.iter().flat_map(|&source| std::iter::repeat_n(source, sorts)).collect();
        Self {
            method,
            stride,
            spread,
            origin,
            shift,
            sources: sources.to_vec(),
            parts,
            weights: Arc::default(),
            bias: vec![],
            activation: Activation::None,
            lanes: isa.lanes(),
            run: isa.register_tile().0,
        }
    }

    /// Transforms weights of kernels of `side` by `side`; `tap` says which of them a sort of pixels has at a tap.
    fn with_weights(mut self, side: usize, weights: &[f32], bias: &[f32], tap: impl Fn(usize, usize) -> usize) -> Self {
        let (outputs, inputs) = (bias.len(), self.sources.iter().map(|source| source.0).sum::<usize>());
        assert_eq!(weights.len(), outputs * inputs * side * side, "weights of {outputs} by {inputs} channels");
        let transform = self.method.weights();
        let positions = self.method.side * self.method.side;
        self.bias = bias.to_vec();
        self.bias.resize(outputs.next_multiple_of(self.lanes), 0.0);
        let (padded, channels) = (self.padded(), self.channels());
        let mut packed = vec![0.0; positions * channels * padded];
        let group = self.lanes * VECTORS;
        for to_sort in 0..self.spread * self.spread {
            for output in 0..outputs {
                let place = to_sort * self.bias.len() + output;
                // The group's first output and its width.
                let start = place / group * group;
                let width = group.min(padded - start);
                let (mut channel, mut input) = (0, 0);
                for &(count, _) in &self.sources {
                    for from_sort in 0..self.stride * self.stride {
                        let phases = [
                            to_sort / self.spread + from_sort / self.stride,
                            to_sort % self.spread + from_sort % self.stride,
                        ];
                        for i in input..input + count {
                            let kernel = &weights[(output * inputs + i) * side * side..][..side * side];
                            let weight = |y: usize, x: usize| {
                                let [y, x] = [tap(phases[0], y), tap(phases[1], x)];
                                if y < side && x < side { f64::from(kernel[y * side + x]) } else { 0.0 }
                            };
                            for (position, value) in transformed(&transform, weight).enumerate() {
                                let panel = position * channels * padded + start * channels;
                                packed[panel + channel * width + place - start] = value as f32;
                            }
                            channel += 1;
                        }
                    }
                    input += count;
                }
            }
        }
        self.weights = packed.into();
        let blocks = self.input_blocks() + self.padded() / self.lanes;
        let few = if self.weights.len() <= KEPT_WEIGHTS { PANEL_SAMPLES } else { MOST_PANEL_SAMPLES };
        // Whole register tiles.
        let pixels = self.run;
        self.run = (few / (positions * blocks * self.lanes) / pixels * pixels).clamp(pixels, 8 * pixels);
        self
    }

    /// Whether source `index` counts as enlarged twofold.
    pub(super) fn is_doubled(&self, index: usize) -> bool {
        self.sources[index].1
    }

    /// Sides of the result: `more` is what padding adds to the input's, times `spread`, before it is divided by
    /// `stride`.
    pub(super) fn size(&self, from: usize, more: isize) -> Option<usize> {
        Some((from * self.spread).checked_add_signed(more)? / self.stride)
    }

    /// Pixels of the result in a tile.
    fn granule(&self) -> usize {
        self.method.tile * self.spread
    }

    /// Tiles that cover these pixels of the result.
    pub(super) fn tiles(&self, axis: usize, pixels: Range<usize>) -> Range<usize> {
        let [start, end] = [pixels.start, pixels.end].map(|pixel| pixel + self.shift[axis]);
        start / self.granule()..end.div_ceil(self.granule())
    }

    /// The end of the last tile of those that cover so many rows.
    pub(super) fn whole_rows(&self, rows: usize) -> usize {
        if rows == 0 { 0 } else { self.tiles(0, 0..rows).end * self.granule() - self.shift[0] }
    }

    /// First position of source `index` that tiles see, and the one after the last.
    pub(super) fn reach(&self, axis: usize, index: usize, tiles: Range<usize>) -> (isize, isize) {
        let start = self.origin[axis] + (tiles.start * self.method.tile * self.stride) as isize;
        let seen = ((tiles.len().max(1) - 1) * self.method.tile + self.method.side) * self.stride;
        let end = start + seen as isize;
        // The last one may be repeated beyond the tile.
        if self.is_doubled(index) { (start >> 1, (end + 1) >> 1) } else { (start, end) }
    }

    /// All input channels, those of all sorts of pixels.
    fn channels(&self) -> usize {
        self.parts.iter().map(|part| part.0).sum()
    }

    fn input_blocks(&self) -> usize {
        self.parts.iter().map(|part| part.0.div_ceil(self.lanes)).sum()
    }

    /// All outputs, those of all sorts of pixels, with what fills up vectors.
    fn padded(&self) -> usize {
        self.bias.len() * self.spread * self.spread
    }

    /// Samples from one position's panel to the next: an odd number of cache lines, as steps of 4096 bytes would all
    /// fall into the same few places of the cache.
    fn panel(&self, blocks: usize) -> usize {
        ((blocks * self.run * self.lanes).div_ceil(16) | 1) * 16
    }

    /// Samples of scratch that a thread needs.
    pub(super) fn scratch(&self) -> usize {
        let positions = self.method.side * self.method.side;
        positions * (self.panel(self.input_blocks()) + self.panel(self.padded() / self.lanes))
    }

    /// Runs of tiles in a row of them.
    pub(super) fn runs(&self, columns: usize) -> usize {
        self.tiles(1, 0..columns).len().div_ceil(self.run).max(1)
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let kind = match (self.stride, self.spread) {
            (2, _) => "strided ",
            (_, 2) => "transposed ",
            _ => "",
        };
        format!("{kind}F({0}x{0}, {1}x{1})", self.method.tile, self.method.taps())
    }

    /// Computes run `index` of the row of tiles `ty`. Bytes that follow a row's last tile may be read.
    ///
    /// # Safety
    /// The views are valid and of the lanes of V; their margins cover what tiles read beyond the image; the rows that
    /// the row of tiles needs are there; `scratch` has room for [`scratch`](Self::scratch) samples.
    #[inline(always)]
    pub(super) unsafe fn compute<V: Vector>(
        &self,
        sources: &[View],
        to: &View,
        zeros: *const f32,
        ty: usize,
        index: usize,
        scratch: *mut f32,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            match (self.method.side, self.method.tile) {
                (4, 2) => self.compute_with::<V, 4, 2>(sources, to, zeros, ty, index, scratch),
                (4, _) => self.compute_with::<V, 4, 3>(sources, to, zeros, ty, index, scratch),
                (6, _) => self.compute_with::<V, 6, 4>(sources, to, zeros, ty, index, scratch),
                _ => self.compute_with::<V, 8, 4>(sources, to, zeros, ty, index, scratch),
            }
        }
    }

    #[inline(always)]
    unsafe fn compute_with<V: Vector, const SIDE: usize, const TILE: usize>(
        &self,
        sources: &[View],
        to: &View,
        zeros: *const f32,
        ty: usize,
        index: usize,
        scratch: *mut f32,
    ) {
        let tiles = self.tiles(1, 0..to.size[1]).len();
        let runs = self.runs(to.size[1]);
        let range = tiles * index / runs..tiles * (index + 1) / runs;
        let positions = SIDE * SIDE;
        let (input_panel, output_panel) = (self.panel(self.input_blocks()), self.panel(self.padded() / V::LANES));
        // SAFETY: as the caller of `compute` promises.
        unsafe {
            let factors = Factors::<V>::new(self.method);
            let sums = scratch.add(positions * input_panel);
            let corner = [ty, range.start].map(|tile| (tile * TILE * self.stride) as isize);
            let [top, left] = [0, 1].map(|axis| corner[axis] + self.origin[axis]);
            let mut panel = scratch;
            for (view, &(_, doubled)) in sources.iter().zip(&self.sources) {
                for sort in 0..self.stride * self.stride {
                    let mut rows = [zeros; MOST_SIDE];
                    for (i, row) in rows[..SIDE].iter_mut().enumerate() {
                        let y = top + (sort / self.stride + i * self.stride) as isize;
                        *row = view.row_or(if doubled { y >> 1 } else { y }, zeros);
                    }
                    let x = left + (sort % self.stride) as isize;
                    for _ in 0..view.blocks() {
                        let work =
                            InputTiles { factors: &factors, rows: &rows, x, tiles: range.len(), panel, input_panel };
                        match (doubled, self.stride) {
                            (true, _) => work.compute::<SIDE, TILE, 1, true>(),
                            (_, 1) => work.compute::<SIDE, TILE, 1, false>(),
                            _ => work.compute::<SIDE, TILE, 2, false>(),
                        }
                        for row in &mut rows[..SIDE] {
                            // Zeros are as long as a row of any tensor.
                            *row = row.add(view.block_stride);
                        }
                        panel = panel.add(range.len() * V::LANES);
                    }
                }
            }
            self.multiply::<V>(positions, range.len(), scratch, input_panel, sums, output_panel);
            let blocks = self.bias.len() / V::LANES;
            for block in 0..self.padded() / V::LANES {
                let (sort, channels) = (block / blocks, block % blocks);
                let sums = sums.add(block * range.len() * V::LANES);
                let bias = V::load(self.bias.as_ptr().add(channels * V::LANES));
                // What lies before the first pixel wraps around, to positions beyond the last one.
                let y = (ty * self.granule() + sort / self.spread).wrapping_sub(self.shift[0]);
                for (i, tx) in range.clone().enumerate() {
                    let x = (tx * self.granule() + sort % self.spread).wrapping_sub(self.shift[1]);
                    let target = Target { view: to, block: channels, y, x, step: self.spread };
                    let sums = sums.add(i * V::LANES);
                    target.write::<V, SIDE, TILE>(&factors, sums, output_panel, bias, self.activation);
                }
            }
        }
    }

    /// The products of all positions: sums of `tiles` tiles.
    #[inline(always)]
    unsafe fn multiply<V: Vector>(
        &self,
        positions: usize,
        tiles: usize,
        inputs: *const f32,
        input_panel: usize,
        sums: *mut f32,
        output_panel: usize,
    ) {
        let (padded, side, channels) = (self.padded(), self.method.side, self.channels());
        let pieces = tiles.div_ceil(V::PIXELS);
        // SAFETY: groups, pieces and positions lie within weights and panels.
        unsafe {
            for position in 0..positions {
                let inputs = inputs.add(position * input_panel);
                let sums = sums.add(position * output_panel);
                let weights = self.weights.as_ptr().add(position * channels * padded);
                let mut output = 0;
                while output < padded {
                    let vectors = ((padded - output) / V::LANES).min(VECTORS);
                    let weights = weights.add(output * channels);
                    let sums = sums.add(output * tiles);
                    for piece in 0..pieces {
                        let range = tiles * piece / pieces..tiles * (piece + 1) / pieces;
                        let work = Product {
                            parts: &self.parts,
                            inputs: inputs.add(range.start * V::LANES),
                            weights,
                            sums: sums.add(range.start * V::LANES),
                            pitch: tiles * V::LANES,
                            only_whole: position / side == MINUS_A || position % side == MINUS_A,
                        };
                        if vectors == VECTORS {
                            work.compute::<V, VECTORS>(range.len());
                        } else {
                            work.compute::<V, 1>(range.len());
                        }
                    }
                    output += vectors * V::LANES;
                }
            }
        }
    }
}

/// The product of one register tile.
struct Product<'a> {
    parts: &'a [(usize, bool)],
    inputs: *const f32,
    weights: *const f32,
    sums: *mut f32,
    /// Samples from one block of channels to the next.
    pitch: usize,
    /// Whether transforms of enlarged sources are zero here.
    only_whole: bool,
}

impl Product<'_> {
    #[inline(always)]
    unsafe fn compute<V: Vector, const Q: usize>(&self, tiles: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            match tiles {
                14 if V::PIXELS >= 14 => self.tile::<V, 14, Q>(),
                13 if V::PIXELS >= 13 => self.tile::<V, 13, Q>(),
                12 if V::PIXELS >= 12 => self.tile::<V, 12, Q>(),
                11 if V::PIXELS >= 11 => self.tile::<V, 11, Q>(),
                10 if V::PIXELS >= 10 => self.tile::<V, 10, Q>(),
                9 if V::PIXELS >= 9 => self.tile::<V, 9, Q>(),
                8 if V::PIXELS >= 8 => self.tile::<V, 8, Q>(),
                7 if V::PIXELS >= 7 => self.tile::<V, 7, Q>(),
                6 if V::PIXELS >= 6 => self.tile::<V, 6, Q>(),
                5 if V::PIXELS >= 5 => self.tile::<V, 5, Q>(),
                4 if V::PIXELS >= 4 => self.tile::<V, 4, Q>(),
                3 if V::PIXELS >= 3 => self.tile::<V, 3, Q>(),
                2 => self.tile::<V, 2, Q>(),
                _ => self.tile::<V, 1, Q>(),
            }
        }
    }

    /// P tiles by Q vectors of output channels.
    #[inline(always)]
    unsafe fn tile<V: Vector, const P: usize, const Q: usize>(&self) {
        // SAFETY: P tiles and Q vectors are there, and as many weights as channels.
        unsafe {
            let mut sums = [[V::splat(0.0); Q]; P];
            let (mut inputs, mut weights) = (self.inputs, self.weights);
            for &(channels, doubled) in self.parts {
                if doubled && self.only_whole {
                    inputs = inputs.add(channels.div_ceil(V::LANES) * self.pitch);
                    weights = weights.add(channels * Q * V::LANES);
                    continue;
                }
                let mut left = channels;
                while left > 0 {
                    let here = left.min(V::LANES);
                    for lane in 0..here {
                        let mut factors = [V::splat(0.0); Q];
                        for q in 0..Q {
                            factors[q] = V::load(weights.add(q * V::LANES));
                        }
                        weights = weights.add(Q * V::LANES);
                        for p in 0..P {
                            let input = V::splat(*inputs.add(p * V::LANES + lane));
                            for q in 0..Q {
                                sums[p][q] = input.times_plus(factors[q], sums[p][q]);
                            }
                        }
                    }
                    inputs = inputs.add(self.pitch);
                    left -= here;
                }
            }
            for q in 0..Q {
                for p in 0..P {
                    sums[p][q].store(self.sums.add(q * self.pitch + p * V::LANES));
                }
            }
        }
    }
}

/// The tiles of one block of channels, from column `x` on.
struct InputTiles<'a, V> {
    factors: &'a Factors<V>,
    rows: &'a [*const f32; MOST_SIDE],
    x: isize,
    tiles: usize,
    panel: *mut f32,
    /// Samples from one position's panel to the next.
    input_panel: usize,
}

impl<V: Vector> InputTiles<'_, V> {
    /// Bᵀ d B, tile by tile, of every STRIDE-th pixel, which may count as doubled. Position (i, j) of tile t goes to
    /// `panel[(i * SIDE + j) * input_panel + t * LANES..]`.
    #[inline(always)]
    unsafe fn compute<const SIDE: usize, const TILE: usize, const STRIDE: usize, const DOUBLED: bool>(&self) {
        // SAFETY: the margins cover the columns, and the panel has room.
        unsafe {
            // Bᵀ d: columns transformed. The last columns of a tile are the first of the next.
            let mut half = [[V::splat(0.0); MOST_SIDE]; MOST_SIDE];
            let mut kept = 0;
            for tile in 0..self.tiles {
                let x = self.x + (tile * TILE * STRIDE) as isize;
                for j in 0..SIDE {
                    if j < kept {
                        for i in 0..SIDE {
                            half[i][j] = half[i][j + TILE];
                        }
                    } else if DOUBLED && j > 0 && j % 2 == 0 {
                        // Tiles begin at odd columns, so that this column repeats the one before.
                        for i in 0..SIDE {
                            half[i][j] = half[i][j - 1];
                        }
                    } else {
                        let column = x + (j * STRIDE) as isize;
                        let at = (if DOUBLED { column >> 1 } else { column }) * V::LANES as isize;
                        let mut d = [V::splat(0.0); MOST_SIDE];
                        for i in 0..SIDE {
                            d[i] = V::load(self.rows[i].offset(at));
                        }
                        let column = self.factors.input::<SIDE>(d);
                        for i in 0..SIDE {
                            half[i][j] = column[i];
                        }
                    }
                }
                kept = SIDE - TILE;
                let to = self.panel.add(tile * V::LANES);
                for i in 0..SIDE {
                    let row = self.factors.input::<SIDE>(half[i]);
                    for j in 0..SIDE {
                        row[j].store(to.add((i * SIDE + j) * self.input_panel));
                    }
                }
            }
        }
    }
}

/// Where the results of a tile go: every `step`-th pixel from y, x on, as far as it is one of the image.
struct Target<'a> {
    view: &'a View,
    /// Of channels.
    block: usize,
    y: usize,
    x: usize,
    step: usize,
}

impl Target<'_> {
    /// Aᵀ m A, with bias and activation.
    #[inline(always)]
    unsafe fn write<V: Vector, const SIDE: usize, const TILE: usize>(
        &self,
        factors: &Factors<V>,
        sums: *const f32,
        output_panel: usize,
        bias: V,
        activation: Activation,
    ) {
        // SAFETY: sums of all positions are there; only pixels inside the result are written.
        unsafe {
            let mut half = [[V::splat(0.0); MOST_SIDE]; MOST_TILE];
            for j in 0..SIDE {
                let mut m = [V::splat(0.0); MOST_SIDE];
                for i in 0..SIDE {
                    m[i] = V::load(sums.add((i * SIDE + j) * output_panel));
                }
                let column = factors.output::<SIDE, TILE>(m);
                for i in 0..TILE {
                    half[i][j] = column[i];
                }
            }
            for i in 0..TILE {
                let y = self.y.wrapping_add(i * self.step);
                if y < self.view.size[0] {
                    let row = self.view.row(y).add(self.block * self.view.block_stride);
                    let values = factors.output::<SIDE, TILE>(half[i]);
                    for j in 0..TILE {
                        let x = self.x.wrapping_add(j * self.step);
                        if x < self.view.size[1] {
                            activation.apply(values[j].plus(bias)).store(row.add(x * V::LANES));
                        }
                    }
                }
            }
        }
    }
}

/// G g Gᵀ, position by position, of a kernel of as many taps as G has columns.
fn transformed<'a>(
    transform: &'a [Vec<f64>],
    weight: impl Fn(usize, usize) -> f64 + 'a,
) -> impl Iterator<Item = f64> + 'a {
    let taps = transform[0].len();
    // g Gᵀ.
    let half: Vec<Vec<f64>> = (0..taps)
        .map(|y| transform.iter().map(|column| (0..taps).map(|x| column[x] * weight(y, x)).sum()).collect())
        .collect();
    let side = transform.len();
    (0..side * side).map(move |position| {
        transform[position / side].iter().zip(&half).map(|(factor, row)| factor * row[position % side]).sum()
    })
}
