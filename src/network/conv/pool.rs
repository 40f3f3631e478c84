//! The largest of each 2 by 2 pixels, as U-Nets halve an image: tract's own takes a tenth of the time that the
//! convolutions beside it take. Other windows are left to tract.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::MaxPool;
use tract_onnx::tract_core::ops::nn::DataFormat;

/// N, C, Y, X or C, Y, X in and out; a last odd row or column is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Halve;

impl Op for Halve {
    fn name(&self) -> StaticName {
        "Halve".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Halve {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let shape = halved(input.shape())?;
        let (rows, columns) = (input.shape()[shape.len() - 2], input.shape()[shape.len() - 1]);
        let (out_rows, out_columns) = (rows / 2, columns / 2);
        // SAFETY: the rows below cover the result, and every sample of each is written.
        let mut output = unsafe { Tensor::uninitialized::<f32>(&shape)? };
        let (from, mut to) = (input.try_as_plain_ram()?, output.try_as_plain_ram_mut()?);
        let from = from.as_slice::<f32>()?;
        if out_rows * out_columns > 0 {
            let rows_of = to.as_slice_mut::<f32>()?.chunks_exact_mut(out_columns);
            for (row, to) in rows_of.enumerate() {
                let start = (row / out_rows * rows + row % out_rows * 2) * columns;
                let (above, below) = from[start..][..2 * columns].split_at(columns);
                let pairs = above.as_chunks::<2>().0.iter().zip(below.as_chunks::<2>().0);
                for (to, ([a, b], [c, d])) in to.iter_mut().zip(pairs) {
                    *to = a.max(*b).max(c.max(*d));
                }
            }
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Halve {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = inputs[0].shape.as_concrete().context("planned for one size")?;
        Ok(tvec!(f32::fact(halved(shape)?)))
    }

    as_op!();
}

fn halved(shape: &[usize]) -> TractResult<TVec<usize>> {
    ensure!(shape.len() >= 3, "an image of {} axes", shape.len());
    let mut shape: TVec<usize> = shape.into();
    shape.iter_mut().rev().take(2).for_each(|side| *side /= 2);
    Ok(shape)
}

/// Puts the own operator in place of tract's where it does the same.
pub(super) fn own_pool(model: &TypedModel, node: &TypedNode, op: &MaxPool) -> TractResult<Option<TypedModelPatch>> {
    let pool = &op.pool_spec;
    let fact = model.outlet_fact(node.inputs[0])?;
    let two = |sides: &[usize]| sides == [2, 2];
    let simple = op.with_index_outputs.is_none()
        && fact.datum_type == f32::datum_type()
        && matches!(pool.data_format, DataFormat::NCHW | DataFormat::CHW)
        && two(&pool.kernel_shape)
        && two(&pool.strides())
        && pool.dilations().iter().all(|&dilation| dilation == 1);
    let Some(shape) = fact.shape.as_concrete().filter(|shape| simple && shape.len() >= 3) else { return Ok(None) };
    let sides = &shape[shape.len() - 2..];
    let along = pool.computed_padding(sides);
    if along.iter().zip(sides).any(|(axis, side)| axis.pad_before != 0 || axis.convoluted != side / 2) {
        return Ok(None);
    }
    Ok(Some(TypedModelPatch::replace_single_op(model, node, &node.inputs, Halve)?))
}
