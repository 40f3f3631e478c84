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
//! Kernels of 3 by 3 have methods of their own for both (`transform`), and one sort.
//!
//! # The work
//! For a run of tiles, neighbours in a row or in a few: the input transform, all channels of a vector at once, into
//! panels [position][block of channels][tile][lane]; for each position the product with the weights [channel][output], a
//! register tile of pixels by vectors of output channels; and the output transform with bias, what is added, and
//! activation. Inputs may be several tensors, one after the other along the channels, and each may count as enlarged
//! twofold by repeating pixels: neither joined nor enlarged tensors are ever written.
//!
//! What a processor does besides multiplying is to move panels between its caches, and storing costs several times what
//! loading does. So each value of a transform is stored once, in its panel: what is transformed along one axis and not
//! yet along the other stays in registers.
#![expect(clippy::needless_range_loop, reason = "loops over constants alone are unrolled into registers")]

use super::direct::Window;
use super::samples::{LINE, Samples};
use super::simd::{Isa, Kernel, VECTORS, Vector, fetch};
use super::transform::{Factors, MINUS_A, MOST_SIDE, Method, pair_rows, samples};
use super::view::{Activation, View};
use std::ops::Range;
use std::sync::Arc;

/// A convolution.
#[derive(Clone, PartialEq)]
pub(super) struct Winograd {
    pub method: Method,
    /// 1 or 2, of a transposed convolution 1.
    stride: usize,
    /// Stride of a transposed convolution, else 1.
    spread: usize,
    /// Sorts of input and of output pixels along an axis, 1 or 2.
    sorts: [usize; 2],
    /// First input pixel under the first tile, along Y and X.
    origin: [isize; 2],
    /// Pixels of the first tile that lie before the first one of the result, along Y and X.
    shift: [usize; 2],
    /// Of each source its channels, and whether it is enlarged.
    sources: Vec<(usize, bool)>,
    /// The same for each sort of pixels of each source.
    parts: Vec<(usize, bool)>,
    /// Side of the kernels, and these, in the order output, input channel, row, column, until they are packed.
    side: usize,
    kernels: Arc<[f32]>,
    /// From `place` on [position][group of up to `VECTORS` vectors of outputs][input channel][output]; inputs by source,
    /// sort and channel, outputs by sort and channel, of each sort whole vectors.
    weights: Arc<Samples>,
    place: usize,
    bias: Vec<f32>,
    pub activation: Activation,
    /// That it is packed for.
    isa: Isa,
    /// Most tiles of a run, and most rows of them.
    run: usize,
    rows: usize,
}

/// Transformed panels of a run of tiles together take about so many samples: they stay in the second cache.
const PANEL_SAMPLES: usize = 48 << 10;
/// More weights than these do not stay there too: they are read anew for every run, so that longer runs pay …
const KEPT_WEIGHTS: usize = 256 << 10;
/// … up to these.
const MOST_PANEL_SAMPLES: usize = 256 << 10;
/// Fewest and most tiles of a run. Each run loads all weights from the second cache.
const FEWEST_TILES: usize = 14;
const MOST_TILES: usize = 128;
/// Most rows of tiles of a run: more than one where rows are short, as threads meet after each task.
const USUAL_ROWS: usize = 2;
/// The same of a network whose weights no cache keeps.
const MOST_ROWS: usize = 4;
/// Columns of tiles that a run of several rows has at least: at the start of each row, pixels are read that its tiles do
/// not share with others.
const LEAST_COLUMNS: usize = 6;

impl Winograd {
    /// The method for a convolution or a transposed one, whose inputs may count as enlarged, if there is one.
    pub(super) fn method(
        window: Window,
        transposed: bool,
        kernels: usize,
        doubled: bool,
        precise: bool,
    ) -> Option<Method> {
        let (side, stride) = (window.kernel[0], window.stride[0]);
        let square = window.kernel == [side; 2] && window.stride == [stride; 2] && window.dilation == [1, 1];
        if !square || stride > 2 {
            return None;
        }
        if (side, stride, doubled) == (3, 2, false) {
            return Some(Method::strided(transposed));
        }
        let method = Method::new(side.div_ceil(stride), kernels, doubled, precise)?;
        // Every tile of what is enlarged must begin at the second pixel of a pair.
        (!doubled || stride == 1 && method.tile % 2 == 0).then_some(method)
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
        Self::new(isa, method, sources, [stride, 1], origin, shift).with_kernels(side, weights, bias)
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
        let side = window.kernel[0];
        let taps = side.div_ceil(2);
        let origin = window.before.map(|before| before / 2 + 1 - taps as isize);
        let shift = window.before.map(|before| before as usize % 2);
        Self::new(isa, method, sources, [1, 2], origin, shift).with_kernels(side, weights, bias)
    }

    fn new(
        isa: Isa,
        method: Method,
        sources: &[(usize, bool)],
        [stride, spread]: [usize; 2],
        origin: [isize; 2],
        shift: [usize; 2],
    ) -> Self {
        let sorts = if method.is_strided() { [1, 1] } else { [stride, spread] };
        let parts = sources.iter().flat_map(|&source| std::iter::repeat_n(source, sorts[0] * sorts[0])).collect();
        Self {
            method,
            stride,
            spread,
            sorts,
            origin,
            shift,
            sources: sources.to_vec(),
            parts,
            side: 0,
            kernels: Arc::default(),
            weights: Arc::default(),
            place: 0,
            bias: vec![],
            activation: Activation::None,
            isa,
            run: 0,
            rows: USUAL_ROWS,
        }
    }

    fn with_kernels(mut self, side: usize, kernels: &[f32], bias: &[f32]) -> Self {
        let inputs = self.inputs();
        assert_eq!(kernels.len(), bias.len() * inputs * side * side, "{} by {inputs} kernels", bias.len());
        (self.side, self.kernels) = (side, kernels.into());
        self.bias = bias.to_vec();
        self.bias.resize(bias.len().next_multiple_of(self.lanes()), 0.0);
        let panels = if self.packed_len() <= KEPT_WEIGHTS { PANEL_SAMPLES } else { MOST_PANEL_SAMPLES };
        // Whole register tiles.
        let held = self.positions() * (self.channels() + self.padded());
        let (pixels, _) = self.isa.register_tile();
        self.run = (panels / held / pixels * pixels).clamp(FEWEST_TILES.next_multiple_of(pixels), MOST_TILES);
        self
    }

    /// The kernels, which several convolutions may share, until they are packed.
    pub(super) fn kernels(&self) -> &Arc<[f32]> {
        &self.kernels
    }

    /// Samples of the packed weights.
    pub(super) fn packed_len(&self) -> usize {
        self.positions() * self.channels() * self.padded()
    }

    /// Transforms the kernels and writes the result, in the order in which it is read, to zeros.
    pub(super) fn pack(&self, packed: &mut [f32]) {
        assert!(self.lanes().is_multiple_of(TOGETHER), "outputs that are transformed together lie in one vector");
        let (transform, taps) = (self.method.weights(), self.method.taps());
        let (padded, channels, side) = (self.padded(), self.channels(), self.side);
        let inputs = self.inputs();
        let outputs = self.kernels.len() / (inputs * side * side);
        let group = self.lanes() * VECTORS;
        let mut kernels = vec![[0.0; TOGETHER]; taps * taps];
        let [from, to] = self.sorts;
        for to_sort in 0..to * to {
            for output in (0..outputs).step_by(TOGETHER) {
                let place = to_sort * self.bias.len() + output;
                // The group's first output and its width.
                let start = place / group * group;
                let width = group.min(padded - start);
                let (mut channel, mut input) = (0, 0);
                for &(count, _) in &self.sources {
                    for from_sort in 0..from * from {
                        let phases = [to_sort / to + from_sort / from, to_sort % to + from_sort % from];
                        for i in input..input + count {
                            for (at, kernels) in kernels.iter_mut().enumerate() {
                                let [y, x] = [self.tap(phases[0], at / taps), self.tap(phases[1], at % taps)];
                                let there = y < side && x < side;
                                for (output, kernel) in (output..outputs).zip(kernels) {
                                    let weight = || self.kernels[((output * inputs + i) * side + y) * side + x];
                                    *kernel = if there { f64::from(weight()) } else { 0.0 };
                                }
                            }
                            for (position, values) in transformed(&transform, &kernels).enumerate() {
                                let panel = position * channels * padded + start * channels;
                                let to = &mut packed[panel + (channel + i - input) * width + place - start..];
                                for (to, value) in to.iter_mut().zip(values).take(outputs - output) {
                                    *to = value as f32;
                                }
                            }
                        }
                        channel += count.next_multiple_of(self.lanes());
                    }
                    input += count;
                }
            }
        }
    }

    /// Which row or column of a kernel a sort of pixels has at a tap.
    fn tap(&self, sort: usize, tap: usize) -> usize {
        match (self.spread, self.sorts) {
            (2, [_, 2]) => sort + 2 * (self.method.taps() - 1 - tap),
            (2, _) => tap,
            (_, [sorts, _]) => sorts * tap + sort,
        }
    }

    /// Takes its weights from where they have been packed.
    pub(super) fn take(&mut self, weights: &Arc<Samples>, place: usize) {
        (self.weights, self.place, self.kernels) = (weights.clone(), place, Arc::default());
    }

    /// Whether one source more, of the result's size, can be added to the sums: it is before the activation.
    pub(super) fn can_add(&self) -> bool {
        self.activation == Activation::None
    }

    /// Whether it can make the largest of each 2 by 2 pixels too: no tile cuts these.
    pub(super) fn can_halve(&self) -> bool {
        self.method.tile.is_multiple_of(2) && self.sorts[1] == 1 && self.shift == [0, 0]
    }

    /// Whether source `index` is convolved, not added.
    pub(super) fn convolves(&self, index: usize) -> bool {
        index < self.sources.len()
    }

    /// Whether source `index` counts as enlarged twofold.
    pub(super) fn is_doubled(&self, index: usize) -> bool {
        self.convolves(index) && self.sources[index].1
    }

    /// Sides of the result: `more` is what padding adds to the input's, times `spread`, before it is divided by
    /// `stride`.
    pub(super) fn size(&self, from: usize, more: isize) -> Option<usize> {
        Some((from * self.spread).checked_add_signed(more)? / self.stride)
    }

    /// Pixels of the result in a tile.
    fn granule(&self) -> usize {
        self.method.tile * self.sorts[1]
    }

    /// Pixels of an input from one tile to the next.
    fn step(&self) -> usize {
        samples(self.method.side, self.method.tile)[1] * self.sorts[0]
    }

    /// Tiles that cover these pixels of the result.
    pub(super) fn tiles(&self, axis: usize, pixels: Range<usize>) -> Range<usize> {
        let [start, end] = [pixels.start, pixels.end].map(|pixel| pixel + self.shift[axis]);
        start / self.granule()..end.div_ceil(self.granule())
    }

    /// For a network of so many weights that they are read from memory for every run: makes runs of several rows of
    /// tiles. Then more rows must be there at once.
    pub(super) fn spare_weights(&mut self) {
        self.rows = MOST_ROWS;
    }

    /// Rows of tiles that are worked on together in a result of so many columns.
    fn rows_of_tiles(&self, columns: usize) -> usize {
        (MOST_TILES / self.tiles(1, 0..columns).len().max(1)).clamp(1, self.rows.min(self.run / LEAST_COLUMNS).max(1))
    }

    /// The end of the last tile of those that cover so many rows, and are made together with them.
    pub(super) fn whole_rows(&self, rows: usize, columns: usize) -> usize {
        let tiles = self.tiles(0, 0..rows).end.next_multiple_of(self.rows_of_tiles(columns));
        if rows == 0 { 0 } else { tiles * self.granule() - self.shift[0] }
    }

    /// Moves the rows of tiles so that one of them ends where the first `rows` rows of a wide result do, or as soon after
    /// that as can be: what is enlarged, and what is halved if it is, goes by pairs of pixels.
    pub(super) fn end_at(&mut self, rows: usize, halved: bool) {
        let [granule, step] = [self.granule(), self.step()];
        let pairs = halved || self.sources.iter().any(|source| source.1) || step < granule;
        let more = self.whole_rows(rows, usize::MAX >> 1) - rows;
        let shift = (self.shift[0] + if pairs { more & !1 } else { more }) % granule;
        self.origin[0] += (self.shift[0] * step / granule) as isize - (shift * step / granule) as isize;
        self.shift[0] = shift;
    }

    /// First position of source `index` that tiles see, and the one after the last.
    pub(super) fn reach(&self, axis: usize, index: usize, tiles: Range<usize>) -> (isize, isize) {
        let [seen, step] = samples(self.method.side, self.method.tile).map(|samples| samples * self.sorts[0]);
        let start = self.origin[axis] + (tiles.start * step) as isize;
        let seen = (tiles.len().max(1) - 1) * step + seen;
        let end = start + seen as isize;
        // The last one may be repeated beyond the tile.
        if self.is_doubled(index) { (start >> 1, (end + 1) >> 1) } else { (start, end) }
    }

    fn lanes(&self) -> usize {
        self.isa.lanes()
    }

    fn input_blocks(&self) -> usize {
        self.parts.iter().map(|part| part.0.div_ceil(self.lanes())).sum()
    }

    /// Positions of a transformed tile.
    fn positions(&self) -> usize {
        self.method.side * self.method.side
    }

    /// Channels of all sources.
    fn inputs(&self) -> usize {
        self.sources.iter().map(|source| source.0).sum()
    }

    /// Input channels, those of all sorts of pixels, with what fills up vectors.
    fn channels(&self) -> usize {
        self.input_blocks() * self.lanes()
    }

    /// All outputs, those of all sorts of pixels, with what fills up vectors.
    fn padded(&self) -> usize {
        self.bias.len() * self.sorts[1] * self.sorts[1]
    }

    /// Samples from one block of channels of so many tiles to the next, in a panel.
    fn pitch(&self, tiles: usize) -> usize {
        odd_lines(tiles * self.lanes())
    }

    /// Samples from one position's panel to the next.
    fn panel(&self, blocks: usize) -> usize {
        odd_lines(blocks * self.pitch(self.run))
    }

    /// Samples of scratch that a thread needs.
    pub(super) fn scratch(&self) -> usize {
        self.positions() * (self.panel(self.input_blocks()) + self.panel(self.padded() / self.lanes()))
    }

    /// Items of work for so many threads in these rows of a result of so many columns: rows, of several rows of tiles,
    /// each in so many runs. A few runs more than the cache asks for let every thread keep to its part of the columns,
    /// or at least leave no thread idle.
    pub(super) fn items(&self, rows: Range<usize>, columns: usize, threads: usize) -> [usize; 2] {
        let together = self.rows_of_tiles(columns);
        let rows = self.tiles(0, rows).len().div_ceil(together);
        let tiles = self.tiles(1, 0..columns).len();
        let fewest = tiles.div_ceil(self.run / together).max(1);
        let most = tiles.div_ceil(self.isa.register_tile().0.div_ceil(together)).max(fewest);
        let kept = fewest.next_multiple_of(threads);
        if kept <= most {
            return [rows, kept];
        }
        let even = |runs: &usize| (rows * runs).is_multiple_of(threads) || rows * runs >= 4 * threads;
        let runs = (fewest..=most).find(even).unwrap_or(most);
        // A part of a register tile is better than a thread that has nothing to do.
        [rows, runs.max(threads.div_ceil(rows.max(1)).min(tiles))]
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

    /// Computes item (`row`, `run`) of the `runs` in each row that [`items`](Self::items) has counted in `rows`. Bytes
    /// that follow a row's last tile may be read.
    ///
    /// # Safety
    /// The instructions are there. The views are valid and of its lanes; what is added is of the result's size, what is
    /// halved of half of it; the margins cover what tiles read beyond the image; the rows that the rows of tiles need are
    /// there; `scratch` has room for [`scratch`](Self::scratch) samples.
    pub(super) unsafe fn compute(
        &self,
        sources: &[View],
        Target { to, halved }: Target,
        zeros: *const f32,
        rows: Range<usize>,
        [row, run, runs]: [usize; 3],
        scratch: *mut f32,
    ) {
        let (rows, columns) = (self.tiles(0, rows), self.tiles(1, 0..to.size[1]).len());
        let together = self.rows_of_tiles(to.size[1]);
        let first = rows.start + row * together;
        let (input_panel, output_panel) = (self.panel(self.input_blocks()), self.panel(self.padded() / self.lanes()));
        let run = Run {
            winograd: self,
            to,
            halved,
            rows: first..(first + together).min(rows.end),
            columns: columns * run / runs..columns * (run + 1) / runs,
            inputs: scratch,
            input_panel,
            sums: scratch.wrapping_add(self.positions() * input_panel),
            output_panel,
        };
        assert!(run.tiles() <= self.run, "a run beyond its panels");
        assert!(self.weights.len() >= self.place + self.packed_len(), "weights that are not packed");
        // SAFETY: as the caller promises.
        unsafe {
            match (self.method.side, self.method.tile) {
                (4, 2) => run.compute::<4, 2>(sources, zeros),
                (4, _) => run.compute::<4, 3>(sources, zeros),
                (6, 5) => run.compute::<6, 5>(sources, zeros),
                (6, _) => run.compute::<6, 4>(sources, zeros),
                (7, 3) => run.compute::<7, 3>(sources, zeros),
                (7, _) => run.compute::<7, 6>(sources, zeros),
                _ => run.compute::<8, 4>(sources, zeros),
            }
        }
    }
}

/// Where a result goes.
pub(super) struct Target<'a> {
    pub to: &'a View,
    /// Gets the largest of each 2 by 2 pixels.
    pub halved: Option<&'a View>,
}

/// A run of tiles.
struct Run<'a> {
    winograd: &'a Winograd,
    to: &'a View,
    halved: Option<&'a View>,
    /// Its rows and columns of tiles.
    rows: Range<usize>,
    columns: Range<usize>,
    /// Transformed inputs, and samples from one position's panel to the next.
    inputs: *mut f32,
    input_panel: usize,
    /// Products, likewise.
    sums: *mut f32,
    output_panel: usize,
}

impl Run<'_> {
    fn tiles(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    unsafe fn compute<const SIDE: usize, const TILE: usize>(&self, sources: &[View], zeros: *const f32) {
        let isa = self.winograd.isa;
        let (own, added) = sources.split_at(self.winograd.sources.len());
        // SAFETY: as the caller of `Winograd::compute` promises.
        unsafe {
            isa.run(Inputs::<SIDE, TILE> { run: self, sources: own, zeros });
            isa.run(Products::<SIDE> { run: self });
            match added.first() {
                Some(added) => isa.run(Outputs::<SIDE, TILE, true> { run: self, added }),
                None => isa.run(Outputs::<SIDE, TILE, false> { run: self, added: self.to }),
            }
        }
    }
}

/// Bᵀ d B of all channels.
struct Inputs<'a, const SIDE: usize, const TILE: usize> {
    run: &'a Run<'a>,
    sources: &'a [View],
    zeros: *const f32,
}

impl<const SIDE: usize, const TILE: usize> Kernel for Inputs<'_, SIDE, TILE> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { run, sources, zeros } = self;
        // SAFETY: the instructions are there.
        let factors = &unsafe { Factors::<V>::new(run.winograd.method) };
        let Winograd { sorts: [sorts, _], origin, .. } = *run.winograd;
        let step = const { samples(SIDE, TILE)[1] } * sorts;
        let left = (run.columns.start * step) as isize + origin[1];
        let pitch = run.winograd.pitch(run.tiles());
        for (row, ty) in run.rows.clone().enumerate() {
            let top = (ty * step) as isize + origin[0];
            let mut panel = run.inputs.wrapping_add(row * run.columns.len() * V::LANES);
            for (view, &(_, doubled)) in sources.iter().zip(&run.winograd.sources) {
                for sort in 0..sorts * sorts {
                    let mut rows = [zeros; SIDE];
                    for (i, row) in rows.iter_mut().enumerate() {
                        let y = top + (sort / sorts + i * sorts) as isize;
                        *row = view.row_or(if doubled { y >> 1 } else { y }, zeros);
                    }
                    let x = left + (sort % sorts) as isize;
                    for _ in 0..view.blocks() {
                        let block = Block { run, factors, rows, x: if doubled { x >> 1 } else { x }, panel };
                        // SAFETY: as the caller of `compute` promises.
                        unsafe {
                            match (doubled, sorts) {
                                (true, _) => block.transform::<TILE, 1, true>(),
                                (_, 1) => block.transform::<TILE, 1, false>(),
                                _ => block.transform::<TILE, 2, false>(),
                            }
                        }
                        for row in &mut rows {
                            // Zeros are as long as a row of any tensor.
                            *row = row.wrapping_add(view.block_stride);
                        }
                        panel = panel.wrapping_add(pitch);
                    }
                }
            }
        }
    }
}

/// Aᵀ m A with bias, what is `added` if ADDS, and activation, to where it belongs, and the largest of each 2 by 2.
struct Outputs<'a, const SIDE: usize, const TILE: usize, const ADDS: bool> {
    run: &'a Run<'a>,
    added: &'a View,
}

impl<const SIDE: usize, const TILE: usize, const ADDS: bool> Kernel for Outputs<'_, SIDE, TILE, ADDS> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { run, added } = self;
        // SAFETY: the instructions are there.
        let factors = unsafe { Factors::<V>::new(run.winograd.method) };
        let Winograd { sorts: [_, sorts], shift, activation, .. } = *run.winograd;
        let Run { to, halved, .. } = *run;
        let granule = TILE * sorts;
        let blocks = run.winograd.bias.len() / V::LANES;
        let pitch = run.winograd.pitch(run.tiles());
        // SAFETY: sums of all positions are there; only pixels inside the results are written, and what is added is of
        // their size.
        unsafe {
            for block in 0..run.winograd.padded() / V::LANES {
                let (sort, channels) = (block / blocks, block % blocks);
                let bias = V::load(run.winograd.bias.as_ptr().add(channels * V::LANES));
                for (row, ty) in run.rows.clone().enumerate() {
                    let mut sums = run.sums.add(block * pitch + row * run.columns.len() * V::LANES);
                    // What lies before the first pixel wraps around, to positions beyond the last one.
                    let top = (ty * granule + sort / sorts).wrapping_sub(shift[0]);
                    let mut left = (run.columns.start * granule + sort % sorts).wrapping_sub(shift[1]);
                    let mut rows = [std::ptr::null_mut(); TILE];
                    let mut terms = [std::ptr::null(); TILE];
                    let mut halves = [std::ptr::null_mut(); TILE];
                    for (i, (row, term)) in rows.iter_mut().zip(&mut terms).enumerate() {
                        let y = top.wrapping_add(i * sorts);
                        if y < to.size[0] {
                            *row = to.row(y).add(channels * to.block_stride);
                            *term = added.row(y).cast_const().add(channels * added.block_stride);
                        }
                    }
                    if let Some(halved) = halved {
                        for i in 0..TILE / 2 {
                            let y = ((top as isize) >> 1).wrapping_add_unsigned(i) as usize;
                            if y < halved.size[0] {
                                halves[i] = halved.row(y).add(channels * halved.block_stride);
                            }
                        }
                    }
                    for _ in run.columns.clone() {
                        let mut y = self.tile(factors, sums);
                        for i in 0..TILE {
                            for j in 0..TILE {
                                let x = left.wrapping_add(j * sorts);
                                if x < to.size[1] && !rows[i].is_null() {
                                    let mut sum = y[i][j].plus(bias);
                                    if ADDS {
                                        sum = sum.plus(V::load(terms[i].add(x * V::LANES)));
                                    }
                                    y[i][j] = activation.apply(sum);
                                    y[i][j].store(rows[i].add(x * V::LANES));
                                }
                            }
                        }
                        if let Some(halved) = halved {
                            for i in 0..TILE / 2 {
                                for j in 0..TILE / 2 {
                                    let x = left / 2 + j;
                                    if x < halved.size[1] && !halves[i].is_null() {
                                        let [above, below] = [y[2 * i], y[2 * i + 1]];
                                        let most = below[2 * j].max(above[2 * j].max(above[2 * j + 1]));
                                        most.max(below[2 * j + 1]).store(halves[i].add(x * V::LANES));
                                    }
                                }
                            }
                        }
                        sums = sums.add(V::LANES);
                        left = left.wrapping_add(granule);
                    }
                }
            }
        }
    }
}

impl<const SIDE: usize, const TILE: usize, const ADDS: bool> Outputs<'_, SIDE, TILE, ADDS> {
    /// Aᵀ m A of one tile of a block of channels.
    #[inline(always)]
    unsafe fn tile<V: Vector>(&self, factors: Factors<V>, sums: *const f32) -> [[V; TILE]; TILE] {
        // SAFETY: as the caller promises.
        unsafe {
            let zero = V::splat(0.0);
            let mut half = [[zero; SIDE]; TILE];
            for i in 0..SIDE {
                let mut m = [zero; MOST_SIDE];
                for j in 0..SIDE {
                    m[j] = V::load(sums.add((i * SIDE + j) * self.run.output_panel));
                }
                let m = factors.output::<SIDE, TILE>(m);
                for j in 0..TILE {
                    half[j][i] = m[j];
                }
            }
            let mut result = [[zero; TILE]; TILE];
            for j in 0..TILE {
                let mut m = [zero; MOST_SIDE];
                m[..SIDE].copy_from_slice(&half[j]);
                let m = factors.output::<SIDE, TILE>(m);
                for i in 0..TILE {
                    result[i][j] = m[i];
                }
            }
            result
        }
    }
}

/// The products of all positions.
struct Products<'a, const SIDE: usize> {
    run: &'a Run<'a>,
}

impl<const SIDE: usize> Kernel for Products<'_, SIDE> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { run } = self;
        let Winograd { parts, weights, place, .. } = run.winograd;
        let (padded, channels) = (run.winograd.padded(), run.winograd.channels());
        let tiles = run.tiles();
        let pitch = run.winograd.pitch(tiles);
        // Register tiles, and how many of them are wider by one.
        let pieces = tiles.div_ceil(V::PIXELS);
        let (width, wider) = (tiles / pieces.max(1), tiles % pieces.max(1));
        // SAFETY: groups, pieces and positions lie within weights and panels.
        unsafe {
            for position in 0..SIDE * SIDE {
                let inputs = run.inputs.add(position * run.input_panel);
                let sums = run.sums.add(position * run.output_panel);
                let weights = weights.as_ptr().add(place + position * channels * padded);
                for block in (0..padded / V::LANES).step_by(VECTORS) {
                    let vectors = (padded / V::LANES - block).min(VECTORS);
                    let weights = weights.add(block * V::LANES * channels);
                    let sums = sums.add(block * pitch);
                    let mut start = 0;
                    for piece in 0..pieces {
                        let width = width + usize::from(piece < wider);
                        let work = Product {
                            parts,
                            inputs: inputs.add(start * V::LANES),
                            weights,
                            sums: sums.add(start * V::LANES),
                            pitch,
                            ahead: if piece + 1 == pieces { channels * vectors * V::LANES } else { 0 },
                            only_whole: position / SIDE == MINUS_A || position % SIDE == MINUS_A,
                        };
                        if vectors == VECTORS {
                            work.compute::<V, VECTORS>(width);
                        } else {
                            work.compute::<V, 1>(width);
                        }
                        start += width;
                    }
                }
            }
        }
    }
}

/// The rows under a run of tiles, of one block of channels.
struct Block<'a, V, const SIDE: usize> {
    run: &'a Run<'a>,
    factors: &'a Factors<V>,
    rows: [*const f32; SIDE],
    /// First column.
    x: isize,
    /// Position (i, j) of tile t goes to `panel[(i * SIDE + j) * input_panel + t * LANES..]`.
    panel: *mut f32,
}

impl<V: Vector, const SIDE: usize> Block<'_, V, SIDE> {
    /// Bᵀ d B of every STRIDE-th pixel, or of every pixel twice.
    #[inline(always)]
    unsafe fn transform<const TILE: usize, const STRIDE: usize, const DOUBLED: bool>(&self) {
        // SAFETY: as the caller promises.
        unsafe {
            self.transform_pair::<TILE, STRIDE, DOUBLED, 0>();
            self.transform_pair::<TILE, STRIDE, DOUBLED, 1>();
            if SIDE > 4 {
                self.transform_pair::<TILE, STRIDE, DOUBLED, 2>();
            }
            if SIDE > 6 {
                self.transform_pair::<TILE, STRIDE, DOUBLED, 3>();
            }
        }
    }

    /// A pair of rows of it. Columns of Bᵀ d stay in registers for as long as tiles share them.
    #[inline(always)]
    unsafe fn transform_pair<const TILE: usize, const STRIDE: usize, const DOUBLED: bool, const PAIR: usize>(&self) {
        // Which of the columns kept is column j of a tile. Tiles of doubled columns begin with the second of a pair.
        let column = |j: usize| if DOUBLED { j.div_ceil(2) } else { j };
        let [seen, step] = const { samples(SIDE, TILE) };
        let step = if DOUBLED { step / 2 } else { step };
        let width = column(seen - 1) + 1;
        // A copy that nobody points to stays in registers.
        let factors = *self.factors;
        // SAFETY: the margins cover the columns; the panel has room.
        unsafe {
            let mut kept = [[V::splat(0.0); 2]; MOST_SIDE];
            for c in step..width {
                kept[c] = self.column::<TILE, STRIDE, PAIR>(factors, c - step);
            }
            for tile in 0..self.run.columns.len() {
                for c in step..width {
                    kept[c - step] = kept[c];
                }
                for c in width - step..width {
                    kept[c] = self.column::<TILE, STRIDE, PAIR>(factors, tile * step + c);
                }
                for (place, i) in pair_rows::<SIDE>(PAIR).into_iter().enumerate() {
                    if i >= SIDE || DOUBLED && i == MINUS_A {
                        continue;
                    }
                    let mut d = [V::splat(0.0); MOST_SIDE];
                    for j in 0..seen {
                        d[j] = kept[column(j)][place];
                    }
                    let d = factors.input::<SIDE, TILE>(d);
                    for j in 0..SIDE {
                        if !(DOUBLED && j == MINUS_A) {
                            d[j].store(self.panel.add((i * SIDE + j) * self.run.input_panel + tile * V::LANES));
                        }
                    }
                }
            }
        }
    }

    /// A pair of rows of Bᵀ d at column `c`.
    #[inline(always)]
    unsafe fn column<const TILE: usize, const STRIDE: usize, const PAIR: usize>(
        &self,
        factors: Factors<V>,
        c: usize,
    ) -> [V; 2] {
        let at = (self.x + (c * STRIDE) as isize) * V::LANES as isize;
        // SAFETY: as for `transform_pair`.
        unsafe {
            let mut d = [V::splat(0.0); MOST_SIDE];
            for i in 0..const { samples(SIDE, TILE)[0] } {
                d[i] = V::load(self.rows[i].offset(at));
            }
            factors.input_pair::<SIDE, TILE, PAIR>(d)
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
    /// Samples from weights to those that the next register tile begins with, if it needs others.
    ahead: usize,
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
            // Of a known number of rounds compilers make one long one, for which registers do not suffice.
            let lanes = std::hint::black_box(V::LANES);
            for &(channels, doubled) in self.parts {
                let blocks = channels.div_ceil(V::LANES);
                if doubled && self.only_whole {
                    inputs = inputs.add(blocks * self.pitch);
                    weights = weights.add(blocks * V::LANES * Q * V::LANES);
                    continue;
                }
                for _ in 0..blocks {
                    for lane in 0..lanes {
                        let mut factors = [V::splat(0.0); Q];
                        for q in 0..Q {
                            factors[q] = V::load(weights.add(q * V::LANES));
                            if q * V::LANES % LINE == 0 {
                                fetch(weights.wrapping_add(self.ahead + q * V::LANES));
                            }
                        }
                        weights = weights.add(Q * V::LANES);
                        // Of the next block a line for each tile; narrower vectors have no time left for it.
                        if V::LANES == LINE {
                            fetch(inputs.wrapping_add(self.pitch + lane * LINE));
                        }
                        for p in 0..P {
                            let input = V::splat(*inputs.add(p * V::LANES + lane));
                            for q in 0..Q {
                                sums[p][q] = input.times_plus(factors[q], sums[p][q]);
                            }
                        }
                    }
                    inputs = inputs.add(self.pitch);
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

/// So many samples, and as many more as make an odd number of cache lines: steps of 4096 bytes would all fall into the
/// same few places of the cache.
fn odd_lines(samples: usize) -> usize {
    (samples.div_ceil(16) | 1) * 16
}

/// Outputs whose kernels are transformed together.
const TOGETHER: usize = 4;

/// G g Gᵀ, position by position, of kernels of as many taps as G has columns.
fn transformed<'a>(
    transform: &'a [Vec<f64>],
    kernels: &[[f64; TOGETHER]],
) -> impl Iterator<Item = [f64; TOGETHER]> + 'a {
    let (side, taps) = (transform.len(), transform[0].len());
    // g Gᵀ, column by column.
    let half: Vec<_> = (0..side * taps).map(|at| sum(&transform[at / taps], &kernels[at % taps * taps..])).collect();
    (0..side * side).map(move |position| sum(&transform[position / side], &half[position % side * taps..]))
}

/// Sum of values, each times its factor.
fn sum(factors: &[f64], values: &[[f64; TOGETHER]]) -> [f64; TOGETHER] {
    let mut sum = [0.0; TOGETHER];
    for (factor, values) in factors.iter().zip(values) {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += factor * value;
        }
    }
    sum
}
