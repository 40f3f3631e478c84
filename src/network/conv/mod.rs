//! A faster engine in place of tract's operators, for networks of convolutions: tract reads and simplifies the graph,
//! `build` makes of it, or of the parts of it that are of the right kinds, programs that `program` runs. Where a whole
//! network is one program ([`Own`]), tract is not asked any more; else each part becomes one operator of tract's plan.
//!
//! The right kinds are: float32, one image or stack, constant weights, one group; convolutions of any kernel, stride and
//! dilation, transposed ones (of images), max-pooling by 2, nearest-neighbour enlargement by 2, concatenation of
//! channels, sums, reflected borders, rectifiers, tanh and sigmoid. Stacks are taken plane by plane, each a tensor of
//! its own; so their programs hold for one number of planes and are parts of tract's plan.
#![allow(unsafe_code)] // vector instructions, and threads that share the memory of a run

use super::watch::Watch;
use build::Builder;
pub(super) use program::Manner;
use program::{Arena, Layout, Program};
use simd::Isa;
use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::Conv;

mod build;
mod convolutions;
mod direct;
mod program;
mod samples;
mod simd;
mod team;
#[cfg(test)]
mod tests;
mod transform;
mod view;
mod winograd;

/// Keeps convolutions of one tap what they are; decluttering would make them into matrix products.
pub(super) fn keep_pointwise(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::default()
        .with_rule_for::<Conv>("keep pointwise convolution", |(), model, node, _, conv| {
            let pointwise = conv.pool_spec.kernel_shape.iter().all(|&side| side == 1);
            let image = [2, 3].contains(&conv.pool_spec.rank()) && conv.group == 1 && conv.q_params.is_none();
            if !pointwise || !image {
                return Ok(None);
            }
            let kept = Pointwise(conv.clone());
            Ok(Some(TypedModelPatch::replace_single_op(model, node, &node.inputs, kept)?))
        })
        .rewrite(&(), model)
}

/// Makes those that no program took into tract's own again.
fn release_pointwise(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::default()
        .with_rule_for::<Pointwise>("release pointwise convolution", |(), model, node, _, kept| {
            Ok(Some(TypedModelPatch::replace_single_op(model, node, &node.inputs, kept.0.clone())?))
        })
        .rewrite(&(), model)
}

/// A convolution of one tap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pointwise(Conv);

impl Op for Pointwise {
    fn name(&self) -> StaticName {
        "Pointwise".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Pointwise {
    op_out_of_plan!();

    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.eval(context, inputs)
    }
}

impl TypedOp for Pointwise {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.0.output_facts(inputs)
    }

    as_op!();
}

/// A network that is one program, for images of any size.
pub(super) struct Own {
    program: Program,
    /// The same for tall images.
    tall: Program,
    layouts: Mutex<Vec<([usize; 2], Arc<Layout>)>>,
    arenas: Mutex<Vec<Arena>>,
}

/// What a run needs.
pub(super) struct Needs {
    /// Beside input and output.
    pub bytes: u64,
    /// Sides of the output.
    pub size: [usize; 2],
    /// Whether the output can take the place of the input.
    pub overwrites: bool,
}

/// Rows of a tall image.
const TALL: usize = 2048;

/// Layouts kept, of runs and of questions what one would need.
const MAX_LAYOUTS: usize = 4;

impl Own {
    /// The program of a decluttered model, if it is one: `model` gives the model for an image of Y, X pixels.
    pub(super) fn new(
        sizes: &[[usize; 2]],
        precise: bool,
        model: impl Fn([usize; 2]) -> TractResult<TypedModel>,
    ) -> TractResult<Option<Self>> {
        let mut found: Option<Program> = None;
        for &size in sizes {
            let Some(program) = whole(&model(size)?, precise)? else { return Ok(None) };
            // What is the same for several sizes does not depend on the size.
            if found.as_ref().is_some_and(|other| *other != program) {
                return Ok(None);
            }
            found = Some(program);
        }
        Ok(found.map(|mut program| {
            program.pack();
            Self { tall: program.for_tall(), program, layouts: Mutex::default(), arenas: Mutex::default() }
        }))
    }

    fn program(&self, [rows, _]: [usize; 2]) -> &Program {
        if rows < TALL { &self.program } else { &self.tall }
    }

    fn layout(&self, size: [usize; 2]) -> Option<Arc<Layout>> {
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        let layout = match layouts.iter().position(|(kept, _)| *kept == size) {
            Some(at) => layouts.remove(at).1,
            None => Arc::new(Layout::new(self.program(size), &[size])?),
        };
        if layouts.len() >= MAX_LAYOUTS {
            layouts.remove(0);
        }
        // Who is asked for stays longest.
        layouts.push((size, layout.clone()));
        Some(layout)
    }

    /// What a run of so many threads needs; `None` where the network cannot take this size.
    pub(super) fn needs(&self, size: [usize; 2], threads: usize) -> Option<Needs> {
        let layout = self.layout(size)?;
        let size = layout.output_size(&self.program, 0);
        Some(Needs { bytes: layout.bytes(threads), size, overwrites: layout.overwrites })
    }

    /// Samples of the result for an input of Y, X pixels.
    pub(super) fn samples(&self, size: [usize; 2]) -> Option<usize> {
        let [rows, columns] = self.layout(size)?.output_size(&self.program, 0);
        Some(self.program.tensors[self.program.outputs[0][0]].channels * rows * columns)
    }

    /// Runs it; input and output are C, Y, X. False where the network cannot take this size.
    pub(super) fn run(&self, size: [usize; 2], input: &[f32], output: &mut [f32], manner: Manner) -> bool {
        let Some(layout) = self.layout(size) else { return false };
        with_arena(&self.arenas, |arena| self.program(size).run(&layout, arena, &[input], &mut [output], manner));
        true
    }

    /// Runs it so that the output takes the place of the input. False where that cannot be.
    pub(super) fn run_over(&self, size: [usize; 2], samples: &mut [f32], manner: Manner) -> bool {
        let Some(layout) = self.layout(size).filter(|layout| layout.overwrites) else { return false };
        with_arena(&self.arenas, |arena| self.program(size).run_over(&layout, arena, samples, manner));
        true
    }

    /// Gives back what runs keep for the next one, but for the memory of one run, if it has no more than `keep` bytes: how
    /// many are kept.
    pub(super) fn release(&self, keep: u64) -> u64 {
        let mut arenas = self.arenas.lock().unwrap_or_else(PoisonError::into_inner);
        arenas.retain(|arena| arena.bytes() <= keep);
        arenas.truncate(1);
        if arenas.is_empty() {
            self.layouts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        arenas.iter().map(Arena::bytes).sum()
    }

    /// Runs it once: of each step its name, what it makes, and the nanoseconds.
    pub(super) fn profile(
        &self,
        size: [usize; 2],
        input: &[f32],
        output: &mut [f32],
        threads: usize,
    ) -> Option<Vec<(String, u64)>> {
        let spent: Vec<AtomicU64> = self.program.steps.iter().map(|_| AtomicU64::new(0)).collect();
        let manner = Manner { threads, watch: &Watch::default(), profile: Some(&spent) };
        if !self.run(size, input, output, manner) {
            return None;
        }
        let steps = self.program.steps.iter().zip(spent);
        Some(steps.map(|(step, spent)| (step.describe(&self.program), spent.into_inner())).collect())
    }
}

/// Lends an arena that no other run uses meanwhile.
fn with_arena(arenas: &Mutex<Vec<Arena>>, work: impl FnOnce(&mut Arena)) {
    let mut arena = arenas.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
    work(&mut arena);
    arenas.lock().unwrap_or_else(PoisonError::into_inner).push(arena);
}

/// The program of a model that is nothing else.
fn whole(model: &TypedModel, precise: bool) -> TractResult<Option<Program>> {
    let mut builder = Builder::new(Isa::best(), precise);
    for id in model.eval_order()? {
        let node = model.node(id);
        if !is_given(node) && !builder.take(model, node)? {
            return Ok(None);
        }
    }
    let outputs = model.output_outlets()?.to_vec();
    let finished = builder.finish(model, &outputs)?;
    Ok(finished.filter(|builder| builder.inputs == model.input_outlets().unwrap_or(&[])).map(|builder| builder.program))
}

/// Whether a node computes nothing: an input or a constant.
fn is_given(node: &TypedNode) -> bool {
    node.inputs.is_empty()
}

/// Puts programs in place of the parts of a decluttered model that can be programs.
///
/// An interval of an order of evaluation is closed under paths: what lies between two of its nodes lies in it. So each
/// interval of nodes of the right kinds can become one operator.
pub(super) fn replace_parts(model: &mut TypedModel, precise: bool) -> TractResult<()> {
    let mut patches = vec![];
    let mut part = Builder::new(Isa::best(), precise);
    let mut nodes: Vec<usize> = vec![];
    let order = model.eval_order()?;
    for &id in &order {
        let node = model.node(id);
        if is_given(node) {
            continue;
        }
        if part.take(model, node)? {
            nodes.push(id);
            continue;
        }
        close(model, std::mem::replace(&mut part, Builder::new(Isa::best(), precise)), &mut nodes, &mut patches)?;
        // What does not fit behind the others may fit alone.
        if part.take(model, node)? {
            nodes.push(id);
        }
    }
    close(model, part, &mut nodes, &mut patches)?;
    // The last first: a part takes what the one before it makes, from nodes that are gone once that one is replaced.
    for patch in patches.into_iter().rev() {
        patch.apply(model)?;
    }
    release_pointwise(model)
}

/// Makes a patch of the part that was taken, if it holds work that is worth it.
fn close(
    model: &TypedModel,
    part: Builder,
    nodes: &mut Vec<usize>,
    patches: &mut Vec<TypedModelPatch>,
) -> TractResult<()> {
    let nodes = std::mem::take(nodes);
    let results = model.output_outlets()?;
    let outlets: Vec<OutletId> = nodes
        .iter()
        .map(|&id| OutletId::from(id))
        .filter(|outlet| {
            results.contains(outlet) || model.outlet_successors(*outlet).iter().any(|next| !nodes.contains(&next.node))
        })
        .collect();
    let works = nodes.iter().any(|&id| model.node(id).op_is::<Conv>() || model.node(id).op_is::<Pointwise>());
    if part.is_empty() || !works {
        return Ok(());
    }
    let Some(part) = part.finish(model, &outlets)? else { return Ok(()) };
    let mut sizes = vec![];
    for &input in &part.inputs {
        match build::image(model.outlet_fact(input)?) {
            Some([_, _, rows, columns]) => sizes.push([rows, columns]),
            None => return Ok(()),
        }
    }
    let Some(layout) = Layout::new(&part.program, &sizes) else { return Ok(()) };
    let mut shapes = vec![];
    for (index, &outlet) in outlets.iter().enumerate() {
        let fact = model.outlet_fact(outlet)?;
        let [rows, columns] = layout.output_size(&part.program, index);
        let planes = &part.program.outputs[index];
        let shape = [part.program.tensors[planes[0]].channels, planes.len(), rows, columns];
        if build::image(fact) != Some(shape) {
            return Ok(());
        }
        shapes.push(fact.shape.as_concrete().expect("an image's shape is known").into());
    }
    let mut program = part.program;
    program.pack();
    let op = Part { inner: Arc::new(Inner { program, layout, arenas: Mutex::default() }), shapes };
    let mut patch = TypedModelPatch::default();
    let inputs = part.inputs.iter().map(|&input| patch.tap_model(model, input)).collect::<TractResult<TVec<_>>>()?;
    let wires = patch.wire_node(format!("{}.part", model.node(nodes[0]).name), op, &inputs)?;
    for (&outlet, wire) in outlets.iter().zip(wires) {
        patch.shunt_outside(model, outlet, wire)?;
    }
    patches.push(patch);
    Ok(())
}

/// A program within tract's plan.
#[derive(Clone)]
struct Part {
    inner: Arc<Inner>,
    /// Of the outputs: N, C, Y, X or N, C, Z, Y, X.
    shapes: Vec<TVec<usize>>,
}

struct Inner {
    program: Program,
    layout: Layout,
    arenas: Mutex<Vec<Arena>>,
}

thread_local! {
    /// Threads that parts of plans run with when this thread runs the plan.
    static THREADS: Cell<usize> = const { Cell::new(1) };
}

/// Runs `work`, in which parts of plans take so many threads.
pub(super) fn with_threads<T>(threads: usize, work: impl FnOnce() -> T) -> T {
    let before = THREADS.replace(threads);
    let result = work();
    THREADS.set(before);
    result
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("shapes", &self.shapes).finish_non_exhaustive()
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Part {}

impl Op for Part {
    fn name(&self) -> StaticName {
        "Part".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Part {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut outputs = TVec::new();
        for shape in &self.shapes {
            // SAFETY: the program writes every sample.
            outputs.push(unsafe { Tensor::uninitialized::<f32>(shape)? });
        }
        {
            let from = inputs.iter().map(|input| input.try_as_plain_ram()).collect::<TractResult<TVec<_>>>()?;
            let from = from.iter().map(|input| input.as_slice::<f32>()).collect::<TractResult<TVec<_>>>()?;
            let mut to = outputs.iter_mut().map(|o| o.try_as_plain_ram_mut()).collect::<TractResult<TVec<_>>>()?;
            let mut to = to.iter_mut().map(|output| output.as_slice_mut::<f32>()).collect::<TractResult<TVec<_>>>()?;
            let Inner { program, layout, arenas } = &*self.inner;
            with_arena(arenas, |arena| {
                program.run(
                    layout,
                    arena,
                    &from,
                    &mut to,
                    Manner { threads: THREADS.get(), watch: &Watch::default(), profile: None },
                );
            });
        }
        Ok(outputs.into_iter().map(Tensor::into_tvalue).collect())
    }
}

impl TypedOp for Part {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.shapes.iter().map(f32::fact).collect())
    }

    as_op!();
}

#[cfg(test)]
mod graph_tests {
    use super::*;
    use tract_onnx::tract_core::ops::cnn::conv::KernelFormat;
    use tract_onnx::tract_core::ops::cnn::{MaxPool, PaddingSpec, PoolSpec};
    use tract_onnx::tract_core::ops::nn::DataFormat;

    #[test]
    fn the_built_in_model_is_one_program() {
        let bytes = crate::models::builtin(crate::Task::Denoise).expect("a built-in model");
        assert!(crate::network::Network::from_onnx("built-in", bytes).expect("a good model").is_streamed());
    }

    #[test]
    fn results_of_built_in_models_take_the_place_of_images() {
        let watch = Watch::default();
        for task in [crate::Task::Denoise, crate::Task::Axial, crate::Task::SuperResolve] {
            let bytes = crate::models::builtin(task).expect("a built-in model");
            let network = crate::network::Network::from_onnx("built-in", bytes).expect("a good model");
            for (y, x, threads) in [(8, 8, 1), (200, 72, 1), (136, 400, 3)] {
                let options = crate::network::RunOptions { threads, precise: false };
                assert!(network.memory_over_bytes([1, y, x], options).is_some(), "{task:?} of {y} by {x}");
                let image: Vec<f32> = (0..y * x).map(|i| (i * 7919 % 1000) as f32 / 1000.0).collect();
                let mut beside = vec![];
                network.run_into(&image, [1, y, x], &mut beside, options, &watch).expect("a result");
                let over = network.run_over(image, [1, y, x], options, &watch).expect("a result");
                assert!(over == beside, "{task:?} of {y} by {x}");
            }
        }
    }

    #[test]
    fn a_convolution_adds_and_halves() {
        let make = || -> TractResult<Option<Program>> {
            let mut model = TypedModel::default();
            let image = model.add_source("image", f32::fact([1, 8, 9, 9]))?;
            let weights = model.add_const("weights", tensor1(&[0.5_f32; 576]).into_shape(&[8, 8, 3, 3])?)?;
            let bias = model.add_const("bias", tensor1(&[0.0_f32; 8]))?;
            let pool_spec = PoolSpec::new(DataFormat::NCHW, tvec![3, 3], PaddingSpec::SameUpper, None, None, 8, 8);
            let conv = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group: 1, q_params: None };
            let result = model.wire_node("convolution", conv, &[image, weights, bias])?;
            let sum = model.wire_node("sum", tract_onnx::tract_core::ops::math::add(), &[image, result[0]])?;
            let zero = model.add_const("zero", tensor1(&[0.0_f32]).into_shape(&[1, 1, 1, 1])?)?;
            let sum = model.wire_node("rectifier", tract_onnx::tract_core::ops::math::max(), &[sum[0], zero])?;
            let strides = Some(tvec![2, 2]);
            let pool = PoolSpec::new(DataFormat::NCHW, tvec![2, 2], PaddingSpec::Valid, None, strides, 8, 8);
            let half = model.wire_node("half", MaxPool::new(pool, None), &sum)?;
            model.select_output_outlets(&half)?;
            whole(&model, false)
        };
        let program = make().expect("a good model").expect("a program");
        let steps: Vec<String> = program.steps.iter().map(|step| step.describe(&program)).collect();
        let convolution = "convolution (F(4x4, 3x3), 8 to 8, max-pool)";
        assert_eq!(steps, ["input (copy, 8 to 8)", convolution, "output (copy, 8 to 8)"]);
    }

    /// A network of stacks is one operator of tract's plan, not several beside tract's convolutions.
    #[test]
    fn a_convolution_of_stacks_is_a_program() {
        let make = || -> TractResult<TypedModel> {
            let mut model = TypedModel::default();
            let stack = model.add_source("stack", f32::fact([1, 2, 6, 8, 8]))?;
            let weights =
                model.add_const("weights", tensor4(&[[[[0.5_f32; 27]; 1]; 2]; 5]).into_shape(&[5, 2, 3, 3, 3])?)?;
            let bias = model.add_const("bias", tensor1(&[0.0_f32; 5]))?;
            let sides = tvec![3, 3, 3];
            let pool_spec = PoolSpec::new(DataFormat::NCHW, sides, PaddingSpec::SameUpper, None, None, 2, 5);
            let conv = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group: 1, q_params: None };
            let outputs = model.wire_node("convolution", conv, &[stack, weights, bias])?;
            model.select_output_outlets(&outputs)?;
            replace_parts(&mut model, false)?;
            Ok(model)
        };
        let model = make().expect("a good model");
        let order = model.eval_order().expect("a good model");
        let mut names =
            order.iter().map(|&id| model.node(id)).filter(|node| !node.inputs.is_empty()).map(|node| node.op.name());
        assert_eq!(names.next().as_deref(), Some("Part"));
        assert_eq!(names.next(), None);
    }
}
