//! ONNX → tract plan → run one tile. Tiles are f32 in the order C, Z, Y, X; tract sees N, C, (Z,) Y, X with N = 1.
//!
//! tract optimises for one concrete shape, so a plan is kept for each of the few shapes in use; all tiles of an
//! image have the same. A panic of tract becomes an error. Its direct convolution is switched off while a plan is
//! made: on a U-Net of 32 features its other lowering, a matrix product, is about a fifth quicker on tiles of 256
//! pixels and no slower beyond the noise on those of 512.

use crate::zeros::zeros;
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::knobs::KnobScope;

mod conv;
mod graph;
pub mod halo;
mod memory;
mod watch;

pub use watch::Watch;

/// Plans kept; an image needs one, `axial` and its edge cases a few.
const MAX_PLANS: usize = 4;

type Plan = Arc<TypedSimplePlan>;

/// An ONNX graph that runs on f32 tiles; may be used from several threads at once.
///
/// # Example
/// ```
/// # fn main() -> mdr::Result<()> {
/// # fn bytes() -> Vec<u8> { Vec::new() }
/// # if false {
/// let network = mdr::network::Network::from_onnx("model.onnx", &bytes())?;
/// let restored = network.run(&[0.0; 64 * 64], [1, 64, 64])?;
/// # }
/// # Ok(())
/// # }
/// ```
pub struct Network {
    name: String,
    graph: graph::Graph,
    model: InferenceModel,
    channels: (usize, usize),
    field: halo::Field,
    /// The network as one program of our own, if it can be: usual and precise.
    own: [OnceLock<Option<conv::Own>>; 2],
    plans: Mutex<Vec<([usize; 3], bool, Plan)>>,
}

/// How a tile is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// Threads that work on the tile together; the result does not depend on it.
    pub threads: usize,
    /// Rounds as little as the direct sum does, at a third of the speed: 3×3 convolutions in tiles of 2×2 instead of 4×4.
    pub precise: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { threads: 1, precise: false }
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("name", &self.name).field("field", &self.field).finish_non_exhaustive()
    }
}

impl Network {
    /// Parses ONNX bytes; `name` is for messages.
    ///
    /// # Errors
    /// [`Error::BadModel`] where the bytes are no ONNX model, where it has not exactly one f32 input (N, C, Y, X or
    /// N, C, Z, Y, X) and one output of the same number of axes, where an operator is not supported (named), or
    /// where tract refuses it.
    pub fn from_onnx(name: &str, bytes: &[u8]) -> Result<Self> {
        let bad = |message: String| Error::BadModel { name: name.to_owned(), message };
        let (graph, proto) = graph::parse(bytes).map_err(bad)?;
        let channels = graph.input_dims[1].unwrap_or_else(|| graph.first_channels());
        let analysis = halo::analyse(&graph, channels).map_err(bad)?;
        let model = guarded(|| tract_onnx::onnx().with_ignore_output_shapes(true).model_for_proto_model(&proto))
            .map_err(|e| bad(format!("cannot be loaded: {e}")))?;
        let mut network = Self {
            name: name.to_owned(),
            graph,
            model,
            channels: (channels, 0),
            field: analysis.field,
            own: Default::default(),
            plans: Mutex::default(),
        };
        match analysis.out_channels {
            Some(n) => network.channels.1 = n,
            None => network.probe()?,
        }
        Ok(network)
    }

    /// Asks tract for channels and scale of an output that `halo` could not follow.
    fn probe(&mut self) -> Result<()> {
        let tile = self.fixed().map(|side| side.unwrap_or(64));
        let tile = if self.spatial_axes() == 2 { [1, tile[1], tile[2]] } else { tile };
        let plan = self.plan(tile, false)?;
        let shape = plan.model().output_fact(0).ok().and_then(|f| f.shape.as_concrete().map(<[usize]>::to_vec));
        let input = self.input_shape(tile);
        let fits = |shape: &Vec<usize>| {
            shape.len() == input.len()
                && shape[0] == 1
                && shape[2..].iter().zip(&input[2..]).all(|(o, i)| *o > 0 && o % i == 0)
        };
        let Some(shape) = shape.as_ref().filter(|s| fits(s)) else {
            return Err(self.bad(format!("it makes an output of shape {shape:?} of an input of shape {input:?}")));
        };
        self.channels.1 = shape[1];
        for axis in 2..input.len() {
            self.field.scale[axis + 3 - input.len()] = shape[axis] / input[axis];
        }
        Ok(())
    }

    /// The file's `metadata_props`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.graph.metadata
    }

    /// 2 (input N, C, Y, X) or 3 (N, C, Z, Y, X).
    pub fn spatial_axes(&self) -> usize {
        self.graph.input_dims.len() - 2
    }

    /// Channels of input and output.
    pub fn channels(&self) -> (usize, usize) {
        self.channels
    }

    /// What output pixels depend on.
    pub fn field(&self) -> &halo::Field {
        &self.field
    }

    /// Sides Z, Y, X of a tile that the file fixes; `None` where any side goes. Z of a 2-D network is `Some(1)`.
    pub fn fixed(&self) -> [Option<usize>; 3] {
        match self.graph.input_dims[2..] {
            [z, y, x] => [z, y, x],
            [y, x] => [Some(1), y, x],
            _ => [None; 3],
        }
    }

    /// Operators of the graph with the number of times each occurs.
    pub fn operators(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for node in &self.graph.nodes {
            *counts.entry(node.op.as_str()).or_default() += 1;
        }
        counts
    }

    /// Bytes that one run on a tile of Z, Y, X pixels needs at its peak beside its input; the weights, which all runs
    /// share, are not counted. An estimate from the graph where tract runs it. `u64::MAX` for a tile that the network
    /// cannot take.
    pub fn memory_bytes(&self, tile: [usize; 3], options: RunOptions) -> u64 {
        let [_, y, x] = tile;
        if let Some(own) = self.own(options.precise) {
            let output = |[rows, columns]: [usize; 2]| 4 * (self.channels.1 * rows * columns) as u64;
            return own.needs([y, x], options.threads).map_or(u64::MAX, |needs| needs.bytes + output(needs.size));
        }
        match halo::follow(&self.graph, &self.input_shape(tile)) {
            Ok(trace) => memory::peak_bytes(&self.graph, &trace),
            Err(_) => u64::MAX,
        }
    }

    /// The same for a run in which the result takes the place of the input ([`run_over`](Self::run_over)); `None` where
    /// that cannot be.
    pub fn memory_over_bytes(&self, tile: [usize; 3], options: RunOptions) -> Option<u64> {
        let own = self.own(options.precise).filter(|_| self.makes_alike())?;
        let needs = own.needs([tile[1], tile[2]], options.threads)?;
        needs.overwrites.then_some(needs.bytes)
    }

    /// Whether results are of the size and channels of what they are made of.
    fn makes_alike(&self) -> bool {
        self.channels.0 == self.channels.1 && self.field.scale == [1; 3]
    }

    /// Whether all threads are best put on one tile, as the network's memory hardly depends on its size.
    pub fn is_streamed(&self) -> bool {
        self.own(false).is_some()
    }

    /// Frees what runs have kept for the next one, but for the memory of one run, if it has no more than `keep` bytes.
    pub fn release(&self, keep: u64) {
        self.own.iter().filter_map(OnceLock::get).flatten().fold(keep, |left, own| left - own.release(left));
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> u64 {
        self.graph.weight_bytes
    }

    /// Runs one tile: `input` in the order C, Z, Y, X with `tile` = lengths of Z, Y, X (Z is 1 for a 2-D network);
    /// result in the order C, Z, Y, X with the lengths times the scale.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where input, tile and network do not fit; [`Error::BadModel`] where tract cannot
    /// plan the network at this size; [`Error::Inference`] where it fails while it runs.
    pub fn run(&self, input: &[f32], tile: [usize; 3]) -> Result<Vec<f32>> {
        let mut output = Vec::new();
        self.run_into(input, tile, &mut output, RunOptions::default(), &Watch::default())?;
        Ok(output)
    }

    /// As [`run`](Self::run), into a vector that may be reused: where the whole network is run by mdr's own operators, one
    /// tile after another of the same size needs no new memory.
    ///
    /// # Errors
    /// Those of [`run`](Self::run); [`Error::Cancelled`] where `watch` says stop.
    pub fn run_into(
        &self,
        input: &[f32],
        tile: [usize; 3],
        output: &mut Vec<f32>,
        options: RunOptions,
        watch: &Watch,
    ) -> Result<()> {
        self.check_tile(input.len(), tile)?;
        let shape = || self.input_shape(tile);
        let expected: usize = tile.iter().zip(self.field.scale).map(|(side, scale)| side * scale).product();
        let expected = self.channels.1 * expected;
        let size = [tile[1], tile[2]];
        if let Some((own, samples)) = self.own(options.precise).and_then(|own| Some((own, own.samples(size)?)))
            && samples == expected
        {
            // New memory that is zero already is touched by the threads of the run alone.
            if output.capacity() < expected {
                *output = zeros(expected).map_err(|_| Error::Inference(format!("no memory for {expected} samples")))?;
            }
            output.resize(expected, 0.0);
            if own.run(size, input, output, conv::Manner { threads: options.threads, watch, profile: None }) {
                return if watch.stopped() { Err(Error::Cancelled) } else { Ok(()) };
            }
        }
        let plan = self.plan(tile, options.precise)?;
        *output = guarded(|| {
            let tensor = Tensor::from_shape(&shape(), input)?;
            let outputs = conv::with_threads(options.threads, || plan.run(tvec!(tensor.into_tvalue())))?;
            let output = outputs.first().ok_or_else(|| TractError::msg("no output"))?;
            Ok(output.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
        })
        .map_err(|e| Error::Inference(format!("model {}, tile {:?}: {e}", self.name, shape())))?;
        if output.len() != expected {
            return Err(Error::Inference(format!(
                "model {} made {} values of a tile {:?}; expected {expected}",
                self.name,
                output.len(),
                shape()
            )));
        }
        watch.reached(0, 1);
        Ok(())
    }

    /// As [`run_into`](Self::run_into), where samples are not needed afterwards: the result takes their place if the
    /// network can do that, else new memory.
    ///
    /// # Errors
    /// As for [`run_into`](Self::run_into).
    pub fn run_over(
        &self,
        mut samples: Vec<f32>,
        tile: [usize; 3],
        options: RunOptions,
        watch: &Watch,
    ) -> Result<Vec<f32>> {
        self.check_tile(samples.len(), tile)?;
        let manner = conv::Manner { threads: options.threads, watch, profile: None };
        let own = self.own(options.precise).filter(|_| self.makes_alike());
        if own.is_some_and(|own| own.run_over([tile[1], tile[2]], &mut samples, manner)) {
            return if watch.stopped() { Err(Error::Cancelled) } else { Ok(samples) };
        }
        let mut output = Vec::new();
        self.run_into(&samples, tile, &mut output, options, watch)?;
        Ok(output)
    }

    /// Runs a tile of zeros in so many threads, twice, and measures the second run: of each step, in their order, what it
    /// is and the nanoseconds until all threads are done with it.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where the network is not run by mdr's own operators alone; [`Error::ShapeMismatch`]
    /// where it cannot take the tile.
    pub fn profile(&self, tile: [usize; 3], threads: usize) -> Result<Vec<(String, u64)>> {
        let input = vec![0.0; self.channels.0 * tile.iter().product::<usize>()];
        let mut output = Vec::new();
        self.run_into(&input, tile, &mut output, RunOptions { threads, precise: false }, &Watch::default())?;
        let own = self.own(false).ok_or_else(|| {
            Error::InvalidOption(format!("model {}: tract runs parts of it, whose time is not known", self.name))
        })?;
        own.profile([tile[1], tile[2]], &input, &mut output, threads).ok_or_else(|| Error::ShapeMismatch {
            expected: "a tile that the model can take".into(),
            found: format!("{tile:?}"),
        })
    }

    /// The network as one program, made when it is asked for first.
    fn own(&self, precise: bool) -> Option<&conv::Own> {
        let make = || {
            if self.spatial_axes() != 2 || self.channels.1 == 0 {
                return None;
            }
            // Two sizes that the network takes, if it takes more than one.
            let multiple = &self.field.multiple[1..];
            let size = |times: [usize; 2]| {
                [0, 1].map(|axis| {
                    self.fixed()[axis + 1].unwrap_or_else(|| (64 * times[axis]).next_multiple_of(multiple[axis]))
                })
            };
            let sizes = [size([1, 2]), size([3, 1])];
            let model = |[y, x]: [usize; 2]| self.decluttered([1, y, x]);
            let own = guarded(|| conv::Own::new(&sizes, precise, model));
            own.ok().flatten()
        };
        self.own[usize::from(precise)].get_or_init(make).as_ref()
    }

    fn check_tile(&self, samples: usize, tile: [usize; 3]) -> Result<()> {
        let wanted = tile.iter().try_fold(self.channels.0, |n, &d| n.checked_mul(d));
        if wanted != Some(samples) || samples == 0 {
            return Err(Error::ShapeMismatch {
                expected: format!("{} channels of {tile:?} (Z, Y, X) samples", self.channels.0),
                found: format!("{samples} samples"),
            });
        }
        for (side, fixed) in tile.iter().zip(self.fixed()) {
            if let Some(fixed) = fixed
                && *side != fixed
            {
                return Err(Error::ShapeMismatch {
                    expected: format!("a tile of {:?} (Z, Y, X), which the model fixes", self.fixed()),
                    found: format!("{tile:?}"),
                });
            }
        }
        Ok(())
    }

    fn input_shape(&self, tile: [usize; 3]) -> Vec<usize> {
        let skipped = 3 - self.spatial_axes();
        [1, self.channels.0].into_iter().chain(tile[skipped..].iter().copied()).collect()
    }

    fn bad(&self, message: String) -> Error {
        Error::BadModel { name: self.name.clone(), message }
    }

    /// The plan for tiles of this shape, made where there is none yet. Threads that ask for it meanwhile wait.
    fn plan(&self, tile: [usize; 3], precise: bool) -> Result<Plan> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = plans.iter().position(|(shape, kind, _)| (*shape, *kind) == (tile, precise)) {
            let entry = plans.remove(place);
            plans.push(entry);
        } else {
            let plan = self.make_plan(tile, precise)?;
            if plans.len() >= MAX_PLANS {
                plans.remove(0);
            }
            plans.push((tile, precise, plan));
        }
        Ok(plans.last().expect("a plan was pushed just now").2.clone())
    }

    fn make_plan(&self, tile: [usize; 3], precise: bool) -> Result<Plan> {
        let shape = self.input_shape(tile);
        // Bounds every tensor before tract allocates one.
        halo::follow(&self.graph, &shape).map_err(|e| self.bad(format!("tile {shape:?}: {e}")))?;
        guarded(|| {
            let scope = KnobScope::new([("TRACT_DISABLE_DIRECT_SPATIAL", "true")])?;
            scope.enter(|| {
                let mut model = self.decluttered(tile)?;
                conv::replace_parts(&mut model, precise)?;
                TypedSimplePlan::new(model.into_optimized()?)
            })
        })
        .map_err(|e| self.bad(format!("cannot be planned for a tile {shape:?}: {e}")))
    }

    /// tract's graph for one tile, simplified.
    fn decluttered(&self, tile: [usize; 3]) -> TractResult<TypedModel> {
        let fact = InferenceFact::dt_shape(f32::datum_type(), self.input_shape(tile));
        let mut model = self.model.clone().with_input_fact(0, fact)?.into_typed()?;
        conv::keep_pointwise(&mut model)?;
        model.into_decluttered()
    }
}

/// Runs tract with its panics turned into errors, and its error chains into one line.
fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(one_line(&format!("{error:#}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown reason");
            Err(format!("tract gave up: {}", one_line(text)))
        }
    }
}

/// A message on one line of a length that can be read.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 300 { line } else { line.chars().take(297).chain("...".chars()).collect() }
}

impl graph::Graph {
    /// Channels that the first convolution expects, for a file that leaves them free.
    fn first_channels(&self) -> usize {
        let first = self.nodes.iter().find(|n| n.op == "Conv" && n.inputs.first() == Some(&self.input));
        let weights: &HashMap<_, _> = &self.constants;
        let weight = first.and_then(|n| Some((weights.get(n.inputs.get(1)?)?, n.int("group", 1))));
        match weight {
            Some((weight, group)) if weight.shape.len() > 2 && (1..=4096).contains(&group) => {
                weight.shape[1].saturating_mul(group as usize).clamp(1, 4096)
            }
            _ => 1,
        }
    }
}
