//! Convolution of 3 by 3 by Winograd's method: M by M output pixels of a channel need (M + 2)² multiplications per
//! input channel instead of 9 M²: 36 instead of 144 for M = 4, 16 instead of 36 for M = 2.
//!
//! # The transforms
//! In one dimension, M outputs of a filter g of 3 taps are coefficients of a product of polynomials of degree M + 1.
//! A polynomial is known from its values at M + 1 points and its leading coefficient ("the value at infinity"), so:
//! evaluate both factors at the points, multiply value by value, interpolate. By transposition (Winograd 1980; Lavin
//! and Gray 2016) the correlation that networks call convolution becomes y = Aᵀ ((G g) ⊙ (Bᵀ d)) with
//!
//! - row p of G: (1, p, p²) / Π (p − q) over the other points q; the last row (0, 0, 1),
//! - row i of Aᵀ: pⁱ of each point p, and of infinity 1 in the last row alone,
//! - row p of Bᵀ: the coefficients of Π (x − q) over the other points q; the last row those of Π (x − q) over all.
//!
//! In two dimensions they are applied to rows and columns. The points are 0, ±a for M = 2 and 0, ±a, ±b for M = 4, so
//! that rows of ±p share their even and odd parts. Which points, decides the rounding error: 0, ±1, ±2 are usual
//! because their factors are whole; with fused multiplications that saves nothing, and 0, ±5/8, ±3/2, also exact in
//! f32, make the largest error four times smaller (`tests/data/winograd_points.py`).
//!
//! Of an enlarged image, whose pixels are repeated, the samples under a tile are a b b c c d. At the point −1 their
//! transform is exactly zero (b − b, c − c), so that 11 of 36 products need no work: for such inputs a is 1.
//!
//! # The work
//! For a run of tiles in a row of tiles: the input transform, all channels of a vector at once, into panels
//! [position][block of channels][tile][lane]; for each position the product with the weights [channel][output], a
//! register tile of pixels by vectors of output channels; and the output transform with bias and activation. Inputs
//! may be several tensors, one after the other along the channels, and each may count as enlarged twofold by
//! repeating pixels: neither joined nor enlarged tensors are ever written.
#![expect(clippy::needless_range_loop, reason = "loops over constants alone are unrolled into registers")]

use super::simd::{Isa, VECTORS, Vector};
use super::view::{Activation, View};

/// A convolution of 3 by 3, stride 1.
#[derive(Clone, PartialEq)]
pub(super) struct Winograd {
    /// Side of an output tile: 2 or 4.
    pub tile: usize,
    points: [f32; 2],
    /// Of each source its channels, and whether it is enlarged.
    sources: Vec<(usize, bool)>,
    pub outputs: usize,
    pub before: [usize; 2],
    /// [position][group of up to `VECTORS` vectors of outputs][input channel][output].
    weights: Vec<f32>,
    bias: Vec<f32>,
    pub activation: Activation,
    lanes: usize,
    /// Most tiles that are transformed together.
    run: usize,
}

/// Transformed panels of a run of tiles together take about so many samples: they stay in the second cache.
const PANEL_SAMPLES: usize = 96 << 10;

/// Which of a method's points is −a.
const ZERO: usize = 2;

/// One-dimensional transforms of one method. Of the lists only the first `SIDE` and `TILE` elements count.
trait Method {
    const TILE: usize;
    const SIDE: usize;
    unsafe fn input<V: Vector>(points: &Points<V>, d: [V; 6]) -> [V; 6];
    unsafe fn output<V: Vector>(points: &Points<V>, m: [V; 6]) -> [V; 4];
}

/// a, b and what the transforms need of them.
#[derive(Clone, Copy)]
struct Points<V> {
    a: V,
    b: V,
    a2: V,
    b2: V,
    a3: V,
    b3: V,
    product: V,
    sum: V,
}

impl<V: Vector> Points<V> {
    /// # Safety
    /// The contract of [`Vector`].
    #[inline(always)]
    unsafe fn new([a, b]: [f32; 2]) -> Self {
        // SAFETY: as the caller promises.
        unsafe {
            Self {
                a: V::splat(a),
                b: V::splat(b),
                a2: V::splat(a * a),
                b2: V::splat(b * b),
                a3: V::splat(a * a * a),
                b3: V::splat(b * b * b),
                product: V::splat(a * a * b * b),
                sum: V::splat(a * a + b * b),
            }
        }
    }
}

/// F(2, 3), points 0, ±a, ∞; b is not used.
struct F2;

impl Method for F2 {
    const TILE: usize = 2;
    const SIDE: usize = 4;

    #[inline(always)]
    unsafe fn input<V: Vector>(points: &Points<V>, d: [V; 6]) -> [V; 6] {
        // SAFETY: the contract of `Vector`.
        unsafe {
            let first = d[0].subtracted_times(points.a2, d[2]);
            let plus = d[1].times_plus(points.a, d[2]);
            let minus = d[1].subtracted_times(points.a, d[2]);
            let last = d[1].subtracted_times(points.a2, d[3]);
            [first, plus, minus, last, last, last]
        }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(points: &Points<V>, m: [V; 6]) -> [V; 4] {
        // SAFETY: the contract of `Vector`.
        unsafe {
            let first = m[0].plus(m[1].plus(m[2]));
            let second = m[1].minus(m[2]).times_plus(points.a, m[3]);
            [first, second, second, second]
        }
    }
}

/// F(4, 3), points 0, ±a, ±b, ∞.
struct F4;

impl Method for F4 {
    const TILE: usize = 4;
    const SIDE: usize = 6;

    #[inline(always)]
    unsafe fn input<V: Vector>(points: &Points<V>, d: [V; 6]) -> [V; 6] {
        // SAFETY: the contract of `Vector`.
        unsafe {
            // x (x ± a) (x² − b²) = x ((x³ − b² x) ± a (x² − b²)), and with a and b exchanged.
            let even_a = d[2].subtracted_times(points.b2, d[4]);
            let odd_a = d[1].subtracted_times(points.b2, d[3]);
            let even_b = d[2].subtracted_times(points.a2, d[4]);
            let odd_b = d[1].subtracted_times(points.a2, d[3]);
            [
                // (x² − a²) (x² − b²), and at the end x times that.
                d[0].times_plus(points.product, d[2].subtracted_times(points.sum, d[4])),
                odd_a.times_plus(points.a, even_a),
                odd_a.subtracted_times(points.a, even_a),
                odd_b.times_plus(points.b, even_b),
                odd_b.subtracted_times(points.b, even_b),
                d[1].times_plus(points.product, d[3].subtracted_times(points.sum, d[5])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(points: &Points<V>, m: [V; 6]) -> [V; 4] {
        // SAFETY: the contract of `Vector`.
        unsafe {
            let (even_a, odd_a) = (m[1].plus(m[2]), m[1].minus(m[2]));
            let (even_b, odd_b) = (m[3].plus(m[4]), m[3].minus(m[4]));
            [
                m[0].plus(even_a.plus(even_b)),
                odd_a.times_plus(points.a, odd_b.times(points.b)),
                even_a.times_plus(points.a2, even_b.times(points.b2)),
                odd_a.times_plus(points.a3, odd_b.times_plus(points.b3, m[5])),
            ]
        }
    }
}

/// G, in f64: [side][3].
fn weight_transform(tile: usize, [a, b]: [f32; 2]) -> Vec<[f64; 3]> {
    let (a, b) = (f64::from(a), f64::from(b));
    let points = if tile == 2 { vec![0.0, a, -a] } else { vec![0.0, a, -a, b, -b] };
    let row = |(i, p): (usize, &f64)| {
        let others = points.iter().enumerate().filter(|(j, _)| *j != i);
        let scale = others.map(|(_, q)| p - q).product::<f64>();
        [1.0 / scale, p / scale, p * p / scale]
    };
    points.iter().enumerate().map(row).chain([[0.0, 0.0, 1.0]]).collect()
}

impl Winograd {
    /// `weights` in the order output, input channel, row, column, the inputs being those of all sources in turn.
    pub(super) fn new(
        isa: Isa,
        tile: usize,
        sources: &[(usize, bool)],
        before: [usize; 2],
        weights: &[f32],
        bias: &[f32],
    ) -> Self {
        let (outputs, inputs) = (bias.len(), sources.iter().map(|source| source.0).sum::<usize>());
        assert_eq!(weights.len(), outputs * inputs * 9, "weights of {outputs} by {inputs} channels");
        let lanes = isa.lanes();
        let doubled = sources.iter().any(|source| source.1);
        let points = match (tile, doubled) {
            (2, _) => [1.0, 0.0],
            (_, false) => [0.625, 1.5],
            (_, true) => [1.0, 0.625],
        };
        let transform = weight_transform(tile, points);
        let side = tile + 2;
        let padded = outputs.next_multiple_of(lanes);
        let mut packed = vec![0.0; side * side * inputs * padded];
        for output in 0..outputs {
            // Group, its first output and its outputs.
            let group = lanes * VECTORS;
            let start = output / group * group;
            let width = group.min(padded - start);
            for input in 0..inputs {
                let kernel = &weights[(output * inputs + input) * 9..][..9];
                for (i, row) in transform.iter().enumerate() {
                    for (j, column) in transform.iter().enumerate() {
                        let mut sum = 0.0;
                        for (k, &weight) in kernel.iter().enumerate() {
                            sum += row[k / 3] * column[k % 3] * f64::from(weight);
                        }
                        let panel = (i * side + j) * inputs * padded + start * inputs;
                        packed[panel + input * width + output - start] = sum as f32;
                    }
                }
            }
        }
        let mut bias = bias.to_vec();
        bias.resize(padded, 0.0);
        let channels = sources.iter().map(|source| source.0.next_multiple_of(lanes)).sum::<usize>() + padded;
        let (pixels, _) = isa.register_tile();
        let run = (PANEL_SAMPLES / (side * side * channels)).next_multiple_of(pixels).clamp(pixels, 8 * pixels);
        let sources = sources.to_vec();
        let activation = Activation::None;
        Self { tile, points, sources, outputs, before, weights: packed, bias, activation, lanes, run }
    }

    /// Whether source `index` counts as enlarged twofold.
    pub(super) fn is_doubled(&self, index: usize) -> bool {
        self.sources[index].1
    }

    fn side(&self) -> usize {
        self.tile + 2
    }

    fn input_blocks(&self) -> usize {
        self.sources.iter().map(|source| source.0.div_ceil(self.lanes)).sum()
    }

    /// Samples from one position's panel to the next: an odd number of cache lines, as steps of 4096 bytes would all
    /// fall into the same few places of the cache.
    fn panel(&self, blocks: usize) -> usize {
        ((blocks * self.run * self.lanes).div_ceil(16) | 1) * 16
    }

    /// Samples of scratch that a thread needs.
    pub(super) fn scratch(&self) -> usize {
        let positions = self.side() * self.side();
        positions * (self.panel(self.input_blocks()) + self.panel(self.bias.len() / self.lanes))
    }

    /// Runs of tiles in a row of them.
    pub(super) fn runs(&self, columns: usize) -> usize {
        columns.div_ceil(self.tile).div_ceil(self.run).max(1)
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
            match self.tile {
                2 => self.compute_with::<V, F2>(sources, to, zeros, ty, index, scratch),
                _ => self.compute_with::<V, F4>(sources, to, zeros, ty, index, scratch),
            }
        }
    }

    #[inline(always)]
    unsafe fn compute_with<V: Vector, F: Method>(
        &self,
        sources: &[View],
        to: &View,
        zeros: *const f32,
        ty: usize,
        index: usize,
        scratch: *mut f32,
    ) {
        let tiles = to.size[1].div_ceil(F::TILE);
        let runs = self.runs(to.size[1]);
        let range = tiles * index / runs..tiles * (index + 1) / runs;
        let positions = F::SIDE * F::SIDE;
        let (input_panel, output_panel) = (self.panel(self.input_blocks()), self.panel(self.bias.len() / V::LANES));
        // SAFETY: as the caller of `compute` promises.
        unsafe {
            let points = Points::<V>::new(self.points);
            let sums = scratch.add(positions * input_panel);
            let mut block = 0;
            for (view, &(_, doubled)) in sources.iter().zip(&self.sources) {
                let y = (ty * F::TILE) as isize - self.before[0] as isize;
                let mut rows = [zeros; 6];
                for (i, row) in rows[..F::SIDE].iter_mut().enumerate() {
                    let y = y + i as isize;
                    *row = view.row_or(if doubled { y >> 1 } else { y }, zeros);
                }
                for _ in 0..view.blocks() {
                    let panel = scratch.add(block * range.len() * V::LANES);
                    let x = (range.start * F::TILE) as isize - self.before[1] as isize;
                    if doubled {
                        input_tiles::<V, F, true>(&points, &rows, x, range.len(), panel, input_panel);
                    } else {
                        input_tiles::<V, F, false>(&points, &rows, x, range.len(), panel, input_panel);
                    }
                    for row in &mut rows[..F::SIDE] {
                        // Zeros are as long as a row of any tensor.
                        *row = row.add(view.block_stride);
                    }
                    block += 1;
                }
            }
            self.multiply::<V>(positions, range.len(), scratch, input_panel, sums, output_panel);
            for block in 0..self.bias.len() / V::LANES {
                let sums = sums.add(block * range.len() * V::LANES);
                let bias = V::load(self.bias.as_ptr().add(block * V::LANES));
                for (i, tx) in range.clone().enumerate() {
                    let sums = sums.add(i * V::LANES);
                    let at = Corner { y: ty * F::TILE, x: tx * F::TILE, block };
                    output_tile::<V, F>(&points, sums, output_panel, bias, self.activation, to, at);
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
        let (padded, side) = (self.bias.len(), self.side());
        let channels: usize = self.sources.iter().map(|source| source.0).sum();
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
                            sources: &self.sources,
                            inputs: inputs.add(range.start * V::LANES),
                            weights,
                            sums: sums.add(range.start * V::LANES),
                            pitch: tiles * V::LANES,
                            only_whole: position / side == ZERO || position % side == ZERO,
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
    sources: &'a [(usize, bool)],
    inputs: *const f32,
    weights: *const f32,
    sums: *mut f32,
    /// Samples from one block of channels to the next.
    pitch: usize,
    /// Whether transforms of doubled sources are zero here.
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
            for &(channels, doubled) in self.sources {
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

/// Bᵀ d B of the tiles of one block of channels: tile by tile from column `x` on, of rows that may count as doubled.
/// Position (i, j) of tile t goes to `panel[(i * SIDE + j) * stride + t * LANES..]`.
#[inline(always)]
unsafe fn input_tiles<V: Vector, F: Method, const DOUBLED: bool>(
    points: &Points<V>,
    rows: &[*const f32; 6],
    x: isize,
    tiles: usize,
    panel: *mut f32,
    stride: usize,
) {
    // SAFETY: the margins cover the columns, and the panel has room.
    unsafe {
        // Bᵀ d: columns transformed. The last two columns of a tile are the first of the next.
        let mut half = [[V::splat(0.0); 6]; 6];
        let mut first = 0;
        for tile in 0..tiles {
            let x = x + (tile * F::TILE) as isize;
            for j in 0..F::SIDE {
                if j < first {
                    for i in 0..F::SIDE {
                        half[i][j] = half[i][j + F::TILE];
                    }
                } else if DOUBLED && j > 0 && j % 2 == 0 {
                    // Tiles begin at odd columns, so that this column repeats the one before.
                    for i in 0..F::SIDE {
                        half[i][j] = half[i][j - 1];
                    }
                } else {
                    let column = x + j as isize;
                    let at = (if DOUBLED { column >> 1 } else { column }) * V::LANES as isize;
                    let mut d = [V::splat(0.0); 6];
                    for i in 0..F::SIDE {
                        d[i] = V::load(rows[i].offset(at));
                    }
                    let column = F::input(points, d);
                    for i in 0..F::SIDE {
                        half[i][j] = column[i];
                    }
                }
            }
            first = 2;
            let to = panel.add(tile * V::LANES);
            for i in 0..F::SIDE {
                let row = F::input(points, half[i]);
                for j in 0..F::SIDE {
                    row[j].store(to.add((i * F::SIDE + j) * stride));
                }
            }
        }
    }
}

/// First pixel of an output tile, and its block of channels.
struct Corner {
    y: usize,
    x: usize,
    block: usize,
}

/// Aᵀ m A of one tile, with bias and activation.
#[inline(always)]
unsafe fn output_tile<V: Vector, F: Method>(
    points: &Points<V>,
    sums: *const f32,
    stride: usize,
    bias: V,
    activation: Activation,
    to: &View,
    at: Corner,
) {
    // SAFETY: sums of all positions are there; only pixels inside the result are written.
    unsafe {
        let mut half = [[V::splat(0.0); 6]; 4];
        for j in 0..F::SIDE {
            let mut m = [V::splat(0.0); 6];
            for i in 0..F::SIDE {
                m[i] = V::load(sums.add((i * F::SIDE + j) * stride));
            }
            let column = F::output(points, m);
            for i in 0..F::TILE {
                half[i][j] = column[i];
            }
        }
        let rows = (to.size[0] - at.y).min(F::TILE);
        let columns = (to.size[1] - at.x).min(F::TILE);
        for i in 0..F::TILE {
            if i < rows {
                let row = to.row(at.y + i).add(at.block * to.block_stride + at.x * V::LANES);
                let values = F::output(points, half[i]);
                for j in 0..F::TILE {
                    if j < columns {
                        activation.apply(values[j].plus(bias)).store(row.add(j * V::LANES));
                    }
                }
            }
        }
    }
}
