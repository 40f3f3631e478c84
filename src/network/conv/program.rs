//! A network, or a part of one, as a list of steps that runs row by row: every step makes a few rows as soon as the
//! rows under its windows are there, and rows that nobody needs any more make room for new ones. So a whole image
//! goes through the network with little memory, most of which stays in the caches, and nothing is computed twice.
//!
//! [`Program`] is the list, for images of any size; [`Layout`] says, for one size, where the rows of each tensor lie and
//! in which order rows are made; [`Arena`] is the memory, kept from one run to the next. Several threads share the
//! work of every step; who does what changes no bit, since each sample is computed by one thread in one way.

use super::Watch;
use super::direct::{Direct, Phase, Pixels};
use super::samples::{LINE, Samples};
use super::simd::Isa;
use super::team::Team;
use super::view::{self, Activation, View};
use super::winograd::{Target, Winograd};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A tensor: C, Y, X of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub channels: usize,
    pub lanes: usize,
    /// Whether it is an input or output of the program, in memory that the caller gives.
    pub external: bool,
}

/// Makes tensor `to` of the tensors `from`.
#[derive(Clone, PartialEq)]
pub(super) struct Step {
    /// For people.
    pub name: String,
    pub op: Op,
    pub from: Vec<usize>,
    pub to: usize,
    /// A tensor that gets the largest of each 2 by 2 pixels of `to`, by [`Op::Winograd`] alone.
    pub halved: Option<usize>,
}

#[derive(Clone, PartialEq)]
pub(super) enum Op {
    /// From one layout to another, into the channels from this one on.
    Copy(usize),
    /// With what makes the result's sides of the input's: see [`Winograd::size`].
    Winograd(Winograd, [isize; 2]),
    /// With zeros after the last pixel of each axis.
    Direct(Direct, [usize; 2]),
    /// One convolution for each remainder of the result's position, along Y and X; what the result is cut or
    /// lengthened by: stride, then what is added to (input − 1) times stride.
    Transposed { phases: Vec<Phase>, stride: [usize; 2], more: [isize; 2] },
    /// Largest of 2 by 2, of one or two planes.
    Halve,
    /// Pixels repeated 2 by 2.
    Double,
    /// Sum of all inputs (one or two), and an activation.
    Map(Activation),
    /// Reflected borders: before and after, along Y and X.
    Reflect([usize; 2], [usize; 2]),
}

/// Most columns of a row that are an item of work.
const MOST_COLUMNS: usize = 336;
/// They are a multiple of these: whole lines of a cache, and as even parts for the threads as can be.
const COLUMNS: usize = 16;

impl Op {
    /// Sides of the result.
    fn size(&self, from: [usize; 2]) -> Option<[usize; 2]> {
        let axis = |axis: usize| -> Option<usize> {
            let n = from[axis];
            match self {
                Self::Copy(_) | Self::Map(_) => Some(n),
                Self::Winograd(winograd, more) => winograd.size(n, more[axis]),
                Self::Direct(d, after) => {
                    let padded = (n + after[axis]).checked_add_signed(d.window.before[axis])?;
                    let field = (d.window.kernel[axis] - 1) * d.window.dilation[axis] + 1;
                    Some(padded.checked_sub(field)? / d.window.stride[axis] + 1)
                }
                Self::Transposed { stride, more, .. } => {
                    (n.checked_sub(1)? * stride[axis]).checked_add_signed(more[axis])
                }
                Self::Halve => Some(n / 2),
                Self::Double => Some(2 * n),
                Self::Reflect(before, after) => {
                    (before[axis].max(after[axis]) < n).then(|| n + before[axis] + after[axis])
                }
            }
        };
        Some([axis(0)?, axis(1)?]).filter(|size| size.iter().all(|&side| side > 0))
    }

    /// Rows that are made when the first `rows` are wanted.
    fn whole_rows(&self, rows: usize, columns: usize) -> usize {
        if let Self::Winograd(winograd, _) = self { winograd.whole_rows(rows, columns) } else { rows }
    }

    /// Rows of source `index` (of `height`) that result rows `rows` (not empty) need.
    fn needs(&self, index: usize, rows: Range<usize>, height: usize) -> Range<usize> {
        let last = rows.end - 1;
        let (start, end) = match self {
            Self::Winograd(winograd, _) if winograd.convolves(index) => {
                winograd.reach(0, index, winograd.tiles(0, rows))
            }
            Self::Copy(_) | Self::Map(_) | Self::Winograd(..) => (rows.start as isize, rows.end as isize),
            Self::Direct(direct, _) => (direct.window.first(0, rows.start), direct.window.end(0, last)),
            Self::Transposed { phases, stride, .. } => {
                let windows = phases.iter().map(|phase| phase.direct.window);
                let start = windows.clone().map(|window| window.first(0, rows.start / stride[0])).min();
                let end = windows.map(|window| window.end(0, last / stride[0])).max();
                (start.unwrap_or(0), end.unwrap_or(0))
            }
            Self::Halve => (2 * rows.start as isize, 2 * rows.end as isize),
            Self::Double => ((rows.start / 2) as isize, rows.end.div_ceil(2) as isize),
            Self::Reflect(before, _) => {
                // What is reflected at the far border goes backward.
                let at = |y: usize| view::reflected(y, before[0], height);
                let (first, last) = (at(rows.start), at(last));
                let folds = rows.contains(&before[0]);
                let turns = rows.start < before[0] + height && before[0] + height <= rows.end;
                let start = if folds { 0 } else { first.min(last) };
                let end = if turns { height } else { first.max(last) + 1 };
                (start as isize, end as isize)
            }
        };
        let clamp = |row: isize| row.clamp(0, height as isize) as usize;
        clamp(start)..clamp(end)
    }

    /// First row of source `index` that result rows from `row` on need.
    fn keeps(&self, index: usize, row: usize, out_height: usize, height: usize) -> usize {
        if row >= out_height {
            return height;
        }
        let start = self.needs(index, row..row + 1, height).start;
        match self {
            // Rows after this one may go back as far as the last.
            Self::Reflect(..) => start.min(self.needs(index, row..out_height, height).start),
            _ => start,
        }
    }

    /// Columns of zeros that source `index` needs before its first and after its last column.
    fn margins(&self, index: usize, columns: usize, out_columns: usize) -> [usize; 2] {
        let beyond = |start: isize, end: isize| [-start, end - columns as isize].map(|n| n.max(0) as usize);
        match self {
            Self::Winograd(winograd, _) if winograd.convolves(index) => {
                let (start, end) = winograd.reach(1, index, winograd.tiles(1, 0..out_columns));
                beyond(start, end)
            }
            Self::Direct(direct, _) => beyond(direct.window.first(1, 0), direct.reach(out_columns)),
            Self::Transposed { phases, stride, .. } => {
                let each = phases.iter().map(|phase| {
                    let count = out_columns.div_ceil(stride[1]);
                    beyond(phase.direct.window.first(1, 0), phase.direct.reach(count))
                });
                each.fold([0, 0], |[a, b], [c, d]| [a.max(c), b.max(d)])
            }
            _ => [0, 0],
        }
    }

    /// Whether source `index` is added to the sums of a convolution.
    fn adds(&self, index: usize) -> bool {
        matches!(self, Self::Winograd(winograd, _) if !winograd.convolves(index))
    }

    fn scratch(&self) -> usize {
        if let Self::Winograd(winograd, _) = self { winograd.scratch() } else { 0 }
    }

    /// Items of work for so many threads in these rows of a result of so many columns: rows (of pixels or of tiles),
    /// each in so many pieces.
    fn items(&self, rows: Range<usize>, columns: usize, threads: usize) -> [usize; 2] {
        match self {
            Self::Winograd(winograd, _) => winograd.items(rows, columns, threads),
            _ => {
                let pieces = columns.div_ceil(MOST_COLUMNS).next_multiple_of(threads);
                // None of them is empty.
                [rows.len(), columns.div_ceil(self.piece(columns, pieces))]
            }
        }
    }

    /// Columns of each of so many pieces but the last.
    fn piece(&self, columns: usize, pieces: usize) -> usize {
        let granule = if let Self::Transposed { stride, .. } = self { COLUMNS * stride[1] } else { COLUMNS };
        columns.div_ceil(pieces).next_multiple_of(granule)
    }

    /// The columns of one of the pieces that `items` has counted.
    fn columns(&self, columns: usize, piece: usize, pieces: usize) -> Range<usize> {
        let each = self.piece(columns, pieces);
        (piece * each).min(columns)..((piece + 1) * each).min(columns)
    }
}

/// The list of steps.
#[derive(Clone, PartialEq)]
pub(super) struct Program {
    pub isa: Isa,
    pub tensors: Vec<Tensor>,
    pub steps: Vec<Step>,
    /// External tensors, in the order in which they are given, each as its planes (of a stack C, Z, Y, X).
    pub inputs: Vec<Vec<usize>>,
    pub outputs: Vec<Vec<usize>>,
}

/// Where a tensor lies.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    size: [usize; 2],
    slots: usize,
    margin: usize,
    row_stride: usize,
    block_stride: usize,
    /// In the arena.
    offset: usize,
}

/// Rows to be made by a step.
#[derive(Clone, Debug)]
struct Task {
    step: usize,
    rows: Range<usize>,
}

/// A program for images of one size.
#[derive(Debug)]
pub(super) struct Layout {
    places: Vec<Place>,
    tasks: Vec<Task>,
    /// Samples of all rows, and, before them, of the zeros.
    samples: usize,
    /// Where row starts lie in the zeros.
    zeros: usize,
    /// Samples of scratch for each thread.
    scratch: usize,
    /// Whether the output may lie where the input is.
    pub(super) overwrites: bool,
}

/// Most tensors that a step makes its result of.
pub(super) const MOST_SOURCES: usize = 16;
/// Rows of the result that are asked for at once.
const BAND: usize = 8;
/// Most rows of an input: each makes tasks.
const MOST_ROWS: usize = 1 << 20;
/// Most samples of an arena: beyond it a size counts as impossible.
const MAX_SAMPLES: usize = 1 << 40;

impl Layout {
    /// For inputs of these sizes, Y and X; `None` where the program cannot take them.
    pub(super) fn new(program: &Program, inputs: &[[usize; 2]]) -> Option<Self> {
        let count = program.tensors.len();
        let mut sizes = vec![[0; 2]; count];
        for (planes, &size) in program.inputs.iter().zip(inputs) {
            if size.iter().any(|&side| side == 0 || side > 1 << 30) || size[0] > MOST_ROWS {
                return None;
            }
            planes.iter().for_each(|&tensor| sizes[tensor] = size);
        }
        let mut margins = vec![[0; 2]; count];
        for step in &program.steps {
            let seen = |index: usize| step.seen(index, sizes[step.from[index]]);
            let size = step.op.size(seen(0))?;
            if (1..step.from.len()).any(|index| seen(index) != if step.op.adds(index) { size } else { seen(0) }) {
                return None;
            }
            sizes[step.to] = size;
            if let Some(halved) = step.halved {
                sizes[halved] = Op::Halve.size(size)?;
            }
        }
        for step in &program.steps {
            for (index, &source) in step.from.iter().enumerate() {
                let needed = step.op.margins(index, sizes[source][1], sizes[step.to][1]);
                margins[source] = [0, 1].map(|side| needed[side].max(margins[source][side]));
            }
        }
        let (tasks, slots) = schedule(program, &sizes);
        let mut places = Vec::with_capacity(count);
        let mut samples = 0_usize;
        for (index, tensor) in program.tensors.iter().enumerate() {
            let [height, width] = sizes[index];
            let [left, right] = margins[index];
            let mut place = Place {
                size: sizes[index],
                slots: slots[index],
                margin: left * tensor.lanes,
                row_stride: width,
                block_stride: height.checked_mul(width)?,
                offset: 0,
            };
            if tensor.external {
                place.slots = height;
                place.margin = 0;
            } else {
                place.block_stride = (left + width + right).checked_mul(tensor.lanes)?.next_multiple_of(16);
                place.row_stride = place.block_stride.checked_mul(tensor.channels.div_ceil(tensor.lanes))?;
                place.offset = samples;
                samples = samples.checked_add(place.row_stride.checked_mul(place.slots)?)?;
            }
            places.push(place);
        }
        let inner = || program.tensors.iter().zip(&places).filter(|(tensor, _)| !tensor.external);
        let zeros = inner().map(|(_, place)| place.margin).max().unwrap_or(0).next_multiple_of(16);
        let zero_row = inner().map(|(_, place)| place.row_stride).max().unwrap_or(0);
        for place in &mut places {
            place.offset += zeros + zero_row;
        }
        let scratch = program.steps.iter().map(|step| step.op.scratch()).max().unwrap_or(0).next_multiple_of(1024);
        let samples = samples.checked_add(zeros + zero_row)?.checked_next_multiple_of(1024)?;
        let overwrites = overwrites(program, &sizes, &tasks);
        (samples < MAX_SAMPLES).then_some(Self { places, tasks, samples, zeros, scratch, overwrites })
    }

    /// Sides of the planes of output `index`.
    pub(super) fn output_size(&self, program: &Program, index: usize) -> [usize; 2] {
        self.places[program.outputs[index][0]].size
    }

    /// Bytes of an arena for so many threads.
    pub(super) fn bytes(&self, threads: usize) -> u64 {
        Samples::bytes(self.samples + self.scratch * threads)
    }
}

/// In which order rows are made, and how many rows of each tensor are there at most.
///
/// Results are asked for in bands. What a band needs, which for the first is much, is made in rounds: every step makes as
/// many rows as a band has, or as its sources allow, so that no tensor is far ahead of those made of it.
fn schedule(program: &Program, sizes: &[[usize; 2]]) -> (Vec<Task>, Vec<usize>) {
    let heights: Vec<usize> = sizes.iter().map(|size| size[0]).collect();
    let (mut tasks, mut slots) = (vec![], vec![0; heights.len()]);
    // Several steps may fill one tensor, part by part; the slowest counts.
    let mut makers = vec![vec![]; heights.len()];
    for (index, step) in program.steps.iter().enumerate() {
        makers[step.to].push(index);
    }
    let mut made_by = vec![0; program.steps.len()];
    let mut made = vec![0; heights.len()];
    let mut kept = vec![0; heights.len()];
    for &input in program.inputs.iter().flatten() {
        made[input] = heights[input];
    }
    let tallest = program.outputs.iter().flatten().map(|&output| heights[output]).max().unwrap_or(0);
    for band in 1..=tallest.div_ceil(BAND) {
        let mut wanted = made.clone();
        for &output in program.outputs.iter().flatten() {
            // Outputs of other heights keep pace.
            let rows = (band * BAND).min(tallest);
            wanted[output] = (rows * heights[output]).div_ceil(tallest);
        }
        for (step, &made) in program.steps.iter().zip(&made_by).rev() {
            let below = step.halved.map_or(0, |halved| 2 * wanted[halved]);
            let end = step.op.whole_rows(wanted[step.to].max(below), sizes[step.to][1]).min(heights[step.to]);
            wanted[step.to] = end;
            if end > made {
                for (index, &source) in step.from.iter().enumerate() {
                    let needed = step.op.needs(index, made..end, heights[source]);
                    wanted[source] = wanted[source].max(needed.end);
                }
            }
        }
        while program.steps.iter().zip(&made_by).any(|(step, &made)| made < wanted[step.to]) {
            let before = tasks.len();
            for (number, step) in program.steps.iter().enumerate() {
                let start = made_by[number];
                let most = start + (BAND * heights[step.to]).div_ceil(tallest);
                let whole = |rows: usize| step.op.whole_rows(rows, sizes[step.to][1]).min(wanted[step.to]);
                let can = |end: usize| {
                    let mut sources = step.from.iter().enumerate();
                    sources.all(|(index, &from)| step.op.needs(index, start..end, heights[from]).end <= made[from])
                };
                let mut ends = (start + 1..=whole(most)).rev();
                let Some(end) = ends.find(|&end| whole(end) == end && can(end)) else { continue };
                tasks.push(Task { step: number, rows: start..end });
                made_by[number] = end;
                made[step.to] = makers[step.to].iter().map(|&maker| made_by[maker]).min().unwrap_or(end);
                slots[step.to] = slots[step.to].max(end - kept[step.to]);
                if let Some(halved) = step.halved {
                    made[halved] = end / 2;
                    slots[halved] = slots[halved].max(end / 2 - kept[halved]);
                }
            }
            assert!(tasks.len() > before, "the first step that has not made all can go on");
            let mut needed = heights.clone();
            for (step, &made) in program.steps.iter().zip(&made_by) {
                for (index, &source) in step.from.iter().enumerate() {
                    let first = step.op.keeps(index, made, heights[step.to], heights[source]);
                    needed[source] = needed[source].min(first);
                }
            }
            for (kept, (needed, made)) in kept.iter_mut().zip(needed.into_iter().zip(&made)) {
                *kept = needed.min(*made);
            }
        }
    }
    (tasks, slots)
}

/// Whether the only output may lie where the only input is: once a row of the output is written nobody reads that of the
/// input, but the step that writes it pixel by pixel.
fn overwrites(program: &Program, sizes: &[[usize; 2]], tasks: &[Task]) -> bool {
    let ([inputs], [outputs]) = (&program.inputs[..], &program.outputs[..]) else { return false };
    let (&[input], &[output]) = (&inputs[..], &outputs[..]) else { return false };
    let alike = |a: Tensor, b: Tensor| (a.channels, a.lanes) == (b.channels, b.lanes);
    if sizes[input] != sizes[output] || !alike(program.tensors[input], program.tensors[output]) {
        return false;
    }
    let mut written = 0;
    tasks.iter().all(|task| {
        let step = &program.steps[task.step];
        let pixelwise = matches!(step.op, Op::Map(_));
        let late = step.from.iter().enumerate().any(|(index, &source)| {
            let needs = || step.op.needs(index, task.rows.clone(), sizes[input][0]);
            source == input && (needs().start < written || step.to == output && !pixelwise)
        });
        if step.to == output {
            written = written.max(task.rows.end);
        }
        !late && step.halved != Some(output)
    })
}

impl Step {
    /// The size at which it sees source `index`.
    fn seen(&self, index: usize, size: [usize; 2]) -> [usize; 2] {
        match &self.op {
            Op::Winograd(winograd, _) if winograd.is_doubled(index) => size.map(|side| 2 * side),
            _ => size,
        }
    }
}

/// Memory of one run at a time.
#[derive(Default)]
pub(super) struct Arena {
    samples: Samples,
    /// Those of the last run: where another layout has its zeros there are samples of this one's.
    places: Vec<Place>,
    views: Vec<View>,
}

// SAFETY: the views point into `samples` and into what is lent for one run, and are written anew for every run.
unsafe impl Send for Arena {}

impl Arena {
    /// Bytes of it.
    pub(super) fn bytes(&self) -> u64 {
        Samples::bytes(self.samples.len())
    }
}

/// How a program is run.
pub struct Manner<'a> {
    pub threads: usize,
    pub watch: &'a Watch,
    /// Gets the nanoseconds of each step.
    pub profile: Option<&'a [AtomicU64]>,
}

/// What the threads share while a program runs.
struct Run<'a> {
    program: &'a Program,
    layout: &'a Layout,
    views: &'a [View],
    zeros: *const f32,
    scratch: *mut f32,
}

// SAFETY: the threads write samples that no other thread reads or writes before they have all met.
unsafe impl Sync for Run<'_> {}

impl Program {
    /// Packs the weights of all convolutions into one piece of memory, one after the other: on large pages, where there
    /// are many.
    pub(super) fn pack(&mut self) {
        let mut convolutions: Vec<&mut Winograd> = vec![];
        for step in &mut self.steps {
            if let Op::Winograd(winograd, _) = &mut step.op {
                convolutions.push(winograd);
            }
        }
        // Several steps may share kernels, and then pack them alike.
        let mut places: HashMap<*const f32, usize> = HashMap::new();
        let mut len = 0;
        for winograd in &convolutions {
            places.entry(winograd.kernels().as_ptr()).or_insert_with(|| {
                let place = len;
                len += winograd.packed_len().next_multiple_of(LINE);
                place
            });
        }
        let mut weights = Samples::zeros(len);
        let mut left = places.clone();
        for winograd in &convolutions {
            if let Some(place) = left.remove(&winograd.kernels().as_ptr()) {
                winograd.pack(&mut weights.as_mut_slice()[place..][..winograd.packed_len()]);
            }
        }
        let weights = Arc::new(weights);
        for winograd in convolutions {
            winograd.take(&weights, places[&winograd.kernels().as_ptr()]);
        }
    }

    /// The same for tall images: where a step's rows of tiles end, those of the steps before it end too, as far as that can
    /// be. So no step makes many more rows than are wanted, which would wait in memory; at the top, each may make a row
    /// of tiles more.
    pub(super) fn for_tall(&self) -> Self {
        /// A row and a column far from the borders of an image; there a band ends.
        const FAR: usize = 1 << 16;
        let mut program = self.clone();
        let mut wanted = vec![0; self.tensors.len()];
        self.outputs.iter().flatten().for_each(|&output| wanted[output] = FAR);
        for step in program.steps.iter_mut().rev() {
            let rows = wanted[step.to].max(step.halved.map_or(0, |halved| 2 * wanted[halved]));
            if rows == 0 {
                continue;
            }
            // Where an image of all rows that can be counted is a few pixels in the end.
            if rows > FAR << 16 {
                return self.clone();
            }
            if let Op::Winograd(winograd, _) = &mut step.op {
                winograd.end_at(rows, step.halved.is_some());
            }
            let end = step.op.whole_rows(rows, FAR);
            for (index, &source) in step.from.iter().enumerate() {
                let needed = step.op.needs(index, end - 1..end, isize::MAX as usize).end;
                wanted[source] = wanted[source].max(needed);
            }
        }
        program
    }

    /// Runs it on inputs of the layout's sizes, C, Y, X. Where the watch says stop, what is in the outputs means nothing.
    ///
    /// # Panics
    /// Where lengths do not fit, or the instructions are not there.
    pub(super) fn run(
        &self,
        layout: &Layout,
        arena: &mut Arena,
        inputs: &[&[f32]],
        outputs: &mut [&mut [f32]],
        manner: Manner,
    ) {
        // Steps only read from inputs.
        let inputs = inputs.iter().map(|given| (given.as_ptr().cast_mut(), given.len()));
        let outputs = outputs.iter_mut().map(|given| (given.as_mut_ptr(), given.len()));
        self.run_on(layout, arena, inputs, outputs, manner);
    }

    /// The same where the output takes the place of the input.
    ///
    /// # Panics
    /// The same, and where the layout does not allow it.
    pub(super) fn run_over(&self, layout: &Layout, arena: &mut Arena, samples: &mut [f32], manner: Manner) {
        assert!(layout.overwrites, "an input that is needed longer");
        // One pointer for both: two of which each claims the samples would not be sound.
        let given = (samples.as_mut_ptr(), samples.len());
        self.run_on(layout, arena, std::iter::once(given), std::iter::once(given), manner);
    }

    /// Inputs and outputs: where they lie, and samples.
    fn run_on(
        &self,
        layout: &Layout,
        arena: &mut Arena,
        inputs: impl ExactSizeIterator<Item = (*mut f32, usize)>,
        outputs: impl ExactSizeIterator<Item = (*mut f32, usize)>,
        Manner { threads, watch, profile }: Manner,
    ) {
        assert!(self.isa.is_here(), "instructions that this processor lacks");
        assert!(inputs.len() == self.inputs.len() && outputs.len() == self.outputs.len(), "tensors that are missing");
        let samples = |planes: &[usize]| {
            let [rows, columns] = layout.places[planes[0]].size;
            planes.len() * self.tensors[planes[0]].channels * rows * columns
        };
        let items = layout.tasks.iter().map(|task| {
            let step = &self.steps[task.step];
            step.op.items(task.rows.clone(), layout.places[step.to].size[1], threads)
        });
        let threads = threads.clamp(1, items.map(|[rows, pieces]| rows * pieces).max().unwrap_or(1));
        let needed = layout.samples + threads * layout.scratch;
        // Of a larger image there may be more than this one is said to need.
        if !(needed..=2 * needed).contains(&arena.samples.len()) {
            // Never both at once.
            arena.samples = Samples::default();
            arena.samples = Samples::zeros(needed);
        } else if arena.places != layout.places {
            arena.samples.clear();
        }
        arena.places.clone_from(&layout.places);
        let base = arena.samples.as_mut_ptr();
        arena.views.clear();
        for (tensor, place) in self.tensors.iter().zip(&layout.places) {
            arena.views.push(View {
                base: base.wrapping_add(place.offset + place.margin),
                slots: place.slots.max(1),
                size: place.size,
                channels: tensor.channels,
                lanes: tensor.lanes,
                row_stride: place.row_stride,
                block_stride: place.block_stride,
            });
        }
        let lend = |views: &mut [View], planes: &[usize], samples: *mut f32| {
            for (z, &tensor) in planes.iter().enumerate() {
                let view = &mut views[tensor];
                view.base = samples.wrapping_add(z * view.block_stride);
                // From one channel to the next.
                view.block_stride *= planes.len();
            }
        };
        for (planes, (given, len)) in self.inputs.iter().zip(inputs).chain(self.outputs.iter().zip(outputs)) {
            assert_eq!(samples(planes), len, "samples of an input or output");
            lend(&mut arena.views, planes, given);
        }
        let run = Run {
            program: self,
            layout,
            views: &arena.views,
            zeros: base.wrapping_add(layout.zeros),
            scratch: base.wrapping_add(layout.samples),
        };
        Team::run(threads, |team| {
            for (number, task) in layout.tasks.iter().enumerate().skip(team.first()) {
                let started = profile.map(|_| Instant::now());
                let step = &self.steps[task.step];
                let items = step.op.items(task.rows.clone(), layout.places[step.to].size[1], threads);
                // Who stops goes through the list with the others, which would wait for it.
                team.share(number, items, |row, piece| {
                    if !watch.stopped() {
                        run.item(task, row, [piece, items[1]], team.index());
                    }
                });
                if team.index() == 0 {
                    watch.reached(number, layout.tasks.len());
                }
                if let (Some(profile), Some(started), 0) = (profile, started, team.index()) {
                    profile[task.step].fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
                }
            }
        });
    }
}

impl Run<'_> {
    /// Does a piece (its number, and how many there are) of a row of a task, as thread `thread`.
    fn item(&self, task: &Task, row: usize, piece: [usize; 2], thread: usize) {
        let step = &self.program.steps[task.step];
        let to = &self.views[step.to];
        let mut list = [*to; MOST_SOURCES];
        for (place, &source) in list.iter_mut().zip(&step.from) {
            *place = self.views[source];
        }
        let from = &list[..step.from.len()];
        let y = task.rows.start + row;
        let columns = step.op.columns(to.size[1], piece[0], piece[1]);
        let isa = self.program.isa;
        // SAFETY: `Program::run_on` has checked that the instructions are there; `Layout` has made room for every row,
        // margin and scratch that the steps use.
        unsafe {
            match &step.op {
                Op::Copy(first) => view::copy_row(&from[0], to, y, columns, *first),
                Op::Winograd(winograd, _) => {
                    let scratch = self.scratch.add(thread * self.layout.scratch);
                    let item = [row, piece[0], piece[1]];
                    let target = Target { to, halved: step.halved.map(|halved| &self.views[halved]) };
                    winograd.compute(from, target, self.zeros, task.rows.clone(), item, scratch);
                }
                Op::Direct(direct, _) => {
                    let pixels = Pixels { row: y, first: columns.start, step: 1, count: columns.len() };
                    direct.compute(from, to, self.zeros, y, columns.start, pixels);
                }
                Op::Transposed { phases, stride, .. } => {
                    for phase in phases.iter().filter(|phase| phase.at[0] == y % stride[0]) {
                        // Pixels from one of the phase to the next, and their numbers.
                        let step = stride[1] / phase.direct.results();
                        let [start, end] = [columns.start, columns.end]
                            .map(|column| column.saturating_sub(phase.at[1]).div_ceil(step));
                        let pixels = Pixels { row: y, first: phase.at[1] + start * step, step, count: end - start };
                        let window = start / phase.direct.results();
                        phase.direct.compute(from, to, self.zeros, y / stride[0], window, pixels);
                    }
                }
                Op::Halve => isa.run(view::HalveRow { planes: from, to, y, columns }),
                Op::Double => isa.run(view::DoubleRow { from: &from[0], to, y, columns }),
                Op::Map(activation) => isa.run(view::MapRow { from, to, y, columns, activation: *activation }),
                Op::Reflect(before, _) => view::reflect_row(&from[0], to, y, columns, *before),
            }
        }
    }
}

impl Step {
    /// What it does, for people.
    pub(super) fn describe(&self, program: &Program) -> String {
        let what = match &self.op {
            Op::Copy(_) => "copy".to_owned(),
            Op::Winograd(winograd, _) => winograd.describe(),
            Op::Direct(direct, _) => format!("{}x{}", direct.window.kernel[0], direct.window.kernel[1]),
            Op::Transposed { .. } => "transposed".to_owned(),
            Op::Halve => "max-pool".to_owned(),
            Op::Double => "enlarge".to_owned(),
            Op::Map(_) if self.from.len() > 1 => "add".to_owned(),
            Op::Map(_) => "activation".to_owned(),
            Op::Reflect(..) => "pad".to_owned(),
        };
        let convolved = self.from.iter().enumerate().filter(|(index, _)| !self.op.adds(*index));
        let inputs: usize = convolved.map(|(_, &source)| program.tensors[source].channels).sum();
        let halved = if self.halved.is_some() { ", max-pool" } else { "" };
        format!("{} ({what}, {inputs} to {}{halved})", self.name, program.tensors[self.to].channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_overwrites_only_rows_that_nobody_reads_any_more() {
        let tensor = |external| Tensor { channels: 1, lanes: 1, external };
        let step = |op, from, to| Step { name: String::new(), op, from, to, halved: None };
        // The image is added to a copy of itself.
        let program = Program {
            isa: Isa::Portable,
            tensors: vec![tensor(true), tensor(false), tensor(true)],
            steps: vec![step(Op::Copy(0), vec![0], 1), step(Op::Map(Activation::None), vec![1, 0], 2)],
            inputs: vec![vec![0]],
            outputs: vec![vec![2]],
        };
        let sizes = [[20, 5]; 3];
        let tasks = |list: &[(usize, Range<usize>)]| -> Vec<Task> {
            list.iter().map(|(step, rows)| Task { step: *step, rows: rows.clone() }).collect()
        };
        assert!(overwrites(&program, &sizes, &tasks(&[(0, 0..12), (1, 0..10), (0, 12..20), (1, 10..20)])));
        assert!(!overwrites(&program, &sizes, &tasks(&[(0, 0..8), (1, 0..10), (0, 8..20), (1, 10..20)])));
        // What writes the output looks at other pixels, or the output is larger.
        let mut other = program.clone();
        other.steps[1].op = Op::Reflect([0, 0], [0, 0]);
        assert!(!overwrites(&other, &sizes, &tasks(&[(0, 0..20), (1, 0..20)])));
        assert!(!overwrites(&program, &[[20, 5], [20, 5], [20, 6]], &tasks(&[(0, 0..20), (1, 0..20)])));
        let layout = Layout::new(&program, &[[20, 5]]).expect("a size that fits");
        assert!(layout.overwrites);
        let mut samples: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let manner = Manner { threads: 2, watch: &Watch::default(), profile: None };
        program.run_over(&layout, &mut Arena::default(), &mut samples, manner);
        assert!(samples.iter().enumerate().all(|(i, &sample)| sample == 2.0 * i as f32), "{samples:?}");
    }

    #[test]
    fn a_network_that_halves_without_end_is_left_as_it_is() {
        let tensor = |external| Tensor { channels: 1, lanes: 1, external };
        let halve = |from| Step { name: String::new(), op: Op::Halve, from: vec![from], to: from + 1, halved: None };
        let last = 80;
        let program = Program {
            isa: Isa::Portable,
            tensors: (0..=last).map(|index| tensor(index == 0 || index == last)).collect(),
            steps: (0..last).map(halve).collect(),
            inputs: vec![vec![0]],
            outputs: vec![vec![last]],
        };
        assert!(program.for_tall() == program);
    }
}
