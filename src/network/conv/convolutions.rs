//! Convolutions and transposed convolutions of tract's graph → steps of a [`Program`](super::program::Program), each by
//! the kernel that suits it: Winograd's method where there is one for its shape, else the definition.

use super::build::{Builder, Plane, Value, floats, image, triple};
use super::direct::{self, Direct, MOST_ROWS, Window, lanes_of};
use super::program::{MOST_SOURCES, Op};
use super::transform::Method;
use super::winograd::Winograd;
use std::collections::HashMap;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::conv::KernelFormat;
use tract_onnx::tract_core::ops::cnn::{Conv, Deconv, PaddingSpec, PoolSpec};
use tract_onnx::tract_core::ops::nn::DataFormat;

fn pair(sides: &[usize]) -> Option<[usize; 2]> {
    triple(sides, 1).filter(|_| sides.len() == 2).map(|[_, y, x]| [y, x])
}

impl Builder {
    /// Channels of each tensor, and whether it counts as enlarged.
    fn sources(&self, plane: &Plane) -> Vec<(usize, bool)> {
        plane.iter().map(|&(tensor, doubled)| (self.program.tensors[tensor].channels, doubled)).collect()
    }

    /// Winograd's method for a convolution of such planes, if there is one.
    fn method(&self, window: Window, transposed: bool, plane: &Plane, outputs: usize) -> Option<Method> {
        let vectors = lanes_of(self.program.isa, outputs) > 1
            && plane.iter().all(|source| self.program.tensors[source.0].lanes > 1);
        let doubled = plane.iter().any(|source| source.1);
        let kernels = self.channels(plane) * outputs;
        if vectors { Winograd::method(window, transposed, kernels, doubled, self.precise) } else { None }
    }

    /// Along Z, a plane of the result is a convolution in two dimensions of all planes under the window, one after the
    /// other along the channels. At the first and last planes some are missing; their taps are left out.
    pub(super) fn convolution(
        &mut self,
        model: &TypedModel,
        node: &TypedNode,
        conv: &Conv,
    ) -> TractResult<Option<Value>> {
        let Some(Parameters { kernel, weights, bias }) =
            parameters(model, node, &conv.pool_spec, conv.kernel_fmt, conv.group, conv.output_channels())?
        else {
            return Ok(None);
        };
        let input = model.outlet_fact(node.inputs[0])?;
        let Some([inputs, ..]) = image(input) else { return Ok(None) };
        let Some([_, planes, ..]) = image(&node.outputs[0].fact) else { return Ok(None) };
        if conv.q_params.is_some() || weights.len() != bias.len() * inputs * kernel.iter().product::<usize>() {
            return Ok(None);
        }
        let pool = &conv.pool_spec;
        let along = pool.computed_padding(&input.shape.as_concrete().expect("an image")[2..]);
        let before: Vec<usize> = along.iter().map(|axis| axis.pad_before).collect();
        let after: Vec<usize> = along.iter().map(|axis| axis.pad_after).collect();
        let (Some(stride), Some(dilation), Some(before), Some(after)) =
            (triple(&pool.strides(), 1), triple(&pool.dilations(), 1), triple(&before, 0), triple(&after, 0))
        else {
            return Ok(None);
        };
        let Some(value) = self.value(model, node.inputs[0])? else { return Ok(None) };
        let window = Window {
            kernel: [kernel[1], kernel[2]],
            stride: [stride[1], stride[2]],
            dilation: [dilation[1], dilation[2]],
            before: [before[1] as isize, before[2] as isize],
        };
        // Winograd's method takes enlarged inputs as they are.
        let value = match self.method(window, false, &value[0], bias.len()) {
            Some(_) => value,
            None => self.enlarged(&node.name, value),
        };
        let mut result = vec![];
        // Weights are packed once for all planes that see the same taps.
        let mut packed: HashMap<Vec<usize>, Op> = HashMap::new();
        for z in 0..planes {
            let under = |tap: usize| (z * stride[0] + tap * dilation[0]).checked_sub(before[0]);
            let seen = |tap: usize| under(tap).and_then(|plane| value.get(plane));
            let taps: Vec<usize> = (0..kernel[0]).filter(|&tap| seen(tap).is_some()).collect();
            let mut plane: Plane = taps.iter().filter_map(|&tap| seen(tap)).flatten().copied().collect();
            if plane.is_empty() {
                return Ok(None);
            }
            if plane.len() > MOST_SOURCES.min(MOST_ROWS / kernel[1]) {
                plane = vec![(self.single(&node.name, plane), false)];
            }
            let op = packed.entry(taps).or_insert_with_key(|taps| {
                let weights = with_taps(&weights, [bias.len(), inputs, kernel[0], kernel[1] * kernel[2]], taps);
                let (isa, sources) = (self.program.isa, self.sources(&plane));
                if let Some(method) = self.method(window, false, &plane, bias.len()) {
                    let more =
                        [1, 2].map(|axis| (before[axis] + after[axis] + stride[axis]) as isize - kernel[axis] as isize);
                    Op::Winograd(Winograd::convolution(isa, method, window, &sources, &weights, &bias), more)
                } else {
                    let channels: Vec<usize> = sources.iter().map(|source| source.0).collect();
                    Op::Direct(Direct::new(isa, window, &channels, &weights, &bias), [after[1], after[2]])
                }
            });
            let (op, from) = (op.clone(), plane.into_iter().map(|source| source.0).collect());
            result.push(vec![(self.step(&node.name, op, from, bias.len()), false)]);
        }
        Ok(Some(result))
    }

    pub(super) fn transposed(
        &mut self,
        model: &TypedModel,
        node: &TypedNode,
        deconv: &Deconv,
    ) -> TractResult<Option<Value>> {
        let pool = &deconv.pool_spec;
        let outputs = pool.output_channels;
        let Some(Parameters { kernel: [1, rows, columns], weights, bias }) =
            parameters(model, node, pool, deconv.kernel_format, deconv.group, outputs)?
        else {
            return Ok(None);
        };
        let kernel = [rows, columns];
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
        let [plane] = &self.enlarged(&node.name, value)[..] else { return Ok(None) };
        let from: Vec<usize> = plane.iter().map(|source| source.0).collect();
        if from.len() > MOST_SOURCES.min(MOST_ROWS / kernel[0].div_ceil(stride[0].max(1))) {
            return Ok(None);
        }
        let more = [0, 1].map(|axis| (kernel[axis] + adjust[axis]) as isize - (before[axis] + after[axis]) as isize);
        let window = Window { kernel, stride, dilation: [1, 1], before: before.map(|n| n as isize) };
        let method = self.method(window, true, plane, outputs).filter(|_| stride == [2, 2]);
        if let Some(method) = method {
            let sources = self.sources(plane);
            let winograd = Winograd::transposed(self.program.isa, method, window, &sources, &weights, &bias);
            let op = Op::Winograd(winograd, more.map(|more| more - 2));
            return Ok(Some(vec![vec![(self.step(&node.name, op, from, outputs), false)]]));
        }
        let channels: Vec<usize> = from.iter().map(|&tensor| self.program.tensors[tensor].channels).collect();
        let phases = direct::transposed(self.program.isa, window, &channels, &weights, &bias);
        let op = Op::Transposed { phases, stride, more };
        Ok(Some(vec![vec![(self.step(&node.name, op, from, outputs), false)]]))
    }
}

/// Of weights of outputs, inputs, planes and pixels, those of some planes, in the order output, plane, input, pixel.
fn with_taps(weights: &[f32], [outputs, inputs, planes, pixels]: [usize; 4], taps: &[usize]) -> Vec<f32> {
    let mut result = Vec::with_capacity(outputs * inputs * taps.len() * pixels);
    for output in 0..outputs {
        for tap in taps {
            for input in 0..inputs {
                let first = ((output * inputs + input) * planes + tap) * pixels;
                result.extend(&weights[first..first + pixels]);
            }
        }
    }
    result
}

struct Parameters {
    /// Sides along Z, Y, X.
    kernel: [usize; 3],
    /// In the order output, input, plane, row, column.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// Those of a convolution of f32 and one group; `None` of others.
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
        (triple(&pool.kernel_shape, 1), floats(model.outlet_fact(weights)?), floats(model.outlet_fact(bias)?))
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
    Ok(simple.then_some(Parameters { kernel, weights, bias }))
}
