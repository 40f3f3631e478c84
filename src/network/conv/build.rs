//! tract's graph → [`Program`]. Of a decluttered model, whose sizes are all known, operators are taken one after the
//! other, in the order of evaluation, for as long as they are of the kinds that a program has. With a convolution goes
//! what follows it: an addition, an activation, max-pooling; and what stands before it: nearest-neighbour enlargement and
//! concatenation, which are kept as what they stand for, a list of tensors, until somebody needs them written out.

use super::direct::lanes_of;
use super::program::{MOST_SOURCES, Op, Program, Step, Tensor};
use super::simd::Isa;
use super::view::{self, Activation};
use super::winograd::Winograd;
use std::collections::HashMap;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::{Pad, PadMode, TypedConcat};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, Deconv, MaxPool};
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::{Add, Max, Tanh};
use tract_onnx::tract_core::ops::nn::resize::NearestUpsample;
use tract_onnx::tract_core::ops::nn::{DataFormat, LeakyRelu, Sigmoid};

/// Longest side of a kernel, stride and dilation, and most padding.
const MAX_SIDE: usize = 64;
/// Samples of weights that a last cache of 16 MB keeps.
const CACHED_WEIGHTS: usize = 4 << 20;
/// Most planes of a stack: each has steps of its own.
const MAX_PLANES: usize = 1024;

/// One tensor after the other along the channels, each of which may count as enlarged twofold.
pub(super) type Plane = Vec<(usize, bool)>;
/// The planes of a stack; of an image, one.
pub(super) type Value = Vec<Plane>;

/// A program under construction.
pub(super) struct Builder {
    pub program: Program,
    /// Only methods that round hardly more than a sum.
    pub precise: bool,
    values: HashMap<OutletId, Value>,
    /// The outlets of tract's graph that the program's inputs are.
    pub inputs: Vec<OutletId>,
}

/// N, C, Y, X or N, C, Z, Y, X with N = 1, of f32, all known: C, Z, Y, X.
pub(super) fn image(fact: &TypedFact) -> Option<[usize; 4]> {
    let shape = match *fact.shape.as_concrete()? {
        [1, channels, rows, columns] => [channels, 1, rows, columns],
        [1, channels, planes, rows, columns] if planes <= MAX_PLANES => [channels, planes, rows, columns],
        _ => return None,
    };
    (fact.datum_type == f32::datum_type()).then_some(shape)
}

/// The elements of a constant.
pub(super) fn floats(fact: &TypedFact) -> Option<Vec<f32>> {
    let tensor = fact.konst.as_ref()?;
    Some(tensor.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?.to_vec())
}

/// Numbers along Z, Y, X of those along the axes there are; `along_z` where there is no Z.
pub(super) fn triple(sides: &[usize], along_z: usize) -> Option<[usize; 3]> {
    let triple = match *sides {
        [y, x] => [along_z, y, x],
        [z, y, x] => [z, y, x],
        _ => return None,
    };
    triple.iter().all(|&side| side <= MAX_SIDE).then_some(triple)
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

    pub(super) fn channels(&self, plane: &Plane) -> usize {
        plane.iter().map(|source| self.program.tensors[source.0].channels).sum()
    }

    pub(super) fn step(&mut self, name: &str, op: Op, from: Vec<usize>, channels: usize) -> usize {
        let to = self.tensor(channels, false);
        self.program.steps.push(Step { name: name.to_owned(), op, from, to, halved: None });
        to
    }

    /// What an outlet holds; an input of the program where no operator of the program made it.
    pub(super) fn value(&mut self, model: &TypedModel, outlet: OutletId) -> TractResult<Option<Value>> {
        if let Some(value) = self.values.get(&outlet) {
            return Ok(Some(value.clone()));
        }
        let fact = model.outlet_fact(outlet)?;
        let (Some([channels, planes, ..]), None) = (image(fact), &fact.konst) else { return Ok(None) };
        let externals: Vec<usize> = (0..planes).map(|_| self.tensor(channels, true)).collect();
        self.program.inputs.push(externals.clone());
        self.inputs.push(outlet);
        let load = |external| vec![(self.step("input", Op::Copy(0), vec![external], channels), false)];
        let value: Value = externals.into_iter().map(load).collect();
        self.values.insert(outlet, value.clone());
        Ok(Some(value))
    }

    /// Makes something of every plane; of equal planes once. `None` where it cannot be made of one.
    pub(super) fn each(
        &mut self,
        value: Value,
        mut make: impl FnMut(&mut Self, Plane) -> Option<Plane>,
    ) -> Option<Value> {
        let mut made: HashMap<Plane, Plane> = HashMap::new();
        let planes = value.into_iter().map(|plane| {
            if let Some(done) = made.get(&plane) {
                return Some(done.clone());
            }
            let result = make(self, plane.clone())?;
            made.insert(plane, result.clone());
            Some(result)
        });
        planes.collect()
    }

    /// The same with every enlarged tensor written out.
    pub(super) fn enlarged(&mut self, name: &str, value: Value) -> Value {
        let whole = |builder: &mut Self, plane: Plane| {
            let each = plane.into_iter().map(|(tensor, doubled)| {
                let channels = builder.program.tensors[tensor].channels;
                (if doubled { builder.step(name, Op::Double, vec![tensor], channels) } else { tensor }, false)
            });
            Some(each.collect())
        };
        self.each(value, whole).expect("every plane can be written out")
    }

    /// A plane as one tensor.
    pub(super) fn single(&mut self, name: &str, plane: Plane) -> usize {
        let channels = self.channels(&plane);
        let parts = self.enlarged(name, vec![plane]).concat();
        if let [(one, _)] = parts[..] {
            return one;
        }
        let joined = self.tensor(channels, false);
        let mut first = 0;
        for (part, _) in parts {
            let step = Step { name: name.to_owned(), op: Op::Copy(first), from: vec![part], to: joined, halved: None };
            self.program.steps.push(step);
            first += self.program.tensors[part].channels;
        }
        joined
    }

    /// Makes the values of these outlets the program's outputs. `None` where there is nothing to compute.
    pub(super) fn finish(mut self, model: &TypedModel, outputs: &[OutletId]) -> TractResult<Option<Self>> {
        for &outlet in outputs {
            let Some(value) = self.value(model, outlet)? else { return Ok(None) };
            let planes = value.into_iter().map(|plane| self.output(plane)).collect();
            self.program.outputs.push(planes);
        }
        self.spare_weights();
        Ok(Some(self))
    }

    /// Weights of which no cache can keep all are read as seldom as can be.
    fn spare_weights(&mut self) {
        let mut convolutions: Vec<&mut Winograd> = vec![];
        for step in &mut self.program.steps {
            if let Op::Winograd(winograd, _) = &mut step.op {
                convolutions.push(winograd);
            }
        }
        let length = |winograd: &&mut Winograd| (winograd.kernels().as_ptr(), winograd.packed_len());
        let each: HashMap<*const f32, usize> = convolutions.iter().map(length).collect();
        if each.values().sum::<usize>() > CACHED_WEIGHTS {
            convolutions.into_iter().for_each(Winograd::spare_weights);
        }
    }

    /// Makes a plane one of an output.
    fn output(&mut self, plane: Plane) -> usize {
        let tensor = self.single("output", plane);
        let external = self.tensor(self.program.tensors[tensor].channels, true);
        // A step that makes planes for this output alone makes them there at once.
        let planes = self.program.tensors[tensor].lanes == 1;
        let read = self.program.steps.iter().any(|step| step.from.contains(&tensor));
        let mut made = self.program.steps.iter_mut().filter(|step| step.to == tensor);
        match (made.next(), made.next()) {
            (Some(step), None) if planes && !read => step.to = external,
            _ => {
                let (name, op) = ("output".to_owned(), Op::Copy(0));
                self.program.steps.push(Step { name, op, from: vec![tensor], to: external, halved: None });
            }
        }
        external
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
        self.values.retain(|_, value| value.iter().flatten().all(|source| source.0 < tensors));
    }

    fn halved(&mut self, model: &TypedModel, node: &TypedNode, op: &MaxPool) -> TractResult<Option<Value>> {
        let pool = &op.pool_spec;
        let input = model.outlet_fact(node.inputs[0])?;
        let sides = input.shape.as_concrete().and_then(|shape| shape.get(2..)).unwrap_or_default();
        let Some(kernel @ ([1, 2, 2] | [2, 2, 2])) = triple(&pool.kernel_shape, 1) else { return Ok(None) };
        let simple = op.with_index_outputs.is_none()
            && pool.data_format == DataFormat::NCHW
            && pool.strides()[..] == pool.kernel_shape[..]
            && pool.dilations().iter().all(|&dilation| dilation == 1)
            && sides.len() == pool.rank();
        let along = pool.computed_padding(sides);
        let whole = along
            .iter()
            .zip(sides.iter().zip(&pool.kernel_shape))
            .all(|(axis, (side, kernel))| axis.pad_before == 0 && axis.convoluted == side / kernel);
        if !simple || !whole {
            return Ok(None);
        }
        let Some(value) = self.value(model, node.inputs[0])? else { return Ok(None) };
        let value = self.enlarged(&node.name, value);
        let mut result = vec![];
        for planes in value.chunks_exact(kernel[0]) {
            let each = planes[0].iter().enumerate().map(|(part, &(tensor, _))| {
                let from = planes.iter().map(|plane| plane[part].0).collect();
                let there = if planes.len() == 1 { self.halved_there(tensor) } else { None };
                let step = || self.step(&node.name, Op::Halve, from, self.program.tensors[tensor].channels);
                (there.unwrap_or_else(step), false)
            });
            result.push(each.collect());
        }
        Ok(Some(result))
    }

    /// The largest of each 2 by 2 pixels of a tensor, by the convolution that makes it, if there is one that can.
    fn halved_there(&mut self, tensor: usize) -> Option<usize> {
        let place = self.program.steps.iter().position(|step| step.to == tensor)?;
        let Op::Winograd(winograd, _) = &self.program.steps[place].op else { return None };
        if self.program.steps[place].halved.is_none() && winograd.can_halve() {
            let halved = self.tensor(self.program.tensors[tensor].channels, false);
            self.program.steps[place].halved = Some(halved);
        }
        self.program.steps[place].halved
    }

    fn doubled(&mut self, model: &TypedModel, node: &TypedNode, op: &NearestUpsample) -> TractResult<Option<Value>> {
        let ([1, 1, 2, 2] | [1, 1, 1 | 2, 2, 2]) = op.scales[..] else { return Ok(None) };
        let along_z = if op.scales.len() == 5 { op.scales[2] } else { 1 };
        let Some(value) = self.value(model, node.inputs[0])? else { return Ok(None) };
        let value = self.enlarged(&node.name, value);
        let twice = |plane: Plane| plane.into_iter().map(|(tensor, _)| (tensor, true)).collect();
        Ok(Some(value.into_iter().map(twice).flat_map(|plane: Plane| std::iter::repeat_n(plane, along_z)).collect()))
    }

    fn concatenated(&mut self, model: &TypedModel, node: &TypedNode, op: &TypedConcat) -> TractResult<Option<Value>> {
        if op.axis != 1 {
            return Ok(None);
        }
        let mut all: Value = vec![];
        for &input in &node.inputs {
            let Some(value) = self.value(model, input)? else { return Ok(None) };
            all.resize(value.len(), vec![]);
            all.iter_mut().zip(value).for_each(|(all, plane)| all.extend(plane));
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
        let apply = |builder: &mut Self, plane: Plane| {
            let [(tensor, doubled)] = plane[..] else { return None };
            let alone = builder.is_alone(model, input, tensor);
            let maker = builder.program.steps.iter_mut().find(|step| step.to == tensor).filter(|_| alone);
            let places: Vec<&mut Activation> = match maker.map(|step| &mut step.op) {
                Some(Op::Winograd(winograd, _)) => vec![&mut winograd.activation],
                Some(Op::Direct(direct, _)) => vec![&mut direct.activation],
                Some(Op::Transposed { phases, .. }) => phases.iter_mut().map(|p| &mut p.direct.activation).collect(),
                Some(Op::Map(before)) => vec![before],
                _ => vec![],
            };
            let free = !places.is_empty() && places.iter().all(|place| **place == Activation::None);
            if free && (activation.is_simple() || builder.program.tensors[tensor].lanes == 1) {
                places.into_iter().for_each(|place| *place = activation);
                return Some(plane);
            }
            let channels = builder.program.tensors[tensor].channels;
            Some(vec![(builder.step(&node.name, Op::Map(activation), vec![tensor], channels), doubled)])
        };
        Ok(self.each(value, apply))
    }

    /// Whether nothing but the operator that takes this outlet will read a tensor of its value.
    fn is_alone(&self, model: &TypedModel, outlet: OutletId, tensor: usize) -> bool {
        let only = model.outlet_successors(outlet).len() == 1 && !model.outputs.contains(&outlet);
        let mut others = self.values.iter().filter(|(other, _)| **other != outlet);
        only && !others.any(|(_, value)| value.iter().flatten().any(|source| source.0 == tensor))
    }

    fn added(&mut self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<Value>> {
        let shape = &node.outputs[0].fact.shape;
        let mut both = vec![];
        for &input in &node.inputs {
            if model.outlet_fact(input)?.shape != *shape {
                return Ok(None);
            }
            let Some(value) = self.value(model, input)? else { return Ok(None) };
            both.push(value);
        }
        let [first, second] = <[Value; 2]>::try_from(both).expect("a sum of two");
        let image = first.len() == 1;
        let sum = |(first, second): (Plane, Plane)| {
            let terms = [first, second].map(|plane| self.single(&node.name, plane));
            for (place, [term, other]) in [terms, [terms[1], terms[0]]].into_iter().enumerate() {
                if image && self.is_alone(model, node.inputs[place], term) && self.adds_there(term, other) {
                    // The term alone is no more.
                    self.values.remove(&node.inputs[place]);
                    return vec![(term, false)];
                }
            }
            let channels = self.program.tensors[terms[0]].channels;
            vec![(self.step(&node.name, Op::Map(Activation::None), terms.to_vec(), channels), false)]
        };
        Ok(Some(first.into_iter().zip(second).map(sum).collect()))
    }

    /// Lets the convolution that makes `term` add another tensor, if there is one that can.
    fn adds_there(&mut self, term: usize, other: usize) -> bool {
        let Some(place) = self.program.steps.iter().position(|step| step.to == term) else { return false };
        let step = &mut self.program.steps[place];
        let Op::Winograd(winograd, _) = &step.op else { return false };
        let adds = !winograd.convolves(step.from.len() - 1);
        if term == other || step.from.len() == MOST_SOURCES || adds || !winograd.can_add() {
            return false;
        }
        step.from.push(other);
        // All that is there by now may be what the other is made of.
        let step = self.program.steps.remove(place);
        self.program.steps.push(step);
        true
    }

    fn reflected(&mut self, model: &TypedModel, node: &TypedNode, op: &Pad) -> TractResult<Option<Value>> {
        let [(0, 0), (0, 0), along @ ..] = &op.pads[..] else { return Ok(None) };
        let sides = |side: fn(&(usize, usize)) -> usize| along.iter().map(side).collect::<Vec<usize>>();
        let (before, after) = (triple(&sides(|pad| pad.0), 0), triple(&sides(|pad| pad.1), 0));
        let (Some(before), Some(after), PadMode::Reflect) = (before, after, &op.mode) else { return Ok(None) };
        let Some(value) = self.value(model, node.inputs[0])? else { return Ok(None) };
        if before[0].max(after[0]) >= value.len() {
            return Ok(None);
        }
        let planes = before[0] + value.len() + after[0];
        let value = (0..planes).map(|z| value[view::reflected(z, before[0], value.len())].clone()).collect();
        let pad = |builder: &mut Self, plane: Plane| {
            let tensor = builder.single(&node.name, plane);
            let op = Op::Reflect([before[1], before[2]], [after[1], after[2]]);
            Some(vec![(builder.step(&node.name, op, vec![tensor], builder.program.tensors[tensor].channels), false)])
        };
        Ok(self.each(value, pad))
    }
}
