//! tract's graph → [`Program`]. Of a decluttered model, whose sizes are all known, operators are taken one after the
//! other, in the order of evaluation, for as long as they are of the kinds that a program has; with a convolution goes
//! what follows it and what stands before it: activations, nearest-neighbour enlargement and concatenation. They are
//! kept as what they stand for, a list of tensors, until somebody needs them written out.

use super::direct::{Direct, Window, lanes_of};
use super::program::{MOST_SOURCES, Op, Phase, Program, Step, Tensor};
use super::simd::Isa;
use super::transform::Method;
use super::view::Activation;
use super::winograd::Winograd;
use std::collections::HashMap;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::{Pad, PadMode, TypedConcat};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::conv::KernelFormat;
use tract_onnx::tract_core::ops::cnn::{Conv, Deconv, MaxPool, PaddingSpec, PoolSpec};
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::{Add, Max, Tanh};
use tract_onnx::tract_core::ops::nn::resize::NearestUpsample;
use tract_onnx::tract_core::ops::nn::{DataFormat, LeakyRelu, Sigmoid};

/// Longest side of a kernel, stride and dilation, and most padding.
const MAX_SIDE: usize = 64;

/// One tensor after the other along the channels, each of which may count as enlarged twofold.
type Value = Vec<(usize, bool)>;

/// A program under construction.
pub(super) struct Builder {
    pub program: Program,
    /// Only methods that round hardly more than a sum.
    precise: bool,
    values: HashMap<OutletId, Value>,
    /// The outlets of tract's graph that the program's inputs are.
    pub inputs: Vec<OutletId>,
}

/// N, C, Y, X with N = 1, of f32, all known: C, Y, X.
fn image(fact: &TypedFact) -> Option<[usize; 3]> {
    match fact.shape.as_concrete()? {
        &[1, channels, rows, columns] if fact.datum_type == f32::datum_type() => Some([channels, rows, columns]),
        _ => None,
    }
}

/// The elements of a constant.
fn floats(fact: &TypedFact) -> Option<Vec<f32>> {
    let tensor = fact.konst.as_ref()?;
    Some(tensor.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?.to_vec())
}

fn pair(sides: &[usize]) -> Option<[usize; 2]> {
    <[usize; 2]>::try_from(sides).ok().filter(|pair| pair.iter().all(|&side| side <= MAX_SIDE))
}

impl Builder {
    pub(super) fn new(isa: Isa, precise: bool) -> Self {
        let program = Program { isa, tensors: vec![], steps: vec![], inputs: vec![], outputs: vec![] };
        Self { program, precise, values: HashMap::new(), inputs: vec![] }
    }

    /// Whether nothing was taken yet.
    pub(super) fn is_empty(&self) -> bool {
        self.program.steps.is_empty()
    }

    fn tensor(&mut self, channels: usize, external: bool) -> usize {
        let lanes = if external { 1 } else { lanes_of(self.program.isa, channels) };
        self.program.tensors.push(Tensor { channels, lanes, external });
        self.program.tensors.len() - 1
    }

    fn channels(&self, value: &Value) -> usize {
        value.iter().map(|source| self.program.tensors[source.0].channels).sum()
    }

    fn step(&mut self, name: &str, op: Op, from: Vec<usize>, channels: usize) -> usize {
        let to = self.tensor(channels, false);
        self.program.steps.push(Step { name: name.to_owned(), op, from, to });
        to
    }

    /// What an outlet holds; an input of the program where no operator of the program made it.
    fn value(&mut self, model: &TypedModel, outlet: OutletId) -> TractResult<Option<Value>> {
        if let Some(value) = self.values.get(&outlet) {
            return Ok(Some(value.clone()));
        }
        let fact = model.outlet_fact(outlet)?;
        let (Some([channels, ..]), None) = (image(fact), &fact.konst) else { return Ok(None) };
        let external = self.tensor(channels, true);
        self.program.inputs.push(external);
        self.inputs.push(outlet);
        let loaded = self.step("input", Op::Copy(0), vec![external], channels);
        let value = vec![(loaded, false)];
        self.values.insert(outlet, value.clone());
        Ok(Some(value))
    }

    /// The same with every enlarged tensor written out.
    fn enlarged(&mut self, name: &str, value: Value) -> Vec<usize> {
        let each = value.into_iter().map(|(tensor, doubled)| {
            if doubled {
                self.step(name, Op::Double, vec![tensor], self.program.tensors[tensor].channels)
            } else {
                tensor
            }
        });
        each.collect()
    }

    /// The same as one tensor.
    fn single(&mut self, name: &str, value: Value) -> usize {
        let channels = self.channels(&value);
        let parts = self.enlarged(name, value);
        if let [one] = parts[..] {
            return one;
        }
        let joined = self.tensor(channels, false);
        let mut first = 0;
        for part in parts {
            let step = Step { name: name.to_owned(), op: Op::Copy(first), from: vec![part], to: joined };
            self.program.steps.push(step);
            first += self.program.tensors[part].channels;
        }
        joined
    }

    /// Makes the values of these outlets the program's outputs. `None` where there is nothing to compute.
    pub(super) fn finish(mut self, model: &TypedModel, outputs: &[OutletId]) -> TractResult<Option<Self>> {
        for &outlet in outputs {
            let Some(value) = self.value(model, outlet)? else { return Ok(None) };
            let tensor = self.single("output", value);
            let external = self.tensor(self.program.tensors[tensor].channels, true);
            self.program.outputs.push(external);
            // A step that makes planes for this output alone makes them there at once.
            let planes = self.program.tensors[tensor].lanes == 1;
            let read = self.program.steps.iter().any(|step| step.from.contains(&tensor));
            let mut made = self.program.steps.iter_mut().filter(|step| step.to == tensor);
            match (made.next(), made.next()) {
                (Some(step), None) if planes && !read => step.to = external,
                _ => {
                    let (name, op) = ("output".to_owned(), Op::Copy(0));
                    self.program.steps.push(Step { name, op, from: vec![tensor], to: external });
                }
            }
        }
        Ok(Some(self))
    }

    /// Takes an operator into the program; whether that was possible.
    pub(super) fn take(&mut self, model: &TypedModel, node: &TypedNode) -> TractResult<bool> {
        if node.outputs.len() != 1 || image(&node.outputs[0].fact).is_none() {
            return Ok(false);
        }
        let before = self.clone_lengths();
        let value = if let Some(op) = node.op_as::<Conv>() {
            self.convolution(model, node, op)?
        } else if let Some(op) = node.op_as::<super::Pointwise>() {
            self.convolution(model, node, &op.0)?
        } else if let Some(op) = node.op_as::<Deconv>() {
            self.transposed(model, node, op)?
        } else if let Some(op) = node.op_as::<MaxPool>() {
            self.halved(model, node, op)?
        } else if let Some(op) = node.op_as::<NearestUpsample>() {
            self.doubled(model, node, op)?
        } else if let Some(op) = node.op_as::<TypedConcat>() {
            self.concatenated(model, node, op)?
        } else if let Some(op) = node.op_as::<TypedBinOp>() {
            if op.0.is::<Max>() {
                self.rectified(model, node)?
            } else if op.0.is::<Add>() {
                self.added(model, node)?
            } else {
                None
            }
        } else if let Some(op) = node.op_as::<ElementWiseOp>() {
            let activation = match () {
                () if op.0.is::<Tanh>() => Some(Activation::Tanh),
                () if op.0.is::<Sigmoid>() => Some(Activation::Sigmoid),
                () => op.0.downcast_ref::<LeakyRelu>().map(|op| Activation::Leaky(op.alpha)),
            };
            match activation {
                Some(activation) => self.activated(model, node, node.inputs[0], activation)?,
                None => None,
            }
        } else if let Some(op) = node.op_as::<Pad>() {
            self.reflected(model, node, op)?
        } else {
            None
        };
        match value {
            Some(value) => drop(self.values.insert(node.id.into(), value)),
            None => self.forget(before),
        }
        Ok(self.values.contains_key(&node.id.into()))
    }

    /// How much there is, to go back to.
    fn clone_lengths(&self) -> [usize; 3] {
        [self.program.tensors.len(), self.program.steps.len(), self.inputs.len()]
    }

    fn forget(&mut self, [tensors, steps, inputs]: [usize; 3]) {
        self.program.tensors.truncate(tensors);
        self.program.steps.truncate(steps);
        self.program.inputs.truncate(inputs);
        self.inputs.truncate(inputs);
        self.values.retain(|_, value| value.iter().all(|source| source.0 < tensors));
    }

    /// Channels of each tensor, and whether it counts as enlarged.
    fn sources(&self, value: &Value) -> Vec<(usize, bool)> {
        value.iter().map(|&(tensor, doubled)| (self.program.tensors[tensor].channels, doubled)).collect()
    }

    /// Winograd's method for a convolution, if there is one.
    fn method(&self, window: Window, value: &Value, outputs: usize) -> Option<Method> {
        let vectors = lanes_of(self.program.isa, outputs) > 1
            && value.iter().all(|source| self.program.tensors[source.0].lanes > 1)
            && value.len() <= MOST_SOURCES;
        let doubled = value.iter().any(|source| source.1);
        if vectors { Winograd::method(window, doubled, self.precise) } else { None }
    }

    fn convolution(&mut self, model: &TypedModel, node: &TypedNode, conv: &Conv) -> TractResult<Option<Value>> {
        let Some((kernel, weights, bias)) =
            parameters(model, node, &conv.pool_spec, conv.kernel_fmt, conv.group, conv.output_channels())?
        else {
            return Ok(None);
        };
        let Some(input) = image(model.outlet_fact(node.inputs[0])?) else { return Ok(None) };
        if conv.q_params.is_some() || weights.len() != bias.len() * input[0] * kernel[0] * kernel[1] {
            return Ok(None);
        }
        let pool = &conv.pool_spec;
        let along = pool.computed_padding(&input[1..]);
        let before = [along[0].pad_before, along[1].pad_before];
        let after = [along[0].pad_after, along[1].pad_after];
        let (Some(stride), Some(dilation), Some(_), Some(_)) =
            (pair(&pool.strides()), pair(&pool.dilations()), pair(&before), pair(&after))
        else {
            return Ok(None);
        };
        let Some(value) = self.value(model, node.inputs[0])? else { return Ok(None) };
        let window = Window { kernel, stride, dilation, before: before.map(|n| n as isize) };
        // Winograd's method takes enlarged inputs as they are.
        let value = match self.method(window, &value, bias.len()) {
            Some(_) => value,
            None => self.enlarged(&node.name, value).into_iter().map(|tensor| (tensor, false)).collect(),
        };
        let value = if value.len() > MOST_SOURCES { vec![(self.single(&node.name, value), false)] } else { value };
        let sources = self.sources(&value);
        let isa = self.program.isa;
        let op = if let Some(method) = self.method(window, &value, bias.len()) {
            let more = [0, 1].map(|axis| (before[axis] + after[axis] + stride[axis]) as isize - kernel[axis] as isize);
            Op::Winograd(Winograd::convolution(isa, method, window, &sources, &weights, &bias), more)
        } else {
            let channels: Vec<usize> = sources.iter().map(|source| source.0).collect();
            Op::Direct(Direct::new(isa, window, &channels, &weights, &bias), after)
        };
        let from = value.into_iter().map(|source| source.0).collect();
        Ok(Some(vec![(self.step(&node.name, op, from, bias.len()), false)]))
    }

    /// Output o gets taps k of input i where o = i stride + k − before, so that outputs of one remainder see every
    /// stride-th tap, in reverse: an ordinary convolution each.
    fn transposed(&mut self, model: &TypedModel, node: &TypedNode, deconv: &Deconv) -> TractResult<Option<Value>> {
        let pool = &deconv.pool_spec;
        let outputs = pool.output_channels;
        let Some((kernel, weights, bias)) = parameters(model, node, pool, deconv.kernel_format, deconv.group, outputs)?
        else {
            return Ok(None);
        };
        let inputs = pool.input_channels;
        let ones = pool.dilations().iter().all(|&dilation| dilation == 1);
        let (Some(stride), PaddingSpec::Explicit(before, after)) = (pair(&pool.strides()), &pool.padding) else {
            return Ok(None);
        };
        let (Some(before), Some(after), Some(adjust)) = (pair(before), pair(after), pair(&deconv.adjustments)) else {
            return Ok(None);
        };
        if !ones || weights.len() != outputs * inputs * kernel[0] * kernel[1] {
            return Ok(None);
        }
        let Some(value) = self.value(model, node.inputs[0])? else { return Ok(None) };
        let from = self.enlarged(&node.name, value);
        if from.len() > MOST_SOURCES {
            return Ok(None);
        }
        let more = [0, 1].map(|axis| (kernel[axis] + adjust[axis]) as isize - (before[axis] + after[axis]) as isize);
        let window = Window { kernel, stride, dilation: [1, 1], before: before.map(|n| n as isize) };
        let value = from.iter().map(|&tensor| (tensor, false)).collect();
        // Of 3 by 3 taps the method would add 7 that are zero; measured no faster.
        let method = self.method(window, &value, outputs).filter(|_| stride == [2, 2] && kernel != [3, 3]);
        if let Some(method) = method {
            let sources = self.sources(&value);
            let winograd = Winograd::transposed(self.program.isa, method, window, &sources, &weights, &bias);
            let op = Op::Winograd(winograd, more.map(|more| more - 2));
            return Ok(Some(vec![(self.step(&node.name, op, from, outputs), false)]));
        }
        let channels: Vec<usize> = from.iter().map(|&tensor| self.program.tensors[tensor].channels).collect();
        // Of each remainder of o + before: first output, taps, and inputs before the first one.
        let phases = |axis: usize| {
            (0..stride[axis]).map(move |remainder| {
                let taps = (remainder..kernel[axis]).step_by(stride[axis]).count();
                let first = before[axis].saturating_sub(remainder).div_ceil(stride[axis]);
                let at = first * stride[axis] + remainder - before[axis];
                (remainder, at, taps, taps as isize - 1 - first as isize)
            })
        };
        let mut list = vec![];
        for (y, at_y, rows, before_y) in phases(0) {
            for (x, at_x, columns, before_x) in phases(1) {
                let mut part = Vec::with_capacity(outputs * inputs * rows * columns);
                for channels in 0..outputs * inputs {
                    for ky in (0..rows).rev() {
                        for kx in (0..columns).rev() {
                            let tap = (y + ky * stride[0]) * kernel[1] + x + kx * stride[1];
                            part.push(weights[channels * kernel[0] * kernel[1] + tap]);
                        }
                    }
                }
                let window =
                    Window { kernel: [rows, columns], stride: [1, 1], dilation: [1, 1], before: [before_y, before_x] };
                let direct = Direct::new(self.program.isa, window, &channels, &part, &bias);
                list.push(Phase { at: [at_y, at_x], direct });
            }
        }
        let op = Op::Transposed { phases: list, stride, more };
        Ok(Some(vec![(self.step(&node.name, op, from, outputs), false)]))
    }

    fn halved(&mut self, model: &TypedModel, node: &TypedNode, op: &MaxPool) -> TractResult<Option<Value>> {
        let pool = &op.pool_spec;
        let Some(input) = image(model.outlet_fact(node.inputs[0])?) else { return Ok(None) };
        let two = |sides: &[usize]| sides == [2, 2];
        let simple = op.with_index_outputs.is_none()
            && pool.data_format == DataFormat::NCHW
            && two(&pool.kernel_shape)
            && two(&pool.strides())
            && pool.dilations().iter().all(|&dilation| dilation == 1);
        let along = pool.computed_padding(&input[1..]);
        let whole =
            along.iter().zip(&input[1..]).all(|(axis, side)| axis.pad_before == 0 && axis.convoluted == side / 2);
        if !simple || !whole {
            return Ok(None);
        }
        let Some(value) = self.value(model, node.inputs[0])? else { return Ok(None) };
        let tensors = self.enlarged(&node.name, value);
        let each = tensors.into_iter().map(|tensor| {
            let channels = self.program.tensors[tensor].channels;
            (self.step(&node.name, Op::Halve, vec![tensor], channels), false)
        });
        Ok(Some(each.collect()))
    }

    fn doubled(&mut self, model: &TypedModel, node: &TypedNode, op: &NearestUpsample) -> TractResult<Option<Value>> {
        if op.scales[..] != [1, 1, 2, 2] {
            return Ok(None);
        }
        let Some(value) = self.value(model, node.inputs[0])? else { return Ok(None) };
        let tensors = self.enlarged(&node.name, value);
        Ok(Some(tensors.into_iter().map(|tensor| (tensor, true)).collect()))
    }

    fn concatenated(&mut self, model: &TypedModel, node: &TypedNode, op: &TypedConcat) -> TractResult<Option<Value>> {
        if op.axis != 1 {
            return Ok(None);
        }
        let mut all = vec![];
        for &input in &node.inputs {
            match self.value(model, input)? {
                Some(value) => all.extend(value),
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    /// max(x, 0).
    fn rectified(&mut self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<Value>> {
        for (input, other) in [(0, 1), (1, 0)] {
            let zero = floats(model.outlet_fact(node.inputs[other])?).is_some_and(|all| all.iter().all(|&x| x == 0.0));
            if zero && model.outlet_fact(node.inputs[input])?.shape == node.outputs[0].fact.shape {
                return self.activated(model, node, node.inputs[input], Activation::Relu);
            }
        }
        Ok(None)
    }

    /// An activation, by the step before it where that makes nothing else.
    fn activated(
        &mut self,
        model: &TypedModel,
        node: &TypedNode,
        input: OutletId,
        activation: Activation,
    ) -> TractResult<Option<Value>> {
        let Some(value) = self.value(model, input)? else { return Ok(None) };
        let [(tensor, doubled)] = value[..] else { return Ok(None) };
        let elsewhere =
            self.values.iter().any(|(&outlet, value)| outlet != input && value.iter().any(|source| source.0 == tensor));
        let alone =
            !elsewhere && model.outlet_successors(input).len() == 1 && !model.output_outlets()?.contains(&input);
        let maker = self.program.steps.iter_mut().find(|step| step.to == tensor).filter(|_| alone);
        let places: Vec<&mut Activation> = match maker.map(|step| &mut step.op) {
            Some(Op::Winograd(winograd, _)) => vec![&mut winograd.activation],
            Some(Op::Direct(direct, _)) => vec![&mut direct.activation],
            Some(Op::Transposed { phases, .. }) => phases.iter_mut().map(|p| &mut p.direct.activation).collect(),
            Some(Op::Map(before)) => vec![before],
            _ => vec![],
        };
        let free = !places.is_empty() && places.iter().all(|place| **place == Activation::None);
        if free && (activation.is_simple() || self.program.tensors[tensor].lanes == 1) {
            places.into_iter().for_each(|place| *place = activation);
            return Ok(Some(value));
        }
        let channels = self.program.tensors[tensor].channels;
        Ok(Some(vec![(self.step(&node.name, Op::Map(activation), vec![tensor], channels), doubled)]))
    }

    fn added(&mut self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<Value>> {
        let shape = &node.outputs[0].fact.shape;
        let mut both = vec![];
        for &input in &node.inputs {
            if model.outlet_fact(input)?.shape != *shape {
                return Ok(None);
            }
            let Some(value) = self.value(model, input)? else { return Ok(None) };
            both.push(self.single(&node.name, value));
        }
        let channels = self.program.tensors[both[0]].channels;
        Ok(Some(vec![(self.step(&node.name, Op::Map(Activation::None), both, channels), false)]))
    }

    fn reflected(&mut self, model: &TypedModel, node: &TypedNode, op: &Pad) -> TractResult<Option<Value>> {
        let [(0, 0), (0, 0), (above, below), (left, right)] = op.pads[..] else { return Ok(None) };
        let (Some(before), Some(after)) = (pair(&[above, left]), pair(&[below, right])) else { return Ok(None) };
        if !matches!(op.mode, PadMode::Reflect) {
            return Ok(None);
        }
        let Some(value) = self.value(model, node.inputs[0])? else { return Ok(None) };
        let tensor = self.single(&node.name, value);
        let channels = self.program.tensors[tensor].channels;
        Ok(Some(vec![(self.step(&node.name, Op::Reflect(before, after), vec![tensor], channels), false)]))
    }
}

/// Kernel, weights and bias.
type Parameters = ([usize; 2], Vec<f32>, Vec<f32>);

/// Sides of the kernel, weights in the order output, input, row, column, and bias of a convolution that is f32, two-
/// dimensional and of one group; `None` of others.
fn parameters(
    model: &TypedModel,
    node: &TypedNode,
    pool: &PoolSpec,
    format: KernelFormat,
    groups: usize,
    outputs: usize,
) -> TractResult<Option<Parameters>> {
    let &[_, weights, bias] = &node.inputs[..] else { return Ok(None) };
    let (Some(kernel), Some(weights), Some(bias)) =
        (pair(&pool.kernel_shape), floats(model.outlet_fact(weights)?), floats(model.outlet_fact(bias)?))
    else {
        return Ok(None);
    };
    let bias = match bias[..] {
        [one] => vec![one; outputs],
        _ => bias,
    };
    let simple = format == KernelFormat::OIHW
        && groups == 1
        && pool.data_format == DataFormat::NCHW
        && kernel.iter().all(|&side| side > 0)
        && bias.len() == outputs;
    Ok(simple.then_some((kernel, weights, bias)))
}
