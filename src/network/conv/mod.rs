//! A faster convolution in place of tract's: rules over the decluttered graph put one own operator where a
//! convolution, with its bias and a rectifier after it, is of a kind that `direct` does: float32, two spatial axes,
//! constant weights, one group, stride and dilation 1. All others are left to tract.
//! `pool` does the same for what stands between a U-Net's levels.
#![allow(unsafe_code)] // vector instructions, and results that are allocated without being filled first

use direct::{Direct, Geometry, MAX_KERNEL};
use simd::Isa;
use std::sync::Arc;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::conv::KernelFormat;
use tract_onnx::tract_core::ops::cnn::{Conv, MaxPool, PaddingSpec};
use tract_onnx::tract_core::ops::math::Max;
use tract_onnx::tract_core::ops::nn::DataFormat;

mod direct;
mod pool;
mod simd;

/// Puts the own operator in place of convolutions of one tap, which decluttering would make into matrix products.
pub(super) fn replace_pointwise(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::default()
        .with_rule_for::<Conv>("own pointwise convolution", |(), model, node, _, conv| {
            let pointwise = conv.pool_spec.kernel_shape.iter().all(|&side| side == 1);
            if pointwise { own_convolution(model, node, conv) } else { Ok(None) }
        })
        .rewrite(&(), model)
}

/// Puts the own operators in, on a decluttered model: there, what follows a convolution may be part of it already.
pub(super) fn replace(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::default()
        .with_rule_for::<Conv>("own convolution", |(), model, node, _, conv| own_convolution(model, node, conv))
        .with_rule_for::<MaxPool>("own pooling", |(), model, node, _, op| pool::own_pool(model, node, op))
        .with_rule_for::<TypedBinOp>("rectified convolution", |(), model, node, _, op| rectified(model, node, op))
        .rewrite(&(), model)
}

/// Bytes that a thread keeps for a convolution of this kind to an output of so many columns; `None` where the
/// convolution is left to tract.
pub(super) fn scratch_bytes(kind: &Kind, inputs: usize, columns: usize) -> Option<u64> {
    Some(direct::scratch_bytes(inputs, kind.own()?, columns))
}

/// What decides whether a convolution is done here.
pub(super) struct Kind<'a> {
    /// Sides of the kernel.
    pub kernel: &'a [usize],
    pub strides: &'a [usize],
    pub dilations: &'a [usize],
    pub groups: usize,
}

impl Kind<'_> {
    /// The kernel's sides, where it is.
    fn own(&self) -> Option<[usize; 2]> {
        let kernel: [usize; 2] = self.kernel.try_into().ok()?;
        let ones = |factors: &[usize]| factors.iter().all(|&factor| factor == 1);
        let own = self.groups == 1 && ones(self.strides) && ones(self.dilations);
        (own && kernel.iter().all(|side| (1..=MAX_KERNEL).contains(side))).then_some(kernel)
    }
}

/// N, C, Y, X or C, Y, X in and out.
#[derive(Clone)]
struct Convolution {
    direct: Arc<Direct>,
    geometry: Geometry,
    relu: bool,
}

impl std::fmt::Debug for Convolution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Convolution")
            .field("geometry", &self.geometry)
            .field("relu", &self.relu)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Convolution {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.direct, &other.direct) && self.geometry == other.geometry && self.relu == other.relu
    }
}

impl Eq for Convolution {}

impl Op for Convolution {
    fn name(&self) -> StaticName {
        "Convolution".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Convolution {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let shape = self.output_shape(input.shape())?;
        // SAFETY: `run` writes every sample of its part, and the parts cover the tensor.
        let mut output = unsafe { Tensor::uninitialized::<f32>(&shape)? };
        {
            let (from, mut to) = (input.try_as_plain_ram()?, output.try_as_plain_ram_mut()?);
            let (from, to) = (from.as_slice::<f32>()?, to.as_slice_mut::<f32>()?);
            let images = shape[..shape.len() - 3].iter().product::<usize>().max(1);
            let (before, after) = (from.len() / images, to.len() / images);
            if after > 0 {
                for (image, to) in to.chunks_exact_mut(after).enumerate() {
                    self.direct.run(self.geometry, &from[image * before..][..before], to, self.relu);
                }
            }
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl Convolution {
    fn output_shape<D: DimLike>(&self, input: &[D]) -> TractResult<TVec<D>> {
        ensure!(input.len() == 3 || input.len() == 4, "a convolution of {} axes", input.len());
        let mut shape: TVec<D> = input.into();
        let axes = shape.len() - 3;
        let [rows, columns] = self.geometry.input;
        ensure!(
            shape[axes + 1] == rows.into() && shape[axes + 2] == columns.into(),
            "planned for {rows} by {columns} pixels"
        );
        shape[axes] = self.direct.outputs().into();
        shape[axes + 1] = self.geometry.output[0].into();
        shape[axes + 2] = self.geometry.output[1].into();
        Ok(shape)
    }
}

impl TypedOp for Convolution {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(self.output_shape::<TDim>(&inputs[0].shape)?)))
    }

    as_op!();
}

fn own_convolution(model: &TypedModel, node: &TypedNode, conv: &Conv) -> TractResult<Option<TypedModelPatch>> {
    let pool = &conv.pool_spec;
    let facts = model.node_input_facts(node.id)?;
    let kind =
        Kind { kernel: &pool.kernel_shape, strides: &pool.strides(), dilations: &pool.dilations(), groups: conv.group };
    let ([input, weights, bias], Some(kernel)) = (facts.as_slice(), kind.own()) else { return Ok(None) };
    let known = (input.shape.as_concrete(), &weights.konst, &bias.konst);
    let (Some(shape), Some(weights), Some(bias)) = known else { return Ok(None) };
    let f32s =
        [input.datum_type, weights.datum_type(), bias.datum_type()].iter().all(|&kind| kind == f32::datum_type());
    let simple = conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW
        && matches!(pool.data_format, DataFormat::NCHW | DataFormat::CHW)
        && matches!(
            pool.padding,
            PaddingSpec::Explicit(..) | PaddingSpec::Valid | PaddingSpec::SameUpper | PaddingSpec::SameLower
        );
    let (inputs, outputs) = (conv.input_channels(), conv.output_channels());
    if !f32s || !simple || shape.len() < 3 || weights.shape() != [outputs, inputs, kernel[0], kernel[1]] {
        return Ok(None);
    }
    let sides = &shape[shape.len() - 2..];
    let along = pool.computed_padding(sides);
    let geometry = Geometry {
        input: [sides[0], sides[1]],
        before: [along[0].pad_before, along[1].pad_before],
        output: [along[0].convoluted, along[1].convoluted],
    };
    let (weights, bias) = (weights.try_as_plain_ram()?, bias.try_as_plain_ram()?);
    let bias = match *bias.as_slice::<f32>()? {
        [one] => vec![one; outputs],
        ref each => each.to_vec(),
    };
    let direct = Direct::new(Isa::best(), inputs, kernel, weights.as_slice::<f32>()?, &bias);
    let op = Convolution { direct: Arc::new(direct), geometry, relu: false };
    let patch = TypedModelPatch::replace_single_op(model, node, &node.inputs[..1], op)?;
    Ok(Some(patch))
}

/// max(own convolution, 0), where nothing else needs the convolution.
fn rectified(model: &TypedModel, node: &TypedNode, op: &TypedBinOp) -> TractResult<Option<TypedModelPatch>> {
    if !op.0.is::<Max>() {
        return Ok(None);
    }
    for (input, other) in [(0, 1), (1, 0)] {
        let outlet = node.inputs[input];
        let convolution = model.node(outlet.node);
        let Some(own) = convolution.op_as::<Convolution>() else { continue };
        let alone = convolution.outputs[0].successors.len() == 1 && !model.output_outlets()?.contains(&outlet);
        let zero = model.outlet_fact(node.inputs[other])?.konst.as_ref().is_some_and(|value| {
            let value = value.try_as_plain_ram();
            value.is_ok_and(|value| value.as_slice::<f32>().is_ok_and(|all| all.iter().all(|&x| x == 0.0)))
        });
        let same = model.outlet_fact(outlet)?.shape == node.outputs[0].fact.shape;
        if own.relu || !alone || !zero || !same {
            continue;
        }
        let mut patch = TypedModelPatch::default();
        let tapped = patch.tap_model(model, convolution.inputs[0])?;
        let fused = patch.wire_node(&node.name, Convolution { relu: true, ..own.clone() }, &[tapped])?[0];
        patch.shunt_outside(model, node.id.into(), fused)?;
        return Ok(Some(patch));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use crate::network::Network;
    use std::collections::BTreeMap;

    #[test]
    fn the_built_in_model_keeps_no_convolution_and_no_rectifier_of_tract() {
        let bytes = crate::models::builtin(crate::Task::Denoise).expect("a built-in model");
        let network = Network::from_onnx("built-in", bytes).expect("a good model");
        let plan = network.plan([1, 64, 64]).expect("a plan");
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for node in plan.model().nodes() {
            *found.entry(node.op.name().to_string()).or_default() += 1;
        }
        println!("{found:?}");
        let convolutions = network.operators()["Conv"];
        assert_eq!(found.get("Convolution"), Some(&convolutions), "{found:?}");
        let others = ["Source", "Convolution", "Halve", "Concat", "Upsample", "Add", "Const"];
        let known = |name: &String| others.iter().any(|other| name.contains(other));
        assert!(found.keys().all(known), "{found:?}");
    }
}
